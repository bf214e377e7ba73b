"""The small files of a converted folder: what mlx-vlm and people need beside the weights."""

import json
import shutil
from pathlib import Path
from typing import Any

from .. import __version__
from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.hf_config import WRITTEN_BY, config_to_hf
from ..model.config import PixtralConfig
from ..tables import format_bytes
from .hf_tokenizer import SpecialIds, write_hf_tokenizer
from .plan import Plan

# CLIP's, as in mistral-common's image encoder.
IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)
BICUBIC = 3

TRANSFORMERS_CONFIG = "config.4.0.0.json"
"""Read instead of `config.json` by transformers from that version on, if `config.json` says so."""

# What a folder's own tokenizer consists of when there is no file for mistral-common.
HF_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.model",
    "chat_template.jinja", "chat_template.json",
)  # fmt: skip


def write_tokenizer(folder: Path, source: Checkpoint, config: PixtralConfig) -> SpecialIds:
    """Copy the tokenizer file, and derive from it what transformers and mlx-vlm read.

    Raises:
        OSError: the disk is full or not writable.
        CheckpointError: the file cannot be read.
    """
    file = source.tokenizer_file
    if file is None:
        for name in HF_TOKENIZER_FILES:
            if (source.folder / name).is_file():
                shutil.copyfile(source.folder / name, folder / name)
        return SpecialIds()
    copy = folder / ("tekken.json" if file.suffix == ".json" else file.name)
    shutil.copyfile(file, copy)
    if config.vision:
        _write_processor(folder, config)
    return write_hf_tokenizer(copy)


def write_config(folder: Path, config: PixtralConfig, plan: Plan, ids: SpecialIds) -> None:
    """`config.json` as mlx-vlm (with vision) or mlx-lm (without) reads it.

    What mlx-vlm calls "pixtral" is "llava" to transformers, where "pixtral" names the vision
    encoder alone; the file for transformers stands beside it under `TRANSFORMERS_CONFIG`. Without
    it, transformers (which mlx-vlm asks for the tokenizer) takes mistral-common's tokenizer
    wherever that is installed, to which the "[INST]" of a chat template is plain text.
    """
    tokens = {"bos_token_id": ids.bos, "eos_token_id": ids.eos, "pad_token_id": ids.pad}
    settings: dict[str, Any] = {name: value for name, value in tokens.items() if value is not None}
    settings |= config_to_hf(config, plan.dtype) | {WRITTEN_BY: __version__}
    if config.vision is not None:
        write_json(folder / TRANSFORMERS_CONFIG, settings | {"model_type": "llava"})
        settings["configuration_files"] = [TRANSFORMERS_CONFIG]
    quantization = plan.quantization()
    if quantization:
        # Under both names, as mlx-vlm and mlx-lm write it.
        settings |= {"quantization": quantization, "quantization_config": quantization}
    write_json(folder / "config.json", settings)


def write_index(folder: Path, plan: Plan, files: dict[str, str]) -> None:
    """`model.safetensors.index.json`: which file holds which tensor."""
    metadata = {"total_size": plan.nbytes, "total_parameters": plan.parameters}
    index = {"metadata": metadata, "weight_map": dict(sorted(files.items()))}
    write_json(folder / "model.safetensors.index.json", index)


def write_errors(folder: Path, plan: Plan, errors: dict[str, float]) -> None:
    """`quantization_error.json`: for every tensor how it is stored, and its relative error."""
    rows = []
    for tensor in plan.tensors:
        how = tensor.scheme.entry() if tensor.scheme else {"kept": tensor.dtype}
        row = {"tensor": tensor.name, "stored_as": tensor.theirs, "shape": list(tensor.shape)}
        row |= {**how, "bytes": tensor.nbytes, "relative_error": errors[tensor.name]}
        rows.append(row | ({"reason": tensor.reason} if tensor.reason else {}))
    about = (
        "relative_error: root of the sum of squared differences from the source, over the root of "
        "the sum of squares; 0 is exact"
    )
    write_json(folder / "quantization_error.json", {"about": about, "tensors": rows})


def write_card(folder: Path, plan: Plan, source: Checkpoint, errors: dict[str, float]) -> None:
    """A short model card, `README.md`."""
    quantized = [tensor for tensor in plan.tensors if tensor.scheme]
    schemes = sorted({str(tensor.scheme) for tensor in quantized}) or [f"none: {plan.dtype}"]
    worst = max(quantized, key=lambda tensor: errors[tensor.name], default=None)
    card = [
        "---\nlibrary_name: mlx\ntags: [mlx, pixtral]\n---\n",
        f"# {source.folder.resolve().name}, converted for MLX\n",
        f"- weights: {plan.parameters:,}, {plan.bits_per_weight:.2f} bits each "
        f"({format_bytes(plan.nbytes)})",
        f"- quantization: {'; '.join(schemes)}; the rest in {plan.dtype}",
    ]
    if worst:
        card.append(
            f"- largest relative error: {errors[worst.name]:.4f} ({worst.name}); all of them are "
            "in `quantization_error.json`"
        )
    names = "pixtral-mlx generate --model . --image picture.png --prompt 'What is this?'"
    others = "python -m mlx_vlm.generate --model . --image picture.png --prompt 'What is this?'"
    if any(tensor.name.startswith("vision_encoder.") for tensor in plan.tensors):
        card.append(f"\n```\n{names}\n{others}\n```")
    card.append("\nThe licence is that of the original model.\n")
    (folder / "README.md").write_text("\n".join(card), encoding="utf-8", errors="replace")


def write_json(path: Path, value: Any) -> None:
    """Indented UTF-8 JSON with a newline at the end."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8", errors="backslashreplace")


def _write_processor(folder: Path, config: PixtralConfig) -> None:
    """How transformers and mlx-vlm cut images; mlx-vlm's resizing is its own."""
    vision = config.vision
    if vision is None:
        return
    side = {"height": vision.patch_size, "width": vision.patch_size}
    pixels = {
        "image_processor_type": "PixtralImageProcessor",
        "size": {"longest_edge": vision.image_size},
        "patch_size": side,
        "image_mean": IMAGE_MEAN,
        "image_std": IMAGE_STD,
        "do_convert_rgb": True,
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "rescale_factor": 1 / 255,
        "resample": BICUBIC,
    }
    merging = {"spatial_merge_size": vision.spatial_merge_size} if vision.merges else {}
    words = {
        "processor_class": "PixtralProcessor",
        "patch_size": vision.patch_size,
        **merging,
        "image_token": "[IMG]",
        "image_break_token": "[IMG_BREAK]",
        "image_end_token": "[IMG_END]",
    }
    write_json(
        folder / "preprocessor_config.json", pixels | {"processor_class": "PixtralProcessor"}
    )
    write_json(folder / "processor_config.json", words)
