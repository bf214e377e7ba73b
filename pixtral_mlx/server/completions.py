"""`POST /v1/completions`: a text goes on, without a chat template; for base models."""

import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from ..engine.reply import Piece, Reply
from .answers import Answers
from .chat import DONE, OPTIONS, end_of, new_id, question_of, usage_of, usage_wanted
from .fields import count, flag, note_unknown
from .refusals import Refusal
from .wire import event

MOST_LOGPROBS = 5
_NOT_HERE = {"response_format", "tools", "tool_choice", "parallel_tool_calls"}
_OTHERS = {"model", "prompt", "n", "stream", "stream_options", "logprobs", "echo"}
_DEFAULT_TOKENS = 16
"""OpenAI's: a text has no end of its own."""


class CompletionRequest:
    """One request for completions.

    Arguments:
        body: the fields that are not null.
        name: of the model, as the answer gives it.

    Raises:
        Refusal: a field has a value that is not allowed.
    """

    media_type, ping = "text/event-stream", b": still here\n\n"

    def __init__(self, body: Mapping[str, Any], name: str):
        note_unknown(body, ({*OPTIONS} - _NOT_HERE) | _OTHERS)
        stated = {key: value for key, value in body.items() if key not in _NOT_HERE}
        self._top = count(stated, "logprobs", 0, 0, MOST_LOGPROBS)
        self._logprobs = "logprobs" in stated
        self.streamed, self._with_usage = flag(stated, "stream"), usage_wanted(stated)
        self._echo = flag(stated, "echo")
        rest = {key: value for key, value in stated.items() if key not in ("logprobs", "trace")}
        self.question = question_of({"max_tokens": _DEFAULT_TOKENS, **rest}, False)
        self.question.messages, self.question.raw = _prompt_of(stated), True
        if self._top:
            self.question.options["top_logprobs"] = self._top
        self._head = {
            "id": new_id("cmpl"), "object": "text_completion", "created": int(time.time()),
            "model": name,
        }  # fmt: skip

    async def whole(self, answers: Answers) -> dict[str, Any]:
        """The answer in one."""
        pieces: list[list[Piece]] = [[] for _ in range(self.question.count)]
        async for number, item in answers.events():
            if isinstance(item, Piece):
                pieces[number].append(item)
        choices = [
            self._choice(number, self._begun + reply.text, pieces[number], answers, reply)
            for number, reply in enumerate(answers.replies)
        ]
        return {**self._head, "choices": choices, "usage": usage_of(answers)}

    def opening(self) -> bytes:
        """Nothing, unless the prompt is to be repeated."""
        numbers = range(self.question.count if self._begun else 0)
        return b"".join(self._chunk(self._choice(n, self._begun, [], None, None)) for n in numbers)

    async def chunks(self, answers: Answers) -> AsyncIterator[bytes]:
        """The answer in pieces; the last says why it ended, and what it took."""
        left = self.question.count
        async for number, item in answers.events():
            if isinstance(item, Reply):
                left -= 1
                usage = {} if left or self._with_usage else {"usage": usage_of(answers)}
                yield self._chunk(self._choice(number, "", [], answers, item), **usage)
            elif item.text or self._logprobs:
                yield self._chunk(self._choice(number, item.text, [item], answers, None))
        if self._with_usage:
            yield event({**self._head, "choices": [], "usage": usage_of(answers)})
        yield DONE

    def refused_event(self, refusal: Refusal) -> bytes:
        """An error in a stream that has begun."""
        return event(refusal.body(), "error") + DONE

    @staticmethod
    def error_body(refusal: Refusal) -> dict[str, Any]:
        """An error as OpenAI and Mistral write it."""
        return refusal.body()

    @property
    def _begun(self) -> str:
        return self.question.messages if self._echo else ""

    def _chunk(self, choice: Mapping[str, Any], **more: Any) -> bytes:
        return event({**self._head, "choices": [choice], **more})

    def _choice(
        self,
        number: int,
        text: str,
        pieces: list[Piece],
        answers: Answers | None,
        reply: Reply | None,
    ) -> dict[str, Any]:
        end = {"finish_reason": None} if reply is None else end_of(reply)
        found = None
        if self._logprobs and pieces and answers is not None:
            label = answers.model.tokenizer.label
            found = {
                "tokens": [label(piece.token) for piece in pieces],
                "token_logprobs": [piece.logprob for piece in pieces],
                "top_logprobs": [
                    {label(token): logprob for token, logprob in piece.top_logprobs}
                    for piece in pieces
                ],
            }
        return {"index": number, "text": text, "logprobs": found, **end}


def _prompt_of(body: Mapping[str, Any]) -> str:
    """The text that goes on.

    Raises:
        Refusal: none, or several.
    """
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        (prompt,) = prompt
    if not isinstance(prompt, str) or not prompt:
        raise Refusal(400, "prompt must be one string that is not empty", param="prompt")
    return prompt
