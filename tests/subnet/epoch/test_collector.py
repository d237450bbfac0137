"""What stores answer is judged like what they store, and journaled with the head it took."""

import asyncio

import pytest

from consensus import records
from consensus.errors import Reason
from consensus.records import OutputCommit, RecordKind
from consensus.types import LayerRange
from keys.envelope import compute_record_key, seal
from mesh.errors import RecordRefused, TransportError
from subnet.epoch import collector
from subnet.epoch.collector import Collector
from subnet.epoch.observer import RecordDropped, RecordSeen
from subnet.epoch.record_policy import ConsensusRecordPolicy
from tests.support.fakes import FakeChain
from tests.support.node import (
    NETWORK_ID,
    make_context,
    make_journal,
    make_key,
    make_roster_node,
)

KIND = RecordKind.OUTPUT_COMMIT
BODY = records.encode_output_commit(OutputCommit(b"s" * 32, LayerRange(0, 2), b"c" * 32))


class AnsweringStore:
    """A store that answers what the test tells it to, whatever the key."""

    def __init__(self):
        self.answers = {}
        self.on_fetch = lambda: None

    async def publish(self, key, value, expires_at):
        raise AssertionError("nothing is published here")

    async def fetch(self, keys, *, timeout_s):
        self.on_fetch()
        return dict(self.answers)


class Scene:
    async def setup(self):
        self.chain = FakeChain((make_roster_node(1), make_roster_node(2)), height=6)
        self.journal = make_journal()
        self.store, self.events = AnsweringStore(), []
        context = make_context(
            self.chain, 1, journal=self.journal, store=self.store, observe=self.events.append
        )
        self.rosters = context.rosters
        await self.rosters.locate(self.chain.get_block(6))
        await self.rosters.refresh(self.chain.position)
        self.collector = Collector(context, get_position=lambda: self.chain.position)
        return self

    def make_record(self, author=1, **changes):
        fields = {
            "kind": KIND,
            "network_id": NETWORK_ID,
            "epoch": 0,
            "expires_at": self.rosters.table.entries[0].expires_at,
            "node_id": author,
            "body": BODY,
        }
        return seal(make_key(author), **(fields | changes)).to_bytes()

    def make_key(self, author=1):
        return compute_record_key(NETWORK_ID, KIND, 0, make_key(author).peer_id)

    async def read(self):
        await asyncio.gather(*self.collector.begin(self.chain.position))
        return self.journal.get_timed_records(0)


@pytest.fixture
async def scene():
    return await Scene().setup()


async def test_a_record_is_journaled_with_the_head_at_which_it_was_seen(scene):
    scene.store.answers = {scene.make_key(): scene.make_record()}
    seen = await scene.read()
    assert seen[KIND, 1].seen_at == 6
    assert seen[KIND, 1].envelope.to_bytes() == scene.make_record()
    assert [type(event) for event in scene.events] == [RecordSeen]


async def test_a_commit_counts_by_the_head_at_which_it_arrived(scene):
    def slow_down():
        scene.chain.height = 10

    scene.store.on_fetch = slow_down
    scene.store.answers = {scene.make_key(): scene.make_record()}
    seen = await scene.read()
    assert seen[KIND, 1].seen_at == 10


async def test_second_record_for_the_same_slot_is_ignored(scene):
    scene.store.answers = {scene.make_key(): scene.make_record()}
    await scene.read()
    other = OutputCommit(b"s" * 32, LayerRange(0, 2), b"d" * 32)
    scene.store.answers = {
        scene.make_key(): scene.make_record(body=records.encode_output_commit(other))
    }
    seen = await scene.read()
    assert seen[KIND, 1].envelope.body == BODY


