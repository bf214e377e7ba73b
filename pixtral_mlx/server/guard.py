"""Who may ask: hosts, origins, keys; and connections that say nothing."""

import hmac
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .options import ServerOptions
from .refusals import Refusal

OPEN = ("/", "/health")
"""What anybody may see who reaches this server: the page, which asks for the key, and whether it is
ready."""
LOCAL_HOSTS = {"localhost", "127.0.0.1", "::1"}

HEAD_SECONDS = 20.0
"""In which the head of a request must have come."""
HEAD_BYTES = 32_768

_METHODS = b"GET, POST, DELETE, OPTIONS"
_HEADERS = b"authorization, content-type, x-api-key, anthropic-version"


class Guard:
    """Stands before the application.

    A page of another site that a browser shows can send requests here: so the name under which this
    machine is asked (`Host`, against DNS rebinding) and the page that asks (`Origin`) are checked
    before anything is read. Where there is a key, everything but `OPEN` needs it.

    Arguments:
        refused: a refusal as a response, for the path that was asked.
    """

    def __init__(
        self, app: ASGIApp, options: ServerOptions, refused: Callable[[str, Refusal], Response]
    ):
        self._app, self._options, self._refused = app, options, refused
        self._hosts = {host.lower() for host in options.allow_host}
        if options.is_local:
            self._hosts |= LOCAL_HOSTS | {options.host.lower()}
        self._key = (options.api_key or "").encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin = headers.get("origin", "")
        reply = send
        try:
            self._check_head(headers)
            self._check_host(headers.get("host", ""))
            named = self._check_origin(origin, headers.get("host", ""), scope["scheme"])
            reply = self._with_origin(send, origin) if named else send  # refusals too
            if named and scope["method"] == "OPTIONS":
                await reply({"type": "http.response.start", "status": 204, "headers": []})
                await reply({"type": "http.response.body", "body": b""})
                return
            if scope["path"] not in OPEN:
                self._check_key(headers)
            self._check_length(headers.get("content-length", "0"))
        except Refusal as refusal:
            await self._refused(scope["path"], refusal)(scope, receive, reply)
            return
        await self._app(scope, receive, reply)

    def _check_host(self, host: str) -> None:
        name = _host_name(host)
        if self._hosts and name not in self._hosts:
            raise Refusal(
                403,
                f"this server is not called {name[:100]!r}; allowed: "
                f"{', '.join(sorted(self._hosts))} (more with --allow-host)",
                code="host_not_allowed",
            )

    def _check_origin(self, origin: str, host: str, scheme: str) -> bool:
        """Whether the page that asks is one of another origin that may."""
        if not origin or origin.lower() == f"{scheme}://{host}".lower():
            return False
        allowed = self._options.allow_origin
        if origin in allowed or "*" in allowed:
            return True
        raise Refusal(
            403,
            f"a page of {origin[:100]!r} may not ask this server; allowed: "
            f"{', '.join((f'{scheme}://{host}', *allowed))} (more with --allow-origin)",
            code="origin_not_allowed",
        )

    def _check_key(self, headers: Headers) -> None:
        if not self._key:
            return
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer":
            given = headers.get("x-api-key", "")
        if not hmac.compare_digest(given.strip().encode("latin-1", "replace"), self._key):
            raise Refusal(
                401,
                "no key, or a wrong one: send it as Authorization: Bearer KEY",
                code="invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )

    def _check_head(self, headers: Headers) -> None:
        size = sum(len(name) + len(value) for name, value in headers.raw)
        if size > HEAD_BYTES:
            raise Refusal(431, f"the headers have {size:,} bytes; allowed: {HEAD_BYTES:,}")

    def _check_length(self, length: str) -> None:
        most = self._options.body_bytes
        if length.isdecimal() and int(length[:20]) > most:
            raise Refusal(
                413,
                f"the request has {int(length[:20]) / 1e6:,.1f} MB; allowed: {most / 1e6:g} MB "
                "(--max-body)",
                code="request_too_large",
            )

    def _with_origin(self, send: Send, origin: str) -> Send:
        """Tell the browser that the page may read the answer."""

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *_cors(origin)]}
            await send(message)

        return told


def _cors(origin: str) -> list[tuple[bytes, bytes]]:
    return [
        (b"access-control-allow-origin", origin.encode("latin-1", "replace")),
        (b"access-control-allow-methods", _METHODS),
        (b"access-control-allow-headers", _HEADERS),
        (b"vary", b"Origin"),
    ]


def _host_name(host: str) -> str:
    """The name in a Host header, without its port."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return host


def patient_protocol() -> Any:
    """Uvicorn's protocol, which ends connections that do not get a request together."""
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class PatientProtocol(H11Protocol):
        """Closes a connection whose request's head does not come within `HEAD_SECONDS`."""

        _timer: Any = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._timer = self.loop.call_later(HEAD_SECONDS, self._close_if_silent)

        def data_received(self, data: bytes) -> None:
            if self.cycle is not None and self.cycle.response_complete and self._timer is None:
                self._timer = self.loop.call_later(HEAD_SECONDS, self._close_if_silent)
            before = self.cycle
            super().data_received(data)
            if self.cycle is not before and self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def connection_lost(self, exc: Exception | None) -> None:
            if self._timer is not None:
                self._timer.cancel()
            super().connection_lost(exc)

        def _close_if_silent(self) -> None:
            self._timer = None
            if self.cycle is None or self.cycle.response_complete:
                self.transport.close()

    return PatientProtocol
