"""The course's pages in a real browser that has no network."""

import pytest

reason = "the course needs the extra: pip install -e '.[lab]'"
pages = pytest.importorskip("pages", reason=reason)
run = pytest.importorskip("run", reason=reason)

TWO = [path for path in run.notebooks() if path.name[0] in "05"]


def test_pages_are_whole_without_a_network(lab, tmp_path):
    built = pages.build(TWO, tmp_path)
    page = lab.new_page()
    page.context.set_offline(True)
    errors, asked = len(lab.messages), []
    page.on("request", lambda request: asked.append(request.url))
    for path in built:
        page.goto(path.as_uri())
        assert page.locator("details.folded[open]").count() == 0  # until somebody checks
        page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        sizes = page.evaluate("[...document.images].map(i => [i.naturalWidth, i.clientWidth])")
        assert len(sizes) >= 3 and all(width > 0 for pair in sizes for width in pair)
        heading = page.locator("h1")
        assert heading.text_content().startswith(path.stem[0])
        # The style is in the page too: JupyterLab's own has no serifs and colours the code.
        assert "sans-serif" in heading.evaluate("e => getComputedStyle(e).fontFamily")
        colours = page.evaluate(
            "new Set([...document.querySelectorAll('.highlight span')]"
            ".map(e => getComputedStyle(e).color)).size"
        )
        assert colours > 3
    assert len(asked) >= len(built)
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert lab.messages[errors:] == []
    page.context.close()
