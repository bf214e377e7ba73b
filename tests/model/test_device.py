"""The variable that sends MLX to the CPU, for machines whose Metal is not a Mac's."""

import os
import subprocess
import sys

import pytest

SEES = (
    "import mlx.core as mx; sent = []; mx.set_default_device = sent.append;"
    "from pixtral_mlx.model.attention import attend; print(sent)"
)


@pytest.mark.parametrize(("value", "sent"), [("1", "[DeviceType.cpu]"), ("", "[]")])
def test_a_variable_sends_mlx_to_the_cpu(value, sent):
    environment = os.environ | {"PIXTRAL_MLX_CPU": value}
    done = subprocess.run(
        [sys.executable, "-c", SEES], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == sent, done.stderr
