"""`pixtral-mlx generate` and `pixtral-mlx convert`, and what the commands share."""

import json
import logging
import sys
from argparse import Namespace
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..engine.generate import GenerationStream
from ..engine.options import GenerationOptions
from ..engine.reply import GenerationStats
from ..errors import PromptError
from ..inputs.image_options import ImageOptions
from ..model.prompt import Prompt
from ..quantization.options import ConversionOptions
from ..tables import format_bytes
from .flags import given_options
from .status import Status

MAX_STDIN_BYTES = 200_000_000
MINI_NOTICE = (
    "pixtral-mini knows only scenes of its own (see `pixtral-mlx demo`); for photographs and "
    "documents give --model, after `pixtral-mlx convert mistralai/Pixtral-12B-2409 pixtral-4bit`"
)

log = logging.getLogger(__name__)


def load_model(arguments: Namespace) -> Any:
    """The model that `--model` and `--dtype` name, with its `--prompt-cache`."""
    from ..checkpoint.names import resolve
    from ..pixtral import load

    if arguments.model == "mini":
        log.warning(MINI_NOTICE)
    folder = resolve(arguments.model)  # a download draws bars of its own
    with Status("opening the model"):
        model = load(folder, dtype=arguments.dtype)
        if getattr(arguments, "prompt_cache", None) is not None:
            model.open_prompt_cache(arguments.prompt_cache)
        return model


def image_options(arguments: Namespace) -> ImageOptions:
    """From the flags of `ImageOptions`.

    Raises:
        ValueError: a value out of range.
    """
    return ImageOptions(**given_options(arguments, ImageOptions))


def generation_options(arguments: Namespace) -> dict[str, Any]:
    """From the flags of `GenerationOptions`; checked here, so that a mistake costs no loading.

    Raises:
        ValueError: a value out of range.
    """
    options = given_options(arguments, GenerationOptions)
    options["logit_bias"] = dict(_bias(text) for text in arguments.logit_bias)
    GenerationOptions(**options)
    return options


def _bias(text: str) -> tuple[int, float]:
    try:
        token, value = text.split("=")
        return int(token), float(value)
    except ValueError:
        raise ValueError(f"--logit-bias {text!r}: expected ID=VALUE, for example 12=-5") from None


def generate(arguments: Namespace) -> int:
    """Answer one question; stdout carries the answer and nothing else."""
    options, pictures = generation_options(arguments), image_options(arguments)
    messages = question(arguments)
    model = load_model(arguments)
    with Status("preparing the prompt") as status:
        prompt = model.encode(messages, image_options=pictures, raw=arguments.raw)
        stream = stream_with_status(model, prompt, options, status)
        write_stream(stream, status, quiet=arguments.json)
    if arguments.json:
        reply = asdict(replace(stream.reply, trace=None))
        del reply["trace"]
        print(json.dumps(reply, ensure_ascii=False))
    if arguments.stats:
        print(format_stats(stream.reply.stats), file=sys.stderr)
    return 130 if stream.reply.finish_reason == "interrupted" else 0


def question(arguments: Namespace) -> list[dict[str, Any]]:
    """One question, from the flags and perhaps a pipe.

    Raises:
        ValueError: flags that contradict one another, or nothing to answer.
    """
    if [arguments.prompt, *arguments.image].count("-") > 1:
        raise ValueError("stdin can be read once: give - to --prompt or to one --image only")
    if arguments.system and arguments.raw:
        raise ValueError("--system needs the chat template, which --raw leaves out")
    prompt = read_stdin_text() if arguments.prompt == "-" else arguments.prompt
    images = [read_stdin() if image == "-" else image for image in arguments.image]
    if not (prompt or images or arguments.raw):
        raise ValueError("the prompt is empty and there is no image: give a question")
    content: list[dict[str, Any]] = [{"type": "image", "image": image} for image in images]
    if prompt or not images:
        content.append({"type": "text", "text": prompt})
    system = [{"role": "system", "content": arguments.system}] if arguments.system else []
    return [*system, {"role": "user", "content": content if images else prompt}]


