"""What all widgets have in common: a session, and pages and pictures of what they show."""

import json
import queue
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from os import PathLike
from typing import Any, ClassVar

import traitlets

import pixtral_mlx as px
from pixtral_mlx.files import expanded
from pixtral_mlx.inputs import picture_file
from pixtral_mlx.mini import CHECKPOINT

from . import bundle, page
from .opening import opening
from .packing import packed
from .questions import Questions
from .session import Session

SAVE_AFTER_SECONDS = 1.0
"""How long nobody must have asked anything until what is shown is kept, see `View.keep`."""

PAGE_BYTES = 300_000
"""Up to this size a page holds more than what is shown, so that its sliders work without a
kernel."""

SHOWN_SECONDS = 5
"""How long a notebook that shows the widget has to draw a picture of it."""


class View(Questions):
    """The base of all widgets.

    Arguments:
        source: a `Session`; or an image, for a session of its own.
        model: with an image: what `Session` takes.
        question: with an image: what is asked about it, so that there is something to look into.
        linked: whether the selection is shared with the session's other views.

    Traits that the browser sees:
        facts: what is small and always known, see `facts_now`.
        problem: one sentence; empty if all is well.
        state: "empty", "loading", "running" or "ready".
        progress: of the session.
        saved: the answers that a page without kernel can show.
        image: number of the chosen image.
        patch: (row, column) that is chosen; None for none.
        opening: {"token", "image", "patch"} to show while nothing is chosen; empty if unknown.
    """

    name: ClassVar[str] = ""
    """Of the widget's file in `static/`."""

    shared: ClassVar[tuple[str, ...]] = ("image", "patch")
    """Traits that are linked with the session's selection."""

    opens: ClassVar[bool] = False
    """Whether it shows something of an answer before anything is chosen."""

    facts = traitlets.Dict().tag(sync=True)
    problem = traitlets.Unicode("").tag(sync=True)
    state = traitlets.Unicode("empty").tag(sync=True)
    progress = traitlets.Dict().tag(sync=True)
    saved = traitlets.Dict().tag(sync=True)
    opening = traitlets.Dict().tag(sync=True)
    image = traitlets.Int(0).tag(sync=True)
    patch = traitlets.Tuple(
        traitlets.Int(), traitlets.Int(), default_value=None, allow_none=True
    ).tag(sync=True)

    def __init_subclass__(cls, **options: Any):
        if "name" in cls.__dict__:  # a widget, and not the class that adding a trait makes of it
            cls._esm, cls._css = bundle.module(cls.name), bundle.style()
        super().__init_subclass__(**options)

    def __init__(
        self,
        source: Any = None,
        model: Any = None,
        *,
        question: str = "What do you see?",
        linked: bool = True,
        **traits: Any,
    ):
        super().__init__(**traits)
        self._saving: threading.Timer | None = None
        self._keeping = threading.RLock()  # a page is made of what its own `keep` has found
        self._pictures: queue.Queue[bytes] = queue.Queue()
        self._on_screen = False  # the browser has said so
        self.session: Session | None = source if isinstance(source, Session) else None
        if self.session is None and model is not None:
            self.session = model if isinstance(model, Session) else Session(model)
            if source is not None:
                self.session.ask(question, images=[source])
        self.on_msg(self._receive)
        if self.session is not None:
            given = {name: traits[name] for name in self.shared if name in traits}
            if linked and given:
                self.session.select(**given)
            self._follow(self.session, linked)

    # The session -------------------------------------------------------------------------------

    def _follow(self, session: Session, linked: bool) -> None:
        session.observe(
            lambda _: self.refresh(), ["epoch", "busy", "config", "problem", "progress"]
        )
        if linked:
            self._take(session.selection)
            session.observe(lambda change: self._take(change["new"]), "selection")
            if self.shared:  # an empty list would mean all
                self.observe(self._give, list(self.shared))
        self.refresh()

    def _take(self, selection: Mapping[str, Any]) -> None:
        for name in self.shared:
            if getattr(self, name) != selection[name]:
                setattr(self, name, selection[name])

    def _give(self, change: Any) -> None:
        if self.session is not None and self.session.selection[change["name"]] != change["new"]:
            self.session.select(**{change["name"]: change["new"]})

    def refresh(self) -> None:
        """Bring what the browser sees up to date with the session."""
        session = self.session
        if session is None:
            return
        self.problem, self.progress = session.problem, session.progress
        facts = self.facts_now(session)
        if facts != self.facts:
            if facts["epoch"] != self.facts.get("epoch"):
                self.saved, self.opening = {}, {}  # belong to the question before
            self._choose_what_exists(facts)
            self.facts = facts
        if session.config is None and not session.problem:
            self.state = "loading"
        elif session.busy:
            self.state = "running"
        else:
            self.state = "ready" if session.prompt is not None else "empty"
        if self.state == "ready":
            self._open(session)
            self._save_soon()

    def _open(self, session: Session, wait: bool = False) -> None:
        """Find something worth seeing, once for each answer."""
        trace, epoch = session.trace, session.epoch
        if not self.opens or self.opening or trace is None or not trace.prompt.spans:
            return

        def opened(done: Future) -> None:
            found = not done.cancelled() and done.exception() is None
            if found and self.facts.get("epoch") == epoch:
                self.opening = self._opened(done.result())
                self._save_soon()

        future = session.look(lambda _: opening(trace), "opening")
        if wait:
            opened(wait_for([future]).done.pop())
        else:
            future.add_done_callback(opened)

    def prompt_shown(self) -> "px.Prompt | None":
        """What the facts and the pictures are about: the session's prompt."""
        return None if self.session is None else self.session.prompt

    def facts_now(self, session: Session) -> dict[str, Any]:
        """What is small and always known: epoch, sizes of the model, and where the images stand."""
        facts: dict[str, Any] = {"epoch": session.epoch, "model": session.name, "images": []}
        config, prompt = session.config, self.prompt_shown()
        if config is not None:
            facts["text"] = {
                "layers": config.text.n_layers, "heads": config.text.n_heads,
                "kv_heads": config.text.n_kv_heads, "context": config.text.max_seq_len,
            }  # fmt: skip
            if config.vision is not None:
                facts["vision"] = {
                    "layers": config.vision.num_hidden_layers,
                    "heads": config.vision.num_attention_heads,
                    "patch_size": config.vision.patch_size, "longest": config.vision.image_size,
                }  # fmt: skip
        if prompt is not None:
            facts["tokens"] = len(prompt.tokens)
            facts["images"] = [
                {
                    "rows": span.grid.rows, "columns": span.grid.columns, "start": span.start,
                    "breaks": span.breaks, "merge": prompt.merge,
                }
                for span in prompt.spans
            ]  # fmt: skip
        return facts

    def _opened(self, found: dict[str, Any]) -> dict[str, Any]:
        """What `opening` found, in this view's own patches."""
        return found

    def _choose_what_exists(self, facts: Mapping[str, Any]) -> None:
        """A new prompt may have fewer images and patches than the one before."""
        images = facts["images"]
        if images and self.image >= len(images):
            self.image = 0
        if images and self.patch is not None:
            grid = images[self.image]
            if self.patch[0] >= grid["rows"] or self.patch[1] >= grid["columns"]:
                self.patch = None

    # What every browser asks -------------------------------------------------------------------

    def _receive(self, _: Any, content: Any, buffers: Any) -> None:
        """A message: also that the widget is seen, or a picture of it."""
        if isinstance(content, dict) and "shown" in content:
            self._on_screen = True
        elif isinstance(content, dict) and "png" in content:
            self._pictures.put(page.decoded(content["png"]))
        else:
            super()._receive(_, content, buffers)

    def _answered_now(self) -> None:
        self._save_soon()

    def do_stop(self) -> None:
        """The reader has seen enough of the answer that is being written."""
        if self.session is not None:
            self.session.stop()

    def answer_pixels(self, model: Any, image: int) -> dict[str, Any]:
        """An image as the model sees it: {"mime", "file"}."""
        prompt = self.prompt_shown()
        if prompt is None or not 0 <= image < len(prompt.images):
            raise IndexError(f"image {image}: ask a question with a picture first")
        return picture_file(prompt.images[image])

    # Without a kernel --------------------------------------------------------------------------

    def questions_shown(self) -> Iterable[tuple[str, dict[str, Any]]]:
        """What the browser has asked for what is shown now: (what, arguments). These answers go
        into a saved notebook and into `to_html`."""
        for image in range(len(self.facts.get("images", ()))):
            yield "pixels", {"image": image}

    def questions_beyond(self) -> Iterable[tuple[str, dict[str, Any]]]:
        """What else a page can answer, the most wanted first, while it stays small: then its
        sliders and patches work without a kernel."""
        return ()

    def _save_soon(self) -> None:
        if self._saving is not None:
            self._saving.cancel()
        self._saving = threading.Timer(SAVE_AFTER_SECONDS, self.keep)
        self._saving.daemon = True
        self._saving.start()

    def keep(self) -> None:
        """Put the answers that are shown into `saved`, for a page without a kernel."""
        if self.session is not None and self.session.closed:
            return
        with self._keeping:
            epoch = self.facts.get("epoch")
            found = dict(self._answers(self.questions_shown()))
            if self.facts.get("epoch") == epoch:
                self.saved = found

    def _answers(
        self, questions: Iterable[tuple[str, dict[str, Any]]]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """(name, answer) of questions, as the browser knows them."""
        for what, arguments in questions:
            try:
                data, buffers = packed(self.ask(what, **arguments))
            except Exception:  # what cannot be computed now was not shown either
                continue
            name = json.dumps([what, arguments], sort_keys=True, separators=(",", ":"))
            yield name, {"data": data, "buffers": buffers}

    def _beyond(self, room: int) -> dict[str, dict[str, Any]]:
        """Answers to `questions_beyond` that are not shown, as many as fit into `room` bytes."""
        found = {}
        for name, answer in self._answers(self.questions_beyond()):
            if name in self.saved:
                continue
            # In a page, bytes become base64: four characters for three.
            room -= len(json.dumps(name)) + len(json.dumps(answer["data"])) + 30
            room -= sum(4 * len(buffer) // 3 + 20 for buffer in answer["buffers"])
            if room < 0:
                break
            found[name] = answer
        return found

    def to_html(
        self, path: "str | PathLike[str] | None" = None, *, heading: Sequence[str] = ()
    ) -> str:
        """One page that works without a kernel and without a network, drawn by the same script.

        Arguments:
            path: where it is written too; an existing file is not overwritten.
            heading: lines above the widget, the first one large.

        Returns:
            The page.

        Raises:
            FileExistsError: there is a file of that name.
            PixtralError: the session's question could not be answered.
        """
        if self.session is not None:
            self.session.wait()
            self._open(self.session, wait=True)
        with self._keeping:
            self.keep()
            state = self._page_state()
            children = self.page_children()
            inner = {key: (one.name, one._page_state()) for key, one in children.items()}
            text = page.html(type(self).__name__, self.name, state, inner, heading)
            beyond = self._beyond(PAGE_BYTES - len(text))
        if beyond:
            state["saved"] = {**state["saved"], **beyond}
            text = page.html(type(self).__name__, self.name, state, inner, heading)
        if path is not None:
            page.write_new(expanded(path), text.encode())
        return text

    def page_children(self) -> "dict[str, View]":
        """Widgets inside this one, by the name under which the browser knows them."""
        return {}

    def _page_state(self) -> dict[str, Any]:
        hidden = {"layout", "tabbable", "tooltip", "comm"}
        names = [n for n in self.traits(sync=True) if not n.startswith("_") and n not in hidden]
        return {name: getattr(self, name) for name in names}

    def to_png(self, path: "str | PathLike[str] | None" = None) -> bytes:
        """A picture of what is shown: from the notebook if it is displayed there, else drawn by a
        browser without a window.

        Arguments:
            path: where it is written too; an existing file is not overwritten.

        Raises:
            RuntimeError: there is neither.
            FileExistsError: there is a file of that name.
        """
        png = self._picture_displayed() or page.png(self.to_html())
        if path is not None:
            page.write_new(expanded(path), png)
        return png

    def _picture_displayed(self) -> bytes | None:
        """Ask the browser; None if it does not answer soon, for example since nothing is shown."""
        if getattr(self.comm, "kernel", None) is None:
            return None  # this is no notebook
        with page.receiver() as (address, self._pictures):
            self.send({"picture": address})
            try:
                return self._pictures.get(timeout=SHOWN_SECONDS if self._on_screen else 1) or None
            except queue.Empty:
                return None


def config_of(source: "str | PathLike[str]") -> px.PixtralConfig:
    """The sizes of a model, by its folder or "mini"; no weight is read.

    Raises:
        ConfigError: there is no such folder, or it holds no model.
    """
    return px.load_config(CHECKPOINT if str(source) == "mini" else source)
