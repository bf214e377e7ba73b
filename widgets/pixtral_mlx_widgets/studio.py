"""`Studio`: ask, watch and look inside on one screen, without writing code."""

import io
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import traitlets
from PIL import Image

import pixtral_mlx as px
from pixtral_mlx.inputs import open_pages, page_numbers, shrunk
from pixtral_mlx.mini import scene

from .ablation import Ablation
from .answer_lens import AnswerLens
from .mask_view import MaskView
from .memory_view import MemoryView
from .patch_grid import PatchGrid
from .quantization_view import QuantizationView
from .rope_explorer import RopeExplorer
from .sequence_strip import SequenceStrip
from .session import Session
from .view import View
from .vision_attention import VisionAttention

PANES: tuple[tuple[str, tuple[type[View], ...]], ...] = (
    ("Answer", (AnswerLens,)), ("Tokens", (PatchGrid, SequenceStrip)),
    ("Attention", (VisionAttention,)), ("Masks", (MaskView, RopeExplorer)),
    ("Ablation", (Ablation,)), ("Memory", (MemoryView,)), ("Bits", (QuantizationView,)),
)  # fmt: skip
"""The tabs at the right, and the widgets in them."""

SAMPLES = ((11, 3, 4, "Describe the picture."), (3, 4, 5, "What does it say?"), (29, 2, 5, "rows"))
"""Scenes to try: seed, rows, columns, and the question or its kind."""

THUMBNAIL_SIDE = 160
LEAF_OPTIONS = px.ImageOptions(image_budget=300)
"""How a page is drawn that is only to be chosen."""


