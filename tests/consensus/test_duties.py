"""What an honest node owes, over every offset of epochs from 20 to 300 blocks."""

from dataclasses import replace

import pytest

from consensus.duties import (
    Attest,
    CommitAudit,
    CommitOutput,
    Propose,
    PublishChallenge,
    PublishSighting,
    ReportEpoch,
    Republish,
    RevealAudit,
    RevealOutput,
    RevealScores,
    compute_duties,
    get_lane,
    list_republished,
    list_reveals,
)
from consensus.phases import compute_schedule
from consensus.protocol_params import MAINNET
from consensus.records import RecordKind
from consensus.roster import Roster, RosterNode
from consensus.types import BlockNumber, EpochPosition, NodeClass, Role
from consensus.view import (
    Attempts,
    EpochStatus,
    EpochView,
    SubmissionSeen,
)
from keys.peer import PeerId

EPOCH = 9
LENGTHS = range(20, 301)
SAMPLED = (*range(20, 60), *range(60, 301, 10))
OWN, OTHER = 1, 2


def every_length(lengths):
    """Run a test for each epoch length; a failure names the length."""

    def decorate(test):
        def run():
            for length in lengths:
                try:
                    test(length)
                except AssertionError as error:
                    raise AssertionError(f"at an epoch of {length} blocks: {error}") from error

        run.__name__, run.__doc__ = test.__name__, test.__doc__
        return run

    return decorate


def make_roster(epoch=EPOCH, own_class=NodeClass.VALIDATOR):
    nodes = tuple(
        RosterNode(
            node_id,
            PeerId(bytes([node_id]) * 32),
            bytes([node_id]) * 20,
            bytes([node_id]) * 20,
            own_class if node_id == OWN else NodeClass.VALIDATOR,
            0,
        )
        for node_id in (OWN, OTHER)
    )
    return Roster(epoch, 180, b"h" * 32, 1000, nodes)


DEFAULTS = {
    "role": Role.HOSTER,
    "node_id": OWN,
    "peer_id": PeerId(bytes([OWN]) * 32),
    "has_hotkey": True,
    "roster": make_roster(),
    "previous_roster": make_roster(EPOCH - 1),
    "elections": {EPOCH: OTHER, EPOCH - 1: OTHER, EPOCH - 2: OTHER},
    "has_auditor": True,
    "is_previous_settled": True,
    "is_previous_reported": True,
}
SCHEDULES = {length: compute_schedule(length, MAINNET) for length in LENGTHS}


def make_view(offset=0, length=20, **changes):
    position = EpochPosition(EPOCH, offset, length, 180)
    return EpochView(position=position, schedule=SCHEDULES[length], **(DEFAULTS | changes))


def list_offsets(duty_type, length, **changes):
    """The offsets at which a duty of this type is owed."""
    return [
        offset
        for offset in range(length)
        if any(
            isinstance(duty, duty_type)
            for duty in compute_duties(make_view(offset, length, **changes))
        )
    ]


def own(kind, epoch=EPOCH, is_acknowledged=False):
    return {(kind, epoch): is_acknowledged}


COMMITTED = own(RecordKind.OUTPUT_COMMIT, is_acknowledged=True) | own(RecordKind.OUTPUT_REVEAL)
AUDITED = own(RecordKind.AUDIT_COMMIT, is_acknowledged=True) | own(RecordKind.AUDIT_REVEAL)
SCORED = own(RecordKind.SIGHTING, EPOCH - 1, True) | own(RecordKind.SCORE_REVEAL, EPOCH - 1)


