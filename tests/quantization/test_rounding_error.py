"""Errors of single matrices, quantized copies, and where two answers part."""

import dataclasses

import checkpoints
import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

import pixtral_mlx as px
from pixtral_mlx.errors import CheckpointError, ConfigError
from pixtral_mlx.mini import scene
from pixtral_mlx.model import device
from pixtral_mlx.quantization import rounding
from pixtral_mlx.quantization.conversion import convert
from pixtral_mlx.quantization.rounding import dequantized
from pixtral_mlx.quantization.rounding_error import together

SCHEMES = [{"bits": 2}, {"bits": 4, "group_size": 32}, {"mode": "mxfp4"}, {"mode": "nvfp4"}]


@pytest.fixture(scope="module")
def stored():
    """Pixtral-mini as it is stored, in bfloat16."""
    return px.load("mini")


def naive_affine(weights, bits, group):
    """Rounding as MLX defines it, written out: the scale goes through the end that is farther from
    zero, so that zero stays zero or nearly so."""
    grouped = weights.reshape(-1, group)
    low, high = grouped.min(axis=1, keepdims=True), grouped.max(axis=1, keepdims=True)
    mask = np.abs(low) > np.abs(high)
    scale = np.maximum((high - low) / (2**bits - 1), 1e-7)
    scale = np.where(mask, scale, -scale)
    edge = np.where(mask, low, high)
    steps = np.round(edge / scale)
    zero = steps == 0
    scale = np.where(zero, scale, edge / np.where(zero, 1, steps))
    bias = np.where(zero, 0, edge)
    rounded = np.clip(np.round((grouped - bias) / scale), 0, 2**bits - 1)
    return (rounded * scale + bias).reshape(weights.shape)


@pytest.mark.parametrize("bits", (2, 4, 8))
def test_errors_are_those_of_rounding_by_hand(mini, bits):
    arrays = dict(tree_flatten(mini.parameters()))
    found = list(px.quantization_errors(mini, bits=bits, dtype="float32"))
    assert len(found) == 5 * 7 + 2 + 2
    for one in found:
        weights = np.array(arrays[one.name]).astype(np.float64)
        difference = naive_affine(weights, bits, 64) - weights
        by_hand = np.linalg.norm(difference) / np.linalg.norm(weights)
        assert one.error == pytest.approx(by_hand, rel=0.01), one.name
        assert one.norm == pytest.approx(np.linalg.norm(weights), rel=1e-5)
        rows, columns = weights.shape
        assert one.bytes_before == 4 * rows * columns
        assert one.bytes_after == rows * columns * bits // 8 + 2 * 4 * rows * columns // 64


def test_a_folder_and_a_model_have_the_errors_that_a_conversion_reports(stored, tmp_path):
    reported = convert("mini", tmp_path / "four", bits=4).errors
    for source in (stored, "mini"):
        for one in px.quantization_errors(source, bits=4):
            # Sums over rows in another order differ in the last digits.
            assert one.error == pytest.approx(reported[one.name], rel=1e-5), one.name


def test_slices_change_nothing(stored, monkeypatch):
    whole = list(px.quantization_errors("mini", bits=4))
    monkeypatch.setattr(rounding, "SLICE_BYTES", 5000)
    for source in ("mini", stored):
        cut = list(px.quantization_errors(source, bits=4))
        assert [e.name for e in cut] == [e.name for e in whole]
        assert [e.error for e in cut] == pytest.approx([e.error for e in whole], rel=1e-5)


def test_names_say_where_a_matrix_stands(stored):
    found = {
        (e.part, e.layer, e.kind): e for e in px.quantization_errors(stored, bits=4, vision_bits=8)
    }
    assert found["text", 4, "w2"].name == "decoder.layers.4.feed_forward.w2.weight"
    assert found["vision", 3, "wq"].scheme.bits == 8
    assert ("text", None, "tok_embeddings") in found and ("projector", None, "w_in") in found
    assert sorted(e.index for e in found.values()) == list(range(len(found)))
    assert {e.count for e in found.values()} == {len(found)}


