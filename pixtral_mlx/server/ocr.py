"""`POST /v1/ocr`: a document as Mistral's clients send it, transcribed one page after another."""

import re
from collections.abc import Mapping
from typing import Any

from PIL import Image
from starlette.types import Send

from ..checks import is_whole
from ..errors import PromptError
from ..inputs.clients import kind_of, source_of
from ..inputs.image import decode_image
from ..inputs.image_options import ImageOptions
from ..inputs.image_source import is_file, read_source
from ..inputs.page_choice import split_choice
from ..inputs.pages import has_pages, open_pages, page_numbers
from ..inputs.sources import Sources
from ..model.config import VisionConfig
from ..model.vision_language_model import NO_VISION
from .answers import Question, Service
from .fields import flag, note_unknown
from .refusals import Refusal
from .wire import Responding

TASK = (
    "Transcribe this page as Markdown: all of its text in reading order, with its headings, lists "
    "and tables. Write nothing else."
)
MOST_TOKENS = 8192
"""Of a page: a full one has about a thousand words, and some are repeated without end."""
USUAL_DPI = 72
"""Of a picture that states none."""

_RANGE = re.compile(r"(\d{1,4})(?:-(\d{1,4}))?", re.ASCII)
_LONGEST_CHOICE = 1000

_KNOWN = {
    "model", "document", "pages", "include_image_base64", "image_limit", "image_min_size",
    "include_blocks",
}  # fmt: skip
"""Those about the pictures and blocks of a page have nothing to act on: none are cut out."""
_NOT_HERE = (
    "bbox_annotation_format", "document_annotation_format", "document_annotation_prompt",
    "confidence_scores_granularity", "extract_header", "extract_footer", "table_format",
)  # fmt: skip


class OcrRequest:
    """One request for the text of a document.

    Arguments:
        body: the fields that are not null.
        name: of the model, as the answer gives it.

    Attributes:
        document: as it was sent.
        pages: which ones, the first is 0; None is all.

    Raises:
        Refusal: a field has a value that is not allowed.
    """

    def __init__(self, body: Mapping[str, Any], name: str):
        note_unknown(body, {*_KNOWN, *_NOT_HERE})
        for field in _NOT_HERE:
            if body.get(field):
                raise Refusal(
                    400,
                    f"{field}: pages are transcribed whole here, tables among their text: leave it "
                    "out (/v1/chat/completions answers questions about a document)",
                    param=field,
                )
        flag(body, "include_image_base64")
        self.name = name
        document = body.get("document")
        if not isinstance(document, Mapping):
            raise Refusal(
                400,
                'document must be an object, such as {"type": "document_url", "document_url": ...}',
                param="document",
            )
        self.document: Mapping[str, Any] = document
        self.pages = _pages_of(body.get("pages"))

    @staticmethod
    def error_body(refusal: Refusal) -> dict[str, Any]:
        """An error as OpenAI and Mistral write it."""
        return refusal.body()


class Transcribing(Responding):
    """The response that asks the model about one page after another."""

    def __init__(self, service: Service, request: OcrRequest, route: str):
        super().__init__(service, request.error_body, route)
        self._request = request

    async def _work(self, send: Send) -> None:
        try:
            with self._service.visit():
                await self._write(send, await self._transcribed())
        except Exception as error:
            await self._fail(send, error)

    async def _transcribed(self) -> dict[str, Any]:
        service, request = self._service, self._request
        vision = (await service.host.model()).config.vision
        sent = request.document
        document = await service.read(lambda: Document(sent, service.sources, vision))
        numbers = document.chosen(request.pages)
        service.check_pictures(len(numbers))
        pages = [await self._page(Page(document, number)) for number in numbers]
        self._told = f", {len(pages)} pages"
        return {
            "pages": pages,
            "model": request.name,
            "usage_info": {"pages_processed": len(pages), "doc_size_bytes": document.size},
            "document_annotation": None,
        }

    async def _page(self, page: "Page") -> dict[str, Any]:
        answers = await self._service.begin(Question(page.question, {"max_tokens": MOST_TOKENS}))
        try:
            async for _ in answers.events():
                pass
        finally:
            self._service.end(answers)
        (reply,) = answers.replies
        cut = {} if reply.finish_reason == "stop" else {"finish_reason": reply.finish_reason}
        return {
            "index": page.number - 1,
            "markdown": reply.text,
            "images": [],
            "dimensions": page.dimensions,
            **cut,
        }


