"""`pixtral-mlx explain`: the answer, and where the model looked for every word of it."""

import sys
from argparse import Namespace
from pathlib import Path

from .commands import (
    generation_options,
    image_options,
    load_model,
    question,
    stream_with_status,
    write_stream,
)
from .errors import CheckpointError, ImageError
from .picture import check_new, draw_words, save_new
from .status import Status


def run(arguments: Namespace) -> int:
    """Answer with a trace and draw it; files are checked before the model is opened."""
    options = generation_options(arguments) | {"trace": True}
    output = Path(arguments.output)
    check_new(output)
    if arguments.save and Path(arguments.save).exists():
        raise CheckpointError(f"{arguments.save}: exists already: choose another name")
    if not arguments.image:
        raise ImageError("there is no image to explain: give one with --image")
    messages = question(arguments)
    model = load_model(arguments)
    with Status("preparing the prompt") as status:
        prompt = model.encode(messages, image_options=image_options(arguments), raw=arguments.raw)
        stream = stream_with_status(model, prompt, options, status)
        write_stream(stream, status)
        trace = stream.reply.trace
        if trace is None:
            return 130  # Ctrl-C before there was anything to draw
        status.step("drawing")
        save_new(draw_words(trace), output)
        if arguments.save:
            trace.save(arguments.save)
    print(f"drawn: {output}", file=sys.stderr)
    return 130 if stream.reply.finish_reason == "interrupted" else 0
