"""PDFs that never end, fill the memory or crash: they end in a sentence, and others go on."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
from commands import environment
from pdfs import make_blank, make_endless, make_pdf

import pixtral_mlx as px
from pixtral_mlx.inputs import pdf_process, size_limit
from pixtral_mlx.inputs.image_options import ImageOptions
from pixtral_mlx.inputs.pdf import open_pages, page_numbers, page_sizes
from pixtral_mlx.model.config import PIXTRAL_12B_VISION

SMALL = replace(PIXTRAL_12B_VISION, image_size=64)


def pages(data, choice=None):
    return open_pages(data, "x.pdf", SMALL, ImageOptions(), choice)


def running() -> int:
    """The number of the process that draws, which is there after this."""
    pages(make_blank((5, 5)))
    return pdf_process._running[0]._child.pid


def is_there(process: int) -> bool:
    try:
        with open(f"/proc/{process}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] != b"Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("limit", "value", "said"),
    [
        ("MAX_REQUEST_SECONDS", 0.3, r"takes more than 0\.3 s of the processor to draw: print it"),
        ("MAX_REQUEST_BYTES", 150_000_000, "takes more than 150,000,000 bytes to draw: print it"),
    ],
)
def test_a_page_that_takes_too_much_is_named_and_the_others_are_drawn(
    limit, value, said, monkeypatch
):
    endless, before = make_endless(), running()
    assert page_numbers(endless, "x.pdf") == [1, 2]
    sizes = page_sizes(endless, "x.pdf", SMALL, ImageOptions())
    assert sizes == [(1, (64, 64)), (2, (64, 64))]
    monkeypatch.setattr(size_limit, limit, value)
    with pytest.raises(px.ImageError, match=rf"^x\.pdf, page 1: {said}"):
        pages(endless)
    monkeypatch.undo()
    assert [number for number, _ in pages(endless, "2")] == [2]
    assert running() != before


def test_a_crash_is_a_sentence(monkeypatch):
    process = running()
    draw = pdf_process.Document.draw

    def crashing(*arguments):
        os.kill(process, signal.SIGSEGV)
        return draw(*arguments)

    monkeypatch.setattr(pdf_process.Document, "draw", crashing)
    said = r"x\.pdf, page 1: PDFium did not survive it \(SIGSEGV\): print it to a new PDF"
    with pytest.raises(px.ImageError, match=said):
        pages(make_pdf(1))
    monkeypatch.undo()
    assert len(pages(make_pdf(1))) == 1


def test_one_that_has_ended_meanwhile_is_started_again():
    os.kill(running(), signal.SIGKILL)
    assert len(pages(make_pdf(2))) == 2


def test_threads_take_turns():
    found, sizes = [], [(40 + n, 60) for n in range(12)]

    def draw(size):
        ((_, page),) = pages(make_blank(size))
        found.append(page.size == (-(-64 * size[0] // max(size)), 64 * size[1] // max(size)))

    threads = [threading.Thread(target=draw, args=(size,)) for size in sizes]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len(found) == len(sizes)


WAITS = """
import sys
sys.path[:0] = [{tests!r}]
from pdfs import make_endless
from pixtral_mlx.inputs import pdf_process, size_limit
size_limit.MAX_REQUEST_SECONDS = 60
with pdf_process.opened(make_endless(), "x.pdf", None) as document:
    print(pdf_process._running[0]._child.pid, flush=True)
    document.look(2), document.draw(1, 1)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells which processes are there")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_it_ends_with_the_process_that_asked(how):
    """Also while PDFium is busy, which swallowed a Ctrl-C when it ran in the same process."""
    code = WAITS.format(tests=os.path.dirname(os.path.dirname(__file__)))
    asking = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env=environment(), text=True,
    )  # fmt: skip
    drawing = int(asking.stdout.readline())
    time.sleep(0.2)
    assert is_there(drawing)
    asking.send_signal(how)
    assert asking.wait(10) == -how
    end = time.monotonic() + 10
    while is_there(drawing) and time.monotonic() < end:
        time.sleep(0.02)
    assert not is_there(drawing)
    asking.stdout.close()
