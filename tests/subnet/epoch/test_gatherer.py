"""Fetching what a proposal names: from the store, from peers, and never what was not asked for."""

from collections.abc import Sequence

import pytest

from consensus.naming import get_name
from consensus.records import (
    OutputCommit,
    RecordKind,
    Sighting,
    encode_output_commit,
    encode_sighting,
)
from consensus.roster import Roster
from consensus.types import BlockNumber, Epoch, LayerRange
from mesh.errors import PeerTimeout, TransportError
from subnet.epoch.author import Author
from subnet.epoch.gatherer import MAX_HOLDERS, Gatherer
from subnet.epoch.rosters import Rosters
from subnet.journal.journal import MAX_FETCHED, Journal
from subnet.simulation.inline_runner import run_inline
from tests.support.fakes import FakeChain, FakeReader
from tests.support.node import make_context, make_journal, make_key, make_roster_node, make_terms

EPOCH = Epoch(2)
NODES = 4
SLOT = (RecordKind.OUTPUT_COMMIT, EPOCH, 3)


class Peers:
    """Satisfies PeerRecords with canned answers; notes whom it asked for what."""

    def __init__(self) -> None:
        self.answers = {}
        self.asked = []

    async def fetch_by_hash(self, peer, hashes: Sequence[bytes], *, timeout_s: float):
        self.asked.append((peer, tuple(hashes)))
        answer = self.answers.get(peer)
        if answer is None:
            raise PeerTimeout(peer, "silent")
        return answer


class Store:
    """Satisfies RecordStore's fetch: each reading answers with the next of a key's versions."""

    def __init__(self) -> None:
        self.versions = {}
        self.is_down = False

    async def fetch(self, keys, *, timeout_s):
        if self.is_down:
            raise TransportError("the store is down")
        return {key: self.versions[key].pop(0) for key in keys if self.versions.get(key)}


class Scene:
    def __init__(self, journal: Journal) -> None:
        self.chain = FakeChain(make_roster_node(n) for n in range(1, NODES + 1))
        self.terms = make_terms(self.chain)
        self.journal = journal
        self.peers, self.store, self.events = Peers(), Store(), []

    async def open(self) -> "Scene":
        nodes = tuple(make_roster_node(n) for n in range(1, NODES + 1))
        self.roster = Roster(EPOCH, BlockNumber(40), bytes(32), 1_700_000_000, nodes)
        await self.journal.record_roster(self.roster)
        rosters = Rosters(self.terms, reader=FakeReader(self.chain), journal=self.journal)
        self.gatherer = Gatherer(
            make_context(
                self.chain,
                1,
                journal=self.journal,
                rosters=rosters,
                store=self.store,
                peers=self.peers,
                observe=self.events.append,
            )
        )
        return self

    def seal(self, node_id=3, *, number=0, kind=RecordKind.OUTPUT_COMMIT):
        commit = OutputCommit(bytes(32), LayerRange(0, 1), number.to_bytes(32, "little"))
        body = encode_output_commit(commit)
        if kind is RecordKind.SIGHTING:
            body = encode_sighting(Sighting(number.to_bytes(32, "little"), NODES, ()))
        return Author(self.terms, make_key(node_id), node_id).seal(kind, self.roster, body)

    async def fetch(self, *envelopes, holders=(2,)):
        wanted = {get_name(one): (RecordKind(one.kind), EPOCH, one.node_id) for one in envelopes}
        peers = [make_key(node_id).peer_id for node_id in holders]
        return await self.gatherer.fetch_named(wanted, holders=peers)


@pytest.fixture
async def scene():
    return await Scene(make_journal()).open()


async def test_the_store_is_asked_before_any_peer(scene):
    record = scene.seal()
    scene.store.versions[record.key] = [record.to_bytes()]
    assert await scene.fetch(record) == {get_name(record): record}
    assert scene.peers.asked == []


async def test_what_the_store_lacks_or_cannot_say_is_had_from_who_holds_it(scene):
    record = scene.seal()
    scene.store.is_down = True
    holder = make_key(4).peer_id
    scene.peers.answers[holder] = [record.to_bytes()]
    assert await scene.fetch(record, holders=(2, 4)) == {get_name(record): record}
    # The first holder was silent, and what is journaled is not asked for again.
    assert [peer for peer, _ in scene.peers.asked] == [make_key(2).peer_id, holder]
    assert await scene.fetch(record) == {get_name(record): record}
    assert len(scene.peers.asked) == 2


async def test_this_node_does_not_ask_itself_and_not_everybody(scene):
    record = scene.seal()
    await scene.fetch(record, holders=(1, 1, *range(2, 60)))
    asked = [peer for peer, _ in scene.peers.asked]
    assert len(asked) == MAX_HOLDERS and make_key(1).peer_id not in asked


@pytest.mark.parametrize("what", ["noise", "empty", "another record", "cut off", "forged"])
async def test_a_peer_s_answer_that_was_not_asked_for_is_not_kept(scene, what):
    record, other = scene.seal(), scene.seal(number=1)
    raw = record.to_bytes()
    answers = {
        "noise": b"\xff" * 300,
        "empty": b"",
        "another record": other.to_bytes(),
        "cut off": raw[:-1],
        "forged": raw[:-1] + bytes([raw[-1] ^ 1]),
    }
    scene.peers.answers[make_key(2).peer_id] = [answers[what]]
    assert await scene.fetch(record) == {}
    assert scene.journal.find_by_name(get_name(other)) is None


async def test_a_name_stands_for_one_slot_only(scene):
    """A list that says another author's name for a record gets nothing."""
    record = scene.seal(node_id=3)
    scene.peers.answers[make_key(2).peer_id] = [record.to_bytes()]
    wanted = {get_name(record): (RecordKind.OUTPUT_COMMIT, EPOCH, 4)}
    found = await scene.gatherer.fetch_named(wanted, holders=[make_key(2).peer_id])
    assert found == {}


async def test_an_author_with_many_versions_cannot_keep_the_named_one_out(scene):
    """Else one equivocator would make every attestation impossible."""
    versions = [scene.seal(number=n) for n in range(2 * MAX_FETCHED)]
    named = scene.seal(number=99)
    scene.store.versions[named.key] = [one.to_bytes() for one in versions]
    for _ in versions:
        assert await scene.fetch(named) == {}
    scene.peers.answers[make_key(2).peer_id] = [named.to_bytes()]
    assert await scene.fetch(named) == {get_name(named): named}
    assert all(scene.journal.find_by_name(get_name(one)) is None for one in versions)


async def test_versions_of_a_sighting_that_nobody_names_are_bounded(scene):
    versions = [scene.seal(number=n, kind=RecordKind.SIGHTING) for n in range(2 * MAX_FETCHED)]
    scene.store.versions[versions[0].key] = [one.to_bytes() for one in versions]
    for _ in versions:
        await scene.gatherer.fetch_slots([(RecordKind.SIGHTING, EPOCH, 3)])
    kept = [one for one in versions if scene.journal.find_by_name(get_name(one)) is not None]
    assert len(kept) == MAX_FETCHED
    named = scene.seal(number=99, kind=RecordKind.SIGHTING)
    scene.peers.answers[make_key(2).peer_id] = [named.to_bytes()]
    assert await scene.fetch(named) == {get_name(named): named}


async def test_what_was_fetched_is_there_after_a_restart(scene):
    record = scene.seal()
    scene.peers.answers[make_key(2).peer_id] = [record.to_bytes()]
    await scene.fetch(record)
    disk = scene.journal._log._connection
    again = Journal.load(disk, owner=b"owner", run=run_inline)
    assert again.find_by_name(get_name(record)) == record
