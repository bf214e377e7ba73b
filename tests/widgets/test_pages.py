"""The course as pages: whole, without a script, and never written over by accident."""

import re

import pytest

reason = "the course needs the extra: pip install -e '.[lab]'"
nbformat = pytest.importorskip("nbformat", reason=reason)
pages = pytest.importorskip("pages", reason=reason)
run = pytest.importorskip("run", reason=reason)

TWO = [path for path in run.notebooks() if path.name[0] in "05"]


def notebook_of(*sources):
    cells = [nbformat.v4.new_markdown_cell(source, id=f"m{i}") for i, source in enumerate(sources)]
    return nbformat.v4.new_notebook(cells=cells)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return pages.build(TWO, tmp_path_factory.mktemp("pages") / "out")


def test_a_page_is_whole_and_loads_nothing(built):
    assert [page.name for page in built] == [f"{path.stem}.html" for path in TWO]
    for path, page in zip(TWO, built, strict=True):
        text, notebook = page.read_text(encoding="utf-8"), nbformat.read(path, as_version=4)
        assert pages.POLICY in text
        assert not re.search(r"<script|<link|<iframe|@import|\bsrc=\"(?!data:)", text)
        assert not re.search(r"(src|srcset|poster|action)\s*=\s*[\"']?https?:|url\(.?https?:", text)
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
        kept = [output for output in outputs if "image/png" in output.get("data", {})]
        assert kept and text.count('src="data:image/png;base64,') == len(kept)
        for cell in notebook.cells:
            if cell.source.startswith("# "):
                assert cell.source.splitlines()[0].removeprefix("# ") in text
        assert not list(page.parent.glob(".*"))  # nothing half-written is left


def test_links_lead_to_the_next_page(built):
    links = set(re.findall(r'href="([^"#][^"]*)"', "".join(p.read_text() for p in built)))
    assert {
        f"{path.stem}.html" for path in run.notebooks() if path.name[:2] in ("1-", "6-")
    } <= links
    assert not [link for link in links if link.endswith(".ipynb")]


def test_every_notebook_can_be_a_page():
    for path in run.notebooks():
        assert "<h1" in pages.page(nbformat.read(path, as_version=4), path.stem)


def test_pages_that_are_there_stay_unless_forced(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pages, "notebooks", lambda: TWO)
    (tmp_path / f"{TWO[1].stem}.html").write_text("mine")
    (tmp_path / "other.html").write_text("mine too")
    assert pages.main([str(tmp_path)]) == 1
    assert "exists: name another folder, or add --force" in capsys.readouterr().err
    assert (tmp_path / f"{TWO[1].stem}.html").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 2
    assert pages.main([str(tmp_path), "--force"]) == 0
    assert "<h1" in (tmp_path / f"{TWO[1].stem}.html").read_text()
    assert (tmp_path / "other.html").read_text() == "mine too"
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize(
    "source", ["so $x^2$ is", "$$\nx\n$$", r"\(x\)", r"\begin{align}", "```mermaid\ngraph\n```"]
)
def test_what_needs_a_script_is_refused(source):
    with pytest.raises(ValueError, match=r"cell 'm1' has .* without scripts cannot show"):
        pages.page(notebook_of("# A", source), "a")


@pytest.mark.parametrize(
    "source",
    ['<img src="https://example.org/a.png">', "<script>x</script>", '<iframe src="//x.org">'],
)
def test_what_would_be_loaded_is_refused(source):
    with pytest.raises(ValueError):
        pages.page(notebook_of("# A", source), "a")


def test_formulas_in_code_are_not_formulas():
    assert "$x$" in pages.page(notebook_of("# A", "`$x$` and\n```\n$x$\n```"), "a")
