"""README and docs/: their Python runs as it stands, and what they count is counted again."""

import ast
import re
from pathlib import Path

import pytest
from checkpoints import make_official
from documents import FLAT, ROOT, TEXTS, blocks, with_blocks
from faults import FAULTS
from PIL import Image

import pixtral_mlx as px
from pixtral_mlx.cost.pace import FEWEST_TOKENS, STEP_SECONDS
from pixtral_mlx.doctor.published import LEAST_SHARE
from pixtral_mlx.engine.capacity import kv_bytes_per_token
from pixtral_mlx.engine.prompt_folder import MAX_BYTES
from pixtral_mlx.inputs.page_choice import MAX_PAGES
from pixtral_mlx.mini import CHECKPOINT, demo_scene, scene
from pixtral_mlx.mini.drawing import CHARACTERS, COLOURS, SHAPES
from pixtral_mlx.mini.stages import STAGES
from pixtral_mlx.model.config import PIXTRAL_12B
from pixtral_mlx.model.kv_cache import KVFormat
from pixtral_mlx.quantization.options import ConversionOptions
from pixtral_mlx.quantization.plan import plan_for

MINI = (CHECKPOINT / "README.md").read_text(encoding="utf-8")
SYLLABUS = (ROOT / "notebooks" / "README.md").read_text(encoding="utf-8")
WORDS = {
    5: "five",
    8: "eight",
    9: "nine",
    10: "ten",
    11: "eleven",
    12: "twelve",
    17: "seventeen",
    18: "eighteen",
    20: "twenty",
}
"""Numbers that the documents write out; another one is added here when it is needed."""

MOST_WORDS = 1500
"""Of README, tables and commands included, as `wc -w` counts."""

QUESTION = "Describe the picture."


def split_examples(page):
    """The Python of a page: what comes before the first widget, and the rest."""
    examples = blocks(page, "python")
    first = next((n for n, text in enumerate(examples) if "pixtral_mlx_widgets" in text), None)
    return (examples, []) if first is None else (examples[:first], examples[first:])


def run_examples(page, examples, names):
    for example in examples:
        exec(compile(example, f"{page}.md", "exec"), names)


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    """The folder of a random model with the layers that the examples name."""
    folder = tmp_path_factory.mktemp("deep")
    sizes = {"num_hidden_layers": 6, "hidden_size": 32, "intermediate_size": 32}
    return make_official(folder, text={"n_layers": 21, "hidden_dim": 32}, vision=sizes)


@pytest.fixture
def place(deep, tmp_path, monkeypatch):
    """A folder to work in: small models under the names of large ones, and the pictures that the
    examples open."""
    monkeypatch.chdir(tmp_path)
    Path("pixtral-4bit").symlink_to(deep)
    Path("mistralai").mkdir()
    Path("mistralai/Pixtral-12B-2409").symlink_to(CHECKPOINT)
    text = "".join("".join(blocks(page, "python")) for page in TEXTS)
    written = set(re.findall(r'picture\(\)\.save\("([^"]+)"', text))
    for name in set(re.findall(r'"(\w+\.(?:jpg|png))"', text)) - written:
        Image.linear_gradient("L").resize((160, 128)).convert("RGB").save(name)


@pytest.fixture
def short_answers(monkeypatch):
    """A random model knows no end."""

    def shortened(ask):
        return lambda *request, **options: ask(*request, **options | {"max_tokens": 4})

    for name in ("stream", "stream_batch"):
        monkeypatch.setattr(px.Pixtral, name, shortened(getattr(px.Pixtral, name)))


@pytest.mark.parametrize("page", with_blocks("python"))
def test_the_examples_run(page, place, short_answers, capsys):
    """In their order, each with the names that those before it on the page made."""
    examples, _ = split_examples(page)
    run_examples(page, examples, {})
    assert bool(capsys.readouterr().out) == ("print(" in "".join(examples))
    for name in re.findall(r'\.save\("([^"]+)"', "".join(examples)):
        assert Path(name).is_file(), name


@pytest.mark.parametrize("page", [page for page in TEXTS if split_examples(page)[1]])
def test_the_widgets_of_the_examples_open(page, place):
    """On pixtral-mini, and the scene that README draws."""
    pytest.importorskip("anywidget", reason="widgets need the extra: pip install -e '.[lab]'")
    scene(8, rows=3, columns=4).image.save("scene.png")
    names = {}
    run_examples(page, split_examples(page)[1], names)
    reply = names.get("reply") or names["session"].wait(120)
    names["session"].close()
    assert reply.text == "a red star"


