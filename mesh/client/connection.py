"""A client put together: a host without a place in the network, a directory, a tokenizer.

async with connect(["/ip4/10.0.0.5/tcp/31330/p2p/12D3KooW..."]) as client:
    async for piece in client.generate("Hello", max_new_tokens=50):
        ...
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from keys.peer import PeerId, PeerKey
from mesh.client.client import MeshClient
from mesh.client.route_session import ClientTimeouts
from mesh.client.tokenizer import ChatTokenizer
from mesh.errors import (
    InvalidRequest,
    ManifestMismatch,
    MeshError,
    NoPeerAnswers,
    PeerError,
    PeerMisbehaved,
    PeerUnreachable,
)
from mesh.model.config import ModelConfig, load_config
from mesh.model.files import ModelFolder, resolve_known_model
from mesh.p2p.addresses import split_peer_address
from mesh.p2p.config import HostConfig
from mesh.p2p.hivemind_host import HivemindHost
from mesh.p2p.interface import Host
from mesh.p2p.quic import modernise
from mesh.routing.directory import Directory, fetch_info
from mesh.routing.info import NetworkInfo

_HUB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?")

DIAL_TIMEOUT_S = 8.0
START_TIMEOUT_S = 20.0
MODEL_SEARCH_S = 20.0
MODEL_RETRY_S = 1.0
MAX_ASKED_HOSTERS = 4

OnWait = Callable[[str], None]
"""Hears, in a few words, what a connection waits for."""


def ignore_wait(what: str) -> None:
    """Wait without a word."""


@dataclass(frozen=True, slots=True)
class Connection:
    """A client and what it learnt: the network, its model's name, and the model's folder here."""

    client: MeshClient
    info: NetworkInfo
    model_name: str
    folder: ModelFolder


def make_client_host_config(key: PeerKey | None = None) -> HostConfig:
    """Return the host of a client: it listens nowhere, and its peers are dialled afterwards."""
    return HostConfig(
        key=key or PeerKey.generate(),
        host_maddrs=(),
        client_mode=True,
        startup_timeout_s=START_TIMEOUT_S,
        connect_timeout_s=DIAL_TIMEOUT_S,
    )


@asynccontextmanager
async def connect(
    initial_peers: Sequence[str],
    *,
    model: str | None = None,
    key: PeerKey | None = None,
    timeouts: ClientTimeouts | None = None,
    on_wait: OnWait = ignore_wait,
) -> AsyncIterator[MeshClient]:
    """Dial the initial peers, learn the network, and open a client.

    ``model`` None means the model that the first peer names; without a ``key`` a fresh identity
    is made; ``on_wait`` hears what takes time. Raises InvalidRequest, ModelError, NoPeerAnswers,
    PeerError or TransportError.
    """
    async with open_connection(
        initial_peers, model=model, key=key, timeouts=timeouts, on_wait=on_wait
    ) as found:
        yield found.client


@asynccontextmanager
async def open_connection(
    initial_peers: Sequence[str],
    *,
    model: str | None = None,
    revision: str | None = None,
    key: PeerKey | None = None,
    timeouts: ClientTimeouts | None = None,
    network_id: bytes | None = None,
    on_wait: OnWait = ignore_wait,
) -> AsyncIterator[Connection]:
    """Open a client as :func:`connect` does, and say what it learnt.

    ``revision`` is the model's at the Hugging Face Hub. Peers of another network than
    ``network_id``, where it is known beforehand, are passed over.
    """
    if not initial_peers:
        raise InvalidRequest("initial_peers", "name at least one peer to dial")
    initial = modernise(initial_peers)
    peers = tuple(split_peer_address(address)[1] for address in initial)
    async with HivemindHost.open(make_client_host_config(key)) as host:
        info = await learn_network(host, initial, network_id=network_id, on_wait=on_wait)
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
    config = load_config(folder.source)
    check_same_model(config, info)
    client = MeshClient(
        host,
        Directory(host, network_id=info.network_id),
        config=config,
        tokenizer=ChatTokenizer.load(folder.source),
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


async def learn_network(
    host: Host,
    addresses: Sequence[str],
    *,
    network_id: bytes | None = None,
    on_wait: OnWait = ignore_wait,
) -> NetworkInfo:
    """Dial all peers at once; return what the first of them tells about network and model.

    A peer without a model, such as a bootstrap, names hosters, and these are asked. One of another
    network than ``network_id`` counts as if it did not answer. Raises NoPeerAnswers, or
    TransportError.
    """
    texts: dict[PeerId, list[str]] = {}
    for address in addresses:
        texts.setdefault(split_peer_address(address)[1], []).append(address)
    on_wait(f"dialling {', '.join(map(str, texts))}")
    failures: list[PeerError] = []

    async def learn(peer: PeerId) -> NetworkInfo | MeshError:
        try:
            info = await _learn_from(host, peer, texts[peer], on_wait)
            if network_id not in (None, info.network_id):
                raise PeerMisbehaved(peer, "it is of another network than the chain's subnet")
            return info
        except MeshError as error:
            return error

    async with asyncio.TaskGroup() as tasks:
        started = [tasks.create_task(learn(peer)) for peer in texts]
        for task in asyncio.as_completed(started):
            learnt = await task
            if not isinstance(learnt, PeerError):
                break
            failures.append(learnt)
        for unneeded in started:
            unneeded.cancel()
    if isinstance(learnt, PeerError):
        raise NoPeerAnswers(failures)
    if isinstance(learnt, MeshError):
        raise learnt
    return learnt


async def _learn_from(
    host: Host, peer: PeerId, addresses: Sequence[str], on_wait: OnWait
) -> NetworkInfo:
    await host.connect(addresses)
    info = await fetch_info(host, peer)
    if info.num_layers:
        return info
    on_wait(f"{peer} has no model itself: asking the hosters that it knows")
    directory = Directory(host, network_id=info.network_id)
    try:
        async with asyncio.timeout(MODEL_SEARCH_S):
            while True:
                await directory.fetch_from_peer(peer)
                found = await _ask_hosters(host, directory, info)
                if found is not None:
                    return found
                await asyncio.sleep(MODEL_RETRY_S)
    except TimeoutError as error:
        raise PeerUnreachable(peer, "it knows no hoster that names the model") from error


async def _ask_hosters(host: Host, directory: Directory, info: NetworkInfo) -> NetworkInfo | None:
    """Return what a hoster of the same network says; None if none of them answers."""

    async def ask(peer: PeerId) -> NetworkInfo | None:
        try:
            await directory.ensure_connected(peer)
            return await fetch_info(host, peer)
        except PeerError:
            return None

    known = [server.peer_id for server in directory.list_servers() if server.info.span is not None]
    for answer in await asyncio.gather(*(ask(peer) for peer in known[:MAX_ASKED_HOSTERS])):
        theirs = None if answer is None else (answer.network_id, answer.manifest_hash)
        if answer and answer.num_layers and theirs == (info.network_id, info.manifest_hash):
            return answer
    return None
