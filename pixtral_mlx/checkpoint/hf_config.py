"""`config.json`, as transformers, mlx-vlm and mlx-lm have it: read, and written."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..inputs.file_kind import saved_instead
from ..model.config import (
    DEFAULT_CONTEXT,
    PixtralConfig,
    TextConfig,
    VisionConfig,
    check_mapping,
    refuse,
)

# transformers' defaults (modeling_mistral, modeling_pixtral): it leaves out of config.json what
# equals its default, and Pixtral's published files rely on that.
_HF_TEXT_DEFAULTS = {
    "hidden_size": 4096, "num_hidden_layers": 32, "intermediate_size": 14336,
    "num_attention_heads": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-6,
    "vocab_size": 32000,
}  # fmt: skip
_HF_VISION_DEFAULTS = {
    "hidden_size": 1024, "num_channels": 3, "image_size": 1024, "patch_size": 16,
    "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
}  # fmt: skip


_KNOWN = {
    "mistral3": ", Mistral Small 3.1 or later, whose encoder merges patches (mlx-vlm reads it)",
    "ministral3": ", Ministral 3 (mlx-lm reads it)",
    "pixtral_vision_model": ", a vision encoder alone",
}
"""Relatives of Pixtral, for the line that refuses them."""


def config_from_hf(settings: Mapping[str, Any]) -> PixtralConfig:
    """The sizes that a `config.json` of transformers or of an MLX folder states.

    `max_position_embeddings` is not taken as a limit: transformers writes 1,024,000 and
    the weights are the same.

    Raises:
        ConfigError: the `model_type` is not known, or a key is missing.
    """
    check_mapping(settings, "config.json")
    kind = settings.get("model_type")
    if kind not in ("llava", "pixtral", "mistral"):
        raise ConfigError(
            f"config.json: model_type is {kind!r}{_KNOWN.get(str(kind), '')}; llava, pixtral and "
            "mistral are read: this folder holds another architecture"
        )
    if kind == "pixtral" and not {"text_config", "vision_config"} & set(settings):
        raise ConfigError(
            "config.json: a vision encoder alone (model_type 'pixtral' without text_config): give "
            "the folder of the whole model"
        )
    text = settings if kind == "mistral" else settings.get("text_config", {})
    check_mapping(text, "config.json: text_config")
    _refuse_others(text, "model_type", "mistral", "text_config.")
    refuse(text, ("sliding_window", "llama_4_scaling"), "config.json")
    for key in ("rope_scaling", "rope_parameters"):
        rope = text.get(key) or {}
        check_mapping(rope, f"config.json: {key}")
        if rope.get("rope_type", rope.get("type", "default")) != "default":
            refuse(text, (key,), "config.json")
    _refuse_others(text, "hidden_act", "silu")
    text_config = _text_from_hf(text, settings)
    if kind == "mistral":
        return PixtralConfig(text_config)
    _refuse_others(settings, "projector_hidden_act", "gelu")
    _refuse_others(settings, "vision_feature_layer", -1)
    vision = settings.get("vision_config", {})
    check_mapping(vision, "config.json: vision_config")
    _refuse_others(vision, "model_type", "pixtral", "vision_config.")
    return PixtralConfig(text_config, _vision_from_hf(vision, settings))


def config_to_hf(config: PixtralConfig, dtype: str) -> dict[str, Any]:
    """The same sizes as transformers, mlx-vlm (with vision) and mlx-lm (without) read them.

    Arguments:
        dtype: what the unquantized weights are in.
    """
    text, vision = _text_settings(config.text, dtype), config.vision
    if vision is None:
        return {"architectures": ["MistralForCausalLM"], **text}
    ends = {
        "image_break_token_id": vision.image_break_token_id,
        "image_end_token_id": vision.image_end_token_id,
    }
    return {name: value for name, value in ends.items() if value is not None} | {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "pixtral",
        "image_token_index": vision.image_token_id,
        "image_token_id": vision.image_token_id,
        "multimodal_projector_bias": vision.adapter_bias,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
        "vocab_size": config.text.vocab_size,
        "text_config": text,
        "vision_config": _vision_settings(vision),
        "torch_dtype": dtype,
    }


def read_json(path: Path) -> Any:
    """Parse a JSON file.

    Raises:
        ConfigError: the file cannot be read or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        what = saved_instead(path)
        raise ConfigError(
            f"{path}: {what}"
            if what
            else f"{path}: not readable as JSON ({error}): fetch the file again"
        ) from error


