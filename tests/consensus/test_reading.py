"""What is read at each head, and as of when it counts."""

import pytest

from consensus.evidence import TimedRecord
from consensus.phases import compute_schedule
from consensus.protocol_params import MAINNET
from consensus.reading import (
    ReadingView,
    compute_seen_offset,
    compute_wanted,
    is_urgent,
)
from consensus.records import RecordKind
from consensus.roster import Roster, RosterNode
from consensus.types import NodeClass
from keys.envelope import seal
from keys.peer import PeerKey

KEY = PeerKey(b"\1" * 32)
SCHEDULE = compute_schedule(20, MAINNET)
COMMIT, REVEAL = RecordKind.OUTPUT_COMMIT, RecordKind.OUTPUT_REVEAL
AUDIT_COMMIT, AUDIT_REVEAL = RecordKind.AUDIT_COMMIT, RecordKind.AUDIT_REVEAL
SIGHTING = RecordKind.SIGHTING


def make_node(node_id, node_class=NodeClass.VALIDATOR, peer_id=KEY.peer_id):
    return RosterNode(node_id, peer_id, b"c" * 20, b"h" * 20, node_class, 0)


def make_roster(epoch):
    nodes = (make_node(1), make_node(2), make_node(3, NodeClass.IDLE), make_node(4, peer_id=None))
    return Roster(epoch, 20 * epoch, b"h" * 32, 1000, nodes)


def see(kind, node_id, *, epoch=5, offset=5, body=b""):
    envelope = seal(
        KEY, kind=kind, network_id=bytes(32), epoch=epoch, expires_at=9, node_id=node_id, body=body
    )
    return {(kind, node_id): TimedRecord(envelope, 20 * epoch + offset)}


def list_wanted(offset, sightings=None, previous=None, *, is_challenge_seen=True):
    wanted = compute_wanted(
        ReadingView(
            offset=offset,
            schedule=SCHEDULE,
            roster=make_roster(5),
            sightings=sightings or {},
            previous_roster=make_roster(4),
            previous_sightings=previous or {},
            is_challenge_seen=is_challenge_seen,
        )
    )
    return {(slot.kind, slot.epoch, slot.node_id) for slot in wanted}


def list_read_offsets(slots, sightings=None, previous=None):
    return [o for o in range(20) if slots <= list_wanted(o, sightings, previous)]


def test_all_included_nodes_commits_are_looked_for_until_they_are_late_beyond_doubt():
    both = {(COMMIT, 5, 1), (COMMIT, 5, 2)}
    assert list_read_offsets(both) == list(range(3, 9))
    assert list_wanted(5, see(COMMIT, 1)) == {(COMMIT, 5, 2)}


def test_the_challenge_is_looked_for_until_one_is_seen():
    wanted = list_wanted(1, is_challenge_seen=False)
    assert wanted == {(RecordKind.CHALLENGE, 5, 1), (RecordKind.CHALLENGE, 5, 2)}
    assert not list_wanted(8, see(COMMIT, 1) | see(COMMIT, 2), is_challenge_seen=False)


def test_audit_commits_are_looked_for_of_nodes_that_host_nothing():
    seen = see(COMMIT, 1)
    assert list_read_offsets({(AUDIT_COMMIT, 5, 2)}, seen) == [9, 10, 11, 12]
    assert (AUDIT_COMMIT, 5, 1) not in list_wanted(10, seen)
    # A commit that came late still says that the node hosts.
    assert (AUDIT_COMMIT, 5, 1) not in list_wanted(10, see(COMMIT, 1, offset=8))


@pytest.mark.parametrize(("commit", "reveal"), [(COMMIT, REVEAL), (AUDIT_COMMIT, AUDIT_REVEAL)])
def test_reveals_are_looked_for_where_there_is_a_commit(commit, reveal):
    seen = see(commit, 1)
    assert list_read_offsets({(reveal, 5, 1)}, seen) == [13, 14, 15]
    assert (reveal, 5, 2) not in list_wanted(13, seen)
    assert (reveal, 5, 1) not in list_wanted(13, seen | see(reveal, 1))


def test_a_node_that_was_down_while_commits_travelled_looks_for_all_reveals():
    assert {(REVEAL, 5, 1), (REVEAL, 5, 2)} <= list_wanted(13)
    hosting = see(COMMIT, 1)
    assert (AUDIT_REVEAL, 5, 2) in list_wanted(13, hosting)
    assert (AUDIT_REVEAL, 5, 1) not in list_wanted(13, hosting)


def test_score_reveals_of_the_last_epoch_are_looked_for_with_the_reveals_of_this_one():
    slot = (RecordKind.SCORE_REVEAL, 4, 2)
    assert list_read_offsets({slot}) == [13, 14, 15]
    promised = see(SIGHTING, 2, epoch=4, body=b"c" * 32)
    assert list_read_offsets({slot}, None, promised) == [13, 14, 15]
    assert list_read_offsets({slot}, None, see(SIGHTING, 2, epoch=4, body=bytes(32))) == []


def test_sightings_are_looked_for_until_the_epoch_ends():
    assert list_read_offsets({(SIGHTING, 5, 1), (SIGHTING, 5, 2)}) == list(range(15, 20))


@pytest.mark.parametrize("length", range(20, 301, 7))
def test_whatever_a_sighting_lists_is_read_in_the_last_moment_in_which_it_counts(length):
    schedule = compute_schedule(length, MAINNET)
    for kind in set(RecordKind) & schedule.windows.keys() - {RecordKind.NAMED_LIST}:
        last = schedule.windows[kind].counts_until - 1
        assert schedule.is_read(kind, last)
        assert kind is RecordKind.CHALLENGE or is_urgent(schedule, last)


def test_reading_is_urgent_in_the_last_grace_before_every_cut_off():
    assert [o for o in range(20) if is_urgent(SCHEDULE, o)] == [7, 11, 13, 14, 15, 16]


@pytest.mark.parametrize("kind", [COMMIT, AUDIT_COMMIT, SIGHTING])
def test_a_slow_reading_makes_a_commitment_late(kind):
    assert compute_seen_offset(kind, began_at=9, ended_at=10) == 10


@pytest.mark.parametrize("kind", [REVEAL, AUDIT_REVEAL, RecordKind.SCORE_REVEAL])
def test_a_slow_reading_does_not_make_a_reveal_late(kind):
    assert compute_seen_offset(kind, began_at=12, ended_at=13) == 12
