"""The widgets' JavaScript under node's own test runner; skipped where there is no node."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from views import scripts

TESTS = sorted((Path(__file__).parent / "js").glob("*.test.mjs"))


@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.name.removesuffix(".test.mjs"))
def test_in_node(file, tmp_path):
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed: the widgets' JavaScript is not tested")
    environment = os.environ | {"STATIC": str(scripts(tmp_path / "static")), "LD_PRELOAD": ""}
    done = subprocess.run(
        [node, "--test", "--experimental-default-type=module", str(file)],
        capture_output=True, text=True, timeout=120, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert re.search(r"pass [1-9]", done.stdout), "no test ran"
