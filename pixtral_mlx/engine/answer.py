"""One answer being written: whole characters, stop strings, the NaN check, clock and counters.

`GenerationStream` and `Batch` compute tokens; what becomes of a token is written here alone.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from typing import Any

import mlx.core as mx

from ..cost.machine import machine
from ..inputs.stream_decoder import StreamDecoder
from ..inputs.tools import CallMarks, CallReader, MarkedCallReader
from ..interpret.activations import nan_error
from ..model.prompt import Prompt
from .engine import Engine
from .form import problem_of_calls
from .grammar import CallConstraint, Constraint
from .options import GenerationOptions
from .reply import Piece, Reply
from .sampling import Choice


class Answer:
    """One answer being written; `reply` is what there is of it.

    The texts of all pieces add up to `reply.text`. A piece waits for its successors while its text
    ends inside a character or in what may become a stop string.

    Arguments:
        engine: for its tokenizer; and its model is named where it computes NaN.
        prompt: as it is run, after edits.
        options: of the generation; its stop strings count.
        limit: tokens at most.
        reply: where to write; a new one, unless somebody else reads along.
        constraint: the form that the answer keeps, as it is being written, or None.
    """

    def __init__(
        self,
        engine: Engine,
        prompt: Prompt,
        options: GenerationOptions,
        *,
        limit: int,
        reply: Reply | None = None,
        constraint: Constraint | CallConstraint | None = None,
    ):
        self.reply = Reply() if reply is None else reply
        stats = self.reply.stats
        stats.prompt_tokens = len(prompt.tokens)
        stats.image_tokens = sum(span.stop - span.start for span in prompt.spans)
        stats.float32_products = machine().float32_products  # before the clock starts
        self._engine, self._limit, self._stops = engine, limit, tuple(options.stop)
        self._form, self._constraint = options.response_format, constraint
        self._tools, self._calls = options.tools, CallReader()
        if self._tools is not None and self._marks.arguments is not None:
            self._calls = MarkedCallReader(self._marks)
        self._top = options.top_logprobs
        self._waiting: list[Piece] = []
        self._start = self._first = 0.0
        self._calling = False  # whether tools are being called
        self._thoughts: StreamDecoder | None = None  # while it thinks

    @cached_property
    def _text(self) -> "_StopText":
        return _StopText(self._engine.tokenizer.stream_decoder(), self._stops)

    @cached_property
    def _call_text(self) -> StreamDecoder:
        return self._engine.tokenizer.stream_decoder()

    @cached_property
    def _marks(self) -> CallMarks:
        return self._engine.tokenizer.call_marks()

    @property
    def finished(self) -> bool:
        """Whether it has its end, and says so in `reply.finish_reason`."""
        return self.reply.finish_reason is not None

    @property
    def left(self) -> int:
        """Tokens that may still be written."""
        return self._limit - self.reply.stats.generated_tokens

    def start(self) -> None:
        """From here the clock runs."""
        self._start = time.perf_counter()

    def seen(self) -> None:
        """The pictures have been seen."""
        self.reply.stats.vision_seconds = time.perf_counter() - self._start

    def add(self, choice: Choice) -> Iterator[Piece]:
        """Write one more token, the end token included.

        Returns:
            The pieces that are certain now; each is in `reply` when it is handed out, and all of
            them must be taken.

        Raises:
            CheckpointError: the log-probability is NaN; the message names where it comes from.
        """
        token, logprob = choice.token, choice.logprob
        if math.isnan(logprob):
            raise nan_error(self._engine.model)
        self._clock()
        if token == self._engine.tokenizer.eos_id:
            self.reply.end_logprob = logprob
            yield from self._end(self._own_end, self._text.flush())
            return
        self.reply.stats.generated_tokens += 1
        self.reply.stats.forced_tokens += choice.forced
        reasoning = self._reasoning(token)
        self.reply.stats.reasoning_tokens += reasoning is not None
        text, calls = ("", ()) if reasoning is not None else self._text_and_calls(token)
        self._waiting.append(
            Piece(
                text, token, logprob, self.reply.trace, choice.allowed_mass, calls,
                choice.top_logprobs, reasoning or "", choice.forced,
            )
        )  # fmt: skip
        if self._text.stopped:
            yield from self._end("stop")
        elif choice.ends:
            yield from self._end(self._own_end, self._text.flush())
        elif not self.left:
            yield from self._end("length", self._text.flush())
        elif not self._text.pending:
            yield from self._hand_out()

    @property
    def _own_end(self) -> str:
        """Why it ends where the model, or its form, ends it."""
        return "tool_calls" if self._calling else "stop"

    def _reasoning(self, token: int) -> str | None:
        """What a token adds to the thoughts; None if it belongs to the answer itself."""
        begin, end = self._engine.tokenizer.thinking_ids
        if token == begin:
            self._thoughts = self._thoughts or self._engine.tokenizer.stream_decoder()
            return ""
        if self._thoughts is None:
            return None
        if token == end:
            self._thoughts = None
            return ""
        return self._thoughts.add(token)

    def _text_and_calls(self, token: int) -> tuple[str, tuple[dict[str, Any], ...]]:
        """What a token adds to the text, or to the calls of tools."""
        if self._calling:
            return "", tuple(self._calls.add(self._call_text.add(token), token))
        if self._tools is not None and token == self._marks.begin:
            self._calling = True
            return self._text.flush(), ()
        return self._text.add(token), ()

    def _clock(self) -> None:
        now, stats = time.perf_counter(), self.reply.stats
        self._first = self._first or now
        stats.prompt_seconds, stats.decode_seconds = self._first - self._start, now - self._first
        # Whoever starts meanwhile begins to measure anew.
        stats.peak_bytes = max(stats.peak_bytes, mx.get_peak_memory())

    def _end(self, reason: str, text: str = "") -> Iterator[Piece]:
        """The last pieces, with `text` that was held back."""
        if self._waiting and text:
            self._waiting[-1] = replace(self._waiting[-1], text=self._waiting[-1].text + text)
        yield from self._hand_out()
        self.reply.finish_reason = reason
        if self._constraint is not None:
            self._read(self._constraint)

    def _read(self, constraint: Constraint | CallConstraint) -> None:
        """The value of an answer that has its end, or why there is none; and its calls."""
        reply, form = self.reply, self._form
        reply.tool_calls = self._calls.calls
        if form is None and not self._calling:
            return
        if reply.finish_reason == "length":
            tokens = reply.stats.generated_tokens
            reply.parse_error = f"the answer was cut after {tokens:,} tokens, before its end"
        elif self._text.stopped and not constraint.ended:
            reply.parse_error = "a stop string ended the answer before its end"
        elif constraint.problem:
            reply.parse_error = constraint.problem
        elif self._calling:
            reply.parse_error = problem_of_calls(self._tools, reply.tool_calls)
        elif form is not None:
            reply.parsed, reply.parse_error = form.read(reply.text)

    def _hand_out(self) -> Iterator[Piece]:
        waiting, self._waiting = self._waiting, []
        for piece in waiting:
            self.reply.add(piece)
            if self._top:
                self.reply.top_logprobs.append(piece.top_logprobs)
            yield piece


class _StopText:
    """Text of a token stream, cut before the first stop string."""

    def __init__(self, decoder: StreamDecoder, stops: tuple[str, ...]):
        self._decoder, self._stops = decoder, stops
        self._held = ""
        self.stopped = False

    def add(self, token: int) -> str:
        """The text that is certain once `token` is there."""
        if not self._stops:
            return self._decoder.add(token)
        self._held += self._decoder.add(token)
        ends = [at for at in (self._held.find(stop) for stop in self._stops) if at >= 0]
        if ends:
            self.stopped = True
            certain, self._held = self._held[: min(ends)], ""
            return certain
        keep = max(_overlap(self._held, stop) for stop in self._stops)
        certain = self._held[: len(self._held) - keep]
        self._held = self._held[len(certain) :]
        return certain

    @property
    def pending(self) -> bool:
        """Whether text is held back: half a character, or the start of a stop string."""
        return bool(self._held) or self._decoder.pending

    def flush(self) -> str:
        """What was held back for a stop string that did not come; half a character is dropped."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`."""
    return max(n for n in range(min(len(text), len(stop) - 1) + 1) if text.endswith(stop[:n]))
