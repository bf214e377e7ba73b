"""`POST /v1/extract`: a document and a schema, answered by the row that the command would write."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, Any

from starlette.types import Send

from ..engine.reply import Piece, Reply
from ..errors import CapacityError, PromptError
from ..extraction.asking import Ask, Asking, advance
from ..extraction.documents import open_document
from ..extraction.extract import Reader, split_options
from ..extraction.options import ExtractionOptions
from ..extraction.reading import Outcome, Schema, as_schema
from ..extraction.ready_made import read_ready_made
from ..inputs.clients import detail_of, kind_of, source_of
from ..inputs.image_options import ImageOptions
from ..inputs.image_source import is_file, short_name
from .answers import Question, Service
from .refusals import Refusal, refusal_of
from .wire import Responding

if TYPE_CHECKING:
    from ..pixtral import Pixtral

_OWN = tuple(field.name for field in fields(ExtractionOptions) if field.name != "progress")
_ASKED = ("max_tokens", "temperature", "top_p", "top_k", "min_p", "seed")
_PICTURES = tuple(field.name for field in fields(ImageOptions) if field.name != "sources")
_ALLOWED = ("model", "schema", "sources", *_OWN, *_ASKED, *_PICTURES)


class ExtractRequest:
    """One request for the data of a document.

    Arguments:
        body: the fields that are not null.
        name: of the model, as other dialects answer it.

    Attributes:
        source: how the document is called.

    Raises:
        Refusal: a field has a value that is not allowed, or is not known: a misspelled option would
            be missing from the row without a word.
    """

    def __init__(self, body: Mapping[str, Any], name: str):
        for field in body:
            if field not in _ALLOWED:
                raise Refusal(
                    400, f"there is no field {short_name(field)!r}; allowed: {', '.join(_ALLOWED)}",
                    param=field[:100],
                )  # fmt: skip
        self._schema = _schema_of(body)
        self._sources, self.source = _sources_of(body)
        try:
            self._options, self._asked = split_options(
                {field: body[field] for field in (*_OWN, *_ASKED) if field in body}
            )
            self._pictures = {field: body[field] for field in _PICTURES if field in body}
            ImageOptions(**self._pictures)
        except (TypeError, ValueError) as error:
            about = str(error).partition(" ")[0]
            raise refusal_of(error, about if about in body else None) from error

    @staticmethod
    def error_body(refusal: Refusal) -> dict[str, Any]:
        """An error as OpenAI and Mistral write it."""
        return refusal.body()

    def begin(self, service: Service, model: "Pixtral") -> tuple[Reader, Asking[Outcome]]:
        """Open the document, and everything of it that has to be read, beside the model's thread.

        Raises:
            Refusal, ImageError: too many pages, one that cannot be read, or no room for even one.
        """
        pictures = ImageOptions(**self._pictures, sources=service.sources)
        check = service.check_pictures
        pages = open_document(self._sources, pictures, model.config.vision, check)
        for page in pages:
            _ = page.words  # which the model's thread would have to read
        reader = Reader(model, self._schema, pages, self._options, self._asked, pictures)
        try:
            return reader, reader.steps()
        except CapacityError as error:
            raise refusal_of(error, "sources") from error


class Extracting(Responding):
    """The response that asks the model one question about a document after another.

    Each waits for its turn like anybody's, so that other clients are answered in between.
    """

    def __init__(self, service: Service, request: ExtractRequest, route: str):
        super().__init__(service, request.error_body, route)
        self._request = request

    async def _work(self, send: Send) -> None:
        try:
            with self._service.visit():
                await self._write(send, await self._row())
        except Exception as error:
            await self._fail(send, error)

    async def _row(self) -> dict[str, Any]:
        service, request = self._service, self._request
        model = await service.host.model()
        reader, steps = await service.read(partial(request.begin, service, model))
        asked, reply = 0, None
        while isinstance(step := await self._advance(steps, reply), Ask):
            reply = await self._answer(step, reader.asked(step))
            asked += 1
            self._told = f", {asked:,} questions"
        return reader.extraction(step, request.source).row()

    async def _advance(self, steps: Asking[Outcome], reply: Reply | None) -> Ask | Outcome:
        found = self._service.host.worker.submit(lambda _: advance(steps, reply))
        return await asyncio.wrap_future(found)

    async def _answer(self, ask: Ask, given: dict[str, Any]) -> Reply:
        question = Question(given.pop("messages"), pictures=given.pop("image_options"))
        question.options = given
        answers = await self._service.begin(question)
        try:
            async for _, item in answers.events():
                (reply,) = answers.replies
                if isinstance(item, Piece) and ask.stop is not None and ask.stop(reply):
                    answers.stop()
        finally:
            self._service.end(answers)
        return reply


def _schema_of(body: Mapping[str, Any]) -> Schema:
    """A schema as it was sent, or the one that comes with the package under this name."""
    stated = body.get("schema")
    if stated is None:
        raise Refusal(400, "schema is missing: give a JSON schema of an object", param="schema")
    try:
        return as_schema(read_ready_made(stated) if isinstance(stated, str) else stated)
    except Exception as error:
        raise refusal_of(error, "schema") from error


def _sources_of(body: Mapping[str, Any]) -> tuple[Sequence[Any], str]:
    """Where the files of the document are, and how it is called.

    Raises:
        Refusal: there is none, or something that is no file.
    """
    stated = body.get("sources")
    listed = [stated] if isinstance(stated, Mapping) else stated
    if not isinstance(listed, list) or not listed:
        raise Refusal(
            400,
            'sources must be a list of parts such as {"type": "image_url", "image_url": {"url": '
            "...}}, or one of them",
            param="sources",
        )
    try:
        found = [_source_of(part, f"sources[{i}]") for i, part in enumerate(listed)]
    except Exception as error:
        raise refusal_of(error, "sources") from error
    return [source for source, _ in found], ", ".join(name for _, name in found)


def _source_of(part: Any, where: str) -> tuple[Any, str]:
    kind = kind_of(part, "user", where)
    source = source_of(part, where) if kind == "image" else None
    if not is_file(source):
        raise PromptError(
            f"{where}: no file; allowed: image_url and file: give an address or data; what is said "
            "of the document goes into instructions"
        )
    if detail_of(part, where) == "low":
        raise PromptError(f"{where}: detail 'low'; allowed: image_budget, for all pages at once")
    return source, _name_of(part, source) or where


def _name_of(part: Mapping[str, Any], source: Any) -> str:
    """The name that a client gives a file, or its address; "" for data without a name."""
    inner = [part, *(each for each in part.values() if isinstance(each, Mapping))]
    named = (each.get(key) for each in inner for key in ("filename", "document_name"))
    name = next((name for name in named if isinstance(name, str) and name), None)
    is_address = isinstance(source, str) and source[:4].lower() == "http"
    return short_name(name or (source if is_address else ""))
