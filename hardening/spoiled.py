"""Ways to spoil the files of models, traces and prompt caches."""

import json
import os
import random
import socket
from pathlib import Path
from typing import Any

ABSURD: list[Any] = [
    None, 0, -1, 1, 2, 7, 2**31, 10**40, 0.5, 1e30, 1e-30, True, "", "x" * 5000, [], {}, "\x1b[31m",
    [[]] * 9, {"a": 1}, "null", float("inf"), "../../../etc/passwd", "\u202e", "a" * 300,
]  # fmt: skip

MOST_ADDED = 20_000_000
"""Letters: more than is read of a configuration, and written in a second."""


def no_file(file: Path, chance: random.Random) -> str:
    """Put what is no file in the place of one; what it is."""
    file.unlink()
    kind = chance.choice(("a pipe", "a folder", "a socket", "a device", "nothing", "itself"))
    if kind == "a pipe":
        os.mkfifo(file)
    elif kind == "a folder":
        file.mkdir()
    elif kind == "a socket":
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind(str(file))
    else:
        places = {"nothing": file.with_name("none"), "a device": "/dev/zero", "itself": file}
        file.symlink_to(places[kind])
    return kind


def other_header(data: bytes, chance: random.Random) -> bytes:
    """A safetensors file of whose header, or of the JSON in its metadata, a value is another."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    about = header.get("__metadata__", {})
    if "about" in about and chance.random() < 0.5:
        about["about"] = json.dumps(changed(json.loads(about["about"]), chance))
    else:
        header = changed(header, chance)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def changed(value: Any, chance: random.Random) -> Any:
    """A JSON value of which one inner value is another, gone, or there many times."""
    if isinstance(value, dict) and value and chance.random() < 0.9:
        key = chance.choice(sorted(value))
        if chance.random() < 0.15:
            return {name: held for name, held in value.items() if name != key}
        if chance.random() < 0.02:
            many = min(200_000, MOST_ADDED // len(json.dumps(value[key])))
            return value | {f"{key}{n}": value[key] for n in range(many)}
        return value | {key: changed(value[key], chance)}
    if isinstance(value, list) and value and chance.random() < 0.9:
        at = chance.randrange(len(value))
        return [*value[:at], changed(value[at], chance), *value[at + 1 :]]
    return chance.choice(ABSURD)
