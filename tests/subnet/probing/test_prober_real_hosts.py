"""A probe over real p2p daemons: the stranger's host, its sessions, and nothing left behind."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import psutil
import pytest

from consensus.protocol_params import MAINNET
from consensus.types import LayerRange, SubnetNodeId
from keys.peer import PeerKey
from mesh.assets import shipped_model_path
from mesh.client.connection import make_client_host_config
from mesh.model.config import load_config
from mesh.p2p.addresses import split_peer_address
from mesh.p2p.hivemind_host import HivemindHost
from mesh.routing.directory import Directory
from subnet.node.parts import open_stranger
from subnet.probing.book import ProbeBook
from subnet.probing.prober import ProbeContext, Prober, ProbeTarget
from subnet.probing.prompts import make_prompter
from subnet.probing.verdict import Failed, Passed, Unclear
from tests.support.real_swarm import NETWORK_ID, open_real_swarm


def list_daemons() -> set[int]:
    children = psutil.Process().children(recursive=True)
    return {child.pid for child in children if child.name() == "p2pd"}


async def fetch_servers(address):
    """What the prober's own node knows of the swarm."""
    async with HivemindHost.open(make_client_host_config()) as host:
        host.set_network_id(NETWORK_ID)
        await host.connect([address])
        directory = Directory(host, network_id=NETWORK_ID)
        await directory.fetch_from_peer(split_peer_address(address)[1])
        return directory.list_servers()


def make_prober(servers, opened):
    config = load_config(shipped_model_path())

    @contextlib.asynccontextmanager
    async def open_client():
        async with open_stranger(NETWORK_ID) as host:
            opened.append(host.peer_id)
            yield host

    return Prober(
        ProbeContext(
            key=PeerKey.generate(),
            network_id=NETWORK_ID,
            params=MAINNET,
            model=config,
            block_time_s=6.0,
            book=ProbeBook(None, network_id=NETWORK_ID, params=MAINNET),
            make_prompt=make_prompter(shipped_model_path(), config),
            list_targets=dict,
            is_validator=lambda: True,
            list_servers=lambda: servers,
            open_client=open_client,
            observe=lambda event: None,
        )
    )


async def probe_until_clear(prober, target):
    """Probe as often as an epoch allows: on a busy machine a hop may be too slow once."""
    for _ in range(MAINNET.probe_attempts):
        attempt = await prober.attempt(target)
        if not isinstance(attempt, Unclear):
            break
    return attempt


@pytest.mark.timeout(180)
async def test_strangers_probe_real_hosters():
    opened = []
    async with open_real_swarm([(0, 8), (0, 4), (4, 8)]) as (address, engines):
        servers = await fetch_servers(address)
        daemons = list_daemons()
        prober = make_prober(servers, opened)
        targets = {
            server.info.span.start + server.info.span.end: ProbeTarget(
                SubnetNodeId(1),
                server.peer_id,
                LayerRange(server.info.span.start, server.info.span.end),
            )
            for server in servers
        }
        whole, first, second = targets[8], targets[4], targets[12]
        for target in (whole, first, second):
            assert await probe_until_clear(prober, target) == Passed()
        engines[0].limits = replace(engines[0].limits, max_sessions=0)
        for layer in engines[2]._runner.weights.layers:
            layer.down.mul_(-20.0)
        assert await prober.attempt(whole) == Failed("busy")
        # A full hop on the way, or round it, is not this hoster's fault.
        attempt = await prober.attempt(second)
        assert not isinstance(attempt, Failed) or attempt.suspects
        engines[0].limits = replace(engines[0].limits, max_sessions=64)
        attempt = await probe_until_clear(prober, second)
        assert isinstance(attempt, Failed)
        assert "away" in attempt.reason
        assert list_daemons() == daemons
    assert len(set(opened)) == len(opened) >= 6
