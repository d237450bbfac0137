"""What an honest node owes at this head.

A pure function from a view to duties. It is asked again at every head; what is
done stands in the view and is not asked for twice.

Over the offsets of one epoch (L blocks, grace G, B the end of COMMIT, R that of REVEAL):

    PublishChallenge  elected: from 0; anybody: from 10 %; while o < B - G
    CommitOutput      15 % <= o < B - G
    RevealOutput      B + G <= o <= R
    RevealScores      B + G <= o <= R, of the previous epoch's commit
    PublishSighting   R + G <= o < L - 1 - G
    CommitScores      R + 3 G <= o < L - 1 - G
    ScoreEpoch        0 <= o, of the previous epoch
    Propose, Attest   0 <= o < L - 1: what is sent at the last block lands in the next epoch
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from consensus.phases import Schedule
from consensus.records import RecordKind
from consensus.types import Epoch, NodeClass, Role
from consensus.view import Attempts, EpochStatus, EpochView, Window

MAX_SUBMISSION_ATTEMPTS = 3
"""Extrinsics of one kind that a node sends in one epoch."""
RESEND_AFTER_BLOCKS = 3
"""An extrinsic that the chain does not show after so many blocks was lost."""


@dataclass(frozen=True, slots=True)
class PublishChallenge:
    """Publish the epoch's challenge, derived from the chain."""

    epoch: Epoch


@dataclass(frozen=True, slots=True)
class CommitOutput:
    """Run the challenge, record commit and reveal, publish the commit."""

    epoch: Epoch


@dataclass(frozen=True, slots=True)
class RevealOutput:
    """Publish the recorded output reveal."""

    epoch: Epoch


@dataclass(frozen=True, slots=True)
class PublishSighting:
    """Publish which records of others this node saw."""

    epoch: Epoch


@dataclass(frozen=True, slots=True)
class CommitScores:
    """Score the epoch's hosters, record commit and reveal, publish the commit."""

    epoch: Epoch


@dataclass(frozen=True, slots=True)
class RevealScores:
    """Publish the recorded score reveal of ``epoch``, in the epoch after it."""

    epoch: Epoch


@dataclass(frozen=True, slots=True)
class ScoreEpoch:
    """Score ``epoch``, which is over, and record the report."""

    epoch: Epoch


@dataclass(frozen=True, slots=True)
class Propose:
    """Propose the scores of ``scored_epoch`` in ``epoch``.

    ``is_first`` says that nothing was scored: the chain elected nobody in ``scored_epoch``.
    """

    epoch: Epoch
    scored_epoch: Epoch
    is_first: bool


@dataclass(frozen=True, slots=True)
class Attest:
    """Recompute the scores of ``scored_epoch`` and attest ``epoch``'s proposal if equal."""

    epoch: Epoch
    scored_epoch: Epoch
    is_first: bool


@dataclass(frozen=True, slots=True)
class Republish:
    """Publish a recorded challenge, sighting or commit again: no replica has acknowledged it."""

    kind: RecordKind
    epoch: Epoch


Duty = (
    PublishChallenge
    | CommitOutput
    | RevealOutput
    | PublishSighting
    | CommitScores
    | RevealScores
    | ScoreEpoch
    | Propose
    | Attest
    | Republish
)


def get_lane(duty: Duty) -> Hashable:
    """Return what must not be worked on twice at once: the slot of a record, or the duty."""
    match duty:
        case PublishChallenge(epoch):
            return RecordKind.CHALLENGE, epoch
        case CommitOutput(epoch):
            return RecordKind.OUTPUT_COMMIT, epoch
        case PublishSighting(epoch):
            return RecordKind.SIGHTING, epoch
        case CommitScores(epoch):
            return RecordKind.SCORE_COMMIT, epoch
        case Republish(kind, epoch):
            return kind, epoch
    return duty


def compute_duties(view: EpochView) -> tuple[Duty, ...]:
    """Return what the node owes now, the quickest and most urgent first."""
    candidates = (
        _compute_output_reveal(view),
        _compute_score_reveal(view),
        _compute_challenge(view),
        _compute_output_commit(view),
        _compute_sighting(view),
        _compute_score_commit(view),
        _compute_scoring(view),
        _compute_propose(view),
        _compute_attest(view),
    )
    return tuple(duty for duty in candidates if duty is not None)


def is_reveal_time(schedule: Schedule, offset: int) -> bool:
    """Whether a reveal may leave: no commit can follow it, and it can still arrive in time.

    It leaves until the end of REVEAL; the grace after that is for its journey.
    """
    return schedule.is_reveal_departure(offset) and offset <= schedule.score_start


def is_sighting_time(schedule: Schedule, offset: int) -> bool:
    """Whether a sighting may leave: reveals are closed, and it can still arrive in time."""
    return schedule.scoring_start <= offset < schedule.score_commit_end - schedule.grace


def is_score_commit_time(schedule: Schedule, offset: int) -> bool:
    """Whether a score commit may leave: sightings are here, and it can still arrive in time."""
    return schedule.sighting_end <= offset < schedule.score_commit_end - schedule.grace


