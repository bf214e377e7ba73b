"""The application: routes, and what becomes of what they cannot answer."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .answers import Service
from .anthropic import MessagesRequest
from .bodies import Bodies
from .chat import ChatRequest
from .completions import CompletionRequest
from .extract import Extracting, ExtractRequest
from .guard import Guard
from .host import ModelHost
from .metrics import Metrics
from .ocr import OcrRequest, Transcribing
from .ollama import OllamaChat, OllamaGenerate, show, tags
from .options import ServerOptions
from .page import page
from .refusals import Refusal, refusal_of
from .responses import ResponsesRequest
from .wire import Answering, Dialect, Responding, read_json, refused

log = logging.getLogger(__name__)

DIALECTS: dict[str, type[Dialect] | type[OcrRequest] | type[ExtractRequest]] = {
    "/v1/chat/completions": ChatRequest,
    "/v1/responses": ResponsesRequest,
    "/v1/completions": CompletionRequest,
    "/v1/ocr": OcrRequest,
    "/v1/extract": ExtractRequest,
    "/v1/messages": MessagesRequest,
    "/api/chat": OllamaChat,
    "/api/generate": OllamaGenerate,
}
"""{path: what reads its requests}."""

RESPONSES: dict[Any, type[Responding]] = {OcrRequest: Transcribing, ExtractRequest: Extracting}
"""{what reads requests: what answers them}; the model's one answer answers all others."""


def build_app(source: str, options: ServerOptions, dtype: Any = None) -> Starlette:
    """The application of one server; `app.state.service` answers.

    Arguments:
        source, dtype: as for `px.load`.
    """
    host = ModelHost(source, options, dtype)
    service = Service(host, options, Metrics())

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        opening = asyncio.create_task(host.open())
        opening.add_done_callback(_told)
        idle = asyncio.create_task(host.close_when_idle())
        yield
        opening.cancel()
        idle.cancel()
        await host.close()

    app = Starlette(
        routes=[*_dialects(service), *_models(service), *_state(service)],
        middleware=[
            Middleware(Guard, options=options, refused=_refused),
            Middleware(Bodies, options=options),
        ],
        exception_handlers={
            Refusal: _refusal,
            HTTPException: _http_error,
            Exception: _unexpected,
        },
        lifespan=lifespan,
    )
    app.state.service = service
    return app


def _told(opening: "asyncio.Task[Any]") -> None:
    """Somebody has looked at what opening raised; whoever serves says it, and so do requests."""
    if not opening.cancelled():
        opening.exception()


def _dialects(service: Service) -> list[Route]:
    def route(path: str, dialect: Any) -> Route:
        async def answer(request: Request) -> Response:
            body = await read_json(request, service.options.body_bytes)
            await service.host.model()
            name = service.host.check_name(body.get("model"))
            responding: Any = RESPONSES.get(dialect, Answering)
            return responding(service, dialect(body, name), path)

        return Route(path, answer, methods=["POST"])

    return [route(path, dialect) for path, dialect in DIALECTS.items()]


def _models(service: Service) -> list[Route]:
    async def models(_: Request) -> Response:
        return JSONResponse({"object": "list", "data": await service.host.described_all()})

    async def model(request: Request) -> Response:
        config = (await service.host.model()).config
        name = service.host.check_name(request.path_params["name"])
        context = config.text.max_seq_len
        return JSONResponse(service.host.described(name, config.vision is not None, context))

    async def ollama_tags(_: Request) -> Response:
        await service.host.model()
        return JSONResponse(tags(service.host.names))

    async def ollama_show(request: Request) -> Response:
        body = await read_json(request, service.options.body_bytes)
        service.host.check_name(body.get("model", body.get("name")))
        config = (await service.host.model()).config
        return JSONResponse(show(config.text.max_seq_len, config.vision is not None))

    return [
        Route("/v1/models", models),
        Route("/v1/models/{name:path}", model),
        Route("/api/tags", ollama_tags),
        Route("/api/show", ollama_show, methods=["POST"]),
    ]


def _state(service: Service) -> list[Route]:
    async def health(_: Request) -> Response:
        if service.host.ready or service.host.asleep:
            return JSONResponse({"status": "OK"})
        return JSONResponse({"status": "loading"}, 503, {"retry-after": "5"})

    async def metrics(_: Request) -> Response:
        text = service.metrics.text(service.host.kept_bytes)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def people(_: Request) -> Response:
        return page()

    return [Route("/", people), Route("/health", health), Route("/metrics", metrics)]


async def _refusal(request: Request, error: Exception) -> Response:
    return _counted(request, refusal_of(error))


async def _http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    path = request.url.path[:200]
    said = {
        404: f"there is nothing at {path}; allowed: {', '.join((*DIALECTS, '/v1/models'))}",
        405: f"{request.method} is not for {path}; allowed: "
        f"{(getattr(error, 'headers', None) or {}).get('Allow', 'another method')}",
    }
    return _counted(request, Refusal(status, said.get(status, f"{path}: HTTP {status}")))


async def _unexpected(request: Request, error: Exception) -> Response:
    log.debug("%s failed", request.url.path, exc_info=error)
    return _counted(request, refusal_of(error))


def _counted(request: Request, refusal: Refusal) -> Response:
    metrics = request.app.state.service.metrics
    metrics.errors.labels(refusal.code or refusal.kind).inc()
    metrics.requests.labels(_route_of(request), str(refusal.status)).inc()
    route = _route_of(request)
    log.info("%s %s: %d %s", request.method, route, refusal.status, refusal.message)
    return _refused(request.url.path, refusal)


def _refused(path: str, refusal: Refusal) -> Response:
    """A refusal in the shape of those who ask there."""
    usual = OllamaChat if path.startswith("/api/") else ChatRequest
    return refused(refusal, DIALECTS.get(path, usual).error_body(refusal))


def _route_of(request: Request) -> str:
    """The path, if it is one of ours: others would be counted without end."""
    path = request.url.path
    return path if path in DIALECTS else "other"
