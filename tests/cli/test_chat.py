"""Chat as people use it: files dragged into it, questions of several lines, a full context."""

import json
import os
import pty
import shlex
import shutil
import subprocess
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from select import select

import pytest
from checkpoints import make_official
from commands import COMMAND, environment
from PIL import Image

import pixtral_mlx as px
from pixtral_mlx.cli import chat as chat_module
from pixtral_mlx.cli.chat import Chat
from pixtral_mlx.cli.typed_names import dragged_names, typed_names
from pixtral_mlx.inputs.image_options import ImageOptions
from pixtral_mlx.mini import CHECKPOINT

NAMES = (
    "a.png",
    "My Photo (1).png",
    "it's.JPG",
    'two "quotes".png',
    "$HOME&co;.webp",
    "Grün 图.pdf",
)


def _escaped(name: str) -> str:
    """As Terminal and iTerm2 write it."""
    return "".join(c if c.isalnum() or c in "/._-" else f"\\{c}" for c in name)


WRITTEN = {
    "backslashes": _escaped,
    "single quotes": shlex.quote,
    "double quotes": lambda name: '"' + name.replace('"', r"\"") + '"',
    "an address": lambda name: Path(name).as_uri(),
    "nothing": str,
}


@pytest.fixture
def held(tmp_path, monkeypatch):
    """A folder that is home, with files of awkward names."""
    for name in NAMES:
        (tmp_path / name).write_bytes(b"x")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("way", WRITTEN)
def test_names_as_terminals_write_them(held, way):
    for name in NAMES:
        path = str(held / name)
        wanted = [WRITTEN["an address"](path)] if way == "an address" else [path]
        line = WRITTEN[way](path)
        for end in ("", " ", "  "):
            assert typed_names(line + end) == dragged_names(line + end) == wanted, (way, name)
    if way != "nothing":
        several = " ".join(WRITTEN[way](str(held / name)) for name in NAMES)
        assert len(typed_names(several)) == len(dragged_names(several)) == len(NAMES)


def test_names_from_home_and_from_here(held):
    assert typed_names("~/a.png ") == dragged_names("~/a.png ") == ["~/a.png"]
    assert dragged_names(r"My\ Photo\ \(1\).png") == ["My Photo (1).png"]
    assert dragged_names("a.png 'it'\\''s.JPG'") == ["a.png", "it's.JPG"]
    assert dragged_names("a.png#page=2") == ["a.png#page=2"]
    assert dragged_names("/missing.png") == ["/missing.png"]  # so that its error is seen
    assert typed_names("https://x.org/a b.png") == ["https://x.org/a b.png"]
    assert typed_names("My Missing (2).png") == ["My Missing (2).png"]
    assert typed_names("it's missing.png") == ["it's missing.png"]
    assert typed_names("a.png missing.png") == ["a.png", "missing.png"]
    assert typed_names("  ") == []


@pytest.mark.parametrize(
    "line",
    ["What is in a.png?", "a.png is which?", "notes", "missing.png", "/usr and /bin?", "1/2", "",
     "it's a.png", "/" * 5000, "x" * 5000, "a\0b.png"],
)  # fmt: skip
def test_questions_stay_questions(held, line):
    (held / "notes").write_text("x")
    assert dragged_names(line) == []


def test_pictures_wait_for_the_first_question(here, places, picture, capsys):
    odd = places / "My Photo (1).png"
    picture.save(odd)
    ask = ("chat", "--model", "4bit", "--max-tokens", "4")
    said = []
    for words, lines in (
        (("--image", "picture.png", odd), "Which?"),
        ((), f"/image picture.png\n{_escaped(str(odd))} \nWhich?"),
        ((), "\ufeff/image picture.png 'My Photo (1).png'\n\ufeffWhich?\n/quit\nno"),
        (("--image", "picture.png", "--image", odd), '"""Which?\n"""\n/bye\nno'),
        ((), f"/image none.png\n/image {odd}\n/clear\npicture.png\n'{odd.name}'\nWhich?"),
    ):  # fmt: skip
        assert here(*ask, *words, stdin=lines.encode()) == ("none.png" in lines)
        said.append(capsys.readouterr())
        assert said[-1].err.endswith("70 x 40 pixels; 1 waiting\n70 x 40 pixels; 2 waiting\n")
    reply = px.load("4bit").generate("Which?", images=["picture.png", odd], max_tokens=4)
    assert [one.out for one in said] == [reply.text + "\n"] * len(said)


