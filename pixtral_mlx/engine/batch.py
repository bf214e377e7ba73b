"""Many requests at once: the one scheduler, a step at a time.

Decoding one answer reads every weight for one token; decoding eight reads them once for eight. Each
prompt is read by our own path (`Run`: images, prompt cache, chunks). An answer that is alone is
written as `generate` writes it; where there are more, their keys and values join mlx-lm's batch,
which takes a step of all of them at a time. What is finished leaves, and what waits joins.
"""

import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from itertools import count
from typing import Any
from weakref import WeakValueDictionary

import mlx.core as mx

from ..checks import whole
from ..cost.buffers import bounded_buffers
from .capacity import room_bytes
from .engine import Engine
from .options import GenerationOptions
from .reply import Reply
from .request import Event, Request, RowForm
from .run import Run
from .sampling import Sampler, choice_of, is_greedy, spoken
from .turns import Turns

BATCH_SIZE = 8
"""How many answers are written at once, unless told otherwise."""


class Batch:
    """Answers to requests that come and go, a step at a time; it never waits for one to come.

    A step is one token of every answer that is being written, or parts of prompts: opening pictures
    (where there is no `Prompt` yet), a layer of the encoder, one chunk of tokens. They take turns,
    so that between two tokens of an answer stands at most one part of somebody's prompt, or as many
    short ones as take no longer than a token did. Prompts are read in the order in which they came,
    but that short ones overtake long ones: a first token waits for what came before it, and at most
    as long again for what came after, see `Turns`. Several prompts may be half read, and each of
    them has a place.

    An answer that is alone, and one with `trace`, `edits`, `prompt_lookup_num_tokens` or `kv_bits`,
    is written as `generate` writes it; others are written together by mlx-lm's batch.

    Arguments:
        batch_size: at most this many are answered at once; fewer where memory is short.

    Raises:
        ValueError: a batch size below 1.

    >>> batch = Batch(model.engine)
    >>> number = batch.add({"messages": "Why?", "max_tokens": 20})
    >>> while batch.busy:
    ...     for number, event in batch.step():  # a `Piece`, at last a `Reply` or an exception
    ...         print(number, event)
    """

    def __init__(self, engine: Engine, *, batch_size: int = BATCH_SIZE):
        whole("batch_size", batch_size, 1)
        self._engine, self._size, self._numbers = engine, batch_size, count()
        self._turns = Turns(engine.prompt_cache)
        self._alone: list[Request] = []
        self._rows: dict[int, Request] = {}  # by mlx-lm's number
        self._samplers = WeakValueDictionary[Any, Any]()  # those that a row has
        self._generator: Any = None
        self._held = ExitStack()
        self._read_last = False
        self._token_seconds = 0.0  # that the latest token of all answers took

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self._turns or self._alone or self._rows)

    @property
    def waiting(self) -> int:
        """Requests whose prompts nobody has begun to read."""
        return len(self._turns) - len(self._turns.begun)

    def add(self, request: Mapping[str, Any], *, reply: Reply | None = None) -> int:
        """One request more; nothing is computed yet, and mistakes are seen when it is opened.

        Arguments:
            request: the arguments of `model.stream`, `messages` among them, by name.
            reply: where to write the answer, for callers that read along; a new one otherwise.

        Returns:
            Its number, which every event has; the first is 0.
        """
        number = next(self._numbers)
        self._turns.add(Request(number, request, Reply() if reply is None else reply))
        return number

    def step(self) -> list[Event]:
        """One step; nothing, if there is nothing to do.

        Returns:
            Pieces, and of each request that has ended its reply, or the exception that it met: that
            request is over, and the others go on.
        """
        if not self.busy:
            return []
        self._wake()
        events = self._open_prompts()
        writing = bool(self._alone or self._rows)
        their_turn = self._read_last and writing
        request = None if their_turn else self._turns.next(self._fits)
        self._read_last = request is not None
        start = time.perf_counter()
        if request is None:
            events += self._write_alone() + self._write_rows()
            self._token_seconds = time.perf_counter() - start
        while request is not None:
            events += self._read(request)
            more = writing and not events and time.perf_counter() - start < self._token_seconds
            request = self._turns.next(self._fits) if more else None
        self._rest()
        return events

    def cancel(self, number: int) -> Reply | None:
        """Nobody wants this answer any more: what there is of it, or None if it has ended."""
        request = next((r for r in self._requests() if r.number == number), None)
        if request is None:
            return None
        self._forget(request)
        self._rest()
        return request.interrupt()

    def close(self) -> list[tuple[int, Reply]]:
        """Stop here: what there is of all that have not ended, in the order of their numbers."""
        left = sorted(self._requests(), key=lambda request: request.number)
        self._turns.clear()
        self._alone.clear()
        self._rows.clear()
        self._rest()
        return [(request.number, request.interrupt()) for request in left]

    def _requests(self) -> list[Request]:
        """All that have not ended."""
        return [*self._turns, *self._alone, *self._rows.values()]

    def _forget(self, request: Request) -> None:
        """Take one out, wherever it is."""
        for held in (self._turns, self._alone):
            if request in held:
                held.remove(request)
        for uid in [uid for uid, row in self._rows.items() if row is request]:
            del self._rows[uid]
            self._generator.remove([uid])

    def _wake(self) -> None:
        """mlx-lm's batch, which also keeps the model in the GPU's memory, is there for as long as
        there is something to do."""
        from mlx_lm.generate import BatchGenerator

        if self._generator is None:
            mx.reset_peak_memory()
            self._held.enter_context(bounded_buffers())
            self._generator = BatchGenerator(
                RowsDecoder(self._engine),  # type: ignore[arg-type]
                stop_tokens=[[self._engine.tokenizer.eos_id]],
                completion_batch_size=self._size,
                prefill_batch_size=self._size,
            )
            self._held.enter_context(closing(self._generator))

    def _rest(self) -> None:
        if not self.busy:
            self._held.close()
            self._generator = None

    # Reading -----------------------------------------------------------------------------------

    def _open_prompts(self) -> list[Event]:
        """Those that are encoded already are only checked, which nobody has to wait for; but what
        pictures show has to be hashed, so that of those with pictures one is opened at a time."""
        events: list[Event] = []
        pictures = False
        for request in list(self._turns):
            prompt = request.encoded
            if prompt is not None and not (pictures and prompt.images):
                pictures = pictures or bool(prompt.images)
                events += self._open(request)
        return events

    def _open(self, request: Request) -> list[Event]:
        try:
            request.open(self._engine, self._size)
        except Exception as error:
            self._turns.remove(request)
            return request.fail(error)
        for other in self._alone:  # which leave what they have when somebody begins
            request.cached = max(request.cached, request.shared(other))
        return []

    def _read(self, request: Request) -> list[Event]:
        """One part of a prompt; the answers that can be written when it is the last."""
        if not request.opened:
            return self._open(request)
        try:
            if not request.begun:
                begun = [other for other in self._turns.begun if request.gains(other)]
                for other in [*self._alone, *begun]:
                    other.stream.run.keep()  # it may begin as they did
            request.advance()
            if not request.stream.run.ready:
                return []
        except Exception as error:
            self._turns.remove(request)
            return request.fail(error)
        self._turns.finish(request)
        return self._join(request)

    def _fits(self, request: Request) -> bool:
        """Whether a request may join those that have begun; answers that were kept make way.

        In mlx-lm's batch every row is as long as the longest.
        """
        reading = [*self._turns.begun, request]
        begun = [*self._alone, *self._rows.values(), *reading]
        together = [row.most_tokens for row in begun if row.joins]
        room = room_bytes(self._engine.model, len(together) * max(together, default=0))
        room -= sum(row.cache for row in begun if not row.joins)
        room -= sum(row.kept for row in begun)  # in traces
        room -= sum(row.activations for row in reading)
        if len(begun) > 1 and (len(begun) > self._size or room < 0):
            return False
        self._engine.prompt_cache.shrink(max(0, room))
        return True

    # Writing -----------------------------------------------------------------------------------

    def _join(self, request: Request) -> list[Event]:
        """Write it from now on, with others if there are others."""
        single = [other for other in self._alone if other.joins]
        if not request.joins or not (self._rows or single):
            self._alone.append(request)
            return []
        events = []
        for joining in [*single, request]:
            self._forget(joining)
            try:
                run, written = joining.leave()
                events += written
                if not joining.over:
                    self._insert(joining, run)
            except Exception as error:
                events += joining.fail(error)
        return events

    def _insert(self, request: Request, run: Run) -> None:
        """A row more in mlx-lm's batch, which goes on where a run has ended."""
        tokens = run.tokens
        request.form = form = None if run.form is None else RowForm(run.form)
        (uid,) = self._generator.insert(
            [tokens[-1:]],
            max_tokens=[request.stream.answer.left],
            caches=[run.cache],
            all_tokens=[tokens[:-1]],
            samplers=[form or self._draw(request.stream.options, run.sampler)],
            logits_processors=[[form.process] if form else run.sampler.processors],
        )
        self._rows[uid] = request

    def _draw(self, options: GenerationOptions, sampler: Sampler) -> Any:
        """Requests that want the same share a sampler, which then draws for all of them at once. A
        seed has a sampler of its own."""
        if is_greedy(options):
            kind: Any = "greedy"
        elif options.seed is None:
            kind = (options.temperature, options.top_p, options.top_k, options.min_p)
        else:
            return sampler.draw
        return self._samplers.setdefault(kind, sampler.draw)

    def _write_alone(self) -> list[Event]:
        """One token more for every answer that is written by itself."""
        events: list[Event] = []
        for request in list(self._alone):
            try:
                chosen = request.advance()
                events += [] if chosen is None else request.write(chosen)
            except Exception as error:
                events += request.fail(error)
            if request.over:
                self._alone.remove(request)
        return events

    def _write_rows(self) -> list[Event]:
        """One token more for every answer in mlx-lm's batch."""
        if not self._rows:
            return []
        events: list[Event] = []
        try:
            responses = self._generator.next_generated()
        except Exception as error:  # which nobody can tell whose it is
            for request in self._rows.values():
                events += request.fail(error)
            self._rows.clear()
            self._held.close()
            self._generator = None
            return events
        for response in responses:
            request = self._rows[response.uid]
            try:
                top = request.stream.options.top_logprobs
                if request.form:
                    choice = request.form.read()
                else:
                    choice = choice_of(response.token, response.logprobs, top)
                events += request.write(choice)
            except Exception as error:
                events += request.fail(error)
            if request.over:
                del self._rows[response.uid]
                if response.finish_reason is None:
                    self._generator.remove([response.uid])
        return events


class RowsDecoder:
    """The decoder as mlx-lm's batch takes it: logits in float32, of ids that have a word."""

    def __init__(self, engine: Engine):
        self._decoder, self._words = engine.model.decoder, engine.tokenizer.n_words
        self.layers = self._decoder.layers

    def __call__(self, inputs: mx.array, cache: list[Any]) -> mx.array:
        """Token ids (B, L) -> logits (B, L, vocabulary)."""
        logits = self._decoder(inputs, cache)
        return spoken(logits, min(self._words, logits.shape[-1]))
