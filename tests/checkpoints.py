"""Small random Pixtral checkpoints in the layouts that exist in the wild.

Nothing here uses the package under test: files are written byte by byte, so that a mistake in
`pixtral_mlx` cannot hide in a checkpoint that makes the same one. Numbers come from numpy's frozen
legacy generator, seeded by (seed, tensor name): the same on every machine and numpy release, and
independent of the order in which tensors are made.

The scales are chosen so that mistakes show: attention is far from uniform, norm weights are not
one, biases are not zero, and patch embeddings are small enough (rms about 0.06) for the epsilon of
`ln_pre` to matter.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

TEXT = {
    "dim": 128,
    "n_layers": 3,
    "head_dim": 16,
    "hidden_dim": 256,
    "n_heads": 4,  # 4 x 16 != 128, as in Pixtral 12B
    "n_kv_heads": 2,
    "norm_eps": 1e-5,
    "rope_theta": 1e9,
    "vocab_size": 512,
}
VISION = {
    "hidden_size": 64,
    "num_channels": 3,
    "image_size": 1024,
    "patch_size": 16,
    "rope_theta": 1e4,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_token_id": 10,
}
HEIR_VISION = {
    "image_size": 1540,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "mm_projector_id": "patch_merge",
    "add_pre_mm_projector_layer_norm": True,
    "adapter_bias": False,
}
"""What Mistral Small 3.1 and later change in the encoder and the projector."""
MINISTRAL_TEXT = {
    "rope_theta": 1e6,
    "yarn": {
        "factor": 16, "original_max_position_embeddings": 32, "beta": 32, "alpha": 1,
        "apply_scale": False,
    },
    "llama_4_scaling": {"beta": 0.1, "original_max_position_embeddings": 32},
}  # fmt: skip
"""What Ministral 3 changes in the decoder, with so short a context before YaRN that a test goes
far beyond it."""
TEKKEN_FILE = "tekken_240911.json"
SPM_FILE = "mistral_instruct_tokenizer_241114.model.v7m1"
TEKKEN_SPECIALS = 20
SAFETENSORS_TYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def make_official(
    folder,
    *,
    seed: int = 0,
    text: Mapping | None = None,
    vision: Mapping | bool | None = None,
    dtype: str = "float32",
    shards: int = 1,
    tokenizer: str | None = "tekken",
) -> Path:
    """Writes a random checkpoint in Mistral's own layout and returns its folder.

    Arguments:
        folder: created if needed.
        seed: another seed, other weights.
        text, vision: keys that replace those of `TEXT` and `VISION`; `vision=False` makes a
            text-only Mistral NeMo folder. A `text` or `vision` key set to None is left out of
            `params.json`.
        dtype: "float32", "float16" or "bfloat16".
        shards: above 1, `consolidated-0000i-of-0000n.safetensors` and an index are written.
        tokenizer: "tekken" (small Tekken v3 of `vocab_size` words), "tekken-v7", "-v11" or "-v13"
            (the same with the template of Pixtral's heirs), "spm" (the SentencePiece v7m1 of
            Pixtral Large: 32,768 words, break 14, end 15) or None.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    params = official_params(text=text, vision=vision, tokenizer=tokenizer)
    (folder / "params.json").write_text(json.dumps(params, indent=2))
    write_tokenizer(folder, tokenizer, params["vocab_size"], params.get("vision_encoder"))
    tensors = official_tensors(params, seed=seed)
    write_checkpoint(folder, "consolidated", tensors, dtype=dtype, shards=shards)
    return folder


def official_params(*, text=None, vision=None, tokenizer: str | None = "tekken") -> dict:
    """The contents of `params.json` for the same arguments of `make_official`."""
    words = {"vocab_size": 32768} if tokenizer == "spm" else {}
    params = {**TEXT, **words, **(text or {})}
    if vision is not False:
        ids = {"image_break_token_id": 14, "image_end_token_id": 15} if tokenizer == "spm" else {}
        extra = vision if isinstance(vision, Mapping) else {}
        params["vision_encoder"] = _without_none({**VISION, **ids, **extra})
    return _without_none(params)


