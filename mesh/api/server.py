"""The gateway while it listens, drained before it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn

from mesh.api.app import AppConfig, Application, create_app
from mesh.api.auth import KeyRing
from mesh.api.backend import Backend
from mesh.api.checks import ShownMetrics
from mesh.api.errors import GenerationFailed, PublicBindWithoutKey
from mesh.api.limits import Limits
from mesh.api.listening import (
    SHUTDOWN_MARGIN_S,
    listen,
    make_server,
    make_url,
    wait_until_started,
)
from mesh.api.measures import GatewayMeasures
from mesh.api.usage import UsageBook, open_usage_book
from mesh.api.usage_file import locate_usage
from mesh.loopback import is_loopback

DEFAULT_PORT = 8000


@dataclass(frozen=True, slots=True)
class ServeConfig:
    """Where to listen and for whom. ``port`` 0 takes a free one.

    ``usage_file`` None is the keys file's neighbour; without keys nothing is kept.
    """

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    keys_file: Path | None = None
    usage_file: Path | None = None
    allowed_hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True)
class RunningGateway:
    """A gateway that answers at ``url``."""

    url: str


async def serve(
    config: ServeConfig,
    backend: Backend,
    *,
    on_start: Callable[[str], None] | None = None,
    measures: GatewayMeasures | None = None,
    metrics: ShownMetrics | None = None,
) -> None:
    """Answer HTTP until cancelled, then let running answers finish for a while.

    ``on_start`` gets the URL; ``measures`` counts what is answered, ``metrics`` are what
    ``/metrics`` shows. Raises PublicBindWithoutKey, KeysFileError, UsageFileUnusable or
    AddressInUse at once.
    """
    async with open_gateway(config, backend, measures=measures, metrics=metrics) as gateway:
        if on_start is not None:
            on_start(gateway.url)
        await asyncio.Event().wait()


@asynccontextmanager
async def open_gateway(
    config: ServeConfig,
    backend: Backend,
    *,
    measures: GatewayMeasures | None = None,
    metrics: ShownMetrics | None = None,
) -> AsyncIterator[RunningGateway]:
    """Run a gateway while the block runs. Raises as serve does."""
    ring = None if config.keys_file is None else KeyRing.open(config.keys_file)
    check_bind(config.host, ring)
    async with _open_usage(config) as usage:
        app_config = AppConfig(
            ring=ring,
            allowed_hosts=config.allowed_hosts,
            cors_origins=config.cors_origins,
            limits=config.limits,
            measures=measures or GatewayMeasures(),
            usage=usage,
            metrics=metrics,
        )
        async with _answer(config, create_app(backend, app_config)) as gateway:
            yield gateway


@asynccontextmanager
async def _open_usage(config: ServeConfig) -> AsyncIterator[UsageBook]:
    path = config.usage_file
    if path is None and config.keys_file is not None:
        path = locate_usage(config.keys_file)
    if path is None:
        yield UsageBook()
        return
    async with open_usage_book(path) as usage:
        yield usage


@asynccontextmanager
async def _answer(config: ServeConfig, app: Application) -> AsyncIterator[RunningGateway]:
    listener = listen(config.host, config.port)
    server = make_server(app, config.limits, has_lifespan=True)
    try:
        async with asyncio.TaskGroup() as tasks:
            serving = tasks.create_task(server.serve(sockets=[listener]))
            try:
                await wait_until_started(server, serving)
                yield RunningGateway(make_url(config.host, listener))
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
