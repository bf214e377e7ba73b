"""A real JupyterLab in a real browser, for the widgets' tests."""

import pytest
from browsers import needed_browser


@pytest.fixture(scope="session")
def lab(tmp_path_factory, playwright):
    """A `Lab` that all tests of one process share."""
    browser = needed_browser("jupyterlab")
    from browser_lab import Lab

    with Lab(tmp_path_factory.mktemp("lab"), browser, playwright) as lab:
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
