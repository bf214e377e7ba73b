"""Sizes from `params.json` and `config.json`; what is missing, odd or another model is named."""

import copy
import json
import math
import re
from dataclasses import asdict, replace

import pytest
from checkpoints import (
    HEIR_VISION,
    MINISTRAL_TEXT,
    hf_config,
    make_hf,
    make_official,
    official_params,
)

import pixtral_mlx as px
from pixtral_mlx.checkpoint.folder import load_config
from pixtral_mlx.checkpoint.hf_config import config_from_hf, config_to_hf
from pixtral_mlx.errors import ConfigError
from pixtral_mlx.model.config import PIXTRAL_12B, PixtralConfig, QueryScaling, Yarn

PIXTRAL_LARGE = {
    "dim": 12288, "n_layers": 88, "head_dim": 128, "hidden_dim": 28672, "n_heads": 96,
    "n_kv_heads": 8, "rope_theta": 1e9, "norm_eps": 1e-5, "vocab_size": 32768,
    "vision_encoder": {
        "hidden_size": 1664, "num_channels": 3, "image_size": 1024, "patch_size": 16,
        "rope_theta": 1e4, "intermediate_size": 8192, "num_hidden_layers": 48,
        "num_attention_heads": 16, "adapter_bias": False, "image_token_id": 10,
        "image_break_token_id": 14, "image_end_token_id": 15,
    },
}  # fmt: skip


def test_optional_keys_may_be_missing():
    params = official_params()
    assert not {"image_break_token_id", "adapter_bias"} & set(params["vision_encoder"])
    config = PixtralConfig.from_params(params)
    assert config.vision.adapter_bias is True
    assert config.vision.norm_eps == 1e-5
    assert config.text.max_seq_len == 131_072
    assert PixtralConfig.from_params(params | {"max_seq_len": 4096}).text.max_seq_len == 4096


def test_round_trip():
    for params in (official_params(), PIXTRAL_LARGE, PIXTRAL_12B.to_params()):
        config = PixtralConfig.from_params(params)
        assert PixtralConfig.from_params(config.to_params()) == config
    assert (
        "vision_encoder" not in PixtralConfig.from_params(official_params(vision=False)).to_params()
    )


def test_pixtral_large_is_a_matter_of_params_alone():
    config = PixtralConfig.from_params(PIXTRAL_LARGE)
    assert config.vision.head_dim == 104
    assert config.vision.adapter_bias is False


def test_hf_says_the_same():
    params = official_params()
    official, hf = PixtralConfig.from_params(params), config_from_hf(hf_config(params))
    assert hf == official
    v5 = hf_config(params)
    v5["text_config"]["rope_parameters"] = {
        "rope_theta": v5["text_config"].pop("rope_theta"), "rope_type": "default",
    }  # fmt: skip
    assert config_from_hf(v5) == official


def test_hf_leaves_out_its_defaults():
    # The published config.json of Pixtral 12B: what equals transformers' default is not there.
    config = config_from_hf({
        "model_type": "llava", "image_token_index": 10,
        "text_config": {
            "model_type": "mistral", "head_dim": 128, "hidden_size": 5120,
            "intermediate_size": 14336, "is_composition": True, "max_position_embeddings": 1024000,
            "num_hidden_layers": 40, "num_key_value_heads": 8, "rms_norm_eps": 1e-5,
            "rope_theta": 1e9, "sliding_window": None, "vocab_size": 131072,
        },
        "vision_config": {
            "head_dim": 64, "hidden_act": "silu", "image_size": 1024, "is_composition": True,
            "model_type": "pixtral", "patch_size": 16, "rope_theta": 10000.0,
        },
    })  # fmt: skip
    assert asdict(config) == asdict(PIXTRAL_12B)


@pytest.mark.parametrize("key", ["dim", "n_layers", "head_dim", "vocab_size", "rope_theta"])
def test_missing_key_is_named(key):
    params = official_params()
    del params[key]
    with pytest.raises(ConfigError, match=f"params.json: missing {key}:"):
        PixtralConfig.from_params(params)


