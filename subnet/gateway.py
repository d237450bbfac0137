"""The client and the HTTP gateway, opened as an operator configures them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from keys.peer import PeerKey
from mesh.client.client import MeshClient
from mesh.client.connection import OnWait, ignore_wait, open_connection
from mesh.client.route_search import RoutingOptions
from subnet.errors import ConfigError
from subnet.operator.supervisor import Supervisor, beating

if TYPE_CHECKING:
    from mesh.api.server import ServeConfig
    from subnet.operator.metrics_options import MetricsOptions


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """Whom a client dials, and as whom. ``model`` None means the model that the first peer names.

    Without a ``key`` a fresh identity is made for this run. Peers of another network than
    ``network_id``, unless it is None, are passed over.
    """

    initial_peers: tuple[str, ...]
    key: PeerKey | None = None
    model: str | None = None
    network_id: bytes | None = None


@asynccontextmanager
async def open_client(
    config: ClientConfig, *, on_wait: OnWait = ignore_wait
) -> AsyncIterator[MeshClient]:
    """Dial the initial peers, learn the network, and open a client.

    ``on_wait`` hears what takes time. Raises ConfigError, ModelError, NoPeerAnswers, PeerError or
    TransportError.
    """
    async with open_named_client(config, on_wait=on_wait) as (client, _):
        yield client


@asynccontextmanager
async def open_named_client(
    config: ClientConfig, *, on_wait: OnWait = ignore_wait
) -> AsyncIterator[tuple[MeshClient, str]]:
    """Open a client as open_client does, and say which model the network serves."""
    if not config.initial_peers:
        raise ConfigError("a client needs a peer to dial", "give --initial-peers ADDR")
    async with open_connection(
        config.initial_peers,
        model=config.model,
        key=config.key,
        network_id=config.network_id,
        on_wait=on_wait,
    ) as found:
        yield found.client, found.model_name


async def run_gateway(
    client_config: ClientConfig,
    serve_config: ServeConfig,
    *,
    max_layers_per_hop: int | None = None,
    on_start: Callable[[str], None] | None = None,
    metrics: MetricsOptions | None = None,
    supervisor: Supervisor | None = None,
) -> None:
    """Serve a network's model over HTTP until cancelled; ``on_start`` gets the URL.

    ``supervisor`` hears that it is ready once it answers, and a beat until it has drained.

    Raises what open_client, mesh.api.server.serve and serve_metrics raise.
    """
    from mesh.api.checks import ShownMetrics
    from mesh.api.measures import GatewayMeasures
    from mesh.api.mesh_backend import MeshBackend
    from mesh.api.server import serve
    from subnet.metrics.gateway import GatewayMetrics
    from subnet.metrics.serving import make_exposition, serve_metrics
    from subnet.metrics.table import Process

    supervisor = supervisor or Supervisor()

    def start(url: str) -> None:
        supervisor.note_ready()
        supervisor.note_status(f"answering at {url}")
        if on_start is not None:
            on_start(url)

    async with beating(supervisor), open_named_client(client_config) as (client, model_name):
        backend = MeshBackend(
            client,
            model_id=_make_model_id(model_name),
            created_s=int(time.time()),
            routing=RoutingOptions(max_layers_per_hop=max_layers_per_hop),
        )
        measures = GatewayMeasures()
        shown = GatewayMetrics(measures, client, find_uncovered=backend.find_uncovered)
        at_door = None
        if metrics is not None:
            render = make_exposition(Process.GATEWAY, shown.fill, shown.list_checks)
            at_door = ShownMetrics(render, metrics.read_token())
        try:
            async with (
                serve_metrics(metrics, Process.GATEWAY, shown.fill, shown.list_checks),
                asyncio.TaskGroup() as tasks,
            ):
                refreshing = tasks.create_task(backend.keep_fresh())
                await serve(
                    serve_config, backend, on_start=start, measures=measures, metrics=at_door
                )
                refreshing.cancel()
        except ExceptionGroup as group:
            if len(group.exceptions) == 1:
                raise group.exceptions[0] from None
            raise


def _make_model_id(model_name: str) -> str:
    """Return the name that callers use: of a local folder only the last part."""
    return Path(model_name).name if Path(model_name).is_absolute() else model_name
