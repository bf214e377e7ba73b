"""Checks in a process of their own: Metal may end one, and a driver may hang."""

import multiprocessing
import signal
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

from .check import FAIL, WARN, Check, attempt

ENDED = (
    "SIGABRT is macOS that ends a GPU job, see docs/macs.md: close other windows, let the display "
    "sleep, and report the lines above"
)


def apart(
    name: str, look: Callable[..., Iterable[Check]], *options: Any, seconds: float | None = None
) -> Iterator[Check]:
    """What `look(*options)` gives in a process of its own, and a line more if that is ended.

    Arguments:
        seconds: after which it is stopped; None waits.
    """
    context = multiprocessing.get_context("spawn")
    reader, writer = context.Pipe(duplex=False)
    child = context.Process(target=_tell, args=(writer, name, look, options), daemon=True)
    child.start()
    writer.close()
    end = None if seconds is None else time.monotonic() + seconds
    try:
        while True:
            if not reader.poll(None if end is None else max(0, end - time.monotonic())):
                yield Check(name, WARN, f"stopped after {seconds:g} s; the rest was left out")
                return
            try:
                yield reader.recv()
            except EOFError:
                break
        child.join()
        if child.exitcode:
            yield Check(name, FAIL, f"the process was ended ({_status(child.exitcode)})", ENDED)
    finally:
        child.kill()
        child.join()


def _tell(
    writer: Any, name: str, look: Callable[..., Iterable[Check]], options: tuple[Any, ...]
) -> None:
    """In the process of its own: send each check as soon as it is there."""
    warnings.simplefilter("ignore")  # as in the command itself
    with suppress(KeyboardInterrupt):
        for check in attempt(name, lambda: look(*options)):
            writer.send(check)


def _status(exitcode: int) -> str:
    return signal.Signals(-exitcode).name if exitcode < 0 else f"status {exitcode}"
