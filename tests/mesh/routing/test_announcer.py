"""When a node's heartbeat is published: what changed at once, and nothing twice."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace

import pytest

from keys.peer import PeerKey
from mesh.model.config import LayerSpan
from mesh.p2p.config import HostConfig
from mesh.p2p.interface import Host
from mesh.routing.announcer import Announcer
from mesh.routing.directory import Directory
from mesh.routing.heartbeat import (
    ServerInfo,
    ServerRole,
    ServerState,
    make_heartbeat_policy,
)
from tests.support.memory_network import MemoryNetwork
from tests.support.virtual_time import run_in_virtual_time

NETWORK = b"n" * 32
HOSTER, READER = PeerKey(b"\1" * 32), PeerKey(b"\2" * 32)
EMPTY = ServerInfo(
    role=ServerRole.HOSTER,
    state=ServerState.JOINING,
    span=None,
    throughput=0,
    free_cache_tokens=0,
    dtype="",
    software="test",
    addresses=(),
)
CHOSEN = replace(EMPTY, span=LayerSpan(0, 6))
ONLINE = replace(CHOSEN, state=ServerState.ONLINE, throughput=100, dtype="float32")


class Policy:
    """Admits heartbeats of ``members``."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.members = {HOSTER.peer_id}
        self.admit = make_heartbeat_policy(
            NETWORK, is_member=lambda peer: peer in self.members, clock=clock
        )


class Node:
    """A hoster that announces what it is, and another node that reads its heartbeats."""

    def __init__(
        self,
        host: Host,
        reader: Directory,
        policy: Policy,
        clock: Callable[[], float],
        tasks: asyncio.TaskGroup,
    ) -> None:
        self.host = host
        self._reader = reader
        self._clock = clock
        self._tasks = tasks
        self._running: asyncio.Task[None] | None = None
        self.policy = policy

    def start(self) -> None:
        """Begin as a new process does, which knows of no heartbeat."""
        self.stop()
        self.info = EMPTY
        self.announcer = Announcer(
            self.host,
            Directory(self.host, network_id=NETWORK, clock=self._clock),
            key=HOSTER,
            network_id=NETWORK,
            node_id=1,
            describe=lambda: self.info,
            clock=self._clock,
        )
        self._running = self._tasks.create_task(self.announcer.run())

    def stop(self) -> None:
        if self._running is not None:
            self._running.cancel()

    def become(self, info: ServerInfo) -> None:
        self.info = info
        self.announcer.notify()

    async def read(self) -> ServerInfo | None:
        """Return what another node learns now."""
        await self._reader.fetch_from_records([HOSTER.peer_id])
        servers = self._reader.list_servers()
        return servers[0].info if servers else None


def run(work: Callable[[Node], Awaitable[None]], *, start_s: float = 1_700_000_010.0) -> None:
    """Run ``work`` beside an announcer, with a clock that begins at ``start_s``."""

    async def run_here(get_time: Callable[[], float]) -> None:
        def clock() -> float:
            return start_s + get_time()

        policy, network = Policy(clock), MemoryNetwork(clock=clock)

        def config(key: PeerKey) -> HostConfig:
            return HostConfig(key=key, network_id=NETWORK, record_policy=policy)

        async with (
            network.open(config(HOSTER)) as host,
            network.open(config(READER)) as other,
            asyncio.TaskGroup() as tasks,
        ):
            reader = Directory(other, network_id=NETWORK, clock=clock)
            node = Node(host, reader, policy, clock, tasks)
            node.start()
            await work(node)
            node.stop()

    run_in_virtual_time(run_here)


@pytest.mark.parametrize("second", range(30))
def test_a_node_that_chooses_layers_and_loads_them_within_a_second_is_online_then(second):
    async def work(node: Node) -> None:
        for info in (CHOSEN, ONLINE):
            await asyncio.sleep(0.3)
            node.become(info)
        await asyncio.sleep(0.3)
        assert await node.read() == ONLINE

    run(work, start_s=1_700_000_000.25 + second)


