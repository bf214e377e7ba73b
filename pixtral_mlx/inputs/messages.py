"""What users send, checked message by message, with every picture opened.

mistral-common sees only what comes out of here: known roles, known shapes, decoded pictures. The
pages of a PDF or a TIFF become pictures, each after its number: "Page 3:". What other programs call
things is `clients`' to know.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

from PIL import Image

from ..errors import PixtralError, PromptError
from ..model.config import VisionConfig
from ..model.prompt import patch_grid
from ..model.vision_language_model import NO_VISION
from .clients import (
    as_messages,
    detail_of,
    is_list,
    kind_of,
    source_of,
    text_of,
    with_calls_together,
)
from .found import Found, Opened, find_pictures
from .image_options import ImageOptions

LOW_SIDE = 512
"""A picture of `detail: low` takes at most as many tokens as a square of so many pixels."""

MOST_HELD_BYTES = 100_000_000
"""Of files that have been found; beyond it those that wait are prepared before others are found."""

PLACEHOLDER = '{"type": "image"}'
"""A part without a picture, which takes the next one of `images=`."""


def open_messages(
    messages: Any,
    images: Any,
    options: ImageOptions,
    vision: VisionConfig | None,
    prepare: Callable[[Found, ImageOptions], Image.Image],
    check: Callable[[Sequence[int]], None],
) -> list[dict[str, Any]]:
    """Messages in one shape. All their pictures are found, then they are opened and prepared, one
    after the other: decoded, they may take far more than prepared.

    Arguments:
        messages: a string, or chat messages of OpenAI, Mistral, Hugging Face or LangChain.
        images: with a string, pictures that stand before the text; with messages, those that fill
            their parts `{"type": "image"}`, in their order.
        options: how pictures are prepared.
        vision: of the model, for the size of a PDF's pages; None if it has none.
        prepare: opens a picture, and gives what stands for it from then on; the options are those
            of this picture.
        check: called with the tokens that each picture takes at least, before any is decoded; what
            it raises ends it all.

    Returns:
        Messages whose content is a string or a list of `{"type": "text", "text": str}` and
        `{"type": "image", "image": what prepare gives}`.

    Raises:
        PromptError: a role or a shape that is not allowed.
        ImageError: a picture that cannot be used. Both say which message, or which of the images.
    """
    opener = _Opener(images, options, vision, prepare, check)
    if isinstance(messages, str):
        found = [opener.question(messages)]
        opener.prepare_all()
        return found
    if not is_list(messages):
        raise PromptError(
            f"messages are {type(messages).__name__}; allowed: a string or a list of messages"
        )
    if not messages:
        raise PromptError("messages are empty: give at least one user message")
    opened = [opener.message(each, i) for i, each in enumerate(as_messages(messages))]
    opener.check_all_used()
    opener.prepare_all()
    return with_calls_together(opened)


def open_picture(
    source: Any, options: ImageOptions, vision: VisionConfig | None
) -> list[dict[str, Any]]:
    """A picture as a part of a message; a PDF, or a TIFF of several pages, as two parts a page: its
    number and its picture, `Opened`. Arguments and errors are those of `find_pictures`."""
    return [
        {**part, "image": Opened(part["image"].open(), part["image"].content)}
        if part["type"] == "image"
        else part
        for part in _parts(find_pictures(source, options, vision))
    ]


def _parts(pictures: Sequence[Found]) -> Iterator[dict[str, Any]]:
    """Pictures as parts of a message, each after the number of its page."""
    for picture in pictures:
        if picture.page is not None:
            yield {"type": "text", "text": f"Page {picture.page}:"}
        yield {"type": "image", "image": picture}


class _Opener:
    """Opens messages, and fills their placeholders with `images`, one after another."""

    def __init__(
        self,
        images: Any,
        options: ImageOptions,
        vision: VisionConfig | None,
        prepare: Callable[[Found, ImageOptions], Image.Image],
        check: Callable[[Sequence[int]], None],
    ):
        if not is_list(images):
            raise PromptError(
                f"images= is {type(images).__name__}; allowed: a list, even for one: "
                "images=[picture]"
            )
        self._images, self._used = images, 0
        self._options, self._vision = options, vision
        self._prepare, self._check = prepare, check
        self._waiting: list[_Waiting] = []
        self._tokens: list[int] = []
        self._held_bytes = 0

    def question(self, text: str) -> dict[str, Any]:
        """A user's message: all pictures, and the text."""
        if not self._images:
            return {"role": "user", "content": text}
        parts = [part for _ in self._images for part in self._next(self._options)]
        words = [{"type": "text", "text": text}] if text else []
        return {"role": "user", "content": parts + words}

    def message(self, message: dict[str, Any], index: int) -> dict[str, Any]:
        """A message of `clients`, its pictures opened."""
        where, role, content = f"messages[{index}]", message["role"], message["content"]
        if isinstance(content, str) or (content is None and role == "assistant"):
            return message
        if not is_list(content):
            raise PromptError(
                f"{where}: content is {type(content).__name__}; allowed: a string or a list of "
                "parts"
            )
        parts: list[dict[str, Any]] = []
        for i, part in enumerate(content):
            opened = self._part(part, role, f"{where}.content[{i}]")
            if len(opened) == 2 and parts and not _has_image(parts) and i == len(content) - 1:
                # mistral-common moves one picture at the end to the start, and would leave the
                # number of a page behind.
                parts = opened + parts
            else:
                parts += opened
        if not parts and not (role == "assistant" and message.get("tool_calls")):
            raise PromptError(f"{where}: content is an empty list: give text or a picture")
        return {**message, "content": parts or None}

    def check_all_used(self) -> None:
        """Every one of `images` has its place.

        Raises:
            PromptError: some are left.
        """
        if self._used < len(self._images):
            raise PromptError(
                f"images= holds {len(self._images)} pictures, and the messages have {self._used} "
                f"parts {PLACEHOLDER} for them: add such parts, or put the pictures into the "
                "messages"
            )

    def _part(self, part: Any, role: str, where: str) -> list[dict[str, Any]]:
        kind = kind_of(part, role, where)
        if kind == "thought":
            return []
        if kind == "text":
            return [{"type": "text", "text": text_of(part, where)}]
        if role != "user":
            raise PromptError(f"{where}: a picture in a {role} message; only users send pictures")
        options = self._as_closely_as(detail_of(part, where))
        source = source_of(part, where)
        if source is not None:
            return self._find(source, where, options)
        if self._used == len(self._images):
            held = f", and images= holds {self._used}" if self._used else ""
            raise PromptError(
                f"{where}.image: missing{held}: give a path, a URL or a picture here, or in images="
            )
        return self._next(options)

    def _as_closely_as(self, detail: str | None) -> ImageOptions:
        if detail != "low" or self._vision is None:
            return self._options
        low = patch_grid(LOW_SIDE, LOW_SIDE, self._vision).tokens
        return replace(self._options, image_budget=min(low, self._options.image_budget or low))

    def _next(self, options: ImageOptions) -> list[dict[str, Any]]:
        number, source = self._used, self._images[self._used]
        self._used += 1
        # A file says by its name which one it is.
        named = len(self._images) == 1 or hasattr(source, "__fspath__") or _is_short(source)
        return self._find(source, "" if named else f"images[{number}]", options)

    def _find(self, source: Any, where: str, options: ImageOptions) -> list[dict[str, Any]]:
        with _named(where):
            if self._vision is None:
                raise PromptError(NO_VISION)
            pictures = find_pictures(source, options, self._vision)
            parts = list(_parts(pictures))
        for part in parts:
            if part["type"] == "image":
                self._waiting.append(_Waiting(part, options, where))
        budget = options.image_budget
        self._tokens += [each.least_tokens(self._vision, budget) for each in pictures]
        self._held_bytes += sum(each.file_bytes for each in pictures)
        if self._held_bytes > MOST_HELD_BYTES:
            self.prepare_all()
        return parts

    def prepare_all(self) -> None:
        """Open and prepare what has been found, if `check` lets it pass."""
        self._check(self._tokens)
        waiting, self._waiting, self._held_bytes = self._waiting, [], 0
        for part, options, where in waiting:  # each picture may go when its numbers are there
            with _named(where):
                part["image"] = self._prepare(part["image"], options)


class _Waiting(NamedTuple):
    """A part whose picture has been found."""

    part: dict[str, Any]
    options: ImageOptions
    where: str


@contextmanager
def _named(where: str) -> Iterator[None]:
    """Say of an error in which place it is."""
    try:
        yield
    except PixtralError as error:
        raise (type(error)(f"{where}: {error}") if where else error) from error.__cause__


def _has_image(parts: Sequence[Mapping[str, Any]]) -> bool:
    return any(part["type"] == "image" for part in parts)


def _is_short(source: Any) -> bool:
    """Whether this is a name, and not a whole file in base64."""
    return isinstance(source, str) and len(source) < 1000 and not source.startswith("data:")
