"""One identity on two machines: the second process stops before it signs anything."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from keys.peer import PeerKey
from mesh.p2p.config import HostConfig
from mesh.routing.announcer import Announcer
from mesh.routing.directory import Directory
from mesh.routing.heartbeat import (
    EXPIRY_AHEAD_S,
    EXPIRY_STEP_S,
    MAX_AHEAD_S,
    ServerInfo,
    ServerRole,
    ServerState,
    make_heartbeat_key,
    make_heartbeat_policy,
    seal_heartbeat,
)
from subnet.errors import ConfigError
from subnet.operator.folder_mark import MARK_FILE, mark_folder
from subnet.operator.identity_watch import (
    POLL_S,
    check_runs_nowhere_else,
    was_run_here_lately,
)
from subnet.operator.status import STATUS_FILE
from subnet.simulation.virtual_time import run_virtual
from tests.support.memory_network import MemoryHost, MemoryNetwork

FIRST, KEY = PeerKey(b"\x61" * 32), PeerKey(b"\x62" * 32)
READER, STRANGER = PeerKey(b"\x63" * 32), PeerKey(b"\x64" * 32)
NETWORK = b"n" * 32
HEARTBEAT = make_heartbeat_key(NETWORK, KEY.peer_id)
START_S = 1_700_000_000.0
INFO = ServerInfo(ServerRole.VALIDATOR, ServerState.ONLINE, None, 0, 0, "", "test", ())


class Policy:
    """The record policy of nodes that keep heartbeats only."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.admit = make_heartbeat_policy(NETWORK, is_member=lambda _: True, clock=clock)


class LyingPolicy:
    """The policy of a replica that takes any bytes for the heartbeat of KEY."""

    def admit(self, value: bytes, expires_at: float) -> bytes:
        return HEARTBEAT


def make_announcer(host: MemoryHost, clock: Callable[[], float]) -> Announcer:
    return Announcer(
        host,
        Directory(host, network_id=NETWORK, clock=clock),
        key=KEY,
        network_id=NETWORK,
        node_id=2,
        describe=lambda: INFO,
        clock=clock,
    )


async def check_after(lives_s: float, *, begins_s: float, news: int, keeps_on: bool) -> float:
    """Let the first process announce itself for ``lives_s``; return how long the check took.

    At the end of that time the first process has ``news``: each is announced at once, and pushes
    the expiry further ahead. Raises TimeoutError if the check takes longer than a heartbeat lives.
    """
    loop = asyncio.get_running_loop()

    def clock() -> float:
        return START_S + begins_s + loop.time()

    network = MemoryNetwork(clock=clock)
    policy = Policy(clock)

    def configure(key: PeerKey) -> HostConfig:
        return HostConfig(key=key, network_id=NETWORK, record_policy=policy)

    async with (
        network.open(configure(FIRST)),
        network.open(configure(KEY)) as alive,
        network.open(configure(READER)) as reader,
        asyncio.TaskGroup() as tasks,
    ):
        announcer = make_announcer(alive, clock)
        living = tasks.create_task(announcer.run())
        await asyncio.sleep(lives_s)
        for _ in range(news):
            announcer.notify()
            await asyncio.sleep(0.1)
        if not keeps_on:
            living.cancel()
        began_s = clock()
        try:
            async with asyncio.timeout(MAX_AHEAD_S + POLL_S):
                await check_runs_nowhere_else(reader.records, KEY.peer_id, NETWORK, clock=clock)
        finally:
            living.cancel()
        return clock() - began_s


MOMENTS = [
    (lives_s, begins_s, news)
    for lives_s in (1.0, 33.0, 61.0)
    for begins_s in range(0, 30, 7)
    for news in (0, 1, 3)
]


@pytest.mark.parametrize(("lives_s", "begins_s", "news"), MOMENTS)
def test_a_second_process_is_stopped_within_a_heartbeat(
    lives_s: float, begins_s: int, news: int
) -> None:
    with pytest.raises(BaseExceptionGroup) as stopped:
        run_virtual(check_after(lives_s, begins_s=begins_s, news=news, keeps_on=True))
    (error,) = stopped.value.exceptions
    assert isinstance(error, ConfigError)
    assert f"another process runs as {KEY.peer_id}" in str(error) and "mesh keygen" in error.hint


