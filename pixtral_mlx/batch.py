"""Many requests at once: continuous batching on mlx-lm's batch generator.

Decoding one answer reads every weight for one token; decoding eight reads them once for eight.
Each prompt is read by our own path (`Run`: images, prompt cache, chunks); its keys and values then
join mlx-lm's batch, which takes a step of all answers at a time. What is finished leaves, and what
waits joins.
"""

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from .capacity import bounded_buffers, need_of, room_bytes
from .errors import PixtralError
from .generate import GenerationStream
from .options import GenerationOptions
from .reply import Reply
from .run import Run
from .sampling import Sampler, is_greedy

if TYPE_CHECKING:
    from .model import Pixtral

ENCODING = ("image_options", "image_budget", "raw")  # for `model.encode`
BATCH_SIZE = 8
"""How many answers are written at once, unless told otherwise."""


def as_requests(
    messages: Iterable[Any], images: Sequence[Sequence[Any]] = ()
) -> Iterator[dict[str, Any]]:
    """Requests in one shape: the arguments of `generate`, by name.

    Arguments:
        messages: of each request a string, chat messages, a `Prompt`, or a mapping with
            `generate`'s arguments ("messages", "images", "max_tokens", "seed", ...).
        images: with strings, the pictures of each request: as many lists as there are requests.

    Raises:
        ValueError: not as many lists of pictures as requests.
    """
    if not images:
        return (dict(m) if isinstance(m, Mapping) else {"messages": m} for m in messages)
    listed = list(messages)
    if len(images) != len(listed):
        raise ValueError(
            f"images= holds {len(images)} lists for {len(listed)} requests: give one list each"
        )
    return (
        {"images": pictures, **request}
        for request, pictures in zip(as_requests(listed), images, strict=True)
    )


class _Request:
    """One request while it waits or is being answered."""

    def __init__(self, model: "Pixtral", index: int, arguments: Mapping[str, Any]):
        given = dict(arguments)
        messages, pictures = given.pop("messages", ""), given.pop("images", ())
        encoding = {name: given.pop(name) for name in ENCODING if name in given}
        self.index, self.options = index, check_options(given)
        prompt = model.as_prompt(messages, pictures, **encoding)
        stream = GenerationStream(model, prompt, self.options)  # checks, and is never iterated
        self.prompt, self.answer, self.limit = stream.prompt, stream.answer, stream.limit
        self.most_tokens = len(self.prompt.tokens) + self.limit
        step = self.options.prefill_step_size
        need = need_of(model, self.prompt, self.limit, prefill_step_size=step)
        self.activations = need.activations

    def read(self, model: "Pixtral") -> list[Any]:
        """Read the prompt but for its last token; its keys and values, a cache a layer."""
        self.answer.start()
        run = Run(model, self.prompt, self.options, None)
        self.answer.reply.stats.cached_tokens = run.computed
        with run:
            embeddings = run.embed()
            if embeddings is not None:
                self.answer.seen()
            run.read(embeddings)
        self.prompt = replace(self.prompt, images=[])  # their pixels have been seen
        return run.cache

    def write(self, token: int, logprob: float) -> Reply | PixtralError | None:
        """Add a token to the answer; what there is to hand out if it was the last."""
        try:
            for _ in self.answer.add(token, logprob):
                pass
        except PixtralError as error:
            return error
        return self.answer.reply if self.answer.finished else None


