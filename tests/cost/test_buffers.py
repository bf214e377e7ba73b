"""MLX's buffers while something runs: bounded, and left as they were found."""

import gc
import threading

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image

import pixtral_mlx as px
from pixtral_mlx.cost import buffers
from pixtral_mlx.cost.buffers import bounded_buffers

LARGE, BOUND = 2**30, 2**16


@pytest.fixture(scope="module")
def grey():
    return Image.fromarray(np.full((120, 160, 3), 90, np.uint8))


@pytest.fixture(autouse=True)
def limits(monkeypatch):
    """A small bound, and a large limit that MLX has before."""
    monkeypatch.setattr(buffers, "BUFFER_BYTES", BOUND)
    before = mx.set_cache_limit(LARGE)
    yield
    mx.set_cache_limit(before)
    mx.clear_cache()


def limit():
    now = mx.set_cache_limit(0)
    mx.set_cache_limit(now)
    return now


def fill():
    """Free buffers that MLX would keep."""
    mx.eval([mx.zeros(2**18) + n for n in range(4)])
    return mx.get_cache_memory()


def test_what_mlx_keeps_without_a_bound():
    mx.clear_cache()
    assert fill() > BOUND
    with bounded_buffers():
        assert fill() <= BOUND


@pytest.mark.parametrize("options", [{}, {"trace": True}, {"prompt_lookup_num_tokens": 4}])
def test_a_run_keeps_within_the_bound(model, grey, options):
    stream = model.stream("What?", images=[grey] * 2, max_tokens=6, reuse=False, **options)
    assert limit() == LARGE  # nothing has begun
    for _ in stream:
        assert limit() == BOUND and mx.get_cache_memory() <= BOUND
    assert limit() == LARGE


def test_whatever_ends_a_run_puts_the_limit_back(model, grey):
    for end in (lambda stream: stream.interrupt(), lambda stream: None):
        stream = model.stream("What?", max_tokens=50, reuse=False)
        next(stream)
        assert limit() == BOUND
        end(stream)
        del stream
        gc.collect()
        assert limit() == LARGE
    model_fails = px.load("mini")
    model_fails.decoder.norm.weight = model_fails.decoder.norm.weight * float("nan")
    with pytest.raises(px.CheckpointError):
        model_fails.generate("What?")
    assert limit() == LARGE


def test_the_last_of_several_puts_the_limit_back(model):
    first, second = (model.stream(t, max_tokens=50, reuse=False) for t in ("What?", "Why?"))
    next(first), next(second)
    first.interrupt()
    assert limit() == BOUND
    second.interrupt()
    assert limit() == LARGE


def test_batches_comparisons_and_occlusion_are_bounded_too(model, grey):
    seen = []

    class Seen(px.edits.SkipLayers):
        def change(self, *arguments):
            seen.append(limit())
            return super().change(*arguments)

    for _ in model.stream_batch(["What?", "Why?"], max_tokens=3):
        assert limit() == BOUND
    assert limit() == LARGE
    prompt = model.encode("What?", [grey])
    edit = Seen("text", [0])
    px.compare_runs(model, prompt, [30, 31], [edit])
    assert seen[-1] == BOUND
    seen.clear()
    model.occlusion(prompt, 0, [0], tokens=[30], edits=[edit])
    assert seen[-1] == BOUND and limit() == LARGE


def test_a_lower_limit_stays_and_a_new_one_too(model):
    mx.set_cache_limit(1000)
    stream = model.stream("What?", max_tokens=50, reuse=False)
    next(stream)
    assert limit() == 1000
    mx.set_cache_limit(2000)  # somebody's, in the middle of a run
    stream.interrupt()
    assert limit() == 2000


def test_many_threads_leave_the_limit_as_it_was():
    start = threading.Barrier(8)

    def work():
        start.wait()
        for _ in range(300):
            with bounded_buffers():
                pass

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert buffers._runs == 0 and limit() == LARGE
