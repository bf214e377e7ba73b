"""One thread that owns a model, so that others can ask it things while it writes.

MLX's streams belong to a thread, and a notebook delivers its callbacks on another one while a cell
runs. The worker loads the model on its own thread; everybody else hands it functions, which it
runs between two steps of a `Batch`: streams that come together are written together. No other
thread touches MLX.

>>> with Worker("pixtral-4bit") as worker:
...     stream = worker.stream("What is this?", images=["photo.jpg"], trace=True)
...     for piece in stream:
...         look = worker.submit(lambda model, trace=piece.trace: trace.image_attention(0))
"""

import atexit
import ctypes
import logging
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from os import PathLike
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from weakref import WeakSet

import mlx.core as mx

from .checks import whole
from .engine.batch import BATCH_SIZE, Batch
from .engine.reply import Piece, Reply
from .model.threads import begin_computing

if TYPE_CHECKING:
    from .pixtral import Pixtral

log = logging.getLogger(__name__)

Result = TypeVar("Result")
IDLE_SECONDS = 1.0
"""With nothing to do for so long, the worker gives back the buffers that MLX keeps for the next
step. Whoever asks again at once finds them still there."""
END_SECONDS = 10.0
"""When Python ends, a submitted function has so long to end by itself."""


class Sink(Protocol):
    """Where a stream's items go."""

    def put(self, item: "Piece | Reply | BaseException", /) -> None:
        """Take one, without waiting. If it raises, the answer is stopped."""