def official_tensors(params: Mapping, *, seed: int = 0) -> dict[str, np.ndarray]:
    """Random float32 tensors under their official names, for the contents of a `params.json`."""
    shapes = official_shapes(params)
    return {name: _random(name, shape, seed) for name, shape in shapes.items()}


def official_shapes(params: Mapping) -> dict[str, tuple[int, ...]]:
    """Official tensor name -> shape, in the order of the published file."""
    dim, words = params["dim"], params["vocab_size"]
    query = params["n_heads"] * params["head_dim"]
    key = params["n_kv_heads"] * params["head_dim"]
    shapes = {"tok_embeddings.weight": (words, dim), "norm.weight": (dim,)}
    if not params.get("tied_embeddings", False):
        shapes["output.weight"] = (words, dim)
    for n in range(params["n_layers"]):
        shapes |= _block(f"layers.{n}", dim, query, key, params["hidden_dim"])
    eye = params.get("vision_encoder")
    if eye:
        width, side = eye["hidden_size"], eye["patch_size"]
        shapes["vision_encoder.patch_conv.weight"] = (width, eye["num_channels"], side, side)
        shapes["vision_encoder.ln_pre.weight"] = (width,)
        for n in range(eye["num_hidden_layers"]):
            at = f"vision_encoder.transformer.layers.{n}"
            shapes |= _block(at, width, width, width, eye["intermediate_size"])
        if eye.get("add_pre_mm_projector_layer_norm"):
            shapes["pre_mm_projector_norm.weight"] = (width,)
        if eye.get("mm_projector_id") == "patch_merge":
            merged = width * eye["spatial_merge_size"] ** 2
            shapes["patch_merger.merging_layer.weight"] = (width, merged)
        for name, inputs in (("w_in", width), ("w_out", dim)):
            shapes[f"vision_language_adapter.{name}.weight"] = (dim, inputs)
            if eye.get("adapter_bias", True):
                shapes[f"vision_language_adapter.{name}.bias"] = (dim,)
    return shapes


def _block(at: str, width: int, query: int, key: int, hidden: int) -> dict[str, tuple[int, ...]]:
    """Shapes of one transformer block, the same for vision and text."""
    return {
        f"{at}.attention.wq.weight": (query, width),
        f"{at}.attention.wk.weight": (key, width),
        f"{at}.attention.wv.weight": (key, width),
        f"{at}.attention.wo.weight": (width, query),
        f"{at}.feed_forward.w1.weight": (hidden, width),
        f"{at}.feed_forward.w2.weight": (width, hidden),
        f"{at}.feed_forward.w3.weight": (hidden, width),
        f"{at}.attention_norm.weight": (width,),
        f"{at}.ffn_norm.weight": (width,),
    }


