"""A client put together: a host without a place in the network, a directory, a tokenizer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from keys.peer import PeerId, PeerKey
from mesh.assets import SHIPPED_MODEL_NAME, shipped_model_path
from mesh.client.client import MeshClient
from mesh.client.tokenizer import ChatTokenizer
from mesh.errors import PeerError, PeerUnreachable
from mesh.model.config import load_config
from mesh.model.files import ModelFolder, resolve_model_folder
from mesh.p2p.addresses import split_peer_address
from mesh.p2p.config import HostConfig
from mesh.p2p.hivemind_host import HivemindHost
from mesh.routing.directory import Directory, fetch_info
from mesh.routing.info import NetworkInfo
from subnet.addresses import modernise
from subnet.errors import ConfigError


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """A client's place. ``model`` None means the model that the first peer names.

    Without a ``key`` a fresh identity is made for this run.
    """

    initial_peers: tuple[str, ...]
    key: PeerKey | None = None
    model: str | None = None


@asynccontextmanager
async def open_client(config: ClientConfig) -> AsyncIterator[MeshClient]:
    """Dial the initial peers, learn the network, and open a client.

    Raises ConfigError, ModelError, PeerError or TransportError.
    """
    async with open_named_client(config) as (client, _):
        yield client


@asynccontextmanager
async def open_named_client(config: ClientConfig) -> AsyncIterator[tuple[MeshClient, str]]:
    """Open a client as open_client does, and say which model the network serves."""
    if not config.initial_peers:
        raise ConfigError("a client needs a peer to dial", "give --initial-peers ADDR")
    initial = modernise(config.initial_peers)
    peers = tuple(split_peer_address(address)[1] for address in initial)
    host_config = HostConfig(
        key=config.key or PeerKey.generate(),
        host_maddrs=(),
        initial_peers=initial,
        client_mode=True,
    )
    async with HivemindHost.open(host_config) as host:
        info = await _ask_first(host, peers)
        host.set_network_id(info.network_id)
        model_name = config.model or info.model_name
        folder = await asyncio.to_thread(resolve_known_model, model_name)
        directory = Directory(host, network_id=info.network_id)
        client = MeshClient(
            host,
            directory,
            config=load_config(folder.path),
            tokenizer=ChatTokenizer.load(folder.path),
            peers=peers,
        )
        await client.refresh()
        yield client, model_name


def resolve_known_model(name: str) -> ModelFolder:
    """Find a model's folder; the shipped model is known by its name."""
    if name == SHIPPED_MODEL_NAME and not Path(name).is_dir():
        return resolve_model_folder(str(shipped_model_path()))
    return resolve_model_folder(name)


async def _ask_first(host: HivemindHost, peers: tuple[PeerId, ...]) -> NetworkInfo:
    failure: PeerError | None = None
    for peer in peers:
        try:
            return await fetch_info(host, peer)
        except PeerError as error:
            failure = error
    raise failure or PeerUnreachable(peers[0], "no initial peer answers")
