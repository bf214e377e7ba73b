"""One session, many views: the model, the conversation and what a person has chosen in it.

The model lives on the thread of a `pixtral_mlx.Worker`. A click in a view becomes a function that
the worker runs between two decode steps; nothing else touches the model.
"""

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from os import PathLike
from typing import Any

from traitlets import Any as Anything
from traitlets import Bool, Dict, HasTraits, Int, Unicode
from traitlets import List as ListOf

import pixtral_mlx as px

KEPT_ANSWERS = 256
"""Answers to views that are kept for the next view that asks the same."""

NOTHING = {"image": 0, "patch": None, "token": None, "layer": None, "head": None}
"""A selection before anybody chose anything."""


class Session(HasTraits):
    """A model, one answer at a time, and the selection that all views share.

    >>> session = Session("mini")
    >>> session.ask("How many rows are there?", images=["scene.png"])
    >>> session.wait(30).text
    'three'

    Arguments:
        model: what `px.load` takes, loaded in the background; or a model, which nobody else may
            use from then on.
        dtype: as for `px.load`.
        trace: what an answer keeps for looking inside; True is everything.

    Traits, all observable; they change on other threads than the notebook's:
        messages: the conversation, in the shape that `model.generate` takes. A question that got no
            answer is not part of it.
        prompt: `px.Prompt` of the last question, as the model received it (after edits); None
            before.
        reply: `px.Reply` of the last answer, which grows while it is written; None before.
        tokens: how many tokens the answer has so far.
        busy: whether an answer is being written.
        progress: {"stage", "done", "total"} of long work; empty when there is none.
        selection: {"image", "patch", "token", "layer", "head"}; None is nothing, or the mean.
        epoch: counts the questions; what belongs to an older one is stale.
        options: those that the last question was asked with.
        config: `px.PixtralConfig`; None while the model is loading.
        problem: one sentence that says what went wrong and what to do; empty if nothing did.
    """

    messages = ListOf()
    prompt = Anything(None, allow_none=True)
    reply = Anything(None, allow_none=True)
    tokens = Int(0)
    busy = Bool(False)
    progress = Dict()
    selection = Dict(NOTHING)
    epoch = Int(0)
    options = Dict()
    config = Anything(None, allow_none=True)
    problem = Unicode("")

    def __init__(
        self,
        model: "str | PathLike[str] | px.Pixtral" = "mini",
        *,
        dtype: Any = None,
        trace: "bool | px.TraceOptions" = True,
    ):
        super().__init__()
        self.name = str(model) if isinstance(model, str | PathLike) else model.name
        self.closed = False
        self.asked: px.Prompt | None = None  # the last question before its edits
        self._request: Any = None
        self._trace = trace
        self._stream: Any = None
        self._stopped = False
        self._thread: threading.Thread | None = None  # which reads the last answer
        self._ended: Future | None = None  # of the last question
        self._answers: OrderedDict[Any, Future] = OrderedDict()
        self._lock = threading.RLock()  # observers of `busy` may look
        self.worker = px.Worker(model, dtype)
        if isinstance(model, str | PathLike):
            self.progress = {"stage": "loading the model", "done": 0, "total": 0}
            try:
                loaded = self.worker.submit(lambda model: (model.config, model.name))
                loaded.add_done_callback(self._loaded)
            except Exception as error:  # it has failed already
                self.progress, self.problem = {}, sentence(error)
        else:
            self.config = model.config

    def _loaded(self, future: Future) -> None:
        self.progress = {}
        if future.exception() is None:
            config, self.name = future.result()
            self.config = config
        else:
            self.problem = sentence(future.exception())

    # Asking ------------------------------------------------------------------------------------

    def ask(
        self,
        text: "str | px.Prompt",
        images: Sequence[Any] = (),
        *,
        follow_up: bool = False,
        **options: Any,
    ) -> None:
        """Start an answer and return at once; `wait` or `done` wait for it.

        Arguments:
            text: the question; or a prompt that `model.encode` made.
            images: pictures, as `model.generate` takes them; they come before the text.
            follow_up: go on with the conversation instead of beginning anew.
            options: of `px.GenerationOptions` (`max_tokens`, `temperature`, `edits`, ...).

        Raises:
            RuntimeError: an answer is being written.
            ValueError: an option that is out of range.
        """
        with self._lock:
            self._check(options)
            request: Any = text
            if isinstance(text, str):
                request = self._conversation(text, images, follow_up)
            self._start(request, options)

    def again(self, **options: Any) -> None:
        """Ask the last question once more; the new answer takes the old one's place.

        Arguments:
            options: replace those that it was asked with.

        Raises:
            RuntimeError: nothing was asked here yet, or an answer is being written.
            ValueError: an option that is out of range.
        """
        with self._lock:
            if self._request is None:
                raise RuntimeError("nothing has been asked yet: ask a question first")
            options = {**self.options, **options}
            self._check(options)
            self._start(self._request, options)

    def show(self, reply: "px.Reply", **options: Any) -> None:
        """Look into an answer that this session's model gave elsewhere, with `trace=True`.

        Arguments:
            options: those that it was asked with.

        Raises:
            RuntimeError: an answer is being written.
            ValueError: the answer has no trace.
        """
        if reply.trace is None:
            raise ValueError("this answer has no trace: call generate with trace=True")
        with self._lock:
            self._check(options)
            self._answers.clear()
            self._request = self.asked = reply.trace.prompt
            self._ended = None
            self.options, self.reply, self.tokens = options, reply, len(reply.tokens)
            self.prompt = reply.trace.prompt
            self.epoch += 1

    def reset(self) -> None:
        """Begin a new conversation; the old one, its prompt and its reply are let go.

        Raises:
            RuntimeError: an answer is being written.
        """
        with self._lock:
            self._check({})
            self._answers.clear()
            self._request = self.asked = self._ended = None
            self.messages, self.problem = [], ""
            self.reply, self.tokens, self.prompt = None, 0, None
            self.epoch += 1

    def _check(self, options: dict[str, Any]) -> None:
        """A mistake shows here, at once."""
        px.GenerationOptions.of({"trace": self._trace, **options})
        if self.busy:
            raise RuntimeError("an answer is being written: wait() for it, or stop() it first")

    def _start(self, request: Any, options: dict[str, Any]) -> None:
        """By whom nothing else is written, and who still holds the lock."""
        self.problem, self._request = "", request
        if not isinstance(request, px.Prompt):
            self.messages = request
        self._stopped, self._stream = False, None
        ended = self._ended = Future()
        try:
            self.busy = True
        except BaseException as error:  # of an observer
            ended.set_exception(error)
            self.busy = False
            raise
        self._thread = threading.Thread(
            target=self._write, args=(request, options, ended), name="pixtral-mlx session",
            daemon=True,
        )  # fmt: skip
        self._thread.start()

    def _conversation(self, text: str, images: Sequence[Any], follow_up: bool) -> list[dict]:
        content: list[dict] = [{"type": "image", "image": image} for image in images]
        content.append({"type": "text", "text": text})
        before = list(self.messages) if follow_up else []
        return [*before, {"role": "user", "content": content}]

    def stop(self) -> None:
        """End the answer at its next step; what was written stays."""
        self._stopped = True
        if self._stream is not None:
            self._stream.stop()

    def wait(self, timeout: float | None = None) -> "px.Reply | None":
        """Wait for the answer to the question that was asked last when this is called.

        Arguments:
            timeout: seconds at most; None waits for ever.

        Returns:
            The reply; None if nothing was asked.

        Raises:
            TimeoutError: it takes longer; it goes on being written.
            PixtralError: the question could not be answered.
            RuntimeError: the answer could not go on while this thread waits (an observer's, or the
                worker's); or this is a forked copy of the process.

        What an observer of a trait raised is raised here; it has stopped the answer.
        """
        return self._wait(self._ended, timeout)

    async def done(self) -> "px.Reply | None":
        """As `wait`, for `await`: the notebook goes on while the answer is written."""
        return await asyncio.to_thread(self._wait, self._ended)

    def _wait(self, ended: Future | None, timeout: float | None = None) -> "px.Reply | None":
        if ended is None:
            return self.reply
        if not ended.done():
            self.worker.check_wait()
            if threading.current_thread() is self._thread:
                raise RuntimeError(
                    "an observer waits for the answer that it observes: wait on another thread"
                )
        if not wait([ended], timeout).done:
            raise TimeoutError(f"no answer after {timeout} s: wait longer, or stop() it")
        return ended.result()

    def _write(self, request: Any, options: dict[str, Any], ended: Future) -> None:
        """On a thread of its own: from the question to the end of the answer."""
        reply = error = None
        try:
            reply = self._answer(request, options)
        except BaseException as failed:
            error = failed
            if self._stream is not None:
                self._stream.stop()  # it was an observer that failed
        for traits in self._after(request, error):
            try:
                self.set_trait(*traits)
            except BaseException as failed:
                error = error or failed
        if error is None:
            ended.set_result(reply)
        else:
            ended.set_exception(error)

    def _after(self, request: Any, error: BaseException | None) -> list[tuple[str, Any]]:
        """What the traits are when an answer has ended."""
        ended = [("progress", {}), ("busy", False)]
        if error is None:
            return ended
        messages = [] if isinstance(request, px.Prompt) else [("messages", request[:-1])]
        return [("problem", sentence(error)), *messages, *ended]

    def _answer(self, request: Any, options: dict[str, Any]) -> "px.Reply":
        self.progress = {"stage": "preparing the pictures", "done": 0, "total": 0}

        def prepare(model: Any) -> tuple[px.Prompt, px.Prompt]:
            prompt = request if isinstance(request, px.Prompt) else model.encode(request)
            return prompt, px.edits.edited(prompt, options.get("edits", ()), model.config)

        prompt, shown = self.worker.submit(prepare).result()
        with self._lock:
            self._answers.clear()
        self.asked, self.options = prompt, options
        self.reply, self.tokens, self.prompt = None, 0, shown
        self.epoch += 1
        stream = self.worker.stream(
            prompt, **{"trace": self._trace, **options}, progress=self._prefilled
        )
        self._stream = stream
        if self._stopped:
            stream.stop()
        for _ in stream:
            self.progress = {}
            self.reply = stream.reply
            self.tokens = len(stream.reply.tokens)
        reply = self.reply = stream.reply
        if not isinstance(request, px.Prompt):
            # Stopped before it began: no template has an answer without words.
            said = [{"role": "assistant", "content": reply.text}] if reply.text else None
            self.messages = request[:-1] if said is None else [*request, *said]
        return reply

    def _prefilled(self, done: int, total: int) -> None:
        self.progress = {"stage": "reading the prompt", "done": done, "total": total}

    # Looking inside ----------------------------------------------------------------------------

    @property
    def trace(self) -> "px.Trace | None":
        """Of the last answer, also while it is written; only for functions given to `look`."""
        reply = self.reply
        return None if reply is None else reply.trace

    def look(self, function: Callable[[Any], Any], key: Any = None) -> Future:
        """Run `function(model)` on the worker's thread, between two decode steps.

        Arguments:
            key: two calls with the same key, during one answer, are computed once.

        Returns:
            A future of what the function returns.
        """
        if key is None:
            return self.worker.submit(function)
        with self._lock:
            if key in self._answers:
                self._answers.move_to_end(key)
                return self._answers[key]
            future = self._answers[key] = self.worker.submit(function)
            while len(self._answers) > KEPT_ANSWERS:
                self._answers.popitem(last=False)
        # A mistake is not kept: the next click may find the trace that was missing.
        future.add_done_callback(lambda done: done.exception() and self._answers.pop(key, None))
        return future

    def select(self, **chosen: Any) -> None:
        """Choose an image, a patch, a token, a layer or a head in all views that are linked."""
        unknown = set(chosen) - set(NOTHING)
        if unknown:
            raise ValueError(
                f"cannot select {', '.join(sorted(unknown))}; allowed: {', '.join(NOTHING)}"
            )
        self.selection = {**self.selection, **chosen}

    def close(self) -> None:
        """Stop and let the model go; views keep what they have saved."""
        self.closed = True
        self.stop()
        self.worker.close()


def sentence(error: BaseException | None) -> str:
    """An error as one sentence for a reader."""
    text = str(error).strip().split("\n")[0] if error else ""
    if isinstance(error, px.PixtralError | ValueError | IndexError | RuntimeError) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
