"""The widgets' JavaScript under node's own test runner; skipped where there is no node."""

import re
from pathlib import Path

import pytest
from views import in_node, scripts

TESTS = sorted((Path(__file__).parent / "js").glob("*.test.mjs"))


@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.name.removesuffix(".test.mjs"))
def test_in_node(file, tmp_path):
    done = in_node(file, scripts(tmp_path / "static"))
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert re.search(r"pass [1-9]", done.stdout), "no test ran"
