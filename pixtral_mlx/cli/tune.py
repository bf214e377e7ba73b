"""`pixtral-mlx tune`: an adapter from rows of pictures, questions and answers."""

import logging
from argparse import Namespace
from collections.abc import Mapping
from shlex import quote
from typing import Any

from ..files import expanded
from ..tables import format_bytes, format_seconds
from ..tuning.options import TuningOptions
from .flags import given_options
from .question import find_model
from .settings import chosen_model
from .status import Status
from .wrap import say

log = logging.getLogger(__name__)

UNCERTAIN = 0.05
"""Above this probability a change may well be chance."""


def run(arguments: Namespace) -> int:
    """Train an adapter, and say what came of it."""
    options = given_options(arguments, TuningOptions)
    TuningOptions(**options)  # mistakes are named before a model is read
    if not arguments.output:
        raise ValueError("--output is empty: give the name of a new folder")
    from ..model.device import on_gpu
    from ..pixtral import load
    from ..tuning.tune import check_output, tune

    check_output(expanded(arguments.output), arguments.resume)
    choice = chosen_model(arguments)
    folder = find_model(choice)
    with Status("opening the model") as status:
        dtype = arguments.dtype or (None if on_gpu() else "float32")  # a CPU's halves are slow
        model = load(folder, dtype)

        doing = ""

        def progress(what: str, done: int, total: int, figures: Mapping[str, float]) -> None:
            nonlocal doing
            if what == "validated":
                status.step("")
                say(
                    f"step {done:,}: validation loss {figures['loss']:.3f}, "
                    f"{100 * figures['accuracy']:.1f} % right",
                    flush=True,
                )
            elif what != doing:
                status.step(what, {"reading": "rows", "training": "steps"}.get(what, ""))
            doing = what
            status.update(done, total)

        found = tune(
            model, arguments.data, arguments.output, val=arguments.val,
            adapter_path=arguments.adapter_path, resume=arguments.resume,
            progress=progress, base=choice.model, **options,
        )  # fmt: skip
    for line in summary(found.report):
        say(line)
    for line in warnings(found.report):
        log.warning(line)
    where, model_name = quote(arguments.output), quote(choice.model)
    say(
        f"{where}: the adapter, report.json, curves.png\n"
        f"Ask it: pixtral-mlx generate -m {model_name} --adapter-path {where} photo.jpg "
        "'What is this?'"
    )
    return 0


def summary(report: Mapping[str, Any]) -> list[str]:
    """What a training did, for people."""
    first, last = report["validations"][0], report["validations"][-1]
    count = report["answers"]
    lines = [
        f"{report['trained']:,} numbers learned in {report['steps']:,} steps from "
        f"{report['rows'][0]:,} rows, {format_seconds(report['seconds'])} in all, "
        f"{report['step_seconds']:.2g} s per step, {format_bytes(report['peak_bytes'])} at most",
        f"validation: loss {first['loss']:.3f} before, {last['loss']:.3f} after; "
        f"{report['right_before']:,} of {count:,} answers right before, {report['right']:,} after "
        f"({report['became_right']} became right, {report['became_wrong']} wrong; "
        f"p = {report['p']:.2g})",
    ]
    swap = report["swap"]
    if swap is not None:
        lines.append(
            f"pictures exchanged between {swap['examples']:,} rows: loss {swap['loss']:.3f} becomes"
            f" {swap['swapped_loss']:.3f}"
        )
    for sample in report["samples"]:
        lines.append(
            f"  {_short(sample['question'])}  wanted: {_short(sample['wanted'])}  before: "
            f"{_short(sample['before'])}  after: {_short(sample['after'])}"
        )
    return lines


def warnings(report: Mapping[str, Any]) -> list[str]:
    """What should not go unseen."""
    first, last = report["validations"][0], report["validations"][-1]
    found = []
    if report["swap"] is not None and not report["swap"]["used"]:
        found.append(
            "the pictures are not used: with those of other rows the loss is less than "
            f"{100 * (report['swap']['needed'] - 1):.0f} % higher"
        )
    if last["loss"] > first["loss"]:
        found.append("the validation's loss is higher than before: try a smaller --learning-rate")
    if report["p"] > UNCERTAIN and report["right"] != report["right_before"]:
        found.append(
            "whether more answers are right may be chance: more rows for validation would tell"
        )
    before, after = report["encoder"]["before"], report["encoder"]["after"]
    if before != after:
        found.append("the vision encoder has changed, which it must not: do not use this adapter")
    return found


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else f"{line[:57]}..."
