"""From a prompt to text: prefill in chunks, decode, stream whole characters.

The steps themselves are `Run.steps`: mlx-lm's `generate_step`, with its samplers and caches.
"""

import math
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import mlx.core as mx

from .activations import nan_error
from .capacity import check_context, check_memory
from .edits import edited
from .maps import Evidence
from .options import GenerationOptions
from .recorder import Recorder, TraceOptions, live_trace
from .run import Run
from .this_machine import machine
from .tokenizer import Prompt, StreamDecoder
from .trace import Trace

if TYPE_CHECKING:
    from .model import Pixtral


@dataclass(frozen=True)
class Piece:
    """One generated token.

    Arguments:
        text: what it adds to the answer, in whole characters; may be empty.
        token: its id.
        logprob: its log-probability (natural logarithm, float32), after logit bias and repetition
            penalty and before temperature and filters.
        trace: what can be looked at so far, or None; it grows with the answer.
    """

    text: str
    token: int
    logprob: float
    trace: Trace | None = field(default=None, repr=False, compare=False)


@dataclass
class GenerationStats:
    """What an answer took.

    Arguments:
        prompt_tokens: tokens of the prompt, images included.
        cached_tokens: those whose keys and values were there already.
        image_tokens: those that stand for patches and breaks.
        generated_tokens: new tokens, the end token not counted.
        drafted_tokens: those that prompt lookup proposed.
        accepted_tokens: those of them that the model chose as well.
        vision_seconds: encoder and projector; part of `prompt_seconds`.
        prompt_seconds: from the call to the first token.
        decode_seconds: from the first token to the last.
        peak_bytes: most memory that MLX held at once.
        float32_products: "float32" or "TF32", see `Machine.float32_products`; it says nothing
            about a model that computes in 16 bits.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    image_tokens: int = 0
    generated_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    vision_seconds: float = 0.0
    prompt_seconds: float = 0.0
    decode_seconds: float = 0.0
    peak_bytes: int = 0
    float32_products: str = ""

    @property
    def prompt_tokens_per_second(self) -> float:
        """Speed of the prefill, vision included; tokens that were cached do not count."""
        computed = self.prompt_tokens - self.cached_tokens
        return computed / self.prompt_seconds if self.prompt_seconds else 0.0

    @property
    def decode_tokens_per_second(self) -> float:
        """Speed of the decoding, the first token not counted."""
        return (self.generated_tokens - 1) / self.decode_seconds if self.decode_seconds else 0.0


@dataclass
class Reply:
    """An answer.

    Arguments:
        text: what was written.
        tokens: generated ids, without the end token.
        logprobs: one a token, see `Piece.logprob`.
        finish_reason: "stop" (end token or stop string), "length", "interrupted", or None
            while it is still being written.
        stats: what it took.
        trace: what can be looked at, or None if `trace` was off.
    """

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: str | None = None
    stats: GenerationStats = field(default_factory=GenerationStats)
    trace: Trace | None = field(default=None, repr=False, compare=False)

    def evidence(self, token: int, image: int = 0) -> Evidence:
        """The box of patches that a generated token rests on; see `Trace.evidence`.

        Raises:
            ValueError: the answer was made without `trace=True`.
        """
        if self.trace is None:
            raise ValueError("this answer has no trace: call generate with trace=True")
        return self.trace.evidence(token, image)


class GenerationStream(Iterator[Piece]):
    """An answer being written: iterate for its pieces, read `reply` for what there is so far.

    Nothing is computed until the first piece is asked for. A piece waits for its successors
    while its text ends inside a character or in what may become a stop string, so the texts of
    all pieces always add up to `reply.text`.
    """

    def __init__(self, model: "Pixtral", prompt: Prompt, options: GenerationOptions):
        prompt = edited(prompt, options.edits, model)
        length, context = len(prompt.tokens), model.config.text.max_seq_len
        check_context(prompt, context)
        tokens_at_most = min(options.max_tokens, context - length + 1)
        kv = options.kv_format.of(model.config.text)
        if not options.force:
            step = options.prefill_step_size
            check_memory(model, prompt, tokens_at_most, kv=kv, prefill_step_size=step)
        self.prompt = prompt
        self.reply = Reply()
        self.reply.stats.prompt_tokens = length
        self.reply.stats.float32_products = machine().float32_products  # before the clock starts
        self.reply.stats.image_tokens = sum(span.stop - span.start for span in prompt.spans)
        self._recorder = None
        if options.trace:
            keep = options.trace if isinstance(options.trace, TraceOptions) else TraceOptions()
            keep.check(model.config)
            self._recorder = Recorder(length - 1, keep)
        self._pieces = self._run(model, options, tokens_at_most)

    def __next__(self) -> Piece:
        piece = next(self._pieces)
        self.reply.text += piece.text
        self.reply.tokens.append(piece.token)
        self.reply.logprobs.append(piece.logprob)
        if self.reply.trace is not None:
            self.reply.trace.words.append(piece.text)
        return piece

    def interrupt(self) -> None:
        """Stop here; `reply` keeps what there is."""
        self._pieces.close()
        if self.reply.finish_reason is None:
            self.reply.finish_reason = "interrupted"

    def _run(
        self, model: "Pixtral", options: GenerationOptions, limit: int
    ) -> Generator[Piece, None, None]:
        text = _StopText(model.tokenizer.stream_decoder(), tuple(options.stop))
        waiting: list[Piece] = []
        finish = "length"
        for token, logprob in self._steps(model, options, limit):
            if token == model.tokenizer.eos_id:
                finish = "stop"
                break
            self.reply.stats.generated_tokens += 1
            waiting.append(Piece(text.add(token), token, logprob, self.reply.trace))
            if text.stopped:
                finish = "stop"
                break
            if not text.pending:
                yield from waiting
                waiting.clear()
        if waiting:
            last = waiting[-1]
            waiting[-1] = replace(last, text=last.text + text.flush())
        yield from waiting
        self.reply.finish_reason = finish

    def _steps(
        self, model: "Pixtral", options: GenerationOptions, limit: int
    ) -> Generator[tuple[int, float], None, None]:
        """Tokens and their log-probabilities; keeps the clock."""
        from mlx_lm.generate import generation_stream, wired_limit

        if options.seed is not None:
            mx.random.seed(options.seed)
        mx.reset_peak_memory()
        start = time.perf_counter()
        stats, run = self.reply.stats, Run(model, self.prompt, options, self._recorder)
        run.make_room(limit)
        stats.cached_tokens = run.computed
        with ExitStack() as stack:
            stack.enter_context(run)
            with redirect_stdout(sys.stderr):  # mlx-lm prints its warning about large models
                stack.enter_context(wired_limit(model, [generation_stream]))  # type: ignore
            embeddings = run.embed()
            if embeddings is not None:
                stats.vision_seconds = time.perf_counter() - start
            if self._recorder is not None:
                stack.callback(self._recorder.finish)
                self.reply.trace = live_trace(
                    self, model, options.edits, run.cache, run.all_embeddings
                )
            first = None
            for token, logprob in run.steps(limit, embeddings):
                if math.isnan(logprob):
                    raise nan_error(model)
                now = time.perf_counter()
                first = first or now
                stats.prompt_seconds, stats.decode_seconds = first - start, now - first
                stats.drafted_tokens, stats.accepted_tokens = run.drafted, run.accepted
                stats.peak_bytes = mx.get_peak_memory()
                yield token, logprob


class _StopText:
    """Text of a token stream, cut before the first stop string."""

    def __init__(self, decoder: StreamDecoder, stops: tuple[str, ...]):
        self._decoder, self._stops = decoder, stops
        self._held = ""
        self.stopped = False

    def add(self, token: int) -> str:
        """The text that is certain once `token` is there."""
        self._held += self._decoder.add(token)
        ends = [at for at in (self._held.find(stop) for stop in self._stops) if at >= 0]
        if ends:
            self.stopped = True
            certain, self._held = self._held[: min(ends)], ""
            return certain
        keep = max((_overlap(self._held, stop) for stop in self._stops), default=0)
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