def check_options(options: Mapping[str, Any], batch_size: int = BATCH_SIZE) -> GenerationOptions:
    """Options of a request, and how many are answered at once.

    Raises:
        ValueError: out of range, or something that a batch does not have.
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size is {batch_size!r}; allowed is a whole number from 1 on")
    checked = GenerationOptions(**options)
    if checked.trace or checked.edits:
        raise ValueError("a batch keeps no trace and takes no edits: use generate for these")
    if checked.prompt_lookup_num_tokens:
        raise ValueError(
            "a batch decodes one token of each answer at a time: leave prompt_lookup_num_tokens out"
        )
    if checked.kv_bits is not None:
        raise ValueError("mlx-lm's batches keep keys and values as computed: leave kv_bits out")
    return checked


class BatchStream(Iterator[tuple[int, Reply | PixtralError]]):
    """Answers to many requests, each with its number, in the order in which they are finished.

    A request that cannot be answered (its picture is damaged, it is too long) gives its
    `PixtralError` in the place of a `Reply`, and the others go on. Requests are taken one by one as
    there is room for them, so they may come from a generator.

    Arguments:
        requests: `generate`'s arguments of each, see `as_requests`.
        batch_size: at most this many are answered at once; fewer where memory is short.
        options: for requests that do not say otherwise.

    Raises:
        ValueError: an option that is out of range, or that a batch does not have.
    """

    def __init__(
        self,
        model: "Pixtral",
        requests: Iterable[Mapping[str, Any]],
        *,
        batch_size: int = BATCH_SIZE,
        **options: Any,
    ):
        named = ("messages", "images", *ENCODING)
        shared = {name: value for name, value in options.items() if name not in named}
        check_options(shared, batch_size)
        self._model, self._size = model, batch_size
        self._incoming = ((n, {**options, **request}) for n, request in enumerate(requests))
        self._running: dict[int, _Request] = {}
        self._samplers: dict[Any, Any] = {}
        self._finished = self._run()

    def __next__(self) -> tuple[int, Reply | PixtralError]:
        return next(self._finished)

    def interrupt(self) -> list[tuple[int, Reply | PixtralError]]:
        """Stop here: what there is of the answers that were being written."""
        self._finished.close()
        running, self._running = self._running, {}
        return [(request.index, request.answer.interrupt()) for request in running.values()]

    def replies(self, count: int, *, return_errors: bool = False) -> list[Any]:
        """All answers in the order of the requests; Ctrl-C ends with what there is.

        Arguments:
            count: how many requests there are.
            return_errors: put a `PixtralError` in its place; otherwise the first one is raised.
        """
        found: dict[int, Reply | PixtralError] = {}
        try:
            for number, reply in self:
                if isinstance(reply, PixtralError) and not return_errors:
                    self.interrupt()
                    raise reply
                found[number] = reply
        except KeyboardInterrupt:
            found |= dict(self.interrupt())
        return [found.get(n) or Reply(finish_reason="interrupted") for n in range(count)]

    def _run(self) -> Generator[tuple[int, Reply | PixtralError], None, None]:
        from mlx_lm.generate import BatchGenerator

        mx.reset_peak_memory()
        generator = BatchGenerator(
            self._model.decoder,
            stop_tokens=[[self._model.tokenizer.eos_id]],
            completion_batch_size=self._size,
            prefill_batch_size=self._size,
        )
        with closing(generator), bounded_buffers():
            for number, arguments in self._incoming:
                try:
                    request = _Request(self._model, number, arguments)
                except PixtralError as error:
                    yield number, error
                    continue
                while not self._fits(request):
                    yield from self._step(generator)
                try:
                    self._join(generator, request)
                except PixtralError as error:
                    yield number, error
            while self._running:
                yield from self._step(generator)

    def _fits(self, request: _Request) -> bool:
        """Whether a request may join those that are running; answers that were kept make way.

        In mlx-lm's batch every row is as long as the longest.
        """
        rows = [*self._running.values(), request]
        room = room_bytes(self._model, len(rows) * max(row.most_tokens for row in rows))
        room -= request.activations  # while its prompt is read
        if self._running and (len(rows) > self._size or room < 0):
            return False
        self._model.prompt_cache.shrink(max(0, room))
        return True

    def _join(self, generator: Any, request: _Request) -> None:
        with mx.stream(generator.stream):
            cache = request.read(self._model)
        sampler, processors = self._sampling(request.options)
        (uid,) = generator.insert(
            [request.prompt.tokens[-1:]],
            max_tokens=[request.limit],
            caches=[cache],
            all_tokens=[request.prompt.tokens[:-1]],
            samplers=[sampler],
            logits_processors=[processors],
        )
        self._running[uid] = request

    def _sampling(self, options: GenerationOptions) -> tuple[Any, list[Any]]:
        """mlx-lm's sampler and logits processors; requests that want the same share a sampler,
        which then draws for all of them at once. A seed has a sampler of its own."""
        words = self._model.config.text.vocab_size
        sampler = Sampler(options, words)
        if is_greedy(options):
            kind: Any = "greedy"
        elif options.seed is None:
            kind = (options.temperature, options.top_p, options.top_k, options.min_p)
        else:
            return sampler.draw, sampler.processors
        return self._samplers.setdefault(kind, sampler.draw), sampler.processors

    def _step(self, generator: Any) -> Iterator[tuple[int, Reply | PixtralError]]:
        """One token more for every answer; those that are finished, or have failed."""
        finished: list[tuple[int, Reply | PixtralError]] = []
        for response in generator.next_generated():
            request = self._running[response.uid]
            # Read in place: a computation would stand in line behind the next step.
            logprob = memoryview(response.logprobs)[response.token]
            found = request.write(response.token, logprob)
            if found is not None:
                del self._running[response.uid]
                if response.finish_reason is None:
                    generator.remove([response.uid])
                finished.append((request.index, found))
        return iter(finished)