def stream_with_status(
    model: Any, prompt: Prompt, options: dict[str, Any], status: Status
) -> GenerationStream:
    """A stream whose steps before the first token appear in the terminal."""
    looking = "looking at the images" if prompt.images else "starting"

    def progress(done: int, total: int) -> None:
        if done == 0:
            status.step("reading the prompt", "tokens")
        status.update(done, total)

    stream = model.stream(prompt, progress=progress, **options)
    status.step(looking)
    return stream


def write_stream(
    stream: GenerationStream, status: Status | None = None, *, quiet: bool = False
) -> None:
    """Print pieces as they come; Ctrl-C ends the answer and keeps what there is.

    Arguments:
        status: what is shown until the first piece, and all along if `quiet`.
        quiet: print nothing.
    """
    try:
        for count, piece in enumerate(stream):
            if status is not None and count == 0:
                status.step("writing" if quiet else "")
            if not quiet:
                print(piece.text, end="", flush=True)
    except KeyboardInterrupt:
        stream.interrupt()
        if status is not None:
            status.step("")
    if not quiet:
        print()


def read_stdin() -> bytes:
    """All of stdin, up to a limit.

    Raises:
        PromptError: a terminal, or more than the limit.
    """
    if sys.stdin.isatty():
        raise PromptError("- reads from a pipe, and stdin is a terminal: pipe something into it")
    data = sys.stdin.buffer.read(MAX_STDIN_BYTES + 1)
    if len(data) > MAX_STDIN_BYTES:
        raise PromptError(f"stdin holds more than {MAX_STDIN_BYTES:,} bytes: send less")
    return data


def read_stdin_text() -> str:
    """Text from a pipe, without the line end that `echo` adds.

    Raises:
        PromptError: as `read_stdin`, or it is not UTF-8.
    """
    data = read_stdin()
    try:
        return data.decode("utf-8-sig").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise PromptError(
            f"stdin is not UTF-8 text (byte {data[error.start]:#04x} at {error.start:,}): convert "
            "it, or give a picture with --image -"
        ) from error


def format_stats(stats: GenerationStats) -> str:
    """One line for people."""
    known = f", {stats.cached_tokens:,} known from before" if stats.cached_tokens else ""
    copied = f"{stats.accepted_tokens:,} of {stats.drafted_tokens:,} drafted ones accepted"
    copied = f" ({copied})" if stats.drafted_tokens else ""
    return (
        f"prompt {stats.prompt_tokens:,} tokens ({stats.image_tokens:,} of images{known}) in "
        f"{stats.prompt_seconds:.2f} s, vision {stats.vision_seconds:.2f} s of it; "
        f"answer {stats.generated_tokens:,} tokens{copied}, "
        f"{stats.decode_tokens_per_second:.1f} tokens/s; "
        f"peak {format_bytes(stats.peak_bytes)}; float32 products in {stats.float32_products}"
    )


def convert(arguments: Namespace) -> int:
    """Convert a checkpoint, or print the plan."""
    from ..checkpoint.names import resolve
    from ..files import refuse_existing
    from ..quantization.conversion import convert as convert_folder
    from ..quantization.plan import format_plan

    options = given_options(arguments, ConversionOptions)
    if not arguments.dst:
        raise ValueError("DST is empty: give the name of a new folder")
    ConversionOptions(**options)  # mistakes are named before a download, which draws its own bars
    if not arguments.dry_run:
        refuse_existing(Path(arguments.dst).expanduser())
    source = arguments.src if arguments.dry_run else resolve(arguments.src)
    with Status("preparing") as status:

        def progress(done: int, total: int) -> None:
            if not status.total:
                status.step("converting", "B")
            status.update(done, total)

        result = convert_folder(
            source, arguments.dst, progress=progress, dry_run=arguments.dry_run, **options
        )
    for note in result.notes:
        print(f"note: {note}", file=sys.stderr)
    if arguments.dry_run:
        print(format_plan(result.plan))
        return 0
    plan = result.plan
    print(
        f"{result.folder}: {plan.parameters:,} weights in {format_bytes(result.nbytes)}, "
        f"{plan.bits_per_weight:.2f} bits per weight, {result.seconds:.1f} s"
    )
    kept = [t for t in plan.tensors if t.reason.startswith("width")]
    if kept:
        stay = "matrices stay" if len(kept) > 1 else "matrix stays"
        print(
            f"{len(kept)} {stay} in {plan.dtype}, the width does not fit: see --dry-run or "
            "quantization_error.json"
        )
    return 0
