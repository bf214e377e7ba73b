"""Long work on the model, a step at a time, so that words and clicks come in between."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from .session import Session, sentence

STEP_SECONDS = 0.03
"""How long the worker's thread is held before others get their turn."""


class LongWork:
    """Runs a generator on the worker's thread, a little at a time.

    Arguments:
        session: whose worker computes.
        make: called with the model; yields (done, total, what there is so far).
        report: called with (done, total) while it goes on.
        finish: called once, with the last thing and "", or with None and one sentence. Neither is
            called after `stop`.
    """

    def __init__(
        self,
        session: Session,
        make: Callable[[Any], Iterator[tuple[int, int, Any]]],
        *,
        report: Callable[[int, int], None],
        finish: Callable[[Any, str], None],
    ):
        self._session, self._make = session, make
        self._report, self._finish = report, finish
        self._steps: Iterator[tuple[int, int, Any]] | None = None
        self._latest: Any = None
        self._stopped = False
        self._telling = threading.RLock()  # so that nothing is told after `stop` has returned
        self.ended = threading.Event()

    def start(self) -> None:
        """Begin; may be finished before this returns."""
        self._go_on()

    def stop(self) -> None:
        """End before the next step; nothing is reported any more."""
        with self._telling:
            self._stopped = True
        self.ended.set()

    def _tell(self, what: Callable[..., None], *found: Any) -> None:
        with self._telling:
            if not self._stopped:
                what(*found)

    def _go_on(self) -> None:
        try:
            step = self._session.look(self._step)
        except Exception as closed:
            self._tell(self._finish, None, sentence(closed))
            self.ended.set()
        else:
            step.add_done_callback(self._after)

    def _step(self, model: Any) -> bool:
        """On the worker's thread: whether there is more to do."""
        if self._steps is None:
            self._steps = self._make(model)
        end = time.perf_counter() + STEP_SECONDS
        while not self._stopped:
            found = next(self._steps, None)
            if found is None:
                return False
            done, total, self._latest = found
            if time.perf_counter() > end:
                self._tell(self._report, done, total)
                return True
        return False

    def _after(self, future: Any) -> None:
        error = ""
        if future.cancelled() or future.exception() is not None:
            error = "it was withdrawn" if future.cancelled() else sentence(future.exception())
        if error or not future.result():
            try:
                self._tell(self._finish, None if error else self._latest, error)
            finally:
                self.ended.set()
            return
        self._go_on()
