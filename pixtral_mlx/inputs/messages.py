"""What users send, checked message by message, with every picture opened.

mistral-common sees only what comes out of here: known roles, known shapes, decoded pictures. The
pages of a PDF or a TIFF become pictures, each after its number: "Page 3:". What other programs call
things is `clients`' to know.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from PIL import Image

from ..errors import PixtralError, PromptError
from ..model.config import VisionConfig
from ..model.vision_language_model import NO_VISION
from .clients import as_messages, is_list, kind_of, source_of, text_of
from .image import decode_image, open_image
from .image_options import ImageOptions
from .image_source import is_file, read_source
from .page_choice import check_no_choice, split_choice
from .pages import has_pages, open_pages

PLACEHOLDER = '{"type": "image"}'
"""A part without a picture, which takes the next one of `images=`."""


def open_messages(
    messages: Any,
    images: Any,
    options: ImageOptions,
    vision: VisionConfig | None,
    prepare: Callable[[Image.Image], Image.Image],
) -> list[dict[str, Any]]:
    """Messages in one shape, their pictures opened and prepared, one after the other: decoded, they
    may take far more than prepared.

    Arguments:
        messages: a string, or chat messages of OpenAI, Mistral, Hugging Face or LangChain.
        images: with a string, pictures that stand before the text; with messages, those that fill
            their parts `{"type": "image"}`, in their order.
        options: how pictures are prepared.
        vision: of the model, for the size of a PDF's pages; None if it has none.
        prepare: what stands for a picture from then on.

    Returns:
        Messages whose content is a string or a list of `{"type": "text", "text": str}` and
        `{"type": "image", "image": what prepare gives}`.

    Raises:
        PromptError: a role or a shape that is not allowed.
        ImageError: a picture that cannot be used. Both say which message, or which of the images.
    """
    opener = _Opener(images, options, vision, prepare)
    if isinstance(messages, str):
        return [opener.question(messages)]
    if not is_list(messages):
        raise PromptError(
            f"messages are {type(messages).__name__}; allowed: a string or a list of messages"
        )
    if not messages:
        raise PromptError("messages are empty: give at least one user message")
    opened = [opener.message(each, i) for i, each in enumerate(as_messages(messages))]
    opener.check_all_used()
    return opened


def open_picture(
    source: Any, options: ImageOptions, vision: VisionConfig | None
) -> list[dict[str, Any]]:
    """A picture as a part of a message; a PDF, or a TIFF of several pages, as two parts a page: its
    number and its picture.

    Arguments:
        source: as for `open_image`; also what has pages, of which `#page=2-5` after its name
            chooses some.
        vision: of the model, for the size of a PDF's pages; None if it has none.

    Raises:
        PromptError: pages for a model without a vision encoder.
        ImageError: as `open_image` and `open_pages`.
    """
    if not is_file(source):
        return [{"type": "image", "image": open_image(source, options)}]
    place, choice = split_choice(source)
    data, name = read_source(place, options.sources)
    if has_pages(data, choice):
        if vision is None:
            raise PromptError(NO_VISION)
        parts = []
        for number, page in open_pages(data, name, vision, options, choice):
            parts.append({"type": "text", "text": f"Page {number}:"})
            parts.append({"type": "image", "image": page})
        return parts
    check_no_choice(name, choice)
    return [{"type": "image", "image": decode_image(data, name, options)}]


class _Opener:
    """Opens messages, and fills their placeholders with `images`, one after another."""

    def __init__(
        self,
        images: Any,
        options: ImageOptions,
        vision: VisionConfig | None,
        prepare: Callable[[Image.Image], Image.Image],
    ):
        if not is_list(images):
            raise PromptError(
                f"images= is {type(images).__name__}; allowed: a list, even for one: "
                "images=[picture]"
            )
        self._images, self._used = images, 0
        self._options, self._vision, self._prepare = options, vision, prepare

    def question(self, text: str) -> dict[str, Any]:
        """A user's message: all pictures, and the text."""
        if not self._images:
            return {"role": "user", "content": text}
        parts = [part for _ in self._images for part in self._next()]
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
        source = source_of(part, where)
        if source is not None:
            return self._open(source, where)
        if self._used == len(self._images):
            held = f", and images= holds {self._used}" if self._used else ""
            raise PromptError(
                f"{where}.image: missing{held}: give a path, a URL or a picture here, or in images="
            )
        return self._next()

    def _next(self) -> list[dict[str, Any]]:
        number, source = self._used, self._images[self._used]
        self._used += 1
        # A file says by its name which one it is.
        named = len(self._images) == 1 or hasattr(source, "__fspath__") or _is_short(source)
        return self._open(source, "" if named else f"images[{number}]")

    def _open(self, source: Any, where: str) -> list[dict[str, Any]]:
        try:
            if self._vision is None:
                raise PromptError(NO_VISION)
            parts = open_picture(source, self._options, self._vision)
            for part in parts:
                if part["type"] == "image":
                    part["image"] = self._prepare(part["image"])
            return parts
        except PixtralError as error:
            raise (type(error)(f"{where}: {error}") if where else error) from error.__cause__


def _has_image(parts: Sequence[Mapping[str, Any]]) -> bool:
    return any(part["type"] == "image" for part in parts)


def _is_short(source: Any) -> bool:
    """Whether this is a name, and not a whole file in base64."""
    return isinstance(source, str) and len(source) < 1000 and not source.startswith("data:")
