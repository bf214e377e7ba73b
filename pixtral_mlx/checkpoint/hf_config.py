"""`config.json`, as transformers, mlx-vlm and mlx-lm have it: read, and written."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..checks import listed, number
from ..errors import ConfigError
from ..files import read_file
from ..inputs.file_kind import saved_instead
from ..model.config import (
    DEFAULT_CONTEXT,
    PATCH_MERGE,
    PixtralConfig,
    QueryScaling,
    TextConfig,
    VisionConfig,
    Yarn,
    check_mapping,
    refuse,
)

# transformers' defaults (configuration_mistral, _ministral3, _mistral3, _pixtral): it leaves out of
# config.json what equals its default, and published files rely on that.
_HF_TEXT_DEFAULTS: dict[str, dict[str, Any]] = {
    "mistral": {
        "hidden_size": 4096, "num_hidden_layers": 32, "intermediate_size": 14336,
        "num_attention_heads": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-6,
        "vocab_size": 32000,
    },
    "ministral3": {
        "hidden_size": 4096, "num_hidden_layers": 34, "intermediate_size": 14336,
        "num_attention_heads": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-5,
        "vocab_size": 131072, "head_dim": 128, "max_position_embeddings": 262144,
        "rope_parameters": {
            "rope_type": "yarn", "rope_theta": 1e6, "factor": 16.0, "mscale": 1.0,
            "mscale_all_dim": 1.0, "original_max_position_embeddings": 16384,
            "llama_4_scaling_beta": 0.1,
        },
    },
}  # fmt: skip
_MISTRAL3 = {
    "text_config": {
        "model_type": "mistral", "head_dim": 128, "hidden_size": 5120, "intermediate_size": 32768,
        "num_attention_heads": 32, "num_hidden_layers": 40, "num_key_value_heads": 8,
        "rms_norm_eps": 1e-5, "rope_theta": 1e9, "vocab_size": 131072,
    },
    "vision_config": {"image_size": 1540, "patch_size": 14},
}  # fmt: skip
"""What a `config.json` of `model_type: mistral3` means that has no such entry at all."""
_HF_VISION_DEFAULTS = {
    "hidden_size": 1024, "num_channels": 3, "image_size": 1024, "patch_size": 16,
    "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
}  # fmt: skip


MOST_BYTES = 16_000_000
"""Of a configuration or an index; real ones are a few hundred kB at most."""

ORIGINAL = "original_max_position_embeddings"
"""The context of the training before, in `rope_parameters`."""
WRITTEN_BY = "pixtral_mlx"
"""The key of a folder of ours; other programs do not look at it."""
_TEXT_KEYS = (
    "hidden_size", "num_hidden_layers", "head_dim", "intermediate_size", "num_attention_heads",
    "num_key_value_heads", "rms_norm_eps", "rope_theta", "vocab_size", "max_seq_len",
)  # fmt: skip
_VISION_KEYS = (*_HF_VISION_DEFAULTS, "rope_theta", "head_dim")
"""What changes answers and transformers has a value of its own for."""

_SEEING = ("llava", "pixtral", "mistral3")
_READ = (*_SEEING, *_HF_TEXT_DEFAULTS)
_KNOWN = {
    "mistral4": ", Mistral Small 4, a mixture of experts (mlx-vlm reads it)",
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
    _check_complete(settings)
    kind = settings.get("model_type")
    if kind not in _READ:
        raise ConfigError(
            f"config.json: model_type is {kind!r}{_KNOWN.get(str(kind), '')}; "
            f"{', '.join(_READ[:-1])} and {_READ[-1]} are read: this folder holds another "
            "architecture"
        )
    if kind == "mistral3":
        settings = {**_MISTRAL3, **settings}
    if kind == "pixtral" and not {"text_config", "vision_config"} & set(settings):
        raise ConfigError(
            "config.json: a vision encoder alone (model_type 'pixtral' without text_config): give "
            "the folder of the whole model"
        )
    text = settings.get("text_config", {}) if kind in _SEEING else settings
    check_mapping(text, "config.json: text_config")
    _refuse_others(text, "model_type", tuple(_HF_TEXT_DEFAULTS), "text_config.")
    refuse(text, ("sliding_window", "llama_4_scaling"), "config.json")
    _refuse_others(text, "hidden_act", ("silu",))
    text_config = _text_from_hf(text, settings)
    if kind not in _SEEING:
        return PixtralConfig(text_config)
    _refuse_others(settings, "projector_hidden_act", ("gelu",))
    _refuse_others(settings, "vision_feature_layer", (-1,))
    vision = settings.get("vision_config", {})
    check_mapping(vision, "config.json: vision_config")
    _refuse_others(vision, "model_type", ("pixtral",), "vision_config.")
    return PixtralConfig(text_config, _vision_from_hf(vision, settings))


def _check_complete(settings: Mapping[str, Any]) -> None:
    """A folder of ours says everything: what is missing is not what transformers assumes."""
    if WRITTEN_BY not in settings:
        return
    parts = {"": settings}
    if settings.get("model_type") in _SEEING:
        parts = {f"{name}.": settings.get(name, {}) for name in ("text_config", "vision_config")}
    for part, held in parts.items():
        check_mapping(held, f"config.json: {part}")
        needed = _VISION_KEYS if "vision" in part else _TEXT_KEYS
        if missing := [f"{part}{key}" for key in needed if held.get(key) is None]:
            raise ConfigError(
                f"config.json: missing {', '.join(missing)}, which {WRITTEN_BY} wrote: convert "
                "again"
            )


def config_to_hf(config: PixtralConfig, dtype: str) -> dict[str, Any]:
    """The same sizes as transformers, mlx-vlm (with vision) and mlx-lm (without) read them.

    Arguments:
        dtype: what the unquantized weights are in.

    Raises:
        ConfigError: patches are merged without a norm before, which no `mistral3` is without.
    """
    text, vision = _text_settings(config.text, dtype), config.vision
    if vision is None:
        name = "Ministral3" if text["model_type"] == "ministral3" else "Mistral"
        return {"architectures": [f"{name}ForCausalLM"], **text}
    if vision.merges != vision.add_pre_mm_projector_layer_norm:
        raise ConfigError(
            "vision_encoder: add_pre_mm_projector_layer_norm goes with mm_projector_id "
            f"{PATCH_MERGE!r}, here only one of them is set: other programs could not open it"
        )
    name, kind = ("Mistral3", "mistral3") if vision.merges else ("Llava", "pixtral")
    ends = {
        "image_break_token_id": vision.image_break_token_id,
        "image_end_token_id": vision.image_end_token_id,
    }
    return {name: value for name, value in ends.items() if value is not None} | {
        **({"spatial_merge_size": vision.spatial_merge_size} if vision.merges else {}),
        "architectures": [f"{name}ForConditionalGeneration"],
        "model_type": kind,
        "image_token_index": vision.image_token_id,
        "image_token_id": vision.image_token_id,
        "multimodal_projector_bias": vision.adapter_bias,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
        "vocab_size": config.text.vocab_size,
        "tie_word_embeddings": config.text.tied_embeddings,
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
        return json.loads(read_file(path, MOST_BYTES).decode())
    except (OSError, ValueError, RecursionError) as error:
        what = saved_instead(path)
        raise ConfigError(
            f"{path}: {what}"
            if what
            else f"{path}: not readable as JSON ({error}): fetch the file again"
        ) from error


def _text_from_hf(text: Mapping[str, Any], config: Mapping[str, Any]) -> TextConfig:
    ministral = text.get("model_type") == "ministral3"
    defaults = _HF_TEXT_DEFAULTS["ministral3" if ministral else "mistral"]

    def value(key: str) -> Any:
        return text[key] if text.get(key) is not None else defaults.get(key)

    head_dim = value("head_dim")
    if head_dim is None:
        width, heads = value("hidden_size"), value("num_attention_heads")
        if type(width) is not int or type(heads) is not int or heads < 1:
            raise ConfigError(
                f"config.json: hidden_size {width!r} over num_attention_heads {heads!r} is not a "
                "head width: compare it with the published file"
            )
        head_dim = width // heads
    if config.get("model_type") == "mistral3":
        # transformers asks the outer entry alone; mlx-vlm, whose folders have none, the inner one.
        tied = config.get("tie_word_embeddings", text.get("tie_word_embeddings", True))
    else:
        tied = text.get("tie_word_embeddings", config.get("tie_word_embeddings", False))
    context = value("max_position_embeddings") if ministral else None
    return TextConfig(
        dim=value("hidden_size"),
        n_layers=value("num_hidden_layers"),
        head_dim=head_dim,
        hidden_dim=value("intermediate_size"),
        n_heads=value("num_attention_heads"),
        n_kv_heads=value("num_key_value_heads"),
        norm_eps=value("rms_norm_eps"),
        rope_theta=_rope_theta({**text, "rope_parameters": value("rope_parameters")}, 10_000.0),
        vocab_size=value("vocab_size"),
        max_seq_len=text.get("max_seq_len") or context or DEFAULT_CONTEXT,
        tied_embeddings=bool(tied),
        **_long_context(text, value("rope_parameters") or {}),
    )


def _long_context(text: Mapping[str, Any], parameters: Any) -> dict[str, Any]:
    """YaRN and the growth of queries, as `rope_parameters` of transformers 5 or `rope_scaling` of
    those before say it."""
    found: dict[str, Any] = {}
    for key, rope in (
        ("rope_scaling", text.get("rope_scaling") or {}),
        ("rope_parameters", parameters),
    ):
        where = f"config.json: {key}"
        check_mapping(rope, where)
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind not in ("default", "yarn"):
            refuse(text, (key,), "config.json")
        growth = rope.get("llama_4_scaling_beta") or None
        if rope.get(ORIGINAL) is None and (kind == "yarn" or growth):
            raise ConfigError(f"{where}: {ORIGINAL} is missing: compare it with the published file")
        if kind == "yarn":
            try:
                grows = _grows(where, rope)
            except ValueError as error:
                raise ConfigError(str(error)) from None
            fast, slow = rope.get("beta_fast") or 32.0, rope.get("beta_slow") or 1.0
            found["yarn"] = Yarn(rope["factor"], rope[ORIGINAL], fast, slow, grows)
        if growth:
            found["llama_4_scaling"] = QueryScaling(growth, rope[ORIGINAL])
    return found


def _grows(where: str, rope: Mapping[str, Any]) -> bool:
    """Whether YaRN multiplies queries and keys by `1 + 0.1 ln(factor)`, its default.

    Raises:
        ConfigError: they are multiplied by something else.
        ValueError: a number is none.
    """
    for key in ("factor", "mscale", "mscale_all_dim", "attention_factor"):
        if key == "factor" or rope.get(key) is not None:
            number(f"{where}: {key}", rope.get(key), 0)
    tenth = 0.1 * math.log(max(rope["factor"], 1))
    found, one, all_dim = (rope.get(k) for k in ("attention_factor", "mscale", "mscale_all_dim"))
    if found is None:
        found = (1 + one * tenth) / (1 + all_dim * tenth) if one and all_dim else 1 + tenth
    if math.isclose(found, 1, rel_tol=1e-6):
        return False
    if math.isclose(found, 1 + tenth, rel_tol=1e-6):
        return True
    raise ConfigError(
        f"{where}: mscale, mscale_all_dim or attention_factor multiply queries and keys by "
        f"{found:.4g}, neither 1 nor 1 + 0.1 ln(factor): this folder holds another model"
    )


def _vision_from_hf(vision: Mapping[str, Any], config: Mapping[str, Any]) -> VisionConfig:
    values = {key: vision.get(key, default) for key, default in _HF_VISION_DEFAULTS.items()}
    width, heads = values["hidden_size"], values["num_attention_heads"]
    stated = vision.get("head_dim")
    if stated is not None and type(heads) is int and (stated, 0) != divmod(width, max(heads, 1)):
        raise ConfigError(
            f"config.json: vision_config.head_dim {stated!r} is not hidden_size {width!r} over "
            f"{heads} heads: compare it with the published file"
        )
    _refuse_others(vision, "rms_norm_eps", (VisionConfig.norm_eps,), "vision_config.")
    image_token = config.get("image_token_index")
    if image_token is None:
        image_token = config.get("image_token_id", 10)
    merging: dict[str, Any] = {}
    if config.get("model_type") == "mistral3":
        side = config.get("spatial_merge_size")
        merging = {
            "mm_projector_id": PATCH_MERGE,
            "add_pre_mm_projector_layer_norm": True,
            "spatial_merge_size": 2 if side is None else side,
        }
    return VisionConfig(
        **values,
        **merging,
        rope_theta=_rope_theta(vision, 10_000.0),
        image_token_id=image_token,
        image_break_token_id=config.get("image_break_token_id"),
        image_end_token_id=config.get("image_end_token_id"),
        adapter_bias=config.get("multimodal_projector_bias", not merging),
    )


def _rope_theta(config: Mapping[str, Any], default: float) -> float:
    """`rope_theta` stands at the top level, or since transformers 5 in `rope_parameters`."""
    for holder in (config, config.get("rope_parameters") or {}):
        check_mapping(holder, "config.json: rope_parameters")
        if holder.get("rope_theta") is not None:
            return holder["rope_theta"]  # checked with the other sizes
    return default


def _refuse_others(
    values: Mapping[str, Any], key: str, allowed: tuple[Any, ...], where: str = ""
) -> None:
    """A setting that has few values here."""
    if values.get(key) not in (*allowed, None):
        raise ConfigError(
            f"config.json: {where}{key} is {values[key]!r}, Pixtral's is "
            f"{listed(map(repr, allowed))}: this folder holds another model"
        )


def _text_settings(text: TextConfig, dtype: str) -> dict[str, Any]:
    rope = _rope_parameters(text)
    return {
        **({"rope_parameters": rope} if rope else {}),
        "model_type": "ministral3" if rope else "mistral",
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


def _rope_parameters(text: TextConfig) -> dict[str, Any]:
    """What transformers and mlx-vlm ask of a Ministral 3; {} for other decoders."""
    yarn, growth = text.yarn, text.llama_4_scaling
    if yarn is None and growth is None:
        return {}
    original = (yarn or growth).original_max_position_embeddings  # type: ignore[union-attr]
    if growth is not None and growth.original_max_position_embeddings != original:
        raise ConfigError(
            f"llama_4_scaling counts from {growth.original_max_position_embeddings} tokens and "
            f"yarn from {original}: other programs have one number for both"
        )
    found = {
        "rope_theta": text.rope_theta,
        "rope_type": "yarn" if yarn else "default",
        "original_max_position_embeddings": original,
        "max_position_embeddings": text.max_seq_len,
        "llama_4_scaling_beta": growth.beta if growth else 0.0,
    }
    if yarn is not None:
        found |= {"factor": yarn.factor, "beta_fast": yarn.beta, "beta_slow": yarn.alpha}
        found |= {"mscale": 1.0, "mscale_all_dim": 0.0 if yarn.apply_scale else 1.0}
    return found


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
