"""`pixtral-mlx inspect`: what is in a model, or what a picture or a PDF becomes."""

import contextlib
from argparse import Namespace
from dataclasses import replace
from math import prod
from pathlib import Path
from shlex import quote
from typing import Any

from PIL import Image

from ..cost.machine import machine
from ..engine.capacity import kv_bytes_per_token
from ..errors import CheckpointError
from ..inputs.image import decode_image, exif_orientation, upright
from ..inputs.image_options import ImageOptions
from ..inputs.image_source import SUFFIXES, read_source, short_name
from ..inputs.page_choice import check_no_choice, split_choice
from ..inputs.pages import has_pages
from ..inputs.pixels import shrunk
from ..interpret.activations import FLOAT16_MOST, largest_activations
from ..interpret.picture import MAX_SIDE, draw_patch_grid, save_new
from ..model.config import PIXTRAL_12B, PIXTRAL_12B_VISION
from ..model.prompt import patch_grid
from ..tables import format_bytes, format_share, format_table
from .inspect_pages import describe_pages, pages_text
from .question import image_options
from .status import Status
from .stdin import read_stdin
from .wrap import say, say_json

PICTURE_SIDE, QUESTION = 512, "What is in this picture?"
"""What `--check` shows a model; the picture is smaller where the model takes no larger one."""

_PARTS_OF_SITES = {"vision": "encoder", "projector": "projector", "text": "decoder"}
_VERDICTS = {
    "fits": f"float16, which ends at {FLOAT16_MOST:,.0f}, would do on this picture",
    "near": f"float16 ends at {FLOAT16_MOST:,.0f}, which is near: prefer bfloat16 or float32",
    "overflows": f"float16 ends at {FLOAT16_MOST:,.0f}: use bfloat16 or float32",
}
PARTS = {"vision encoder": "vision_encoder.", "projector": "projector.", "decoder": "decoder."}


def run(arguments: Namespace) -> int:
    """Look at a model or at a picture; the kind of thing decides."""
    image = _is_image(arguments.what)
    if arguments.output and not image:
        raise ValueError("-o draws the patch grid of a picture: give a picture")
    if arguments.check and image:
        raise ValueError("--check reads the weights of a model: give a model folder")
    if arguments.image_budget is not None and not image:
        raise ValueError("--image-budget is for a picture: give a picture")
    if image:
        source = read_stdin() if arguments.what == "-" else arguments.what
        options = image_options(arguments)
        place, choice = split_choice(source)
        with Status("opening the picture"):
            data, name = read_source(place)
            name = "stdin" if isinstance(source, bytes) else name
        if has_pages(data, choice):
            report = describe_pages(data, name, choice, arguments.output, options)
            text = pages_text(report)
        else:
            check_no_choice(name, choice)
            with Status("opening the picture"):
                report = describe_image(data, name, arguments.output, arguments.image_budget)
            text = _image_text(report)
        if arguments.output:
            text += f"\n{_next_command(arguments.output, source)}"
    else:
        report = describe_model(arguments.what, check=arguments.check)
        text = _model_text(report)
    if arguments.json:
        say_json(report)
    else:
        say(text)
    return 0


def _next_command(output: str, source: Any) -> str:
    """Where the grid is, and how to ask about what it shows."""
    picture = "photo.jpg" if isinstance(source, bytes) else quote(source)
    return (
        f"The grid is drawn in {output}. Ask about the picture: pixtral-mlx generate {picture} "
        "'What is this?'"
    )


def _is_image(what: str) -> bool:
    if what == "-" or what.lower().startswith(("http://", "https://", "data:", "file:")):
        return True
    path = Path(split_choice(what)[0])
    with contextlib.suppress(OSError, RuntimeError):  # a name too long, or ~ of nobody
        path = path.expanduser()
        if path.exists():
            return not path.is_dir() and path.suffix not in (".safetensors", ".json")
    # There is no such file: a name that ends like a picture's gets the error of a picture.
    return path.suffix.lower() in {*SUFFIXES, *Image.registered_extensions()}


def describe_image(
    data: bytes, name: str, output: str | None = None, image_budget: int | None = None
) -> dict[str, Any]:
    """What Pixtral 12B makes of a picture: its grid, its tokens and their share of the context.

    Arguments:
        data, name: of the file, and what it is called.
        output: a new file for a drawing of it under its patch grid.
        image_budget: the most tokens that it may take, see `patch_grid`.

    Raises:
        ImageError: the picture cannot be read, or the drawing not written.
    """
    options = ImageOptions(image_budget=image_budget)
    stored = decode_image(data, name, replace(options, orient=False))
    image = upright(stored)
    vision = PIXTRAL_12B_VISION
    grid = patch_grid(image.width, image.height, vision, image_budget)
    if output:
        save_new(draw_patch_grid(shrunk(image, options, MAX_SIDE), grid), Path(output))
    return {
        "image": short_name(name),
        "mode": image.mode,
        "exif_orientation": exif_orientation(stored),
        "width": image.width,
        "height": image.height,
        "resized_width": grid.columns * vision.patch_size,
        "resized_height": grid.rows * vision.patch_size,
        "rows": grid.rows,
        "columns": grid.columns,
        "patches": grid.patches,
        "tokens": grid.tokens,
        "context_share": grid.tokens / PIXTRAL_12B.text.max_seq_len,
    }


