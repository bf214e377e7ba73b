"""`/api/chat`, `/api/generate`, `/api/tags`, `/api/show`: what Ollama's clients send."""

import json
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from typing import Any

from ..engine.reply import Reply
from .answers import Answers, Question
from .fields import flag, note_unknown, options_from
from .host import CREATED
from .refusals import Refusal

OPTIONS = {
    "num_predict": "max_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repeat_penalty": "repetition_penalty",
    "repeat_last_n": "repetition_context_size",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "seed": "seed",
    "stop": "stop",
}
"""{field of "options": option of the generation}."""

_KNOWN = {"model", "stream", "options", "format", "keep_alive", "think"}


class OllamaRequest(ABC):
    """One request for a chat, or for an answer to a prompt.

    Arguments:
        body: the fields that are not null.
        name: of the model, as the answer gives it.

    Raises:
        Refusal: a field has a value that is not allowed.
    """

    media_type, ping = "application/x-ndjson", b""

    def __init__(self, body: Mapping[str, Any], name: str):
        self._name, self._began = name, time.monotonic_ns()
        self.streamed = flag(body, "stream", True)
        stated = body.get("options", {})
        if not isinstance(stated, Mapping):
            raise Refusal(400, "options must be an object", param="options")
        stated = {key: value for key, value in stated.items() if value is not None}
        if stated.get("num_predict") in (-1, -2):  # Ollama's words for "until it ends"
            del stated["num_predict"]
        note_unknown(stated, OPTIONS)
        options = options_from(stated, OPTIONS)
        options.setdefault("max_tokens", None)
        options |= self._own_options(body)
        self.question = Question(self._messages(body), options)

    def _own_options(self, body: Mapping[str, Any]) -> dict[str, Any]:
        form = body.get("format")
        form = {"type": "json_object"} if form == "json" else form
        return {} if not form else options_from({"format": form}, {"format": "response_format"})

    @abstractmethod
    def _messages(self, body: Mapping[str, Any]) -> list[Any]:
        """What is asked, as everybody else's messages."""

    @abstractmethod
    def _said(self, text: str, thought: str, reply: Reply | None) -> dict[str, Any]:
        """Text and thoughts as this path gives them; with `reply`, all that is left to be said."""

    async def whole(self, answers: Answers) -> dict[str, Any]:
        """The answer in one."""
        async for _ in answers.events():
            pass
        (reply,) = answers.replies
        return self._line(reply.text, reply.reasoning, answers, reply)

    def opening(self) -> bytes:
        """Nothing."""
        return b""

    async def chunks(self, answers: Answers) -> AsyncIterator[bytes]:
        """A JSON object a line; the last says why it ended, and what it took."""
        async for _, item in answers.events():
            if isinstance(item, Reply):
                yield _as_line(self._line("", "", answers, item))
            elif item.text or item.reasoning:
                yield _as_line(self._line(item.text, item.reasoning, answers, None))

    def refused_event(self, refusal: Refusal) -> bytes:
        """An error in a stream that has begun."""
        return _as_line(self.error_body(refusal))

    @staticmethod
    def error_body(refusal: Refusal) -> dict[str, Any]:
        """An error as Ollama writes it."""
        return {"error": refusal.message}

    def _line(
        self, text: str, thought: str, answers: Answers, reply: Reply | None
    ) -> dict[str, Any]:
        head = {"model": self._name, "created_at": datetime.now(UTC).isoformat()}
        line = {**head, **self._said(text, thought, reply), "done": reply is not None}
        if reply is not None:
            stats = reply.stats
            line |= {
                "done_reason": "length" if reply.finish_reason == "length" else "stop",
                "total_duration": time.monotonic_ns() - self._began,
                "prompt_eval_count": len(answers.prompt.tokens),
                "prompt_eval_duration": int(stats.prompt_seconds * 1e9),
                "eval_count": stats.generated_tokens,
                "eval_duration": int(stats.decode_seconds * 1e9),
            }
        return line


