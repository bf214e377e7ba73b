"""`POST /v1/messages`: what Anthropic's clients send."""

import json
from collections.abc import AsyncIterator, Mapping
from secrets import token_hex
from typing import Any

from ..engine.reply import Piece, Reply
from .answers import Answers, Question
from .fields import flag, note_unknown, options_from
from .refusals import Refusal
from .wire import event

OPTIONS = {
    "max_tokens": "max_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "stop_sequences": "stop",
}
"""{field: option of the generation}."""

_OTHERS = {
    "model", "messages", "system", "stream", "tools", "tool_choice", "output_config", "thinking",
}  # fmt: skip
_REASONS = {"length": "max_tokens", "tool_calls": "tool_use"}
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


class MessagesRequest:
    """One request for a message.

    Arguments:
        body: the fields that are not null.
        name: of the model, as the answer gives it.

    Raises:
        Refusal: a field has a value that is not allowed.
    """

    media_type = "text/event-stream"
    ping = b'event: ping\ndata: {"type": "ping"}\n\n'

    def __init__(self, body: Mapping[str, Any], name: str):
        note_unknown(body, {*OPTIONS, *_OTHERS})
        if "max_tokens" not in body:
            raise Refusal(
                400, "max_tokens is missing: a whole number, 1 or more", param="max_tokens"
            )
        self.streamed = flag(body, "stream")
        self._thinking = _thinking(body)
        options = options_from({**body, **_tools(body), **_form(body)}, {**OPTIONS, **_CONVERTED})
        self.question = Question(messages_of(body), options)
        self._head = {
            "id": f"msg_{token_hex(12)}", "type": "message", "role": "assistant", "model": name,
            "content": [], "stop_reason": None, "stop_sequence": None,
        }  # fmt: skip

    async def whole(self, answers: Answers) -> dict[str, Any]:
        """The answer in one."""
        async for _ in answers.events():
            pass
        (reply,) = answers.replies
        thoughts = reply.reasoning if self._thinking else ""
        said = {"thinking": thoughts, "text": reply.text}
        blocks = [_block(kind, text) for kind, text in said.items() if text]
        blocks += [_block_of(call) for call in reply.tool_calls]
        end = {"stop_reason": _reason(reply), "usage": _usage(answers, reply)}
        return {**self._head, "content": blocks, **end}

    def opening(self) -> bytes:
        """The message, empty; what the prompt took is said at the end."""
        usage = {"input_tokens": 0, "output_tokens": 0}
        return _event("message_start", message={**self._head, "usage": usage})

    async def chunks(self, answers: Answers) -> AsyncIterator[bytes]:
        """Blocks of thoughts and of text as they are written, one for each call, and why it
        ended."""
        index, kind = 0, ""
        async for _, item in answers.events():
            if isinstance(item, Piece):
                thought = item.reasoning if self._thinking else ""
                for now, text in (("thinking", thought), ("text", item.text)):
                    if text and now != kind:
                        if kind:
                            yield _event("content_block_stop", index=index)
                            index += 1
                        kind = now
                        yield _started(index, _block(kind, ""))
                    if text:
                        yield _changed(index, {"type": f"{kind}_delta", kind: text})
                continue
            if kind:
                yield _event("content_block_stop", index=index)
                index += 1
            for call in item.tool_calls:
                block = _block_of(call)
                yield _started(index, {**block, "input": {}})
                arguments = call["function"]["arguments"]
                yield _changed(index, {"type": "input_json_delta", "partial_json": arguments})
                yield _event("content_block_stop", index=index)
                index += 1
            delta = {"stop_reason": _reason(item), "stop_sequence": None}
            yield _event("message_delta", delta=delta, usage=_usage(answers, item))
        yield _event("message_stop")

    def refused_event(self, refusal: Refusal) -> bytes:
        """An error in a stream that has begun."""
        return event(self.error_body(refusal), "error")

    @staticmethod
    def error_body(refusal: Refusal) -> dict[str, Any]:
        """An error as Anthropic writes it."""
        kind = "not_found_error" if refusal.status == 404 else refusal.kind
        return {"type": "error", "error": {"type": kind, "message": refusal.message}}