async def test_wrong_author_is_dropped_with_a_reason(scene):
    """A store answers with another node's record under the key that was asked for."""
    scene.store.answers = {scene.make_key(1): scene.make_record(2)}
    assert not await scene.read()
    (event,) = scene.events
    assert isinstance(event, RecordDropped) and event.error.reason is Reason.WRONG_KEY


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"epoch": 1}, Reason.UNKNOWN_EPOCH),
        ({"expires_at": 5}, Reason.WRONG_EXPIRY),
        ({"node_id": 2}, Reason.WRONG_AUTHOR),
        ({"network_id": b"x" * 32}, Reason.WRONG_NETWORK),
        ({"body": BODY + b"\0"}, Reason.WRONG_SIZE),
        ({"kind": RecordKind.AUDIT_COMMIT, "body": b"c" * 64}, Reason.WRONG_KEY),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_what_is_not_admitted_is_dropped_with_a_reason(scene, change, reason):
    scene.store.answers = {scene.make_key(): scene.make_record(**change)}
    assert not await scene.read()
    assert [event.error.reason for event in scene.events] == [reason]


async def test_garbage_and_answers_to_no_question_are_dropped(scene):
    scene.store.answers = {scene.make_key(): b"garbage", b"other key": scene.make_record()}
    assert not await scene.read()
    assert len(scene.events) == 1


async def test_what_is_being_read_is_not_asked_for_again_and_the_rest_is(scene):
    """A slow store delays no later reading, and does not pile them up."""
    first = scene.collector.begin(scene.chain.position)
    kinds = {KIND, RecordKind.CHALLENGE}
    assert len(first) == len(kinds)
    assert not scene.collector.begin(scene.chain.position)
    challenge = first.pop(0)
    await asyncio.gather(challenge)
    again = scene.collector.begin(scene.chain.position)
    assert len(again) == 1
    await asyncio.gather(*first, *again)
    last = scene.collector.begin(scene.chain.position)
    assert len(last) == len(kinds)
    await asyncio.gather(*last)


async def test_readings_are_bounded(scene, monkeypatch):
    monkeypatch.setattr(collector, "MAX_KEYS_PER_READ", 1)
    monkeypatch.setattr(collector, "MAX_READINGS", 3)
    readings = scene.collector.begin(scene.chain.position)
    assert len(readings) == 3
    assert not scene.collector.begin(scene.chain.position)
    await asyncio.gather(*readings)


async def test_a_store_that_cannot_be_reached_is_said_and_asked_again(scene):
    def fail():
        raise TransportError("no route")

    scene.store.on_fetch = fail
    await scene.read()
    assert {event.what for event in scene.events} == {"records"}
    scene.store.on_fetch = lambda: None
    scene.store.answers = {scene.make_key(): scene.make_record()}
    assert await scene.read()


async def test_what_was_seen_is_not_read_again(scene):
    scene.store.answers = {
        scene.make_key(node_id): scene.make_record(node_id) for node_id in (1, 2)
    }
    await scene.read()
    wanted = {slot.kind for slot in scene.collector.list_wanted(scene.chain.position)}
    assert wanted == {RecordKind.CHALLENGE}


def test_the_policy_names_the_reason_and_delegates_heartbeats():
    chain = FakeChain((make_roster_node(1),))
    rosters = make_context(chain, 1, journal=make_journal()).rosters
    policy = ConsensusRecordPolicy(
        lambda: rosters.table, admit_heartbeat=lambda value, expires_at: b"heartbeat key"
    )
    record = {"network_id": NETWORK_ID, "epoch": 0, "expires_at": 9, "node_id": 1, "body": b""}
    heartbeat = seal(make_key(1), kind=RecordKind.HEARTBEAT, **record).to_bytes()
    assert policy.admit(heartbeat, 9.0) == b"heartbeat key"
    commit = seal(make_key(1), kind=RecordKind.OUTPUT_COMMIT, **record).to_bytes()
    for value, reason in ((commit, "unknown_epoch"), (b"", "wrong_size"), (b"x" * 9, "wrong_size")):
        with pytest.raises(RecordRefused) as refusal:
            policy.admit(value, 9.0)
        assert refusal.value.reason == reason