def _compute_challenge(view: EpochView) -> PublishChallenge | Republish | None:
    schedule, offset = view.schedule, view.position.offset
    is_turn = view.elected == view.node_id or offset >= schedule.challenge_fallback
    is_open = offset < schedule.reveal_start - schedule.grace
    if view.status is not EpochStatus.ACTIVE or not is_turn or not is_open:
        return None
    own = view.get_own(RecordKind.CHALLENGE, view.epoch)
    if own is not None:
        return None if own.is_acknowledged else Republish(RecordKind.CHALLENGE, view.epoch)
    return None if view.is_challenge_seen else PublishChallenge(view.epoch)


def _compute_output_commit(view: EpochView) -> CommitOutput | Republish | None:
    if view.role is not Role.HOSTER or not view.schedule.is_commit_departure(view.position.offset):
        return None
    own = view.get_own(RecordKind.OUTPUT_COMMIT, view.epoch)
    if own is not None:
        return None if own.is_acknowledged else Republish(RecordKind.OUTPUT_COMMIT, view.epoch)
    return CommitOutput(view.epoch) if view.status is EpochStatus.ACTIVE else None


def _compute_output_reveal(view: EpochView) -> RevealOutput | None:
    own = view.get_own(RecordKind.OUTPUT_REVEAL, view.epoch)
    if own is None or own.is_acknowledged:
        return None
    return RevealOutput(view.epoch) if _is_reveal_time(view) else None


def _compute_score_reveal(view: EpochView) -> RevealScores | None:
    own = view.get_own(RecordKind.SCORE_REVEAL, view.previous_epoch)
    if own is None or own.is_acknowledged:
        return None
    return RevealScores(view.previous_epoch) if _is_reveal_time(view) else None


def _is_reveal_time(view: EpochView) -> bool:
    return is_reveal_time(view.schedule, view.position.offset)


def _compute_sighting(view: EpochView) -> PublishSighting | Republish | None:
    if not is_sighting_time(view.schedule, view.position.offset):
        return None
    own = view.get_own(RecordKind.SIGHTING, view.epoch)
    if own is not None:
        return None if own.is_acknowledged else Republish(RecordKind.SIGHTING, view.epoch)
    is_witness = view.has_class(NodeClass.VALIDATOR) and _has_seen_outputs(view)
    return PublishSighting(view.epoch) if is_witness else None


def _has_seen_outputs(view: EpochView) -> bool:
    is_active = view.status is EpochStatus.ACTIVE
    return is_active and view.has_observed(view.epoch, Window.COMMITS, Window.REVEALS)


def _compute_score_commit(view: EpochView) -> CommitScores | Republish | None:
    if view.role is not Role.VALIDATOR:
        return None
    if not is_score_commit_time(view.schedule, view.position.offset):
        return None
    own = view.get_own(RecordKind.SCORE_COMMIT, view.epoch)
    if own is not None:
        return None if own.is_acknowledged else Republish(RecordKind.SCORE_COMMIT, view.epoch)
    return CommitScores(view.epoch) if _has_seen_outputs(view) else None


def _compute_scoring(view: EpochView) -> ScoreEpoch | None:
    """Every node scores, whatever its role, so that everybody can see the reasons."""
    previous = view.previous_epoch
    if view.is_previous_reported or not view.is_scored(previous):
        return None
    return ScoreEpoch(previous) if _can_score_previous(view) else None


def _compute_propose(view: EpochView) -> Propose | None:
    if view.elected != view.node_id or view.submission is not None:
        return None
    if not _can_submit(view) or not _may_send(view, view.proposals_sent):
        return None
    return Propose(view.epoch, view.previous_epoch, view.is_scored(view.previous_epoch) is False)


def _compute_attest(view: EpochView) -> Attest | None:
    submission = view.submission
    if submission is None or view.is_attestation_refused:
        return None
    if view.node_id in submission.attested or view.node_id == submission.proposer:
        return None
    if not view.has_class(NodeClass.VALIDATOR):
        return None
    if not _can_submit(view) or not _may_send(view, view.attestations_sent):
        return None
    return Attest(view.epoch, view.previous_epoch, view.is_scored(view.previous_epoch) is False)


def _can_submit(view: EpochView) -> bool:
    """Whether this node can judge the previous epoch, and its word still lands in this one."""
    if not view.has_hotkey or view.position.offset >= view.position.length - 1:
        return False
    is_scored = view.is_scored(view.previous_epoch)
    if is_scored is None:
        return False
    if not is_scored:
        return view.roster is not None
    return _can_score_previous(view)


def _can_score_previous(view: EpochView) -> bool:
    is_known = view.previous_roster is not None and view.is_previous_settled
    return is_known and has_seen_epoch(view, view.previous_epoch)


def has_seen_epoch(view: EpochView, epoch: Epoch) -> bool:
    """Whether this node was up whenever something that counts for ``epoch`` had to be seen.

    The score reveals of ``epoch`` open score commits of the epoch before it, if that was scored,
    and whoever committed outputs there is no validator.
    """
    before = Epoch(epoch - 1)
    commits = (Window.COMMITS, Window.SCORES)
    has_commits = view.is_scored(before) is False or view.has_observed(before, *commits)
    return has_commits and view.has_observed(epoch, *Window)


def _may_send(view: EpochView, attempts: Attempts) -> bool:
    if attempts.count == 0:
        return True
    waited = view.position.block - attempts.last_block
    return attempts.count < MAX_SUBMISSION_ATTEMPTS and waited >= RESEND_AFTER_BLOCKS
