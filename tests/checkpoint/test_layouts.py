"""The name tables: complete, one to one in both directions, and lossless."""

import mlx.core as mx
import numpy as np
import pytest
from checkpoints import hf_name, hf_tensors, official_params, official_shapes, official_tensors

from pixtral_mlx.checkpoint import layouts
from pixtral_mlx.model.config import PixtralConfig

WITH_VISION = ["official", "hf-llava", "hf-llava-v5", "hf-llava-v5.4", "mlx"]
HF_KEYS = [("hf-llava", "hub"), ("hf-llava-v5", "v5"), ("hf-llava-v5.4", "v5.4")]


def config_of(**settings):
    return PixtralConfig.from_params(official_params(**settings))


@pytest.mark.parametrize("name", WITH_VISION)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"text": {"tied_embeddings": True}},
        {"vision": {"adapter_bias": False}},
        {"text": {"n_layers": 1}, "vision": {"num_hidden_layers": 5}},
    ],
)
def test_each_tensor_has_exactly_one_row(name, settings):
    config = config_of(**settings)
    table = layouts.to_ours(name, config)
    official = official_shapes(official_params(**settings))
    theirs = [source.theirs for source in table.values()]
    assert len(set(theirs)) == len(theirs) == len(official)
    assert list(table) == list(layouts.shapes(config))


def test_official_table_is_what_mistral_writes():
    params = official_params()
    config = PixtralConfig.from_params(params)
    table = layouts.to_ours("official", config)
    ours = layouts.shapes(config)
    stored = {s.theirs: s.transform.stored_shape(ours[name]) for name, s in table.items()}
    assert stored == official_shapes(params)
    for name, source in table.items():
        expected = name.removeprefix("decoder.").replace("projector.", "vision_language_adapter.")
        expected = expected.replace("vision_encoder.layers", "vision_encoder.transformer.layers")
        assert source.theirs == expected


@pytest.mark.parametrize(("name", "keys"), HF_KEYS)
def test_hf_tables_agree_with_the_independent_names(name, keys):
    config = config_of()
    official = layouts.to_ours("official", config)
    for ours, source in layouts.to_ours(name, config).items():
        assert source.theirs == hf_name(official[ours].theirs, keys=keys)


def test_text_only_tables():
    config = config_of(vision=False)
    official = layouts.to_ours("official", config)
    assert set(official) == set(layouts.shapes(config))
    assert all(name.startswith("decoder.") for name in official)
    for ours, source in layouts.to_ours("hf-mistral", config).items():
        assert source.theirs == hf_name(official[ours].theirs, keys="text")


def test_mlx_table_is_what_mlx_vlm_holds():
    theirs = {source.theirs for source in layouts.to_mlx(config_of()).values()}
    for name in (
        "vision_tower.vision_model.patch_conv.weight",
        "vision_tower.vision_model.ln_pre.weight",
        "vision_tower.vision_model.transformer.layers.2.attention.q_proj.weight",
        "vision_tower.vision_model.transformer.layers.0.feed_forward.down_proj.weight",
        "multi_modal_projector.linear_1.bias",
        "language_model.model.embed_tokens.weight",
        "language_model.model.layers.1.post_attention_layernorm.weight",
        "language_model.lm_head.weight",
    ):
        assert name in theirs


@pytest.mark.parametrize("name", WITH_VISION)
def test_transforms_are_undone_exactly(name):
    config = config_of()
    ours = layouts.shapes(config)
    for parameter, source in layouts.to_ours(name, config).items():
        array = np.arange(np.prod(ours[parameter])).reshape(ours[parameter])
        stored = source.transform.from_ours(array)
        assert stored.shape == source.transform.stored_shape(array.shape)
        np.testing.assert_array_equal(source.transform.to_ours(stored), array)


@pytest.mark.parametrize(("name", "keys"), HF_KEYS)
def test_official_and_hf_arrays_become_the_same(name, keys):
    params = official_params()
    config = PixtralConfig.from_params(params)
    official = official_tensors(params)
    hf = hf_tensors(official, params, keys=keys)
    from_official, from_hf = layouts.to_ours("official", config), layouts.to_ours(name, config)
    for ours in from_official:
        a, b = from_official[ours], from_hf[ours]
        np.testing.assert_array_equal(
            a.transform.to_ours(official[a.theirs]), b.transform.to_ours(hf[b.theirs])
        )


def test_quantized_rows_move_like_the_rows_they_encode():
    transform = layouts.to_ours("mlx", config_of())[
        "decoder.layers.0.attention.wq.weight"
    ].transform
    matrix = mx.random.normal((64, 128))
    before = mx.dequantize(*mx.quantize(transform.to_ours(matrix), group_size=32, bits=4), 32, 4)
    parts = [transform.to_ours(part) for part in mx.quantize(matrix, group_size=32, bits=4)]
    assert mx.array_equal(before, mx.dequantize(*parts, group_size=32, bits=4))


@pytest.mark.parametrize("name", [*WITH_VISION, "hf-mistral"])
def test_detection_survives_missing_names(name):
    config = config_of(vision=None if name in WITH_VISION else False)
    names = [source.theirs for source in layouts.to_ours(name, config).values()]
    assert layouts.detect(names, config).name == name
    assert layouts.detect(names[3:], config).name == name
    assert layouts.detect([], config) is None


def test_every_alias_of_a_module_means_one_module():
    config = config_of()
    aliases = layouts.module_aliases(config)
    for layout in layouts.LAYOUTS:
        for ours, source in layouts.to_ours(layout, config).items():
            assert aliases[layouts.module_of(source.theirs)] == layouts.module_of(ours)
    wq = "decoder.layers.1.attention.wq"
    assert aliases["language_model.model.layers.1.self_attn.q_proj"] == wq
    assert aliases["model.layers.1.self_attn.q_proj"] == wq
    assert aliases["lm_head"] == "decoder.output"


def test_what_transformers_5_4_to_5_5_4_saved():
    """Written down from its files; half the names are of the releases before."""
    theirs = {source.theirs for source in layouts.to_ours("hf-llava-v5.4", config_of()).values()}
    for name in (
        "model.vision_tower.patch_conv.weight",
        "model.vision_tower.transformer.layers.0.attention.q_proj.weight",
        "model.multi_modal_projector.linear_1.bias",
        "model.language_model.model.embed_tokens.weight",
        "model.language_model.model.layers.1.self_attn.o_proj.weight",
        "model.language_model.model.norm.weight",
        "language_model.lm_head.weight",
    ):
        assert name in theirs
