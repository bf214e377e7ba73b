"""The plan of a conversion: pure decisions, no files."""

import re

import pytest

from pixtral_mlx.checkpoint.scheme import AFFINE_BITS, FLOAT_MODES, RECIPES, Scheme
from pixtral_mlx.errors import ConfigError
from pixtral_mlx.quantization.options import ConversionOptions
from pixtral_mlx.quantization.plan import format_plan, plan
from pixtral_mlx.tables import format_bytes

LAYERS = 16


def tensors(*, dim=128, hidden=256, vision=64, words=512):
    """(ours, theirs, shape) of a model, the names in the converted folder made up."""
    found = [
        ("decoder.tok_embeddings.weight", (words, dim)),
        ("decoder.output.weight", (words, dim)),
    ]
    for n in range(LAYERS):
        at = f"decoder.layers.{n}"
        found += [(f"{at}.attention.{w}.weight", (dim, dim)) for w in ("wq", "wk", "wv", "wo")]
        found += [(f"{at}.feed_forward.w1.weight", (hidden, dim))]
        found += [(f"{at}.feed_forward.w2.weight", (dim, hidden))]
        found += [(f"{at}.attention_norm.weight", (dim,))]
    found += [("vision_encoder.patch_conv.weight", (vision, 16, 16, 3))]
    found += [("vision_encoder.layers.0.attention.wq.weight", (vision, vision))]
    found += [("projector.w_in.weight", (dim, vision)), ("projector.w_in.bias", (dim,))]
    return [(name, f"peer.{name}", shape) for name, shape in found]


def by_name(result):
    return {tensor.name: tensor for tensor in result.tensors}


def test_the_default_is_four_bits_in_groups_of_64_and_a_kept_vision_encoder():
    found = by_name(plan(tensors(), ConversionOptions()))
    assert found["decoder.layers.0.attention.wq.weight"].scheme == Scheme(4, 64, "affine")
    assert found["decoder.tok_embeddings.weight"].scheme == Scheme(4, 64)
    assert found["decoder.output.weight"].scheme == Scheme(4, 64)
    assert found["projector.w_in.weight"].scheme == Scheme(4, 64)
    kept = found["vision_encoder.layers.0.attention.wq.weight"]
    assert kept.scheme is None and kept.reason == "as asked"


def test_norms_biases_and_the_convolution_are_never_quantized():
    options = ConversionOptions(bits=2, vision_bits=2, projector_bits=2, embed_bits=2, head_bits=2)
    for tensor in plan(tensors(), options).tensors:
        matrix = len(tensor.shape) == 2
        assert (tensor.scheme is not None) == matrix, tensor.name
        assert matrix or tensor.reason == "not a matrix"