def _random(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """One tensor, seeded by its name; see the module docstring for the scales."""
    state = np.random.RandomState([seed, zlib.crc32(name.encode())])
    values = state.standard_normal(shape)
    if name.endswith(".bias"):
        values *= 0.3
    elif len(shape) == 1:
        values = 1 + 0.2 * values
    elif "patch_conv" in name:
        values *= 0.002
    elif "tok_embeddings" in name:
        values *= 0.8
    else:
        # Queries and keys of standard deviation 1.5 give scores of about 2: a peaked softmax.
        gain = 1.5 if name.endswith(("wq.weight", "wk.weight")) else 1.0
        gain = 0.7 if name.endswith(("wo.weight", "w2.weight")) else gain
        gain = 3.0 if name == "output.weight" else gain
        values *= gain / shape[-1] ** 0.5
    if name == "output.weight":
        values[:TEKKEN_SPECIALS] *= 0.1  # no control token wins: replies do not end by chance
    return values.astype(np.float32)


# Tokenizers -----------------------------------------------------------------------------------


def shipped_tokenizer(name: str) -> Path:
    """Path of a tokenizer file that mistral-common ships; found without importing it."""
    spec = importlib.util.find_spec("mistral_common")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("mistral-common is not installed; these tests need its data")
    return Path(spec.submodule_search_locations[0]) / "data" / name


def write_tokenizer(folder: Path, kind: str | None, words: int, eye: Mapping | None) -> None:
    """Writes `tekken.json` or copies the SentencePiece file, as `make_official` describes.

    Arguments:
        eye: the `vision_encoder` of the model, or None.
    """
    if kind is not None and kind.startswith("tekken"):
        version = kind.partition("-")[2] or "v3"
        sizes = eye and (eye["patch_size"], eye["image_size"], eye.get("spatial_merge_size", 1))
        (folder / "tekken.json").write_text(_small_tekken(words, sizes, version))
    elif kind == "spm":
        shutil.copyfile(shipped_tokenizer(SPM_FILE), folder / "tokenizer.model.v7m1")
    elif kind is not None:
        raise ValueError(f'tokenizer {kind!r}: use "tekken", "tekken-v13", "spm" or None')


HEIR_SPECIALS = (
    "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]",
    "[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]",
    "[TOOL_CONTENT]", "[CALL_ID]", "[ARGS]", "[THINK]", "[/THINK]",
)  # fmt: skip
"""Control words in the order in which the heirs' files list them."""


@functools.cache
def _small_tekken(words: int, sizes: tuple[int, int, int] | None, version: str) -> str:
    """The first entries of Pixtral's Tekken file: bytes first, so that any text encodes.

    Arguments:
        sizes: of a patch and of the longest side in pixels, and of a merged square in patches.
    """
    if version != "v3":
        return _heirs_tekken(words, sizes, version)
    data = json.loads(shipped_tokenizer(TEKKEN_FILE).read_text())
    inner = words - TEKKEN_SPECIALS
    if inner < 256:
        raise ValueError(f"vocab_size {words}: at least {256 + TEKKEN_SPECIALS} for all bytes")
    config = data["config"] | {
        "num_vocab_tokens": inner,
        "default_vocab_size": words,
        "default_num_special_tokens": TEKKEN_SPECIALS,
    }
    small = {"config": config, "vocab": data["vocab"][:inner]}
    if sizes:
        small["image"] = _image_sizes(sizes)
    return json.dumps(small)


def _heirs_tekken(words: int, sizes: tuple[int, int, int] | None, version: str) -> str:
    """The same with control words in the file, as from v11 on."""
    data = json.loads(shipped_tokenizer(TEKKEN_FILE).read_text())
    specials = [
        {"rank": i, "token_str": word, "is_control": True} for i, word in enumerate(HEIR_SPECIALS)
    ]
    inner = words - len(specials)
    config = data["config"] | {
        "num_vocab_tokens": inner,
        "default_vocab_size": words,
        "default_num_special_tokens": len(specials),
        "version": version,
    }
    small = {"config": config, "vocab": data["vocab"][:inner], "special_tokens": specials}
    if sizes:
        small["image"] = _image_sizes(sizes)
    return json.dumps(small)


def _image_sizes(sizes: tuple[int, int, int]) -> dict:
    patch, longest, merged = sizes
    found = {"image_patch_size": patch, "max_image_size": longest}
    return found | {"spatial_merge_size": merged} if merged > 1 else found


# HF layout ------------------------------------------------------------------------------------

HF_BLOCK = {
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
HF_VISION_BLOCK = {
    "attention.wq": "attention.q_proj",
    "attention.wk": "attention.k_proj",
    "attention.wv": "attention.v_proj",
    "attention.wo": "attention.o_proj",
    "feed_forward.w1": "feed_forward.gate_proj",
    "feed_forward.w2": "feed_forward.down_proj",
    "feed_forward.w3": "feed_forward.up_proj",
    "attention_norm": "attention_norm",
    "ffn_norm": "ffn_norm",
}
# (text, head, projector, vision): published llava folders, transformers 5 in memory, what 5.4.0 to
# 5.5.4 saved, text only.
HF_PREFIXES = {
    "hub": ("language_model.model.", "language_model.", "", ""),
    "v5": ("model.language_model.", "", "model.", "model."),
    "v5.4": ("model.language_model.model.", "language_model.", "model.", "model."),
    "text": ("model.", "", "", ""),
}


def make_hf(
    folder,
    *,
    seed: int = 0,
    text: Mapping | None = None,
    vision: Mapping | bool | None = None,
    dtype: str = "float32",
    shards: int = 1,
    keys: str = "hub",
    tokenizer: str | None = "tekken",
) -> Path:
    """Writes the checkpoint of `make_official` in the layout of transformers.

    `model_type` is "llava", "mistral3" where patches are merged, or "mistral" and "ministral3" for
    `vision=False`; rows of the query and key matrices
    are in rotate-half order. `keys` is "hub" (as published llava folders), "v5" (the parameter
    names of transformers 5) or "v5.4" (what its releases 5.4.0 to 5.5.4 saved). The other
    arguments are those of `make_official`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    params = official_params(text=text, vision=vision, tokenizer=tokenizer)
    (folder / "config.json").write_text(json.dumps(hf_config(params, dtype=dtype), indent=2))
    write_tokenizer(folder, tokenizer, params["vocab_size"], params.get("vision_encoder"))
    keys = keys if params.get("vision_encoder") else "text"
    tensors = hf_tensors(official_tensors(params, seed=seed), params, keys=keys)
    write_checkpoint(folder, "model", tensors, dtype=dtype, shards=shards)
    return folder


def hf_config(params: Mapping, *, dtype: str = "float32") -> dict:
    """The `config.json` that transformers reads for the contents of a `params.json`."""
    text = {
        "model_type": "mistral",
        "hidden_size": params["dim"],
        "intermediate_size": params["hidden_dim"],
        "num_hidden_layers": params["n_layers"],
        "num_attention_heads": params["n_heads"],
        "num_key_value_heads": params["n_kv_heads"],
        "head_dim": params["head_dim"],
        "hidden_act": "silu",
        "rms_norm_eps": params["norm_eps"],
        "rope_theta": params["rope_theta"],
        "vocab_size": params["vocab_size"],
        "max_position_embeddings": 1024000,
        "sliding_window": None,
        "tie_word_embeddings": bool(params.get("tied_embeddings", False)),
    }
    if "yarn" in params:
        text |= ministral_settings(params)
    eye = params.get("vision_encoder")
    if not eye:
        name = "Ministral3" if "yarn" in params else "Mistral"
        return {"architectures": [f"{name}ForCausalLM"], **text, "torch_dtype": dtype}
    names = ("hidden_size", "num_channels", "image_size", "patch_size", "rope_theta")
    names += ("intermediate_size", "num_hidden_layers", "num_attention_heads")
    vision = {"model_type": "pixtral", "hidden_act": "silu"} | {name: eye[name] for name in names}
    merging = {"architectures": ["LlavaForConditionalGeneration"], "model_type": "llava"}
    if eye.get("mm_projector_id"):
        merging = {
            "architectures": ["Mistral3ForConditionalGeneration"],
            "model_type": "mistral3",
            "spatial_merge_size": eye["spatial_merge_size"],
        }
        vision["head_dim"] = eye["hidden_size"] // eye["num_attention_heads"]
    return {
        **merging,
        "image_token_index": eye["image_token_id"],
        "multimodal_projector_bias": eye.get("adapter_bias", True),
        "projector_hidden_act": "gelu",
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
        "tie_word_embeddings": text["tie_word_embeddings"],
        "torch_dtype": dtype,
        "text_config": text,
        "vision_config": vision,
    }


def ministral_settings(params: Mapping) -> dict:
    """What the decoder's part of a `config.json` says of Ministral 3's positions."""
    yarn, growth = params["yarn"], params["llama_4_scaling"]
    return {
        "model_type": "ministral3",
        "max_position_embeddings": 262144,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": params["rope_theta"],
            "factor": float(yarn["factor"]),
            "original_max_position_embeddings": yarn["original_max_position_embeddings"],
            "beta_fast": float(yarn["beta"]),
            "beta_slow": float(yarn["alpha"]),
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "llama_4_scaling_beta": growth["beta"],
        },
    }


def hf_tensors(tensors: Mapping, params: Mapping, *, keys: str = "hub") -> dict[str, np.ndarray]:
    """Official tensors under transformers' names, with `wq` and `wk` in rotate-half order."""
    eye = params.get("vision_encoder", {})
    heads = {"layers": params["head_dim"]}
    if eye:
        heads["vision_encoder"] = eye["hidden_size"] // eye["num_attention_heads"]
    found = {}
    for name, values in tensors.items():
        if ".wq." in name or ".wk." in name:
            values = to_rotate_half(values, heads[name.split(".")[0]])
        found[hf_name(name, keys=keys)] = values
    return found


def hf_name(name: str, *, keys: str = "hub") -> str:
    """One official tensor name in transformers' words."""
    text, head, projector, vision = HF_PREFIXES[keys]
    whole = {
        "tok_embeddings.weight": f"{text}embed_tokens.weight",
        "norm.weight": f"{text}norm.weight",
        "output.weight": f"{head}lm_head.weight",
    }
    if name in whole:
        return whole[name]
    if name == "pre_mm_projector_norm.weight":
        return f"{projector}multi_modal_projector.norm.weight"
    if name.startswith("patch_merger."):
        return f"{projector}multi_modal_projector.{name}"
    if name.startswith("vision_language_adapter."):
        name = name.replace("vision_language_adapter.", f"{projector}multi_modal_projector.")
        return name.replace("w_in", "linear_1").replace("w_out", "linear_2")
    eye = name.startswith("vision_encoder.")
    for ours, theirs in (HF_VISION_BLOCK if eye else HF_BLOCK).items():
        name = name.replace(f".{ours}.", f".{theirs}.")
    return name.replace("vision_encoder.", f"{vision}vision_tower.") if eye else text + name


def to_rotate_half(weight: np.ndarray, head_dim: int) -> np.ndarray:
    """Rows of each head reordered from pairs (2j, 2j+1) to (j, j + head_dim / 2)."""
    rows, columns = weight.shape
    pairs = weight.reshape(rows // head_dim, head_dim // 2, 2, columns)
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(rows, columns))


# Files ----------------------------------------------------------------------------------------


def write_checkpoint(
    folder: Path, stem: str, tensors: Mapping, *, dtype: str = "float32", shards: int = 1
) -> None:
    """Writes `stem.safetensors`, or `shards` files of it and `stem.safetensors.index.json`."""
    if shards == 1:
        return write_safetensors(folder / f"{stem}.safetensors", tensors, dtype=dtype)
    names = list(tensors)
    weight_map = {}
    for i in range(shards):
        file = f"{stem}-{i + 1:05d}-of-{shards:05d}.safetensors"
        part = names[i * len(names) // shards : (i + 1) * len(names) // shards]
        write_safetensors(folder / file, {name: tensors[name] for name in part}, dtype=dtype)
        weight_map |= dict.fromkeys(part, file)
    total = sum(a.size for a in tensors.values()) * (4 if dtype == "float32" else 2)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=2))


def write_safetensors(
    path: Path, tensors: Mapping, *, dtype: str = "float32", kinds: Mapping | None = None
) -> None:
    """Writes float32 arrays as one safetensors file of another floating type; `kinds` says which
    of them are bytes of a type of their own."""
    header, blobs, start = {}, [], 0
    for name, values in tensors.items():
        own = (kinds or {}).get(name)
        blob = values.tobytes() if own else _encode(values, dtype)
        span = [start, start + len(blob)]
        kind, shape = own or SAFETENSORS_TYPES[dtype], list(values.shape)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": span}
        blobs.append(blob)
        start += len(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.writelines(blobs)


def make_fp8(folder: Path, tensors: Mapping, *, hf: bool) -> dict[str, np.ndarray]:
    """Writes a folder's weights anew as Mistral does for Ministral 3: the decoder's matrices in FP8
    with a scale a tensor, and scales of activations.

    Arguments:
        folder: of `make_official` or `make_hf`, with one weight file.
        tensors: official names and values, or transformers'.
        hf: whether they are transformers'.

    Returns:
        {name: what the weights are after rounding}.
    """
    stored, kinds, rounded = {}, {}, {}
    for name, values in tensors.items():
        if values.ndim != 2 or not name.startswith(("layers.", "language_model.model.layers.")):
            stored[name] = rounded[name] = values
            continue
        stem, scale = name.removesuffix(".weight"), np.float32(np.abs(values).max() / 448)
        stored[name], kinds[name] = to_e4m3(values / scale), "F8_E4M3"
        rounded[name] = E4M3[stored[name]] * scale
        weight, activation = ("weight_scale_inv", "activation_scale") if hf else QSCALES
        stored[f"{stem}.{weight}"] = np.array(scale, np.float32)
        stored[f"{stem}.{activation}"] = np.array(0.01, np.float32)
    (file,) = folder.glob("*.safetensors")
    write_safetensors(file, stored, kinds=kinds)
    if hf:
        how = {"quant_method": "fp8", "activation_scheme": "static", "weight_block_size": None}
        change_json(folder / "config.json", quantization_config=how)
    else:
        how = {"qformat_weight": "fp8_e4m3", "qscheme_act": "TENSOR"}
        change_json(folder / "params.json", quantization=how)
    return rounded


QSCALES = ("qscale_weight", "qscale_act")


def _e4m3() -> np.ndarray:
    """The values of the 256 bytes: a sign, 4 bits of exponent (bias 7), 3 of fraction."""
    bits = np.arange(256)
    exponent, fraction = (bits >> 3) & 15, bits & 7
    normal = 2.0 ** (exponent - 7.0) * (1 + fraction / 8)
    values = np.where(exponent == 0, 2.0**-6 * fraction / 8, normal)
    values[(bits & 127) == 127] = np.nan
    return np.where(bits > 127, -values, values).astype(np.float32)


E4M3 = _e4m3()


def to_e4m3(values: np.ndarray) -> np.ndarray:
    """The nearest FP8 of each value, as bytes."""
    order = np.argsort(E4M3[:127])
    steps = E4M3[order]
    after = np.clip(np.searchsorted(steps, np.abs(values)), 1, len(steps) - 1)
    nearer = after - (np.abs(values) - steps[after - 1] < steps[after] - np.abs(values))
    return (order[nearer] | (128 * (values < 0))).astype(np.uint8)


def change_json(path: Path, **changes) -> None:
    """Writes a JSON object again with these keys changed."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _encode(values: np.ndarray, dtype: str) -> bytes:
    """Little-endian bytes; bfloat16, which numpy lacks, is rounded to nearest even by hand."""
    values = np.ascontiguousarray(values, dtype="<f4")
    if dtype == "bfloat16":
        bits = values.view("<u4")
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()
    return values.astype({"float32": "<f4", "float16": "<f2"}[dtype]).tobytes()


def _without_none(settings: Mapping) -> dict:
    """The settings that are given."""
    return {name: value for name, value in settings.items() if value is not None}
