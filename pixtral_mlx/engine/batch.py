"""Many requests at once: the one scheduler, a step at a time.

Decoding one answer reads every weight for one token; decoding eight reads them once for eight. Each
prompt is read by our own path (`Run`: images, prompt cache, chunks). An answer that is alone is
written as `generate` writes it; where there are more, their keys and values join mlx-lm's batch,
which takes a step of all of them at a time. What is finished leaves, and what waits joins.
"""

from collections import deque
from collections.abc import Generator, Mapping
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from itertools import count
from typing import Any

import mlx.core as mx

from ..checks import whole
from ..cost.buffers import bounded_buffers
from ..errors import PixtralError
from .capacity import need_of, room_bytes
from .engine import Engine
from .generate import GenerationStream
from .grammar import FormSampler
from .options import ENCODING, GenerationOptions
from .reply import Piece, Reply
from .run import Run
from .sampling import Choice, Sampler, is_greedy, likeliest

BATCH_SIZE = 8
"""How many answers are written at once, unless told otherwise."""

Event = tuple[int, Piece | Reply | Exception]
"""The number of a request, and a piece of its answer, or the whole of it, or what went wrong."""


class _Request:
    """One request: its arguments while it waits, then the stream that answers it."""

    stream: GenerationStream

    def __init__(self, number: int, arguments: Mapping[str, Any], reply: Reply):
        self.number, self.reply, self._arguments = number, reply, dict(arguments)
        self.steps: Generator[Choice | None, None, None] | None = None
        self.most_tokens = self.cache = self.activations = self.kept = 0
        self.over = False
        self.joins = False  # whether mlx-lm's batch has all that it asks for
        self.form: FormSampler | None = None  # in that batch, of an answer that keeps a form

    def open(self, engine: Engine, shares: int) -> None:
        """Encode it, which opens its pictures, and check it; see `GenerationStream`."""
        given, self._arguments = self._arguments, {}
        messages, pictures = given.pop("messages", ""), given.pop("images", ())
        encoding = {name: given.pop(name) for name in ENCODING if name in given}
        options = GenerationOptions.of(given)
        prompt = engine.as_prompt(messages, pictures, options.tools, **encoding)
        self.stream = GenerationStream(engine, prompt, options, reply=self.reply, shares=shares)
        self.most_tokens = len(self.stream.prompt.tokens) + self.stream.limit
        step = options.prefill_step_size
        need = need_of(
            engine.model, self.stream.prompt, self.stream.limit,
            kv=options.kv_format, prefill_step_size=step, trace=options.trace_options,
        )  # fmt: skip
        self.cache = need.cache
        self.activations = need.activations
        self.kept = need.kept if options.trace else 0
        plain = options.kv_bits is None and not options.prompt_lookup_num_tokens
        self.joins = plain and not options.trace and not options.edits

    def advance(self) -> Choice | None:
        """Its next part of the prompt, or its next token."""
        if self.steps is None:
            self.steps = self.stream.steps()
        with mx.stream(mx.default_stream(mx.default_device())):  # mlx-lm leaves its own on
            return next(self.steps)

    def write(self, choice: Choice) -> list[Event]:
        """Add a token to the answer: its pieces, and the reply if it was the last."""
        try:
            events: list[Event] = [(self.number, piece) for piece in self.stream.answer.add(choice)]
        except PixtralError as error:
            return self.fail(error)
        if self.stream.answer.finished:
            self.close()
            self.over = True
            events.append((self.number, self.reply))
        return events

    def leave(self) -> tuple[Run, list[Event]]:
        """Stop computing here: the run that was, with all tokens, their sampler, and keys and
        values of all but the last; and what became of the tokens that were on their way."""
        run, events = self.stream.run, []
        left = [run.leave(), *(self.steps or () if run.form else ())]
        self.close()
        # The pixels have been seen, and whoever goes on has a cache of its own.
        self.stream.prompt = replace(self.stream.prompt, images=[])
        for chosen in filter(None, left):
            events += [] if self.over else self.write(chosen)
        return run, events

    def fail(self, error: Exception) -> list[Event]:
        """It ends with an error."""
        self.over = True
        if self.steps is not None:
            with suppress(Exception):
                self.steps.throw(error)  # nothing is kept of what failed
        return [(self.number, error)]

    def interrupt(self) -> Reply:
        """It ends here."""
        self.close()
        self.reply.finish_reason = "interrupted"
        return self.reply

    def close(self) -> None:
        """Compute no more, and leave to later requests what there is."""
        if self.steps is not None:
            self.steps.close()


