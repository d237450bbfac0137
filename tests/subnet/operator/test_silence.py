"""A restored or moved identity listens a whole epoch, and ends if it hears itself elsewhere."""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from consensus.records import RecordKind, encode_challenge
from consensus.submission import Submission
from consensus.types import BlockNumber, EpochPosition, Score, SubnetNodeId
from keys.peer import PeerKey
from mesh.p2p.config import HostConfig
from mesh.routing.announcer import Announcer
from mesh.routing.directory import Directory
from mesh.routing.heartbeat import (
    MAX_AHEAD_S,
    ServerInfo,
    ServerRole,
    ServerState,
    make_heartbeat_policy,
)
from subnet.epoch.author import Author
from subnet.epoch.record_policy import ConsensusRecordPolicy
from subnet.epoch.rosters import Rosters
from subnet.errors import ConfigError
from subnet.journal.journal import Journal
from subnet.operator import folder_mark
from subnet.operator.folder_mark import (
    MARK_FILE,
    find_reason_to_listen,
    mark_folder,
    read_mark,
)
from subnet.operator.silence import Ear, find_trace, listen_an_epoch
from subnet.simulation.virtual_time import run_virtual
from tests.support.fakes import START_S, FakeChain, FakeReader
from tests.support.memory_network import MemoryHost, MemoryNetwork
from tests.support.node import NETWORK_ID, make_journal, make_key, make_roster_node, make_terms

NODE = SubnetNodeId(2)
KEY, OTHER, LISTENER = make_key(NODE), make_key(1), PeerKey(b"\x63" * 32)
INFO = ServerInfo(ServerRole.VALIDATOR, ServerState.ONLINE, None, 0, 0, "", "test", ())
LENGTH = 20
BEGINS_AT = 45
"""A block in the middle of epoch 2."""


class World:
    """A chain that makes blocks by itself, a peer that keeps records, and one node that listens."""

    def __init__(self, network: MemoryNetwork, clock: Callable[[], float]) -> None:
        self.chain = FakeChain(tuple(map(make_roster_node, (1, 2, 3))), height=BEGINS_AT)
        self.terms = make_terms(self.chain)
        self.network = network
        self.clock = clock
        self.rosters = Rosters(self.terms, reader=FakeReader(self.chain), journal=make_journal())
        self.heard: list[tuple[EpochPosition, BlockNumber]] = []

    def configure(self, key: PeerKey) -> HostConfig:
        heartbeats = make_heartbeat_policy(NETWORK_ID, is_member=lambda _: True, clock=self.clock)
        policy = ConsensusRecordPolicy(lambda: self.rosters.table, admit_heartbeat=heartbeats)
        return HostConfig(key=key, network_id=NETWORK_ID, record_policy=policy)

    def make_ear(self, host: MemoryHost | None) -> Ear:
        return Ear(
            own=KEY.peer_id,
            node_id=NODE,
            terms=self.terms,
            reader=FakeReader(self.chain),
            rosters=self.rosters,
            records=None if host is None else host.records,
            clock=self.clock,
        )

    async def make_blocks(self) -> None:
        while True:
            await asyncio.sleep(self.chain.block_time_s)
            self.chain.advance()

    async def sleep_until(self, block: int) -> None:
        while self.chain.height < block:
            await self.chain.wait()

    async def announce(self, host: MemoryHost) -> None:
        """Send heartbeats of KEY as a running node does."""
        await Announcer(
            host,
            Directory(host, network_id=NETWORK_ID, clock=self.clock),
            key=KEY,
            network_id=NETWORK_ID,
            node_id=NODE,
            describe=lambda: INFO,
            clock=self.clock,
        ).run()

    async def publish(self, host: MemoryHost) -> None:
        """Publish a record of KEY in the present epoch."""
        roster = self.rosters.get_roster(self.chain.position.epoch)
        assert roster is not None
        body = encode_challenge(self.terms.compute_challenge(roster))
        record = Author(self.terms, KEY, NODE).seal(RecordKind.CHALLENGE, roster, body)
        assert await host.records.publish(record.key, record.to_bytes(), record.expires_at)

    def attest(self, *, proposer: int = 1, score: int = 0) -> None:
        """Put a proposal on the chain that NODE attested, or another one that pays it."""
        attested = frozenset({SubnetNodeId(proposer), *(() if score else (NODE,))})
        self.chain.submissions[self.chain.position.epoch] = Submission(
            SubnetNodeId(proposer),
            BlockNumber(self.chain.height),
            ((NODE, Score(score)),),
            attested,
            None,
        )


Twin = Callable[[World, MemoryHost], Coroutine[Any, Any, None]]


