"""`extract`: a model, a document and a schema; out come data that can be checked."""

import logging
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from ..engine.generate import GenerationStream
from ..engine.options import GenerationOptions
from ..engine.reply import Reply
from ..errors import CapacityError
from ..inputs.image_options import ImageOptions
from ..pixtral import Pixtral
from .asking import Ask, Asking, advance
from .documents import Page, name_of, open_document
from .leaves import leaves
from .options import ExtractionOptions
from .passes import FIRST_TOKENS_MOST, Passes
from .reading import Outcome, Schema, as_schema, is_news, read_document
from .result import Extraction

OPTIONS = (
    "max_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "prefill_step_size", "kv_bits",
    "kv_group_size", "force", "reuse",
)  # fmt: skip
"""Of a generation, those that an extraction takes too."""

log = logging.getLogger(__name__)


def extract(
    model: Pixtral,
    sources: Any,
    schema: Any,
    *,
    instructions: str = "",
    double_check: bool = True,
    min_confidence: float = 0.9,
    image_options: ImageOptions | None = None,
    **options: Any,
) -> Extraction:
    """Read one document into data, and say of every value where it stands and how sure it is.

    Arguments:
        model: what `px.load` gives.
        sources: an image, a PDF, or a list of them that are one document.
        schema: a JSON schema of an object, with `x-question`, `x-present` and `x-checks` (see
            `leaves`), or a pydantic class.
        instructions, double_check, min_confidence: see `ExtractionOptions`.
        image_options: how pictures are prepared; it also has the password of a PDF.
        options: the others of `ExtractionOptions`; and of `GenerationOptions` `max_tokens` (of the
            first pass), `temperature`, `seed` and what memory they may take.

    Raises:
        TypeError, ValueError: an option that is not known or out of range.
        FormError: the schema cannot be enforced, or nothing came out that is valid under it.
        PromptError, ImageError: the document cannot be read.
        CapacityError: not even one page has room.
    """
    chosen, asked = split_options(
        {**options, "instructions": instructions, "double_check": double_check,
         "min_confidence": min_confidence}
    )  # fmt: skip
    checked, pictures = as_schema(schema), image_options or ImageOptions()
    pages = open_document(sources, pictures, model.config.vision)
    reader = Reader(model, checked, pages, chosen, asked, pictures)
    steps, reply, done = reader.steps(), None, 0
    while isinstance(step := advance(steps, reply), Ask):
        reply = reader.answer(step)
        done += 1
        if chosen.progress is not None:
            chosen.progress(done, done)
    return reader.extraction(step, name_of(sources))


def split_options(given: dict[str, Any]) -> tuple[ExtractionOptions, dict[str, Any]]:
    """Those of an extraction, and those of its answers.

    Raises:
        TypeError: no such option.
        ValueError: a value out of range.
    """
    own = {field.name for field in fields(ExtractionOptions)}
    for name in given:
        if name not in own and name not in OPTIONS:
            allowed = ", ".join(sorted({*own, *OPTIONS, "image_options"}))
            raise TypeError(f"extract has no option {name!r}; allowed: {allowed}")
    asked = {name: value for name, value in given.items() if name in OPTIONS}
    GenerationOptions(**asked)
    return ExtractionOptions(**{n: v for n, v in given.items() if n in own}), asked


class Reader:
    """Answers the questions about one document.

    Arguments:
        asked: options of each answer.
        pictures: how pages are prepared.
    """

    def __init__(
        self,
        model: Pixtral,
        schema: Schema,
        pages: Sequence[Page],
        options: ExtractionOptions,
        asked: dict[str, Any],
        pictures: ImageOptions,
    ):
        self._model, self._schema, self._pages = model, schema, pages
        self._options, self._asked, self._pictures = options, dict(asked), pictures
        self._max_tokens = self._asked.pop("max_tokens", None) or FIRST_TOKENS_MOST

    def steps(self) -> Asking[Outcome]:
        """All questions about the document; what `parts` raises is raised here.

        It computes nothing, and prepares pictures: it may run beside the model's thread.
        """
        return read_document(
            self._schema, self.parts(), self._options, max_tokens=self._max_tokens, note=self.note
        )

    def parts(self) -> list[Sequence[Page]]:
        """The pages, as many at a time as `pages_at_once` says, or as there is room for.

        Raises:
            CapacityError: not even one has room.
        """
        size = min(self._options.pages_at_once or len(self._pages), len(self._pages))
        while True:
            parts = [self._pages[i : i + size] for i in range(0, len(self._pages), size)]
            try:
                self._stream(self._longest_ask(parts))
                return parts
            except CapacityError:
                if size == 1 or self._options.pages_at_once:
                    raise
                size = (size + 1) // 2

    def _longest_ask(self, parts: Sequence[Sequence[Page]]) -> Ask:
        """The question about the first part that has most words: that of the first pass, which has
        the schema in it, where there is one."""
        root = self._schema.root
        if not self._options.one_by_one:
            return Passes(root, parts, max_tokens=self._max_tokens).first_ask(parts[0])
        asked = (leaf.presence_question[0] for leaf, _ in leaves(root))
        return Ask(max(asked, key=len, default=""), parts[0])

    def answer(self, ask: Ask) -> Reply:
        """The answer to one question."""
        stream = self._stream(ask)
        for _ in stream:
            if ask.stop is not None and ask.stop(stream.reply):
                stream.interrupt()
                break
        return stream.reply

    def note(self, said: str) -> None:
        """Say it once of each model."""
        if is_news(self._model.name, said):
            log.warning("%s: %s", self._model.name, said)

    def asked(self, ask: Ask) -> dict[str, Any]:
        """A question as the arguments of `model.stream`, by name."""
        return {
            "messages": ask.messages(self._options.instructions),
            "image_options": ask.image_options(self._pictures, self._model.config.vision),
            **self._asked,
            **ask.options(),
        }

    def extraction(self, found: Outcome, source: str) -> Extraction:
        """What came of the questions.

        Arguments:
            source: how the document is called.
        """
        return Extraction(
            found.data, found.fields, found.reasons, tuple(self._pages), found.one_by_one, source,
            found.seconds, self._schema.root,
        )  # fmt: skip

    def _stream(self, ask: Ask) -> GenerationStream:
        return self._model.stream(**self.asked(ask))