@pytest.mark.parametrize(("lives_s", "begins_s", "news"), MOMENTS)
def test_the_heartbeat_of_a_dead_process_stops_no_other(
    lives_s: float, begins_s: int, news: int
) -> None:
    assert run_virtual(check_after(lives_s, begins_s=begins_s, news=news, keeps_on=False)) > 0


@pytest.mark.parametrize("author", [KEY, STRANGER])
def test_a_forged_heartbeat_stops_no_node(author: PeerKey) -> None:
    """A replica shows heartbeats that a stranger signed, each with a later expiry."""

    async def run() -> float:
        loop = asyncio.get_running_loop()

        def clock() -> float:
            return START_S + loop.time()

        async def keep_forging(host: MemoryHost) -> None:
            while True:
                expires_at = int(clock() + EXPIRY_AHEAD_S) // EXPIRY_STEP_S * EXPIRY_STEP_S
                sealed = seal_heartbeat(
                    STRANGER, INFO, network_id=NETWORK, node_id=2, expires_at=expires_at
                )
                forged = replace(sealed, author=author.peer_id).to_bytes()
                host.replica.offer(HEARTBEAT, forged, expires_at)
                await asyncio.sleep(1)

        network = MemoryNetwork(clock=clock)
        liar = HostConfig(key=STRANGER, network_id=NETWORK, record_policy=LyingPolicy())
        reader_config = HostConfig(key=READER, network_id=NETWORK, record_policy=Policy(clock))
        async with (
            network.open(liar) as host,
            network.open(reader_config) as reader,
            asyncio.TaskGroup() as tasks,
        ):
            forging = tasks.create_task(keep_forging(host))
            await asyncio.sleep(1.5)
            assert host.replica.get(HEARTBEAT) is not None
            await check_runs_nowhere_else(reader.records, KEY.peer_id, NETWORK, clock=clock)
            forging.cancel()
            return loop.time()

    assert run_virtual(run()) < 5


def test_an_identity_without_a_heartbeat_waits_for_nothing() -> None:
    async def check() -> None:
        network = MemoryNetwork()
        config = HostConfig(key=FIRST, network_id=NETWORK)
        async with network.open(config) as host:
            await check_runs_nowhere_else(host.records, KEY.peer_id, NETWORK)

    asyncio.run(asyncio.wait_for(check(), 5))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder in which a node ran until now."""
    path = tmp_path / "folder"
    path.mkdir()
    mark_folder(path)
    (path / STATUS_FILE).touch()
    return path


def test_a_node_that_ran_in_its_folder_a_moment_ago_does_not_wait(folder: Path) -> None:
    died_at = (folder / STATUS_FILE).stat().st_mtime
    assert was_run_here_lately(folder, now_s=died_at + 1)
    assert was_run_here_lately(folder, now_s=died_at + MAX_AHEAD_S - 1)
    moved = folder.rename(folder.with_name("moved"))
    assert was_run_here_lately(moved, now_s=died_at + 1)


def test_after_a_rest_a_node_looks_whether_a_copy_took_over(folder: Path) -> None:
    died_at = (folder / STATUS_FILE).stat().st_mtime
    assert not was_run_here_lately(folder, now_s=died_at + MAX_AHEAD_S)


def test_a_copied_data_folder_is_not_its_own(folder: Path) -> None:
    copy = folder.with_name("copy")
    shutil.copytree(folder, copy)
    now_s = (folder / STATUS_FILE).stat().st_mtime + 1
    assert not was_run_here_lately(copy, now_s=now_s)
    mark_folder(copy)
    assert was_run_here_lately(copy, now_s=now_s) and was_run_here_lately(folder, now_s=now_s)


@pytest.mark.parametrize("missing", [MARK_FILE, STATUS_FILE])
def test_a_folder_without_a_mark_or_a_status_is_not_its_own(folder: Path, missing: str) -> None:
    now_s = (folder / STATUS_FILE).stat().st_mtime + 1
    (folder / missing).unlink()
    assert not was_run_here_lately(folder, now_s=now_s)