@pytest.mark.long
@every_length(LENGTHS)
def test_no_commit_that_counts_can_follow_a_reveal(length):
    schedule = SCHEDULES[length]
    commits = list_offsets(CommitOutput, length)
    reveals = list_offsets(RevealOutput, length, own_records=COMMITTED)
    last_counted = max(o for o in range(length) if schedule.is_on_time(RecordKind.OUTPUT_COMMIT, o))
    assert commits == list(range(commits[0], commits[-1] + 1))
    assert reveals == list(range(reveals[0], reveals[-1] + 1))
    # A receiver may be a grace behind the sender of a reveal and still count no commit.
    assert last_counted + schedule.grace < reveals[0]
    assert all(schedule.is_on_time(RecordKind.OUTPUT_REVEAL, o) for o in reveals)
    assert schedule.is_on_time(RecordKind.OUTPUT_COMMIT, commits[-1] + schedule.grace)


@every_length(LENGTHS)
def test_no_audit_commit_can_leave_before_the_draw_or_count_after_a_reveal(length):
    schedule = SCHEDULES[length]
    kind = RecordKind.AUDIT_COMMIT
    audits = list_offsets(CommitAudit, length, role=Role.VALIDATOR)
    reveals = list_offsets(RevealAudit, length, own_records=AUDITED)
    # The first child of the block that draws; no output commit counts from that block on.
    assert audits[0] == schedule.audit_start + 1
    assert not schedule.is_on_time(RecordKind.OUTPUT_COMMIT, schedule.audit_start)
    last_counted = max(o for o in range(length) if schedule.is_on_time(kind, o))
    assert schedule.is_on_time(kind, audits[-1] + schedule.grace)
    assert last_counted + schedule.grace < reveals[0]
    assert reveals == list_offsets(RevealOutput, length, own_records=COMMITTED)


@every_length(SAMPLED)
def test_a_signed_commit_is_published_again_while_it_can_count(length):
    """When every node dies in the last block for commits, the replicas' memory dies with them."""
    schedule = SCHEDULES[length]
    makers = {RecordKind.OUTPUT_COMMIT: Role.HOSTER, RecordKind.AUDIT_COMMIT: Role.VALIDATOR}
    for kind, role in makers.items():
        again = list_offsets(Republish, length, role=role, own_records=own(kind))
        window = schedule.windows[kind]
        assert again == list(range(window.leaves_from, window.counts_until))
        assert schedule.is_on_time(kind, again[-1])


@every_length(SAMPLED)
def test_scores_are_committed_to_after_reveals_close_and_in_time_to_count(length):
    schedule = SCHEDULES[length]
    sightings = list_offsets(PublishSighting, length)
    assert not any(schedule.is_on_time(RecordKind.OUTPUT_REVEAL, o) for o in sightings)
    assert schedule.is_on_time(RecordKind.SIGHTING, sightings[0] + schedule.grace)


@every_length(SAMPLED)
def test_score_reveals_leave_with_the_output_reveals_of_the_next_epoch(length):
    assert list_offsets(RevealScores, length, own_records=SCORED) == list_offsets(
        RevealOutput, length, own_records=COMMITTED
    )


@every_length(SAMPLED)
def test_reveals_that_are_due_wait_for_nothing_else(length):
    for offset in range(length):
        view = make_view(offset, length, roster=None, own_records=COMMITTED | AUDITED | SCORED)
        reveals = list_reveals(view)
        assert compute_duties(view)[: len(reveals)] == reveals
        is_due = view.schedule.is_departure(RecordKind.OUTPUT_REVEAL, offset)
        assert len(reveals) == (3 if is_due else 0)


@every_length(SAMPLED)
def test_what_is_published_again_waits_for_nothing_else(length):
    for offset in range(length):
        view = make_view(offset, length, own_records=own(RecordKind.SIGHTING))
        again = list_republished(view)
        assert again == tuple(d for d in compute_duties(view) if isinstance(d, Republish))
        is_due = view.schedule.is_departure_again(RecordKind.SIGHTING, offset)
        assert again == ((Republish(RecordKind.SIGHTING, EPOCH),) if is_due else ())


