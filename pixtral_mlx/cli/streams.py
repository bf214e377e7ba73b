"""The streams of a command, and the signals that end it, as shells and pipes leave them."""

import contextlib
import io
import logging
import os
import signal
import sys
import threading
import warnings


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
    clear = "\r\x1b[K" if sys.stderr.isatty() else ""  # a note may interrupt the status line
    logging.basicConfig(format=f"{clear}note: %(message)s", stream=sys.stderr)
    logging.getLogger("pixtral_mlx").setLevel(logging.INFO)
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    warnings.simplefilter("ignore")  # advice to us, not to the person who typed
    # transformers, which mlx-lm brings along, would say that PyTorch is missing.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


def drop_output() -> None:
    """What is still in stdout's buffer goes nowhere, so that Python can end in peace."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def end_tidily() -> None:
    """A terminal that closes, or `kill`, ends a command as Ctrl-C does: half-written files go."""
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGHUP"):
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), lambda number, _: sys.exit(128 + number))
