"""The widgets' JavaScript under node's own test runner; skipped where there is no node."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pixtral_mlx_widgets import bundle

TESTS = sorted((Path(__file__).parent / "js").glob("*.test.mjs"))


@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.name.removesuffix(".test.mjs"))
def test_in_node(file):
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed: the widgets' JavaScript is not tested")
    environment = os.environ | {"STATIC": str(bundle.STATIC), "LD_PRELOAD": ""}
    done = subprocess.run(
        [node, "--test", "--experimental-default-type=module", str(file)],
        capture_output=True, text=True, timeout=120, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert re.search(r"pass [1-9]", done.stdout), "no test ran"
