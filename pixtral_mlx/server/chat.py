"""`POST /v1/chat/completions`: the fields of OpenAI and Mistral at once."""

import time
from collections.abc import AsyncIterator, Mapping
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from ..checks import one_of
from ..engine.reply import Piece, Reply
from .answers import MOST_CHOICES, Answers, Question
from .fields import count, flag, note_unknown, options_from
from .looks import KINDS
from .refusals import Refusal, refusal_of
from .wire import event

if TYPE_CHECKING:
    from ..pixtral import Pixtral

OPTIONS = {
    "max_tokens": "max_tokens",
    "max_completion_tokens": "max_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "logit_bias": "logit_bias",
    "random_seed": "seed",
    "seed": "seed",
    "stop": "stop",
    "response_format": "response_format",
    "tools": "tools",
    "tool_choice": "tool_choice",
    "parallel_tool_calls": "parallel_tool_calls",
}
"""{field: option of the generation}."""

OTHERS = {
    "model", "messages", "n", "stream", "stream_options", "logprobs", "top_logprobs", "safe_prompt",
    "trace", "prediction", "prompt_cache_key",
}  # fmt: skip
"""Fields that mean something besides; the last two promise speed, which is there without them."""

MOST_TOP_LOGPROBS = 20
SEVERAL_TEMPERATURE = 1.0
"""Of several answers to one question, unless the request says: the likeliest would be the same."""

SAFE_PROMPT = (
    "Answer with care, respect and truth. Be as useful as you safely can. Avoid what is harmful, "
    "unethical, prejudiced or negative, and be fair."
)
"""What `safe_prompt` puts before everything."""

DONE = b"data: [DONE]\n\n"


class ChatRequest:
    """One request for chat completions.

    Arguments:
        body: the fields that are not null.
        name: of the model, as the answer gives it.

    Raises:
        Refusal: a field has a value that is not allowed.
    """

    media_type, ping = "text/event-stream", b": still here\n\n"

    def __init__(self, body: Mapping[str, Any], name: str):
        note_unknown(body, {*OPTIONS, *OTHERS})
        self._name = name
        self._head = {"id": "", "object": "", "created": int(time.time()), "model": name}
        self.streamed = flag(body, "stream")
        self._with_usage = usage_wanted(body)
        self._logprobs = flag(body, "logprobs")
        self.question = question_of(body, self._logprobs)
        self.question.messages = messages_of(body)

    # In one ------------------------------------------------------------------------------------

    async def whole(self, answers: Answers) -> dict[str, Any]:
        """The answer in one."""
        kept = [_Kept() for _ in range(self.question.count)]
        async for number, item in answers.events():
            if isinstance(item, Piece):
                kept[number].pieces.append(item)
                look = await answers.look(number, len(kept[number].pieces) - 1)
                kept[number].looks += [] if look is None else [look]
        model, pictures = answers.model, await answers.pictures()
        return {
            **self._headed("chat.completion", answers),
            **({} if pictures is None else {"pictures": pictures}),
            "choices": [
                self._choice(number, reply, kept[number], model)
                for number, reply in enumerate(answers.replies)
            ],
            "usage": usage_of(answers),
        }

    def _choice(self, number: int, reply: Reply, kept: "_Kept", model: "Pixtral") -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": reply.text}
        if reply.reasoning:
            message["reasoning_content"] = reply.reasoning
        if reply.tool_calls:
            message |= {"content": reply.text or None, "tool_calls": reply.tool_calls}
        choice: dict[str, Any] = {"index": number, "message": message, "logprobs": None}
        if self._logprobs:
            found = [logprob_of(piece, model) for piece in kept.pieces]
            choice["logprobs"] = {"content": found, "refusal": None}
        if kept.looks:
            choice["trace"] = [
                _traced(piece, look) for piece, look in zip(kept.pieces, kept.looks, strict=True)
            ]
        return {**choice, **end_of(reply)}

    # In pieces ---------------------------------------------------------------------------------

    def opening(self) -> bytes:
        """The roles: one chunk for each choice, before anything is computed."""
        self._head["id"] = new_id()
        delta = {"role": "assistant", "content": ""}
        return b"".join(
            self._chunk({"index": number, "delta": delta, "finish_reason": None})
            for number in range(self.question.count)
        )

    async def chunks(self, answers: Answers) -> AsyncIterator[bytes]:
        """The answer in pieces; the last says why it ended, and what it took."""
        tokens, left = [0] * self.question.count, self.question.count
        calls = [0] * self.question.count
        if (pictures := await answers.pictures()) is not None:
            yield event({**self._head, "choices": [], "pictures": pictures})
        async for number, item in answers.events():
            if isinstance(item, Reply):
                left -= 1
                for index in range(calls[number], len(item.tool_calls)):
                    yield self._call(number, index, item)
                last = {"index": number, "delta": {}, **end_of(item)}
                usage = {} if left or self._with_usage else {"usage": usage_of(answers)}
                yield self._chunk(last, **usage)
                continue
            choice: dict[str, Any] = {"index": number, "delta": {}, "finish_reason": None}
            if item.text:
                choice["delta"] = {"content": item.text}
            if item.reasoning:
                choice["delta"]["reasoning_content"] = item.reasoning
            if self._logprobs:
                found = [logprob_of(item, answers.model)]
                choice["logprobs"] = {"content": found, "refusal": None}
            look = await answers.look(number, tokens[number])
            tokens[number] += 1
            if look is not None:
                choice["trace"] = [_traced(item, look)]
            if choice["delta"] or self._logprobs or look is not None:
                yield self._chunk(choice)
        if self._with_usage:
            yield event({**self._head, "choices": [], "usage": usage_of(answers)})
        yield DONE

    def _call(self, number: int, index: int, reply: Reply) -> bytes:
        """A call of a tool, whole: clients of Mistral do not put pieces together."""
        delta = {"tool_calls": [{"index": index, **reply.tool_calls[index]}]}
        return self._chunk({"index": number, "delta": delta, "finish_reason": None})

    def _chunk(self, choice: Mapping[str, Any], **more: Any) -> bytes:
        self._head["object"] = "chat.completion.chunk"
        none = {"usage": None} if self._with_usage else {}
        return event({**self._head, "choices": [choice], **none, **more})

    def _headed(self, kind: str, answers: Answers) -> dict[str, Any]:
        return {**self._head, "id": new_id(), "object": kind}

    def refused_event(self, refusal: Refusal) -> bytes:
        """An error in a stream that has begun."""
        return event(refusal.body(), "error") + DONE

    @staticmethod
    def error_body(refusal: Refusal) -> dict[str, Any]:
        """An error as OpenAI and Mistral write it."""
        return refusal.body()


