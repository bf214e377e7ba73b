"""The process in which PDFium works: it does what `pdf_process` asks, one thing after another.

A PDF is a program, and one of 805 bytes can keep PDFium busy for ever, fill the memory or crash it.
So it runs where it can be ended: this process ends itself when something takes too much of the
processor or of memory, when the process that started it is gone, and when nobody has asked for a
while.

Requests and answers are a line of JSON, and the bytes whose number it states. A request says what
it may take: seconds of the processor, and bytes beside what the process had when it began.
"""

import ctypes
import json
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, BinaryIO

TOO_LONG, TOO_LARGE, IDLE = 3, 4, 0
"""With which status it ends."""

_IDLE_SECONDS = 60.0
_WATCH_SECONDS = 0.05

MOST_LETTERS = 100_000
"""Of the text of a page; what comes after them is left out."""
_HYPHEN = 2  # what PDFium has in place of one at the end of a line
_FINE = 1_000_000  # steps across a page, in which PDFium says where a letter is


def main() -> None:
    """Answer until no more requests come."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started it
    answers = os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # what libraries write by themselves
        os.dup2(nowhere, stream)
    watch, requests = _Watch(), sys.stdin.buffer
    drawing = _Drawing()
    while line := requests.readline():
        asked = json.loads(line)
        data = requests.read(asked.pop("bytes"))
        watch.begin(asked.get("number"), asked.pop("seconds"), asked.pop("most_bytes"))
        told, held = _answer(drawing, asked, data)
        watch.end()
        _write(answers, told, held)


def _answer(drawing: "_Drawing", asked: dict[str, Any], data: bytes) -> tuple[dict, bytes]:
    do: Callable[..., tuple[dict, bytes]] = getattr(drawing, asked.pop("do"))
    try:
        return do(data, **asked) if data else do(**asked)
    except Exception as error:  # PDFium's, and whatever else a damaged file brings about
        return {"failed": str(error) or type(error).__name__}, b""


def _write(answers: BinaryIO, told: dict, held: bytes) -> None:
    try:
        answers.write(json.dumps({**told, "bytes": len(held)}).encode() + b"\n")
        answers.write(held)
        answers.flush()
    except BrokenPipeError:
        os._exit(1)


class _Watch:
    """A thread that ends the process where it should."""

    def __init__(self):
        self._parent, self._least = os.getppid(), _held_bytes()
        self._now: tuple[Callable[[], float], float, float] = time.monotonic, 0, 0
        self._page, self._spent, self._start = None, 0.0, time.process_time()
        self.end()
        threading.Thread(target=self._look, daemon=True).start()

    def begin(self, page: int | None, seconds: float, most_bytes: float) -> None:
        """A request is answered from now on, and may take this much; requests for one page, one
        after the other, may take it together."""
        if page is None or page != self._page:
            self._page, self._spent = page, 0.0
        self._start = time.process_time()
        self._now = time.process_time, self._start + seconds - self._spent, most_bytes

    def end(self) -> None:
        """It has been answered."""
        self._spent += time.process_time() - self._start
        self._now = time.monotonic, time.monotonic() + _IDLE_SECONDS, float("inf")

    def _look(self) -> None:
        while os.getppid() == self._parent:
            clock, deadline, most_bytes = self._now
            if clock() > deadline:
                os._exit(TOO_LONG if clock is time.process_time else IDLE)
            if _held_bytes() - self._least > most_bytes:
                os._exit(TOO_LARGE)
            time.sleep(_WATCH_SECONDS)
        os._exit(1)


def _held_bytes() -> int:
    """Resident now; where the system does not say that cheaply, as macOS, the most so far. Linux
    counts into that what the process had before which started this one."""
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


class _Drawing:
    """One document at a time."""

    def __init__(self):
        self._document: Any = None
        self._page: tuple[int, Any] = 0, None  # the one looked at last, and its number

    def open(self, data: bytes = b"", password: str | None = None) -> tuple[dict, bytes]:
        """Its number of pages."""
        import pypdfium2

        self.close()
        self._document = pypdfium2.PdfDocument(data, password=password)
        self._document.init_forms()
        return {"pages": len(self._document)}, b""

    def close(self) -> tuple[dict, bytes]:
        """Nothing is open any more."""
        document, self._document, self._page = self._document, None, (0, None)
        if document is not None:
            document.close()
        return {}, b""

    def sizes(self, numbers: list[int]) -> tuple[dict, bytes]:
        """Width and height of pages, in points."""
        # By the document, which does not look into the pages for it.
        return {"sizes": [self._document.get_page_size(number - 1) for number in numbers]}, b""

    def look(self, number: int) -> tuple[dict, bytes]:
        """What is in a page before it is drawn: its size in points, its pictures as width, height
        and bits of a pixel, and fonts that the file does not hold."""
        from pypdfium2.raw import FPDF_PAGEOBJ_IMAGE, FPDF_PAGEOBJ_TEXT

        page, pictures, fonts = self._opened_page(number), [], dict[str, None]()
        for part in page.get_objects(filter=[FPDF_PAGEOBJ_IMAGE, FPDF_PAGEOBJ_TEXT]):
            if part.type == FPDF_PAGEOBJ_IMAGE:
                held = part.get_metadata()
                pictures.append((held.width, held.height, held.bits_per_pixel))
            elif font := _font_not_held(part):
                fonts[font] = None
        return {"size": page.get_size(), "pictures": pictures, "fonts": list(fonts)}, b""

    def draw(self, number: int, scale: float) -> tuple[dict, bytes]:
        """A page in RGB, so many pixels a point."""
        picture = self._opened_page(number).render(scale=scale).to_pil().convert("RGB")
        return {"size": picture.size}, picture.tobytes()

    def words(self, number: int) -> tuple[dict, bytes]:
        """The words of a page, each [text, left, top, right, bottom], in the order of the file;
        sides are shares of the page as it is drawn, so turned and cropped as it says."""
        from pypdfium2 import raw

        page = self._opened_page(number)
        letters = page.get_textpage()
        words, text, box = [], "", (1.0, 1.0, 0.0, 0.0)
        for i in range(min(letters.count_chars(), MOST_LETTERS) + 1):
            code = raw.FPDFText_GetUnicode(letters.raw, i) if i < letters.count_chars() else 0
            letter = "-" if code == _HYPHEN else chr(code) if 32 < code < 0x110000 else " "
            if letter.isspace() or 0xD800 <= code < 0xE000:
                if text:
                    words.append([text, *box])
                text, box = "", (1.0, 1.0, 0.0, 0.0)
            elif (found := _letter_box(page, letters, i)) is not None:
                text += letter
                box = (*map(min, box[:2], found[:2]), *map(max, box[2:], found[2:]))
        letters.close()
        return {"words": words}, b""

    def _opened_page(self, number: int) -> Any:
        """Opening it is what takes long."""
        if self._page[0] != number:
            if self._page[1] is not None:
                self._page[1].close()
            self._page = number, self._document[number - 1]
        return self._page[1]


def _letter_box(page: Any, letters: Any, i: int) -> tuple[float, float, float, float] | None:
    """Left, top, right and bottom of a letter as shares of the page; None where it is not in it."""
    from pypdfium2 import raw

    sides = [ctypes.c_double() for _ in range(4)]  # left, right, bottom, top
    if not raw.FPDFText_GetCharBox(letters.raw, i, *map(ctypes.byref, sides)):
        return None
    left, right, bottom, top = (side.value for side in sides)
    corners = []
    for x, y in ((left, bottom), (right, top)):
        across, down = ctypes.c_int(), ctypes.c_int()
        raw.FPDF_PageToDevice(page.raw, 0, 0, _FINE, _FINE, 0, x, y, across, down)
        corners.append((across.value / _FINE, down.value / _FINE))
    (x0, x1), (y0, y1) = (sorted(pair) for pair in zip(*corners, strict=True))
    seen = x1 > 0 and y1 > 0 and x0 < 1 and y0 < 1
    return (max(x0, 0.0), max(y0, 0.0), min(x1, 1.0), min(y1, 1.0)) if seen else None


def _font_not_held(part: Any) -> str | None:
    """The name of a text's font, if it is not in the file."""
    from pypdfium2 import raw

    font = raw.FPDFTextObj_GetFont(part.raw)
    if not font or raw.FPDFFont_GetIsEmbedded(font):
        return None
    size = raw.FPDFFont_GetBaseFontName(font, None, 0)
    text = ctypes.create_string_buffer(size)
    raw.FPDFFont_GetBaseFontName(font, text, size)
    return text.value.decode("utf-8", "replace")


if __name__ == "__main__":
    sys.path[:] = sys.argv[1:]  # of the process that asks, where pypdfium2 is
    main()
