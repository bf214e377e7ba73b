"""How a notebook of the course is built: something to play with first, code that does not teach
folded, and every prediction before its answer."""

import json
import re

import pytest

reason = "the course needs the extra: pip install -e '.[lab]'"
nbformat = pytest.importorskip("nbformat", reason=reason)
run = pytest.importorskip("run", reason=reason)

EVERY = pytest.mark.parametrize("path", run.notebooks(), ids=lambda path: path.stem)

LONG = 14
"""Lines of code; longer cells are folded, unless they teach."""

TEACH = {
    "0-first-look": {"own", "convert"},
    "1-tokens": {"tokens"},
    "3-positions": {"turn", "all", "move", "beyond", "gate"},
    "4-masks": {"hand", "break"},
    "6-projector": {"lens", "projector"},
    "7-words": {"hand"},
    "9-bits": {"kl-hand"},
    "claims": {"gelu", "frames"},
}
"""Long cells that are to be read: what they compute by hand is the lesson."""

ANSWER = "-answer"


def read(path):
    return nbformat.read(path, as_version=4).cells


def folded(cell, what):
    return bool(cell.metadata.get("jupyter", {}).get(f"{what}_hidden"))


def shows_widget(cell):
    return any(run.WIDGET in output.get("data", {}) for output in cell.get("outputs", ()))


def sections(cells):
    """Each heading's cells."""
    found = []
    for cell in cells:
        if cell.cell_type == "markdown" and re.match(r"##? ", cell.source):
            found.append([])
        found[-1].append(cell)
    return found


@EVERY
def test_what_one_can_play_with_comes_first(path):
    intro, *cells = read(path)
    title, *text = intro.source.split("\n\n")
    assert title.startswith("# ") and text[-1].startswith("**Try it.** ")
    assert len(" ".join(text[:-1]).split()) < 75, "one or two sentences before the first cell"
    first = next(i for i, cell in enumerate(cells) if cell.get("outputs"))
    assert shows_widget(cells[first]) and not folded(cells[first], "outputs")
    assert [cell.id for cell in cells[:first]] == ["load"]
    assert not folded(cells[0], "source")  # it holds the line that changes the model


@EVERY
def test_code_that_does_not_teach_is_folded(path):
    long = {
        cell.id
        for cell in read(path)
        if cell.cell_type == "code" and cell.id != "load" and len(cell.source.splitlines()) > LONG
        if not folded(cell, "source")
    }
    assert long == TEACH.get(path.stem, set()), "fold them, or move them into notebooks/course"


@EVERY
def test_folded_code_says_what_it_does(path):
    """JupyterLab shows the first line of folded code."""
    hidden = [cell for cell in read(path) if folded(cell, "source")]
    assert [cell.id for cell in hidden if not re.match(r"# .+\.\n", cell.source)] == []


@EVERY
def test_a_prediction_comes_before_its_answer(path):
    asked = 0
    for section in sections(read(path)):
        asks = None
        for number, cell in enumerate(section):
            text = cell.source if cell.cell_type == "markdown" else ""
            if re.search(r"\*\*(Predict|Act)\.\*\*", text):
                asks, asked = cell, asked + 1
                assert text.find("**Check.** ") > re.search(r"\*\*(Predict|Act)\.", text).start()
                later = [one for one in section[number:] if one.cell_type == "code"]
                choices = len(re.findall("<details><summary>.+?</summary>.+?</details>", text))
                types = any(one.id.endswith(ANSWER) for one in later)
                assert choices >= 2 or types or "**Act.**" in text, "choices, or a cell to type in"
                assert any(folded(one, "outputs") for one in later), "there is nothing to check"
            elif asks is not None and cell.cell_type == "code" and cell.get("outputs"):
                if not shows_widget(cell) and not is_picture_of_the_question(cell):
                    assert folded(cell, "outputs"), f"{cell.id}: its answer stands open"
                    assert cell.metadata.get("collapsed") is True
                    assert cell.outputs[0].get("text", "").startswith(run.KEPT), (
                        f"{cell.id}: JupyterLab shows the first line of a folded output"
                    )
            elif asks is not None and text:
                assert text.startswith("<details><summary>After the check</summary>"), cell.id
                assert text.endswith("</details>")
    assert asked >= 2


def is_picture_of_the_question(cell):
    return cell.id.endswith("-picture")


@EVERY
def test_only_what_is_asked_about_is_folded(path):
    for section in sections(read(path)):
        text = "".join(cell.source for cell in section if cell.cell_type == "markdown")
        hidden = [cell.id for cell in section if folded(cell, "outputs")]
        assert not hidden or "**Check.** " in text, hidden


@EVERY
def test_there_is_one_form(path):
    text = "\n".join(cell.source for cell in read(path) if cell.cell_type == "markdown")
    assert not re.search(
        r"\*Predict:\*|\*\*Predict\*\*|\*\*Type\*\*|^## Exercise|Look first", text, re.M
    )


COUNTED = re.compile(
    r"\b(rows?|columns?|patch|patches|tokens?|word) 0\b|\(row, column\)[^.]*from zero|"
    r"\b\d+ x \d+\b|e[-+]\d\d (nats|MB|GB)|\b(68\.72|51\.54)\b"
)
"""What people read counts rows, columns, patches and tokens from one; layers and heads from 0."""


@EVERY
def test_people_count_from_one(path):
    for cell in read(path):
        texts = [cell.source if cell.cell_type == "markdown" else ""]
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            texts += [
                output.get("text", ""),
                data.get("text/markdown", ""),
                data.get("text/plain", ""),
            ]
        for text in texts:
            found = COUNTED.search(text)
            assert not found, (cell.id, found and found[0])


def test_token_numbers_are_those_of_the_strip():
    """SequenceStrip counts from one, and so does what notebook 2 prints."""
    import course
    import pixtral_mlx as px

    model = px.load("mini", dtype="float32")
    picture = course.scenes(8, rows=2, columns=4)[5].image
    prompt = model.encode("How many rows are there?", images=[picture])
    img, img_break, img_end = model.tokenizer.image_ids
    ends = [n for n, token in enumerate(prompt.tokens, 1) if token in (img_break, img_end)]
    (path,) = run.FOLDER.glob("2-*.ipynb")
    printed = {
        cell.id: [int(n) for n in re.findall(r"\d+", cell.outputs[0].text)]
        for cell in read(path)
        if cell.id in ("ids", "place")
    }
    first = prompt.tokens.index(img) + 1
    assert printed["place"] == [first, *ends]
    # Four patches are alike; then a row of 4 ends, and one of 8 goes on: the strip says so too.
    assert printed["ids"] == [5, first + 4]


def test_a_page_is_folded_as_its_notebook():
    pages = pytest.importorskip("pages")
    path = next(path for path in run.notebooks() if path.stem == "5-attention")
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    outputs = sum(folded(cell, "outputs") and bool(cell.outputs) for cell in code)
    sources = sum(folded(cell, "source") for cell in code)
    text = pages.page(json_copy(notebook), path.stem)
    assert outputs and text.count('<details class="folded"><summary>Check</summary>') == outputs
    assert text.count('<details class="folded"><summary>Code</summary>') == sources


def json_copy(notebook):
    return nbformat.from_dict(json.loads(json.dumps(notebook)))
