"""Lines as wide as the terminal, whose ends lie between words."""

import io
import random
import re

import pytest

from pixtral_mlx.cli.wrap import WordWrap, fitted, writer

TEXT = (
    "A square picture, three rows and four columns, from a blue ring to a blue moon.\n\n"
    "  Indented, with areallyverylongwordthatisnotabletofitintoanyofthelines in it; e\u0301t\u00e9."
)


class Terminal(io.StringIO):
    """One that is so many columns wide."""

    def isatty(self):
        return True


def shown(sent: str) -> list[str]:
    """The lines that stand on a screen after all was sent."""
    lines = [""]
    for part in re.findall(r"\x1b\[(\d+)D\x1b\[K|(\n)|([^\x1b\n])", sent):
        if part[0]:
            lines[-1] = lines[-1][: -int(part[0])]
        elif part[1]:
            lines.append("")
        else:
            lines[-1] += part[2]
    return lines


@pytest.mark.parametrize("width", [20, 31, 60, 200])
def test_words_stay_whole_however_they_arrive(width):
    draw = random.Random(width)
    plain = shown(WordWrap(width).add(TEXT))
    for _ in range(5):
        wrap, sent, at = WordWrap(width), "", 0
        while at < len(TEXT):
            end = at + draw.randint(1, 7)
            sent, at = sent + wrap.add(TEXT[at:end]), end
        assert shown(sent) == plain
    assert all(len(line) <= width + line.count("\u0301") for line in plain)
    if width == 200:
        assert plain == TEXT.split("\n")
    words = [word for word in TEXT.split() if len(word) <= width]
    assert set(words) <= set(" ".join(plain).split())
    assert "".join("".join(plain).split()) == "".join(TEXT.split())


def test_scripts_without_blanks_are_cut_where_the_line_ends():
    assert shown(WordWrap(20).add("\u6c34" * 25)) == ["\u6c34" * 10, "\u6c34" * 10, "\u6c34" * 5]


def test_pipes_get_what_was_said(monkeypatch):
    monkeypatch.setenv("COLUMNS", "31")
    pipe, terminal = io.StringIO(), Terminal()
    for stream in (pipe, terminal):
        write = writer(stream)
        write(TEXT[:40])
        write(TEXT[40:])
    assert pipe.getvalue() == TEXT
    assert max(map(len, shown(terminal.getvalue()))) <= 31
    assert fitted(TEXT[:79], pipe) == TEXT[:79]
    lines = fitted(TEXT[:79], terminal).splitlines()
    assert len(lines) == 3 and all(len(line) <= 30 for line in lines)
    assert lines[1].startswith("  ")
