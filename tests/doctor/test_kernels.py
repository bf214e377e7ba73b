"""One layer of each part at the width of Pixtral 12B against its definition in float64.

mini, the golden files and every other test model have narrower heads and matrices, so that on a
GPU none of them meets the kernels that the 12B runs on.
"""

import mlx.core as mx
import pytest

import pixtral_mlx as px
from pixtral_mlx.doctor import kernels
from pixtral_mlx.doctor.kernels import LONG, SHORT, Case
from pixtral_mlx.model import attention, decoder, device
from pixtral_mlx.model.config import PIXTRAL_12B

ON_GPU = device.on_gpu()
FAULT = 0.04
"""The least that a fault does to the worst row; every error that is allowed lies well below."""


@pytest.fixture(scope="module")
def layers():
    return {"text": kernels.TextLayer(), "vision": kernels.VisionLayer()}


def test_the_widths_are_those_that_metal_has_kernels_for():
    text, encoder = PIXTRAL_12B.text, PIXTRAL_12B.vision
    # Fused attention of MLX 0.32.4: 64 and 128 are among its widths for many queries and for few.
    assert (text.head_dim, text.n_heads, text.n_kv_heads) == (128, 32, 8)
    assert (encoder.head_dim, encoder.num_attention_heads) == (64, 16)
    # Its quantized matrix-vector kernel is the fast one where the input is a multiple of 512.
    inputs = (text.dim, text.n_heads * text.head_dim, text.hidden_dim)
    assert [width % 512 for width in inputs] == [0, 0, 0]


@pytest.mark.parametrize("case", kernels.cases(gpu=ON_GPU), ids=str)
def test_a_layer_is_its_definition(layers, case):
    found = kernels.check_layer(layers[case.part], case)
    assert found.passed, found
    assert 0 < found.error <= found.allowed < FAULT  # 0 would say that one was set against itself
    assert found.seconds > 0
    exact = px.machine().float32_products == "float32" and not ON_GPU
    if exact and case.dtype == mx.float32:
        assert found.error < 2e-4


@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize(
    "case", [Case("vision", mx.float32, 64), Case("text", mx.float32, 16, SHORT - 16)], ids=str
)
def test_both_ways_of_attention_at_real_width(layers, monkeypatch, gpu, case):
    calls = []
    fused = mx.fast.scaled_dot_product_attention
    monkeypatch.setattr(
        mx.fast, "scaled_dot_product_attention",
        lambda *a, **o: calls.append(1) or fused(*a, **o),
    )  # fmt: skip
    monkeypatch.setattr(attention, "SCORES_AT_ONCE", 2**13)  # 8 queries at once
    with device.assumed(gpu=gpu):
        x = layers[case.part](case)
        mx.eval(x)
    rows, given, exact = layers[case.part].wanted(case)
    error = kernels.worst(kernels.exact_layer.as_float64(x)[rows], exact, given)
    assert error < kernels.allowed(mx.float32)
    assert len(calls) == (1 if gpu else case.rows // 8)


attend = attention.attend  # which the faults below take the place of


def other_heads(queries, keys, values, **options):
    return attend(queries, mx.roll(keys, 1, axis=1), values, **options)


def without_the_last_key(queries, keys, values, **options):
    return attend(queries, keys[:, :, :-1], values[:, :, :-1], **options)


def twice_the_scale(*arrays, scale, **options):
    return attend(*arrays, scale=2 * scale, **options)


@pytest.mark.parametrize("fault", [other_heads, without_the_last_key, twice_the_scale])
@pytest.mark.parametrize("part", ["text", "vision"])
def test_a_fault_of_the_attention_shows(layers, monkeypatch, part, fault):
    case, module = Case("text", mx.float32, 8, SHORT - 8), decoder
    if part == "vision":
        case, module = Case("vision", mx.float32, 64), attention
    monkeypatch.setattr(module, "attend", fault)
    found = kernels.check_layer(layers[part], case)
    assert found.error > FAULT and not found.passed


@pytest.mark.parametrize("name", ["wo", "wq"])
def test_a_scale_in_the_wrong_place_shows(layers, name):
    layer, case = layers["text"], Case("text", mx.float32, 1, SHORT - 1)
    assert layer.exact  # computed before
    module = layer.block.attention[name]
    scales = module.scales
    module.scales = mx.roll(scales, 1, axis=1)
    try:
        found = kernels.check_layer(layer, case)
    finally:
        module.scales = scales
    assert found.error > FAULT and not found.passed


def test_on_a_gpu_every_row_is_compared_with_the_cpu(layers, monkeypatch):
    case = Case("vision", mx.float32, 64)
    with device.assumed(gpu=True):
        right = kernels.check_layer(layers["vision"], case)
        assert right.cpu_error <= right.allowed

        def wrong_in_one_row(queries, keys, values, **options):
            found = attend(queries, keys, values, **options)
            return found.at[:, :, 50].multiply(2) if device.on_gpu() else found

        monkeypatch.setattr(attention, "attend", wrong_in_one_row)
        monkeypatch.setattr(kernels, "sample", lambda *_: [0, 63])
        wrong = kernels.check_layer(layers["vision"], case)
    assert wrong.error <= wrong.allowed < FAULT < wrong.cpu_error
    assert not wrong.passed


def test_not_a_number_does_not_pass():
    nan = float("nan")
    assert not kernels.LayerCheck("x", 1, nan, None, 1).passed
    assert not kernels.LayerCheck("x", 1, 0, nan, 1).passed
    assert kernels.LayerCheck("x", 1, 0.5, 1.0, 1).passed


def test_a_gpu_computes_every_size_and_every_type():
    found = kernels.cases(gpu=True)
    assert set(kernels.cases(gpu=False)) - {Case("vision", mx.bfloat16, 64)} <= set(found)
    text = {(case.dtype, case.rows, case.context) for case in found if case.part == "text"}
    for kind in (mx.bfloat16, mx.float16, mx.float32):
        for sizes in ((SHORT, 0), (LONG, 0), (1, LONG - 1), (8, LONG - 8), (512, LONG - 512)):
            assert (kind, *sizes) in text
    assert {case.rows for case in found if case.part == "vision"} == {SHORT, LONG}
