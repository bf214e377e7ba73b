"""From a request that a dialect has read to tokens, and back: places, preparing, cancelling.

Nothing here knows a dialect, and nothing there knows the model's thread.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from ..engine.generate import GenerationStream
from ..engine.options import GenerationOptions
from ..engine.reply import Piece, Reply
from ..errors import CapacityError
from ..inputs.clients import DOCUMENTS, IMAGES
from ..inputs.image_options import ImageOptions
from ..inputs.sources import Sources
from ..interpret.recorder import TraceOptions
from .host import ModelHost
from .looks import Looks
from .metrics import Metrics
from .options import ServerOptions
from .refusals import Refusal, refusal_of

if TYPE_CHECKING:
    from ..model.prompt import Prompt
    from ..pixtral import Pixtral

MOST_CHOICES = 16
AHEAD = 2
"""For each answer that may be written so many prompts are ready, so that short ones overtake."""

T = TypeVar("T")

log = logging.getLogger(__name__)


@dataclass
class Question:
    """What a dialect has made of a request.

    Arguments:
        messages: as `px` takes them, a string with `raw`; or a function that gives them, called on
            the thread that prepares the prompt.
        options: fields of `GenerationOptions`.
        count: how many answers are wanted.
        raw: no chat template.
        looks: say of every token where it looked, in one of the ways of `Looks`; "": do not.
        pictures: how they are prepared.
    """

    messages: Any
    options: dict[str, Any] = field(default_factory=dict)
    count: int = 1
    raw: bool = False
    looks: str = ""
    pictures: ImageOptions = field(default_factory=ImageOptions)


class Answers:
    """The answers to one question; a `Service` opens them.

    Attributes:
        replies: one for each choice; whole when `events` has ended.
        prompt: what the model reads.
        model: the one that answers.
    """

    def __init__(self, service: "Service", prompt: "Prompt", question: Question, model: "Pixtral"):
        self._service, self._question = service, question
        self.prompt, self.model = prompt, model
        self._queue: asyncio.Queue[tuple[int, Any]] = asyncio.Queue()
        self._streams: list[Any] = []
        self._looks = Looks(question.looks, prompt) if question.looks else None
        self._started = time.monotonic()

    @property
    def replies(self) -> list[Reply]:
        """What there is of each answer."""
        return [stream.reply for stream in self._streams]

    def begin(self) -> None:
        """Hand everything to the model's thread."""
        loop = asyncio.get_running_loop()
        for number in range(self._question.count):
            options = dict(self._question.options)
            if self._question.looks:
                options["trace"] = TraceOptions(vision_layers=())
            if options.get("seed") is not None:
                options["seed"] = (options["seed"] + number) % 2**64
            sink = _Sink(loop, self._queue, number)
            self._streams.append(
                self._service.host.worker.stream(self.prompt, pieces=sink, **options)
            )

    async def events(self) -> AsyncIterator[tuple[int, Piece | Reply]]:
        """(number of the choice, a piece of it), and of each at last its reply.

        Raises:
            Refusal: an answer failed.
        """
        metrics = self._service.metrics
        left, last = self._question.count, dict[int, float]()
        while left:
            number, item = await self._queue.get()
            reply = self.replies[number]
            if isinstance(item, Piece):
                now = time.monotonic()
                if number in last:
                    metrics.between_tokens.observe(now - last[number])
                else:
                    metrics.first_token.observe(now - self._started)
                last[number] = now
                metrics.generated_tokens.inc()
                yield number, item
                continue
            if isinstance(item, BaseException):
                raise refusal_of(item) from item
            left -= 1
            metrics.cached_tokens.inc(reply.stats.cached_tokens)
            if reply.parse_error:
                log.info("answer %d: %s", number, reply.parse_error)
            yield number, reply

    async def look(self, number: int, token: int) -> dict[str, Any] | None:
        """Where a token of a choice looked, if the question asks for it."""
        trace = self.replies[number].trace
        if self._looks is None or trace is None or not self.prompt.grids:
            return None
        look = partial(self._looks.of, trace, token)
        found = self._service.host.worker.submit(lambda _: look())
        return await asyncio.wrap_future(found)

    async def pictures(self) -> list[dict[str, Any]] | None:
        """The pictures as the model sees them, if the question asks for them."""
        return None if self._looks is None else await asyncio.to_thread(self._looks.pictures)

    def stop(self) -> None:
        """Nobody wants the rest."""
        for stream in self._streams:
            stream.stop()


class _Sink:
    """Where the model's thread puts what it writes, for the event loop to take."""

    def __init__(self, loop: asyncio.AbstractEventLoop, queue: asyncio.Queue, number: int):
        self._loop, self._queue, self._number = loop, queue, number

    def put(self, item: Any) -> None:
        """Called on the model's thread."""
        with suppress(RuntimeError):  # the loop has ended, and with it whoever waited
            self._loop.call_soon_threadsafe(self._queue.put_nowait, (self._number, item))


