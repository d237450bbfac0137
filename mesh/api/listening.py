"""Listening for HTTP: a socket, and uvicorn on it with limits and without signals of its own."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from mesh.api.errors import AddressInUse, ApiError
from mesh.api.limits import MAX_HEAD_BYTES, Limits

BACKLOG = 512
MIN_TAKEN_BYTES = 4 << 10
"""A reader takes at least so much of what waits for it within the time limit, or is dropped."""
NO_LINGER = struct.pack("ii", 1, 0)
SEND_BUFFER_BYTES = 256 << 10
"""The system's own buffer of one connection, which it otherwise lets grow to megabytes."""
SHUTDOWN_MARGIN_S = 5.0
CLOSE_S = 1.0
"""How long a server without answers of its own to finish has to close its connections."""


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 takes a free one. Raises ApiError or AddressInUse."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ApiError(f"cannot listen on {host}: {error.strerror}") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Accepted sockets inherit it: what a reader does not take waits in little memory.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise AddressInUse(f"cannot listen on {host} port {port}: {error.strerror}") from None
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
        """Drops connections beyond the limit, those whose request head never ends, and those whose
        reader takes nothing.
        """

        head_deadline: asyncio.TimerHandle | None = None
        write_deadline: asyncio.TimerHandle | None = None
        unsent_bytes: int | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > limits.max_connections:
                transport.abort()
                return
            self._await_head()
            self._watch_writes()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._stop_waiting()
            elif self.head_deadline is None:
                self._await_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            if self.write_deadline is not None:
                self.write_deadline.cancel()
                self.write_deadline = None
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._watch_writes()

        def resume_writing(self) -> None:
            super().resume_writing()
            self._watch_writes()

        def _await_head(self) -> None:
            self.head_deadline = self.loop.call_later(limits.head_timeout_s, self.transport.abort)

        def _stop_waiting(self) -> None:
            if self.head_deadline is not None:
                self.head_deadline.cancel()
                self.head_deadline = None

        def _watch_writes(self) -> None:
            """Look in ``send_timeout_s``, counted from now, whether the reader takes anything."""
            if self.write_deadline is not None:
                self.write_deadline.cancel()
            self.unsent_bytes = self._count_unsent()
            self.write_deadline = self.loop.call_later(limits.send_timeout_s, self._check_writes)

        def _count_unsent(self) -> int | None:
            """Return what the reader has left; None where it is not waited for."""
            is_awaited = self.flow.write_paused or self.transport.is_closing()
            return self.transport.get_write_buffer_size() if is_awaited else None

        def _check_writes(self) -> None:
            unsent, before = self._count_unsent(), self.unsent_bytes
            if unsent is None or before is None or before - unsent >= MIN_TAKEN_BYTES:
                self._watch_writes()
            else:
                _drop(self.transport)

    return LimitedProtocol


def _drop(transport: asyncio.Transport) -> None:
    """Reset a connection, so that neither this process nor the system keeps what is unsent."""
    connected = transport.get_extra_info("socket")
    if connected is not None:
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
    transport.abort()


async def wait_until_started(server: uvicorn.Server, serving: asyncio.Task[Any]) -> None:
    """Wait until the server answers. Raises what ended it instead, or ApiError."""
    while not server.started:
        if serving.done():
            serving.result()
            raise ApiError("the server did not start")
        await asyncio.sleep(0.01)


@asynccontextmanager
async def run_app(app: ASGIApp, *, host: str, port: int, limits: Limits) -> AsyncIterator[str]:
    """Answer with an app without a lifespan while the block runs; gives the URL.

    Port 0 takes a free one. Raises ApiError or AddressInUse.
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