def messages_of(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The messages in OpenAI's shape, which `inputs` reads.

    Raises:
        Refusal: there are none, or one is no object.
    """
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise Refusal(400, "messages must be a list with at least one message", param="messages")
    found: list[dict[str, Any]] = []
    if system := body.get("system"):
        found.append({"role": "system", "content": system})
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise Refusal(400, f"messages[{i}] must be an object", param="messages")
        found += _turn(message)
    return found


def _turn(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A message; results of tools are messages of their own, and calls stand beside the text."""
    content = message.get("content")
    if not isinstance(content, list):
        return [dict(message)]
    results, calls, parts = [], [], []
    for block in content:
        kind = block.get("type") if isinstance(block, Mapping) else None
        if kind == "tool_result":
            said = block.get("content") or ""
            results.append(
                {"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": said}
            )
        elif kind == "tool_use":
            arguments = json.dumps(block.get("input") or {}, ensure_ascii=False)
            function = {"name": block.get("name"), "arguments": arguments}
            calls.append({"id": block.get("id"), "type": "function", "function": function})
        else:
            parts.append(block)
    if calls:
        return [*results, {"role": "assistant", "content": parts or None, "tool_calls": calls}]
    return [*results, *([{**message, "content": parts}] if parts or not results else [])]


_CONVERTED = {
    "tools": "tools", "tool_choice": "tool_choice", "parallel": "parallel_tool_calls",
    "output_config.format": "response_format",
}  # fmt: skip


def _tools(body: Mapping[str, Any]) -> dict[str, Any]:
    """Tools and their choice in OpenAI's shape."""
    found: dict[str, Any] = {}
    if isinstance(tools := body.get("tools"), list):
        found["tools"] = [_function(tool) for tool in tools]
    choice = body.get("tool_choice")
    if not isinstance(choice, Mapping):
        return found
    if choice.get("type") == "tool":
        found["tool_choice"] = {"type": "function", "function": {"name": choice.get("name")}}
    else:
        found["tool_choice"] = _CHOICES.get(str(choice.get("type")), choice.get("type"))
    found["parallel"] = choice.get("disable_parallel_tool_use") is not True
    return found


def _form(body: Mapping[str, Any]) -> dict[str, Any]:
    """The form of the answer, if there is one.

    Raises:
        Refusal: what states it is no object.
    """
    stated = body.get("output_config", {})
    if not isinstance(stated, Mapping):
        raise Refusal(400, "output_config must be an object", param="output_config")
    form = stated.get("format")
    return {} if form is None else {"output_config.format": form}


def _thinking(body: Mapping[str, Any]) -> bool:
    """Whether thoughts are wanted.

    Raises:
        Refusal: what says so is no object.
    """
    stated = body.get("thinking", {})
    if not isinstance(stated, Mapping):
        raise Refusal(400, "thinking must be an object", param="thinking")
    return stated.get("type", "disabled") != "disabled"


def _block(kind: str, text: str) -> dict[str, Any]:
    """Words, or thoughts; only Anthropic signs those."""
    return {"type": kind, kind: text, **({"signature": ""} if kind == "thinking" else {})}


def _function(tool: Any) -> Any:
    if not isinstance(tool, Mapping):
        return tool
    function = {
        "name": tool.get("name"), "description": tool.get("description"),
        "parameters": tool.get("input_schema"),
    }  # fmt: skip
    return {"type": "function", "function": function}


def _block_of(call: Mapping[str, Any]) -> dict[str, Any]:
    """A call as a block; arguments that were cut are none."""
    function = call["function"]
    return {
        "type": "tool_use", "id": call["id"], "name": function["name"],
        "input": json.loads(function["arguments"]),
    }  # fmt: skip


def _reason(reply: Reply) -> str:
    return _REASONS.get(reply.finish_reason or "", "end_turn")


def _usage(answers: Answers, reply: Reply) -> dict[str, int]:
    cached = reply.stats.cached_tokens
    return {
        "input_tokens": len(answers.prompt.tokens) - cached,
        "cache_read_input_tokens": cached,
        "cache_creation_input_tokens": 0,
        "output_tokens": reply.stats.generated_tokens,
    }


def _event(kind: str, **fields: Any) -> bytes:
    return event({"type": kind, **fields}, kind)


def _started(index: int, block: Mapping[str, Any]) -> bytes:
    return _event("content_block_start", index=index, content_block=block)


def _changed(index: int, delta: Mapping[str, Any]) -> bytes:
    return _event("content_block_delta", index=index, delta=delta)
