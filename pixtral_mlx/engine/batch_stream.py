"""Many requests in one call: what `model.stream_batch` and `model.generate_batch` give."""

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from ..checks import whole
from ..cost.buffers import bounded_buffers
from ..errors import PixtralError, PromptError
from ..inputs.clients import is_list
from .batch import BATCH_SIZE, Batch
from .engine import Engine
from .options import ENCODING, GenerationOptions
from .reply import Reply


def as_requests(
    messages: Iterable[Any], images: Sequence[Sequence[Any]] = ()
) -> Iterator[dict[str, Any]]:
    """Requests in one shape: the arguments of `generate`, by name.

    Arguments:
        messages: of each request a string, chat messages, a `Prompt`, or a mapping with
            `generate`'s arguments ("messages", "images", "max_tokens", "seed", ...).
        images: with strings, the pictures of each request: as many lists as there are requests.

    Raises:
        PromptError: there is no list of requests, or of lists of pictures.
        ValueError: not as many lists of pictures as requests.
    """
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Iterable):
        raise PromptError(
            f"messages are {type(messages).__name__}; allowed: a list, even for one request: "
            "what generate takes of each"
        )
    if not is_list(images):
        raise PromptError(
            f"images= is {type(images).__name__}; allowed: a list for each request: "
            "images=[[picture], ...]"
        )
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


def check_batch(options: Mapping[str, Any], batch_size: int = BATCH_SIZE) -> GenerationOptions:
    """Options of a request, and how many are answered at once.

    Raises:
        ValueError: out of range, or something that a batch does not have.
    """
    whole("batch_size", batch_size, 1)
    checked = GenerationOptions.of(options)
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
        engine: Engine,
        requests: Iterable[Mapping[str, Any]],
        *,
        batch_size: int = BATCH_SIZE,
        **options: Any,
    ):
        named = ("messages", "images", *ENCODING)
        shared = {name: value for name, value in options.items() if name not in named}
        check_batch(shared, batch_size)
        self._batch = Batch(engine, batch_size=batch_size)
        self._incoming = ({**options, **request} for request in requests)
        self._finished = self._run()

    def __next__(self) -> tuple[int, Reply | PixtralError]:
        return next(self._finished)

    def interrupt(self) -> list[tuple[int, Reply | PixtralError]]:
        """Stop here: what there is of the answers that were being written."""
        self._finished.close()
        return list(self._batch.close())

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
        incoming = map(_checked, self._incoming)
        with bounded_buffers():
            while True:
                if not self._batch.waiting:
                    for request in islice(incoming, 1):
                        self._batch.add(request)
                if not self._batch.busy:
                    return
                for number, event in self._batch.step():
                    if isinstance(event, Reply | PixtralError):
                        yield number, event
                    elif isinstance(event, Exception):
                        raise event


def _checked(request: dict[str, Any]) -> dict[str, Any]:
    """The request, if a batch has what it asks for."""
    check_batch({k: v for k, v in request.items() if k not in ("messages", "images", *ENCODING)})
    return request