def _image_text(report: dict[str, Any]) -> str:
    rows, columns = report["rows"], report["columns"]
    body = f"[IMG] x {columns}  [IMG_BREAK]"
    turned = report["exif_orientation"]
    lines = [
        f"{report['image']}: {report['width']} x {report['height']} pixels, {report['mode']}"
        + (f", turned upright (EXIF orientation {turned})" if turned > 1 else ""),
        f"resized to {report['resized_width']} x {report['resized_height']}: "
        f"{rows} rows x {columns} columns = {report['patches']:,} patches of 16 x 16",
        f"{report['tokens']:,} tokens, {format_share(report['context_share'])} of "
        f"{PIXTRAL_12B.text.max_seq_len:,}:",
        *([f"  {'row 1' if rows < 3 else f'rows 1 to {rows - 1}':<13} {body}"] if rows > 1 else []),
        f"  {f'row {rows}':<13} [IMG] x {columns}  [IMG_END]",
    ]
    return "\n".join(lines)


def describe_model(name: str, *, check: bool = False) -> dict[str, Any]:
    """What a model folder holds, from its headers alone, and in which precision this machine would
    multiply float32; with `check` every weight is read, and a picture is looked at to see how large
    activations become.

    Raises:
        CheckpointError: the folder cannot be used, or `check` found NaN or infinity.
    """
    from ..checkpoint.checkpoint import find_non_finite, open_checkpoint
    from ..checkpoint.layouts import module_of
    from ..checkpoint.names import resolve
    from ..checkpoint.sums import check_sums

    checkpoint = open_checkpoint(resolve(name))
    parts: dict[str, dict[str, int]] = {}
    for tensor, ref in checkpoint.tensors.items():
        part = next(part for part, prefix in PARTS.items() if tensor.startswith(prefix))
        entry = parts.setdefault(part, {"parameters": 0, "bytes": 0})
        entry["bytes"] += ref.nbytes
        scheme = checkpoint.schemes.get(module_of(tensor))
        if scheme is None:
            entry["parameters"] += prod(ref.shape)
        elif tensor.endswith(".weight"):
            # Packed in 32-bit words; the scales and biases beside it are not parameters.
            entry["parameters"] += prod(ref.shape) * 32 // scheme.bits
        if tensor.endswith(".bias") and scheme is not None:
            entry["parameters"] += prod(ref.shape)
    config = checkpoint.config
    report = {
        "model": name,
        "layout": checkpoint.layout,
        "parameters": sum(part["parameters"] for part in parts.values()),
        "bytes": checkpoint.nbytes,
        "parts": parts,
        "dtypes": sorted({ref.dtype for ref in checkpoint.tensors.values()}),
        "quantization": sorted({str(scheme) for scheme in checkpoint.schemes.values()}),
        "context": config.text.max_seq_len,
        "kv_bytes_per_token": kv_bytes_per_token(config.text),
        "config": config.to_params(),
        "tokenizer": checkpoint.tokenizer_file.name if checkpoint.tokenizer_file else None,
        "float32_products": machine().float32_products,
    }
    if check:
        with Status("comparing files with SHA256SUMS") as status:
            report["sums"] = check_sums(checkpoint.folder, status.update)
        _check_weights(find_non_finite(checkpoint), len(checkpoint.tensors))
        report["checked"] = len(checkpoint.tensors)
        report["activations"] = _activations(checkpoint)
    return report


def _check_weights(tensors: Any, total: int) -> None:
    bad = []
    with Status() as status:
        status.step("checking", "tensors")
        for count, (name, non_finite) in enumerate(tensors, start=1):
            status.update(count, total)
            bad += [name] if non_finite else []
    if bad:
        raise CheckpointError(
            f"{len(bad)} of {total} tensors hold NaN or infinity: {', '.join(bad[:3])}"
            f"{' ...' if len(bad) > 3 else ''}: fetch or convert the weights again"
        )


