"""Folders as MLX writes them, made without the package: MLX's names, quantized on request."""

import json

import mlx.core as mx
from checkpoints import hf_config, hf_tensors, official_params, official_tensors

AFFINE = {"group_size": 32, "bits": 4}
SCHEMES = [
    AFFINE,
    {"group_size": 64, "bits": 3, "mode": "affine"},
    {"group_size": 32, "bits": 4, "mode": "mxfp4"},
    {"group_size": 16, "bits": 4, "mode": "nvfp4"},
    {"group_size": 32, "bits": 8, "mode": "mxfp8"},
]


def make_mlx(
    folder, *, quantization=None, overrides=None, text=None, vision=None, dtype=mx.float32
):
    """A folder as mlx-vlm writes it, made without the package: MLX names, quantized on request.

    `overrides` are {their module path: dict or False}; every other matrix, embedding included, is
    quantized by `quantization`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    params = official_params(text=text, vision=vision)
    config = hf_config(params)
    if vision is not False:
        config["model_type"] = "pixtral"
    stored = {}
    for name, values in hf_tensors(official_tensors(params), params).items():
        name = name.replace("vision_tower.", "vision_tower.vision_model.")
        array = mx.array(values).astype(dtype)
        array = array.transpose(0, 2, 3, 1) if array.ndim == 4 else array
        module = name.rpartition(".")[0]
        how = (overrides or {}).get(module, quantization)
        if array.ndim != 2 or not how:
            stored[name] = array
            continue
        parts = mx.quantize(array, **how)
        stored |= dict(zip((name, f"{module}.scales", f"{module}.biases"), parts, strict=False))
    if quantization:
        config["quantization"] = {**quantization, **(overrides or {})}
    (folder / "config.json").write_text(json.dumps(config))
    mx.save_safetensors(str(folder / "model.safetensors"), stored)
    return folder