@pytest.mark.parametrize("bits", AFFINE_BITS)
@pytest.mark.parametrize("group", [32, 64, 128])
def test_bytes_of_affine(bits, group):
    name = "decoder.layers.0.attention.wq.weight"
    result = plan([(name, "m.q.weight", (96, 256))], ConversionOptions(bits=bits, group_size=group))
    weight, scales, biases = result.tensors[0].outputs()
    assert weight == ("m.q.weight", "U32", (96, 256 * bits // 32), 96 * 256 * bits // 8)
    assert scales == ("m.q.scales", "BF16", (96, 256 // group), 96 * (256 // group) * 2)
    assert biases.name == "m.q.biases" and biases[1:] == scales[1:]
    assert result.bits_per_weight == pytest.approx(bits + 32 / group)


@pytest.mark.parametrize("mode", FLOAT_MODES)
def test_bytes_of_the_float_modes(mode):
    bits, group = FLOAT_MODES[mode]
    name = "decoder.layers.0.attention.wq.weight"
    result = plan([(name, "m.q.weight", (96, 256))], ConversionOptions(mode=mode))
    weight, scales = result.tensors[0].outputs()
    assert weight.shape == (96, 256 * bits // 32)
    assert scales == ("m.q.scales", "U8", (96, 256 // group), 96 * 256 // group)
    assert result.bits_per_weight == pytest.approx(bits + 8 / group)
    assert result.quantization() == {"group_size": group, "bits": bits, "mode": mode}


def test_outputs_match_what_mlx_makes():
    mx = pytest.importorskip("mlx.core")
    cases = [ConversionOptions(bits=b, group_size=g) for b in AFFINE_BITS for g in (32, 64, 128)]
    cases += [ConversionOptions(mode=mode) for mode in FLOAT_MODES]
    weight = mx.random.normal((8, 128)).astype(mx.bfloat16)
    for options in cases:
        tensor = plan([("decoder.layers.0.a.weight", "a.weight", (8, 128))], options).tensors[0]
        arrays = mx.quantize(weight, **tensor.scheme.entry())
        assert [tuple(a.shape) for a in arrays] == [o.shape for o in tensor.outputs()]
        assert [a.nbytes for a in arrays] == [o.nbytes for o in tensor.outputs()]


def test_each_part_has_its_own_bits():
    options = ConversionOptions(bits=3, vision_bits=8, projector_bits=6, embed_bits=16, head_bits=5)
    result = plan(tensors(), options)
    found = by_name(result)
    assert found["vision_encoder.layers.0.attention.wq.weight"].scheme.bits == 8
    assert found["projector.w_in.weight"].scheme.bits == 6
    assert found["decoder.tok_embeddings.weight"].scheme is None
    assert found["decoder.output.weight"].scheme.bits == 5
    assert result.quantization() == {
        "group_size": 64,
        "bits": 3,
        "mode": "affine",
        "peer.decoder.output": {"group_size": 64, "bits": 5, "mode": "affine"},
        "peer.vision_encoder.layers.0.attention.wq": {
            "group_size": 64, "bits": 8, "mode": "affine"
        },
        "peer.projector.w_in": {"group_size": 64, "bits": 6, "mode": "affine"},
    }  # fmt: skip


def test_another_width_beside_a_float_mode_is_affine():
    options = ConversionOptions(mode="mxfp4", head_bits=6, embed_bits=4)
    assert options.head == Scheme(6, 64, "affine")
    assert options.embedding == options.text == Scheme(4, 32, "mxfp4")


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_spend_bits_where_llama_cpp_does(recipe):
    low, high, summary = RECIPES[recipe]
    assert str(low) in summary and str(high) in summary
    found = by_name(plan(tensors(), ConversionOptions(recipe=recipe)))
    more = {0, 1, 4, 7, 10, 13, 14, 15}  # first and last eighth of 16, every third between
    for n in range(LAYERS):
        at = f"decoder.layers.{n}"
        expected = high if n in more else low
        assert found[f"{at}.attention.wv.weight"].scheme.bits == expected
        assert found[f"{at}.feed_forward.w2.weight"].scheme.bits == expected
        assert found[f"{at}.attention.wq.weight"].scheme.bits == low
        assert found[f"{at}.feed_forward.w1.weight"].scheme.bits == low
    assert found["decoder.output.weight"].scheme.bits == high
    assert found["projector.w_in.weight"].scheme.bits == high
    assert found["decoder.tok_embeddings.weight"].scheme.bits == low
    told = by_name(plan(tensors(), ConversionOptions(recipe=recipe, head_bits=8, embed_bits=5)))
    assert told["decoder.output.weight"].scheme.bits == 8
    assert told["decoder.tok_embeddings.weight"].scheme.bits == 5


def test_a_width_that_the_group_does_not_divide_is_kept_and_said():
    name = "decoder.layers.0.feed_forward.w2.weight"
    mixed = [("decoder.output.weight", "h.weight", (512, 128)), (name, "w.weight", (128, 1000))]
    result = plan(mixed, ConversionOptions())
    tensor = by_name(result)[name]
    assert tensor.scheme is None
    assert tensor.reason == "width 1000 is not a multiple of 64"
    assert "bfloat16 (width 1000 is not a multiple of 64)" in format_plan(result)
    assert tensor.nbytes == 128 * 1000 * 2


@pytest.mark.parametrize(
    ("width", "options", "advice"),
    [
        (96, {}, "use --mode affine with --group-size 32"),
        (192, {"group_size": 128}, "use --mode affine with --group-size 32 or 64"),
        (48, {}, "only groups of 16 fit: use --mode nvfp4"),
        (40, {}, "no group size fits: use --bits 16"),
        (48, {"mode": "mxfp4"}, "use --mode nvfp4"),
    ],
)
def test_quantizing_nothing_is_an_error_that_names_what_fits(width, options, advice):
    rows = [("decoder.layers.0.attention.wq.weight", "q.weight", (64, width))]
    with pytest.raises(ConfigError, match=advice) as caught:
        plan(rows, ConversionOptions(**options))
    assert str(width) in str(caught.value) and "\n" not in str(caught.value)


def test_sixteen_bits_keep_everything_and_say_nothing_about_quantization():
    result = plan(tensors(), ConversionOptions(bits=16))
    assert not any(tensor.scheme for tensor in result.tensors)
    assert result.quantization() is None
    assert result.bits_per_weight == 16
    assert plan(tensors(), ConversionOptions(bits=16, dtype="float32")).bits_per_weight == 32


def test_only_the_vision_encoder_may_be_quantized():
    result = plan(tensors(), ConversionOptions(bits=16, vision_bits=8))
    assert result.quantization()["bits"] == 8
    assert [t.name for t in result.tensors if t.scheme] == [
        "vision_encoder.layers.0.attention.wq.weight"
    ]


def test_a_matrix_that_mlx_vlm_would_skip_gets_an_entry():
    """It passes over sizes that are not a multiple of 64, unless the path is named."""
    rows = [
        ("decoder.output.weight", "h.weight", (64, 64)),
        ("projector.w_in.weight", "p.weight", (7, 32)),
    ]
    result = plan(rows, ConversionOptions(group_size=32))
    assert "p" in result.quantization() and "h" not in result.quantization()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"bits": 7}, "bits must be 2, 3, 4, 5, 6, 8, 16 or None, got 7"),
        ({"bits": True}, "bits must be 2, 3, 4, 5, 6, 8, 16 or None, got True"),
        ({"group_size": 16}, "group_size must be 32, 64, 128 or None, got 16"),
        ({"mode": "int4"}, "mode must be affine, mxfp4, mxfp8 or nvfp4, got 'int4'"),
        ({"mode": "mxfp4", "group_size": 64}, "always has groups of 32, not 64"),
        ({"mode": "nvfp4", "group_size": 32}, "always has groups of 16, not 32"),
        ({"mode": "mxfp8", "bits": 4}, "always 8 bits, not 4"),
        ({"vision_bits": 1}, "vision_bits must be 2, 3, 4, 5, 6, 8, 16 or None, got 1"),
        ({"head_bits": 32}, "head_bits must be 2, 3, 4, 5, 6, 8, 16 or None, got 32"),
        ({"embed_bits": 0}, "embed_bits must be 2, 3, 4, 5, 6, 8, 16 or None, got 0"),
        ({"dtype": "int8"}, "dtype must be bfloat16, float16 or float32, got 'int8'"),
        ({"recipe": "best"}, "recipe must be mixed_2_6, mixed_3_6, mixed_4_6 or None, got 'best'"),
        ({"recipe": "mixed_4_6", "bits": 4}, "sets the bits itself"),
        ({"recipe": "mixed_4_6", "mode": "mxfp4"}, "sets the bits itself"),
    ],
)
def test_options_that_cannot_be(options, line):
    with pytest.raises(ValueError) as caught:
        ConversionOptions(**options)
    assert line in str(caught.value) and "\n" not in str(caught.value)


def test_the_float_modes_accept_their_own_numbers():
    assert ConversionOptions(mode="mxfp4", bits=4, group_size=32).text == Scheme(4, 32, "mxfp4")
    assert ConversionOptions(mode="mxfp8").text == Scheme(8, 32, "mxfp8")
    assert ConversionOptions(mode="nvfp4", group_size=16).text == Scheme(4, 16, "nvfp4")


def test_the_table_names_every_tensor_and_adds_up():
    result = plan(tensors(), ConversionOptions())
    lines = format_plan(result).splitlines()
    for tensor, line in zip(result.tensors, lines[-len(result.tensors) :], strict=True):
        assert tensor.name in line and line.endswith(format_bytes(tensor.nbytes))
    assert f"{result.parameters:,} weights, " in lines[0]
    assert f"{format_bytes(result.nbytes)}, " in lines[0]
    assert f"{result.bits_per_weight:.2f} bits per weight" in lines[0]
    summary = [re.split("  +", line) for line in lines[3 : lines.index("", 2)]]
    assert len({(row[0], row[3]) for row in summary}) == len(summary) > 2
    assert sum(int(row[1]) for row in summary) == len(result.tensors)
    assert sum(int(row[2].replace(",", "")) for row in summary) == result.parameters
