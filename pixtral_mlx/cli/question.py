"""What the commands that ask a model share.

The model, the options and the question are read from the flags; the answer is printed as it is
written.
"""

import json
import logging
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..engine.form import as_form
from ..engine.generate import GenerationStream
from ..engine.options import GenerationOptions
from ..engine.reply import Piece
from ..errors import CheckpointError, FormError, ImageError
from ..files import read_file
from ..inputs.image import decode_image
from ..inputs.image_options import ImageOptions
from ..inputs.image_source import read_source, short_name
from ..inputs.page_choice import check_no_choice, split_choice
from ..inputs.pages import has_pages, page_numbers
from ..model.prompt import Prompt
from .flags import given_options
from .settings import MINI, READY_MADE, Choice, chosen_model
from .status import Status
from .stdin import read_stdin, read_stdin_text
from .streams import leaving_at_once
from .wrap import say, writer

MINI_NOTICE = (
    "pixtral-mini knows only scenes of its own (try `pixtral-mlx demo`); for photographs and "
    f"documents choose a 12B once: `pixtral-mlx models default {READY_MADE}`"
)

_LONGEST_PASSWORD = 1000
_MOST_SCHEMA_BYTES = 1_000_000

log = logging.getLogger(__name__)


def load_model(arguments: Namespace) -> Any:
    """The model that was chosen, in the type of `--dtype`, with its `--prompt-cache`."""
    from ..pixtral import load

    choice = chosen_model(arguments)
    if choice.model == MINI:
        log.warning(MINI_NOTICE)
    folder = find_model(choice)  # a download draws bars of its own
    with Status("opening the model"), leaving_at_once():
        model = load(folder, arguments.dtype, arguments.adapter_path)
        if getattr(arguments, "prompt_cache", None) is not None:
            model.open_prompt_cache(arguments.prompt_cache)
        return model


def find_model(choice: Choice) -> Path:
    """The folder of a model, after a download where it is needed.

    Raises:
        CheckpointError: there is none; the line says who chose it, if that was not `--model`.
    """
    from ..checkpoint.names import resolve

    try:
        return resolve(choice.model)
    except CheckpointError as error:
        if choice.source == "--model":
            raise
        raise CheckpointError(f"{error} (chosen by {choice.source})") from error


def image_options(arguments: Namespace) -> ImageOptions:
    """From the flags of `ImageOptions`, and the file of the password, which may be readable once.

    Raises:
        ValueError: a value out of range.
        ImageError: the file cannot be read.
    """
    password = None
    if arguments.pdf_password_file is not None:
        password = _first_line(arguments.pdf_password_file)
    return ImageOptions(**given_options(arguments, ImageOptions), pdf_password=password)


def _first_line(name: str) -> str:
    try:
        with open(name, encoding="utf-8-sig") as file:
            return file.readline(_LONGEST_PASSWORD).rstrip("\r\n")
    except (OSError, ValueError) as error:  # ValueError: no UTF-8, whose text would be shown
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ImageError(
            f"--pdf-password-file {short_name(name)}: {reason}: give a file whose first line is "
            "the password"
        ) from None


def generation_options(arguments: Namespace) -> dict[str, Any]:
    """From the flags of `GenerationOptions`; checked here, so that a mistake costs no loading.

    Raises:
        ValueError: a value out of range.
        FormError: a schema that cannot be read, or not be promised.
    """
    options = given_options(arguments, GenerationOptions)
    if (form := _form(arguments)) is not None:
        options["response_format"] = form
    options["logit_bias"] = dict(_bias(text) for text in arguments.logit_bias)
    GenerationOptions(**options)
    return options


def _form(arguments: Namespace) -> Any:
    """What `--schema` or `--regex` says, if the command has them."""
    if getattr(arguments, "regex", None) is not None:
        return as_form({"type": "regex", "regex": arguments.regex})
    if getattr(arguments, "schema", None) is None:
        return None
    try:
        schema = json.loads(read_file(Path(arguments.schema).expanduser(), _MOST_SCHEMA_BYTES))
    except OSError as error:
        raise FormError(f"{arguments.schema}: {error.strerror}: check the name") from error
    except (ValueError, RecursionError) as error:
        raise FormError(f"{arguments.schema}: not JSON ({error}): give a JSON schema") from error
    if not isinstance(schema, dict):
        raise FormError(f"{arguments.schema}: not a JSON schema, which is an object")
    try:
        return as_form(schema)
    except FormError as error:
        raise FormError(f"{arguments.schema}: {error}") from error


def _bias(text: str) -> tuple[int, float]:
    try:
        token, value = text.split("=")
        return int(token), float(value)
    except ValueError:
        raise ValueError(f"--logit-bias {text!r}: expected ID=VALUE, for example 12=-5") from None


