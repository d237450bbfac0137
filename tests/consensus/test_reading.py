"""What is read at each head, and which windows that observes."""

import pytest

from consensus.evidence import TimedRecord
from consensus.phases import compute_schedule
from consensus.protocol_params import MAINNET
from consensus.reading import (
    ReadingView,
    compute_observed,
    compute_seen_offset,
    compute_wanted,
    is_urgent,
)
from consensus.records import RecordKind
from consensus.roster import Roster, RosterNode
from consensus.types import NodeClass
from consensus.view import Window
from keys.envelope import seal
from keys.peer import PeerKey

KEY = PeerKey(b"\1" * 32)
SCHEDULE = compute_schedule(20, MAINNET)
COMMIT, REVEAL = RecordKind.OUTPUT_COMMIT, RecordKind.OUTPUT_REVEAL


def make_node(node_id, node_class=NodeClass.VALIDATOR, peer_id=KEY.peer_id):
    return RosterNode(node_id, peer_id, b"c" * 20, b"h" * 20, node_class, 0)


def make_roster(epoch):
    nodes = (make_node(1), make_node(2), make_node(3, NodeClass.IDLE), make_node(4, peer_id=None))
    return Roster(epoch, 20 * epoch, b"h" * 32, 1000, nodes)


def see(kind, node_id, *, epoch=5, offset=5):
    envelope = seal(
        KEY, kind=kind, network_id=bytes(32), epoch=epoch, expires_at=9, node_id=node_id, body=b""
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


def test_all_included_nodes_commits_are_looked_for_until_they_are_late_beyond_doubt():
    both = {(COMMIT, 5, 1), (COMMIT, 5, 2)}
    assert [offset for offset in range(20) if list_wanted(offset) >= both] == list(range(3, 11))
    assert list_wanted(5, see(COMMIT, 1)) == {(COMMIT, 5, 2)}


def test_the_challenge_is_looked_for_until_one_is_seen():
    wanted = list_wanted(1, is_challenge_seen=False)
    assert wanted == {(RecordKind.CHALLENGE, 5, 1), (RecordKind.CHALLENGE, 5, 2)}
    assert not list_wanted(10, see(COMMIT, 1) | see(COMMIT, 2), is_challenge_seen=False)


def test_reveals_are_looked_for_where_there_is_a_commit():
    seen = see(COMMIT, 1)
    assert [o for o in range(20) if (REVEAL, 5, 1) in list_wanted(o, seen)] == [11, 12, 13]
    assert (REVEAL, 5, 2) not in list_wanted(11, seen)
    assert (REVEAL, 5, 1) not in list_wanted(11, seen | see(REVEAL, 1))


def test_score_reveals_of_the_last_epoch_are_looked_for_with_the_reveals_of_this_one():
    previous = see(RecordKind.SCORE_COMMIT, 2, epoch=4, offset=15)
    slot = (RecordKind.SCORE_REVEAL, 4, 2)
    assert [o for o in range(20) if slot in list_wanted(o, None, previous)] == [11, 12, 13]


def test_score_commits_of_hosters_are_not_looked_for():
    seen = see(COMMIT, 1) | see(COMMIT, 2, offset=10)
    slots = {(RecordKind.SCORE_COMMIT, 5, 2)}
    seen |= see(RecordKind.SIGHTING, 1) | see(RecordKind.SIGHTING, 2)
    assert [o for o in range(20) if list_wanted(o, seen) == slots] == list(range(14, 20))


def test_sightings_are_looked_for_until_the_epoch_ends():
    both = {(RecordKind.SIGHTING, 5, 1), (RecordKind.SIGHTING, 5, 2)}
    assert [o for o in range(20) if both <= list_wanted(o)] == list(range(13, 20))


@pytest.mark.parametrize(
    ("began_at", "ended_at", "windows"),
    [
        (5, 5, set()),
        (6, 6, {Window.COMMITS}),
        (9, 9, {Window.COMMITS}),
        (9, 10, set()),
        (10, 10, set()),
        (11, 11, {Window.REVEALS}),
        (12, 15, {Window.REVEALS, Window.SCORES}),
        (13, 13, set()),
        (15, 15, {Window.SCORES}),
        (18, 18, {Window.SCORES}),
        (18, 19, set()),
        (18, 20, set()),
    ],
)
def test_a_window_is_observed_by_a_reading_near_its_end(began_at, ended_at, windows):
    assert compute_observed(SCHEDULE, began_at=began_at, ended_at=ended_at) == windows


@pytest.mark.parametrize("length", range(20, 301, 7))
def test_every_window_can_be_observed_at_every_length(length):
    schedule = compute_schedule(length, MAINNET)
    observed = [compute_observed(schedule, began_at=o, ended_at=o) for o in range(length)]
    assert frozenset().union(*observed) == set(Window)
    for offset, windows in enumerate(observed):
        assert Window.COMMITS not in windows or schedule.is_on_time(COMMIT, offset)
        assert Window.REVEALS not in windows or schedule.is_on_time(REVEAL, offset)


def test_reading_is_urgent_in_the_last_grace_before_every_cut_off():
    assert [o for o in range(20) if is_urgent(SCHEDULE, o)] == [9, 11, 12, 13, 14, 18]


def test_a_slow_reading_makes_a_commit_late_but_not_a_reveal():
    assert compute_seen_offset(COMMIT, began_at=9, ended_at=10) == 10
    assert compute_seen_offset(REVEAL, began_at=12, ended_at=13) == 12