@pytest.mark.parametrize("second", range(0, 30, 3))
def test_news_that_change_nothing_leave_room_for_what_does(second):
    async def work(node: Node) -> None:
        for _ in range(10):
            await asyncio.sleep(0.1)
            node.announcer.notify()
        node.become(ONLINE)
        await asyncio.sleep(0.3)
        assert await node.read() == ONLINE

    run(work, start_s=1_700_000_000.25 + second)


@pytest.mark.parametrize("second", range(0, 30, 3))
def test_a_change_too_many_is_announced_as_soon_as_an_expiry_is_free(second):
    changes = [replace(ONLINE, span=LayerSpan(0, end)) for end in range(1, 6)]

    async def work(node: Node) -> None:
        for info in changes:
            await asyncio.sleep(0.1)
            node.become(info)
        # Four of them have an expiry at most, and one is free every 30 s.
        for _ in range(31):
            if await node.read() == changes[-1]:
                return
            await asyncio.sleep(1)
        pytest.fail("the last change was not announced")

    run(work, start_s=1_700_000_000.25 + second)


def test_a_node_that_drains_says_so_without_being_told():
    async def work(node: Node) -> None:
        node.become(ONLINE)
        await asyncio.sleep(25)
        node.info = replace(ONLINE, state=ServerState.DRAINING)
        assert await node.announcer.announce()
        assert await node.read() == node.info

    run(work)


@pytest.mark.parametrize("second", range(30))
def test_a_node_that_is_started_again_is_soon_online_although_replicas_hold_that_it_drains(second):
    async def work(node: Node) -> None:
        node.become(ONLINE)
        await asyncio.sleep(60 + second)
        node.become(replace(ONLINE, state=ServerState.DRAINING))
        await asyncio.sleep(1)
        node.start()
        await asyncio.sleep(4)
        node.become(ONLINE)
        await asyncio.sleep(25)
        assert await node.read() == ONLINE

    run(work)


def test_what_replicas_refused_is_published_again_when_the_roster_names_the_node():
    async def work(node: Node) -> None:
        node.policy.members.clear()
        await asyncio.sleep(0.1)
        node.become(ONLINE)
        await asyncio.sleep(0.1)
        node.policy.members.add(HOSTER.peer_id)
        node.announcer.notify()
        await asyncio.sleep(0.3)
        assert await node.read() == ONLINE

    run(work)


def test_what_replicas_refused_is_published_again_after_a_period():
    async def work(node: Node) -> None:
        node.become(ONLINE)
        node.policy.members.clear()
        await asyncio.sleep(6)
        node.policy.members.add(HOSTER.peer_id)
        assert await node.read() is None
        await asyncio.sleep(20)
        assert await node.read() == ONLINE

    run(work)


def test_a_replica_that_answers_nonsense_does_not_stop_announcements(monkeypatch):
    async def work(node: Node) -> None:
        async def refuse(*_: object) -> bool:
            return False

        async def lie(_: object, keys: Iterable[bytes], **options: object) -> dict[bytes, bytes]:
            return dict.fromkeys(keys, b"nonsense")

        node.become(ONLINE)
        await asyncio.sleep(30)
        with monkeypatch.context() as lying:
            records = type(node.host.records)
            lying.setattr(records, "publish", refuse)
            lying.setattr(records, "fetch", lie)
            node.become(CHOSEN)
            await asyncio.sleep(30)
        node.become(ONLINE)
        await asyncio.sleep(1)
        assert await node.read() == ONLINE

    run(work)


def test_a_heartbeat_never_expires_while_its_node_runs():
    async def work(node: Node) -> None:
        await asyncio.sleep(0.1)
        for _ in range(600):
            assert await node.read() is not None
            await asyncio.sleep(1)

    for second in range(0, 30, 7):
        run(work, start_s=1_700_000_000.25 + second)


def test_no_heartbeat_expires_later_than_replicas_take():
    async def work(node: Node) -> None:
        for place in range(40):
            node.become(replace(ONLINE, span=LayerSpan(0, 1 + place % 6)))
            await asyncio.sleep(0.2)
            newest = node.announcer.newest
            assert newest is not None
            node.policy.admit(newest.to_bytes(), newest.expires_at)

    run(work)
