"""What users send, checked message by message, with every picture opened.

mistral-common sees only what comes out of here: known roles, known shapes, decoded pictures.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from PIL import Image

from .errors import PromptError
from .image import ImageOptions, open_image

ROLES = ("system", "user", "assistant", "tool")


def open_messages(messages: Any, images: Any, options: ImageOptions) -> list[dict[str, Any]]:
    """Messages in one shape, their pictures opened.

    Arguments:
        messages: a string, or chat messages in the OpenAI / Mistral shape.
        images: with a string, pictures that stand before the text.
        options: how pictures are prepared.

    Returns:
        Messages whose content is a string or a list of `{"type": "text", "text": str}` and
        `{"type": "image", "image": PIL image}`.

    Raises:
        PromptError: a role or a shape that is not allowed.
        ImageError: a picture that cannot be used.
    """
    listed = _as_messages(messages, images)
    return [_open_message(message, index, options) for index, message in enumerate(listed)]


def _as_messages(messages: Any, images: Sequence[Any]) -> list[Mapping[str, Any]]:
    if not _is_list(images):
        raise PromptError(
            f"images= is {type(images).__name__}: allowed is a list, also of one: images=[picture]"
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
            f"messages are {type(messages).__name__}: allowed are a string or a list of messages"
        )
    if not messages:
        raise PromptError("messages are empty: give at least one user message")
    return list(messages)


def _open_message(message: Any, index: int, options: ImageOptions) -> dict[str, Any]:
    """Check one message and replace its pictures by opened ones."""
    where = f"messages[{index}]"
    if not isinstance(message, Mapping):
        raise PromptError(f"{where} is {type(message).__name__}: a message is a dict")
    role = message.get("role")
    if role not in ROLES:
        raise PromptError(f"{where}: role {role!r}; allowed are {', '.join(ROLES)}")
    content = message.get("content")
    if isinstance(content, str) or (content is None and role in ("assistant",)):
        return dict(message)
    if not _is_list(content):
        raise PromptError(
            f"{where}: content is {type(content).__name__}: allowed are a string or a list of parts"
        )
    parts = [_open_part(part, f"{where}.content[{i}]", options) for i, part in enumerate(content)]
    if not parts:
        raise PromptError(f"{where}: content is an empty list: give text or an image")
    if role != "user" and any(part["type"] == "image" for part in parts):
        raise PromptError(f"{where}: an image in a {role} message; only users send images")
    return {**message, "content": parts}


def _open_part(part: Any, where: str, options: ImageOptions) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "text":
        if not isinstance(part.get("text"), str):
            raise PromptError(f"{where}: text is {type(part.get('text')).__name__}, not a string")
        return {"type": "text", "text": part["text"]}
    if kind == "image_url":
        url = part.get("image_url")
        url = url.get("url") if isinstance(url, Mapping) else url
        return _opened(url, f"{where}.image_url", options)
    if kind == "image":
        return _opened(part.get("image"), f"{where}.image", options)
    raise PromptError(
        f"{where}: type {kind!r}; allowed are text, image_url and image"
        if isinstance(part, Mapping)
        else f"{where} is {type(part).__name__}: a part is a string or a dict with a type"
    )


def _opened(source: Any, where: str, options: ImageOptions) -> dict[str, Any]:
    if source is None:
        raise PromptError(f"{where}: missing: give a path, a URL or a picture")
    image: Image.Image = open_image(source, options)
    return {"type": "image", "image": image}


def _is_list(value: Any) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray)
