"""`pixtral-mlx bench`: how fast a model is on this machine, and what bounds it."""

import json
import platform
import statistics
from argparse import Namespace
from importlib.metadata import version
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from PIL import Image

from .capacity import weights_bytes
from .commands import load_model
from .cost import decode_bytes, step_weight_bytes
from .generate import GenerationStats
from .status import Status
from .tables import format_table
from .tokenizer import Prompt


def run(arguments: Namespace) -> int:
    """Measure a text prompt and an image prompt, interleaved; print medians."""
    width, height = _size(arguments.image_size)
    for name in ("prompt_tokens", "max_tokens", "runs"):
        if getattr(arguments, name) < (2 if name == "max_tokens" else 1):
            raise ValueError(f"--{name.replace('_', '-')} {getattr(arguments, name)}: too small")
    model = load_model(arguments)
    prompts = {f"{arguments.prompt_tokens} words": text_prompt(model, arguments.prompt_tokens)}
    if model.vision_encoder is not None:
        prompts[f"{width}x{height} image"] = model.encode("?", [test_image(width, height)])
    # Without an end token every run has its full length.
    options = {
        "max_tokens": arguments.max_tokens,
        "force": arguments.force,
        "logit_bias": {model.tokenizer.eos_id: -1e9},
    }
    runs: dict[str, list[GenerationStats]] = {name: [] for name in prompts}
    steps = [(name, i) for i in range(arguments.runs + 1) for name in prompts]
    with Status() as status:
        status.step("measuring", "answers")
        for count, (name, i) in enumerate(steps):
            status.update(count, len(steps))
            reply = model.generate(prompts[name], reuse=False, **options)
            if reply.finish_reason == "interrupted":
                raise KeyboardInterrupt
            if i > 0:  # the first run reads the weights from disk and compiles kernels
                runs[name].append(reply.stats)
    report = {
        "model": arguments.model,
        "machine": machine(),
        "mlx": version("mlx"),
        "weights_bytes": weights_bytes(model),
        "runs": arguments.runs,
        "results": {name: summarise(stats, model) for name, stats in runs.items()},
    }
    print(json.dumps(report) if arguments.json else _table(report))
    return 0


def machine() -> str:
    """What this runs on: system, architecture and MLX's device."""
    return f"{platform.system()} {platform.machine()}, {mx.device_info()['device_name']}"


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdigit() and height.isdigit() and 0 < int(width) <= 10_000 >= int(height) > 0):
        raise ValueError(f"--image-size {text!r}: expected WIDTHxHEIGHT, each from 1 to 10000")
    return int(width), int(height)


def text_prompt(model: Any, tokens: int) -> Prompt:
    """A prompt of exactly `tokens` ids: ordinary words, spread over the vocabulary."""
    words = model.tokenizer.n_words
    return Prompt(
        [model.tokenizer.bos_id, *(words // 2 + i % (words // 2) for i in range(tokens - 1))]
    )


def test_image(width: int, height: int) -> Image.Image:
    """A colour gradient; what it shows does not matter to the clock."""
    return Image.linear_gradient("L").resize((width, height)).convert("RGB")


def summarise(runs: list[GenerationStats], model: Any) -> dict[str, float]:
    """Medians of the runs of one prompt."""

    def median(name: str) -> float:
        return statistics.median(getattr(stats, name) for stats in runs)

    decode, prompt_tokens = median("decode_tokens_per_second"), median("prompt_tokens")
    leaves: Any = tree_flatten(model.parameters())
    sizes = {name: array.nbytes for name, array in leaves}
    itemsize = model.decoder.norm.weight.dtype.size
    step_bytes = decode_bytes(
        step_weight_bytes(sizes), model.config.text, int(prompt_tokens), itemsize
    )
    return {
        "prompt_tokens": prompt_tokens,
        "first_token_seconds": median("prompt_seconds"),
        "vision_seconds": median("vision_seconds"),
        "prompt_tokens_per_second": median("prompt_tokens_per_second"),
        "decode_tokens_per_second": decode,
        "decode_gigabytes_per_second": decode * step_bytes / 1e9,
        "peak_bytes": median("peak_bytes"),
    }


def _table(report: dict[str, Any]) -> str:
    heads = ("prompt", "tokens", "first token", "vision", "prefill", "decode", "read", "peak")
    rows: list[tuple[str, ...]] = [heads]
    for name, r in report["results"].items():
        rows.append(
            (
                name,
                f"{r['prompt_tokens']:,.0f}",
                f"{r['first_token_seconds']:.2f} s",
                f"{r['vision_seconds']:.2f} s",
                f"{r['prompt_tokens_per_second']:,.0f} tokens/s",
                f"{r['decode_tokens_per_second']:,.1f} tokens/s",
                f"{r['decode_gigabytes_per_second']:.2f} GB/s",
                f"{r['peak_bytes'] / 1e9:.2f} GB",
            )
        )
    head = (
        f"{report['model']}: weights {report['weights_bytes'] / 1e9:.2f} GB; {report['machine']}; "
        f"MLX {report['mlx']}; median of {report['runs']}"
    )
    return "\n".join([head, *format_table(rows)])