def _text_from_hf(text: Mapping[str, Any], config: Mapping[str, Any]) -> TextConfig:
    def value(key: str) -> Any:
        return text[key] if text.get(key) is not None else _HF_TEXT_DEFAULTS[key]

    head_dim = text.get("head_dim")
    if head_dim is None:
        width, heads = value("hidden_size"), value("num_attention_heads")
        if type(width) is not int or type(heads) is not int or heads < 1:
            raise ConfigError(
                f"config.json: hidden_size {width!r} over num_attention_heads {heads!r} is not a "
                "head width: compare it with the published file"
            )
        head_dim = width // heads
    tied = text.get("tie_word_embeddings", config.get("tie_word_embeddings", False))
    return TextConfig(
        dim=value("hidden_size"),
        n_layers=value("num_hidden_layers"),
        head_dim=head_dim,
        hidden_dim=value("intermediate_size"),
        n_heads=value("num_attention_heads"),
        n_kv_heads=value("num_key_value_heads"),
        norm_eps=value("rms_norm_eps"),
        rope_theta=_rope_theta(text, 10_000.0),
        vocab_size=value("vocab_size"),
        max_seq_len=text.get("max_seq_len") or DEFAULT_CONTEXT,
        tied_embeddings=bool(tied),
    )


def _vision_from_hf(vision: Mapping[str, Any], config: Mapping[str, Any]) -> VisionConfig:
    values = {key: vision.get(key, default) for key, default in _HF_VISION_DEFAULTS.items()}
    image_token = config.get("image_token_index")
    if image_token is None:
        image_token = config.get("image_token_id", 10)
    return VisionConfig(
        **values,
        rope_theta=_rope_theta(vision, 10_000.0),
        image_token_id=image_token,
        image_break_token_id=config.get("image_break_token_id"),
        image_end_token_id=config.get("image_end_token_id"),
        adapter_bias=config.get("multimodal_projector_bias", True),
    )


def _rope_theta(config: Mapping[str, Any], default: float) -> float:
    """`rope_theta` stands at the top level, or since transformers 5 in `rope_parameters`."""
    for holder in (config, config.get("rope_parameters") or {}):
        check_mapping(holder, "config.json: rope_parameters")
        if holder.get("rope_theta") is not None:
            return holder["rope_theta"]  # checked with the other sizes
    return default


def _refuse_others(values: Mapping[str, Any], key: str, only: Any, where: str = "") -> None:
    """A setting of transformers that Pixtral has one value of."""
    if values.get(key, only) not in (only, None):
        raise ConfigError(
            f"config.json: {where}{key} is {values[key]!r}, Pixtral's is {only!r}: this folder "
            "holds another model"
        )


def _text_settings(text: TextConfig, dtype: str) -> dict[str, Any]:
    return {
        "model_type": "mistral",
        "hidden_size": text.dim,
        "num_hidden_layers": text.n_layers,
        "head_dim": text.head_dim,
        "intermediate_size": text.hidden_dim,
        "num_attention_heads": text.n_heads,
        "num_key_value_heads": text.n_kv_heads,
        "rms_norm_eps": text.norm_eps,
        "rope_theta": text.rope_theta,
        "vocab_size": text.vocab_size,
        "max_position_embeddings": text.max_seq_len,
        "max_seq_len": text.max_seq_len,
        "hidden_act": "silu",
        "tie_word_embeddings": text.tied_embeddings,
        "torch_dtype": dtype,
    }


def _vision_settings(vision: VisionConfig) -> dict[str, Any]:
    return {
        "model_type": "pixtral",
        "hidden_size": vision.hidden_size,
        "num_channels": vision.num_channels,
        "image_size": vision.image_size,
        "patch_size": vision.patch_size,
        "rope_theta": vision.rope_theta,
        "intermediate_size": vision.intermediate_size,
        "num_hidden_layers": vision.num_hidden_layers,
        "num_attention_heads": vision.num_attention_heads,
        "head_dim": vision.head_dim,
        "rms_norm_eps": vision.norm_eps,
        "hidden_act": "silu",
    }
