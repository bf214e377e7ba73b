"""`pixtral-mlx generate`: answer one question about pictures."""

import sys
from argparse import Namespace
from dataclasses import asdict, replace

from ..engine.reply import GenerationStats
from ..errors import PixtralError
from ..tables import format_bytes
from .question import (
    generation_options,
    image_options,
    load_model,
    opened,
    question,
    stream_with_status,
    write_stream,
)
from .status import Status
from .streams import leaving_at_once
from .wrap import say, say_json


def run(arguments: Namespace) -> int:
    """Answer one question; stdout carries the answer and nothing else. With `--schema` or `--regex`
    it is there when it is whole, or not at all."""
    options, pictures = generation_options(arguments), image_options(arguments)
    asked = question(arguments)
    asked["images"] = opened(asked["images"], pictures)
    model = load_model(arguments)
    with Status("preparing the prompt") as status, leaving_at_once() as begun:
        prompt = model.encode(**asked, image_options=pictures, raw=arguments.raw)
        stream = stream_with_status(model, prompt, options, status)
        in_form = "response_format" in options
        quiet = arguments.json or in_form
        show = arguments.show_reasoning
        write_stream(stream, status, quiet=quiet, reasoning=show, begun=begun)
    reply = stream.reply
    if arguments.json:
        fields = asdict(replace(reply, trace=None))
        del fields["trace"]
        say_json(fields)
    elif in_form and reply.parsed is not None:
        say(reply.text)
    if arguments.stats:
        say(format_stats(reply.stats), file=sys.stderr)
    if reply.parse_error is not None:
        cut = reply.finish_reason == "length" and stream.limit == stream.options.max_tokens
        more = ": give more --max-tokens" if cut else ""
        raise PixtralError(f"{reply.parse_error}{more}")
    return 130 if reply.finish_reason == "interrupted" else 0


def format_stats(stats: GenerationStats) -> str:
    """One line for people."""
    known = f", {stats.cached_tokens:,} known from before" if stats.cached_tokens else ""
    copied = f"{stats.accepted_tokens:,} of {stats.drafted_tokens:,} drafted ones accepted"
    copied = f" ({copied})" if stats.drafted_tokens else ""
    return (
        f"prompt {stats.prompt_tokens:,} tokens ({stats.image_tokens:,} of pictures{known}) in "
        f"{stats.prompt_seconds:.2f} s, vision {stats.vision_seconds:.2f} s of it; "
        f"answer {stats.generated_tokens:,} tokens{copied}, "
        f"{stats.decode_tokens_per_second:.1f} tokens/s; "
        f"peak {format_bytes(stats.peak_bytes)}; float32 products in {stats.float32_products}"
    )
