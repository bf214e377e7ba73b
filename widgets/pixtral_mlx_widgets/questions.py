"""Questions from the browser, always answered.

It asks with a message {id, what, arguments}; the method `answer_<what>(model, ...)` computes on the
worker's thread, and {id, data} with binary buffers, or {id, problem}, goes back. Rows travel, never
maps. A method `do_<what>(...)` acts at once, without the model.
"""

import inspect
import json
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

import anywidget

from .packing import packed
from .session import Session, sentence


class Questions(anywidget.AnyWidget):
    """A widget that answers.

    Attributes:
        session: on whose thread answers are computed; None where no model is needed.
    """

    session: Session | None = None

    def _receive(self, _: Any, content: Any, buffers: Any) -> None:
        """A message: always answered, also if it makes no sense."""
        if not isinstance(content, dict):
            return
        number, what = content.get("id"), content.get("what")
        arguments = content.get("arguments") or {}
        try:
            if hasattr(self, f"do_{what}"):
                future = _done(self._method("do", what, arguments), *buffers, **arguments)
            else:
                future = self._look(what, arguments)
        except Exception as error:
            self.send({"id": number, "problem": sentence(error)})
            return
        future.add_done_callback(lambda done: self._reply(number, done))

    def _reply(self, number: Any, done: Future) -> None:
        if done.cancelled():
            self.send({"id": number, "problem": "the question was withdrawn: ask again"})
        elif done.exception() is not None:
            self.send({"id": number, "problem": sentence(done.exception())})
        else:
            data, buffers = packed(done.result())
            self.send({"id": number, "data": data}, buffers)
            self._answered_now()

    def _answered_now(self) -> None:
        """Something new is shown."""

    def _look(self, what: Any, arguments: Mapping[str, Any]) -> Future:
        """Start to compute an answer.

        Raises:
            ValueError: there is no such question, or its arguments are others.
        """
        method = self._method("answer", what, arguments)
        if self.session is None:
            return _done(method, None, **arguments)
        key = (type(self).__name__, what, json.dumps(arguments, sort_keys=True), self._key(what))
        return self.session.look(lambda model: method(model, **arguments), key)

    def _method(self, verb: str, what: Any, arguments: Mapping[str, Any]) -> Callable:
        method: Callable | None = getattr(self, f"{verb}_{what}", None)
        if not isinstance(what, str) or method is None:
            raise ValueError(f"{type(self).__name__} does not know the question {what!r}")
        wanted = inspect.signature(method).parameters
        unknown = [name for name in arguments if name not in wanted]
        if unknown:
            raise ValueError(f"{what}: there is no {unknown[0]!r}; allowed: {', '.join(wanted)}")
        return method

    def _key(self, what: str) -> Any:
        """What an answer depends on beside its arguments; views that ask alike share answers."""
        return None if what == "pixels" else id(self)

    def ask(self, what: str, **arguments: Any) -> Any:
        """The answer to a question of the browser, for Python; waits for it."""
        return self._look(what, arguments).result()

    def do_alive(self) -> bool:
        """The browser waits for an answer and asks whether there still is a kernel."""
        return True


def _done(function: Callable, *arguments: Any, **options: Any) -> Future:
    """A future that is done: for what needs no model."""
    future: Future = Future()
    try:
        future.set_result(function(*arguments, **options))
    except Exception as error:
        future.set_exception(error)
    return future
