"""The steps of a prefill: as many tokens as asked for, fewer where a GPU takes too long."""

import time
from itertools import pairwise

import mlx.core as mx
import pytest

import pixtral_mlx as px
from pixtral_mlx import cli
from pixtral_mlx.cli import generate
from pixtral_mlx.cost.cost import decoder_operations, prefill_operations
from pixtral_mlx.cost.pace import FEWEST_TOKENS, STEP_SECONDS, Pace, expected_seconds, run_seconds
from pixtral_mlx.model import device
from pixtral_mlx.model.config import PIXTRAL_12B

TEXT = PIXTRAL_12B.text


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still unless told otherwise: `clock(seconds)` moves it."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def move(seconds):
        now[0] += seconds

    return move


def steps(pace, tokens, clock, seconds_per_token):
    """The sizes of the steps, after checking that they cover every position once."""
    parts = []
    for part in pace.parts(tokens):
        parts.append(part)
        clock(seconds_per_token * (part.stop - part.start))
    assert [0, *(p.stop for p in parts)] == [*(p.start for p in parts), tokens]
    return [part.stop - part.start for part in parts]


@pytest.mark.parametrize("gpu", [False, True])
def test_steps_that_are_fast_enough_stay_as_they_are(clock, gpu):
    with device.assumed(gpu=gpu):
        assert steps(Pace(TEXT, 512), 1300, clock, STEP_SECONDS / 512) == [512, 512, 276]
        assert steps(Pace(TEXT, 7), 20, clock, 0.0) == [7, 7, 6]
        assert steps(Pace(TEXT, 7), 0, clock, 0.0) == []


@pytest.mark.parametrize("seconds", [0.006, 0.01, 0.02, 0.05, 1.0])
def test_a_step_that_keeps_a_gpu_too_long_is_halved(clock, seconds):
    """Until it is short enough, or so small that the weights would be read too often."""
    with device.assumed(gpu=False):
        assert steps(Pace(TEXT, 512), 1024, clock, seconds) == [512, 512]
    with device.assumed(gpu=True):
        sizes = steps(Pace(TEXT, 512), 4096, clock, seconds)
    assert sizes[0] == 512  # the first is not known yet
    after = max(sizes[1:])
    assert after * seconds <= STEP_SECONDS or after == FEWEST_TOKENS
    assert 2 * after * seconds > STEP_SECONDS
    assert all(one >= other for one, other in pairwise(sizes))


@pytest.mark.parametrize(("chip", "size"), [("M1", 128), ("M3 Pro", 256), ("M4 Max", 512)])
def test_slow_chips_begin_with_smaller_steps(monkeypatch, chip, size):
    monkeypatch.setattr(mx, "device_info", lambda: {"device_name": f"Apple {chip}"})
    with device.assumed(gpu=True):
        assert Pace(TEXT, 512).size == size
        assert expected_seconds(TEXT, size) <= STEP_SECONDS
        assert size == 512 or expected_seconds(TEXT, 2 * size) > STEP_SECONDS
    with device.assumed(gpu=False):
        assert Pace(TEXT, 512).size == 512


def test_an_answer_is_the_same_in_smaller_steps(model, monkeypatch):
    """In all three places that read a prompt."""
    prompt = px.Prompt([1, *range(300, 499)])
    whole = model.generate(prompt, max_tokens=8, reuse=False)
    ticks = iter(range(10**6))
    monkeypatch.setattr(time, "perf_counter", lambda: 3.0 * next(ticks))  # 3 s a step at least
    with device.assumed(gpu=True):
        done = []
        reply = model.generate(
            prompt, max_tokens=8, reuse=False, prefill_step_size=64,
            progress=lambda now, _: done.append(now),
        )  # fmt: skip
        assert done == [0, 64, 96, 128, 160, 192, 200]
        (batched,) = model.generate_batch([prompt], max_tokens=8, reuse=False, prefill_step_size=64)
        assert reply.tokens == batched.tokens == whole.tokens
        read = []
        px.read_answer(model, prompt, whole.tokens * 100, progress=lambda now, _: read.append(now))
        assert [later - now for now, later in pairwise(read)][:2] == [256, 128]


def test_what_metal_says_comes_with_what_helps(monkeypatch, capsys):
    def ended(_):
        raise RuntimeError(
            "[METAL] Command buffer execution failed: Impacting Interactivity "
            "(0000000e:kIOGPUCommandBufferCallbackErrorImpactingInteractivity)"
        )

    monkeypatch.setattr(generate, "run", ended)
    assert cli.main(["generate", "--prompt", "?"]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "Impacting Interactivity" in said
    assert "--prefill-step-size" in said and "display" in said
    assert device.remedy("[METAL] Command buffer execution failed: Caused GPU Timeout Error")
    assert device.remedy("Impacting Interactivity") == device.remedy("[METAL] Other") == ""


def test_a_run_takes_its_prefill_and_its_steps():
    def seconds(**changed):
        given = {"step_bytes": 1e9, "steps": 10, "per_second": 1e12, "bandwidth": 1e11}
        return run_seconds(PIXTRAL_12B, 1000, [(64, 64)], **given | changed)

    prefill = prefill_operations(PIXTRAL_12B, 1000, [(64, 64)]) / 1e12
    step = decoder_operations(PIXTRAL_12B.text, 1) / 1e12
    assert seconds(steps=0) == pytest.approx(prefill)
    assert seconds() == pytest.approx(prefill + 10 * step)  # arithmetic takes longer
    assert seconds(bandwidth=1e10) == pytest.approx(prefill + 10 * 0.1)  # reading does
