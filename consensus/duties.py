"""What a node owes at this head: a pure function from a view to duties.

It is asked again at every head; what is done stands in the view and is not asked for twice.
When the record of a duty may leave stands in ``consensus.phases``. The others:

    PublishChallenge  also: the elected node at once, other nodes from 10 % of the epoch on
    ScoreEpoch        at every offset, of the previous epoch
    Propose, Attest   before the last block: what is sent there lands in the next epoch
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import ClassVar

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

    kind: ClassVar = RecordKind.CHALLENGE
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class CommitOutput:
    """Run the challenge, record commit and reveal, publish the commit."""

    kind: ClassVar = RecordKind.OUTPUT_COMMIT
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class RevealOutput:
    """Publish the recorded output reveal."""

    kind: ClassVar = RecordKind.OUTPUT_REVEAL
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class PublishSighting:
    """Publish which records of others this node saw."""

    kind: ClassVar = RecordKind.SIGHTING
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class CommitScores:
    """Score the epoch's hosters, record commit and reveal, publish the commit."""

    kind: ClassVar = RecordKind.SCORE_COMMIT
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class RevealScores:
    """Publish the recorded score reveal of ``epoch``, in the epoch after it."""

    kind: ClassVar = RecordKind.SCORE_REVEAL
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class Republish:
    """Publish a recorded challenge, sighting or commit again: no replica has acknowledged it."""

    kind: RecordKind
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class ScoreEpoch:
    """Score ``epoch``, which is over, and record the report."""

    epoch: Epoch


@dataclass(frozen=True, slots=True)
class Propose:
    """Propose the scores of ``scored_epoch`` in ``epoch``.

    ``is_first`` says that nothing was scored: the chain elected no validator in ``scored_epoch``.
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


_Making = PublishChallenge | CommitOutput | PublishSighting | CommitScores
"""Duties to sign a record and publish it; without an acknowledgement they become Republish."""
_Reveal = RevealOutput | RevealScores
Duty = _Making | _Reveal | Republish | ScoreEpoch | Propose | Attest


def get_lane(duty: Duty) -> Hashable:
    """Return what must not be worked on twice at once: the slot of a record, or the duty."""
    if isinstance(duty, ScoreEpoch | Propose | Attest):
        return duty
    return duty.kind, duty.epoch


def compute_duties(view: EpochView) -> tuple[Duty, ...]:
    """Return what the node owes now, the quickest and most urgent first."""
    candidates = (
        _compute_reveal(view, RevealOutput(view.epoch)),
        _compute_reveal(view, RevealScores(view.previous_epoch)),
        *(_compute_making(view, *row) for row in _MAKINGS),
        _compute_scoring(view),
        _compute_propose(view),
        _compute_attest(view),
    )
    return tuple(duty for duty in candidates if duty is not None)


def _compute_reveal(view: EpochView, duty: _Reveal) -> Duty | None:
    own = view.get_own(duty.kind, duty.epoch)
    if own is None or own.is_acknowledged:
        return None
    return duty if view.schedule.is_departure(duty.kind, view.position.offset) else None


def _compute_making(
    view: EpochView, duty_type: type[_Making], is_owed: _Rule, can_sign: _Rule
) -> Duty | None:
    kind = duty_type.kind
    if not view.schedule.is_departure(kind, view.position.offset) or not is_owed(view):
        return None
    own = view.get_own(kind, view.epoch)
    if own is not None:
        return None if own.is_acknowledged else Republish(kind, view.epoch)
    return duty_type(view.epoch) if can_sign(view) else None


def _is_challenger(view: EpochView) -> bool:
    is_late = view.position.offset >= view.schedule.challenge_fallback
    return _is_active(view) and (is_late or view.elected == view.node_id)


def _is_active(view: EpochView) -> bool:
    return view.status is EpochStatus.ACTIVE


def _has_seen_outputs(view: EpochView) -> bool:
    return _is_active(view) and view.has_observed(view.epoch, Window.COMMITS, Window.REVEALS)


def _is_witness(view: EpochView) -> bool:
    return view.has_class(NodeClass.VALIDATOR) and _has_seen_outputs(view)


_Rule = Callable[[EpochView], bool]
_MAKINGS: tuple[tuple[type[_Making], _Rule, _Rule], ...] = (
    # Duty, which nodes publish such a record, which of them may sign it now.
    (PublishChallenge, _is_challenger, lambda view: not view.is_challenge_seen),
    (CommitOutput, lambda view: view.role is Role.HOSTER, _is_active),
    (PublishSighting, lambda view: True, _is_witness),
    (CommitScores, lambda view: view.role is Role.VALIDATOR, _has_seen_outputs),
)


def _compute_scoring(view: EpochView) -> ScoreEpoch | None:
    """Every node scores, whatever its role, so that its operator can see the reasons."""
    previous = view.previous_epoch
    if view.is_previous_reported or not view.is_scored(previous):
        return None
    return ScoreEpoch(previous) if _can_score_previous(view) else None


def _compute_propose(view: EpochView) -> Duty | None:
    is_owed = view.elected == view.node_id and view.submission is None
    return _compute_submission(view, Propose, view.proposals_sent) if is_owed else None


def _compute_attest(view: EpochView) -> Duty | None:
    submission = view.submission
    is_owed = (
        submission is not None
        and not view.is_attestation_refused
        and view.node_id not in submission.attested | {submission.proposer}
        and view.has_class(NodeClass.VALIDATOR)
    )
    return _compute_submission(view, Attest, view.attestations_sent) if is_owed else None


def _compute_submission(
    view: EpochView, duty_type: type[Propose | Attest], attempts: Attempts
) -> Duty | None:
    """Return the duty if this node can judge the previous epoch, and its extrinsic lands here."""
    is_scored = view.is_scored(view.previous_epoch)
    is_known = _can_score_previous(view) if is_scored else view.roster is not None
    is_last_block = view.position.offset >= view.position.length - 1
    if is_scored is None or not is_known or is_last_block or not view.has_hotkey:
        return None
    if not _may_send(view, attempts):
        return None
    return duty_type(view.epoch, view.previous_epoch, is_first=not is_scored)


def _can_score_previous(view: EpochView) -> bool:
    is_known = view.previous_roster is not None and view.is_previous_settled
    return is_known and has_seen_epoch(view, view.previous_epoch)


def has_seen_epoch(view: EpochView, epoch: Epoch) -> bool:
    """Whether this node was up whenever something that counts for ``epoch`` had to be seen.

    The score reveals of ``epoch`` open score commits of the epoch before it, if that was scored,
    and a node that committed outputs there is paid as a hoster only.
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