def _activations(checkpoint: Any) -> dict[str, Any]:
    """How large activations become on one picture, in the type that is stored; in bfloat16 if that
    is float16, which ends where it is to be seen. "problem" says why there are none."""
    from ..mini import scene
    from ..pixtral import load

    halves = any(ref.dtype == "F16" for ref in checkpoint.tensors.values())
    picture = scene(0, rows=3, columns=4).image
    images = []
    with Status("opening the model") as status:
        model = load(checkpoint.folder, dtype="bfloat16" if halves else None)
        if model.config.vision is not None:
            scale = min(PICTURE_SIDE, model.config.vision.image_size) / max(picture.size)
            images = [picture.resize([round(side * scale) for side in picture.size])]
        try:
            prompt = model.encode(QUESTION, images)
        except CheckpointError as error:
            return {"problem": str(error)}
        status.step("looking at a picture" if images else "reading", "layers")
        found = largest_activations(model, prompt, status.update)
    return {
        "dtype": "bfloat16" if halves else str(model.decoder.norm.weight.dtype).split(".")[-1],
        "picture": list(images[0].size) if images else None,
        "tokens": len(prompt.tokens),
        "largest": found,
        "float16": _float16(max(found.values())),
    }


def _float16(most: float) -> str:
    """Whether float16 would do, as far as one picture tells: a key of `_VERDICTS`."""
    if most > FLOAT16_MOST:
        return "overflows"
    return "near" if most > FLOAT16_MOST / 2 else "fits"


def _activations_text(report: dict[str, Any]) -> list[str]:
    """A row a layer, encoder and decoder side by side, and what it means for float16."""
    if problem := report.get("problem"):
        return [f"activations not looked at: {problem}"]
    found = report["largest"]
    parts = [part for part in ("vision", "text") if f"{part}.0" in found]
    rows = [("layer", *(_PARTS_OF_SITES[part] for part in parts))]
    count = max(int(site.split(".")[1]) for site in found if site[-1].isdigit()) + 1
    for layer in ("embeddings", *range(count)):
        values = (found.get(f"{part}.{layer}") for part in parts)
        rows.append((str(layer), *("" if v is None else f"{v:,.1f}" for v in values)))
    shown = (
        "{} x {} pixels and a question".format(*report["picture"])
        if report["picture"]
        else "a question"
    )
    lines = [f"largest activations on {shown}, {report['tokens']:,} tokens, in {report['dtype']}:"]
    lines += format_table(rows)
    if "projector" in found:
        lines.append(f"projector: {found['projector']:,.1f}")
    return [*lines, _float16_text(report)]


def _float16_text(report: dict[str, Any]) -> str:
    """What the largest of all means, or the first that is too large."""
    found = report["largest"]
    site = next((site for site, most in found.items() if most > FLOAT16_MOST), None)
    site = site or max(found, key=lambda site: found[site])
    part, _, layer = site.partition(".")
    where = " ".join([_PARTS_OF_SITES[part], *(["layer"] if layer.isdigit() else []), layer])
    return f"{where.strip()} reaches {found[site]:,.0f}: {_VERDICTS[report['float16']]}"


def _model_text(report: dict[str, Any]) -> str:
    config, vision = report["config"], report["config"].get("vision_encoder")
    rows = [("", "parameters", "size", "bits per weight")]
    for name, part in [*report["parts"].items(), ("all", report)]:
        bits = 8 * part["bytes"] / part["parameters"]
        size = format_bytes(part["bytes"])
        rows.append((name, f"{part['parameters']:,}", size, f"{bits:.2f}"))
    kinds = "; ".join(report["quantization"]) or "none"
    lines = [
        f"{report['model']}: {report['layout']} layout, stored as {', '.join(report['dtypes'])}",
        *format_table(rows),
        f"quantization: {kinds}",
        f"decoder: {config['n_layers']} layers, {config['dim']} wide, {config['n_heads']} heads "
        f"of {config['head_dim']} over {config['n_kv_heads']} KV heads, "
        f"{config['vocab_size']:,} words",
    ]
    if vision:
        lines.append(
            f"vision: {vision['num_hidden_layers']} layers, {vision['hidden_size']} wide, "
            f"{vision['num_attention_heads']} heads, patches of {vision['patch_size']}, "
            f"longest side {vision['image_size']} px"
        )
        if (side := vision.get("spatial_merge_size", 1)) > 1:
            lines[-1] += f"; {side} x {side} patches make one token"
    lines.append(
        f"context: {report['context']:,} tokens, {report['kv_bytes_per_token']:,} bytes of KV "
        "cache each in 16 bits"
    )
    lines.append(f"tokenizer: {report['tokenizer'] or 'none found'}")
    lines.append(f"float32 products on this machine: {report['float32_products']}")
    if "checked" in report:
        if report["sums"]:
            lines.append(f"all {report['sums']} files are as they were written (SHA256SUMS)")
        lines.append(f"all {report['checked']:,} tensors checked: no NaN, no infinity")
        lines += _activations_text(report["activations"])
    return "\n".join(lines)
