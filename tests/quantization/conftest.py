"""What is converted."""

import checkpoints
import pytest


@pytest.fixture(scope="session")
def official(tmp_path_factory):
    """The weights of `folder` in bfloat16. All tests share it: only read it."""
    return checkpoints.make_official(tmp_path_factory.mktemp("official"), dtype="bfloat16")
