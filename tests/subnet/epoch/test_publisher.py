"""A record is sealed for its epoch and journaled before any store sees it."""

import pytest

from consensus.records import RecordKind
from consensus.roster import Roster
from subnet.epoch.publisher import Publisher
from subnet.errors import DutyPostponed
from tests.support.fakes import FakeChain
from tests.support.node import make_context, make_journal, make_key, make_roster_node

COMMIT, REVEAL = RecordKind.OUTPUT_COMMIT, RecordKind.OUTPUT_REVEAL


class WatchedStore:
    """Notes what the journal holds when a record comes."""

    def __init__(self, journal):
        self.journal = journal
        self.published = []
        self.has_replica = True

    async def publish(self, key, value, expires_at):
        assert value in [own.envelope.to_bytes() for own in self.journal.own_records.values()]
        self.published.append(value)
        return self.has_replica


class Scene:
    def __init__(self):
        chain = FakeChain((make_roster_node(1),))
        self.journal = make_journal()
        self.store = WatchedStore(self.journal)
        self.publisher = Publisher(make_context(chain, 1, journal=self.journal, store=self.store))
        self.roster = Roster(5, 100, b"h" * 32, 1000, chain.nodes)

    async def issue(self):
        await self.publisher.issue(self.roster, COMMIT, b"commit", reveal=(REVEAL, b"reveal"))


@pytest.fixture
def scene():
    return Scene()


async def test_commit_and_reveal_are_sealed_for_their_epoch_and_the_commit_is_published(scene):
    await scene.issue()
    own = scene.journal.own_records
    for kind, body in ((COMMIT, b"commit"), (REVEAL, b"reveal")):
        envelope = own[kind, 5].envelope
        envelope.check_signature()
        assert (envelope.kind, envelope.epoch, envelope.node_id) == (kind, 5, 1)
        assert envelope.author == make_key(1).peer_id
        assert (envelope.body, envelope.expires_at) == (body, 1000 + 3 * 20 * 6)
    assert scene.store.published == [own[COMMIT, 5].envelope.to_bytes()]
    assert own[COMMIT, 5].is_acknowledged and not own[REVEAL, 5].is_acknowledged


async def test_a_record_that_no_replica_holds_stays_due(scene):
    scene.store.has_replica = False
    with pytest.raises(DutyPostponed):
        await scene.issue()
    assert not scene.journal.own_records[COMMIT, 5].is_acknowledged
