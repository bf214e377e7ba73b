"""The syllabus: a picture and a link for every notebook of the course, all of which are there."""

import io
import re
from pathlib import Path

import pytest
from PIL import Image

import pixtral_mlx_widgets

reason = "the course needs the extra: pip install -e '.[lab]'"
nbformat = pytest.importorskip("nbformat", reason=reason)
run = pytest.importorskip("run", reason=reason)

SYLLABUS = run.FOLDER / "README.md"
TEXT = SYLLABUS.read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## \[.*?\]\((\S+)\)\n(.*?)(?=^## |\Z)", TEXT, re.M | re.S))


def read(path):
    return nbformat.read(path, as_version=4)


def test_the_syllabus_has_every_notebook_in_order():
    assert list(SECTIONS) == [path.name for path in run.notebooks()]


@pytest.mark.parametrize("path", run.notebooks(), ids=lambda path: path.stem)
def test_a_notebook_has_its_question_and_its_picture(path):
    notebook = read(path)
    title = notebook.cells[0].source.splitlines()[0].removeprefix("# ")
    assert f"## [{title}]({path.name})" in TEXT
    assert re.search(rf"!\[.+\]\(pictures/{re.escape(path.stem)}\.png\)", SECTIONS[path.name])
    for part in ("- **You:** ", "- **Checked:** ", "- **Widget:** "):
        assert part in SECTIONS[path.name]
    kept = (run.PICTURES / f"{path.stem}.png").read_bytes()
    assert kept == run.picture(path, notebook), "run: python notebooks/run.py --pictures"
    with Image.open(io.BytesIO(kept)) as image:
        assert image.format == "PNG" and len(image.convert("RGB").getcolors(2**24)) > 2


@pytest.mark.parametrize("path", run.notebooks(), ids=lambda path: path.stem)
def test_the_widgets_named_are_those_shown(path):
    text = path.read_text()
    shown = set(re.findall(r'"(\w+): run this cell to see it and use it', text))
    line = re.search(r"- \*\*Widget:\*\* (.*)", SECTIONS[path.name])[1]
    named = set(re.findall(r"`(\w+)`", line))
    assert named == shown
    assert all(hasattr(pixtral_mlx_widgets, name) for name in named)


def test_links_lead_somewhere():
    links = re.findall(r"\]\(([^)\s]+)\)", TEXT)
    # The first is that of the live page, the last that of the exercises.
    assert len(links) == 2 + 2 * len(run.notebooks())
    assert links[-1] == "build-pixtral/README.md"
    for link in links:
        assert (SYLLABUS.parent / link).is_file(), link
    assert {p.name for p in run.PICTURES.iterdir()} == {f"{p.stem}.png" for p in run.notebooks()}
    commands = re.findall(r"^python (\S+)", TEXT, re.M)
    assert commands and all((Path(run.FOLDER).parent / name).is_file() for name in commands)


def test_a_notebook_without_its_picture_is_one_line():
    path = run.notebooks()[0]
    notebook = read(path)
    for cell in notebook.cells:
        cell.pop("outputs", None)
    with pytest.raises(ValueError, match="'looked' keeps no picture; run it, or change CHOSEN"):
        run.picture(path, notebook)