class OllamaChat(OllamaRequest):
    """`/api/chat`."""

    def _own_options(self, body: Mapping[str, Any]) -> dict[str, Any]:
        note_unknown(body, _KNOWN | {"messages", "tools"})
        tools = options_from(body, {"tools": "tools"}) if body.get("tools") else {}
        return super()._own_options(body) | tools

    def _messages(self, body: Mapping[str, Any]) -> list[Any]:
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages:
            raise Refusal(
                400, "messages must be a list with at least one message", param="messages"
            )
        return [_with_pictures(message, f"messages[{i}]") for i, message in enumerate(messages)]

    def _said(self, text: str, thought: str, reply: Reply | None) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": text, **_thinking(thought)}
        if reply is not None and reply.tool_calls:
            message["tool_calls"] = [
                {
                    "function": {
                        "name": call["function"]["name"],
                        "arguments": json.loads(call["function"]["arguments"]),
                    }
                }
                for call in reply.tool_calls
            ]
        return {"message": message}


class OllamaGenerate(OllamaRequest):
    """`/api/generate`."""

    def _messages(self, body: Mapping[str, Any]) -> list[Any]:
        note_unknown(body, _KNOWN | {"prompt", "system", "images"})
        prompt, system = body.get("prompt"), body.get("system")
        if not isinstance(prompt, str) or not prompt:
            raise Refusal(400, "prompt must be a string that is not empty", param="prompt")
        first = [{"role": "system", "content": system}] if system else []
        asked = {"role": "user", "content": prompt, "images": body.get("images")}
        return [*first, _with_pictures(asked, "prompt")]

    def _said(self, text: str, thought: str, reply: Reply | None) -> dict[str, Any]:
        return {"response": text, **_thinking(thought)}


def _thinking(thought: str) -> dict[str, str]:
    return {"thinking": thought} if thought else {}


def _with_pictures(message: Any, where: str) -> Any:
    """A message whose pictures are parts of its content, as everybody else sends them; the
    arguments of its calls as JSON in a string."""
    if not isinstance(message, Mapping):
        raise Refusal(400, f"{where} must be an object", param="messages")
    found = {key: value for key, value in message.items() if key != "images"}
    if calls := found.get("tool_calls"):
        found["tool_calls"] = [_with_text_arguments(call) for call in calls]
    images = message.get("images") or []
    if not isinstance(images, list):
        raise Refusal(400, f"{where}: images must be a list of base64", param="images")
    if images:
        parts = [{"type": "image", "image": image} for image in images]
        found["content"] = [*parts, {"type": "text", "text": message.get("content") or ""}]
    return found


def _with_text_arguments(call: Any) -> Any:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("arguments"), Mapping):
        return call
    text = json.dumps(function["arguments"], ensure_ascii=False)
    return {"type": "function", **call, "function": {**function, "arguments": text}}


def _as_line(data: Mapping[str, Any]) -> bytes:
    return json.dumps(data, ensure_ascii=False).encode(errors="replace") + b"\n"


def tags(names: list[str]) -> dict[str, Any]:
    """What `/api/tags` lists."""
    changed = datetime.fromtimestamp(CREATED, UTC).isoformat()
    return {
        "models": [
            {"name": f"{name}:latest", "model": f"{name}:latest", "modified_at": changed,
             "size": 0, "digest": "", "details": _DETAILS}
            for name in names
        ]
    }  # fmt: skip


def show(context: int, vision: bool) -> dict[str, Any]:
    """What `/api/show` says of the model."""
    capabilities = ["completion", "tools", *(["vision"] if vision else [])]
    return {
        "details": _DETAILS,
        "model_info": {"general.architecture": "pixtral", "pixtral.context_length": context},
        "capabilities": capabilities,
    }


_DETAILS = {
    "parent_model": "", "format": "mlx", "family": "pixtral", "families": ["pixtral"],
    "parameter_size": "", "quantization_level": "",
}  # fmt: skip
