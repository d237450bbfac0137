"""Who is probed: whoever committed, over what was committed to."""

from __future__ import annotations

from consensus.evidence import TimedRecord
from consensus.records import OutputCommit, RecordKind, encode_output_commit
from consensus.roster import Roster
from consensus.types import BlockNumber, Epoch, LayerRange, NodeClass
from subnet.epoch.author import Author
from subnet.epoch.rosters import Rosters
from subnet.probing.prober import ProbeTarget
from subnet.probing.targets import is_validator, list_targets
from tests.support.fakes import FakeChain, FakeReader
from tests.support.node import make_journal, make_key, make_roster_node, make_terms

NODES = (
    make_roster_node(1),
    make_roster_node(2),
    make_roster_node(3, NodeClass.INCLUDED),
    make_roster_node(4),
)


class Scene:
    """The journal of node 1 and what it has read."""

    def __init__(self):
        self.chain = FakeChain(NODES)
        self.terms = make_terms(self.chain)
        self.journal = make_journal()
        reader = FakeReader(self.chain)
        self.rosters = Rosters(self.terms, reader=reader, journal=self.journal)

    async def see_roster(self, epoch, nodes=NODES):
        block = self.chain.get_block(20 * epoch)
        roster = Roster(Epoch(epoch), block.number, block.block_hash, block.timestamp_s, nodes)
        await self.journal.record_roster(roster)
        return roster

    async def see_commit(self, roster, node_id, start, end):
        author = Author(self.terms, make_key(node_id), node_id)
        body = encode_output_commit(OutputCommit(b"s" * 32, LayerRange(start, end), b"c" * 32))
        record = TimedRecord(
            author.seal(RecordKind.OUTPUT_COMMIT, roster, body), BlockNumber(roster.first_block + 4)
        )
        await self.journal.record_seen([record])

    def list(self, own=1):
        peer = make_key(own).peer_id
        return dict(list_targets(self.rosters, self.journal, own=peer, num_layers=4))


def target(node_id, start, end):
    return ProbeTarget(node_id, make_key(node_id).peer_id, LayerRange(start, end))


async def test_hosters_are_asked_for_what_they_committed_to_last():
    scene = Scene()
    before, now = await scene.see_roster(4), await scene.see_roster(5)
    await scene.see_commit(before, 2, 0, 2)
    await scene.see_commit(before, 3, 0, 4)
    await scene.see_commit(now, 2, 2, 4)
    assert scene.list() == {2: target(2, 2, 4), 3: target(3, 0, 4)}


async def test_neither_itself_nor_who_left_nor_a_range_beyond_the_model_is_probed():
    scene = Scene()
    before = await scene.see_roster(4)
    await scene.see_roster(5, NODES[:3])
    for node_id, end in ((1, 4), (2, 5), (3, 4), (4, 4)):
        await scene.see_commit(before, node_id, 0, end)
    assert scene.list() == {3: target(3, 0, 4)}


async def test_commits_of_older_epochs_count_no_more():
    scene = Scene()
    await scene.see_commit(await scene.see_roster(3), 2, 0, 4)
    await scene.see_roster(4)
    await scene.see_roster(5)
    assert scene.list() == {}


async def test_only_nodes_of_class_validator_probe():
    scene = Scene()
    assert not is_validator(scene.rosters, make_key(1).peer_id)
    assert scene.list() == {}
    await scene.see_roster(5)
    asked = [is_validator(scene.rosters, make_key(number).peer_id) for number in (1, 2, 3, 9)]
    assert asked == [True, True, False, False]
