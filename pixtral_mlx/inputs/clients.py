"""What other programs call a message, a part or a request, in the one shape that `messages` opens.

OpenAI (chat and responses), Mistral, Hugging Face, LangChain and Anthropic send the same things by
different names, as JSON or as objects. Keys that are not known are dropped, since each adds some of
its own (ids, timestamps, annotations); a kind that is not known is an error, since its content
would be missing from the question.
"""

import dataclasses
import hashlib
import json
import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeGuard

from ..checks import shown
from ..errors import ImageError, PromptError
from .image_source import forgiving_base64

ROLES = ("system", "user", "assistant", "tool")
_OTHER_ROLES = {"developer": "system", "human": "user", "ai": "assistant", "function": "tool"}

TEXTS = ("text", "input_text", "output_text", "text-plain", "refusal")
IMAGES = ("image", "image_url", "input_image")
DETAILS = ("low", "high", "auto", "original")
DOCUMENTS = ("file", "input_file", "document", "document_url")
_ITEMS = ("function_call", "function_call_output")
_THOUGHTS = ("thinking", "redacted_thinking", "reasoning")
"""Kinds of parts. What an assistant thought is no part of the conversation that goes on."""

_SOURCES = (
    *("image", "image_url", "document_url", "file", "source", "file_data", "file_url"),
    *("url", "path", "base64", "data"),
)
"""Where a part may keep its picture or document; the first that is there counts."""
_ENCODED = ("base64", "data", "file_data")
_ON_A_SERVER = ("file_id", "fileId")

_REQUEST = ("tools", "tool_choice", "truncate_for_context_length", "reasoning_effort")
_NO_MATTER = ("messages", "model", "response_format", "parallel_tool_calls")
_UNLESS_OTHER = {"temperature": 0.7, "top_p": 1.0, "truncate_for_context_length": False}
"""What mistral-common puts into every request."""
_TOOL_ID = re.compile(r"[a-zA-Z0-9]{9}")  # the only ones that Pixtral's template takes


def split_request(messages: Any) -> tuple[Any, dict[str, Any]]:
    """The messages of a request, and what else of it the template takes: tools, for example.

    Arguments:
        messages: mistral-common's `ChatCompletionRequest` or its JSON, a LangChain prompt, or
            messages without a request.

    Raises:
        PromptError: a request that asks for more than a prompt.
    """
    request = fields_of(messages)
    if request is None or "messages" not in request:
        return messages, {}
    stated = {
        name: value
        for name, value in request.items()
        if value is not None and _UNLESS_OTHER.get(name) != value
    }
    form = (fields_of(stated.get("response_format")) or {}).get("type", "text")
    if form != "text":
        raise PromptError(
            f"response_format {form}; allowed: text: give the form as an argument, response_format="
        )
    if others := sorted(stated.keys() - {*_REQUEST, *_NO_MATTER}):
        allowed = ", ".join(("messages", *_REQUEST))
        raise PromptError(
            f"a request with {', '.join(others)}; allowed: {allowed}: give options of the answer "
            "as arguments"
        )
    return stated["messages"], {name: stated[name] for name in _REQUEST if name in stated}


def as_messages(listed: Sequence[Any]) -> list[dict[str, Any]]:
    """Messages with the keys that the template knows, and these alone.

    Returns:
        {"role", "content"}, with "tool_calls" and "prefix" of an assistant and "tool_call_id" of a
        tool; the content is a string, None, or a list of parts as they were sent.

    Raises:
        PromptError: a role that is not known, or an answer that is begun too early; the line says
            which message.
    """
    unanswered: deque[str] = deque()  # for results that do not say which call they answer
    found = [_message(message, f"messages[{i}]", unanswered) for i, message in enumerate(listed)]
    for i, message in enumerate(found[:-1]):
        if message.get("prefix") is True:
            raise PromptError(f"messages[{i}]: prefix is for the last message: leave it out here")
    return found


