"""The model behind the server: opened when it is needed, closed when nobody asks, and its names."""

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..worker import Worker
from .options import ServerOptions
from .refusals import Refusal, refusal_of

if TYPE_CHECKING:
    from ..pixtral import Pixtral

PUBLISHED = (
    "pixtral-12b",
    "pixtral-12b-2409",
    "pixtral-12b-latest",
    "mistralai/Pixtral-12B-2409",
)
"""What Mistral and the hub call Pixtral 12B: snippets that name it run as they are."""

CREATED = 1_726_531_200
"""When Pixtral 12B was published, as seconds since 1970: what lists of models say of it."""

log = logging.getLogger(__name__)


class ModelHost:
    """One model on a thread of its own.

    It is opened at once, and closed after `keep_alive` minutes without a request; the next request
    opens it again and waits for it.

    Arguments:
        source: what `px.load` takes.
        dtype: as for `px.load`.

    Attributes:
        ready: whether it can answer now.
    """

    def __init__(self, source: str, options: ServerOptions, dtype: Any = None):
        self._source, self._dtype, self._options = source, dtype, options
        self._worker: Worker | None = None
        self._opening: asyncio.Task[Pixtral] | None = None
        self._model: Pixtral | None = None
        self._name = ""
        self._used, self._busy = time.monotonic(), 0
        self.ready = False

    async def open(self) -> "Pixtral":
        """The model, after opening it where that is needed.

        Raises:
            CheckpointError: it cannot be opened.
        """
        self._used = time.monotonic()
        if self._worker is not None and self._worker.ended:
            await self._close()  # something went wrong on its thread: begin anew
        if self._opening is None:
            self._opening = asyncio.create_task(self._open())
        try:
            return await asyncio.shield(self._opening)
        except Exception:
            self._opening = None  # the next request tries again
            raise

    async def _open(self) -> "Pixtral":
        worker = Worker(
            self._source,
            self._dtype,
            adapter_path=self._options.adapter_path,
            batch_size=self._options.max_concurrency,
        )
        self._worker = worker
        try:
            model = await asyncio.wrap_future(worker.submit(self._prepare))
        except BaseException:
            await self._close()
            raise
        self._model, self._name, self.ready = model, model.name, True
        return model

    def _prepare(self, model: "Pixtral") -> "Pixtral":
        """On the worker's thread: read what the first answer would have to wait for."""
        import mlx.core as mx

        mx.eval(model.parameters())
        model.generate("", max_tokens=1, reuse=False)  # and all that computing brings along
        model.prompt_cache.max_bytes //= 2  # a quarter of what the weights leave
        if self._options.prompt_cache is not None:
            model.open_prompt_cache(self._options.prompt_cache)
        return model

    async def model(self) -> "Pixtral":
        """The model, for a request.

        Raises:
            Refusal: it is still being opened for the first time, or cannot be.
        """
        if not self._name and self._opening is not None and not self._opening.done():
            raise Refusal(
                503,
                "the model is still being opened: try again in a few seconds",
                code="model_loading",
                headers={"retry-after": "5"},
            )
        try:
            return await self.open()
        except Exception as error:
            raise refusal_of(error) from error

    @property
    def asleep(self) -> bool:
        """Whether it was closed for want of requests; the next one opens it."""
        return bool(self._name) and self._opening is None

    @property
    def worker(self) -> Worker:
        """The model's thread, once it is open."""
        if self._worker is None:
            raise Refusal(503, "the model is closed: ask again", code="model_loading")
        return self._worker

    @property
    def kept_bytes(self) -> int:
        """Of keys, values and features that are kept for later questions."""
        return 0 if self._model is None else self._model.prompt_cache.nbytes

    @property
    def names(self) -> list[str]:
        """What the model is called: its own name, and those that `served_name` gave it."""
        return list(dict.fromkeys(filter(None, (self._name, *self._options.served_name))))

    def check_name(self, asked: Any) -> str:
        """The name to answer under; no name means the model that there is.

        Raises:
            Refusal: no model of that name.
        """
        names = self.names
        if asked is None:
            return names[0]
        known = {name.lower(): name for name in (*names, *PUBLISHED)}
        if isinstance(asked, str) and asked.removesuffix(":latest").lower() in known:
            return asked
        raise Refusal(
            404,
            f"there is no model {str(asked)[:100]!r} here; allowed: {', '.join(known.values())}",
            param="model",
            code="model_not_found",
        )

    def enter(self) -> None:
        """A request has begun: the model stays."""
        self._busy += 1

    def leave(self) -> None:
        """A request has ended."""
        self._busy -= 1
        self._used = time.monotonic()

    async def close_when_idle(self) -> None:
        """Close the model after `keep_alive` minutes without a request, again and again."""
        if self._options.keep_alive is None:
            return
        seconds = self._options.keep_alive * 60
        while True:
            idle = time.monotonic() - self._used
            if self.ready and not self._busy and idle >= seconds:
                await self._close()
                log.info("the model was closed after %g minutes", self._options.keep_alive)
            await asyncio.sleep(min(1.0, max(0.05, seconds - idle)))

    async def close(self) -> None:
        """Stop what is being written, and end the model's thread."""
        if self._opening is not None and not self._opening.done():
            self._opening.cancel()
        await self._close()

    async def _close(self) -> None:
        worker, self._worker, self._model, self._opening = self._worker, None, None, None
        self.ready = False
        if worker is not None:
            await asyncio.to_thread(worker.close)
            await asyncio.to_thread(_give_back)

    def described(self, name: str, vision: bool, context: int) -> dict[str, Any]:
        """A model as `/v1/models` has it, for OpenAI's, Mistral's and other clients."""
        return {
            "id": name,
            "object": "model",
            "created": CREATED,
            "owned_by": "pixtral-mlx",
            "name": name,
            "type": "base",
            "aliases": [alias for alias in (*self.names, *PUBLISHED) if alias != name],
            "capabilities": {
                "completion_chat": True,
                "completion_fim": False,
                "function_calling": True,
                "fine_tuning": False,
                "vision": vision,
            },
            "max_context_length": context,
            "max_model_len": context,
            "default_model_temperature": 0.0,
        }

    async def described_all(self) -> Sequence[dict[str, Any]]:
        """Every name of the model."""
        config = (await self.model()).config
        return [
            self.described(name, config.vision is not None, config.text.max_seq_len)
            for name in self.names
        ]


def _give_back() -> None:
    """What the model held goes back to the system."""
    import gc

    import mlx.core as mx

    gc.collect()
    mx.clear_cache()
