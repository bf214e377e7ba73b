"""Attention a few queries at a time: the same numbers, and memory that does not grow with them."""

import mlx.core as mx
import numpy as np
import pytest
from checkpoints import make_official

import pixtral_mlx as px
from pixtral_mlx.engine.capacity import kv_bytes_per_token
from pixtral_mlx.model import attention, device
from pixtral_mlx.model.attention import attend
from pixtral_mlx.model.rope import Rope2D

HEADS, KV_HEADS, WIDTH = 4, 2, 32


def inputs(queries, keys, batch=2):
    shapes = [(batch, HEADS, queries, WIDTH), *[(batch, KV_HEADS, keys, WIDTH)] * 2]
    return [mx.random.normal(shape, key=mx.random.key(n)) for n, shape in enumerate(shapes)]


def naive(queries, keys, values, scale, mask):
    """By the definition, in float64."""
    q, k, v = (np.array(a, np.float64) for a in (queries, keys, values))
    k, v = (np.repeat(a, HEADS // KV_HEADS, axis=1) for a in (k, v))
    scores = q @ k.swapaxes(-1, -2) * scale
    if isinstance(mask, str):
        first = k.shape[2] - q.shape[2]
        seen = np.arange(k.shape[2]) <= first + np.arange(q.shape[2])[:, None]
        scores = np.where(seen, scores, -np.inf)
    elif mask is not None and mask.dtype == mx.bool_:
        scores = np.where(np.array(mask), scores, -np.inf)
    elif mask is not None:
        scores = scores + np.array(mask)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True) @ v


def masks(queries, keys):
    rows = np.random.RandomState(0)
    seen = rows.rand(2, 1, queries, keys) < 0.5
    seen[..., 0] = True
    yield from (None, "causal", mx.array(seen), mx.array(seen[0, 0]))
    yield mx.array(rows.standard_normal((1, 1, queries, keys)).astype(np.float32))


@pytest.mark.parametrize("kind", range(5))
@pytest.mark.parametrize(("queries", "keys"), [(50, 50), (50, 90), (9, 90), (1, 90)])
def test_blocks_are_the_definition(monkeypatch, kind, queries, keys):
    monkeypatch.setattr(attention, "SCORES_AT_ONCE", 1000)  # 8 queries at once
    arrays, mask = inputs(queries, keys), list(masks(queries, keys))[kind]
    for gpu in (False, True):
        with device.assumed(gpu=gpu):
            found = attend(*arrays, scale=0.3, mask=mask)
        np.testing.assert_allclose(found, naive(*arrays, 0.3, mask), atol=2e-5)


@pytest.mark.parametrize("mask", [None, "causal"])
@pytest.mark.parametrize("queries", [1, 8, 60])
def test_a_quantized_cache_read_as_words_or_as_numbers(queries, mask):
    from mlx_lm.models.cache import QuantizedKVCache

    cache = QuantizedKVCache(32, 8)
    one, keys, values = inputs(queries, 60)
    held = cache.update_and_fetch(keys, values)
    rounded = [mx.dequantize(*mx.quantize(a, 32, 8), 32, 8) for a in (keys, values)]
    found = attend(one, *held, scale=0.3, mask=mask, cache=cache)
    np.testing.assert_allclose(found, naive(one, *rounded, 0.3, mask), atol=2e-5)


def test_gradients_flow_through_blocks(monkeypatch):
    arrays = inputs(40, 40, batch=1)

    def total(*arrays):
        return (attend(*arrays, scale=0.3, mask="causal") ** 2).sum()

    whole = mx.grad(total, argnums=(0, 1, 2))(*arrays)
    monkeypatch.setattr(attention, "SCORES_AT_ONCE", 1000)
    for one, other in zip(mx.grad(total, argnums=(0, 1, 2))(*arrays), whole, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


ON_A_CPU = pytest.mark.skipif(
    mx.default_device() != mx.Device(mx.cpu), reason="a GPU works in tiles"
)


@ON_A_CPU
@pytest.mark.parametrize("mask", [None, "causal"])
def test_the_scores_of_a_layer_are_never_there(monkeypatch, mask):
    monkeypatch.setattr(attention, "SCORES_AT_ONCE", 2**15)

    def peak(length):
        arrays = inputs(length, length, batch=1)
        mx.eval(arrays)
        mx.clear_cache()
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        mx.eval(attend(*arrays, scale=0.3, mask=mask))
        return mx.get_peak_memory() - before

    scores = 4 * HEADS * 1024 * 1024
    assert peak(1024) < 0.2 * scores
    with device.assumed(gpu=True):  # one call for all, which is for GPUs
        assert peak(1024) >= scores


@ON_A_CPU
def test_the_peak_of_a_prefill_grows_with_the_kv_cache_alone(monkeypatch, tmp_path):
    """Per token of the prompt at most twice its keys and values (a cache that grows is copied);
    neither scores nor the logits of a step (8 MB, one position is enough) are ever held."""
    sizes = {"dim": 64, "n_layers": 8, "n_heads": 8, "n_kv_heads": 1, "head_dim": 32}
    folder = make_official(tmp_path / "long", text={**sizes, "hidden_dim": 128, "vocab_size": 8000})
    model = px.load(folder, dtype="float32")
    mx.eval(model.parameters())
    per_token = kv_bytes_per_token(model.config.text, 4)

    def peak(length):
        prompt = px.Prompt([1, *(300 + n % 100 for n in range(length - 1))])
        mx.clear_cache()
        before = mx.get_active_memory()
        options = {"max_tokens": 1, "reuse": False, "prefill_step_size": 256}
        return model.generate(prompt, **options).stats.peak_bytes - before

    monkeypatch.setattr(attention, "SCORES_AT_ONCE", 2**14)
    peak(300)
    short, long = peak(512), peak(1536)
    assert long - short < 2 * 1024 * per_token
    assert short < 512 * per_token + 3_000_000
    monkeypatch.setattr(attention, "SCORES_AT_ONCE", 2**30)
    assert peak(1536) - peak(512) > 4 * 1024 * per_token


def test_the_encoder_gives_its_states_layer_by_layer(model):
    """Computed one after the other or all at the end: the same bits."""
    rng = np.random.RandomState(0)
    sizes = [(32, 48), (16, 16), (640, 640), (16, 32)]  # the large one is a group of its own
    images = [rng.standard_normal((3, *size)).astype(np.float32) for size in sizes]
    encoder = model.vision_encoder
    steps = []
    for hidden in encoder.steps(images):
        mx.eval(hidden)
        steps.append(hidden)
    layers, groups = model.config.vision.num_hidden_layers, 3
    assert len(steps) == groups * layers + 1
    patches = [h * w // 256 for h, w in sizes]
    assert [s.shape[0] for s in steps[::layers]] == [patches[0] + 1, *patches[2:], sum(patches)]
    np.testing.assert_array_equal(steps[-1], encoder(images))
    with pytest.raises(px.ImageError, match="given no picture"):
        encoder([])


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16], ids=str)
def test_turning_pairs_in_one_operation_changes_no_bit(dtype):
    queries = mx.random.normal((1, 3, 40, 32), key=mx.random.key(1)).astype(dtype)
    angles = mx.random.uniform(-60, 60, (40, 16), key=mx.random.key(2))
    cosine, sine = mx.cos(angles), mx.sin(angles)
    x, y = (queries[..., at::2].astype(mx.float32) for at in (0, 1))
    plain = mx.stack([x * cosine - y * sine, y * cosine + x * sine], axis=-1)
    turned = Rope2D.rotate(queries, cosine, sine)
    assert turned.dtype == dtype
    assert mx.array_equal(turned, plain.reshape(queries.shape).astype(dtype))