class Studio(View):
    """Everything on one screen: drop, paste or pick pictures, ask, watch the answer being written,
    look inside, save.

    >>> Studio("mini")
    >>> Studio(session)

    Arguments:
        source: a `Session`, or what `Session` takes as a model.

    Traits:
        chat: [{"role", "text", "pictures": [{"mime", "file"}]}] so far.
        waiting: as `chat`, the questions that were asked while an answer was written; each is asked
            when its turn comes.
        writing: the answer that is being written; empty when there is none.
        temperature, top_p, max_tokens, seed: of the next answer; seed None is another every time.
        stage: whether the picture and the words fill the screen, to be seen from afar.
        tab: the title of the open tab.
    """

    name = "studio"
    chat = traitlets.List().tag(sync=True)
    waiting = traitlets.List().tag(sync=True)
    writing = traitlets.Unicode("").tag(sync=True)
    samples = traitlets.List().tag(sync=True)
    panes = traitlets.List().tag(sync=True)
    stage = traitlets.Bool(False).tag(sync=True)
    tab = traitlets.Unicode(PANES[0][0]).tag(sync=True)
    temperature = traitlets.Float(0.0, min=0.0, max=2.0).tag(sync=True)
    top_p = traitlets.Float(1.0, min=0.0, max=1.0).tag(sync=True)
    max_tokens = traitlets.Int(256, min=1).tag(sync=True)
    seed = traitlets.Int(None, allow_none=True).tag(sync=True)

    def __init__(self, source: Any = "mini", model: Any = None, **options: Any):
        session = source if isinstance(source, Session) else Session(model or source)
        self._scenes = [_sample(*sample) for sample in SAMPLES]
        self._thumbnails: dict[int, tuple[Any, dict[str, Any]]] = {}
        self._documents: dict[int, bytes] = {}
        self._turn = threading.RLock()
        self._turns: deque[tuple[str, Sequence[Any], bool]] = deque()
        super().__init__(session, **options)
        self.children = {title: [kind(session) for kind in kinds] for title, kinds in PANES}
        self.lens: Any = self.children[PANES[0][0]][0]  # the AnswerLens
        for name in ("temperature", "top_p"):  # one slider for all that sample
            traitlets.link((self, name), (self.lens, name))
        self.panes = [
            {"title": title, "parts": [f"anywidget:{view.model_id}" for view in views]}
            for title, views in self.children.items()
        ]
        self.samples = [
            {"question": question, "picture": self._thumbnail(image)}
            for image, question in self._scenes
        ]
        session.observe(self._written, ["tokens", "busy"])
        session.observe(lambda _: self._tell(), "messages")
        self._tell()

    # What the browser has done ------------------------------------------------------------------

    def do_ask(
        self, *pictures: Any, text: str, pages: Sequence[Mapping[str, int]] = (), new: bool = False
    ) -> None:
        """Ask, or queue the question while an answer is written.

        Arguments:
            pictures: the bytes of files that were dropped, pasted or picked.
            pages: {"document", "page"} of PDFs that `do_open` knows; they come after the pictures.
            new: begin a new conversation with it.
        """
        if not text.strip():
            raise ValueError("the question is empty: write one")
        images: list[Any] = [bytes(picture) for picture in pictures]
        images += [self._page(page["document"], page["page"]) for page in pages]
        self._queue(text, images, new)

    def do_try(self, number: int) -> None:
        """Ask one of the samples, in a new conversation."""
        image, question = self._scenes[number]
        self._queue(question, [image], True)

    def do_new(self) -> None:
        """Begin a new conversation; what waits is let go."""
        self._turns.clear()
        self._show_waiting()
        if self.session is not None:
            self.session.reset()

    def do_next(self) -> None:
        """Ask what waits: after an answer that failed it does not go on by itself."""
        self._next()

    def do_withdraw(self, number: int) -> None:
        """Take back a question that waits."""
        if 0 <= number < len(self._turns):
            del self._turns[number]
            self._show_waiting()

    def do_open(self, file: Any) -> dict[str, int]:
        """Open a PDF: {"document", "pages"}, for `do_leaf` and `do_ask`."""
        data = bytes(file)
        pages = len(page_numbers(data, "the PDF"))
        number = len(self._documents)
        self._documents[number] = data
        return {"document": number, "pages": pages}

    def do_leaf(self, document: int, page: int) -> dict[str, Any]:
        """One page of a PDF in small, pages counted from one: {"mime", "file"}."""
        return _small(self._page(document, page, LEAF_OPTIONS))

    def do_page(self) -> dict[str, str]:
        """The whole studio as a page to save."""
        return {"html": self.to_html()}

    def _page(self, document: int, page: int, options: px.ImageOptions | None = None) -> Any:
        vision = self.session.config.vision if self.session and self.session.config else None
        if document not in self._documents or vision is None:
            raise ValueError("this PDF is not open: drop it again")
        options = options or px.ImageOptions()
        data = self._documents[document]
        return open_pages(data, "the PDF", vision, options, str(page))[0][1]

    def _queue(self, text: str, images: Sequence[Any], new: bool) -> None:
        self._turns.append((text, images, new))
        self._next()

    def _next(self) -> None:
        """Ask what waits, if nothing is being answered."""
        session = self.session
        with self._turn:
            if session is not None and self._turns and not session.busy:
                text, images, new = self._turns.popleft()
                session.ask(
                    text, images, follow_up=not new, temperature=self.temperature,
                    top_p=self.top_p, max_tokens=self.max_tokens, seed=self.seed,
                )  # fmt: skip
        self._show_waiting()

    def _show_waiting(self) -> None:
        self.waiting = [
            {"role": "user", "text": text, "pictures": self._thumbnails_of(images)}
            for text, images, _ in self._turns
        ]

    # What the browser sees ----------------------------------------------------------------------

    def _written(self, _: Any) -> None:
        session = self.session
        if session is not None:
            reply = session.reply
            self.writing = reply.text if session.busy and reply is not None else ""
            if not session.busy and not session.problem:
                self._next()

    def _tell(self) -> None:
        """Bring the conversation up to date."""
        messages = self.session.messages if self.session is not None else []
        self.chat = [self._shown(message) for message in messages]

    def _shown(self, message: Any) -> dict[str, Any]:
        content = message["content"]
        if isinstance(content, str):
            return {"role": message["role"], "text": content, "pictures": []}
        texts = [part["text"] for part in content if part["type"] == "text"]
        images = [part["image"] for part in content if part["type"] == "image"]
        return {
            "role": message["role"], "text": "\n".join(texts),
            "pictures": self._thumbnails_of(images),
        }  # fmt: skip

    def _thumbnails_of(self, images: Sequence[Any]) -> list[dict[str, Any]]:
        return [small for image in images if (small := self._thumbnail(image))]

    def _thumbnail(self, source: Any) -> dict[str, Any] | None:
        """A small copy, made once; None for what is no picture, which the answer will say."""
        kept = self._thumbnails.get(id(source))
        if kept is None or kept[0] is not source:
            try:
                kept = (source, _small(px.open_image(source)))
            except px.ImageError:
                return None
            self._thumbnails[id(source)] = kept
        return kept[1]

    def page_children(self) -> dict[str, View]:
        """The widgets in the tabs, by the name under which `panes` has them."""
        return {
            f"anywidget:{view.model_id}": view for views in self.children.values() for view in views
        }

    def to_html(
        self, path: "str | PathLike[str] | None" = None, *, heading: Sequence[str] = ()
    ) -> str:
        """One page, with every word of the answer for its stage; see `View.to_html`."""
        with self.lens.every_word():
            return super().to_html(path, heading=heading)

    def keep(self) -> None:
        """Also what the widgets in the tabs show."""
        super().keep()
        for view in self.page_children().values():
            view.keep()


def _small(image: Image.Image) -> dict[str, Any]:
    """{"mime", "file"} of a copy for the conversation."""
    file = io.BytesIO()
    shrunk(image, px.ImageOptions(), THUMBNAIL_SIDE).save(file, "PNG")
    return {"mime": "image/png", "file": file.getvalue()}


def _sample(seed: int, rows: int, columns: int, wanted: str) -> tuple[Image.Image, str]:
    """A scene and a question about it, given as its text or its kind."""
    made = scene(seed, rows, columns)
    texts = [question.text for question in made.questions if question.kind == wanted]
    return made.image, texts[0] if texts else wanted
