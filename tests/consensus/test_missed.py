"""Every duty that is owed and not done is named once its time is over, and nothing else is."""

import pytest

from consensus.missed import Missed, OwedDuty, list_missed
from consensus.records import RecordKind
from consensus.types import NodeClass, Role
from consensus.view import SubmissionSeen
from tests.consensus.test_duties import (
    AUDITED,
    COMMITTED,
    EPOCH,
    OTHER,
    OWN,
    SCORED,
    make_roster,
    make_view,
    own,
)

PROPOSED = SubmissionSeen(OTHER, frozenset({OTHER, OWN}))
BEFORE = EPOCH - 1
DONE_BEFORE = {
    (RecordKind.OUTPUT_COMMIT, BEFORE): True,
    (RecordKind.OUTPUT_REVEAL, BEFORE): True,
    (RecordKind.AUDIT_COMMIT, BEFORE): True,
    (RecordKind.AUDIT_REVEAL, BEFORE): True,
    (RecordKind.SIGHTING, BEFORE): True,
}


def list_at(offset, *, own_records=None, **changes):
    changes = {"previous_submission": PROPOSED, "is_challenge_seen": True} | changes
    view = make_view(offset, own_records=DONE_BEFORE | (own_records or {}), **changes)
    return {(missed.duty, missed.epoch) for missed in list_missed(view)}


@pytest.mark.parametrize(
    ("duty", "first", "changes"),
    [
        (OwedDuty.OUTPUT_COMMIT, 7, {}),
        (OwedDuty.SIGHTING, 19, {}),
        (OwedDuty.OUTPUT_REVEAL, 15, {"own_records": COMMITTED}),
        (OwedDuty.SCORE_REVEAL, 15, {"own_records": SCORED}),
        (OwedDuty.AUDIT_COMMIT, 11, {"role": Role.VALIDATOR}),
        (OwedDuty.AUDIT_REVEAL, 15, {"role": Role.VALIDATOR, "own_records": AUDITED}),
        (
            OwedDuty.CHALLENGE,
            7,
            {"is_challenge_seen": False, "elections": {EPOCH: OWN, BEFORE: OTHER}},
        ),
    ],
    ids=lambda value: value.name if isinstance(value, OwedDuty) else "",
)
def test_a_record_is_missed_from_the_head_on_at_which_it_may_leave_no_more(duty, first, changes):
    offsets = [o for o in range(20) if (duty, EPOCH) in list_at(o, **changes)]
    assert offsets == list(range(first, 20))


def test_what_was_done_is_not_missed():
    done = dict.fromkeys(COMMITTED | AUDITED | SCORED | own(RecordKind.SIGHTING), True)
    for role in Role:
        assert not list_at(19, role=role, own_records=done)


def test_a_record_that_no_replica_holds_is_missed_with_that_reason():
    view = make_view(7, own_records=DONE_BEFORE | own(RecordKind.OUTPUT_COMMIT))
    found = [missed for missed in list_missed(view) if missed.epoch == EPOCH]
    assert found == [Missed(OwedDuty.OUTPUT_COMMIT, EPOCH, "no replica has acknowledged it")]


@pytest.mark.parametrize(
    ("changes", "clue"),
    [
        ({"is_stale": True}, "the epoch's first block was not final in time"),
        ({"is_clock_right": False}, "chain time and this machine's clock differ"),
        ({}, "this node was not running, or its chain did not answer, while it could be done"),
    ],
)
def test_the_view_tells_why(changes, clue):
    found = [m for m in list_missed(make_view(7, **changes)) if m.epoch == EPOCH]
    assert [(missed.duty, missed.clue) for missed in found] == [(OwedDuty.OUTPUT_COMMIT, clue)]


@pytest.mark.parametrize(
    "changes",
    [
        {"elections": {EPOCH: None, BEFORE: OTHER}},
        {"roster": make_roster(own_class=NodeClass.IDLE)},
        {"roster": None},
        {"role": Role.VALIDATOR, "has_auditor": False, "roster": make_roster(own_class=2)},
    ],
    ids=["no election", "idle", "roster unknown", "light and Included"],
)
def test_what_is_not_owed_is_not_missed(changes):
    assert not {missed for missed in list_at(19, **changes) if missed[1] == EPOCH}


def test_an_elected_node_that_did_not_propose_is_told_when_the_epoch_is_over():
    elections = {EPOCH: OTHER, BEFORE: OWN}
    assert (OwedDuty.PROPOSE, BEFORE) in list_at(0, elections=elections, previous_submission=None)
    assert not list_at(0, elections=elections)
    assert not list_at(0, previous_submission=None)
    unread = {"previous_submission": None, "is_previous_settled": False}
    assert not list_at(0, elections=elections, **unread)


def test_a_proposal_that_was_neither_attested_nor_refused_is_a_missed_duty():
    alone = SubmissionSeen(OTHER, frozenset({OTHER}))
    assert list_at(0, previous_submission=alone) == {(OwedDuty.ATTEST, BEFORE)}
    assert not list_at(0, previous_submission=alone, refused=frozenset({BEFORE}))
    included = make_roster(BEFORE, own_class=NodeClass.INCLUDED)
    assert not list_at(0, previous_submission=alone, previous_roster=included)


def test_a_node_without_a_hotkey_is_told_so():
    view = make_view(
        0,
        own_records=DONE_BEFORE,
        has_hotkey=False,
        previous_submission=SubmissionSeen(OTHER, frozenset({OTHER})),
    )
    assert [missed.clue for missed in list_missed(view)] == ["no hotkey was given"]


def test_a_node_that_was_down_in_the_last_epoch_is_told_what_that_cost():
    view = make_view(2, role=Role.VALIDATOR, previous_submission=PROPOSED)
    found = {missed.duty for missed in list_missed(view)}
    assert found == {OwedDuty.AUDIT_COMMIT, OwedDuty.SIGHTING}
