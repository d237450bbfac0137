"""Rosters are read once, when they are final, and never admit a stranger by themselves."""

import sqlite3

import pytest

from consensus.types import NodeClass
from subnet.epoch.heads import is_clock_right
from subnet.epoch.rosters import Rosters
from subnet.errors import ChainUnavailable
from subnet.journal.journal import Journal
from subnet.simulation.inline_runner import run_inline
from tests.support.fakes import PARAMS, START_S, FakeChain, FakeReader
from tests.support.node import NETWORK_ID, make_key, make_roster_node, make_terms

NODES = (make_roster_node(1), make_roster_node(2, NodeClass.IDLE))


@pytest.fixture
def chain():
    return FakeChain(NODES, slot=3, height=3)


def make_rosters(chain, disk=None):
    disk = disk or sqlite3.connect(":memory:", isolation_level=None)
    journal = Journal.load(disk, owner=b"owner", run=run_inline)
    return Rosters(make_terms(chain), reader=FakeReader(chain), journal=journal)


async def refresh(rosters, chain):
    position = await rosters.locate(chain.get_block(chain.height))
    await rosters.refresh(position)
    return position


async def test_a_roster_is_read_when_its_first_block_is_final(chain):
    rosters = make_rosters(chain)
    position = await refresh(rosters, chain)
    assert (position.epoch, position.offset) == (0, 0)
    assert rosters.get_roster(0) is None
    chain.height += chain.finality_lag
    await refresh(rosters, chain)
    roster = rosters.get_roster(0)
    assert roster.nodes == NODES
    assert roster.block_hash == chain.get_block(3).block_hash
    assert roster.timestamp_s == START_S + 18


async def test_a_roster_does_not_change_within_its_epoch(chain):
    rosters = make_rosters(chain)
    chain.height = 10
    await refresh(rosters, chain)
    chain.nodes = (make_roster_node(7),)
    chain.height = 15
    await refresh(rosters, chain)
    assert rosters.get_roster(0).nodes == NODES


async def test_a_node_that_starts_late_reads_the_epochs_whose_records_live(chain):
    chain.height = 3 + 5 * 20 + 1
    rosters = make_rosters(chain)
    await refresh(rosters, chain)
    assert [rosters.get_roster(epoch) is not None for epoch in (2, 3, 4, 5)] == [
        False,
        True,
        True,
        False,
    ]
    assert set(rosters.table.entries) == {3, 4}
    assert set(rosters.elections) == {3, 4, 5}


async def test_rosters_survive_a_restart_and_admission_with_them(chain):
    disk = sqlite3.connect(":memory:", isolation_level=None)
    chain.height = 10
    await refresh(make_rosters(chain, disk), chain)
    rosters = make_rosters(chain, disk)
    assert rosters.get_roster(0).nodes == NODES
    entry = rosters.table.entries[0]
    assert entry.expires_at == START_S + 18 + 3 * 20 * 6
    assert entry.authors == {make_key(1).peer_id: 1}
    assert rosters.table.network_id == NETWORK_ID


async def test_finality_after_the_deadline_is_stale_for_the_whole_epoch(chain):
    chain.finality_lag, chain.height = 7, 3 + 6
    rosters = make_rosters(chain)
    await refresh(rosters, chain)
    chain.height += 1
    position = await refresh(rosters, chain)
    assert rosters.get_roster(0) is not None
    assert rosters._journal.is_stale(position.epoch)


async def test_an_election_may_change_until_it_is_final(chain):
    chain.elect = lambda epoch: 1
    rosters = make_rosters(chain)
    await refresh(rosters, chain)
    assert rosters.elections == {0: 1}
    chain.elect, chain.height = lambda epoch: 2, 5
    await refresh(rosters, chain)
    assert rosters.elections == {0: 2}
    chain.elect, chain.height = lambda epoch: 1, 6
    await refresh(rosters, chain)
    assert rosters.elections == {0: 2}


async def test_a_subnet_without_a_slot_has_no_epochs(chain):
    chain.slot = None
    rosters = make_rosters(chain)
    assert await rosters.locate(chain.get_block(5)) is None
    chain.slot = 3
    assert (await rosters.locate(chain.get_block(5))).offset == 2


async def test_the_draw_is_the_hash_of_audits_first_block_once_that_is_final(chain):
    chain.height = 3 + 8 + chain.finality_lag - 1
    rosters = make_rosters(chain)
    await refresh(rosters, chain)
    assert not rosters._journal.draws
    chain.height += 1
    await refresh(rosters, chain)
    assert rosters._journal.draws == {0: chain.get_block(3 + 8).block_hash}


async def test_a_node_that_was_down_reads_the_draw_of_the_epoch_before(chain):
    chain.height = 3 + 5 * 20 + 1
    rosters = make_rosters(chain)
    await refresh(rosters, chain)
    assert rosters._journal.draws == {4: chain.get_block(3 + 4 * 20 + 8).block_hash}


async def test_an_outage_is_raised_and_changes_nothing(chain):
    chain.height = 10
    rosters = make_rosters(chain)
    await refresh(rosters, chain)
    chain.is_down, chain.height = True, 30
    with pytest.raises(ChainUnavailable):
        await refresh(rosters, chain)
    assert rosters.get_roster(0).nodes == NODES


@pytest.mark.parametrize(("skew_s", "is_right"), [(0, True), (30, True), (-30, True), (31, False)])
def test_a_clock_more_than_thirty_seconds_off_is_wrong(chain, skew_s, is_right):
    head = chain.get_block(10)
    assert is_clock_right(head, now_s=head.timestamp_s + skew_s, params=PARAMS) is is_right
