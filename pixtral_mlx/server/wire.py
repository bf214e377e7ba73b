"""Requests off the wire and answers onto it, whatever the dialect."""

import asyncio
import json
import logging
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from typing import Any, Protocol

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from .answers import Answers, Question, Service
from .refusals import Refusal, refusal_of

PATIENCE = 10.0
"""Seconds in which a stream may still be refused with a status; later ones get an error event."""
PING_SECONDS = 5.0
BODY_SECONDS = 60.0
"""In which a body must have come."""

log = logging.getLogger(__name__)


class Dialect(Protocol):
    """One request in the words of one kind of client, and how its answer is written.

    Attributes:
        question: what is asked.
        streamed: whether the answer comes in pieces.
        media_type: of the stream.
        ping: what may be sent while nothing is there yet, or b"".
    """

    question: Question
    streamed: bool
    media_type: str
    ping: bytes

    def __init__(self, body: Mapping[str, Any], name: str):
        """Read a request whose fields are not null, for the model of that name."""
        ...

    def opening(self) -> bytes:
        """What a stream begins with, before the prompt is read."""
        ...

    def chunks(self, answers: Answers) -> AsyncIterator[bytes]:
        """The stream, to its end."""
        ...

    async def whole(self, answers: Answers) -> dict[str, Any]:
        """The answer in one."""
        ...

    def refused_event(self, refusal: Refusal) -> bytes:
        """An error in a stream that has begun."""
        ...

    @staticmethod
    def error_body(refusal: Refusal) -> dict[str, Any]:
        """An error before that."""
        ...


async def read_json(request: Request, most_bytes: int) -> dict[str, Any]:
    """The body of a request; null is as good as absent.

    Raises:
        Refusal: too large, too slow, or no JSON object.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                body += part
                if len(body) > most_bytes:
                    raise Refusal(
                        413,
                        f"the request has more than {most_bytes / 1e6:g} MB; allowed: "
                        f"{most_bytes / 1e6:g} MB (--max-body)",
                        code="request_too_large",
                    )
    except TimeoutError:
        raise Refusal(408, f"the request did not come within {BODY_SECONDS:g} s") from None
    except ClientDisconnect:
        raise Refusal(400, "the client left before its request had come") from None
    try:
        found = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        what = "is nested too deeply" if isinstance(error, RecursionError) else f"({error})"
        raise Refusal(400, f"the body is not JSON: {what}", code="invalid_json") from None
    if not isinstance(found, dict):
        raise Refusal(400, f"the body is {type(found).__name__}; allowed: a JSON object")
    return {name: value for name, value in found.items() if value is not None}


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def refused(refusal: Refusal, body: Mapping[str, Any] | None = None) -> Response:
    """An error as a response.

    Arguments:
        body: in a dialect's own shape; OpenAI's otherwise.
    """
    text = json.dumps(refusal.body() if body is None else body, ensure_ascii=False)
    headers = dict(refusal.headers)
    if refusal.status == 504:
        headers["x-should-retry"] = "false"  # it would take as long again
    return Response(text, refusal.status, headers, media_type="application/json")


def event(data: Mapping[str, Any], name: str = "") -> bytes:
    """A server-sent event."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(data, ensure_ascii=False)}\n\n".encode(errors="replace")


