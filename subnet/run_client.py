"""A client put together from what an operator says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from keys.peer import PeerKey
from mesh.client.client import MeshClient
from mesh.client.connection import OnWait, ignore_wait, open_connection
from subnet.errors import ConfigError

__all__ = ["ClientConfig", "open_client", "open_named_client"]


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """A client's place. ``model`` None means the model that the first peer names.

    Without a ``key`` a fresh identity is made for this run.
    """

    initial_peers: tuple[str, ...]
    key: PeerKey | None = None
    model: str | None = None


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
        config.initial_peers, model=config.model, key=config.key, on_wait=on_wait
    ) as found:
        yield found.client, found.model_name