@asynccontextmanager
async def open_world() -> AsyncIterator[tuple[World, MemoryHost, MemoryHost]]:
    """Open a world, the host of another process with KEY, and the host that listens."""
    loop = asyncio.get_running_loop()

    def clock() -> float:
        return START_S + BEGINS_AT * 6 + loop.time()

    network = MemoryNetwork(clock=clock)
    world = World(network, clock)
    position = await world.rosters.locate(world.chain.get_block(BEGINS_AT))
    assert position is not None
    await world.rosters.refresh(position)
    async with (
        network.open(world.configure(OTHER)),
        network.open(world.configure(KEY)) as twin,
        network.open(world.configure(LISTENER)) as listener,
        asyncio.TaskGroup() as tasks,
    ):
        making = tasks.create_task(world.make_blocks())
        yield world, twin, listener
        making.cancel()


async def listen(
    twin: Twin | None,
    before: Twin | None = None,
    *,
    has_peers: bool = True,
) -> World:
    """Listen while ``twin`` lives; return the world afterwards."""
    async with open_world() as (world, twin_host, listener), asyncio.TaskGroup() as tasks:
        if before is not None:
            await before(world, twin_host)
        living = None if twin is None else tasks.create_task(twin(world, twin_host))
        try:
            await listen_an_epoch(
                world.make_ear(listener if has_peers else None),
                tell=lambda position, ends_at: world.heard.append((position, ends_at)),
            )
        finally:
            if living is not None:
                living.cancel()
    return world


async def live_on(world: World, host: MemoryHost) -> None:
    await world.announce(host)


async def start_later(world: World, host: MemoryHost) -> None:
    await world.sleep_until(BEGINS_AT + 7)
    await world.announce(host)


async def publish_later(world: World, host: MemoryHost) -> None:
    await world.sleep_until(3 * LENGTH + 3)
    await world.publish(host)
    await asyncio.Event().wait()


async def attest_later(world: World, host: MemoryHost) -> None:
    await world.sleep_until(3 * LENGTH + 2)
    world.attest()
    await asyncio.Event().wait()


async def propose_later(world: World, host: MemoryHost) -> None:
    await world.sleep_until(3 * LENGTH + 2)
    world.attest(proposer=NODE)
    await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("twin", "sign"),
    [
        (live_on, "its heartbeat was renewed"),
        (start_later, "its heartbeat was renewed"),
        (publish_later, "it published CHALLENGE in epoch 3"),
        (attest_later, "it attested the proposal of epoch 3"),
        (propose_later, "it attested the proposal of epoch 3"),
    ],
)
def test_another_process_with_the_identity_ends_the_one_that_listens(twin: Twin, sign: str) -> None:
    with pytest.raises(BaseExceptionGroup) as stopped:
        run_virtual(listen(twin))
    errors = stopped.value
    while isinstance(errors, BaseExceptionGroup):
        (errors,) = errors.exceptions
    assert isinstance(errors, ConfigError)
    assert f"another process runs as {KEY.peer_id}: {sign}" in str(errors)
    assert "mesh keygen" in errors.hint


def test_without_a_peer_to_ask_the_chain_alone_tells_of_another_process() -> None:
    with pytest.raises(BaseExceptionGroup, match="unhandled errors"):
        run_virtual(listen(attest_later, has_peers=False))
    assert run_virtual(listen(live_on, has_peers=False)).heard


def test_silence_lasts_a_whole_epoch_of_blocks_and_is_told_at_each() -> None:
    world = run_virtual(listen(None))
    blocks = [position.block for position, _ in world.heard]
    assert blocks == list(range(BEGINS_AT, BEGINS_AT + LENGTH + 1))
    assert {ends_at for _, ends_at in world.heard} == {BEGINS_AT + LENGTH}


def test_what_was_signed_before_the_silence_ends_nothing() -> None:
    """The node's own work before its disk was lost: heartbeat, record and attestation."""

    async def work_and_die(world: World, host: MemoryHost) -> None:
        async with asyncio.TaskGroup() as tasks:
            living = tasks.create_task(world.announce(host))
            await world.publish(host)
            world.attest()
            await asyncio.sleep(1)
            living.cancel()

    world = run_virtual(listen(None, work_and_die))
    assert world.heard[-1][0].block == BEGINS_AT + LENGTH


def test_an_outage_of_the_chain_is_not_counted_as_silence() -> None:
    async def go_down(world: World, host: MemoryHost) -> None:
        world.chain.is_down = True

    async def come_back(world: World, host: MemoryHost) -> None:
        await world.sleep_until(BEGINS_AT + 12)
        world.chain.is_down = False
        await asyncio.Event().wait()

    world = run_virtual(listen(come_back, go_down))
    first, last = world.heard[0], world.heard[-1]
    assert first[0].block >= BEGINS_AT + 12 and last[0].block == first[0].block + LENGTH