def test_several_matrices_together_are_one_long_matrix(stored):
    arrays = dict(tree_flatten(stored.parameters()))
    some = [e for e in px.quantization_errors(stored, bits=3) if e.layer == 1]
    difference = whole = 0.0
    for one in some:
        weights = arrays[one.name]
        weight, *rest = mx.quantize(weights, bits=3, group_size=64)
        rest = [part.astype(mx.float32) for part in rest]  # as kernels multiply them
        back = np.array(mx.dequantize(weight, *rest, bits=3, group_size=64), np.float64)
        exact = np.array(weights.astype(mx.float32), np.float64)
        difference, whole = difference + ((back - exact) ** 2).sum(), whole + (exact**2).sum()
    assert together(some) == pytest.approx((difference / whole) ** 0.5, rel=1e-5)
    assert together([]) == 0


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("group_size", [32, 128])
def test_weights_come_back_as_mlx_gives_them_back(bits, group_size):
    weights = mx.random.normal((6, 256)).astype(mx.bfloat16)
    how = {"bits": bits, "group_size": group_size, "mode": "affine"}
    weight, scales, biases = parts = mx.quantize(weights, **how)
    expected = mx.dequantize(weight, scales.astype(mx.float32), biases.astype(mx.float32), **how)
    for gpu in (False, True):  # unpacked by NumPy, and by MLX
        with device.assumed(gpu=gpu):
            found = dequantized(list(parts), how)
        assert found.dtype == np.float32 and found.shape == (6, 256)
        assert found == pytest.approx(np.array(expected), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("options", SCHEMES, ids=str)
def test_a_copy_is_what_a_conversion_gives(tmp_path, options):
    source = checkpoints.make_official(
        tmp_path / "a", dtype="bfloat16", vision={"adapter_bias": False}
    )
    convert(source, tmp_path / "b", **options)
    copy, loaded = px.quantized_copy(px.load(source), **options), px.load(tmp_path / "b")
    ours, theirs = dict(tree_flatten(copy.parameters())), dict(tree_flatten(loaded.parameters()))
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        assert ours[name].dtype == array.dtype, name
        assert bool(mx.array_equal(ours[name], array)), name
    compared = px.quantization_errors(source, quantized=loaded)
    rounded = px.quantization_errors(source, **options)
    for one, other in zip(compared, rounded, strict=True):
        assert one == other


def test_what_cannot_be_measured_is_said_at_once(stored):
    copy = px.quantized_copy(stored, bits=4)
    with pytest.raises(CheckpointError, match="already quantized"):
        px.quantization_errors(copy, bits=4)
    with pytest.raises(CheckpointError, match="already quantized"):
        px.quantized_copy(copy, bits=4)
    with pytest.raises(CheckpointError, match="not quantized"):
        px.quantization_errors(stored, quantized=stored)
    with pytest.raises(ValueError, match="not both"):
        px.quantization_errors(stored, quantized=copy, bits=4)
    with pytest.raises(ValueError, match=r"^bits must be 2, 3, 4, 5, 6, 8, 16 or None, got 7$"):
        px.quantization_errors(stored, bits=7)
    with pytest.raises(ConfigError, match="nothing can be quantized"):
        px.quantization_errors(small_widths(stored.config), bits=4)


def small_widths(config):
    narrow = dataclasses.replace(config.text, dim=24, hidden_dim=40, n_heads=1, n_kv_heads=1)
    return px.Pixtral(dataclasses.replace(config, text=narrow, vision=None))


def test_another_model_is_refused(stored, tmp_path):
    other = px.load(checkpoints.make_official(tmp_path / "a", dtype="bfloat16"))
    with pytest.raises(CheckpointError, match="other sizes"):
        list(px.quantization_errors(stored, quantized=px.quantized_copy(other, bits=4)))


def test_damaged_weights_are_named(stored, tmp_path):
    damaged = px.load("mini")
    weights = damaged.decoder.layers[1].attention.wv.weight
    weights[3, 5] = float("nan")
    with pytest.raises(CheckpointError, match=r"decoder\.layers\.1\.attention\.wv.*NaN"):
        list(px.quantization_errors(damaged, bits=4))


# Answers --------------------------------------------------------------------------------------


def test_divergence_of_two_models_is_the_kl_of_their_logits(mini):
    rough = px.quantized_copy(mini, bits=2)
    prompt = mini.encode("Where is the red star?", [scene(3, 4, 5).image])
    tokens = mini.generate(prompt).tokens
    found = px.compare_runs(mini, prompt, tokens, other=rough)
    longer = dataclasses.replace(prompt, tokens=[*prompt.tokens, *tokens[:-1]])
    logits = [np.array(m.logits(longer))[len(prompt.tokens) - 1 :] for m in (mini, rough)]
    p, q = (np.exp(x.astype(np.float64)) for x in logits)
    p, q = p / p.sum(axis=1, keepdims=True), q / q.sum(axis=1, keepdims=True)
    kl = (p * np.log(p / q)).sum(axis=1)
    assert kl.max() > 0.01
    assert found.kl == pytest.approx(kl, rel=1e-3, abs=1e-5)
    places = range(len(tokens))
    assert found.second == pytest.approx(np.log(q[places, tokens]), rel=1e-3, abs=1e-4)
    assert not px.compare_runs(mini, prompt, tokens, other=mini).kl.any()


def test_where_two_answers_part():
    assert px.first_difference([1, 2, 3], [1, 5, 3]) == 1
    assert px.first_difference([1, 2], [1, 2, 3]) == 2
    assert px.first_difference([1, 2], [1, 2]) is None
    assert px.first_difference([], [4]) == 0