def test_an_answer_is_stopped_where_it_is_not_allowed(place):
    """The check of docs/limits.md, on a model whose answers are known."""
    names = {}
    run_examples(
        "limits", [text for text in blocks("limits", "python") if "def moderated" in text], names
    )
    names["model"] = px.load("mini", dtype="float32")
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
    "asks it {} questions": (TEXTS["commands"], len(demo_scene.KINDS)),
    "{} classic mistakes": (TEXTS["readme"], len(FAULTS)),
    "{} notebooks and a page of claims": (SYLLABUS, SYLLABUS.count("\n## [") - 1),
    "{} notebooks teach": (TEXTS["readme"], SYLLABUS.count("\n## [") - 1),
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
        assert f"{kv_bytes_per_token(text, kv=KVFormat(bits)):,}" in FLAT["python"]
    with Image.open(ROOT / "docs" / "sea.png") as sea:
        grid = px.patch_grid(*sea.size, vision)
        assert f"of a {sea.width} x {sea.height} picture: {grid.patches} patches" in FLAT["readme"]
    assert f"grid of {grid.rows} rows and {grid.columns} columns" in FLAT["readme"]
    letter = px.patch_grid(1024 * 17 // 22, 1024, vision)
    assert f"a letter page at full size is {letter.tokens:,} tokens" in FLAT["python"]
    sizes = {
        bits: plan_for(PIXTRAL_12B, ConversionOptions(bits=bits)).nbytes / 1e9 for bits in (16, 4)
    }
    assert f"downloads {sizes[16]:.0f} GB into" in FLAT["readme"]
    assert f"a folder of {sizes[4]:.1f} GB" in FLAT["readme"]
    mini = plan_for(px.load_config(CHECKPOINT), ConversionOptions()).parameters
    assert f"a Pixtral of {mini / 1e6:.1f} million parameters" in FLAT["readme"]


def test_the_readme_is_read_in_six_minutes():
    """A screen for each topic; what does not fit belongs on a page of docs/."""
    assert len(TEXTS["readme"].split()) < MOST_WORDS


def test_limits_are_those_of_the_code():
    step = px.GenerationOptions().prefill_step_size
    for page, phrase in (
        (
            "macs",
            f"in steps of at most {step} tokens, and in smaller ones (down to {FEWEST_TOKENS})",
        ),
        ("macs", f"more than {STEP_SECONDS} s for one"),
        ("macs", f"theirs at {LEAST_SHARE:.0%}".replace("%", " %")),
        ("macs", f"The largest float16 is {2**15 * (2 - 2**-10):,.0f}"),
        ("python", f"`prefill_step_size` ({step})"),
        ("python", f"At most {MAX_PAGES} pages of a PDF"),
        ("python", f"at most {MAX_BYTES / 1e9:.0f} GB"),
    ):
        assert phrase in FLAT[page], phrase


def test_figures_of_mini_are_those_of_its_own_page():
    asked, right = re.search(r"(?m)^all +(\d+) +(\S+ %)", MINI).groups()
    readme = FLAT["readme"]
    assert f"{right} of {int(asked):,} questions about newly drawn scenes" in readme
    table = MINI.split("novelty: begin")[1]
    new = re.search(r"(?m)^all .*?% of \d+ +(\S+ %) of (\d+)", table)
    apart = re.search(r"(?m)^read .* (\S+ % of \d+)$", table)
    assert f"{new[1]} of {int(new[2]):,} where no picture of training" in readme
    assert f"reads only {apart[1]} codes whose characters stand apart" in FLAT["limits"]


def test_every_widget_and_every_edit_is_named():
    package = (ROOT / "widgets" / "pixtral_mlx_widgets" / "__init__.py").read_text(encoding="utf-8")
    names = {
        text.value
        for text in ast.walk(ast.parse(package).body[-1])
        if isinstance(text, ast.Constant)
    }
    assert set(re.findall(r"(?m)^\| `(\w+)` \|", TEXTS["widgets"])) >= names - {"Session"}
    counted = {WORDS[len(names) - 1].capitalize()}
    assert set(re.findall(r"(\w+) widgets show", TEXTS["readme"])) == counted
    edits = {
        name for name, kind in vars(px.edits).items()
        if isinstance(kind, type) and issubclass(kind, px.edits.Edit) and kind is not px.edits.Edit
    }  # fmt: skip
    assert set(re.findall(r"(?m)^\| `(\w+)\(", TEXTS["looking-inside"])) == edits
