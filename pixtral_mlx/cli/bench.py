"""`pixtral-mlx bench`: how fast a model is on this machine, and what bounds it.

The table is Markdown, to be pasted into BENCHMARKS.md; `--json` has every number and setting.
"""

import json
import logging
import statistics
import time
from argparse import Namespace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from ..checks import number, whole
from ..cost.cost import decode_bytes, step_weight_bytes
from ..cost.machine import machine, machine_bandwidth
from ..cost.pace import operations_per_second, run_seconds
from ..engine.capacity import check_memory, weights_bytes
from ..engine.reply import GenerationStats
from ..errors import PixtralError
from ..files import new_file, refuse_existing
from ..inputs.placeholders import gradient, text_prompt
from ..model.prompt import Prompt
from ..tables import format_bytes, format_markdown, format_memory, format_seconds
from .question import load_model
from .settings import MINI, chosen_model
from .status import Status
from .streams import leaving_at_once
from .wrap import say

log = logging.getLogger(__name__)

CACHED_BYTES = 2**28
"""Weights of which a processor's cache may hold a good part, so that reading them is no measure."""


def run(arguments: Namespace) -> int:
    """Measure a text prompt and pictures, interleaved; print medians."""
    sizes = _check(arguments)
    with leaving_at_once():
        report = _report(arguments, sizes)
    if arguments.json != "-":
        say(format_report(report))
    if arguments.json:
        _write(json.dumps(report, indent=2), arguments.json)
    return 0


def _report(arguments: Namespace, sizes: list[tuple[int, int]]) -> dict[str, Any]:
    """Everything that is measured, and where it was."""
    bandwidth = machine_bandwidth(arguments.bandwidth)
    model, opened = _opened(arguments)
    prompts = {
        f"{arguments.prompt_tokens} words": text_prompt(model.tokenizer, arguments.prompt_tokens)
    }
    if model.vision_encoder is not None:
        for width, height in sizes:
            picture = model.encode("?", [gradient(width, height)])
            prompts[f"{width}x{height} image"] = picture
    seconds = expected_seconds(model, prompts, arguments, bandwidth.gigabytes_per_second)
    log.info("measuring takes about %s (an estimate)", format_seconds(seconds))
    first, runs = _measure(model, prompts, arguments)
    return {
        "model": _name(arguments),
        "weights_bytes": weights_bytes(model),
        "machine": machine().facts(),
        "versions": {name: version(name) for name in ("pixtral-mlx", "mlx", "mlx-lm")},
        "settings": {
            name: getattr(arguments, name)
            for name in ("dtype", "prompt_tokens", "max_tokens", "runs")
        },
        "bandwidth": bandwidth._asdict(),
        "open_seconds": opened,
        "first_token_after_open_seconds": first.prompt_seconds,
        "pass_costs": {str(tokens): cost for tokens, cost in model.engine.pass_costs.items()},
        "most_drafted": model.engine.most_drafted,
        "results": {
            name: summarise(stats, model, bandwidth.gigabytes_per_second)
            for name, stats in runs.items()
        },
    }


def expected_seconds(
    model: Any, prompts: dict[str, Prompt], arguments: Namespace, gigabytes_per_second: float
) -> float:
    """An estimate of how long all runs take, those to warm up included."""
    per_second = operations_per_second().per_second
    once = sum(
        run_seconds(
            model.config,
            len(prompt.tokens),
            prompt.grids,
            step_bytes=_step_bytes(model, len(prompt.tokens)),
            steps=arguments.max_tokens,
            per_second=per_second,
            bandwidth=gigabytes_per_second * 1e9,
        )
        for prompt in prompts.values()
    )
    return (arguments.runs + 1) * once


def _step_bytes(model: Any, context: int) -> int:
    """That a decode step reads after so many tokens."""
    leaves: Any = tree_flatten(model.parameters())
    sizes = {name: array.nbytes for name, array in leaves}
    itemsize = model.decoder.norm.weight.dtype.size
    return decode_bytes(step_weight_bytes(sizes), model.config.text, context, itemsize)


def summarise(
    runs: list[GenerationStats], model: Any, gigabytes_per_second: float
) -> dict[str, float]:
    """Medians of the runs of one prompt, and their share of the memory's bandwidth."""

    def median(name: str) -> float:
        return statistics.median(getattr(stats, name) for stats in runs)

    # The context grows by a token a step: the middle of the answer is the mean.
    step_bytes = _step_bytes(model, int(median("prompt_tokens") + median("generated_tokens") / 2))
    decode = median("decode_tokens_per_second")
    return {
        "prompt_tokens": median("prompt_tokens"),
        "first_token_seconds": median("prompt_seconds"),
        "vision_seconds": median("vision_seconds"),
        "prompt_tokens_per_second": median("prompt_tokens_per_second"),
        "decode_tokens_per_second": decode,
        "decode_step_bytes": step_bytes,
        "decode_gigabytes_per_second": decode * step_bytes / 1e9,
        "decode_bound_tokens_per_second": gigabytes_per_second * 1e9 / step_bytes,
        "decode_share_of_bound": decode * step_bytes / 1e9 / gigabytes_per_second,
        "peak_bytes": median("peak_bytes"),
    }