class Worker:
    """The thread, its model, and what waits for it.

    Arguments:
        source: what `px.load` takes, loaded on the worker's thread; or a model, whose weights are
            read at once and which nobody else may use from then on.
        dtype, adapter_path: as for `px.load`.
        batch_size: at most this many streams are written at once, see `Batch`.

    Errors of loading are raised by every request. Use it as a context manager, or `close` it. A
    process that is forked has none: there every request is refused.
    """

    def __init__(
        self,
        source: "str | PathLike[str] | Pixtral",
        dtype: Any = None,
        *,
        adapter_path: "str | PathLike[str] | None" = None,
        batch_size: int = BATCH_SIZE,
    ):
        whole("batch_size", batch_size, 1)
        if not isinstance(source, str | PathLike):
            # Changed weights may be left to be computed, on this thread.
            mx.eval(source.parameters())
        self._source: Any = source
        self._dtype, self._adapter_path = dtype, adapter_path
        self._batch_size = batch_size
        self._requests: deque[tuple[Future, Callable]] = deque()
        self._streams: deque[WorkerStream] = deque()  # those that wait
        self._written: dict[int, WorkerStream] = {}
        self._wake, self._closed = threading.Condition(), False
        self._copied = False  # by a fork
        self._problem: BaseException = RuntimeError(
            "the model was closed: open it again, with a new worker or session"
        )
        self._thread = threading.Thread(target=self._run, name="pixtral-mlx worker", daemon=True)
        self._thread.start()
        atexit.register(self._close_at_exit)
        _workers.add(self)

    def submit(self, function: "Callable[[Pixtral], Result]") -> "Future[Result]":
        """Run `function(model)` on the worker's thread, between two steps if it is writing.

        Returns:
            A future; its `result()` waits, and raises what the function raised.

        Raises:
            RuntimeError: the worker is closed. What loading raised, if it failed. From `result()`:
                see `check_wait`.
        """
        future: Future = _Future(self.check_wait)
        self._add(self._requests, (future, function))
        return future

    def stream(
        self, messages: Any, *, pieces: Sink | None = None, **options: Any
    ) -> "WorkerStream":
        """Answer on the worker's thread; arguments as for `model.stream`.

        Arguments:
            pieces: where the answer goes, for callers that cannot wait in a thread of their own
                (an event loop): each `Piece`, and at the end, once, the `Reply`, or the exception
                that ended it. `put` is called on the worker's thread, and on the one that calls
                `stop` or `close` if that ends it. Without it, iterate over the stream.

        Raises:
            RuntimeError: the worker is closed. From the stream: see `check_wait`.
        """
        if progress := options.get("progress"):
            options["progress"] = partial(_observe, progress)
        stream = WorkerStream(messages, options, self._withdraw, self.check_wait, pieces)
        self._add(self._streams, stream)
        return stream

    @property
    def ended(self) -> bool:
        """Whether nothing more will be answered here."""
        return self._closed

    def answer_waiting(self, model: "Pixtral") -> None:
        """For long functions given to `submit`: run here, between two of their steps, the
        requests that came in meanwhile. Only on the worker's thread."""
        self._answer(model)

    def check_wait(self) -> None:
        """Raise where nobody may wait for what is asked here.

        Raises:
            RuntimeError: on the worker's own thread, which would wait for itself; in a forked copy
                of the process, which has not got that thread.
        """
        if self._copied:
            raise self._problem.with_traceback(None)
        if threading.current_thread() is self._thread:
            raise RuntimeError(
                "a function on the worker's thread waits for what that thread would do next: use "
                "the model that the function is given, or wait on another thread"
            )

    def close(self) -> None:
        """Stop what is being written, refuse what waits, and end the thread."""
        self._end()
        atexit.unregister(self._close_at_exit)

    def _close_at_exit(self) -> None:
        """MLX aborts the process if a thread is still computing when Python ends; one that only
        waits may stay."""
        self._end(timeout=END_SECONDS)
        busy = True
        while busy and self._thread.is_alive():
            start = time.process_time()
            _interrupt(self._thread)
            self._thread.join(1)
            busy = time.process_time() - start > 0.1

    def _end(self, timeout: float | None = None) -> None:
        with self._wake:
            self._closed = True
            self._wake.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _leave_copy(self) -> None:
        """After a fork, in the copy of the process."""
        self._wake = threading.Condition()  # somebody may have held it
        self._closed = self._copied = True
        self._problem = RuntimeError(
            "the model's thread is in the process that this one was forked from: start processes "
            "with multiprocessing.get_context('spawn') and open the model there"
        )

    def _withdraw(self, stream: "WorkerStream") -> None:
        """A stream that the batch has not got yet ends here; others do so before the next step."""
        with self._wake:
            if stream not in self._streams:
                return
            self._streams.remove(stream)
        stream.reply.finish_reason = "interrupted"
        stream.end()

    def _add(self, waiting: deque, item: Any) -> None:
        with self._wake:
            if self._closed:
                raise self._problem.with_traceback(None)  # else it grows with every caller
            waiting.append(item)
            self._wake.notify()

    # On the worker's thread --------------------------------------------------------------------

    def _run(self) -> None:
        model = None
        try:
            begin_computing()  # loading does, too
            model = self._load()
            self._serve(model)
        except BaseException as error:
            self._problem = error
            if model is not None:
                self._problem = RuntimeError(
                    f"the model's thread ended ({type(error).__name__}: {error}): open it again, "
                    "with a new worker or session"
                )
        finally:
            self._refuse()
            self._source = model = None
            mx.clear_cache()

    def _serve(self, model: "Pixtral") -> None:
        batch = Batch(model.engine, batch_size=self._batch_size)
        while self._wait(batch):
            self._answer(model)
            self._take(batch)
            for number, event in batch.step():
                if isinstance(event, Piece):
                    self._written[number].write(event)
                else:
                    self._written.pop(number).end(event)
        batch.close()
        while self._written:
            self._written.popitem()[1].end()

    def _wait(self, batch: Batch) -> bool:
        """Until there is something to do; False: the worker is closed."""

        def called() -> Any:
            return self._requests or self._streams or self._closed or batch.busy

        with self._wake:
            if not self._wake.wait_for(called, IDLE_SECONDS):
                mx.clear_cache()
                self._wake.wait_for(called)
            return not self._closed

    def _take(self, batch: Batch) -> None:
        """Stop what nobody wants any more; give the batch what waits, as it begins with it."""
        for number, stream in list(self._written.items()):
            if stream.stopped:
                batch.cancel(number)
                self._written.pop(number).end()
        with self._wake:
            while self._streams:
                stream = self._streams.popleft()
                request = {**stream.options, "messages": stream.messages}
                self._written[batch.add(request, reply=stream.reply)] = stream

    def _load(self) -> "Pixtral":
        if isinstance(self._source, str | PathLike):
            from .pixtral import load

            return load(self._source, self._dtype, self._adapter_path)
        return self._source

    def _answer(self, model: "Pixtral") -> None:
        """Run the requests that wait now, in their order."""
        for _ in range(len(self._requests)):
            if not self._requests:
                return  # a long function has answered them meanwhile, see `answer_waiting`
            future, function = self._requests.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = function(model)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)

    def _refuse(self) -> None:
        """Nothing more will be answered: say so to all who wait, and to all who come."""
        with self._wake:
            self._closed = True
            for future, _ in self._requests:
                if future.set_running_or_notify_cancel():
                    future.set_exception(self._problem)
            for stream in [*self._streams, *self._written.values()]:
                stream.end(self._problem)
            self._requests.clear()
            self._streams.clear()
            self._written.clear()