class Service:
    """Answers questions with one model: who gets a place, who waits, who is sent away.

    Attributes:
        sources: where pictures may come from.
        closing: set when the server is ending: nobody new is let in.
        ended: set when what still runs must end too.
    """

    def __init__(self, host: ModelHost, options: ServerOptions, metrics: Metrics):
        self.host, self.options, self.metrics = host, options, metrics
        self.closing, self.ended = asyncio.Event(), asyncio.Event()
        self._places = asyncio.Semaphore(options.max_concurrency * AHEAD)
        self._inside = 0
        hosts = tuple(host.lower().rstrip(".") for host in options.allow_net)
        self.sources = Sources(files=False, private=False, hosts=hosts)

    async def open(self, question: Question) -> "Answers":
        """Wait for a place, prepare the prompt, and begin to answer; `close` gives the place back.

        Raises:
            Refusal: too many wait, the model is not there, or the question cannot be answered.
        """
        self._enter(question.count)
        try:
            return await self.begin(question)
        except BaseException:
            self._leave(question.count)
            raise

    def close(self, answers: "Answers", question: Question) -> None:
        """The answers have ended, or nobody wants them any more."""
        self.end(answers)
        self._leave(question.count)

    @contextmanager
    def visit(self) -> Iterator[None]:
        """Be counted for as long as the block lasts, with question after question: each of them
        goes from `begin` to `end`.

        Raises:
            Refusal: too many wait.
        """
        self._enter(1)
        try:
            yield
        finally:
            self._leave(1)

    async def begin(self, question: Question) -> "Answers":
        """As `open`, for one who is counted already; `end` gives the place back."""
        model = await self.host.model()
        await self._places.acquire()
        try:
            prompt = await asyncio.to_thread(self._prepare, model, question)
            self.metrics.prompt_tokens.inc(len(prompt.tokens))
            self.metrics.images.inc(len(prompt.grids))
            answers = Answers(self, prompt, question, model)
            answers.begin()
        except BaseException as error:
            self._places.release()
            if isinstance(error, Exception):
                raise refusal_of(error) from error
            raise
        return answers

    def end(self, answers: "Answers") -> None:
        """The answers have ended, or nobody wants them any more."""
        answers.stop()
        self._places.release()

    async def read(self, function: Callable[[], T]) -> T:
        """What a function gives that reads what somebody sent: at a place, on a thread of its own.

        Raises:
            Refusal: it cannot be read.
        """
        async with self._places:
            try:
                return await asyncio.to_thread(function)
            except Exception as error:
                raise refusal_of(error) from error

    def _enter(self, count: int) -> None:
        if self.closing.is_set():
            raise Refusal(503, "the server is shutting down", code="shutting_down")
        most = self.options.max_concurrency + self.options.max_waiting
        if self._inside and self._inside + count > most:
            raise Refusal(
                429,
                f"{self._inside} answers are being written or wait; allowed: {most} "
                "(--max-concurrency and --max-waiting): try again in a few seconds",
                code="too_many_requests",
                headers={"retry-after": "5"},
            )
        self._inside += count
        self.host.enter()
        self._count()

    def _leave(self, count: int) -> None:
        self._inside -= count
        self.host.leave()
        self._count()

    def _count(self) -> None:
        running = min(self._inside, self.options.max_concurrency)
        self.metrics.running.set(running)
        self.metrics.waiting.set(self._inside - running)

    def _prepare(self, model: "Pixtral", question: Question) -> "Prompt":
        """Read, decode and resize the pictures, on a thread of its own."""
        options = GenerationOptions.of(question.options)
        asked = question.messages
        messages: Any = asked() if callable(asked) else asked
        self.check_pictures(_pictures(messages))
        pictures = replace(question.pictures, sources=self.sources)
        try:
            prompt = model.engine.encode(
                messages,
                image_options=pictures,
                raw=question.raw,
                tools=options.tools,
                check=lambda images: self.check_pictures(len(images)),
            )
        except CapacityError as error:  # of the context: memory is looked at below
            code = "context_length_exceeded"
            raise Refusal(400, str(error), param="messages", code=code) from error
        GenerationStream(model.engine, prompt, options)  # checks all the rest and computes nothing
        return prompt

    def check_pictures(self, found: int) -> None:
        """Refuse too many, before they are opened and with their pages counted.

        Raises:
            Refusal: there are too many.
        """
        if found > self.options.max_images:
            raise Refusal(
                400,
                f"the request has {found} pictures and pages; allowed: {self.options.max_images} "
                "(--max-images)",
                code="too_many_images",
            )


def _pictures(messages: Any) -> int:
    """Parts of messages that are no text, as many as there are at least."""
    parts = (
        part
        for message in (messages if isinstance(messages, list) else ())
        for part in (message.get("content") if isinstance(message, dict) else None) or ()
        if isinstance(part, dict)
    )
    return sum(part.get("type") in (*IMAGES, *DOCUMENTS) for part in parts)
