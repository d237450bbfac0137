"""The duties of an epoch, how far they are, and when a node can be stopped at no cost."""

import pytest

from consensus.missed import OwedDuty
from consensus.owed import Progress, explain_stay, explain_unable, list_duties_now
from consensus.records import RecordKind
from consensus.types import NodeClass, Role
from consensus.view import SubmissionSeen
from tests.consensus.test_duties import (
    COMMITTED,
    EPOCH,
    OTHER,
    OWN,
    SCORED,
    make_roster,
    make_view,
    own,
)

BEFORE = EPOCH - 1
ATTESTED = SubmissionSeen(OTHER, frozenset({OTHER, OWN}))
DONE = dict.fromkeys(COMMITTED | SCORED | own(RecordKind.SIGHTING), True)


def progress(offset, **changes):
    changes = {"is_challenge_seen": True, "submission": ATTESTED} | changes
    return {now.duty: now.progress for now in list_duties_now(make_view(offset, **changes))}


def find_stay(view):
    return explain_stay(view, list_duties_now(view))


def test_a_commit_is_later_then_due_then_missed_and_its_reveal_goes_with_it():
    found = [progress(offset)[OwedDuty.OUTPUT_COMMIT] for offset in range(20)]
    assert found == [Progress.LATER] * found.count(Progress.LATER) + [Progress.DUE] * found.count(
        Progress.DUE
    ) + [Progress.MISSED] * found.count(Progress.MISSED)
    assert all(found.count(each) for each in (Progress.LATER, Progress.DUE, Progress.MISSED))
    # Without a commit there is nothing to reveal.
    assert OwedDuty.OUTPUT_REVEAL in progress(0) and OwedDuty.OUTPUT_REVEAL not in progress(19)
    assert progress(19, own_records=COMMITTED)[OwedDuty.OUTPUT_REVEAL] is Progress.MISSED
    assert progress(19, own_records=DONE)[OwedDuty.OUTPUT_REVEAL] is Progress.DONE


def test_stopping_costs_something_until_the_last_duty_of_the_epoch_is_done():
    for offset in range(20):
        view = make_view(offset, own_records=DONE, submission=ATTESTED, is_challenge_seen=True)
        assert find_stay(view) is None
    unproposed = make_view(3, own_records=DONE, submission=None, is_challenge_seen=True)
    assert find_stay(unproposed) == (
        f"attest of epoch {EPOCH} is still to come, in chain block 198 at the latest"
    )
    # A proposal that is not there by the deadline does not come any more.
    late = make_view(17, own_records=DONE, submission=None, is_challenge_seen=True)
    assert find_stay(late) is None
    unrevealed = make_view(9, own_records=COMMITTED, submission=ATTESTED, is_challenge_seen=True)
    assert "reveal of epoch" in find_stay(unrevealed)


def test_an_elected_node_must_stay_until_its_proposal_stands():
    elected = {"elections": {EPOCH: OWN, BEFORE: OTHER}, "own_records": DONE}
    view = make_view(2, submission=None, is_challenge_seen=True, **elected)
    assert find_stay(view).startswith(f"propose of epoch {EPOCH} is due")
    proposed = SubmissionSeen(OWN, frozenset({OWN}))
    assert find_stay(make_view(2, submission=proposed, is_challenge_seen=True, **elected)) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"roster": make_roster(own_class=NodeClass.IDLE)},
        {"elections": {EPOCH: None, BEFORE: OTHER}},
        {"is_stale": True},
    ],
    ids=["idle", "no election", "stale"],
)
def test_a_node_that_does_not_take_part_can_be_stopped(changes):
    assert find_stay(make_view(5, **changes)) is None


def test_an_elected_node_says_at_once_why_it_cannot_propose():
    elections = {EPOCH: OWN, BEFORE: OTHER}
    assert explain_unable(make_view(1, elections=elections), is_paid=True) is None
    assert explain_unable(make_view(1, elections=elections, roster=None), is_paid=True) is None
    for changes, word in (
        ({"has_hotkey": False}, "no hotkey"),
        ({"is_clock_right": False}, "clock"),
        ({"is_stale": True}, "not final"),
    ):
        assert word in explain_unable(make_view(1, elections=elections, **changes), is_paid=True)
    assert "--unpaid" in explain_unable(make_view(1, elections=elections), is_paid=False)
    assert "is over" in explain_unable(make_view(19, elections=elections), is_paid=True)


def test_a_light_validator_owes_no_audit():
    light = {"role": Role.VALIDATOR, "has_auditor": False}
    assert OwedDuty.AUDIT_COMMIT not in progress(9, **light)
    assert OwedDuty.AUDIT_COMMIT in progress(9, role=Role.VALIDATOR, has_auditor=True)
