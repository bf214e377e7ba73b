"""Arrays from and to safetensors files by MLX, which takes no name that is not UTF-8."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx


def load_arrays(file: Path, stream: Any = None) -> tuple[dict[str, mx.array], dict[str, str]]:
    """Arrays that are read when they are computed with, and the metadata.

    Raises:
        OSError, RuntimeError, ValueError: the file cannot be read, or is not one of this kind.
    """
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
    try:
        name = str(file) if is_utf8(file) else f"/dev/fd/{descriptor}"
        loaded: Any = mx.load(name, format="safetensors", return_metadata=True, stream=stream)
    finally:
        os.close(descriptor)
    return loaded


def save_arrays(
    file: Path, arrays: dict[str, mx.array], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a file, whose name ends in ".safetensors".

    Raises:
        OSError, RuntimeError: it cannot be written.
    """
    if is_utf8(file):
        mx.save_safetensors(str(file), arrays, dict(metadata or {}))
    else:
        with file.open("wb") as opened:
            mx.save_safetensors(opened, arrays, dict(metadata or {}))  # type: ignore[arg-type]


def is_utf8(file: Path) -> bool:
    """Whether a name can be told to programs that know no other."""
    try:
        str(file).encode()
    except UnicodeEncodeError:
        return False
    return True