def with_calls_together(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """An assistant's calls in one message, where each had its own: items of OpenAI's Responses API
    are calls one after another and then their results, and the template takes results only after
    a message with all the calls."""
    found: list[dict[str, Any]] = []
    for message in messages:
        if found and found[-1].get("tool_calls") and _only_calls(message):
            calls = [*found[-1]["tool_calls"], *message["tool_calls"]]
            found[-1] = {**found[-1], "tool_calls": calls}
        else:
            found.append(message)
    return found


def _only_calls(message: Mapping[str, Any]) -> bool:
    return bool(message.get("tool_calls")) and not message["content"]


def _message(sent: Any, where: str, unanswered: deque[str]) -> dict[str, Any]:
    message = _unwrapped(sent, where)
    role = _role(message)
    if role not in ROLES:
        raise PromptError(f"{where}: {_no_role(message)}")
    content = message.get("content")
    if role == "assistant":
        calls = list(_calls(message, where))
        unanswered.extend(call["id"] for call in calls)
        content = _spoken(message) if content is None else content
        found: dict[str, Any] = {"tool_calls": calls} if calls else {}
        if message.get("prefix") is not None:
            found["prefix"] = message["prefix"]
        return {"role": role, "content": content, **found}
    if role == "tool":
        stated = message.get("tool_call_id") or (unanswered[0] if unanswered else None)
        answers = None if stated is None else _tool_id(stated)
        if answers in unanswered:
            unanswered.remove(answers)
        return {"role": role, "content": content, "tool_call_id": answers}
    return {"role": role, "content": content}


def _unwrapped(sent: Any, where: str) -> Mapping[str, Any]:
    """The message itself, out of LangChain's ways to write one down."""
    if isinstance(sent, tuple) and len(sent) == 2 and isinstance(sent[0], str):
        return {"role": sent[0], "content": sent[1]}
    message = fields_of(sent)
    if message is None:
        raise PromptError(
            f"{where} is {type(sent).__name__}: a message is a dict with role and content, or such "
            "an object of OpenAI, Mistral, Hugging Face or LangChain"
        )
    if "role" not in message and isinstance(message.get("data"), Mapping):
        return {"type": message.get("type"), **message["data"]}
    if message.get("lc") and isinstance(message.get("kwargs"), Mapping):
        return message["kwargs"]
    return message if "role" in message else _item(message)


def _item(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """An item of OpenAI's Responses API, or a part that stands where a message should, as one."""
    kind = fields.get("type")
    if kind == "function_call":
        return {"role": "assistant", "tool_calls": [{**fields, "id": fields.get("call_id")}]}
    if kind == "function_call_output":
        answers = fields.get("call_id")
        return {"role": "tool", "content": fields.get("output"), "tool_call_id": answers}
    if kind in ("output_text", "refusal"):
        return {"role": "assistant", "content": [fields]}
    if kind in (*TEXTS, *IMAGES, *DOCUMENTS):
        return {"role": "user", "content": [fields]}
    return fields


def _no_role(message: Mapping[str, Any]) -> str:
    """What is wrong with a message of nobody, or with an item that is no part of a conversation."""
    roles = ", ".join((*ROLES, "developer"))
    if "role" in message or message.get("type") in (None, "message"):
        return f"role {message.get('role')!r}; allowed: {roles}"
    return (
        f"type {message['type']!r}; allowed: a message with one of the roles {roles}, or an item "
        f"of type {', '.join((*_ITEMS, *TEXTS[:2], *IMAGES, *DOCUMENTS))}"
    )


def _stated_role(message: Mapping[str, Any]) -> Any:
    return message.get("role") or message.get("type")


def _role(message: Mapping[str, Any]) -> Any:
    """One of `ROLES`, or what was said instead. LangChain's "AIMessageChunk" is an "ai" too."""
    stated = _stated_role(message)
    if not isinstance(stated, str):
        return stated
    stated = str(stated).removesuffix("Chunk").removesuffix("Message").lower()
    return _OTHER_ROLES.get(stated, stated)


def _spoken(message: Mapping[str, Any]) -> Any:
    """What an assistant said that has no content: it refused, or was heard."""
    audio = fields_of(message.get("audio")) or {}
    return message.get("refusal") or audio.get("transcript")


def _calls(message: Mapping[str, Any], where: str) -> Iterator[dict[str, Any]]:
    """An assistant's calls of tools, as OpenAI and Mistral write them, or LangChain, or the
    `function_call` of old."""
    old = message.get("function_call")
    listed = message.get("tool_calls") or ([] if old is None else [{"function": old}])
    if not is_list(listed):
        raise PromptError(f"{where}.tool_calls is {type(listed).__name__}; allowed: a list")
    for i, sent in enumerate(listed):
        call = fields_of(sent) or {}
        function = fields_of(call.get("function")) or call
        arguments = function.get("arguments", function.get("args"))
        if not isinstance(function.get("name"), str):
            raise PromptError(
                f"{where}.tool_calls[{i}]: no function with a name; allowed: "
                '{"id", "type": "function", "function": {"name", "arguments"}}'
            )
        text = arguments if isinstance(arguments, str) else json.dumps(arguments or {})
        name = _tool_id(call.get("id") or f"{where}.tool_calls[{i}]")
        yield {"id": name, "function": {"name": function["name"], "arguments": text}}


def _tool_id(stated: Any) -> str:
    """Nine letters and digits, the same ones for the same id."""
    text = str(stated)
    if _TOOL_ID.fullmatch(text):
        return text
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=5).hexdigest()[:9]


# Parts -----------------------------------------------------------------------------------------


def kind_of(part: Any, role: str, where: str) -> str:
    """What a part of a message holds: "text", "image" (PDFs too), or "thought".

    Raises:
        PromptError: something else; the line lists what is allowed.
    """
    if isinstance(part, str):
        return "text"
    fields = fields_of(part)
    if fields is None:
        raise PromptError(
            f"{where} is {type(part).__name__}: a part is a string or a dict with a type"
        )
    kind = fields.get("type")
    if kind in TEXTS:
        return "text"
    if kind in (*IMAGES, *DOCUMENTS):
        return "image"
    if kind in _THOUGHTS and role == "assistant":
        return "thought"
    kinds = (*TEXTS[:2], *IMAGES, *DOCUMENTS)
    raise PromptError(f"{where}: type {kind!r}; allowed: {', '.join(kinds)}")


def text_of(part: Any, where: str) -> str:
    """The words of a part.

    Raises:
        PromptError: they are no string.
    """
    fields = {"text": part} if isinstance(part, str) else fields_of(part) or {}
    said = (fields.get(name) for name in ("text", "content", "refusal"))
    text = next((value for value in said if value is not None), None)
    if not isinstance(text, str):
        raise PromptError(f"{where}: text is {type(text).__name__}, not a string")
    return text


def source_of(part: Any, where: str) -> Any:
    """Where the picture or the document of a part is; None for a place that is to be filled.

    Raises:
        PromptError: it is on somebody's server, or nowhere.
        ImageError: base64 that is none.
    """
    fields = fields_of(part) or {}
    name, source = _first(fields)
    at = f"{where}.{name}"
    while (inner := _inner(source)) is not None:
        name, source = _first(inner)
        fields = inner
    if source is not None and name in _ENCODED and isinstance(source, str):
        return _decoded(source, at)
    if source is not None:
        return source
    for name in _ON_A_SERVER:
        if fields.get(name) is not None:
            raise PromptError(
                f"{at}: {name} names a file on a server; allowed: a path, a URL, base64 or a "
                "picture"
            )
    if fields_of(part) is not fields or (fields.get("type") != "image"):
        raise PromptError(f"{at}: missing: give a path, a URL or a picture")
    return None


def detail_of(part: Any, where: str) -> str | None:
    """How closely a picture is to be looked at, as OpenAI's clients say it.

    Raises:
        PromptError: not one of `DETAILS`.
    """
    fields = fields_of(part) or {}
    inner = fields_of(fields.get("image_url")) or {}
    stated = fields.get("detail") if inner.get("detail") is None else inner["detail"]
    if stated is not None and stated not in DETAILS:
        raise PromptError(f"{where}: detail {shown(stated)}; allowed: {', '.join(DETAILS)}")
    return stated


def _first(fields: Mapping[str, Any]) -> tuple[str, Any]:
    """The first place of a source that is not empty; else the one where it belongs."""
    for name in _SOURCES:
        if fields.get(name) is not None:
            return name, fields[name]
    kind = str(fields.get("type"))
    return {"input_image": "image_url", "input_file": "file_data"}.get(kind, kind), None


def _inner(source: Any) -> Mapping[str, Any] | None:
    """The fields of {"url": ...} and the like; None for a source itself."""
    if isinstance(source, Mapping) or hasattr(source, "model_dump"):
        return fields_of(source)
    return None


def _decoded(text: str, where: str) -> str | bytes:
    if text.lstrip()[:5].lower() == "data:":
        return text
    try:
        return forgiving_base64(text)
    except ValueError as error:
        raise ImageError(f"{where}: not valid base64 ({error}): encode the file again") from error


# Objects ---------------------------------------------------------------------------------------


def fields_of(value: Any) -> Mapping[str, Any] | None:
    """The fields of a mapping, a pydantic object or a dataclass; None for anything else."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, type):
        return None
    if hasattr(value, "model_dump"):
        # Their pictures would be encoded on the way, and some of them as JPEG.
        own = ("content", "image", "messages")
        found = dict(value.model_dump(by_alias=True, exclude=set(own)))
        inner = {name: getattr(value, name) for name in own if hasattr(value, name)}
        return found | {name: each for name, each in inner.items() if not _is_unset(each)}
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return None


def _is_unset(value: Any) -> bool:
    """Whether this stands for "not given" in Mistral's client."""
    return type(value).__name__ == "Unset"


def is_list(value: Any) -> TypeGuard[Sequence[Any]]:
    """Whether this is a sequence, and not one of letters or bytes."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray)