def format_report(report: dict[str, Any]) -> str:
    """A report as Markdown: where it was measured, and a table."""
    facts, versions, found = report["machine"], report["versions"], report["bandwidth"]
    settings = report["settings"]
    memory = f", {format_memory(facts['memory_bytes'])}" if facts["memory_bytes"] else ""
    lines = [
        f"{report['model']}, {format_bytes(report['weights_bytes'])} of weights, activations "
        f"{settings['dtype'] or 'as stored'}; {facts['chip']} ({facts['device']}, "
        f"{facts['cores']} cores{memory}), {facts['system']} {facts['architecture']}, "
        f"float32 products in {facts['float32_products']}; pixtral-mlx "
        f"{versions['pixtral-mlx']}, MLX {versions['mlx']}, Python {facts['python']}; medians of "
        f"{settings['runs']} runs of {settings['max_tokens']} tokens.",
        f"Bandwidth {found['gigabytes_per_second']:.4g} GB/s, {found['kind']} ({found['source']}). "
        f"Opened in {report['open_seconds']:.2f} s; the first token after that took "
        f"{report['first_token_after_open_seconds']:.2f} s, weights read.",
    ]
    costs = [f"{cost:.2f} for {n}" for n, cost in report["pass_costs"].items() if n != "1"]
    lines.append(
        f"A pass over several tokens, where one over a single token takes 1: {', '.join(costs)}; "
        f"prompt lookup would draft {report['most_drafted'] or 'nothing'}."
    )
    if report["weights_bytes"] < CACHED_BYTES:
        lines.append("The weights fit into caches: the share of the bound says little.")
    heads = (
        "prompt", "tokens", "first token", "vision", "prompt tokens/s", "decode tokens/s",
        "GB/s", "of the bound", "peak",
    )  # fmt: skip
    rows: list[tuple[str, ...]] = [heads]
    for name, r in report["results"].items():
        rows.append(
            (
                name,
                f"{r['prompt_tokens']:,.0f}",
                f"{r['first_token_seconds']:.2f} s",
                f"{r['vision_seconds']:.2f} s",
                f"{r['prompt_tokens_per_second']:,.0f}",
                f"{r['decode_tokens_per_second']:,.1f}",
                f"{r['decode_gigabytes_per_second']:.2f}",
                f"{100 * r['decode_share_of_bound']:.0f} %",
                f"{format_bytes(r['peak_bytes'])}",
            )
        )
    return "\n".join([*lines, "", *format_markdown(rows)])


def _check(arguments: Namespace) -> list[tuple[int, int]]:
    """The sizes of the pictures; mistakes are named before anything is loaded.

    Raises:
        ValueError: a value that cannot be, or options that contradict one another.
    """
    for name in ("prompt_tokens", "max_tokens", "runs"):
        lowest = 2 if name == "max_tokens" else 1
        whole(f"--{name.replace('_', '-')}", getattr(arguments, name), lowest)
    if arguments.random is not None and arguments.model is not None:
        raise ValueError("--random makes a model of its own: leave --model out")
    if arguments.random is not None and arguments.adapter_path is not None:
        raise ValueError("--adapter-path needs a model: leave out --random")
    if arguments.random is not None:
        number("--random", arguments.random, 0, 1, above=True)
    if arguments.json not in (None, "-"):
        refuse_existing(Path(arguments.json), ValueError)
    return [_size(text) for text in arguments.image_size]


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    height = height if "x" in text else width
    if not (width.isdigit() and height.isdigit() and 0 < int(width) <= 10_000 >= int(height) > 0):
        raise ValueError(f"--image-size {text!r}: expected WIDTHxHEIGHT, each from 1 to 10000")
    return int(width), int(height)


def _opened(arguments: Namespace) -> tuple[Any, float]:
    """The model to measure, and the seconds until it could be asked."""
    start = time.perf_counter()
    if arguments.random is None:
        model = load_model(arguments)
    else:
        from ..model.config import PIXTRAL_12B
        from ..random_model import random_model, scaled

        with Status("making weights"):
            config = scaled(PIXTRAL_12B, arguments.random)
            model = random_model(config, dtype=arguments.dtype)
            if not arguments.force:
                words = text_prompt(model.tokenizer, arguments.prompt_tokens)
                check_memory(model, words, arguments.max_tokens)
            leaves: Any = tree_flatten(model.parameters())
            for _, array in leaves:
                mx.eval(array)
    return model, time.perf_counter() - start


def _name(arguments: Namespace) -> str:
    if arguments.random is None:
        model = chosen_model(arguments).model
        beside = f" with {arguments.adapter_path}" if arguments.adapter_path else ""
        return ("pixtral-mini" if model == MINI else model) + beside
    return f"random weights in 4 bits, {100 * arguments.random:g} % of Pixtral 12B's layers"


def _measure(
    model: Any, prompts: dict[str, Prompt], arguments: Namespace
) -> tuple[GenerationStats, dict[str, list[GenerationStats]]]:
    """What the very first run took, and the runs of each prompt after one to warm up."""
    # Without an end token every run has its full length.
    options = {
        "max_tokens": arguments.max_tokens,
        "force": arguments.force,
        "logit_bias": {model.tokenizer.eos_id: -1e9},
    }
    first: list[GenerationStats] = []
    runs: dict[str, list[GenerationStats]] = {name: [] for name in prompts}
    steps = [(name, i) for i in range(arguments.runs + 1) for name in prompts]
    with Status() as status:
        status.step("measuring", "answers")
        for count, (name, i) in enumerate(steps):
            status.update(count, len(steps))
            reply = model.generate(prompts[name], reuse=False, **options)
            if reply.finish_reason == "interrupted":
                raise KeyboardInterrupt
            # The first run of a prompt reads weights from disk and compiles kernels.
            (runs[name] if i > 0 else first).append(reply.stats)
    return first[0], runs


def _write(text: str, where: str) -> None:
    if where == "-":
        say(text)
    else:
        with new_file(Path(where), error=PixtralError) as hidden:
            hidden.write_text(text + "\n", encoding="utf-8", errors="replace")
