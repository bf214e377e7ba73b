"""One line in the terminal that says what is going on; nothing where there is no terminal."""

import shutil
import sys
import threading
import time
from types import TracebackType

from .wrap import harmless

DELAY_SECONDS = 0.5
"""What is done sooner than this shows nothing."""

_REDRAW_SECONDS = 0.2
_CLEAR = "\r\x1b[K"


class Status:
    """A line on stderr for as long as a `with` block lasts, then it is gone.

    A thread draws it, so that its clock goes on while MLX computes or a server says nothing.

    Arguments:
        text: what the first step is; see `step`.
    """

    def __init__(self, text: str = ""):
        self._stream = sys.stderr
        self._terminal = self._stream.isatty()
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._drawn = False
        self.step(text)

    def step(self, text: str, unit: str = "") -> None:
        """Begin another step: its clock starts at zero; an empty text shows nothing.

        Arguments:
            unit: of the numbers that `update` gives; "B" for bytes.
        """
        with self._lock:
            self._text, self._unit, self._progress = text, unit, (0, 0)
            self._start = time.monotonic()
            if not text:
                self._erase()

    @property
    def total(self) -> int:
        """What `update` said last; 0 before that."""
        return self._progress[1]

    def update(self, done: int, total: int) -> None:
        """How much of the step is done."""
        self._progress = (done, total)

    def __enter__(self) -> "Status":
        if self._terminal:
            threading.Thread(target=self._run, name="status line", daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._done.set()
        self.step("")

    def _run(self) -> None:
        while not self._done.wait(_REDRAW_SECONDS):
            with self._lock:
                seconds = time.monotonic() - self._start
                if self._text and seconds >= DELAY_SECONDS and not self._done.is_set():
                    width = shutil.get_terminal_size().columns - 1
                    plain = "utf" not in (getattr(self._stream, "encoding", None) or "").lower()
                    line = format_line(
                        self._text, self._unit, *self._progress, seconds, width, ascii=plain
                    )
                    self._stream.write(_CLEAR + harmless(line, self._stream))
                    self._stream.flush()
                    self._drawn = True

    def _erase(self) -> None:
        if self._drawn:
            self._stream.write(_CLEAR)
            self._stream.flush()
            self._drawn = False


def format_line(
    text: str, unit: str, done: int, total: int, seconds: float, width: int, *, ascii: bool = False
) -> str:
    """The line: tqdm's, like those of downloads and batches, or the seconds so far where nobody
    knows how much there is to do.

    Arguments:
        width: of the terminal, in characters.
        ascii: draw the bar with what every terminal has.
    """
    if not total:
        return f"{text} {seconds:.0f} s"[:width]
    from tqdm import tqdm

    in_bytes = unit == "B"
    return tqdm.format_meter(
        done, total, seconds, ncols=width, prefix=text, ascii=ascii,
        unit=unit if in_bytes else f" {unit}", unit_scale=in_bytes,
    )  # fmt: skip