class _Future(Future):
    """Of a request; `check` raises where nobody may wait."""

    def __init__(self, check: Callable[[], None]):
        super().__init__()
        self._check = check

    def result(self, timeout: float | None = None) -> Any:
        """As `Future.result`."""
        self.exception(timeout)
        return super().result()

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """As `Future.exception`."""
        if not self.done():
            self._check()
        return super().exception(timeout)


class WorkerStream(Iterator[Piece]):
    """An answer that the worker writes; iterate on any thread.

    Arguments:
        messages, options: of `model.stream`.
        withdraw: takes it out of those that wait; for `stop`.
        check: raises where nobody may wait.
        pieces: see `Worker.stream`.
    """

    def __init__(
        self,
        messages: Any,
        options: dict[str, Any],
        withdraw: Callable[["WorkerStream"], None],
        check: Callable[[], None],
        pieces: Sink | None = None,
    ):
        self.messages, self.options = messages, options
        self.reply = Reply()
        self.pieces: Any = queue.SimpleQueue() if pieces is None else pieces
        self.stopped = False
        self._withdraw, self._check, self._ended = withdraw, check, False

    def __next__(self) -> Piece:
        if self._ended:
            raise StopIteration
        if self.pieces.empty():
            self._check()
        item = self.pieces.get()
        if isinstance(item, Piece):
            return item
        self._ended = True
        self.pieces.put(item)  # for others who wait
        if isinstance(item, BaseException):
            raise item
        raise StopIteration

    def end(self, problem: Any = None) -> None:
        """Nothing comes after the pieces there are but the reply, or an exception."""
        self.write(problem if isinstance(problem, BaseException) else self.reply)

    def write(self, item: Piece | Reply | BaseException) -> None:
        """Hand it on; where that fails, nobody wants the rest."""
        try:
            self.pieces.put(item)
        except Exception:
            log.exception("a piece of an answer could not be handed on: the answer is stopped")
            self.stopped = True

    def stop(self) -> None:
        """End the answer before the next step, whether it is being written, read or waits; at once
        while the model is being loaded. `reply` keeps what there is."""
        self.stopped = True
        self._withdraw(self)


def _observe(progress: Callable[[int, int], None], done: int, total: int) -> None:
    """Call a stream's observer; what would end the thread ends the stream alone."""
    try:
        progress(done, total)
    except BaseException as error:
        if isinstance(error, Exception):
            raise
        raise RuntimeError(f"progress= raised {type(error).__name__}: {error}") from error


def _interrupt(thread: threading.Thread) -> None:
    """What it runs raises SystemExit, at the next step of Python."""
    number, kind = ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(number, kind)


_workers: WeakSet[Worker] = WeakSet()
os.register_at_fork(after_in_child=lambda: [worker._leave_copy() for worker in _workers])