class Document:
    """A PDF, a TIFF or a picture, with pages that are opened one by one.

    Arguments:
        sent: as Mistral's clients send it: {"type": "document_url", "document_url": ...},
            {"type": "image_url", "image_url": ...}, or {"type": "file", ...} with its data.
        sources: where it may come from.
        vision: of the model.

    Attributes:
        numbers: of its pages, from 1 on.
        size: in bytes.

    Raises:
        PromptError: something else, or a model without a vision encoder.
        ImageError: it cannot be read.
    """

    def __init__(self, sent: Mapping[str, Any], sources: Sources, vision: VisionConfig | None):
        if vision is None:
            raise PromptError(NO_VISION)
        kind = kind_of(sent, "user", "document")
        source = source_of(sent, "document") if kind == "image" else None
        if not is_file(source):
            raise PromptError(
                f"document: type {sent.get('type')!r} without a file; allowed: document_url, "
                "image_url and file: give an address or data"
            )
        place, choice = split_choice(source)
        self._data, self._name = read_source(place, sources)
        self._vision, self._options = vision, ImageOptions(sources=sources)
        self.size = len(self._data)
        self._paged = has_pages(self._data, choice)
        self.numbers = page_numbers(self._data, self._name, choice) if self._paged else [1]

    def chosen(self, pages: list[int] | None) -> list[int]:
        """Numbers of the pages that are wanted, from 1 on.

        Arguments:
            pages: the first is 0; None is all.

        Raises:
            Refusal: one is not there.
        """
        if pages is None:
            return self.numbers
        for page in pages:
            if page + 1 not in self.numbers:
                first, last = min(self.numbers) - 1, max(self.numbers) - 1
                there = f"{first} to {last}" if last > first else f"{first}"
                text = f"pages names {page}; allowed: {there}; the first page is 0"
                raise Refusal(400, text, param="pages")
        return [page + 1 for page in pages]

    def open(self, number: int) -> Image.Image:
        """A page as a picture, upright.

        Raises:
            ImageError: it cannot be read, or is too large.
        """
        if not self._paged:
            return decode_image(self._data, self._name, self._options)
        choice = str(number)
        ((_, page),) = open_pages(self._data, self._name, self._vision, self._options, choice)
        return page


class Page:
    """One page of a document.

    Attributes:
        number: from 1 on.
        dimensions: of its picture, once the question has been made.
    """

    def __init__(self, document: Document, number: int):
        self._document, self.number = document, number
        self.dimensions: dict[str, int] = {}

    def question(self) -> list[dict[str, Any]]:
        """What the model is asked about it, as messages."""
        picture = self._document.open(self.number)
        dpi = round(_number(picture.info.get("dpi")))
        self.dimensions = {"dpi": dpi, "height": picture.height, "width": picture.width}
        parts = [{"type": "image", "image": picture}, {"type": "text", "text": TASK}]
        return [{"role": "user", "content": parts}]


def _number(stated: Any) -> float:
    """Pixels an inch of a picture that states (across, down), or nothing, or nonsense."""
    try:
        return found if 1 <= (found := float(stated[0])) < 1e6 else USUAL_DPI
    except (TypeError, ValueError, IndexError, ZeroDivisionError):
        return USUAL_DPI


def _pages_of(stated: Any) -> list[int] | None:
    """Pages by their index, from 0 on: a list, a number, or "0,2-4".

    Raises:
        Refusal: something else.
    """
    if stated is None:
        return None
    if isinstance(stated, str):
        ranges = [_RANGE.fullmatch(part.strip()) for part in stated[:_LONGEST_CHOICE].split(",")]
        found = [
            page
            for each in ranges
            if each is not None
            for page in range(int(each[1]), int(each[2] or each[1]) + 1)
        ]
        if None not in ranges and found and len(stated) <= _LONGEST_CHOICE:
            return list(dict.fromkeys(found))
    listed: list[Any] = stated if isinstance(stated, list) else [stated]
    if listed and all(is_whole(page) and page >= 0 for page in listed):
        return list(dict.fromkeys(listed))
    raise Refusal(
        400, f'pages must be a list of whole numbers from 0 on, or "0,2-4", got {stated!r:.100}',
        param="pages",
    )  # fmt: skip