@every_length(SAMPLED)
def test_no_proposal_is_sent_that_could_land_after_the_attestation_deadline(length):
    own_turn = {EPOCH: OWN, 8: OTHER, 7: OTHER}
    offsets = list_offsets(Propose, length, elections=own_turn)
    deadline = -(-80 * length // 100)
    # One that is signed at the last of these heads lives for three blocks more.
    assert offsets == list(range(deadline - 2))
    # A lost one is not sent again after that either.
    lost = Attempts(1, BlockNumber(180))
    sent = list_offsets(Propose, length, elections=own_turn, proposals_sent=lost)
    assert sent[-1] == deadline - 3


@every_length(SAMPLED)
def test_attest_is_due_until_the_last_block_but_one(length):
    submission = SubmissionSeen(OTHER, frozenset())
    assert list_offsets(Attest, length, submission=submission) == list(range(length - 1))


@every_length(SAMPLED)
def test_a_missing_challenge_is_published_by_anybody_from_ten_percent_on(length):
    schedule = SCHEDULES[length]
    by_anybody = list_offsets(PublishChallenge, length)
    by_elected = list_offsets(PublishChallenge, length, elections={EPOCH: OWN})
    assert by_anybody[0] == schedule.challenge_fallback
    assert by_elected[0] == 0
    assert by_anybody[-1] == by_elected[-1] >= schedule.commit_start
    assert not list_offsets(PublishChallenge, length, is_challenge_seen=True)


def test_the_schedule_of_twenty_blocks():
    assert list_offsets(CommitOutput, 20) == [3, 4, 5, 6]
    assert list_offsets(CommitAudit, 20, role=Role.VALIDATOR) == [9, 10]
    assert list_offsets(RevealOutput, 20, own_records=COMMITTED) == [13, 14]
    assert list_offsets(PublishSighting, 20) == [15, 16, 17, 18]


@pytest.mark.parametrize(
    "changes",
    [{"roster": make_roster(own_class=NodeClass.INCLUDED)}, {"is_clock_right": False}],
)
def test_only_validators_that_take_part_say_what_they_saw(changes):
    assert not list_offsets(PublishSighting, 20, **changes)


@pytest.mark.parametrize("changes", [{"role": Role.HOSTER}, {"has_auditor": False}])
def test_hosters_and_light_validators_audit_nothing(changes):
    assert not list_offsets(CommitAudit, 20, **({"role": Role.VALIDATOR} | changes))


@pytest.mark.parametrize("role", Role)
def test_what_is_done_is_not_owed_again(role):
    kinds = set(RecordKind) - {RecordKind.HEARTBEAT}
    done = {(kind, epoch): True for kind in kinds for epoch in (EPOCH - 1, EPOCH)}
    submission = SubmissionSeen(OTHER, frozenset({OWN}))
    for offset in range(20):
        view = make_view(offset, role=role, own_records=done, submission=submission)
        assert compute_duties(view) == ()


@pytest.mark.parametrize(
    ("kind", "role", "offsets"),
    [
        (RecordKind.CHALLENGE, Role.HOSTER, range(2, 8)),
        (RecordKind.OUTPUT_COMMIT, Role.HOSTER, range(3, 8)),
        (RecordKind.AUDIT_COMMIT, Role.VALIDATOR, range(9, 12)),
        (RecordKind.SIGHTING, Role.HOSTER, range(15, 19)),
        (RecordKind.NAMED_LIST, Role.HOSTER, range(20)),
    ],
)
def test_a_record_is_republished_unchanged_until_acknowledged(kind, role, offsets):
    changes = {"role": role, "own_records": own(kind)}
    owed = [
        o for o in range(20) if Republish(kind, EPOCH) in compute_duties(make_view(o, **changes))
    ]
    assert owed == list(offsets)
    acknowledged = {"role": role, "own_records": own(kind, is_acknowledged=True)}
    assert not list_offsets(Republish, 20, **acknowledged)
    # An acknowledgement from before a restart is worth nothing: the replica may have died too.
    restarted = acknowledged | {"unconfirmed": frozenset({(kind, EPOCH)})}
    assert list_offsets(Republish, 20, **restarted) == list(offsets)


def test_a_node_that_saw_nothing_of_the_last_epoch_proposes_and_attests():
    """What it lacks is fetched when it is named; only the two rosters must be known."""
    elections = {EPOCH: OWN, EPOCH - 1: OTHER}
    submission = SubmissionSeen(OTHER, frozenset())
    changes = {"is_previous_settled": False, "is_previous_reported": False}
    assert list_offsets(Propose, 20, elections=elections, **changes) == list(range(14))
    assert list_offsets(Attest, 20, submission=submission, **changes) == list(range(19))
    for lacking in ({"roster": None}, {"previous_roster": None}):
        assert not list_offsets(Propose, 20, elections=elections, **lacking)
        assert not list_offsets(Attest, 20, submission=submission, **lacking)


def test_after_an_epoch_without_election_nothing_was_scored():
    changes = {"elections": {EPOCH: OWN, EPOCH - 1: None}, "previous_roster": None}
    assert compute_duties(make_view(1, **changes))[-1] == Propose(EPOCH, EPOCH - 1, True)
    assert not list_offsets(Propose, 20, roster=None, **changes)


def test_nothing_is_submitted_while_the_last_election_is_unknown():
    assert not list_offsets(Propose, 20, elections={EPOCH: OWN})


def test_epoch_zero_follows_nothing():
    view = replace(
        make_view(1, elections={0: OWN}),
        position=EpochPosition(0, 1, 20, 3),
        roster=make_roster(0),
    )
    assert Propose(0, -1, True) in compute_duties(view)


def test_a_node_without_a_hotkey_commits_and_reveals_but_neither_proposes_nor_attests():
    changes = {"has_hotkey": False, "submission": SubmissionSeen(OTHER, frozenset())}
    assert not list_offsets((Propose, Attest), 20, elections={EPOCH: OWN, 8: OTHER}, **changes)
    assert list_offsets(CommitOutput, 20, **changes)
    assert list_offsets(RevealOutput, 20, own_records=COMMITTED, **changes)


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"roster": None}, EpochStatus.WAITING),
        ({"is_stale": True}, EpochStatus.CHAIN_STALE),
        ({"elections": {EPOCH: None}}, EpochStatus.NOT_ELECTED),
        ({"roster": make_roster(own_class=NodeClass.IDLE)}, EpochStatus.NOT_IN_ROSTER),
        ({"node_id": 7}, EpochStatus.NOT_IN_ROSTER),
        ({"peer_id": PeerId(bytes([7]) * 32)}, EpochStatus.NOT_IN_ROSTER),
        ({"is_clock_right": False}, EpochStatus.CLOCK_SKEW),
    ],
)
def test_a_node_that_sits_out_signs_no_record(changes, status):
    signing = (PublishChallenge, CommitOutput, CommitAudit, PublishSighting)
    for role in Role:
        assert make_view(role=role, **changes).status is status
        assert not list_offsets(signing, 20, role=role, **changes)