@pytest.mark.parametrize(
    ("trace", "said"),
    [
        (None, None),
        ("heartbeat", "a heartbeat of it is alive"),
        ("record", "it published CHALLENGE in epoch 2"),
        ("attestation", "it attested the proposal of epoch 2"),
        ("pay", "it was paid in the proposal of epoch 2"),
    ],
)
def test_a_new_identity_leaves_no_trace_and_one_that_took_part_does(
    trace: str | None, said: str | None
) -> None:
    async def look() -> str | None:
        async with open_world() as (world, twin, listener), asyncio.TaskGroup() as tasks:
            living = None
            if trace == "heartbeat":
                living = tasks.create_task(world.announce(twin))
                await asyncio.sleep(1)
            if trace == "record":
                await world.publish(twin)
            if trace in {"attestation", "pay"}:
                world.attest(score=7 if trace == "pay" else 0)
            found = await find_trace(world.make_ear(listener))
            if living is not None:
                living.cancel()
            return found

    assert run_virtual(look()) == said


def test_a_heartbeat_outlives_no_epoch_of_the_real_chain() -> None:
    """So a process that lives through the whole silence must renew its heartbeat in it."""
    assert LENGTH * 6 >= MAX_AHEAD_S


class Folder:
    """A data folder with the mark of its node, and a journal in which it signed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        mark_folder(path)
        self.journal: Journal = make_journal()

    async def sign(self) -> None:
        chain = FakeChain((make_roster_node(1), make_roster_node(2)))
        terms = make_terms(chain)
        rosters = Rosters(terms, reader=FakeReader(chain), journal=self.journal)
        chain.height = 5
        position = await rosters.locate(chain.get_block(5))
        assert position is not None
        await rosters.refresh(position)
        roster = self.journal.rosters[position.epoch]
        body = encode_challenge(terms.compute_challenge(roster))
        await self.journal.record_signed(
            Author(terms, KEY, NODE).seal(RecordKind.CHALLENGE, roster, body)
        )

    def find_reason(self, *, restored: str | None = None, had_journal: bool = True) -> str | None:
        return find_reason_to_listen(
            self.path, restored=restored, had_journal=had_journal, journal=self.journal
        )


@pytest.fixture
async def folder(tmp_path: Path) -> Folder:
    made = Folder(tmp_path / "1-2")
    await made.sign()
    return made


async def test_a_node_in_its_own_folder_listens_to_nothing(folder: Folder) -> None:
    assert folder.find_reason() is None
    folder.path = folder.path.rename(folder.path.with_name("moved"))
    assert folder.find_reason() is None


async def test_a_restored_identity_listens_once_in_each_folder(folder: Folder) -> None:
    assert folder.find_reason(restored="a" * 32) == "its identity was restored from a backup"
    mark_folder(folder.path, restored="a" * 32)
    assert folder.find_reason(restored="a" * 32) is None
    assert folder.find_reason(restored="b" * 32) == "its identity was restored from a backup"


async def test_a_copied_folder_listens(folder: Folder) -> None:
    copy = folder.path.with_name("copy")
    shutil.copytree(folder.path, copy)
    folder.path = copy
    assert folder.find_reason() == "its data folder is a copy, or was restored from one"


async def test_a_folder_whose_journal_is_gone_listens(folder: Folder) -> None:
    assert folder.find_reason(had_journal=False) == "the journal of its data folder is missing"


async def test_another_machine_listens(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = tmp_path / "id"
    other.write_text("0123456789abcdef\n")
    monkeypatch.setattr(folder_mark, "MACHINE_FILE", other)
    assert "another machine" in str(folder.find_reason())


@pytest.mark.parametrize("content", [b"", b"1 2", b"[]", b'{"place": 1}', b"[" * 900, b"\xff"])
async def test_a_journal_without_a_readable_mark_listens(folder: Folder, content: bytes) -> None:
    (folder.path / MARK_FILE).write_bytes(content)
    assert read_mark(folder.path) is None
    assert "no mark of its own" in str(folder.find_reason())


async def test_a_first_start_that_was_interrupted_is_still_a_first_start(tmp_path: Path) -> None:
    new = Folder(tmp_path / "new")
    (new.path / MARK_FILE).unlink()
    assert new.find_reason(had_journal=True) is None


def test_the_mark_names_what_it_must(tmp_path: Path) -> None:
    mark_folder(tmp_path, restored="c" * 32)
    mark = read_mark(tmp_path)
    assert mark is not None and mark.restored == "c" * 32 and mark.place
    assert dataclasses.replace(mark, place="1 2") != mark
