"""Listening for HTTP: a socket, and uvicorn on it with limits and without signals of its own."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from mesh.api.errors import GatewayError, PortInUse
from mesh.api.limits import MAX_HEAD_BYTES, Limits

BACKLOG = 512
SHUTDOWN_MARGIN_S = 5.0
CLOSE_S = 1.0
"""How long a server without answers of its own to finish has to close its connections."""


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 takes a free one. Raises GatewayError or PortInUse."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise GatewayError(f"cannot listen on {host}: {error.strerror}") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise PortInUse(f"cannot listen on {host} port {port}: {error.strerror}") from None
    return listener


def make_url(host: str, listener: socket.socket) -> str:
    """Return where the socket answers."""
    port = listener.getsockname()[1]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def make_server(app: ASGIApp, limits: Limits, *, has_lifespan: bool) -> uvicorn.Server:
    """Return a server of ``app`` that is not started yet."""
    config = uvicorn.Config(
        app,
        http=_make_protocol(limits),
        ws="none",
        lifespan="on" if has_lifespan else "off",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=round(limits.keep_alive_s),
        timeout_graceful_shutdown=round(limits.drain_s + SHUTDOWN_MARGIN_S),
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
    )
    return _Server(config)


class _Server(uvicorn.Server):
    """uvicorn, which leaves signals to the process that runs it."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _make_protocol(limits: Limits) -> type[H11Protocol]:
    class LimitedProtocol(H11Protocol):
        """Drops connections beyond the limit, and those whose request head never ends."""

        head_deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > limits.max_connections:
                transport.abort()
                return
            self._await_head()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._stop_waiting()
            elif self.head_deadline is None:
                self._await_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(exc)

        def _await_head(self) -> None:
            self.head_deadline = self.loop.call_later(limits.head_timeout_s, self.transport.abort)

        def _stop_waiting(self) -> None:
            if self.head_deadline is not None:
                self.head_deadline.cancel()
                self.head_deadline = None

    return LimitedProtocol


async def wait_until_started(server: uvicorn.Server, serving: asyncio.Task[Any]) -> None:
    """Wait until the server answers. Raises what ended it instead, or GatewayError."""
    while not server.started:
        if serving.done():
            serving.result()
            raise GatewayError("the server did not start")
        await asyncio.sleep(0.01)


@asynccontextmanager
async def run_app(app: ASGIApp, *, host: str, port: int, limits: Limits) -> AsyncIterator[str]:
    """Answer with an app without a lifespan while the block runs; gives the URL.

    Port 0 takes a free one. Raises GatewayError or PortInUse.
    """
    listener = listen(host, port)
    server = make_server(app, limits, has_lifespan=False)
    try:
        async with asyncio.TaskGroup() as tasks:
            serving = tasks.create_task(server.serve(sockets=[listener]))
            try:
                await wait_until_started(server, serving)
                yield make_url(host, listener)
            finally:
                server.should_exit = True
                await asyncio.wait([serving], timeout=CLOSE_S)
                serving.cancel()
    except ExceptionGroup as group:
        # The caller's own error comes back to it as it was.
        if len(group.exceptions) == 1:
            raise group.exceptions[0] from None
        raise
