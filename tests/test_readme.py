"""README: its Python runs as it stands, and what it counts is counted again."""

import re
from functools import partial
from pathlib import Path

import pytest
from checkpoints import make_official
from faults import FAULTS
from PIL import Image

import pixtral_mlx as px
from pixtral_mlx.cli import demo
from pixtral_mlx.engine.capacity import kv_bytes_per_token
from pixtral_mlx.mini import CHECKPOINT
from pixtral_mlx.mini.drawing import CHARACTERS, COLOURS, SHAPES
from pixtral_mlx.mini.stages import STAGES
from pixtral_mlx.model.config import PIXTRAL_12B
from pixtral_mlx.model.kv_cache import KVFormat

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
MINI = (CHECKPOINT / "README.md").read_text(encoding="utf-8")
SYLLABUS = (ROOT / "notebooks" / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, re.S)
WORDS = {5: "five", 8: "eight", 10: "ten", 17: "seventeen", 18: "eighteen", 20: "twenty"}
"""Numbers that the documents write out; another one is added here when it is needed."""


QUESTION = "Describe the picture."


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    """A random model with the layers that README's examples name."""
    folder = tmp_path_factory.mktemp("deep")
    sizes = {"num_hidden_layers": 6, "hidden_size": 32, "intermediate_size": 32}
    make_official(folder, text={"n_layers": 21, "hidden_dim": 32}, vision=sizes)
    return px.load(folder)


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """A folder to work in, with the pictures that README's examples name."""
    monkeypatch.chdir(tmp_path)
    for name in set(re.findall(r'"(\w+\.(?:jpg|png))"', "".join(PYTHON))) - {"where-it-looked.png"}:
        Image.linear_gradient("L").resize((160, 128)).convert("RGB").save(name)


def test_the_examples_run(deep, pictures, monkeypatch, capsys):
    """In their order, each with the names that those before it made."""
    monkeypatch.setattr(px, "load", lambda folder: deep)
    for ask in ("generate", "generate_batch", "stream_batch"):  # a random model knows no end
        monkeypatch.setattr(deep, ask, partial(getattr(deep, ask), max_tokens=4))
    names = {"pil_image": Image.new("RGB", (32, 32)), "requests": ["Why?", "How?"]}
    for example in PYTHON:
        if "pixtral_mlx_widgets" not in example:
            exec(compile(example, "README.md", "exec"), names)
    assert capsys.readouterr().out
    assert Path("where-it-looked.png").is_file()


def test_the_widget_of_the_example_opens(pictures):
    pytest.importorskip("anywidget", reason="widgets need the extra: pip install -e '.[lab]'")
    (example,) = (example for example in PYTHON if "pixtral_mlx_widgets" in example)
    names = {}
    exec(compile(example, "README.md", "exec"), names)
    reply = names["session"].wait(120)
    names["session"].close()
    assert reply.text


def test_an_answer_is_stopped_where_it_is_not_allowed(pictures):
    """README's hook, on a model whose answers are known."""
    names = {"model": px.load("mini", dtype="float32")}
    exec(next(example for example in PYTHON if "def moderated" in example), names)
    checked = []

    def pieces(forbidden):
        def allowed(text):
            checked.append(text)
            return forbidden not in text

        return list(names["moderated"](QUESTION, ["scene.png"], allowed=allowed, max_tokens=8))

    free = [piece for piece in pieces("not said") if piece]
    assert len(free) > 1
    assert checked[0] == QUESTION and checked[-1] == "".join(free)
    assert "".join(pieces("".join(free[:2]))) == free[0]
    checked.clear()
    assert pieces("picture") == []
    assert checked == [QUESTION]  # nothing was computed


COUNTED = {
    "ask {} questions": (README, len(demo.KINDS)),
    "asks it {} questions": (README, len(demo.KINDS)),
    "{} classic mistakes": (README, len(FAULTS)),
    "{} notebooks and a page of claims": (SYLLABUS, SYLLABUS.count("\n## [") - 1),
    "{} shapes": (MINI, len(SHAPES)),
    "in {} colours": (MINI, len(COLOURS)),
    "{} characters": (MINI, len(CHARACTERS)),
    "{} stages": (MINI, len(STAGES)),
}
"""A phrase, where it stands, and the number that belongs there."""


@pytest.mark.parametrize("phrase", COUNTED)
def test_what_is_counted_in_words_is_as_many(phrase):
    text, number = COUNTED[phrase]
    before, after = phrase.split("{}")
    found = re.findall(rf"{before}\b([A-Za-z]+){after}", " ".join(text.split()))
    assert [word.lower() for word in found if word.lower() in WORDS.values()] == [WORDS[number]]


def test_figures_follow_from_the_sizes():
    text, vision = PIXTRAL_12B.text, PIXTRAL_12B.vision
    for bits in (None, 8, 4):
        assert f"{kv_bytes_per_token(text, kv=KVFormat(bits)):,}" in README
    with Image.open(ROOT / "docs" / "sea.png") as sea:
        grid = px.patch_grid(*sea.size, vision)
        assert f"of a {sea.width} x {sea.height} picture: {grid.patches} patches" in README
    assert f"grid of {grid.rows} rows and {grid.columns} columns" in README
    letter = px.patch_grid(1024 * 17 // 22, 1024, vision)
    assert f"a letter page at full size is {letter.tokens:,} tokens" in README


def test_figures_of_mini_are_those_of_its_own_page():
    asked, right = re.search(r"(?m)^all +(\d+) +(\S+ %)", MINI).groups()
    readme = " ".join(README.split())
    assert f"{right} of {int(asked):,} questions about newly drawn scenes" in readme
    table = MINI.split("novelty: begin")[1]
    new = re.search(r"(?m)^all .*?% of \d+ +(\S+ %) of (\d+)", table)
    apart = re.search(r"(?m)^read .* (\S+ % of \d+)$", table)
    assert f"{new[1]} of {int(new[2]):,} where no picture of training" in readme
    assert f"reads {apart[1]} codes whose characters stand apart" in readme
