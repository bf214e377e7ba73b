"""PDFium in a process of its own, see `pdf_drawing`: started when first needed, shared by all
threads, and started anew after a PDF that it did not survive."""

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any, cast

from ..errors import ImageError
from . import pdf_drawing, size_limit

_WAIT_SECONDS = 120.0
"""On the clock, for a process that gets no processor and so never comes to its own limit."""

_ADVICE = "print it to a new PDF, or save its pages as pictures"


class DrawingError(Exception):
    """What PDFium says of a file."""


class _Process:
    """A process, and what it is asked."""

    def __init__(self):
        # Not the working folder, which may hold anything.
        paths = [path for path in sys.path if path]
        self._child = subprocess.Popen(
            [sys.executable, "-P", pdf_drawing.__file__, *paths],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C in the terminal is not for it
        )  # fmt: skip

    @property
    def is_there(self) -> bool:
        """Whether it can be asked."""
        return self._child.poll() is None

    def ask(self, do: str, data: bytes = b"", **asked: Any) -> tuple[dict[str, Any], bytes]:
        """Its answer, and the bytes that belong to it.

        Raises:
            EOFError: it has ended, see `status`.
            DrawingError: what PDFium says.
        """
        late = threading.Timer(_WAIT_SECONDS, self._child.kill)
        late.daemon = True
        late.start()
        line = {
            "do": do, "bytes": len(data), "seconds": size_limit.MAX_REQUEST_SECONDS,
            "most_bytes": size_limit.MAX_REQUEST_BYTES, **asked,
        }  # fmt: skip
        requests, answers = (cast("IO[bytes]", p) for p in (self._child.stdin, self._child.stdout))
        try:
            with suppress(BrokenPipeError):  # it has ended, and so have its answers
                requests.write(json.dumps(line).encode() + b"\n")
                requests.write(data)
                requests.flush()
            told = json.loads(answers.readline() or b"null")
            held = answers.read(told.pop("bytes")) if told else b""
        except BaseException:  # Ctrl-C: who knows what it would answer next
            self.end()
            raise
        finally:
            late.cancel()
        if told is None:
            self.end()
            raise EOFError
        if "failed" in told:
            raise DrawingError(told["failed"])
        return told, held

    def end(self) -> int:
        """It is there no longer; its status."""
        for pipe in (self._child.stdin, self._child.stdout):
            with suppress(OSError):
                cast("IO[bytes]", pipe).close()
        self._child.kill()
        return self._child.wait()


class Document:
    """A PDF that is open in that process."""

    def __init__(self, process: _Process, name: str, pages: int):
        self._process, self._name, self.pages = process, name, pages

    def sizes(self, numbers: list[int]) -> list[tuple[float, float]]:
        """Width and height of pages in points, by their numbers from 1 on."""
        return [tuple(size) for size in self._ask(self._name, "sizes", numbers=numbers)[0]["sizes"]]

    def look(self, number: int) -> dict[str, Any]:
        """What is in a page, see `pdf_drawing`."""
        return self._ask(f"{self._name}, page {number}", "look", number=number)[0]

    def draw(self, number: int, scale: float) -> tuple[tuple[int, int], bytes]:
        """Width and height of a drawn page, and its pixels in RGB."""
        name = f"{self._name}, page {number}"
        told, pixels = self._ask(name, "draw", number=number, scale=scale)
        return tuple(told["size"]), pixels

    def words(self, number: int) -> list[list[Any]]:
        """The words of a page with their places, see `pdf_drawing`."""
        return self._ask(f"{self._name}, page {number}", "words", number=number)[0]["words"]

    def _ask(self, name: str, do: str, **asked: Any) -> tuple[dict[str, Any], bytes]:
        try:
            return self._process.ask(do, **asked)
        except EOFError:
            raise ImageError(f"{name}: {_reason(self._process.end())}") from None


_lock = threading.Lock()
_running: list[_Process] = []
_inherited: list[_Process] = []  # by a forked copy, which leaves them alone


@contextmanager
def opened(data: bytes, name: str, password: str | None) -> Iterator[Document]:
    """A PDF for as long as the block lasts; one at a time.

    Raises:
        DrawingError: what PDFium says of it.
        ImageError: it takes too long, or too much memory, or PDFium did not survive it.
    """
    with _lock:
        process, pages = _open(data, name, password)
        try:
            yield Document(process, name, pages)
        finally:
            if process.is_there:
                with suppress(EOFError, DrawingError):
                    process.ask("close")


def _open(data: bytes, name: str, password: str | None) -> tuple[_Process, int]:
    while True:
        is_new = not (_running and _running[0].is_there)
        if is_new:
            _end()  # one that ended by itself still has its pipes
            _running[:] = [_Process()]
        process = _running[0]
        try:
            return process, process.ask("open", data, password=password)[0]["pages"]
        except EOFError:
            status = process.end()
            if is_new or status in (pdf_drawing.TOO_LONG, pdf_drawing.TOO_LARGE):
                raise ImageError(f"{name}: {_reason(status)}") from None
            # It may have ended by itself just then, and not because of this file.


def _reason(status: int) -> str:
    """Why the process ended."""
    limits = {
        pdf_drawing.TOO_LONG: f"{size_limit.MAX_REQUEST_SECONDS:g} s of the processor",
        pdf_drawing.TOO_LARGE: f"{size_limit.MAX_REQUEST_BYTES:,} bytes",
    }
    if status in limits:
        return f"takes more than {limits[status]} to draw: {_ADVICE}"
    ended = signal.Signals(-status).name if status < 0 else f"status {status}"
    return f"PDFium did not survive it ({ended}): {_ADVICE}"


@atexit.register
def _end() -> None:
    for process in _running:
        process.end()


def _forked() -> None:
    global _lock
    _lock = threading.Lock()  # somebody may have held it, and those of the pipes
    _inherited.extend(_running)
    _running.clear()


os.register_at_fork(after_in_child=_forked)