def opened(sources: Sequence[Any], options: ImageOptions) -> list[Any]:
    """The same pictures, opened; a PDF is looked at and stays what it is, since the size of its
    pages depends on the model. So a mistake costs no loading of a model, and no download.

    Arguments:
        sources: names, and what came from a pipe.

    Raises:
        ImageError: one cannot be used.
    """
    found = []
    with Status("opening the pictures"):
        for source in sources:
            place, choice = split_choice(source)
            data, name = read_source(place)
            if has_pages(data, choice):
                page_numbers(data, name, choice, options.pdf_password)
                found.append(source)
            else:
                check_no_choice(name, choice)
                found.append(decode_image(data, name, options))
    return found


def question(arguments: Namespace) -> dict[str, Any]:
    """One question, from the flags and perhaps a pipe: what `encode` takes.

    Raises:
        ValueError: flags that contradict one another, or nothing to answer.
    """
    if [arguments.prompt, *arguments.image].count("-") > 1:
        raise ValueError("stdin can be read only once: give - to --prompt or to one --image only")
    if arguments.system and arguments.raw:
        raise ValueError("--system needs the chat template, which --raw leaves out")
    prompt = read_stdin_text() if arguments.prompt == "-" else arguments.prompt
    if prompt != prompt.encode("utf-8", "replace").decode():  # bytes that are no text
        raise ValueError("--prompt is not UTF-8 text: convert it")
    images = [read_stdin() if image == "-" else image for image in arguments.image]
    if not (prompt or images or arguments.raw):
        raise ValueError("the prompt is empty and there is no picture: give a question")
    content: list[dict[str, Any]] = [{"type": "image"} for _ in images]
    if prompt or not images:
        content.append({"type": "text", "text": prompt})
    messages = [{"role": "system", "content": arguments.system}] if arguments.system else []
    messages.append({"role": "user", "content": content if images else prompt})
    if arguments.prefill:
        messages.append({"role": "assistant", "content": arguments.prefill, "prefix": True})
    return {"messages": messages, "images": images}


def question_text(asked: dict[str, Any]) -> str:
    """The words of what `question` gave, for a person to read."""
    (content,) = (m["content"] for m in asked["messages"] if m["role"] == "user")
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part["type"] == "text")


def stream_with_status(
    model: Any, prompt: Prompt, options: dict[str, Any], status: Status
) -> GenerationStream:
    """A stream whose steps before the first token appear in the terminal."""
    looking = "looking at the pictures" if prompt.images else "starting"

    def progress(done: int, total: int) -> None:
        if done == 0:
            status.step("reading the prompt", "tokens")
        status.update(done, total)

    stream = model.stream(prompt, progress=progress, **options)
    status.step(looking)
    return stream


def write_stream(
    stream: GenerationStream,
    status: Status | None = None,
    *,
    quiet: bool = False,
    reasoning: bool = False,
    begun: Callable[[], None] | None = None,
) -> None:
    """Print pieces as they come; Ctrl-C ends the answer and keeps what there is.

    Arguments:
        status: what is shown until the first piece, and all along if `quiet`.
        quiet: print nothing of the answer.
        reasoning: write thoughts to stderr, dimmed in a terminal; they are never on stdout.
        begun: called when there is something of an answer.
    """
    write, thoughts = writer(sys.stdout), _Thoughts() if reasoning else None
    try:
        said = None
        for piece in stream:
            if begun is not None:
                begun()
            thinking = piece.reasoning and thoughts is None
            doing = "thinking" if thinking else "writing" if quiet else ""
            if status is not None and doing != said:
                status.step(doing)
                said = doing
            if thoughts is not None:
                thoughts.add(piece)
            if not quiet:
                write(piece.text)
    except KeyboardInterrupt:
        stream.interrupt()
        if status is not None:
            status.step("")
        if not quiet:
            say()
        log.warning("interrupted; this is the answer so far")
        return
    finally:
        if thoughts is not None:
            thoughts.end()
    if not quiet:
        say()
        _say_cut(stream)


class _Thoughts:
    """Writes what a model thinks to stderr, and ends the line where its answer begins."""

    def __init__(self):
        dim = ("\x1b[2m", "\x1b[0m") if sys.stderr.isatty() else ("", "")
        self._write, self._dim, self._open = writer(sys.stderr), dim, False

    def add(self, piece: Piece) -> None:
        """The next piece of an answer."""
        if piece.reasoning:
            sys.stderr.write(self._dim[0])
            self._write(piece.reasoning)
            sys.stderr.write(self._dim[1])
            self._open = True
        elif piece.text:
            self.end()

    def end(self) -> None:
        """No more thoughts."""
        if self._open:
            say(file=sys.stderr, flush=True)
        self._open = False


def _say_cut(stream: GenerationStream) -> None:
    """Say of an answer that has no end what cut it."""
    if stream.reply.finish_reason == "length":
        most = stream.options.max_tokens
        if stream.limit == most:
            log.warning("the answer was cut at --max-tokens %d: raise it to see the rest", most)
        else:
            log.warning("the answer was cut where the context ends, after %d tokens", stream.limit)
