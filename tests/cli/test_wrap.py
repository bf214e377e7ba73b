"""Lines as wide as the terminal, whose ends lie between words."""

import ast
import io
import json
import random
import re

import pytest
from commands import HOUSE

from pixtral_mlx.cli.wrap import WordWrap, fitted, say, say_json, writer

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


STEERING = "a\x1b[31m\r\x07\x9b2J\x7f b\udcff\u202fc"


def test_terminals_are_not_steered_by_names_or_answers(monkeypatch):
    for stream, said in (
        (Terminal(), "a?[31m???2J? b?\u202fc\n"),
        (io.StringIO(), f"{STEERING}\n"),
    ):
        monkeypatch.setattr("sys.stdout", stream)
        say(STEERING)
        assert stream.getvalue() == said
    terminal = Terminal()
    writer(terminal)("\x1b]0;title\x07\x9b1m!\n")
    assert terminal.getvalue() == "?]0;title??1m!\n"


def test_commands_print_with_say():
    for file in (HOUSE / "pixtral_mlx" / "cli").glob("*.py"):
        calls = [
            node.lineno
            for node in ast.walk(ast.parse(file.read_text("utf-8")))
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"
        ]
        # The package itself speaks where `wrap` could not be imported any more.
        own = ("wrap.py", "streams.py", "__init__.py")
        assert not calls or file.name in own, (file, calls)


def test_json_on_stdout_names_what_is_not_utf8(capsys):
    say_json({"file": "caf\udce9 \u56fe"})
    assert json.loads(capsys.readouterr().out) == {"file": "caf\udce9 \u56fe"}