def test_missing_vision_key_is_named():
    params = copy.deepcopy(official_params())
    del params["vision_encoder"]["patch_size"], params["vision_encoder"]["image_token_id"]
    with pytest.raises(ConfigError, match="vision_encoder: missing patch_size, image_token_id"):
        PixtralConfig.from_params(params)


@pytest.mark.parametrize(
    ("key", "value"),
    [("dim", "128"), ("dim", 0), ("dim", -4), ("dim", 1.5), ("dim", True), ("dim", 2**40),
     ("norm_eps", 0), ("norm_eps", "x"), ("rope_theta", -1.0), ("rope_theta", True)],
)  # fmt: skip
def test_impossible_value_is_named(key, value):
    with pytest.raises(ConfigError, match=f": {key} must be .*, got {value!r}$"):
        PixtralConfig.from_params(official_params() | {key: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_kv_heads": 3}, "n_kv_heads 3 does not divide evenly into n_heads 4"),
        ({"head_dim": 15}, "odd"),
    ],
)
def test_sizes_that_do_not_fit_together(change, message):
    with pytest.raises(ConfigError, match=message):
        PixtralConfig.from_params(official_params() | change)


def test_vision_heads_must_fit_rope_2d():
    with pytest.raises(ConfigError, match="multiple of 4"):
        PixtralConfig.from_params(official_params(vision={"num_attention_heads": 3}))


