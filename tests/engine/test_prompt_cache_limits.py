"""Reuse between calls where memory ends, weights change, or an answer is interrupted."""

import threading

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from questions import noise
from reuse import NEW, check, common, prompt_rest

import pixtral_mlx as px
from pixtral_mlx.interpret.recorder import TraceOptions
from pixtral_mlx.model.kv_cache import KVFormat

# Bytes -----------------------------------------------------------------------------------------


def test_the_least_recently_used_goes_first(model):
    prompts = [model.encode(letter * 8) for letter in "abc"]
    model.generate(prompts[0], max_tokens=1)
    model.prompt_cache.max_bytes = int(2.6 * model.prompt_cache.nbytes)
    model.generate(prompts[1], max_tokens=1)
    model.generate(prompts[0], max_tokens=1)  # used again: the other one is the oldest now
    model.generate(prompts[2], max_tokens=1)
    assert len(model.prompt_cache) == 2
    assert model.prompt_cache.nbytes <= model.prompt_cache.max_bytes
    shared = common(prompts[0].tokens, prompts[1].tokens)
    cached = [model.generate(prompts[n], max_tokens=1).stats.cached_tokens for n in (0, 2)]
    assert cached == [len(prompts[n].tokens) - 1 for n in (0, 2)]
    assert model.generate(prompts[1], max_tokens=1).stats.cached_tokens == shared


def test_a_short_conversation_takes_as_much_as_it_is_long(model):
    """mlx-lm's caches have 256 positions at least, which are shared with what is cut from them."""
    model.generate("What is this?", max_tokens=2)  # what belongs to the model itself is there now
    model.clear_cache()
    mx.clear_cache()
    before, kv = mx.get_active_memory(), KVFormat()
    prompts = [model.encode(f"{n} is it?") for n in "abcd"]
    for prompt in prompts:
        model.generate(prompt, max_tokens=1)
    tokens = sum(len(prompt.tokens) for prompt in prompts)  # nobody has read what was written
    each = kv.bytes_per_token(model.config.text, itemsize=4)
    assert model.prompt_cache.nbytes == tokens * each
    mx.clear_cache()
    assert mx.get_active_memory() - before < 2 * tokens * each


def test_nothing_is_kept_without_room(model):
    prompt = model.encode("What is this?", [noise(0)])
    model.prompt_cache.max_bytes = 0
    check(model, prompt, 0)
    check(model, prompt, 0)
    assert model.prompt_cache.nbytes == 0


def test_a_lower_limit_is_kept_to_at_once_on_any_thread(model):
    cache = model.prompt_cache
    for number in range(4):
        model.generate("What is this?", images=[noise(number)], max_tokens=2)
    most = cache.nbytes // 2
    assert len(cache) > 2
    cache.max_bytes = most
    assert 0 < cache.nbytes <= most
    over, went = threading.Event(), []

    def lower():
        number = 0
        while not over.is_set():
            number += 1
            cache.max_bytes = most * (number % 3) // 2
            went.append(cache.nbytes <= most)

    thread = threading.Thread(target=lower)
    thread.start()
    for number in range(12):
        prompt = model.encode("What is this?", [noise(number % 3)])
        alone = model.generate(prompt, max_tokens=4, reuse=False).tokens
        assert model.generate(prompt, max_tokens=4).tokens == alone
    over.set()
    thread.join()
    assert all(went) and len(went) > 2
    cache.max_bytes = 0
    assert cache.nbytes == 0


def test_clear_cache_gives_the_memory_back(model):
    prompt = model.encode("What is this?", [noise(0)])
    mx.clear_cache()
    before = mx.get_active_memory()
    model.generate(prompt, max_tokens=2)
    assert model.prompt_cache.nbytes > 10_000
    assert mx.get_active_memory() >= before + model.prompt_cache.nbytes * 0.9
    model.clear_cache()
    assert model.prompt_cache.nbytes == len(model.prompt_cache) == 0
    assert mx.get_active_memory() <= before + 2000
    check(model, prompt, 0)


def test_what_is_kept_goes_before_a_run_is_refused(model, monkeypatch):
    from pixtral_mlx.engine.capacity import need_of

    prompt, other = model.encode("What is this?"), model.encode("Where was that?")
    model.generate(prompt, max_tokens=1)
    room = need_of(model, other, NEW).total
    monkeypatch.setattr("pixtral_mlx.engine.capacity.usable_bytes", lambda: room)
    assert len(model.prompt_cache) == 1
    stream = model.stream(other, max_tokens=NEW)
    next(stream)
    assert len(model.prompt_cache) == 0
    stream.interrupt()
    with pytest.raises(px.CapacityError):
        model.generate(other, max_tokens=3 * NEW)


