"""One request of a `Batch`: what it asks for, how far it has come, and what it takes."""

from collections.abc import Generator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import mlx.core as mx

from ..model.prompt import Prompt
from .capacity import need_of
from .engine import Engine
from .generate import GenerationStream
from .grammar import FormSampler
from .options import ENCODING, GenerationOptions
from .prompt_cache import PromptCache
from .reply import Piece, Reply
from .run import Run
from .sampling import Choice

Event = tuple[int, Piece | Reply | Exception]
"""The number of a request, and a piece of its answer, or the whole of it, or what went wrong."""


class Request:
    """One request: its arguments while it waits, then the stream that answers it.

    `cached` is how many positions of its prompt are there already, as far as one can tell before it
    begins.
    """

    stream: GenerationStream

    def __init__(self, number: int, arguments: Mapping[str, Any], reply: Reply):
        self.number, self.reply, self._arguments = number, reply, dict(arguments)
        self.steps: Generator[Choice | None, None, None] | None = None
        self.cached = self.most_tokens = self.cache = self.activations = self.kept = 0
        self.over = False
        self.joins = False  # whether mlx-lm's batch has all that it asks for
        self.form: RowForm | None = None  # in that batch, of an answer that keeps a form

    @property
    def encoded(self) -> Prompt | None:
        """Its prompt, if that need only be checked when it is opened."""
        messages = self._arguments.get("messages")
        return messages if isinstance(messages, Prompt) else None

    @property
    def opened(self) -> bool:
        """Whether its prompt is there."""
        return hasattr(self, "stream")

    @property
    def begun(self) -> bool:
        """Whether something of it has been computed."""
        return self.steps is not None

    @property
    def left(self) -> int:
        """Tokens of its prompt that are still to be read; only until that is done."""
        done = self.stream.run.computed if self.begun else self.cached
        return len(self.stream.prompt.tokens) - done

    def shared(self, other: "Request") -> int:
        """How many positions of its prompt another one has as well, and may leave to it."""
        mine, theirs = self.stream.content, other.stream.content
        if mine is None or theirs is None:
            return 0
        return min(mine.shared(theirs), len(mine.tokens) - 1)

    def gains(self, other: "Request") -> bool:
        """Whether another one has half of its prompt as well."""
        return 2 * self.shared(other) >= len(self.stream.prompt.tokens)

    def repeats(self, other: "Request", cache: PromptCache) -> bool:
        """Whether it would now compute what another one, which is being read, is about to leave:
        features of a picture, or keys and values of half of its prompt."""
        mine, theirs = self.stream.content, other.stream.content
        if mine is None or theirs is None:
            return False
        pictures = {*mine.images.values()} & {*theirs.images.values()}
        ahead = self.shared(other) > max(self.cached, other.stream.run.computed)
        return len(cache.features([*pictures])) < len(pictures) or (ahead and self.gains(other))

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
        if self.stream.content is not None:
            self.cached = engine.prompt_cache.known(self.stream.content)

    def advance(self) -> Choice | None:
        """Its next part of the prompt, or its next token."""
        if self.steps is None:
            self.steps = self.stream.steps()
        return next(self.steps)

    def write(self, choice: Choice) -> list[Event]:
        """Add a token to the answer: its pieces, and the reply if it was the last."""
        try:
            events: list[Event] = [(self.number, piece) for piece in self.stream.answer.add(choice)]
        except Exception as error:  # also of a validator, which is the caller's
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
        run.leave()
        left = list(filter(None, self.steps or ()))
        # The pixels have been seen, and whoever goes on has a cache of its own.
        self.stream.prompt = replace(self.stream.prompt, images=[])
        for chosen in left:
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


class RowForm:
    """The form of an answer in mlx-lm's batch, where a step is everybody's: what goes wrong with it
    is kept until its own answer is read.

    Arguments:
        form: how far it has come.
    """

    def __init__(self, form: FormSampler):
        self._form = form
        self._error: Exception | None = None

    def __call__(self, logprobs: mx.array) -> mx.array:
        """As `FormSampler`."""
        try:
            if self._error is None:
                return self._form(logprobs)
        except Exception as error:
            self._error = error
        return mx.argmax(logprobs, axis=-1)

    def process(self, tokens: mx.array, logits: mx.array) -> mx.array:
        """As `FormSampler.process`."""
        try:
            if self._error is None:
                return self._form.process(tokens, logits)
        except Exception as error:
            self._error = error
        return logits

    def read(self) -> Choice:
        """As `FormSampler.read`.

        Raises:
            Exception: what went wrong.
        """
        if self._error is not None:
            raise self._error
        return self._form.read()
