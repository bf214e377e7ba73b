"""`pixtral-mlx explain`: the answer, and where the model looked for every word of it."""

import importlib
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ImageError, PixtralError, how_to_install
from ..files import expanded, new_file, refuse_existing, scratch_folder, take_name
from ..interpret.picture import PICTURES, check_new, save_new
from .question import (
    generation_options,
    image_options,
    load_model,
    opened,
    question,
    question_text,
    stream_with_status,
    write_stream,
)
from .status import Status
from .streams import leaving_at_once
from .wrap import say

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..engine.reply import Reply
    from ..pixtral import Pixtral

PAGE = ".html"


def run(arguments: Namespace) -> int:
    """Answer with a trace and draw it; files are checked before the model is opened."""
    options = generation_options(arguments) | {"trace": True}
    pictures = image_options(arguments)
    output = Path(arguments.output)
    check_new(output, (*PICTURES, PAGE))
    widgets = _widgets() if output.suffix.lower() == PAGE else None
    if arguments.knock_out and widgets is None:
        raise ImageError(f"--knock-out is for a page: {output} must end in {PAGE}")
    if arguments.save:
        refuse_existing(Path(arguments.save))
    if not arguments.image:
        raise ImageError("there is no picture to explain: give one before the question")
    asked = question(arguments)
    words = question_text(asked)
    asked["images"] = opened(asked["images"], pictures)
    model = load_model(arguments)
    with Status("preparing the prompt") as status:
        with leaving_at_once() as begun:
            prompt = model.encode(**asked, image_options=pictures, raw=arguments.raw)
            stream = stream_with_status(model, prompt, options, status)
            write_stream(stream, status, begun=begun)
        trace = stream.reply.trace
        if trace is None:
            return 130  # Ctrl-C before there was anything to draw
        status.step("hiding patches" if arguments.knock_out else "drawing")
        with _saved(trace, arguments.save, output):
            if widgets is not None:
                progress = status.update if arguments.knock_out else None
                write_page(widgets, model, stream.reply, output, asked=words, knock_out=progress)
            else:
                save_new(trace.picture(words, model.name), output)
    say(f"drawn: {output}", file=sys.stderr)
    return 130 if stream.reply.finish_reason == "interrupted" else 0


@contextmanager
def _saved(trace: Any, name: str | None, output: Path) -> Iterator[None]:
    """The trace is complete when the block begins, which draws the output, and has its name when
    that has."""
    if not name:
        yield
        return
    path = expanded(name)
    with scratch_folder(path) as place:
        trace.save(file := place / path.name)
        yield
        take_name(file, path, with_it=output)


def _widgets() -> Any:
    """The widgets, which draw the page; they are an extra, and only this command asks for them.

    Raises:
        PixtralError: they are not installed.
    """
    try:
        return importlib.import_module("pixtral_mlx_widgets")
    except ImportError as error:
        raise PixtralError(
            f"a page needs the widgets, and {error.name} is not installed: "
            f"{how_to_install('lab')}, or give a name that ends in .png"
        ) from error


def write_page(
    widgets: Any,
    model: "Pixtral",
    reply: "Reply",
    path: Path,
    *,
    asked: str = "",
    knock_out: "Callable[[int, int], None] | None" = None,
) -> None:
    """Write the answer lens of a finished answer as one page: every word, and where it looked.

    Arguments:
        asked: the question, which goes above it with the model's name.
        knock_out: called with (words done, all words) while what each token looked at most is
            hidden and measured, a run for each; None measures nothing.

    Raises:
        ImageError: there is no word, or the page cannot be written.
        CapacityError: the disk is full.
    """
    if not reply.tokens:
        raise ImageError("nothing to draw: the answer needs at least one word")
    session = widgets.Session(model)
    try:
        session.show(reply)
        lens = widgets.AnswerLens(session)
        if knock_out:
            for token in range(len(reply.tokens)):
                for image in range(len(session.prompt.spans)):
                    lens.measure("knock", token, image)
                knock_out(token + 1, len(reply.tokens))
        text = lens.to_html(heading=(asked, model.name))
    finally:
        session.close()
    with new_file(path, error=ImageError) as hidden:
        hidden.write_text(text, encoding="utf-8", errors="replace")