@pytest.mark.parametrize(
    "change",
    [
        {"moe": {"num_experts": 8}},
        {"sliding_window": 4096},
        {"rope_scaling": {"factor": 2}},
        {"multimodal": {"whisper_model_args": {"encoder_args": {}}}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_other_mistral_models_are_refused(change):
    with pytest.raises(ConfigError, match="holds another model"):
        PixtralConfig.from_params(official_params() | change)


@pytest.mark.parametrize("quantization", [{"qformat_weight": "nvfp4"}, "fp8"])
def test_what_mistral_quantizes_otherwise_is_refused_by_name(quantization):
    with pytest.raises(ConfigError, match=r"quantization is .*fp.* are not read; allowed: qformat"):
        PixtralConfig.from_params(official_params() | {"quantization": quantization})


def test_what_is_null_is_not_there():
    nulls = dict.fromkeys(
        ("quantization", "llama_4_scaling", "yarn", "moe", "tied_embeddings", "multimodal",
         "max_seq_len", "max_position_embeddings"),
    )  # fmt: skip
    params = official_params(vision={"image_break_token_id": 12})
    expected = PixtralConfig.from_params(params)
    params["vision_encoder"] |= {"spatial_merge_size": None, "mm_projector_id": ""}
    assert PixtralConfig.from_params(params | nulls) == expected


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"yarn": {"factor": 16}}, "params.json: yarn: missing original_max_position_embeddings"),
        ({"yarn": 16}, "params.json: yarn: expected a JSON object, found int"),
        ({"yarn": {"factor": 0.5, "original_max_position_embeddings": 9}}, "factor must be at lea"),
        ({"yarn": {"factor": "x", "original_max_position_embeddings": 9}}, "yarn: factor must be"),
        ({"llama_4_scaling": {"beta": 0.1}}, "llama_4_scaling: missing original_max_position"),
        ({"llama_4_scaling": {"beta": -1, "original_max_position_embeddings": 9}}, "beta must be"),
    ],
)  # fmt: skip
def test_impossible_positions_are_named(change, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        PixtralConfig.from_params(official_params() | change)


@pytest.mark.parametrize(
    "change", [{"mm_projector_id": "resampler"}, {"spatial_merge_size": 0}, {"patch_size": "14"}]
)
def test_impossible_eyes_are_named(change):
    with pytest.raises(ConfigError, match=f"vision: {next(iter(change))} must be "):
        PixtralConfig.from_params(official_params(vision=change))


def test_heirs_are_read_alike_from_both_kinds_of_files():
    for text in ({}, MINISTRAL_TEXT, {**MINISTRAL_TEXT, "tied_embeddings": True}):
        params = official_params(text=text, vision=HEIR_VISION)
        config = PixtralConfig.from_params(params)
        assert config.vision.merges and config.vision.token_size == 28
        assert (config.text.yarn is not None) == bool(text)
        context = 262_144 if text else 131_072
        read = config_from_hf(hf_config(params))
        assert read == replace(config, text=replace(config.text, max_seq_len=context))
        assert PixtralConfig.from_params(config.to_params()) == config
        assert config_from_hf(config_to_hf(config, "float32")) == config
        assert PixtralConfig.from_params(elsewhere(params)) == config


def test_hf_leaves_out_the_heirs_defaults_too():
    """The published config.json of Mistral Small 3.1, and what transformers writes for a
    `Ministral3Config` as it is."""
    small = config_from_hf({"model_type": "mistral3", "vision_config": {
        "head_dim": 64, "hidden_act": "gelu", "image_size": 1540, "model_type": "pixtral",
        "patch_size": 14, "rope_theta": 10000.0,
    }})  # fmt: skip
    assert (small.text.dim, small.text.n_layers, small.text.hidden_dim) == (5120, 40, 32768)
    assert (small.text.rope_theta, small.text.norm_eps) == (1e9, 1e-5)
    assert (small.vision.image_size, small.vision.token_size) == (1540, 28)
    assert not small.vision.adapter_bias
    eight = config_from_hf({"model_type": "mistral3", "text_config": {"model_type": "ministral3"}})
    assert (eight.text.dim, eight.text.n_layers, eight.text.max_seq_len) == (4096, 34, 262_144)
    assert (eight.text.rope_theta, eight.text.yarn) == (1e6, Yarn(16.0, 16_384))
    assert eight.text.llama_4_scaling == QueryScaling(0.1, 16_384)


@pytest.mark.parametrize(
    ("change", "grows"),
    [
        ({}, False),
        ({"mscale": None, "mscale_all_dim": None}, True),  # transformers' own default
        ({"mscale_all_dim": 0.0}, True),
        ({"attention_factor": 1.0, "mscale": None}, False),
        ({"attention_factor": 1 + 0.1 * math.log(16), "mscale": None}, True),
        ({"attention_factor": 1.1}, None),
        ({"mscale": 0.7, "mscale_all_dim": 1.0}, None),
        ({"factor": "x"}, None),
    ],
)
def test_how_yarn_scales_attention(change, grows):
    config = hf_config(official_params(text=MINISTRAL_TEXT, vision=HEIR_VISION))
    config["text_config"]["rope_parameters"] |= change
    if grows is None:
        with pytest.raises(ConfigError, match=r"config.json: rope_parameters: "):
            config_from_hf(config)
    else:
        assert config_from_hf(config).text.yarn.apply_scale == grows


def elsewhere(params):
    """The encoder's sizes where vLLM looks for them first."""
    return params | {
        "vision_encoder": None,
        "multimodal": {"vision_encoder_args": params["vision_encoder"]},
    }


def test_the_encoders_sizes_where_vllm_looks_for_them():
    params = official_params(vision={"num_hidden_layers": 7})
    assert PixtralConfig.from_params(elsewhere(params)) == PixtralConfig.from_params(params)
    assert PixtralConfig.from_params(elsewhere(params)).vision.num_hidden_layers == 7
    broken = elsewhere(params)
    del broken["multimodal"]["vision_encoder_args"]["patch_size"]
    with pytest.raises(ConfigError, match=r"multimodal\.vision_encoder_args: missing patch_size"):
        PixtralConfig.from_params(broken)
    for wrong in ([1], {"vision_encoder_args": 3}):
        with pytest.raises(ConfigError, match=r"multimodal.*: expected a JSON object, found"):
            PixtralConfig.from_params(params | {"vision_encoder": None, "multimodal": wrong})


def test_the_context_by_each_of_its_names():
    def context(**settings):
        return PixtralConfig.from_params(official_params() | settings).text.max_seq_len

    assert context() == 131_072
    assert context(max_position_embeddings=32_768) == 32_768
    assert context(max_position_embeddings=32_768, max_seq_len=4096) == 4096
    with pytest.raises(ConfigError, match=r"max_seq_len must be .*, got 'many'"):
        context(max_position_embeddings="many")


@pytest.mark.parametrize(
    "change", [{"rope_scaling": {"type": "linear", "factor": 4}}, {"sliding_window": 4096}]
)
def test_other_hf_models_are_refused(change):
    config = hf_config(official_params())
    config["text_config"] |= change
    with pytest.raises(ConfigError, match="holds another model"):
        config_from_hf(config)
    with pytest.raises(ConfigError, match="model_type is 'llama'"):
        config_from_hf({"model_type": "llama"})


@pytest.mark.parametrize(
    ("part", "kind"),
    [("text_config", "llama"), ("vision_config", "siglip"), ("vision_config", "clip_vision_model")],
)
def test_a_part_of_another_architecture_is_refused_by_name(part, kind):
    config = hf_config(official_params())
    config[part]["model_type"] = kind
    with pytest.raises(ConfigError, match=f"{part}.model_type is '{kind}', Pixtral's is "):
        config_from_hf(config)
    config[part]["model_type"] = None
    assert config_from_hf(config) == PixtralConfig.from_params(official_params())
    del config[part]["model_type"]
    assert config_from_hf(config) == PixtralConfig.from_params(official_params())


@pytest.mark.parametrize("text", ["", "[1, 2]", "{", "null", "[" * 100_000])
def test_file_that_is_not_a_json_object(tmp_path, text):
    (tmp_path / "params.json").write_text(text)
    with pytest.raises(ConfigError, match=r"params\.json"):
        load_config(tmp_path)


def test_folder_without_configuration(tmp_path):
    with pytest.raises(ConfigError, match=r"no params\.json .* and no config\.json"):
        load_config(tmp_path)


@pytest.mark.parametrize("layout", ["official", "hf"])
def test_the_weights_decide_which_configuration_counts(tmp_path, layout):
    """`load_config` reads the one that `load` takes, also where another model's lies beside it."""
    make = {"official": make_official, "hf": make_hf}[layout]
    folder = make(tmp_path / "model")
    mine = {"official": "params.json", "hf": "config.json"}[layout]
    other = {"official": "config.json", "hf": "params.json"}[layout]
    params = official_params(text={"dim": 256, "n_layers": 7})
    (folder / other).write_text(json.dumps(params if other == "params.json" else hf_config(params)))
    assert load_config(folder) == px.load(folder).config
    assert load_config(folder).text.dim != 256
    (folder / mine).rename(tmp_path / mine)  # the weights' own is gone
    if layout == "official":
        assert load_config(folder).text.dim == 256  # consolidated weights are no reason to give up
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    (folder / "config.json").write_text("{")
    (folder / "params.json").write_text(json.dumps(params))
    assert load_config(folder).text.dim == 256  # without weights the official one


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("rope_parameters", [1], "rope_parameters: expected a JSON object"),
        ("rope_scaling", [1], "rope_scaling: expected a JSON object"),
        ("num_attention_heads", 0, "is not a head width"),
        ("hidden_size", "a", "is not a head width"),
        ("rope_theta", "abc", "rope_theta must be a number, got 'abc'"),
        ("hidden_size", -3, "-3"),
        ("hidden_act", "relu", "Pixtral's is 'silu'"),
    ],
)
def test_impossible_hf_values_are_named(key, value, message):
    config = hf_config(official_params())
    del config["text_config"]["head_dim"]
    config["text_config"][key] = value
    with pytest.raises(ConfigError, match=message):
        config_from_hf(config)


@pytest.mark.parametrize(
    ("key", "value"), [("projector_hidden_act", "relu"), ("vision_feature_layer", -2)]
)
def test_other_ways_to_join_eye_and_decoder_are_refused(key, value):
    with pytest.raises(ConfigError, match=f"{key} is .* holds another model"):
        config_from_hf(hf_config(official_params()) | {key: value})


def test_hostile_sizes_stop_here():
    for change in ({"n_layers": 10**8}, {"rope_theta": float("inf")}):
        with pytest.raises(
            ConfigError, match=r": (n_layers|rope_theta) must be .*, got (100000000|inf)$"
        ):
            PixtralConfig.from_params(official_params() | change)


def test_the_context_that_a_conversion_writes_is_read():
    config = hf_config(official_params())
    config["text_config"]["max_seq_len"] = 100
    assert config_from_hf(config).text.max_seq_len == 100
