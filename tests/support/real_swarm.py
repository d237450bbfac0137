"""Hosters of one model behind real p2p daemons, in one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace

from benchmarks.slow_links import LinkProxy
from keys.peer import PeerKey
from mesh.assets import SHIPPED_MODEL_NAME
from mesh.client.grammars import make_grammar_compiler
from mesh.inference.engine import Engine
from mesh.inference.session_server import SessionServer
from mesh.model.config import load_config
from mesh.model.files import ModelFolder, resolve_known_model
from mesh.model.weights import load_shard
from mesh.p2p.config import HostConfig
from mesh.p2p.hivemind_host import HivemindHost
from mesh.routing.announcer import Announcer
from mesh.routing.directory import Directory
from mesh.routing.heartbeat import ServerInfo, ServerRole, ServerState, make_heartbeat_policy
from mesh.routing.info import NetworkInfo
from subnet.localnet.environment import find_free_port

NETWORK_ID = b"r" * 32


@dataclass(frozen=True)
class _Hoster:
    host: HivemindHost
    engine: Engine
    directory: Directory
    announcer: Announcer
    address: str


class HeartbeatsOnly:
    """The record policy of a network without consensus."""

    def __init__(self, network_id: bytes = NETWORK_ID) -> None:
        self.admit = make_heartbeat_policy(network_id, is_member=lambda peer: True, clock=time.time)


@contextlib.asynccontextmanager
async def open_real_swarm(
    spans: Sequence[tuple[int, int]],
    *,
    model: str = SHIPPED_MODEL_NAME,
    network_id: bytes = NETWORK_ID,
    proxy: LinkProxy | None = None,
) -> AsyncIterator[tuple[str, list[Engine]]]:
    """Start one hoster for each span; yield an address of the first, and the engines.

    All are reached through ``proxy``, if there is one.
    """
    folder = resolve_known_model(model)
    async with contextlib.AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        hosters: list[_Hoster] = []
        for span in spans:
            engine = await stack.enter_async_context(_open_engine(folder, span))
            engine.grammars = make_grammar_compiler(folder.source, load_config(folder.source))
            known = [hoster.address for hoster in hosters[:1]]
            place = HostConfig(key=PeerKey.generate(), initial_peers=tuple(known))
            if proxy is not None:
                own = find_free_port()
                outside = await stack.enter_async_context(proxy.serve(own))
                place = replace(
                    place,
                    host_maddrs=(f"/ip4/127.0.0.1/tcp/{own}",),
                    announce_maddrs=(f"/ip4/127.0.0.1/tcp/{outside}",),
                )
            hosters.append(await _open_hoster(stack, engine, folder.name, network_id, place))
        peers = [hoster.host.peer_id for hoster in hosters]
        running = [tasks.create_task(hoster.engine.serve()) for hoster in hosters]
        running += [tasks.create_task(hoster.announcer.run()) for hoster in hosters]
        for hoster in hosters:
            await hoster.announcer.announce()
        await hosters[0].directory.fetch_from_records(peers)
        running.append(tasks.create_task(hosters[0].directory.keep_fresh(lambda: peers)))
        yield hosters[0].address, [hoster.engine for hoster in hosters]
        for task in running:
            task.cancel()


def _open_engine(
    folder: ModelFolder, span: tuple[int, int]
) -> contextlib.AbstractAsyncContextManager[Engine]:
    config = load_config(folder.source)
    return Engine.open(lambda: load_shard(folder, config, start=span[0], end=span[1]))


async def _open_hoster(
    stack: contextlib.AsyncExitStack,
    engine: Engine,
    model: str,
    network_id: bytes,
    place: HostConfig,
) -> _Hoster:
    key, policy = place.key, HeartbeatsOnly(network_id)
    host = await stack.enter_async_context(
        HivemindHost.open(replace(place, network_id=network_id, record_policy=policy))
    )
    directory = Directory(host, network_id=network_id)
    addresses = tuple(await host.list_addresses())
    SessionServer(host, engine, connect=directory.ensure_connected, key=key).register()
    config = engine.config
    info = NetworkInfo(
        network_id,
        bytes(32),
        model,
        config.num_layers,
        config.max_context,
        config.vocab_size,
        "test",
    )
    directory.serve(lambda: info)
    announcer = Announcer(
        host,
        directory,
        key=key,
        network_id=network_id,
        node_id=1,
        describe=lambda: ServerInfo(
            role=ServerRole.HOSTER,
            state=ServerState.ONLINE,
            span=engine.layers,
            throughput=1000,
            free_cache_tokens=engine.free_cache_tokens,
            dtype="float32",
            software="test;dfgrs",
            addresses=addresses,
        ),
    )
    return _Hoster(host, engine, directory, announcer, addresses[0])