class _Kept:
    """What of an answer is written when it is whole."""

    def __init__(self) -> None:
        self.pieces: list[Piece] = []
        self.looks: list[dict[str, Any]] = []


def question_of(body: Mapping[str, Any], logprobs: bool) -> Question:
    """What a request asks, but for its messages.

    Raises:
        Refusal: a field has a value that is not allowed.
    """
    options = options_from(body, OPTIONS)
    options.setdefault("max_tokens", None)
    top = count(body, "top_logprobs", 0, 0, MOST_TOP_LOGPROBS)
    if top and not logprobs:
        raise Refusal(400, "top_logprobs needs logprobs: true", param="top_logprobs")
    if top:
        options["top_logprobs"] = top
    answers = count(body, "n", 1, 1, MOST_CHOICES)
    if answers > 1:
        options.setdefault("temperature", SEVERAL_TEMPERATURE)
    return Question("", options, answers, looks=_looks_wanted(body))


def messages_of(body: Mapping[str, Any]) -> list[Any]:
    """The messages of a request, with what `safe_prompt` adds.

    Raises:
        Refusal: there are none.
    """
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise Refusal(400, "messages must be a list with at least one message", param="messages")
    if not flag(body, "safe_prompt"):
        return messages
    return [{"role": "system", "content": SAFE_PROMPT}, *messages]


def new_id(kind: str = "chatcmpl") -> str:
    """Of a completion."""
    return f"{kind}-{token_hex(12)}"


def usage_of(answers: Answers) -> dict[str, Any]:
    """The tokens of a question and all its answers."""
    replies = answers.replies
    prompt, written = len(answers.prompt.tokens), sum(r.stats.generated_tokens for r in replies)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": written,
        "total_tokens": prompt + written,
        "prompt_tokens_details": {
            "cached_tokens": replies[0].stats.cached_tokens,
            "image_tokens": replies[0].stats.image_tokens,
        },
        "completion_tokens_details": {
            "reasoning_tokens": sum(r.stats.reasoning_tokens for r in replies)
        },
    }


def logprob_of(piece: Piece, model: "Pixtral") -> dict[str, Any]:
    """How likely a token was, and others in its place."""
    top = [_logprob(token, logprob, model) for token, logprob in piece.top_logprobs]
    return {**_logprob(piece.token, piece.logprob, model), "top_logprobs": top}


def _logprob(token: int, logprob: float, model: "Pixtral") -> dict[str, Any]:
    text = model.tokenizer.label(token)
    return {"token": text, "logprob": max(logprob, -9999.0), "bytes": [*text.encode()]}


def _traced(piece: Piece, look: Mapping[str, Any]) -> dict[str, Any]:
    from math import exp

    token = piece.text or piece.reasoning
    return {"token": token, "confidence": round(exp(piece.logprob), 4), **look}


def end_of(reply: Reply) -> dict[str, Any]:
    """Why an answer ended, and what is wrong with its form, if anything is."""
    reason = "error" if reply.finish_reason == "interrupted" else reply.finish_reason
    problem = {} if reply.parse_error is None else {"parse_error": reply.parse_error}
    return {"finish_reason": reason, **problem}


def usage_wanted(body: Mapping[str, Any]) -> bool:
    """Whether usage comes in a chunk of its own (OpenAI's way)."""
    stated = body.get("stream_options", {})
    if not isinstance(stated, Mapping):
        raise Refusal(400, "stream_options must be an object", param="stream_options")
    present = {name: value for name, value in stated.items() if value is not None}
    return flag(present, "include_usage")


def _looks_wanted(body: Mapping[str, Any]) -> str:
    """What `trace` says: false, true for boxes, or one of `KINDS`."""
    try:
        stated = one_of("trace", body.get("trace", False), (False, True, *KINDS))
    except ValueError as error:
        raise refusal_of(error, "trace") from error
    return stated if isinstance(stated, str) else KINDS[0] if stated else ""
