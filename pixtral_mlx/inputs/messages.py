"""What users send, checked message by message, with every picture opened.

mistral-common sees only what comes out of here: known roles, known shapes, decoded pictures. The
pages of a PDF become pictures, each after its number: "Page 3:".
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from ..errors import ImageError, PromptError
from ..model.config import VisionConfig
from ..model.vision_language_model import NO_VISION
from .file_kind import is_pdf
from .image import decode_image, open_image
from .image_options import ImageOptions
from .image_source import read_source
from .pdf import open_pages, split_choice

ROLES = ("system", "user", "assistant", "tool")


def open_messages(
    messages: Any, images: Any, options: ImageOptions, vision: VisionConfig | None
) -> list[dict[str, Any]]:
    """Messages in one shape, their pictures opened.

    Arguments:
        messages: a string, or chat messages in the OpenAI / Mistral shape.
        images: with a string, pictures that stand before the text.
        options: how pictures are prepared.
        vision: of the model, for the size of a PDF's pages; None if it has none.

    Returns:
        Messages whose content is a string or a list of `{"type": "text", "text": str}` and
        `{"type": "image", "image": PIL image}`.

    Raises:
        PromptError: a role or a shape that is not allowed.
        ImageError: a picture that cannot be used.
    """
    listed = _as_messages(messages, images)
    return [_open_message(message, index, options, vision) for index, message in enumerate(listed)]


def open_picture(
    source: Any, options: ImageOptions, vision: VisionConfig | None
) -> list[dict[str, Any]]:
    """A picture as a part of a message; a PDF as two parts a page, its number and its picture.

    Arguments:
        source: as for `open_image`; also a PDF, of which `#page=2-5` after its name chooses pages.
        vision: of the model, for the size of a PDF's pages; None if it has none.

    Raises:
        PromptError: a PDF for a model without a vision encoder.
        ImageError: as `open_image` and `open_pages`.
    """
    if not isinstance(source, str | os.PathLike | bytes | bytearray | memoryview):
        return [{"type": "image", "image": open_image(source, options)}]
    place, choice = split_choice(source)
    data, name = read_source(place)
    if is_pdf(data):
        if vision is None:
            raise PromptError(NO_VISION)
        parts = []
        for number, page in open_pages(data, name, vision, options, choice):
            parts.append({"type": "text", "text": f"Page {number}:"})
            parts.append({"type": "image", "image": page})
        return parts
    if choice is not None:
        raise ImageError(f"{name}: #page={choice} chooses pages of a PDF, and this is none")
    return [{"type": "image", "image": decode_image(data, name, options)}]


def _as_messages(messages: Any, images: Sequence[Any]) -> list[Mapping[str, Any]]:
    if not _is_list(images):
        raise PromptError(
            f"images= is {type(images).__name__}; allowed: a list, also of one: images=[picture]"
        )
    if isinstance(messages, str):
        chunks = [{"type": "image", "image": image} for image in images]
        text = [{"type": "text", "text": messages}] if messages or not chunks else []
        return [{"role": "user", "content": chunks + text if chunks else messages}]
    if len(images):
        raise PromptError(
            "images= goes with a prompt that is a string: put the pictures into the messages"
        )
    if not _is_list(messages):
        raise PromptError(
            f"messages are {type(messages).__name__}; allowed: a string or a list of messages"
        )
    if not messages:
        raise PromptError("messages are empty: give at least one user message")
    return list(messages)


def _open_message(
    message: Any, index: int, options: ImageOptions, vision: VisionConfig | None
) -> dict[str, Any]:
    """Check one message and replace its pictures by opened ones."""
    where = f"messages[{index}]"
    if not isinstance(message, Mapping):
        raise PromptError(f"{where} is {type(message).__name__}: a message is a dict")
    role = message.get("role")
    if role not in ROLES:
        raise PromptError(f"{where}: role {role!r}; allowed: {', '.join(ROLES)}")
    content = message.get("content")
    if isinstance(content, str) or (content is None and role in ("assistant",)):
        return dict(message)
    if not _is_list(content):
        raise PromptError(
            f"{where}: content is {type(content).__name__}; allowed: a string or a list of parts"
        )
    parts: list[dict[str, Any]] = []
    for i, part in enumerate(content):
        opened = _open_part(part, f"{where}.content[{i}]", options, vision)
        if len(opened) == 2 and parts and not _has_image(parts) and i == len(content) - 1:
            # mistral-common moves one picture at the end to the start, and would leave the number
            # of a page behind.
            parts = opened + parts
        else:
            parts += opened
    if not parts:
        raise PromptError(f"{where}: content is an empty list: give text or an image")
    if role != "user" and _has_image(parts):
        raise PromptError(f"{where}: an image in a {role} message; only users send images")
    return {**message, "content": parts}


def _open_part(
    part: Any, where: str, options: ImageOptions, vision: VisionConfig | None
) -> list[dict[str, Any]]:
    if isinstance(part, str):
        return [{"type": "text", "text": part}]
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "text":
        if not isinstance(part.get("text"), str):
            raise PromptError(f"{where}: text is {type(part.get('text')).__name__}, not a string")
        return [{"type": "text", "text": part["text"]}]
    if kind in ("image_url", "image"):
        source = part.get(kind)
        if kind == "image_url" and isinstance(source, Mapping):
            source = source.get("url")
        if source is None:
            raise PromptError(f"{where}.{kind}: missing: give a path, a URL or a picture")
        return open_picture(source, options, vision)
    raise PromptError(
        f"{where}: type {kind!r}; allowed: text, image_url and image"
        if isinstance(part, Mapping)
        else f"{where} is {type(part).__name__}: a part is a string or a dict with a type"
    )


def _has_image(parts: Sequence[Mapping[str, Any]]) -> bool:
    return any(part["type"] == "image" for part in parts)


def _is_list(value: Any) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray)
