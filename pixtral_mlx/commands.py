"""`pixtral-mlx generate` and `pixtral-mlx convert`, and what the commands share."""

import json
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from .errors import PromptError
from .generate import GenerationOptions, GenerationStats, GenerationStream
from .image import ImageOptions

MAX_STDIN_BYTES = 200_000_000


def load_model(arguments: Namespace) -> Any:
    """The model that `--model` and `--dtype` name."""
    from .checkpoint import load

    return load(arguments.model, dtype=arguments.dtype)


def image_options(arguments: Namespace) -> ImageOptions:
    """From `--resize`, `--no-orient` and `--grey16`."""
    return ImageOptions(arguments.resize, not arguments.no_orient, arguments.grey16)


def generation_options(arguments: Namespace) -> dict[str, Any]:
    """From the sampling flags; checked here, so that a mistake costs no loading.

    Raises:
        ValueError: a value out of range.
    """
    names = (
        "max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed",
        "stop", "prefill_step", "force",
    )  # fmt: skip
    options = {name: getattr(arguments, name) for name in names}
    options["logit_bias"] = dict(_bias(text) for text in arguments.logit_bias)
    GenerationOptions(**options)
    return options


def _bias(text: str) -> tuple[int, float]:
    try:
        token, value = text.split("=")
        return int(token), float(value)
    except ValueError:
        raise ValueError(f"--logit-bias {text!r}: expected ID=VALUE, for example 12=-5") from None


@contextmanager
def prefill_bar() -> Iterator[Any]:
    """A progress callback that draws a bar in a terminal, and is silent elsewhere."""
    from tqdm import tqdm

    with tqdm(
        desc="reading", unit=" tokens", leave=False, disable=not sys.stderr.isatty(), delay=0.5
    ) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)
            if done >= total:
                bar.close()

        yield progress


def generate(arguments: Namespace) -> int:
    """Answer one question; stdout carries the answer and nothing else."""
    options = generation_options(arguments)
    prompt = read_stdin().decode(errors="replace") if arguments.prompt == "-" else arguments.prompt
    if arguments.prompt == "-" and "-" in arguments.image:
        raise ValueError("--prompt - and --image - both want stdin: give one of them as a file")
    images = [read_stdin() if image == "-" else image for image in arguments.image]
    content = [{"type": "image", "image": image} for image in images]
    content.append({"type": "text", "text": prompt})
    messages: list[dict[str, Any]] = [{"role": "user", "content": content if images else prompt}]
    if arguments.system:
        if arguments.raw:
            raise ValueError("--system needs the chat template, which --raw leaves out")
        messages.insert(0, {"role": "system", "content": arguments.system})
    model = load_model(arguments)
    encoded = model.encode(messages, image_options=image_options(arguments), raw=arguments.raw)
    with prefill_bar() as progress:
        stream = model.stream(encoded, progress=progress, **options)
        write_stream(stream, quiet=arguments.json)
    if arguments.json:
        print(json.dumps(asdict(stream.reply), ensure_ascii=False))
    if arguments.stats:
        print(format_stats(stream.reply.stats), file=sys.stderr)
    return 130 if stream.reply.finish_reason == "interrupted" else 0


def write_stream(stream: GenerationStream, *, quiet: bool = False) -> None:
    """Print pieces as they come; Ctrl-C ends the answer and keeps what there is."""
    try:
        for piece in stream:
            if not quiet:
                print(piece.text, end="", flush=True)
    except KeyboardInterrupt:
        stream.interrupt()
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


def format_stats(stats: GenerationStats) -> str:
    """One line for people."""
    return (
        f"prompt {stats.prompt_tokens:,} tokens ({stats.image_tokens:,} of images) in "
        f"{stats.prompt_seconds:.2f} s, vision {stats.vision_seconds:.2f} s of it; "
        f"answer {stats.generated_tokens:,} tokens, {stats.decode_tokens_per_second:.1f} tokens/s; "
        f"peak {stats.peak_bytes / 1e9:.2f} GB"
    )


def convert(arguments: Namespace) -> int:
    """Convert a checkpoint, or print the plan."""
    from tqdm import tqdm

    from .convert import convert as convert_folder
    from .quantize import format_plan

    names = (
        "bits", "group_size", "mode", "vision_bits", "projector_bits", "embed_bits", "head_bits",
        "dtype", "recipe", "dry_run",
    )  # fmt: skip
    options = {name: getattr(arguments, name) for name in names}
    quiet = arguments.dry_run or not sys.stderr.isatty()
    with tqdm(unit="B", unit_scale=True, desc="converting", disable=quiet, leave=False) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        result = convert_folder(arguments.src, arguments.dst, progress=progress, **options)
    for note in result.notes:
        print(f"note: {note}", file=sys.stderr)
    if arguments.dry_run:
        print(format_plan(result.plan))
        return 0
    plan = result.plan
    print(
        f"{result.folder}: {plan.parameters:,} weights in {result.nbytes / 1e9:.2f} GB, "
        f"{plan.bits_per_weight:.2f} bits a weight, {result.seconds:.1f} s"
    )
    kept = [t for t in plan.tensors if t.reason.startswith("width")]
    if kept:
        print(f"{len(kept)} matrices stay in {plan.dtype}, their width does not fit: "
              "see --dry-run or quantization_error.json")  # fmt: skip
    return 0
