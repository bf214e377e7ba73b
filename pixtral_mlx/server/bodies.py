"""What the bodies of all requests together may take in memory."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .options import ServerOptions
from .refusals import Refusal

TOGETHER = 10
"""So many of the largest bodies are held at once, those of requests that wait among them."""


class Bodies:
    """Stands before the application and counts the bytes that requests have sent.

    They count from when they come until the request has been answered. The request whose bytes are
    too many is refused, and what it has sent is free again; one alone always fits.
    """

    def __init__(self, app: ASGIApp, options: ServerOptions):
        self._app, self._most = app, TOGETHER * options.body_bytes
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through while there is room for its body."""
        own = 0

        async def counted() -> Message:
            nonlocal own
            message = await receive()
            size = len(message.get("body", b""))
            if self._held + size > self._most:
                raise self._refusal()
            own += size
            self._held += size
            return message

        try:
            await self._app(scope, counted, send)
        finally:
            self._held -= own

    def _refusal(self) -> Refusal:
        return Refusal(
            429,
            f"requests that are being answered hold {self._held / 1e6:,.1f} MB; allowed: "
            f"{self._most / 1e6:g} MB ({TOGETHER} times --max-body): try again in a few seconds",
            code="too_many_requests",
            headers={"retry-after": "5"},
        )