def test_stdin_is_for_the_questions(refused):
    refused(2, "stdin holds the questions", "chat", "--image", "-")


# Several lines --------------------------------------------------------------------------------


class Echo:
    """In the place of the model: keeps what it is asked."""

    asked: list[str]

    def __init__(self, monkeypatch):
        self.asked = []
        monkeypatch.setattr(chat_module, "load_model", lambda _: None)
        monkeypatch.setattr(Chat, "answer", lambda _, question: self.asked.append(question))


@pytest.mark.parametrize(
    ("lines", "asked"),
    [
        ('"""a\nb"""\nc', ["a\nb", "c"]),
        ('"""\n/exit\n\n  b\n"""\nc', ["/exit\n\n  b", "c"]),
        ('"""a"""', ["a"]),
        ('"""', []),
        ('"""\n"""\nc', ["c"]),
        ('"""a\nno end', ["a\nno end"]),
        ('\ufeff"""a\n\ufeffb\n"""   \nsay """ twice', ["a\nb", 'say """ twice']),
    ],
)
def test_questions_of_several_lines(here, monkeypatch, lines, asked):
    echo = Echo(monkeypatch)
    assert here("chat", stdin=lines.encode()) == 0
    assert echo.asked == asked


@pytest.mark.parametrize("word", ["/exit", "/quit", "/bye", " /bye "])
def test_ways_to_leave(here, monkeypatch, word):
    echo = Echo(monkeypatch)
    assert here("chat", stdin=f"a\n{word}\nb\n".encode()) == 0
    assert echo.asked == ["a"]


# A full context -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """A model whose context holds little more than three pictures."""
    folder = tmp_path_factory.mktemp("short") / "model"
    return px.load(make_official(folder, text={"max_seq_len": 80}), dtype="float32")


@pytest.fixture
def full(short, tmp_path, picture, capsys):
    """A chat that holds two pictures, and three that wait: more than its context."""
    file = tmp_path / "picture.png"
    picture.save(file)

    def make(ask=None) -> Chat:
        chat = Chat(short, None, {"max_tokens": 2}, ImageOptions(), ask=ask)
        chat.add([str(file)] * 2)
        chat.answer("Which?")
        chat.add([str(file)] * 3)
        capsys.readouterr()
        return chat

    return make


def test_a_full_context_names_what_helps(full):
    chat = full()
    before = [*chat.messages]
    for _ in range(2):  # nothing is lost meanwhile
        with pytest.raises(px.CapacityError) as error:
            chat.answer("And here?")
        said = str(error.value)
        assert "the context holds 80: /drop 2 takes out the 2 oldest pictures" in said
        assert said.endswith("/reset starts over")
        assert (chat.messages, len(chat.waiting)) == (before, 3)
    chat.handle("/drop 2")
    chat.answer("And here?")
    assert len(chat.messages) == 4 and chat.waiting == []
    kinds = [[part["type"] for part in m["content"]] for m in chat.messages[::2]]
    assert kinds == [["text"], ["image", "image", "image", "text"]]


def test_a_person_is_asked(full, capsys):
    asked = []
    chat = full(lambda question: asked.append(question) or True)
    chat.answer("And here?")
    assert len(asked) == 1 and asked[0].endswith("drop the 2 oldest pictures and ask again?")
    assert len(chat.messages) == 4
    assert capsys.readouterr().err == "2 dropped, 3 left\n"
    chat = full(lambda _: False)
    with pytest.raises(px.CapacityError, match="/reset starts over"):
        chat.answer("And here?")
    assert len(chat.messages) == 2


def test_words_alone_that_are_too_many(short):
    chat = Chat(short, None, {"max_tokens": 2}, ImageOptions())
    with pytest.raises(px.CapacityError, match=r"the context holds 80: /reset starts over$"):
        chat.answer("word " * 200)


def test_memory_that_is_too_small_names_them_too(full, monkeypatch):
    chat = full()
    chat.waiting.clear()
    monkeypatch.setattr("pixtral_mlx.engine.capacity.usable_bytes", lambda: 10**5)
    with pytest.raises(px.CapacityError, match=r"here /drop takes out .*, /reset starts over$"):
        chat.answer("And here?")


def test_dropping_takes_the_number_of_a_page_with_it(short):
    chat = Chat(short, None, {"max_tokens": 2}, ImageOptions())
    page, image = {"type": "text", "text": "Page 1:"}, {"type": "image", "image": None}
    chat.waiting = [page, image, image, {"type": "text", "text": "Why?"}]
    chat.handle("/drop")
    assert chat.waiting == [image, {"type": "text", "text": "Why?"}]
    chat.handle("/drop 9")
    assert chat.waiting == [{"type": "text", "text": "Why?"}]
    for line in ("/drop", "/drop x", "/drop 0", "/drop -1"):
        with pytest.raises(px.PromptError, match="/drop"):
            chat.handle(line)