def test_what_is_kept_makes_room_for_a_trace_too(model, monkeypatch):
    from pixtral_mlx.engine.capacity import need_of

    prompt, other = model.encode("What is this?"), model.encode("Where was that?")
    model.generate(prompt, max_tokens=1)
    need = need_of(model, other, 300, trace=TraceOptions())
    assert 0 < model.prompt_cache.nbytes < need.kept
    monkeypatch.setattr("pixtral_mlx.engine.capacity.usable_bytes", lambda: need.total)
    next(model.stream(other, max_tokens=300, trace=True))
    assert len(model.prompt_cache) == 0


def test_replaced_weights_are_noticed(folder):
    model = px.load(folder, dtype="float32")
    prompt = model.encode("What is this?", [noise(0)])
    model.generate(prompt, max_tokens=2)
    model.decoder.layers[0].attention.wv.weight = model.decoder.layers[0].attention.wv.weight * 2
    check(model, prompt, 0)
    nn.quantize(model.projector, group_size=32)
    check(model, prompt, 0)
    check(model, prompt, len(prompt.tokens) - 1)


def test_an_answer_begun_before_the_cache_was_emptied_is_not_kept(folder):
    model = px.load(folder, dtype="float32")
    prompt = model.encode("What is this?", [noise(0)])
    stream = model.stream(prompt, max_tokens=4)
    next(stream)
    model.decoder.layers[0].attention.wv.weight = model.decoder.layers[0].attention.wv.weight * 2
    model.generate("Hello", max_tokens=1)
    stream.interrupt()
    check(model, prompt, 2)  # what "Hello" left: the beginning of every prompt


# Interruptions ---------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [5, 10, 15])
def test_an_interrupted_prefill_keeps_what_was_computed(model, after):
    prompt = model.encode("What is this?", [noise(0)])

    def progress(done, total):
        if done == after:
            raise KeyboardInterrupt

    reply = model.generate(prompt, max_tokens=NEW, prefill_step_size=5, progress=progress)
    assert reply.finish_reason == "interrupted"
    check(model, prompt, after)  # in the middle of the image


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("call", [1, 2, 4, 6, 8])
def test_an_interrupt_inside_a_step_keeps_no_half_written_position(model, monkeypatch, layer, call):
    """Ctrl-C may strike between two layers, whose caches then have different lengths."""
    from mlx_lm.models.cache import KVCache

    prompt = model.encode("What is this?", [noise(0)])
    count, update = [0], KVCache.update_and_fetch

    def strike(cache, keys, values):
        count[0] += 1
        if count[0] == 3 * (call - 1) + layer + 1:
            cache.offset += keys.shape[2]  # counted, and not written
            raise KeyboardInterrupt
        return update(cache, keys, values)

    with monkeypatch.context() as patched:
        patched.setattr(KVCache, "update_and_fetch", strike)
        reply = model.generate(prompt, max_tokens=NEW, prefill_step_size=8)
    assert reply.finish_reason == "interrupted"
    again = model.generate(prompt, max_tokens=NEW)
    alone = model.generate(prompt, max_tokens=NEW, reuse=False)
    assert again.stats.cached_tokens == min(8 * (call - 1), len(prompt.tokens) - 1)
    assert again.tokens == alone.tokens
    np.testing.assert_allclose(again.logprobs, alone.logprobs, atol=1e-5)


def test_a_stopped_answer_is_kept_as_far_as_it_went(model):
    prompt = model.encode("What is this?", [noise(0)])
    stream = model.stream(prompt, max_tokens=50)
    tokens = [next(stream).token for _ in range(3)]
    stream.interrupt()
    longer = px.Prompt(prompt.tokens + tokens + [120, 4], *prompt_rest(prompt))
    check(model, longer, len(prompt.tokens) + 3)


def test_what_a_broken_computation_left_is_dropped(model):
    prompt = model.encode("What is this?", [noise(0)])

    def progress(done, total):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError):
        model.generate(prompt, max_tokens=2, progress=progress)
    assert len(model.prompt_cache) == 0
    # A mistake in the request is no reason to forget what is there.
    check(model, prompt, 0)
    with pytest.raises(ValueError, match="logit_bias"):
        model.generate(prompt, logit_bias={99999: 1.0})
    check(model, prompt, len(prompt.tokens) - 1)
