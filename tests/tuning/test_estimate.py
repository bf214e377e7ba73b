"""What is said before a training begins: that it does not fit, or holds a GPU too long."""

import re
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest

import pixtral_mlx as px
from pixtral_mlx.errors import CapacityError
from pixtral_mlx.model import device
from pixtral_mlx.model.config import PIXTRAL_12B
from pixtral_mlx.tuning import estimate
from pixtral_mlx.tuning.dataset import Example
from pixtral_mlx.tuning.options import TuningOptions
from pixtral_mlx.tuning.tune import tune


def test_what_does_not_fit_is_refused_before_it_starts(rows, tmp_path, monkeypatch):
    monkeypatch.setattr(estimate, "usable_bytes", lambda: 12_000_000)
    with pytest.raises(CapacityError, match=r"a batch of 64 rows .* --batch-size \d+"):
        tune(px.load("mini", "float32"), rows, tmp_path / "a", batch_size=64)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("chip", "options", "said"),
    [
        ("M1", {"batch_size": 1}, r"of 1 rows .* for about \d+ s,.*: --image-budget makes"),
        ("M4 Max", {}, r"of 8 rows of up to 200 .*: --batch-size \d --grad-acc.* or --image-bud"),
        ("M4 Max", {"batch_size": 1}, ""),
        ("?", {}, ""),
    ],
)
def test_batches_that_hold_a_gpu_too_long_are_named(monkeypatch, caplog, chip, options, said):
    """With a size that does not, if there is one; nothing of an unknown chip, nor of a CPU."""
    monkeypatch.setattr(mx, "device_info", lambda: {"device_name": f"Apple {chip}"})
    tokens = np.zeros(2000 if chip == "M1" else 200, np.int32)
    model, rows = SimpleNamespace(config=PIXTRAL_12B), [Example("", tokens, (), (), 0)]
    for gpu in (False, True):
        assert not caplog.text
        with device.assumed(gpu=gpu):
            estimate.warn_of_long_batches(model, rows, TuningOptions(**options))
    assert re.search(said, caplog.text) if said else not caplog.text
    if "--batch-size" in said:
        size = int(re.search(r"--batch-size (\d+)", caplog.text).group(1))
        caplog.clear()
        with device.assumed(gpu=True):
            estimate.warn_of_long_batches(model, rows, TuningOptions(batch_size=size))
            assert not caplog.text
            estimate.warn_of_long_batches(model, rows, TuningOptions(batch_size=size + 1))
            assert caplog.text
