"""`pixtral-mlx demo`: what the package is for, in a few seconds, without a network or a GPU.

pixtral-mini, in the official layout as Mistral publishes the 12B, is converted to 4 bits, answers
questions about a newly drawn scene, and a picture shows where it looked.
"""

from argparse import Namespace
from pathlib import Path

import numpy as np

from ..engine.reply import Reply
from ..files import refuse_existing, scratch_folder, take_name
from ..interpret.picture import check_new, save_new
from ..mini import CHECKPOINT, Question
from ..mini.demo_scene import demo_scene
from ..pixtral import load
from ..quantization.conversion import convert
from .settings import READY_MADE
from .status import Status
from .wrap import say

EXPLAINED = "at"
"""The kind of question that a picture is drawn for."""


def run(arguments: Namespace) -> int:
    """Convert pixtral-mini, ask it five questions, draw where it looked for one of them."""
    output = Path(arguments.output) if arguments.output else _free_name()
    check_new(output)
    if arguments.keep:
        refuse_existing(Path(arguments.keep))
    shown, questions = demo_scene()
    with scratch_folder(Path(arguments.keep) if arguments.keep else None) as place:
        folder = place / "4bit"
        with Status("converting") as status:
            result = convert(CHECKPOINT, folder, progress=status.update)
        say(
            f"pixtral-mini, {result.plan.parameters:,} weights, converted to 4 bits: "
            f"{result.nbytes / 1e6:.1f} MB, {result.seconds:.1f} s"
        )
        model = load(folder, dtype="float32")
        with Status("preparing the prompt"):
            grid = model.encode("", [shown.image]).grids[0]
        say(
            f"a scene of {shown.image.width} x {shown.image.height} pixels: {grid.rows} x "
            f"{grid.columns} patches, {grid.tokens} tokens\n"
        )
        answer, drawn = "", None
        for question in questions:
            explained = question.kind == EXPLAINED
            reply = model.generate(question.text, images=question.images, trace=explained)
            _print(question, reply)
            if reply.trace is not None:
                answer = reply.text
                drawn = reply.trace.picture()
        if drawn is not None:
            save_new(drawn, output)
        if arguments.keep:
            take_name(folder, Path(arguments.keep), with_it=output)
    say(
        f"\nWhere it looked for {answer!r} is drawn in {output}.\n"
        "pixtral-mini knows nothing but such scenes. For photographs, documents and charts:\n"
        f"  pixtral-mlx models default {READY_MADE}\n"
        "  pixtral-mlx generate photo.jpg 'What is this?'"
    )
    if arguments.keep:
        say(f"The converted model is in {arguments.keep}.")
    return 0


def _free_name() -> Path:
    """`demo.png`, or `demo-2.png` and so on where that is taken: a demo can be run again."""
    names = (Path("demo.png"), *(Path(f"demo-{number}.png") for number in range(2, 10_000)))
    return next((name for name in names if not name.exists()), names[0])


def _print(question: Question, reply: Reply) -> None:
    confidence = float(np.exp(sum(reply.logprobs)))
    verdict = "right" if reply.text == question.answer else f"wrong: {question.answer}"
    say(f"> {question.text}\n  {reply.text}   (confidence {confidence:.2f}, {verdict})")