class Person:
    """At a terminal: types a line, and reads until the next prompt."""

    def __init__(self, terminal: int):
        self._terminal = terminal

    def reads(self, prompt: str) -> str:
        """What stands there up to a prompt, in which nothing is left to be read after it."""
        seen = ""
        while not seen.endswith(prompt):
            assert select([self._terminal], [], [], 60)[0], f"no {prompt!r} after {seen!r}"
            seen += os.read(self._terminal, 4096).decode()
        return seen

    def types(self, line: str, prompt: str = "> ") -> str:
        """What is answered, without the line itself, which the terminal repeats."""
        os.write(self._terminal, f"{line}\n".encode())
        return self.reads(prompt).partition("\r\n")[2]

    def leaves(self) -> None:
        os.write(self._terminal, b"/bye\n")


@contextmanager
def at_a_terminal(*words) -> Iterator[tuple[Person, subprocess.Popen]]:
    """A command in a process of its own, with a person who sees its terminal."""
    terminal, its_end = pty.openpty()
    termios.tcsetwinsize(its_end, (40, 200))  # no line of this command is longer
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), its_end)
    process = subprocess.Popen(
        [*COMMAND, *map(str, words)], env=environment(TERM="dumb"), **streams
    )
    os.close(its_end)
    try:
        yield Person(terminal), process
    finally:
        process.kill()
        process.wait()
        os.close(terminal)


def test_a_conversation_at_a_terminal(tmp_path):
    """The offer is taken the second time; a block and `/drop` come between."""
    folder, file = tmp_path / "small", tmp_path / "square.png"
    shutil.copytree(CHECKPOINT, folder)
    sizes = json.loads((folder / "params.json").read_text())
    (folder / "params.json").write_text(json.dumps(sizes | {"max_seq_len": 300}))
    Image.new("RGB", (160, 160), "red").save(file)  # 110 tokens
    with at_a_terminal("chat", "-m", folder, "--max-tokens", "8") as (person, process):
        person.reads("> ")
        assert "1 waiting" in person.types(f"/image {file}")
        person.types('"""What', "... ")
        person.types("/drop", "... ")
        block = person.types('colour is it?"""')
        assert block.splitlines()[-1] == "> " and "dropped" not in block  # one answer
        assert "2 waiting" in person.types(f"/image {file} {file}")
        offer = "the context holds 300: drop the oldest picture and ask again? [y/N] "
        person.types("And now?", offer)
        said = person.types("n")
        assert said.startswith("! the conversation has 3")
        assert "/drop 1 takes out the oldest picture, /reset starts over" in said
        person.types("And now?", offer)
        assert "1 dropped, 2 left" in person.types("y")
        assert "1 dropped, 1 left" in person.types("/drop")
        assert "1 dropped, 0 left" in person.types("/drop 7")
        assert "there is no picture" in person.types("/drop")
        person.leaves()
        assert process.wait(timeout=60) == 0


# An answer that was cut -----------------------------------------------------------------------


@pytest.mark.parametrize("command", [("generate", "--prompt", "Hi"), ("chat",)])
def test_an_answer_that_was_cut_says_so(here, caplog, command):
    caplog.set_level("WARNING")
    words = (*command, "--model", "4bit", "--max-tokens", "3")
    assert here(*words, stdin=b"Hi") == 0
    assert [r.message for r in caplog.records] == [
        "the answer was cut at --max-tokens 3: raise it to see the rest"
    ]


def test_an_answer_that_ends_says_nothing(here, caplog, capsys):
    caplog.set_level("WARNING")
    assert here("generate", "--prompt", "Hi", "--model", "4bit", "--max-tokens", "3") == 0
    text = capsys.readouterr().out
    caplog.clear()
    stop = ("--stop", text[:1])
    assert here("generate", "--prompt", "Hi", "--model", "4bit", "--max-tokens", "3", *stop) == 0
    assert caplog.records == []


def test_an_answer_that_the_context_cut(short, caplog):
    chat = Chat(short, None, {"max_tokens": 1000, "logit_bias": {117: 99}}, ImageOptions())
    chat.answer("Hi")
    (record,) = caplog.records
    assert record.message.startswith("the answer was cut where the context ends, after ")