class Responding(Response, ABC):
    """A response that takes a while: it has a time limit, a line in the log, and stops when nobody
    listens.

    Arguments:
        error_body: how an error is written.
        route: of the request, for the log.
    """

    def __init__(
        self, service: Service, error_body: Callable[[Refusal], dict[str, Any]], route: str
    ):
        self._service, self._error_body, self._route = service, error_body, route
        self._id = f"req_{secrets.token_hex(8)}"
        self._began = time.monotonic()
        self._started = False
        self._status, self._told = 499, ""
        self.background = None
        self.body = b""
        self.status_code = 200

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, for as long as the client is there and time is left."""
        work = asyncio.ensure_future(self._work(send))
        gone = asyncio.ensure_future(_gone(receive))
        ended = asyncio.ensure_future(self._service.ended.wait())
        others = {gone, ended}
        try:
            await asyncio.wait(
                {work, *others},
                timeout=self._service.options.timeout,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if not work.done() and not gone.done():
                await _cancelled({work})
                await self._refuse(send, self._too_late(ended.done()))
        finally:
            await _cancelled({work, *others})
            self._note()

    def _too_late(self, ended: bool) -> Refusal:
        if ended:
            return Refusal(503, "the server was shut down meanwhile", code="shutting_down")
        seconds = self._service.options.timeout
        return Refusal(504, f"the answer took more than {seconds:g} s (--timeout)", code="timeout")

    @abstractmethod
    async def _work(self, send: Send) -> None:
        """Answer, or refuse."""

    def _late_refusal(self, refusal: Refusal) -> bytes:
        """What to write of an error where an answer has begun."""
        return b""

    async def _write(self, send: Send, answer: Mapping[str, Any]) -> None:
        """An answer in one."""
        await self._start(send, 200, "application/json")
        body = json.dumps(answer, ensure_ascii=False).encode(errors="replace")
        await send({"type": "http.response.body", "body": body})

    async def _fail(self, send: Send, error: Exception) -> None:
        """Something went wrong while it was answered."""
        if not isinstance(error, Refusal):
            log.debug("%s failed", self._id, exc_info=error)
        await self._refuse(send, refusal_of(error))

    async def _start(self, send: Send, status: int, media_type: str, **more: str) -> None:
        self._started, self._status = True, status
        headers = {
            "content-type": media_type, "x-request-id": self._id, "cache-control": "no-store",
            "x-accel-buffering": "no", **more,
        }  # fmt: skip
        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})

    async def _send(self, send: Send, chunk: bytes) -> None:
        if chunk:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def _refuse(self, send: Send, refusal: Refusal) -> None:
        """Say it, in the way that is left; a client that reads nothing is not waited for."""
        self._service.metrics.errors.labels(refusal.code or refusal.kind).inc()
        log.info("%s: %s", self._id, refusal.message)
        with suppress(TimeoutError):
            async with asyncio.timeout(1):
                if self._started:
                    await self._send(send, self._late_refusal(refusal))
                    await send({"type": "http.response.body", "body": b""})
                    return
                response = refused(refusal, self._error_body(refusal))
                headers = {
                    name.decode(): value.decode("latin-1")
                    for name, value in response.raw_headers
                    if name not in (b"content-type", b"content-length")
                }
                await self._start(send, refusal.status, "application/json", **headers)
                await send({"type": "http.response.body", "body": response.body})

    def _note(self) -> None:
        seconds = time.monotonic() - self._began
        status = str(self._status) if self._started else "the client left"
        self._service.metrics.requests.labels(self._route, str(self._status)).inc()
        log.info("%s %s: %s%s, %.1f s", self._id, self._route, status, self._told, seconds)


class Answering(Responding):
    """The response that asks the model and writes what comes."""

    def __init__(self, service: Service, dialect: Dialect, route: str):
        super().__init__(service, dialect.error_body, route)
        self._dialect = dialect

    async def _work(self, send: Send) -> None:
        question = self._dialect.question
        opening = asyncio.ensure_future(self._service.open(question))
        answers = None
        try:
            if self._dialect.streamed:
                await asyncio.wait({opening}, timeout=PATIENCE)
                if opening.done():
                    opening.result()  # raises what is to be a status
                await self._start(send, 200, self._dialect.media_type)
                await self._send(send, self._dialect.opening())
                answers = await self._patiently(send, opening)
                async for chunk in _pinged(self._dialect.chunks(answers), self._dialect.ping):
                    await self._send(send, chunk)
                await send({"type": "http.response.body", "body": b""})
            else:
                answers = await opening
                await self._write(send, await self._dialect.whole(answers))
        except Exception as error:
            await self._fail(send, error)
        finally:
            if answers is None and not opening.done():
                await _cancelled({opening})
            elif answers is None and not opening.cancelled() and opening.exception() is None:
                answers = opening.result()
            if answers is not None:
                self._told = _told(answers)
                self._service.close(answers, question)

    async def _patiently(self, send: Send, opening: "asyncio.Future[Answers]") -> Answers:
        """Wait for a place, saying that somebody is there."""
        while not (await asyncio.wait({opening}, timeout=PING_SECONDS))[0]:
            await self._send(send, self._dialect.ping)
        return opening.result()

    def _late_refusal(self, refusal: Refusal) -> bytes:
        return self._dialect.refused_event(refusal)


def _told(answers: Answers) -> str:
    """ ", 1,034 tokens in, 57 out"."""
    out = sum(reply.stats.generated_tokens for reply in answers.replies)
    return f", {len(answers.prompt.tokens):,} tokens in, {out:,} out"


async def _gone(receive: Receive) -> None:
    """Until the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cancelled(tasks: set["asyncio.Future[Any]"]) -> None:
    """Stop tasks and wait until they have."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _pinged(chunks: AsyncIterator[bytes], ping: bytes) -> AsyncIterator[bytes]:
    """The same chunks, and `ping` where none comes for a while."""
    while True:
        step = asyncio.ensure_future(anext(chunks))
        try:
            while not (await asyncio.wait({step}, timeout=PING_SECONDS))[0]:
                yield ping
            yield step.result()
        except StopAsyncIteration:
            return
        finally:
            await _cancelled({step})