def test_a_node_that_sits_out_still_reveals_what_it_committed_and_attests():
    changes = {"is_stale": True, "own_records": COMMITTED}
    assert list_offsets(RevealOutput, 20, **changes) == [13, 14]
    assert list_offsets(Attest, 20, submission=SubmissionSeen(OTHER, frozenset()), **changes)


def test_an_included_node_commits_but_does_not_attest():
    roster = make_roster(own_class=NodeClass.INCLUDED)
    assert list_offsets(CommitOutput, 20, roster=roster)
    assert not list_offsets(
        Attest, 20, roster=roster, submission=SubmissionSeen(OTHER, frozenset())
    )


def test_every_node_reports_the_epoch_that_is_over_once_it_has_judged_the_proposal():
    for role in Role:
        owed = {"role": role, "is_previous_reported": False}
        # Nothing on chain yet: wait until no proposal can be checked any more.
        assert list_offsets(ReportEpoch, 20, **owed) == [17, 18, 19]
        # What stands there may be checked until an attestation could no longer land.
        standing = {"submission": SubmissionSeen(OTHER, frozenset({OTHER}))}
        assert list_offsets(ReportEpoch, 20, **owed, **standing) == [19]
        judged = {"submission": SubmissionSeen(OTHER, frozenset({OTHER, OWN}))}
        assert list_offsets(ReportEpoch, 20, **owed, **judged) == list(range(20))
        assert list_offsets(ReportEpoch, 20, **owed, refused=frozenset({EPOCH})) == list(range(20))
        assert not list_offsets(ReportEpoch, 20, **(owed | judged | {"is_previous_reported": True}))
        for lacking in ({"elections": {EPOCH - 1: None}}, {"roster": None}):
            assert not list_offsets(ReportEpoch, 20, **owed, **judged, **lacking)


