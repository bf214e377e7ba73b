"""Serving until a signal ends it."""

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import uvicorn

from ..errors import PixtralError
from .app import build_app
from .guard import patient_protocol
from .options import ServerOptions

FINISH_SECONDS = 10.0
"""After the first signal, answers that are being written have so long."""

log = logging.getLogger(__name__)


def serve(
    source: str,
    options: ServerOptions,
    *,
    dtype: Any = None,
    ready: Callable[[str], None],
    end_at_once: Callable[[], None],
) -> None:
    """Serve until SIGTERM or Ctrl-C: what runs is finished, what comes is refused.

    Arguments:
        source, dtype: as for `px.load`.
        ready: called with the address when the model can answer.
        end_at_once: called at a second signal.

    Raises:
        PixtralError: the address cannot be had, or the model cannot be opened.
    """
    listener = _listen(options)
    app = build_app(source, options, dtype)
    config = uvicorn.Config(
        app,
        http=patient_protocol(),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(FINISH_SECONDS) + 2,
        h11_max_incomplete_event_size=64 * 1024,
    )
    server = _Server(config, app.state.service, end_at_once)
    asyncio.run(server.serve_on(listener, lambda: ready(_address(listener, options))))


def _listen(options: ServerOptions) -> socket.socket:
    """The socket, bound before the model is opened, so that a wrong port costs no waiting."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            options.host, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(1024)
    except OSError as error:
        raise PixtralError(
            f"cannot listen on {options.host}, port {options.port} ({error.strerror or error}): "
            "choose another with --port"
        ) from error
    return listener


def _address(listener: socket.socket, options: ServerOptions) -> str:
    host = f"[{options.host}]" if ":" in options.host else options.host
    return f"http://{host}:{listener.getsockname()[1]}"


class _Server(uvicorn.Server):
    """Uvicorn's, with our own way to end."""

    def __init__(self, config: uvicorn.Config, service: Any, end_at_once: Callable[[], None]):
        super().__init__(config)
        self._service, self._end_at_once = service, end_at_once

    async def serve_on(self, listener: socket.socket, ready: Callable[[], None]) -> None:
        """Serve; `ready` is called when the model can answer.

        Raises:
            PixtralError: the model cannot be opened.
        """
        serving = asyncio.ensure_future(self.serve([listener]))
        opening = asyncio.ensure_future(self._service.host.open())
        await asyncio.wait({serving, opening}, return_when=asyncio.FIRST_COMPLETED)
        if opening.done() and not opening.cancelled():
            if (problem := opening.exception()) is not None:
                self.should_exit = True
                await serving
                raise problem
            ready()
        await serving
        opening.cancel()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal lets answers end; a second one does not."""
        if self.should_exit:
            self._end_at_once()
        self.should_exit = True
        self._service.closing.set()
        with contextlib.suppress(RuntimeError):
            loop = asyncio.get_running_loop()
            loop.call_later(FINISH_SECONDS, self._service.ended.set)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, but a server that a signal has ended has ended well."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)