class Batch:
    """Answers to requests that come and go, a step at a time; it never waits for one to come.

    A step is one token of every answer that is being written, or one part of one prompt: opening
    its pictures, encoding them, one chunk of its tokens. They take turns, so that between two
    tokens of an answer stands at most one part of somebody's prompt. Prompts are read in the order
    in which they came, one to its end before the next begins: a first token waits for what came
    before it, and for nothing that came after.

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
        self._waiting: deque[_Request] = deque()
        self._reading: _Request | None = None  # the one that is opened, or waits for room, or read
        self._alone: list[_Request] = []
        self._rows: dict[int, _Request] = {}  # by mlx-lm's number
        self._samplers: dict[Any, Any] = {}
        self._generator: Any = None
        self._held = ExitStack()
        self._read_last = False

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self._waiting or self._reading or self._alone or self._rows)

    @property
    def waiting(self) -> int:
        """Requests whose prompts nobody has begun to read."""
        begun = self._reading is None or self._reading.steps is not None
        return len(self._waiting) + (not begun)

    def add(self, request: Mapping[str, Any], *, reply: Reply | None = None) -> int:
        """One request more; nothing is computed yet, and mistakes are seen when it is opened.

        Arguments:
            request: the arguments of `model.stream`, `messages` among them, by name.
            reply: where to write the answer, for callers that read along; a new one otherwise.

        Returns:
            Its number, which every event has; the first is 0.
        """
        number = next(self._numbers)
        self._waiting.append(_Request(number, request, Reply() if reply is None else reply))
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
        their_turn = self._read_last and bool(self._alone or self._rows)
        self._read_last = not their_turn and self._can_read()
        events = self._read() if self._read_last else self._write_alone() + self._write_rows()
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
        self._waiting.clear()
        self._alone.clear()
        self._rows.clear()
        self._reading = None
        self._rest()
        return [(request.number, request.interrupt()) for request in left]

    def _requests(self) -> list[_Request]:
        """All that have not ended."""
        reading = [] if self._reading is None else [self._reading]
        return [*self._waiting, *reading, *self._alone, *self._rows.values()]

    def _forget(self, request: _Request) -> None:
        """Take one out, wherever it is."""
        if request is self._reading:
            self._reading = None
        for held in (self._waiting, self._alone):
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
                self._engine.model.decoder,
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

    def _can_read(self) -> bool:
        """Whether there is a prompt of which a part can be read now."""
        request = self._reading
        if request is None:
            return bool(self._waiting)
        return request.steps is not None or self._fits(request)

    def _read(self) -> list[Event]:
        """One part of one prompt; the answers that can be written when it is the last."""
        opening = self._reading is None
        request = self._reading = self._reading or self._waiting.popleft()
        try:
            if opening:
                request.open(self._engine, self._size)
                return []
            if request.steps is None:
                for other in self._alone:
                    other.stream.run.keep()  # it may begin as they did
            request.advance()
            if not request.stream.run.ready:
                return []
        except Exception as error:
            self._reading = None
            return request.fail(error)
        self._reading = None
        return self._join(request)

    def _fits(self, request: _Request) -> bool:
        """Whether a request may join those that are running; answers that were kept make way.

        In mlx-lm's batch every row is as long as the longest.
        """
        running = [*self._alone, *self._rows.values()]
        together = [row.most_tokens for row in [*running, request] if row.joins]
        room = room_bytes(self._engine.model, len(together) * max(together, default=0))
        room -= sum(row.cache for row in [*running, request] if not row.joins)
        room -= sum(row.kept for row in [*running, request])  # in traces
        room -= request.activations  # while its prompt is read
        if running and (len(running) >= self._size or room < 0):
            return False
        self._engine.prompt_cache.shrink(max(0, room))
        return True

    # Writing -----------------------------------------------------------------------------------

    def _join(self, request: _Request) -> list[Event]:
        """Write it from now on, with others if there are others."""
        single = [other for other in self._alone if other.joins]
        if not request.joins or not (self._rows or single):
            self._alone.append(request)
            return []
        events = []
        for joining in [*single, request]:
            self._forget(joining)
            run, written = joining.leave()
            tokens = run.tokens
            events += written
            if joining.over:
                continue
            (uid,) = self._generator.insert(
                [tokens[-1:]],
                max_tokens=[joining.stream.answer.left],
                caches=[run.cache],
                all_tokens=[tokens[:-1]],
                samplers=[run.form or self._draw(joining.stream.options, run.sampler)],
                logits_processors=[[run.form.process] if run.form else run.sampler.processors],
            )
            self._rows[uid], joining.form = joining, run.form
        return events

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
            events += request.write(
                request.form.read()
                if request.form
                else _choice(response, request.stream.options.top_logprobs)
            )
            if request.over:
                del self._rows[response.uid]
                if response.finish_reason is None:
                    self._generator.remove([response.uid])
        return events


def _choice(response: Any, top: int) -> Choice:
    """What mlx-lm's batch chose, read in place: a computation would stand in line behind the next
    step."""
    token, logprobs = response.token, response.logprobs
    return Choice(token, memoryview(logprobs)[token], top_logprobs=likeliest(logprobs, top))
