"""What one answer starts from, and what it leaves to later ones."""

import threading
from collections.abc import Generator
from typing import Any

import mlx.core as mx

from ..cost.pace import Pace
from ..errors import CheckpointError
from ..interpret.recorder import Recorder
from ..model.kv_cache import growing_to
from ..model.prompt import Prompt
from ..model.tap import NO_TAP, Tap
from .capacity import need_of
from .content import Content
from .engine import Engine
from .features import Steps, embedding_steps, feature_steps
from .grammar import MOST_FORCED, CallConstraint, Constraint, FormSampler
from .lookup import Drafter, check_draft
from .options import GenerationOptions
from .sampling import Choice, Sampler

LAST_PART = 128
"""The last part of a prompt has at most so many tokens, and its logits choose the first one of the
answer. A pass of its own for the last token would read every weight once more; and of a longer part
the last layer would compute what nobody needs: all positions instead of the last."""

STEPS_TO_CLEAR = 256
"""After so many tokens MLX's buffers are freed, as mlx-lm does: those of a growing context are each
of another size."""


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
        self._engine, self._model, self._prompt, self._recorder = engine, model, prompt, recorder
        self._options, self._edits = options, options.edits
        self._tap = Tap(prompt, options.edits, recorder) if options.edits or recorder else NO_TAP
        self.kv = options.kv_format.of(model.config.text)
        self.cache, self.computed = self.kv.new_cache(model.decoder), 0
        self._kept, self._content = None, content
        self._written: list[int] = []
        if reuses(options, recorder):
            self._kept = engine.prompt_cache
            self._kept.check(model)
            self._began = (self._kept.emptied, threading.get_ident())
        self.ready = False  # whether the first token has been launched
        self.drafted = self.accepted = 0  # tokens, by prompt lookup
        self.sampler = Sampler(
            options, model.config.text.vocab_size, words=engine.tokenizer.n_words
        )
        self.form = None if constraint is None else FormSampler(self.sampler, constraint)
        self._leaving = False
        self.all_embeddings: mx.array | None = None
        # Last, since a mistake above would lose what is handed over.
        if self._kept is not None and self._content is not None:
            self.cache, self.computed = self._kept.take(self._content, self.cache)

    def make_room(self, limit: int) -> None:
        """Earlier answers go where this one needs their memory."""
        step = self._options.prefill_step_size
        trace = self._options.trace_options
        need = need_of(self._model, self._prompt, limit, self.kv, step, trace)
        self._engine.prompt_cache.shrink(max(0, need.spare))

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
        """Read the prompt but for its last part, with a pause after each of the others.

        Arguments:
            embeddings: what `embed` gave.

        Returns:
            Those of the last part, shape (L, D), or None where the decoder embeds its tokens.
        """
        from mlx_lm.generate import generation_stream, maybe_quantize_kv_cache

        pace = Pace(self._model.config.text, self._options.prefill_step_size)
        start, length = self.computed, len(self._prompt.tokens)
        end = length - min(LAST_PART, (length - start - 1) % pace.size + 1)
        tokens = mx.array(self._prompt.tokens[start:])[None]
        rows = None if embeddings is None else embeddings[None]
        parts = self._model.decoder.prefill(
            tokens, self.cache, rows, self._tap, parts=pace.parts(end - start)
        )
        self._progress(start)
        while self.computed < end:
            # The stream must not be left on in a pause.
            with mx.stream(generation_stream), growing_to(self.cache, length):
                done, _ = next(parts)
            if later := self.kv.step_options():
                maybe_quantize_kv_cache(self.cache, **later)
            self._progress(start + done)
            with pace.pause():
                yield
        return None if embeddings is None else embeddings[self.computed - start :]

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
        self.sampler.follow(self.tokens)
        unread = self._prompt.tokens[self.computed :]
        longest = self._options.prompt_lookup_num_tokens
        longest = min(longest, self._engine.most_drafted) if longest else 0
        if self.form is not None:
            self._form_step(self.form, unread, limit, last)
            choices = self.form_steps(self.form, limit)
        else:
            self._step(mx.array([unread]), last)
            choices = self.lookup_steps(limit, longest) if longest else self.plain_steps(limit)
        self.ready = True
        yield None
        length = len(self._prompt.tokens)
        for choice in choices:
            if not self._written:
                self._progress(length)
            self._written.append(choice.token)
            # One token at a time, the pass that reads it is under way; of the last it is not.
            self.computed = min(length + len(self._written), self.cache[0].offset)
            yield choice

    def plain_steps(self, limit: int) -> Generator[Choice, None, None]:
        """As `steps`, of which the first token has been launched: when a later one is read, which
        is the only wait, the step after it has been launched. The first does not wait for that."""
        yield self.sampler.read()
        if limit == 1 or self._leaving:
            return
        self._step(self.sampler.latest[None])
        for number in range(2, limit + 1):
            if more := number < limit and not self._leaving:
                self._step(self.sampler.latest[None])
            if number % STEPS_TO_CLEAR == 2:
                mx.clear_cache()
            yield self.sampler.read()
            if not more:
                return

    def lookup_steps(self, limit: int, longest: int) -> Generator[Choice, None, None]:
        """As `plain_steps`, several tokens in a pass where the answer repeats what was there.

        Arguments:
            longest: tokens in a draft at most.
        """
        first = self.sampler.read()
        drafter, left = Drafter([*self.tokens, first.token], longest), limit - 1
        yield first
        while left and drafter.pays:
            draft = drafter.draft(left - 1)  # the choice that follows it has its place too
            chosen = check_draft(self._logits, self.cache, self.sampler, drafter.tokens, draft)
            accepted = len(chosen) - 1
            drafter.judge(len(draft), accepted)
            self.drafted += len(draft)
            for number, choice in enumerate(chosen):
                self.accepted += number < accepted
                drafter.add(choice.token)
                yield choice
            left -= len(chosen)
        if left:
            self.sampler.follow(drafter.tokens)
            self._step(mx.array([drafter.tokens[-1:]]))
            yield from self.plain_steps(left)

    def form_steps(self, form: FormSampler, limit: int) -> Generator[Choice, None, None]:
        """As `plain_steps`, within a form: a pass reads the last choice and what the form forces
        after it, and while it runs the mask of the next choice is made."""
        left = limit
        while launched := form.pending:
            left -= launched
            for _ in range(launched - 1):
                yield form.read()
            last = form.read()
            if left and not form.constraint.ended and not self._leaving:
                self._form_step(form, [last.token], left)
            yield last

    # Passes ------------------------------------------------------------------------------------

    def _step(self, inputs: mx.array, embeddings: mx.array | None = None) -> None:
        """Launch a pass over tokens, shape (1, L), and the choice of the one after them.

        Arguments:
            embeddings: of the tokens, shape (L, D), or None where the decoder embeds them.
        """
        from mlx_lm.generate import generation_stream

        with mx.stream(generation_stream):
            logits = self._logits(inputs, embeddings, wanted=1)
            self.sampler.choose(logits[:, -1])
            self.sampler.launch()
            self._launch_rows()

    def _form_step(
        self, form: FormSampler, unread: list[int], left: int, embeddings: mx.array | None = None
    ) -> None:
        """As `_step`, within a form: over tokens and those that the form forces after them.

        Arguments:
            left: tokens that may still be written.
        """
        from mlx_lm.generate import generation_stream

        forced = form.constraint.forced(min(left, MOST_FORCED))
        with mx.stream(generation_stream):
            if embeddings is not None and forced:
                after = self._model.decoder.embed(mx.array(forced))
                embeddings = mx.concatenate([embeddings, after.astype(embeddings.dtype)])
            wanted = 1 + len(forced)
            logits = self._logits(mx.array([[*unread, *forced]]), embeddings, wanted=wanted)
            mx.async_eval(logits)  # runs while the mask is made
            for i, token in enumerate(forced):
                form.choose(logits[:, i], token)
            if len(forced) < left and not form.constraint.ended:
                form.choose(logits[:, -1])
            form.launch()
            self._launch_rows()

    def _logits(
        self, inputs: mx.array, embeddings: mx.array | None = None, *, wanted: int
    ) -> mx.array:
        """Logits of the last positions of a pass over tokens: (1, L) -> (1, wanted, vocabulary)."""
        from mlx_lm.generate import maybe_quantize_kv_cache

        decoder = self._model.decoder
        rows = None if embeddings is None else embeddings[None]
        hidden = decoder.hidden(inputs, self.cache, rows, self._tap)
        if later := self.kv.step_options():
            maybe_quantize_kv_cache(self.cache, **later)
        return decoder.unembed(hidden[:, -wanted:])

    def _launch_rows(self) -> None:
        """Compute what a trace keeps of a pass with the pass; no later one needs it."""
        if self._recorder is not None:
            mx.async_eval(self._recorder.latest())

    def leave(self) -> None:
        """Launch nothing more: `steps` gives the tokens that are on their way, and ends. Somebody
        else goes on from `tokens`, `cache`, and `sampler` or `form`."""
        self._leaving = True

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
