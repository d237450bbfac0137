"""A client put together: a host without a place in the network, a directory, a tokenizer.

async with connect(["/ip4/10.0.0.5/tcp/31330/p2p/12D3KooW..."]) as client:
    async for piece in client.generate("Hello", max_new_tokens=50):
        ...
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from keys.peer import PeerId, PeerKey
from mesh.client.client import MeshClient
from mesh.client.route_session import ClientTimeouts
from mesh.client.tokenizer import ChatTokenizer
from mesh.errors import InvalidRequest, ManifestMismatch, PeerError, PeerUnreachable
from mesh.model.config import ModelConfig, load_config
from mesh.model.files import ModelFolder, resolve_known_model
from mesh.p2p.addresses import split_peer_address
from mesh.p2p.config import CLIENT_STARTUP_TIMEOUT_S, HostConfig
from mesh.p2p.hivemind_host import HivemindHost
from mesh.p2p.interface import Host
from mesh.p2p.quic import modernise
from mesh.routing.directory import Directory, fetch_info
from mesh.routing.info import NetworkInfo

_HUB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?")


@dataclass(frozen=True, slots=True)
class Connection:
    """A client and what it learnt: the network, its model's name, and the model's folder here."""

    client: MeshClient
    info: NetworkInfo
    model_name: str
    folder: ModelFolder


@asynccontextmanager
async def connect(
    initial_peers: Sequence[str],
    *,
    model: str | None = None,
    key: PeerKey | None = None,
    timeouts: ClientTimeouts | None = None,
) -> AsyncIterator[MeshClient]:
    """Dial the initial peers, learn the network, and open a client.

    ``model`` None means the model that the first peer names; without a ``key`` a fresh identity
    is made. Raises InvalidRequest, ModelError, PeerError or TransportError.
    """
    async with open_connection(initial_peers, model=model, key=key, timeouts=timeouts) as found:
        yield found.client


@asynccontextmanager
async def open_connection(
    initial_peers: Sequence[str],
    *,
    model: str | None = None,
    revision: str | None = None,
    key: PeerKey | None = None,
    timeouts: ClientTimeouts | None = None,
) -> AsyncIterator[Connection]:
    """Open a client as :func:`connect` does, and say what it learnt.

    ``revision`` is the model's at the Hugging Face Hub.
    """
    if not initial_peers:
        raise InvalidRequest("initial_peers", "name at least one peer to dial")
    initial = modernise(initial_peers)
    peers = tuple(split_peer_address(address)[1] for address in initial)
    host_config = HostConfig(
        key=key or PeerKey.generate(),
        host_maddrs=(),
        initial_peers=initial,
        client_mode=True,
        startup_timeout_s=CLIENT_STARTUP_TIMEOUT_S,
    )
    async with HivemindHost.open(host_config) as host:
        info = await _ask_first(host, peers)
        host.set_network_id(info.network_id)
        name = model or check_named_model(info.model_name)
        folder = await asyncio.to_thread(resolve_known_model, name, revision)
        yield await join_network(host, info, peers, folder=folder, name=name, timeouts=timeouts)


async def join_network(
    host: Host,
    info: NetworkInfo,
    peers: Sequence[PeerId],
    *,
    folder: ModelFolder,
    name: str,
    timeouts: ClientTimeouts | None = None,
) -> Connection:
    """Make a client of a host that knows its network. Raises ModelError or PeerError."""
    config = load_config(folder.path)
    check_same_model(config, info)
    client = MeshClient(
        host,
        Directory(host, network_id=info.network_id),
        config=config,
        tokenizer=ChatTokenizer.load(folder.path),
        peers=peers,
        timeouts=timeouts,
    )
    await client.refresh()
    return Connection(client, info, name, folder)


def check_same_model(config: ModelConfig, info: NetworkInfo) -> None:
    """Raise ManifestMismatch unless the model at hand has the numbers of the network's."""
    ours = (config.num_layers, config.vocab_size)
    theirs = (info.num_layers, info.vocab_size)
    if ours != theirs:
        raise ManifestMismatch(
            f"the network serves {info.model_name} with {theirs[0]} blocks and {theirs[1]} tokens; "
            f"the model here has {ours[0]} and {ours[1]}"
        )


def check_named_model(name: str) -> str:
    """Return the model's name that a peer gave. Raises InvalidRequest.

    A peer may name a model, but no folder of this machine.
    """
    if _HUB_NAME.fullmatch(name) is None or ".." in name:
        raise InvalidRequest("model", f"the network calls its model {name!r}; say where it is")
    return name


async def _ask_first(host: Host, peers: tuple[PeerId, ...]) -> NetworkInfo:
    failure: PeerError | None = None
    for peer in peers:
        try:
            return await fetch_info(host, peer)
        except PeerError as error:
            failure = error
    raise failure or PeerUnreachable(peers[0], "no initial peer answers")
