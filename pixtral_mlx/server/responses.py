"""`POST /v1/responses`: OpenAI's newer way to ask. Nothing is kept between two requests."""

import time
from collections.abc import AsyncIterator, Iterator, Mapping
from secrets import token_hex
from typing import Any

from ..engine.reply import Piece, Reply
from .answers import Answers, Question
from .chat import MOST_TOP_LOGPROBS, logprob_of
from .fields import count, flag, note_unknown, options_from
from .refusals import Refusal
from .wire import event

OPTIONS = {
    "max_output_tokens": "max_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "tools": "tools",
    "tool_choice": "tool_choice",
    "parallel_tool_calls": "parallel_tool_calls",
    "text.format": "response_format",
}
"""{field: option of the generation}."""

_OTHERS = {
    "model", "input", "instructions", "stream", "stream_options", "text", "include", "top_logprobs",
    "metadata", "store", "truncation", "prompt_cache_key",
}  # fmt: skip
_KEPT = ("previous_response_id", "conversation", "prompt", "background")
"""Fields that name something which a server keeps."""
_LOGPROBS = "message.output_text.logprobs"


class ResponsesRequest:
    """One request for a response.

    Arguments:
        body: the fields that are not null.
        name: of the model, as the answer gives it.

    Raises:
        Refusal: a field has a value that is not allowed.
    """

    media_type, ping = "text/event-stream", b": still here\n\n"

    def __init__(self, body: Mapping[str, Any], name: str):
        note_unknown(body, {*OPTIONS, *_OTHERS, *_KEPT})
        for kept in _KEPT:
            if body.get(kept):
                raise Refusal(
                    400,
                    f"{kept}: nothing is kept between two requests here: leave it out and send the "
                    "whole conversation as input",
                    param=kept,
                )
        self.streamed = flag(body, "stream")
        included = body.get("include", [])
        self._logprobs = isinstance(included, list) and _LOGPROBS in included
        options = options_from({**body, **_in_chat_words(body)}, OPTIONS)
        options.setdefault("max_tokens", None)
        if (top := count(body, "top_logprobs", 0, 0, MOST_TOP_LOGPROBS)) and self._logprobs:
            options["top_logprobs"] = top
        self.question = Question(_messages_of(body), options)
        self._token, self._sent = token_hex(16), 0
        self._head = {
            "id": f"resp_{self._token}", "object": "response", "created_at": int(time.time()),
            "model": name, "background": False, "store": False, "previous_response_id": None,
            "error": None, "incomplete_details": None, "truncation": "disabled",
            **_echoed(body),
        }  # fmt: skip

    async def whole(self, answers: Answers) -> dict[str, Any]:
        """The answer in one."""
        pieces = [item async for _, item in answers.events() if isinstance(item, Piece)]
        return self._ended(answers, self._logprobs_of(pieces, answers))

    # In pieces ---------------------------------------------------------------------------------

    def opening(self) -> bytes:
        """The response, empty: before anything is computed."""
        empty = {**self._head, "status": "in_progress", "output": [], "usage": None}
        return self._event("created", response=empty) + self._event("in_progress", response=empty)

    async def chunks(self, answers: Answers) -> AsyncIterator[bytes]:
        """The text as it is written, each call, and at last the whole response."""
        begun, thoughts, logprobs = False, "", []
        place = {"item_id": self._message_id, "output_index": 0, "content_index": 0}
        async for _, item in answers.events():
            if isinstance(item, Reply):
                break
            if item.reasoning:
                if not thoughts:
                    empty = self._thoughts("", "in_progress")
                    yield self._event("output_item.added", output_index=0, item=empty)
                thoughts += item.reasoning
                yield self._thought("delta", delta=item.reasoning)
            found = self._logprobs_of([item], answers)
            logprobs += found
            if item.text and not begun:
                begun = True
                if thoughts:
                    yield self._thoughts_end(thoughts)
                    place["output_index"] = 1
                yield self._message_begins(place)
            if item.text or (begun and found):
                delta = {"delta": item.text, "logprobs": found}
                yield self._event("output_text.delta", **place, **delta)
        if thoughts and not begun:
            yield self._thoughts_end(thoughts)
        response = self._ended(answers, logprobs)
        for index, output in enumerate(response["output"]):
            if output["type"] == "function_call":
                yield self._call(output, index)
                continue
            if output["type"] == "reasoning":  # all of it was said
                continue
            if not begun:  # an answer without a word
                place["output_index"] = index
                yield self._message_begins(place)
            (part,) = output["content"]
            said = {"text": part["text"], "logprobs": logprobs}
            yield self._event("output_text.done", **place, **said)
            yield self._event("content_part.done", **place, part=part)
            yield self._event("output_item.done", output_index=index, item=output)
        yield self._event(response["status"], response=response)

    def refused_event(self, refusal: Refusal) -> bytes:
        """An error in a stream that has begun."""
        error = {"code": refusal.code or refusal.kind, "message": refusal.message}
        failed = {**self._head, "status": "failed", "output": [], "usage": None, "error": error}
        return self._event("failed", response=failed)

    @staticmethod
    def error_body(refusal: Refusal) -> dict[str, Any]:
        """An error as OpenAI writes it."""
        return refusal.body()

    def _message_begins(self, place: Mapping[str, Any]) -> bytes:
        message = self._message("in_progress", "", [])
        (part,) = message["content"]
        return self._event(
            "output_item.added",
            output_index=place["output_index"],
            item={**message, "content": []},
        ) + self._event("content_part.added", **place, part=part)

    def _thoughts_end(self, text: str) -> bytes:
        """Thoughts come before all else."""
        whole = self._thoughts(text, "completed")
        return self._thought("done", text=text) + self._event(
            "output_item.done", output_index=0, item=whole
        )

    def _thought(self, what: str, **fields: str) -> bytes:
        place = {"item_id": f"rs_{self._token}", "output_index": 0, "content_index": 0}
        return self._event(f"reasoning_text.{what}", **place, **fields)

    def _thoughts(self, text: str, status: str) -> dict[str, Any]:
        """Thoughts as an item of the output."""
        content = [{"type": "reasoning_text", "text": text}] if text else []
        return {
            "type": "reasoning", "id": f"rs_{self._token}", "summary": [], "content": content,
            "status": status,
        }  # fmt: skip

    def _call(self, call: Mapping[str, Any], index: int) -> bytes:
        """All events of a call, which is complete."""
        place = {"item_id": call["id"], "output_index": index}
        empty = {**call, "status": "in_progress", "arguments": ""}
        return b"".join(
            (
                self._event("output_item.added", output_index=index, item=empty),
                self._event("function_call_arguments.delta", **place, delta=call["arguments"]),
                self._event(
                    "function_call_arguments.done",
                    **place, name=call["name"], arguments=call["arguments"],
                ),
                self._event("output_item.done", output_index=index, item=call),
            )
        )  # fmt: skip

    def _event(self, kind: str, **fields: Any) -> bytes:
        name = f"response.{kind}"
        data = {"type": name, "sequence_number": self._sent, **fields}
        self._sent += 1
        return event(data, name)

    # The response ------------------------------------------------------------------------------

    def _ended(self, answers: Answers, logprobs: list[dict[str, Any]]) -> dict[str, Any]:
        """The whole response."""
        (reply,) = answers.replies
        return {
            **self._head, **_end_of(reply),
            "output": [*self._output(reply, logprobs)],
            "usage": _usage_of(answers, reply),
        }  # fmt: skip

    def _output(self, reply: Reply, logprobs: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        if reply.reasoning:
            yield self._thoughts(reply.reasoning, "completed")
        if reply.text or not reply.tool_calls:
            cut = _end_of(reply)["status"] != "completed" and not reply.tool_calls
            yield self._message("incomplete" if cut else "completed", reply.text, logprobs)
        for i, call in enumerate(reply.tool_calls):
            yield {
                "type": "function_call", "id": f"fc_{self._token}{i}", "call_id": call["id"],
                "status": "completed", **call["function"],
            }  # fmt: skip

    @property
    def _message_id(self) -> str:
        return f"msg_{self._token}"

    def _message(self, status: str, text: str, logprobs: list[dict[str, Any]]) -> dict[str, Any]:
        part = {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}
        return {
            "type": "message", "id": self._message_id, "role": "assistant", "status": status,
            "content": [part],
        }  # fmt: skip

    def _logprobs_of(self, pieces: list[Piece], answers: Answers) -> list[dict[str, Any]]:
        """Of each token, if they are asked for."""
        return [logprob_of(piece, answers.model) for piece in pieces] if self._logprobs else []


def _messages_of(body: Mapping[str, Any]) -> list[Any]:
    """The input as messages; `inputs` reads its items.

    Raises:
        Refusal: there is none.
    """
    given, instructions = body.get("input"), body.get("instructions")
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    if not isinstance(given, list) or not given:
        raise Refusal(400, "input must be a string or a list with an item", param="input")
    if instructions is None:
        return given
    if not isinstance(instructions, str):
        raise Refusal(400, "instructions must be a string", param="instructions")
    return [{"role": "system", "content": instructions}, *given]


def _in_chat_words(body: Mapping[str, Any]) -> dict[str, Any]:
    """Tools, their choice and the form of the text as chat completions call them.

    Raises:
        Refusal: a tool of OpenAI's own, or a text that is no object.
    """
    found: dict[str, Any] = {}
    if isinstance(tools := body.get("tools"), list):
        found["tools"] = [_tool(tool, f"tools[{i}]") for i, tool in enumerate(tools)]
    choice = body.get("tool_choice")
    if isinstance(choice, Mapping) and choice.get("type") == "function":
        found["tool_choice"] = {"function": {"name": choice.get("name")}, **choice}
    text = body.get("text", {})
    if not isinstance(text, Mapping):
        raise Refusal(400, "text must be an object", param="text")
    if text.get("format") is not None:
        found["text.format"] = text["format"]
    return found


def _tool(tool: Any, where: str) -> Any:
    """A function, its name and parameters one level deeper."""
    kind = tool.get("type") if isinstance(tool, Mapping) else None
    if kind != "function":
        raise Refusal(400, f"{where}: type {kind!r}; allowed: function", param="tools")
    return tool if "function" in tool else {"type": "function", "function": {**tool}}


def _echoed(body: Mapping[str, Any]) -> dict[str, Any]:
    """What the response repeats of its request."""
    usual = {
        "instructions": None, "max_output_tokens": None, "metadata": {}, "temperature": 0.0,
        "top_p": 1.0, "top_logprobs": 0, "text": {"format": {"type": "text"}},
        "tools": [], "tool_choice": "auto", "parallel_tool_calls": True,
    }  # fmt: skip
    return {name: body.get(name, value) for name, value in usual.items()}


def _end_of(reply: Reply) -> dict[str, Any]:
    """How an answer ended, and what is wrong with its form, if anything is."""
    if reply.finish_reason == "length":
        found: dict[str, Any] = {
            "status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"},
        }  # fmt: skip
    elif reply.finish_reason == "interrupted":
        error = {"code": "server_error", "message": "the answer was interrupted"}
        found = {"status": "failed", "error": error}
    else:
        found = {"status": "completed"}
    return found if reply.parse_error is None else {**found, "parse_error": reply.parse_error}


def _usage_of(answers: Answers, reply: Reply) -> dict[str, Any]:
    prompt, stats = len(answers.prompt.tokens), reply.stats
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": stats.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": stats.generated_tokens,
        "output_tokens_details": {"reasoning_tokens": stats.reasoning_tokens},
        "total_tokens": prompt + stats.generated_tokens,
    }