@pytest.mark.parametrize(
    "changes",
    [{"has_hotkey": False}, {"roster": make_roster(own_class=NodeClass.INCLUDED)}],
)
def test_a_node_that_judges_no_proposal_reports_what_it_saw_at_once(changes):
    owed = {"is_previous_reported": False} | changes
    assert list_offsets(ReportEpoch, 20, **owed) == list(range(20))


def test_only_the_elected_node_proposes_and_only_once():
    assert not list_offsets(Propose, 20)
    elections = {EPOCH: OWN, 8: OTHER, 7: OTHER}
    submission = SubmissionSeen(OWN, frozenset({OWN}))
    assert not list_offsets(Propose, 20, elections=elections, submission=submission)
    assert not list_offsets(Attest, 20, elections=elections, submission=submission)


def test_a_proposal_that_differs_is_not_attested():
    submission = SubmissionSeen(OTHER, frozenset())
    assert not list_offsets(Attest, 20, submission=submission, refused=frozenset({EPOCH}))
    assert list_offsets(Attest, 20, submission=submission, refused=frozenset({EPOCH - 1}))


def test_a_lost_extrinsic_is_sent_again_a_bounded_number_of_times():
    elections = {EPOCH: OWN, 8: OTHER, 7: OTHER}
    sent = Attempts(1, 180 + 2)
    owed = list_offsets(Propose, 20, elections=elections, proposals_sent=sent)
    # Numbers of the protocol, not names of them: another number is another protocol.
    assert [o for o in owed if o >= 2] == list(range(5, 14))
    spent = Attempts(3, 180)
    assert not list_offsets(Propose, 20, elections=elections, proposals_sent=spent)


def test_an_honest_hoster_owes_each_step_exactly_once_through_an_epoch():
    """Perform what is owed at every head: each slot is signed once, each record acknowledged."""
    records, performed = {}, []
    for offset in range(100):
        view = make_view(offset, 100, own_records=records)
        for duty in compute_duties(view):
            performed.append(duty)
            match duty:
                case PublishChallenge():
                    records |= own(RecordKind.CHALLENGE, is_acknowledged=True)
                case CommitOutput():
                    records |= COMMITTED
                case RevealOutput():
                    records = dict.fromkeys(records, True)
                case PublishSighting():
                    records |= own(RecordKind.SIGHTING, is_acknowledged=True)
    steps = (PublishChallenge, CommitOutput, RevealOutput, PublishSighting)
    assert performed == [step(EPOCH) for step in steps]


def test_a_record_is_not_republished_while_it_is_being_made():
    assert get_lane(CommitOutput(5)) == get_lane(Republish(RecordKind.OUTPUT_COMMIT, 5))
    assert get_lane(PublishChallenge(5)) == get_lane(Republish(RecordKind.CHALLENGE, 5))
    assert get_lane(PublishSighting(5)) == get_lane(Republish(RecordKind.SIGHTING, 5))
    lanes = {get_lane(CommitOutput(5)), get_lane(CommitOutput(6)), get_lane(RevealOutput(5))}
    assert len(lanes) == 3
