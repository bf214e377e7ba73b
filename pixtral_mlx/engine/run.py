"""What one answer starts from, and what it leaves to later ones."""

import threading
from collections.abc import Generator
from contextlib import suppress
from typing import Any

import mlx.core as mx

from ..cost.pace import Pace
from ..errors import CheckpointError
from ..interpret.recorder import Recorder
from ..model.prompt import Prompt
from ..model.tap import NO_TAP, Tap, TappedDecoder
from .capacity import need_of
from .content import Content
from .engine import Engine
from .features import Steps, embedding_steps, feature_steps
from .grammar import MOST_FORCED, CallConstraint, Constraint, FormSampler
from .lookup import Drafter, can_pay, check_draft
from .options import GenerationOptions
from .sampling import Choice, Sampler


def reuses(options: GenerationOptions, recorder: Recorder | None) -> bool:
    """Whether an answer takes over what earlier ones left, and leaves its own.

    States of the decoder are promised for every position, so every one is computed. A cache that is
    quantized on the way is neither the one nor the other.
    """
    states = recorder is not None and recorder.sees_positions
    return options.reuse and not states and not options.kv_format.start


class Run:
    """What one answer computes with, and what of it is left to later ones.

    `computed` counts the positions whose keys and values are certainly there. Where Ctrl-C strikes
    inside a step, some layers of the KV cache have written more, and that is never kept.

    Arguments:
        prompt: as it is run, after edits.
        recorder: keeps what a trace needs, or None.
        constraint: the form that the answer keeps, at its beginning, or None.
        content: what its keys and values depend on; None: they are not reused.
    """

    def __init__(
        self,
        engine: Engine,
        prompt: Prompt,
        options: GenerationOptions,
        recorder: Recorder | None,
        constraint: Constraint | CallConstraint | None = None,
        content: Content | None = None,
    ):
        model = engine.model
        self._model, self._prompt, self._recorder = model, prompt, recorder
        self._prompt_cache = engine.prompt_cache
        self._options, self._edits = options, options.edits
        self._tap = Tap(prompt, options.edits, recorder) if options.edits or recorder else NO_TAP
        self.decoder: Any = model.decoder
        if self._tap is not NO_TAP:
            self.decoder = TappedDecoder(model.decoder, self._tap)
        self.kv = options.kv_format.of(model.config.text)
        self.cache, self.computed = self.kv.new_cache(model.decoder), 0
        self._kept, self._content = None, content
        self._written: list[int] = []
        if reuses(options, recorder):
            self._kept = engine.prompt_cache
            self._kept.check(model)
            self._began = (self._kept.emptied, threading.get_ident())
        if self._kept is not None and self._content is not None:
            self.cache, self.computed = self._kept.take(self._content, self.cache)
        self.ready = False  # whether the prompt has been read but for its last token
        self.drafted = self.accepted = 0  # tokens, by prompt lookup
        self.sampler = Sampler(
            options, model.config.text.vocab_size, words=engine.tokenizer.n_words
        )
        self.form = None if constraint is None else FormSampler(self.sampler, constraint)
        self._launched = self._leaving = False
        self.all_embeddings: mx.array | None = None

    def make_room(self, limit: int) -> None:
        """Earlier answers go where this one needs their memory."""
        step = self._options.prefill_step_size
        trace = self._options.trace_options
        need = need_of(self._model, self._prompt, limit, self.kv, step, trace)
        self._prompt_cache.shrink(max(0, need.spare))

    def embed(self) -> Generator[None, None, mx.array | None]:
        """Look at the images, with a pause after each layer of the encoder.

        Returns:
            Embeddings of what is left to read, or None where the decoder embeds the tokens.
        """
        model, prompt, recorder = self._model, self._prompt, self._recorder
        if not prompt.images:
            return None
        if recorder is None and not self._edits:
            steps = embedding_steps(model, prompt, self.computed, self._kept)
            rest = yield from _computed(steps)
            mx.eval([] if rest is None else rest)
            return rest
        tap = self._tap if self._edits or (recorder and recorder.sees_vision) else NO_TAP
        features = yield from _computed(feature_steps(model, prompt, tap, self._kept))
        self.all_embeddings = model.merge(prompt, features)
        if recorder is not None:
            recorder.join()
        mx.eval(self.all_embeddings, *(recorder.vision.values() if recorder else ()))
        return self.all_embeddings[self.computed :]

    def read(self, embeddings: mx.array | None) -> Generator[None, None, mx.array | None]:
        """Read the prompt but for its last token, with a pause after each part.

        Arguments:
            embeddings: what `embed` gave.

        Returns:
            Those of the last token, shape (1, D), or None where there are none.
        """
        from mlx_lm.generate import generation_stream, maybe_quantize_kv_cache

        start, end = self.computed, len(self._prompt.tokens) - 1
        tokens = mx.array(self._prompt.tokens[start:])[None]
        rows = None if embeddings is None else embeddings[None]
        pace = Pace(self._model.config.text, self._options.prefill_step_size)
        parts = self._model.decoder.prefill(
            tokens, self.cache, rows, self._tap, parts=pace.parts(end - start)
        )
        self._progress(start)
        while self.computed < end:
            with mx.stream(generation_stream):  # which must not be left on in a pause
                done, _ = next(parts)
            if later := self.kv.step_options():
                maybe_quantize_kv_cache(self.cache, **later)
            self._progress(start + done)
            if self.computed < end:
                with pace.pause():
                    yield
        return None if embeddings is None else embeddings[-1:]

    def _progress(self, computed: int) -> None:
        """So many tokens of the prompt have been read."""
        self.computed = computed
        if self._options.progress is not None:
            self._options.progress(computed, len(self._prompt.tokens))

    def steps(
        self, limit: int, embeddings: mx.array | None
    ) -> Generator[Choice | None, None, None]:
        """None after each part of the prompt; then at most `limit` tokens, one after another.

        Arguments:
            embeddings: what `embed` gave.
        """
        last = yield from self.read(embeddings)
        self.ready = True
        yield None
        longest = self._options.prompt_lookup_num_tokens
        if self.form is not None:
            choices = self.form_steps(self.form, limit, last)
        elif longest and can_pay(self._model.decoder):
            choices = self.lookup_steps(limit, longest, last)
        else:
            choices = self.plain_steps(limit, last)
        for choice in choices:
            if not self._written:
                self._progress(len(self._prompt.tokens))
            self._written.append(choice.token)
            # One token at a time, mlx-lm has read it by now; the last of several it has not.
            self.computed = min(len(self._prompt.tokens) + len(self._written), self.cache[0].offset)
            yield choice

    def plain_steps(
        self, limit: int, embeddings: mx.array | None = None
    ) -> Generator[Choice, None, None]:
        """As `steps`, by mlx-lm: when a token is read, which is the only wait, the step after it
        has been launched."""
        steps = self.generate_step(limit, embeddings)
        try:
            for _ in steps:
                self._launched = True
                yield self.sampler.read()
        finally:
            with suppress(RuntimeError):  # mlx-lm's stream is put back, but not on another thread
                steps.close()

    def lookup_steps(
        self, limit: int, longest: int, embeddings: mx.array | None
    ) -> Generator[Choice, None, None]:
        """As `plain_steps`, several tokens in a pass where the answer repeats what was there.

        Arguments:
            longest: tokens in a draft at most.
        """
        list(self.generate_step(0, embeddings))  # chooses, no more
        first = self.sampler.read()
        drafter, left = Drafter([*self.tokens, first.token], longest), limit - 1
        yield first
        while left and drafter.pays:
            draft = drafter.draft(left - 1)  # the choice that follows it has its place too
            chosen = check_draft(self.decoder, self.cache, self.sampler, drafter.tokens, draft)
            accepted = len(chosen) - 1
            drafter.judge(len(draft), accepted)
            self.drafted += len(draft)
            for number, choice in enumerate(chosen):
                self.accepted += number < accepted
                drafter.add(choice.token)
                yield choice
            left -= len(chosen)
        if left:
            yield from self.plain_steps(left)

    def form_steps(
        self, form: FormSampler, limit: int, embeddings: mx.array | None
    ) -> Generator[Choice, None, None]:
        """As `plain_steps`, within a form: a pass reads the last choice and what the form forces
        after it, and while it runs the mask of the next choice is made."""
        from mlx_lm.generate import generation_stream

        tokens, left, last = self.tokens, limit, None
        while True:
            going = left > 0 and not form.constraint.ended and not self._leaving
            forced = form.constraint.forced(min(left, MOST_FORCED)) if going else []
            logits = self._launch([tokens[-1], *forced], embeddings) if going else None
            if last is not None:
                yield last
            if logits is None:
                return
            left, last, embeddings = left - len(forced), None, None
            with mx.stream(generation_stream):
                for i, token in enumerate(forced):
                    form.choose(form.logprobs(tokens, logits[:, i]), token)
                    tokens.append(token)
                if more := left > 0 and not form.constraint.ended:
                    form(form.logprobs(tokens, logits[:, -1]))
                form.launch()
            for _ in forced:
                yield form.read()
            if more:
                last, left = form.read(), left - 1
                tokens.append(last.token)

    def _launch(self, tokens: list[int], embeddings: mx.array | None) -> mx.array:
        """Start a pass over tokens; logits (1, tokens, vocabulary).

        Arguments:
            embeddings: of the first token, shape (1, D), or None where the decoder embeds it.
        """
        from mlx_lm.generate import generation_stream, maybe_quantize_kv_cache

        with mx.stream(generation_stream):
            inputs = mx.array([tokens])
            if embeddings is not None and len(tokens) > 1:
                rest = self._model.decoder.embed(inputs[0, 1:])
                embeddings = mx.concatenate([embeddings, rest.astype(embeddings.dtype)])
            rows = None if embeddings is None else embeddings[None]
            logits = self.decoder(inputs, cache=self.cache, input_embeddings=rows)
            if later := self.kv.step_options():
                maybe_quantize_kv_cache(self.cache, **later)
            mx.async_eval(logits)
        return logits

    def leave(self) -> Choice | None:
        """For who goes on with this answer elsewhere, from `tokens`, `cache`, and `sampler` or
        `form`: the choice that `plain_steps` has launched and nobody has seen, if it has begun.
        With a form, `steps` gives what is on its way, and then ends."""
        self.sampler.known, self._leaving = (), True
        if not self._launched:
            return None
        choice = self.sampler.read()
        self._written.append(choice.token)
        return choice

    def generate_step(self, limit: int, embeddings: mx.array | None) -> Generator[Any, None, None]:
        """mlx-lm's `generate_step` from the last token on; `sampler` keeps what it chooses.

        With a limit of 0 it chooses the first token and ends.
        """
        from mlx_lm.generate import generate_step

        self.sampler.known = self.tokens[: self.computed]
        return generate_step(
            mx.array(self.tokens[self.computed :]),
            self.decoder,
            max_tokens=limit,
            sampler=self.sampler,
            logits_processors=self.sampler.processors,
            prompt_cache=self.cache,
            input_embeddings=embeddings,
            **self.kv.step_options(),
        )

    @property
    def tokens(self) -> list[int]:
        """Of the prompt, and those written."""
        return self._prompt.tokens + self._written

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Keep what was computed, also after Ctrl-C.

        What a failed computation left is dropped; so is an answer that was begun before the cache
        was emptied, or that is being collected on a thread which is not the model's.
        """
        if kind is None or not issubclass(kind, RuntimeError | CheckpointError):
            self.keep()

    def keep(self) -> None:
        """Leave what has been computed so far to later runs."""
        if self._kept is None or self._content is None:
            return
        if self._began == (self._kept.emptied, threading.get_ident()):
            self._kept.keep(self._content.grown(self._written, self.computed), self.cache)


def _computed(steps: Steps[Any]) -> Generator[None, None, Any]:
    """The same steps, each of them computed before the pause."""
    try:
        while True:
            mx.eval(next(steps))
            yield
    except StopIteration as end:
        return end.value
