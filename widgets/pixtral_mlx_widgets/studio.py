"""`Studio`: ask, watch and look inside on one screen, without writing code."""

import io
from collections.abc import Sequence
from typing import Any

import traitlets
from PIL import Image

import pixtral_mlx as px
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
    ("Answer", (AnswerLens,)), ("Image tokens", (PatchGrid, SequenceStrip)),
    ("Attention", (VisionAttention,)), ("Masks and positions", (MaskView, RopeExplorer)),
    ("Ablation", (Ablation,)), ("Memory", (MemoryView,)), ("Quantization", (QuantizationView,)),
)  # fmt: skip
"""The tabs at the right, and the widgets in them."""

SAMPLES = ((11, 3, 4, "Describe the picture."), (3, 4, 5, "What does it say?"), (29, 2, 5, "rows"))
"""Scenes to try: seed, rows, columns, and the question or its kind."""

THUMBNAIL_SIDE = 160
PREVIEW_SIDE = 96


class Studio(View):
    """Everything on one screen: drop, paste or pick pictures, ask, watch the answer being written,
    look inside, save.

    >>> Studio("mini")
    >>> Studio(session)

    Arguments:
        source: a `Session`, or what `Session` takes as a model.

    Traits:
        chat: [{"role", "text", "pictures": [{"mime", "file"}]}] so far.
        writing: the answer that is being written; empty when there is none.
        temperature, top_p, max_tokens, seed: of the next answer; seed None is another every time.
        tab: the title of the open tab.
    """

    name = "studio"
    chat = traitlets.List().tag(sync=True)
    writing = traitlets.Unicode("").tag(sync=True)
    samples = traitlets.List().tag(sync=True)
    panes = traitlets.List().tag(sync=True)
    tab = traitlets.Unicode(PANES[0][0]).tag(sync=True)
    temperature = traitlets.Float(0.0, min=0.0, max=2.0).tag(sync=True)
    top_p = traitlets.Float(1.0, min=0.0, max=1.0).tag(sync=True)
    max_tokens = traitlets.Int(256, min=1).tag(sync=True)
    seed = traitlets.Int(None, allow_none=True).tag(sync=True)

    def __init__(self, source: Any = "mini", model: Any = None, **options: Any):
        session = source if isinstance(source, Session) else Session(model or source)
        self._scenes = [_sample(*sample) for sample in SAMPLES]
        self._thumbnails: dict[int, tuple[Any, dict[str, Any]]] = {}
        super().__init__(session, **options)
        self.children = {title: [kind(session) for kind in kinds] for title, kinds in PANES}
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

    def do_ask(self, *pictures: Any, text: str, follow_up: bool = False) -> None:
        """Ask about pictures that were dropped, pasted or picked: the bytes of their files."""
        if not text.strip():
            raise ValueError("the question is empty: write one")
        self._ask(text, [bytes(picture) for picture in pictures], follow_up)

    def do_try(self, number: int) -> None:
        """Ask one of the samples."""
        image, question = self._scenes[number]
        self._ask(question, [image], False)

    def do_page(self) -> dict[str, str]:
        """The whole studio as a page to save."""
        return {"html": self.to_html()}

    def _ask(self, text: str, images: Sequence[Any], follow_up: bool) -> None:
        if self.session is not None:
            self.session.ask(
                text, images, follow_up=follow_up, temperature=self.temperature,
                top_p=self.top_p, max_tokens=self.max_tokens, seed=self.seed,
            )  # fmt: skip

    # What the browser sees ----------------------------------------------------------------------

    def _written(self, _: Any) -> None:
        session = self.session
        if session is not None:
            reply = session.reply
            self.writing = reply.text if session.busy and reply is not None else ""

    def _tell(self) -> None:
        """Bring the conversation up to date."""
        messages = self.session.messages if self.session is not None else []
        self.chat = [self._shown(message) for message in messages]

    def _shown(self, message: Any) -> dict[str, Any]:
        content = message["content"]
        if isinstance(content, str):
            return {"role": message["role"], "text": content, "pictures": []}
        texts = [part["text"] for part in content if part["type"] == "text"]
        pictures = [self._thumbnail(p["image"]) for p in content if p["type"] == "image"]
        return {
            "role": message["role"], "text": "\n".join(texts),
            "pictures": [picture for picture in pictures if picture],
        }  # fmt: skip

    def _thumbnail(self, source: Any) -> dict[str, Any] | None:
        """A small copy, made once; None for what is no picture, which the answer will say."""
        kept = self._thumbnails.get(id(source))
        if kept is None or kept[0] is not source:
            try:
                image = px.open_image(source).convert("RGB")
            except px.ImageError:
                return None
            image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.LANCZOS)
            file = io.BytesIO()
            image.save(file, "PNG")
            kept = (source, {"mime": "image/png", "file": file.getvalue()})
            self._thumbnails[id(source)] = kept
        return kept[1]

    def page_children(self) -> dict[str, View]:
        """The widgets in the tabs, by the name under which `panes` has them."""
        return {
            f"anywidget:{view.model_id}": view for views in self.children.values() for view in views
        }

    def keep(self) -> None:
        """Also what the widgets in the tabs show."""
        super().keep()
        for view in self.page_children().values():
            view.keep()


def _sample(seed: int, rows: int, columns: int, wanted: str) -> tuple[Image.Image, str]:
    """A scene and a question about it, given as its text or its kind."""
    made = scene(seed, rows, columns)
    texts = [question.text for question in made.questions if question.kind == wanted]
    return made.image, texts[0] if texts else wanted
