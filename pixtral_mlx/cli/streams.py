"""The streams of a command, and the signals that end it, as shells and pipes leave them."""

import contextlib
import io
import logging
import os
import select
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import NoReturn

from ..errors import one_line
from .wrap import fitted

HEARD_SECONDS = 0.1
"""Ctrl-C that takes effect sooner than this needs no words."""

_leaving = threading.Event()


def prepare_streams() -> None:
    """Streams that a shell closed (`<&-`) become empty ones; what cannot be encoded is replaced."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115  (open until the end)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace" if name == "stderr" else "replace")


def prepare_notes() -> None:
    """Our own notes go to stderr, a line each; what libraries have to say goes nowhere."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Notes())
    logging.basicConfig(handlers=[handler])
    logging.getLogger("pixtral_mlx").setLevel(logging.INFO)
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    warnings.simplefilter("ignore")  # advice to us, not to the person who typed
    # transformers, which mlx-lm brings along, would say that PyTorch is missing.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


class _Notes(logging.Formatter):
    """ "note: ...", in as many lines as a terminal needs; there, it may interrupt the status
    line."""

    def format(self, record: logging.LogRecord) -> str:
        clear = "\r\x1b[K" if sys.stderr.isatty() else ""
        return clear + fitted(f"note: {one_line(record.getMessage())}", sys.stderr)


def drop_output() -> None:
    """What is still in stdout's buffer goes nowhere, so that Python can end in peace."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def end_at_once(status: int) -> NoReturn:
    """End the process without what Python does at its end: it would wait for what MLX has begun,
    and take apart a model, for a second or more."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


def leave(status: int) -> None:
    """The end of a process that ran its own words: at once after Ctrl-C, which all others do not
    hear any more, since they have done everything."""
    if status == 130:
        end_at_once(status)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def end_tidily() -> None:
    """A terminal that closes, or `kill`, ends a command as Ctrl-C does: half-written files go."""
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGHUP"):
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), lambda number, _: sys.exit(128 + number))


@contextlib.contextmanager
def acknowledging(command: str) -> Iterator[None]:
    """While the block lasts, Ctrl-C is heard at once, whatever is being computed.

    Python acts on it between two steps of MLX, and one layer of a large picture may take seconds.
    A thread of its own hears it before, since the system writes its number into a pipe: it ends
    the process where `leaving_at_once` allows it, and else says that Ctrl-C was heard.
    """
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield  # there is nobody who would be interrupted
        return
    taken = threading.Event()

    def interrupt(number: int, frame: object) -> None:
        taken.set()
        signal.default_int_handler(number, frame)  # type: ignore

    def listen() -> None:
        while numbers := os.read(ear, 64):
            ours = signal.SIGINT in numbers and signal.getsignal(signal.SIGINT) is interrupt
            if ours and not taken.wait(HEARD_SECONDS):
                clear = "\r\x1b[K" if sys.stderr.isatty() else ""
                if _leaving.is_set():
                    print(f"{clear}pixtral-mlx {command}: interrupted", file=sys.stderr)
                    end_at_once(130)
                said = "stopping, as soon as the step that is being computed ends"
                print(f"{clear}note: {said}", file=sys.stderr, flush=True)
                taken.wait()
            taken.clear()
            if select.select([ear], [], [], 0)[0]:
                os.read(ear, 64)  # impatience, which one exception has answered
        os.close(ear)

    ear, mouth = os.pipe()
    os.set_blocking(mouth, False)
    outer = signal.set_wakeup_fd(mouth, warn_on_full_buffer=False)
    signal.signal(signal.SIGINT, interrupt)
    thread = threading.Thread(target=listen, name="Ctrl-C", daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.set_wakeup_fd(outer)
        taken.set()
        os.close(mouth)


@contextlib.contextmanager
def leaving_at_once() -> Iterator[Callable[[], None]]:
    """While the block lasts, Ctrl-C that a long step does not let through ends the process.

    For what leaves nothing behind that is half done, neither an answer nor a file. Gives a function
    that ends this before the block does.
    """
    before = _leaving.is_set()
    _leaving.set()
    try:
        yield _leaving.clear
    finally:
        if not before:
            _leaving.clear()
