"""One question about some pages, and who answers it.

What a document is read by is written as generators that yield an `Ask` and get a `Reply`: `extract`
answers them one after another, and the server between other people's requests.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from ..engine.reply import Reply
from ..inputs.image_options import FEWEST_TOKENS, ImageOptions
from ..interpret.recorder import TraceOptions
from ..model.config import VisionConfig
from ..model.prompt import patch_grid
from .documents import Page, parts_of

T = TypeVar("T")
Asking = Generator["Ask", Reply, T]


def advance(steps: Asking[T], reply: Reply | None) -> "Ask | T":
    """The next question; what came of them all, where there is none. Only on the model's thread:
    where an answer looked is computed here.

    Arguments:
        reply: to the question before; None at the start.
    """
    try:
        return steps.send(reply)  # type: ignore[arg-type]
    except StopIteration as end:
        return end.value


@dataclass(frozen=True, eq=False)
class Ask:
    """A question.

    Arguments:
        question: in words.
        pages: that it is about.
        form: as `response_format`.
        max_tokens: of the answer.
        trace: whether it matters where the answer looked.
        smaller: show the pages at a lower resolution.
        seed: draw the answer with it, at temperature 1; None: as all answers are chosen.
        stop: ends the answer early, once it is true of what has been written.
    """

    question: str
    pages: Sequence[Page]
    form: Any = None
    max_tokens: int = 384
    trace: bool = True
    smaller: bool = False
    seed: int | None = None
    stop: Callable[[Reply], bool] | None = field(default=None)

    def messages(self, instructions: str) -> list[dict[str, Any]]:
        """What the model reads: the pages first, so that all questions about them begin alike,
        and each after its number where there are several."""
        text = f"{instructions}\n\n{self.question}" if instructions else self.question
        parts = [*parts_of(self.pages), {"type": "text", "text": text}]
        return [{"role": "user", "content": parts}]

    def options(self) -> dict[str, Any]:
        """What `generate` is told."""
        kept = TraceOptions(vision_layers=()) if self.trace else False
        drawn = {} if self.seed is None else {"temperature": 1.0, "seed": self.seed}
        return {"response_format": self.form, "max_tokens": self.max_tokens, "trace": kept, **drawn}

    def image_options(self, options: ImageOptions, vision: VisionConfig | None) -> ImageOptions:
        """How its pages are prepared for a model with this vision encoder."""
        if not self.smaller or vision is None:
            return options
        most = max(
            patch_grid(*page.picture.image.size, vision, options.image_budget).tokens
            for page in self.pages
        )
        return replace(options, image_budget=max(most // 2, FEWEST_TOKENS))
