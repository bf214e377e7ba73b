"""A real JupyterLab in a real browser, for the widgets' tests.

A browser is found as the widgets find one, and Playwright drives it. Where there is none the tests
are skipped, unless `PIXTRAL_REQUIRE_BROWSER` is set, as CI does.
"""

import os

import pytest

from pixtral_mlx_widgets.page import find_browser


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    """A `Lab` that all tests of one process share."""
    reason = _missing()
    if reason:
        if os.environ.get("PIXTRAL_REQUIRE_BROWSER"):
            pytest.fail(f"PIXTRAL_REQUIRE_BROWSER is set, but {reason}")
        pytest.skip(reason)
    from browser_lab import Lab

    with Lab(tmp_path_factory.mktemp("lab"), find_browser()) as lab:
        yield lab


@pytest.fixture
def notebook(lab, request):
    """Opens a notebook with the given cells, runs them, and closes it after the test."""
    opened = []

    def open_notebook(*cells, **options):
        opened.append(lab.notebook(request.node.name, cells, **options))
        return opened[-1]

    yield open_notebook
    for one in opened:
        one.close()


def _missing() -> str:
    if find_browser() is None:
        return "no browser was found: install Chromium or Chrome, or set PIXTRAL_BROWSER"
    try:
        import jupyterlab  # noqa: F401
        import playwright  # noqa: F401
    except ImportError as error:
        return f"{error.name} is not installed: pip install -e '.[dev,lab]'"
    return ""
