"""Listening: uvicorn with limits, without signals of its own, drained before it ends."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from mesh.api.app import AppConfig, Application, create_app
from mesh.api.auth import KeyRing
from mesh.api.backend import Backend
from mesh.api.errors import GatewayError, GenerationFailed, PortInUse, PublicBindWithoutKey
from mesh.api.limits import MAX_HEAD_BYTES, Limits
from mesh.loopback import is_loopback

DEFAULT_PORT = 8000
BACKLOG = 512
SHUTDOWN_MARGIN_S = 5.0


@dataclass(frozen=True, slots=True)
class ServeConfig:
    """Where to listen and for whom. ``port`` 0 takes a free one."""

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    keys_file: Path | None = None
    allowed_hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True)
class RunningGateway:
    """A gateway that answers at ``url``."""

    url: str


async def serve(
    config: ServeConfig, backend: Backend, *, on_start: Callable[[str], None] | None = None
) -> None:
    """Answer HTTP until cancelled, then let running answers finish for a while.

    ``on_start`` gets the URL. Raises PublicBindWithoutKey, KeysFileError or PortInUse at once.
    """
    async with open_gateway(config, backend) as gateway:
        if on_start is not None:
            on_start(gateway.url)
        await asyncio.Event().wait()


@asynccontextmanager
async def open_gateway(config: ServeConfig, backend: Backend) -> AsyncIterator[RunningGateway]:
    """Run a gateway while the block runs. Raises as serve does."""
    ring = None if config.keys_file is None else KeyRing.open(config.keys_file)
    check_bind(config.host, ring)
    listener = _listen(config.host, config.port)
    app = create_app(
        backend,
        AppConfig(
            ring=ring,
            allowed_hosts=config.allowed_hosts,
            cors_origins=config.cors_origins,
            limits=config.limits,
        ),
    )
    server = _Server(_make_uvicorn_config(app, config.limits))
    try:
        async with asyncio.TaskGroup() as tasks:
            serving = tasks.create_task(server.serve(sockets=[listener]))
            try:
                await _wait_until_started(server, serving)
                yield RunningGateway(_make_url(config.host, listener))
            finally:
                await _drain(server, serving, app, config.limits)
    except ExceptionGroup as group:
        # The caller's own error comes back to it as it was.
        if len(group.exceptions) == 1:
            raise group.exceptions[0] from None
        raise


def check_bind(host: str, ring: KeyRing | None) -> None:
    """Raise PublicBindWithoutKey if others could reach ``host`` and no key guards it."""
    if is_loopback(host) or (ring is not None and ring.has_keys):
        return
    raise PublicBindWithoutKey(f"listening on {host} opens the gateway to others without a key")


def _listen(host: str, port: int) -> socket.socket:
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


def _make_url(host: str, listener: socket.socket) -> str:
    port = listener.getsockname()[1]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _make_uvicorn_config(app: Application, limits: Limits) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=_make_protocol(limits),
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=round(limits.keep_alive_s),
        timeout_graceful_shutdown=round(limits.drain_s + SHUTDOWN_MARGIN_S),
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
    )


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


async def _wait_until_started(server: uvicorn.Server, serving: asyncio.Task[Any]) -> None:
    while not server.started:
        if serving.done():
            serving.result()
            raise GatewayError("the gateway did not start")
        await asyncio.sleep(0.01)


async def _drain(
    server: uvicorn.Server, serving: asyncio.Task[Any], app: Application, limits: Limits
) -> None:
    """Refuse new work, let running answers finish, end the rest with an error they can read."""
    if app.gateway is not None:
        app.gateway.generations.is_draining = True
    server.should_exit = True
    await asyncio.wait([serving], timeout=limits.drain_s)
    if app.gateway is not None and not serving.done():
        app.gateway.generations.fail_all(GenerationFailed("The gateway is stopping."))
    await asyncio.wait([serving], timeout=SHUTDOWN_MARGIN_S)
    serving.cancel()
