"""The status line: there while somebody waits at a terminal, gone afterwards."""

import io
import sys
import time

import pytest

from pixtral_mlx.cli.status import Status, format_line


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("opening", "", 0, 0, 3.2, 60), "opening 3 s"),
        (("opening", "", 0, 0, 3.2, 9), "opening 3"),
        (
            ("reading", "tokens", 500, 2000, 4.0, 60),
            "reading:  25%|#2   | 500/2000 [00:04<00:12, 125.00 tokens/s]",
        ),
        (
            ("converting", "B", 10**9, 10**9, 4.0, 60),
            "converting: 100%|#######| 1.00G/1.00G [00:04<00:00, 250MB/s]",
        ),
    ],
)
def test_the_line(arguments, line):
    """No wider than the terminal."""
    drawn = format_line(*arguments, ascii=True)
    assert drawn == line and len(drawn) <= arguments[-1]


def test_the_bar_is_drawn_in_what_the_terminal_has(monkeypatch):
    monkeypatch.setattr("pixtral_mlx.cli.status.DELAY_SECONDS", 0)
    for encoding, bar in (("utf-8", "█"), ("ascii", "#")):
        file = io.BytesIO()
        terminal = io.TextIOWrapper(file, encoding=encoding)
        monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
        monkeypatch.setattr(sys, "stderr", terminal)
        with Status("reading") as status:
            status.step("reading", "tokens")
            status.update(1, 2)
            time.sleep(0.5)
        terminal.flush()
        assert bar in file.getvalue().decode(encoding)


def test_the_line_is_drawn_in_a_terminal_and_gone_afterwards(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr("pixtral_mlx.cli.status.DELAY_SECONDS", 0)
    with Status("opening"):
        time.sleep(0.5)
    written = terminal.getvalue()
    assert "opening 0 s" in written
    assert written.endswith("\r\x1b[K")
    time.sleep(0.3)
    assert terminal.getvalue() == written  # its thread has ended


def test_no_terminal_no_line(monkeypatch):
    pipe = io.StringIO()
    monkeypatch.setattr(sys, "stderr", pipe)
    monkeypatch.setattr("pixtral_mlx.cli.status.DELAY_SECONDS", 0)
    with Status("opening") as status:
        status.step("reading", "tokens")
        status.update(1, 2)
        time.sleep(0.3)
    assert pipe.getvalue() == ""
