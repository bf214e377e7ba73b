"""What the drivers share: many tries, each of random numbers of its own, in a process that is
watched.

A try ends well if something is accepted, or refused in one printable line of a `PixtralError`,
within the limits of time and memory. All else is a failure: another exception, words on stderr, a
process that is gone, a try that takes too long or too much. A try that failed is named by its
number, and `--only` repeats it.
"""

import argparse
import json
import random
import resource
import secrets
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

MOST_SECONDS = 5.0
MOST_BYTES = 600_000_000
_WAIT_SECONDS, _START_SECONDS = 60.0, 600.0
"""On the clock, for a try and for what comes before the first; other programs may have the
processor meanwhile."""


def drive(
    script: str,
    description: str,
    make: Callable[[random.Random], tuple[str, Any]],
    look: Callable[[Any], int],
) -> int:
    """Run a driver's command.

    Arguments:
        script: its file.
        make: what is tried: its kind, and what `look` takes.
        look: uses it; the bytes that it may take beside `MOST_BYTES`.

    Returns:
        The exit status: 1 after a failure.
    """
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False)
    parser.add_argument("--tries", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    parser.add_argument("--only", type=int, metavar="N", help="repeat try number N")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)  # a child, from this try on
    arguments = parser.parse_args()
    if arguments.serve is not None:
        _serve(make, look, arguments)
        return 0
    if arguments.only is not None:
        kind, tried = make(_random(arguments.seed, arguments.only))
        print(f"{kind}: {look(tried):,} bytes of its own")
        return 0
    print(f"seed {arguments.seed}", flush=True)
    return _watch(script, arguments)


def _watch(script: str, arguments: argparse.Namespace) -> int:
    outcomes, failures, slowest, largest, number = Counter[str](), [], 0.0, 0, 0
    while number < arguments.tries:
        words = ["--serve", str(number), "--tries", str(arguments.tries)]
        child = subprocess.Popen(
            [sys.executable, script, *words, "--seed", str(arguments.seed)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        said: list[str] = []
        reader = threading.Thread(target=lambda c=child, s=said: s.append(c.stderr.read()))
        reader.start()
        wait = _START_SECONDS
        while True:
            timer = threading.Timer(wait, child.kill)
            timer.start()
            line = child.stdout.readline()
            timer.cancel()
            if not line:
                break
            told, wait = json.loads(line), _WAIT_SECONDS
            number = told["number"] + 1
            outcomes[told["outcome"]] += 1
            slowest, largest = max(slowest, told["seconds"]), max(largest, told["bytes"])
            if told["outcome"] == "failure":
                failures.append(f"try {told['number']}, {told['kind']}: {told['said']}")
            if number % 200 == 0:
                print(f"{number} tries, {len(failures)} failures so far", flush=True)
        status = child.wait()
        reader.join()
        if said[0]:
            failures.append(f"before try {number}, on stderr: {said[0][-300:]!r}")
        if number < arguments.tries:
            failures.append(f"try {number}: the process was gone or hung (status {status})")
            number += 1
    print("\n".join(failures))
    counted = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
    print(
        f"{len(failures)} failures in {arguments.tries} tries ({counted}); the slowest "
        f"{slowest:.1f} s of the processor, the largest {largest / 1e6:.0f} MB"
    )
    return int(bool(failures))


def _serve(make: Callable, look: Callable, arguments: argparse.Namespace) -> None:
    from pixtral_mlx.errors import PixtralError

    for number in range(arguments.serve, arguments.tries):
        kind, tried = make(_random(arguments.seed, number))
        before, start, own, said = _resident(), _processor(), 0, ""
        peak = _Peak()
        try:
            own, outcome = look(tried), "accepted"
        except PixtralError as error:
            said, outcome = str(error), "refused"
            if not said.isprintable() or len(said) > 600:
                outcome = "failure"
        except BaseException as error:
            said, outcome = f"{type(error).__name__}: {error}", "failure"
        seconds, held = _processor() - start, peak.end() - before - own
        if seconds > MOST_SECONDS or held > MOST_BYTES:
            said, outcome = f"{seconds:.1f} s, {held:,} bytes; {said}", "failure"
        told = {"number": number, "kind": kind, "outcome": outcome, "said": said[:300]}
        print(json.dumps({**told, "seconds": seconds, "bytes": max(held, 0)}), flush=True)


def _random(seed: int, number: int) -> random.Random:
    return random.Random(f"{seed} {number}")


def _processor() -> float:
    """Seconds of this process, and of those that it has started and that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _resident() -> int:
    """Bytes now; 0 where /proc does not say it."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except FileNotFoundError:
        return 0


class _Peak:
    """The most resident bytes, looked at every few milliseconds."""

    def __init__(self):
        self._most, self._over = _resident(), threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._over.wait(0.005):
            self._most = max(self._most, _resident())

    def end(self) -> int:
        self._over.set()
        self._thread.join()
        return self._most


def damaged(data: bytes, chance: random.Random) -> bytes:
    """A file with some bytes changed, cut out, doubled or put in."""
    held = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 5, 20))):
        at = chance.randrange(max(1, min(len(held), chance.choice((64, 1024, 1 << 30)))))
        size = chance.choice((1, 1, 4, 16, 200))
        way = chance.randrange(6)
        if way == 0:
            held[at : at + 1] = bytes([chance.randrange(256)])
        elif way == 1:
            held[at : at + 4] = chance.choice((b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff"))
        elif way == 2:
            del held[at : at + size]
        elif way == 3:
            held[at:at] = held[at : at + size] * chance.choice((1, 2, 50))
        elif way == 4:
            held[at : at + size] = chance.randbytes(size)
        else:
            del held[at + chance.randrange(1 << 16) :]
    return bytes(held)
