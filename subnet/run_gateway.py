"""The gateway put together: a client of the network, and HTTP in front of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from mesh.api.mesh_backend import MeshBackend
from mesh.api.server import ServeConfig, serve
from mesh.client.client import RoutingOptions
from subnet.run_client import ClientConfig, open_named_client


async def run_gateway(
    client_config: ClientConfig,
    serve_config: ServeConfig,
    *,
    max_layers_per_hop: int | None = None,
    on_start: Callable[[str], None] | None = None,
) -> None:
    """Serve a network's model over HTTP until cancelled; ``on_start`` gets the URL.

    Raises what open_client and mesh.api.server.serve raise.
    """
    async with open_named_client(client_config) as (client, model_name):
        backend = MeshBackend(
            client,
            model_id=_make_model_id(model_name),
            created_s=int(time.time()),
            routing=RoutingOptions(max_layers_per_hop=max_layers_per_hop),
        )
        try:
            async with asyncio.TaskGroup() as tasks:
                refreshing = tasks.create_task(backend.keep_fresh())
                await serve(serve_config, backend, on_start=on_start)
                refreshing.cancel()
        except ExceptionGroup as group:
            if len(group.exceptions) == 1:
                raise group.exceptions[0] from None
            raise


def _make_model_id(model_name: str) -> str:
    """Return the name that callers use: of a local folder only the last part."""
    return Path(model_name).name if Path(model_name).is_absolute() else model_name
