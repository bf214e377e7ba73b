"""From a prompt to text: prefill in chunks, decode, stream whole characters.

What is computed is `Run.steps`, with mlx-lm's samplers and caches. What is written is an `Answer`.
"""

import sys
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing, redirect_stdout
from functools import cached_property
from typing import Any

import mlx.core as mx

from ..cost.buffers import bounded_buffers
from ..errors import CheckpointError
from ..interpret.edits import edited
from ..interpret.recorder import Recorder
from ..interpret.trace_source import live_trace
from ..model.prompt import Prompt
from ..model.threads import begin_computing
from .answer import Answer
from .capacity import check_context, check_memory, most_answer_tokens
from .content import Content, content_of
from .engine import Engine
from .grammar import constraint_of
from .options import GenerationOptions
from .reply import Piece, Reply
from .run import Run, reuses
from .sampling import Choice


class GenerationStream(Iterator[Piece]):
    """An answer being written: iterate for its pieces, read `reply` for what there is so far.

    Nothing is computed until the first piece is asked for. A piece waits for its successors
    while its text ends inside a character or in what may become a stop string, so the texts of
    all pieces always add up to `reply.text`.

    Arguments:
        prompt: before edits.
        reply: where to write; a new one, unless somebody else reads along.
        shares: among so many answers memory is to last, where `max_tokens` is None.
    """

    run: Run
    """What `steps` computes with, from its beginning to its end."""

    def __init__(
        self,
        engine: Engine,
        prompt: Prompt,
        options: GenerationOptions,
        *,
        reply: Reply | None = None,
        shares: int = 1,
    ):
        model = engine.model
        prompt = edited(prompt, options.edits, model.config)
        length, context = len(prompt.tokens), model.config.text.max_seq_len
        check_context(prompt, context)
        rest = context - length + 1
        self.limit = rest if options.max_tokens is None else min(options.max_tokens, rest)
        taken: dict[str, Any] = {
            "kv": options.kv_format.of(model.config.text),
            "prefill_step_size": options.prefill_step_size,
            "trace": options.trace_options,
        }
        if not options.force:
            if options.max_tokens is None:
                self.limit = most_answer_tokens(model, prompt, rest, shares=shares, **taken)
            check_memory(model, prompt, self.limit, **taken)
        self.prompt, self.options, self._engine = prompt, options, engine
        self._constraint = None
        if options.response_format or options.tools:
            form, rows = options.response_format, model.config.text.vocab_size
            self._constraint = constraint_of(form, engine.tokenizer, rows, options.tools)
        self.answer = Answer(
            engine, prompt, options, limit=self.limit, reply=reply, constraint=self._constraint
        )
        self.reply = self.answer.reply
        self._recorder = None
        if keep := options.trace_options:
            keep.check(model.config)
            self._recorder = Recorder(length - 1, keep)

    @cached_property
    def _pieces(self) -> Generator[Piece, None, None]:
        # Not before it is asked for: a generator that has not ended holds this object, which would
        # hold it, so that prompt, pictures and trace would stay until Python looks for cycles.
        return self._run()

    @cached_property
    def content(self) -> Content | None:
        """What its keys and values depend on; None: they are not reused."""
        options, model = self.options, self._engine.model
        if not reuses(options, self._recorder):
            return None
        kv = options.kv_format.of(model.config.text)
        return content_of(self.prompt, options.edits, model, kv)

    def __next__(self) -> Piece:
        return next(self._pieces)

    def interrupt(self) -> None:
        """Stop here; `reply` keeps what there is."""
        self._pieces.close()
        if not self.answer.finished:
            self.reply.finish_reason = "interrupted"

    def _run(self) -> Generator[Piece, None, None]:
        from mlx_lm.generate import generation_stream, wired_limit

        begin_computing()
        mx.reset_peak_memory()
        with ExitStack() as stack:
            with redirect_stdout(sys.stderr):  # mlx-lm prints its warning about large models
                stack.enter_context(wired_limit(self._engine.model, [generation_stream]))  # type: ignore
            steps = stack.enter_context(closing(self.steps()))
            for chosen in steps:
                try:
                    yield from () if chosen is None else self.answer.add(chosen)
                except CheckpointError as error:
                    steps.throw(error)  # so that nothing of it is kept
                if self.answer.finished:
                    return

    def steps(self) -> Generator[Choice | None, None, None]:
        """The work behind the answer: None after each chunk of the prompt, then tokens."""
        self.answer.start()
        stats = self.reply.stats
        run = self.run = Run(
            self._engine, self.prompt, self.options, self._recorder, self._constraint, self.content
        )
        run.make_room(self.limit)
        stats.cached_tokens = run.computed
        with ExitStack() as stack:
            stack.callback(delattr, self, "run")  # and with it the keys and values
            stack.enter_context(run)
            vision = bool(self.prompt.images)
            stack.enter_context(self._engine.weights.reading(vision=vision))
            stack.enter_context(bounded_buffers())
            embeddings = yield from run.embed()
            if embeddings is not None:
                self.answer.seen()
                yield None
            if self._recorder is not None:
                stack.callback(self._recorder.finish)
                self.reply.trace = live_trace(
                    self._engine.model, self._engine.tokenizer.label, self.prompt,
                    self.options.edits, self._recorder, tokens=self.reply.tokens,
                    logprobs=self.reply.logprobs, cache=run.cache, embeddings=run.all_embeddings,
                )  # fmt: skip
            for chosen in run.steps(self.limit, embeddings):
                stats.drafted_tokens, stats.accepted_tokens = run.drafted, run.accepted
                if chosen is not None:
                    self._engine.weights.were_read(vision=vision)
                yield chosen
