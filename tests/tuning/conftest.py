"""A model of pixtral-mini that has learned from a few rows."""

import pytest
from tuning_rows import OPTIONS, write_rows

import pixtral_mlx as px
from pixtral_mlx.tuning.tune import tune


@pytest.fixture(scope="session")
def rows(tmp_path_factory):
    """A folder of train.jsonl and valid.jsonl. All tests share it: only read it."""
    folder = write_rows(tmp_path_factory.mktemp("rows"), range(20, 30))
    return write_rows(folder, range(40, 44), "valid")


@pytest.fixture(scope="session")
def taught(rows, tmp_path_factory):
    """What a short training left, and its report."""
    return tune(px.load("mini", "float32"), rows, tmp_path_factory.mktemp("t") / "a", **OPTIONS)
