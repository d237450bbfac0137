"""What a node owes at this head: a pure function from a view to duties.

It is asked again at every head; what is done stands in the view and is not asked for twice.
When the record of a duty may leave stands in ``consensus.phases``. The others:

    PublishChallenge  also: the elected node at once, other nodes from 10 % of the epoch on
    Propose, Attest   once the epoch's roster is known, which gives the rows, and while
                      ``is_in_time_to_land``
    ReportEpoch       of the previous epoch, once this node has judged its proposal

No duty depends on what this node saw before: what it missed is fetched when a proposal names it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import ClassVar

from consensus.phases import Schedule
from consensus.records import RecordKind
from consensus.types import Epoch, NodeClass, Role
from consensus.view import Attempts, EpochStatus, EpochView

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
class CommitAudit:
    """Compute the drawn layers, record commit and reveal, publish the commit."""

    kind: ClassVar = RecordKind.AUDIT_COMMIT
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class RevealOutput:
    """Publish the recorded output reveal."""

    kind: ClassVar = RecordKind.OUTPUT_REVEAL
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class RevealAudit:
    """Publish the recorded audit reveal."""

    kind: ClassVar = RecordKind.AUDIT_REVEAL
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class RevealScores:
    """Publish the recorded score reveal of ``epoch``, in the epoch after it."""

    kind: ClassVar = RecordKind.SCORE_REVEAL
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class PublishSighting:
    """Publish which records this node saw, with the commitment to its scores.

    The reveal that opens the commitment is recorded with it.
    """

    kind: ClassVar = RecordKind.SIGHTING
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class Republish:
    """Publish a recorded record again: no replica has acknowledged it to this process."""

    kind: RecordKind
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


@dataclass(frozen=True, slots=True)
class ReportEpoch:
    """Record how ``epoch``, which is over, was scored, for people to read."""

    epoch: Epoch


_Making = PublishChallenge | CommitOutput | CommitAudit | PublishSighting
"""Duties to sign a record and publish it; without an acknowledgement they become Republish."""
Reveal = RevealOutput | RevealAudit | RevealScores
Duty = _Making | Reveal | Republish | Propose | Attest | ReportEpoch


def get_lane(duty: Duty) -> Hashable:
    """Return what must not be worked on twice at once: the slot of a record, or the duty."""
    if isinstance(duty, Propose | Attest | ReportEpoch):
        return duty
    return duty.kind, duty.epoch


def compute_duties(view: EpochView) -> tuple[Duty, ...]:
    """Return what the node owes now, the quickest and most urgent first."""
    candidates = (
        *list_reveals(view),
        *(_compute_making(view, *row) for row in _MAKINGS),
        _compute_named_list(view),
        _compute_propose(view),
        _compute_attest(view),
        _compute_report(view),
    )
    return tuple(duty for duty in candidates if duty is not None)


def list_reveals(view: EpochView) -> tuple[Reveal, ...]:
    """Return the recorded reveals to publish now; they wait for nothing else."""
    if not is_reveal_time(view.schedule, view.position.offset):
        return ()
    candidates = (
        RevealOutput(view.epoch),
        RevealAudit(view.epoch),
        RevealScores(view.previous_epoch),
    )
    return tuple(
        duty
        for duty in candidates
        if view.schedule.is_departure(duty.kind, view.position.offset)
        and view.has_to_publish(duty.kind, duty.epoch)
    )


def list_republished(view: EpochView) -> tuple[Republish, ...]:
    """Return the other records to publish now that are signed already; they wait for nothing else.

    Their replicas may have died with this node, and their window may close at the next head.
    """
    candidates = (*(_compute_making(view, *row) for row in _MAKINGS), _compute_named_list(view))
    return tuple(duty for duty in candidates if isinstance(duty, Republish))


def is_reveal_time(schedule: Schedule, offset: int) -> bool:
    """Whether a reveal of any kind may leave at this head."""
    return offset in schedule.reveal_offsets


def _compute_making(
    view: EpochView, duty_type: type[_Making], is_owed: _Rule, can_sign: _Rule
) -> Duty | None:
    kind, offset = duty_type.kind, view.position.offset
    if not is_owed(view):
        return None
    if view.has_to_publish(kind, view.epoch):
        may_leave = view.schedule.is_departure_again(kind, offset)
        return Republish(kind, view.epoch) if may_leave else None
    may_sign = view.schedule.is_departure(kind, offset) and can_sign(view)
    is_done = (kind, view.epoch) in view.own_records
    return duty_type(view.epoch) if may_sign and not is_done else None


def _is_challenger(view: EpochView) -> bool:
    is_late = view.position.offset >= view.schedule.challenge_fallback
    return _is_active(view) and (is_late or view.elected == view.node_id)


def _is_active(view: EpochView) -> bool:
    return view.status is EpochStatus.ACTIVE


def _is_witness(view: EpochView) -> bool:
    return view.has_class(NodeClass.VALIDATOR) and _is_active(view)


_Rule = Callable[[EpochView], bool]
_MAKINGS: tuple[tuple[type[_Making], _Rule, _Rule], ...] = (
    # Duty, which nodes publish such a record, which of them may sign it now.
    (PublishChallenge, _is_challenger, lambda view: not view.is_challenge_seen),
    (CommitOutput, lambda view: view.role is Role.HOSTER, _is_active),
    (
        CommitAudit,
        lambda view: view.role is Role.VALIDATOR,
        lambda view: view.has_auditor and _is_active(view),
    ),
    (PublishSighting, lambda view: True, _is_witness),
)


def _compute_named_list(view: EpochView) -> Duty | None:
    """Publish the list of this node's proposal until a replica holds it."""
    is_owed = view.has_to_publish(RecordKind.NAMED_LIST, view.epoch)
    return Republish(RecordKind.NAMED_LIST, view.epoch) if is_owed else None


def _compute_propose(view: EpochView) -> Duty | None:
    is_owed = view.elected == view.node_id and view.submission is None
    return _compute_submission(view, Propose, view.proposals_sent) if is_owed else None


def _compute_attest(view: EpochView) -> Duty | None:
    submission = view.submission
    is_owed = (
        submission is not None
        and view.epoch not in view.refused
        and view.node_id not in submission.attested | {submission.proposer}
        and view.has_class(NodeClass.VALIDATOR)
    )
    return _compute_submission(view, Attest, view.attestations_sent) if is_owed else None


def _compute_submission(
    view: EpochView, duty_type: type[Propose | Attest], attempts: Attempts
) -> Duty | None:
    """Return the duty once the rosters that it needs are known, while its extrinsic lands here."""
    is_scored = view.is_scored(view.previous_epoch)
    is_known = view.roster is not None and (not is_scored or view.previous_roster is not None)
    if is_scored is None or not is_known or not view.has_hotkey:
        return None
    is_in_time = is_in_time_to_land(duty_type, view.position.offset, view.schedule)
    if not is_in_time or not _may_send(view, attempts):
        return None
    return duty_type(view.epoch, view.previous_epoch, is_first=not is_scored)


def is_in_time_to_land(duty_type: type[Propose | Attest], offset: int, schedule: Schedule) -> bool:
    """Whether an extrinsic may be signed at this head.

    A proposal lands by the attestation deadline, so that all have time to attest, and never in the
    next epoch, where its rows would be those of the wrong one. An attestation may land in the next
    epoch's first two blocks, where it fails unless a proposal stands already: to leave it out for
    that costs more.
    """
    return offset <= (schedule.last_proposal if duty_type is Propose else schedule.last_attestation)


def _may_send(view: EpochView, attempts: Attempts) -> bool:
    if attempts.count == 0:
        return True
    waited = view.position.block - attempts.last_block
    return attempts.count < MAX_SUBMISSION_ATTEMPTS and waited >= RESEND_AFTER_BLOCKS


def _compute_report(view: EpochView) -> ReportEpoch | None:
    """Every node reports, whatever its role, so that its operator can see the reasons."""
    previous = view.previous_epoch
    is_known = view.roster is not None and view.previous_roster is not None
    if view.is_previous_reported or not view.is_scored(previous) or not is_known:
        return None
    return ReportEpoch(previous) if _has_judged(view) else None


def _has_judged(view: EpochView) -> bool:
    """Whether this node will learn nothing more about how the previous epoch is scored."""
    submission = view.submission
    is_judge = view.has_hotkey and view.has_class(NodeClass.VALIDATOR)
    has_attested = submission is not None and view.node_id in submission.attested
    schedule = view.schedule
    last_check = schedule.attestation_deadline if submission is None else schedule.last_attestation
    is_late = view.position.offset > last_check
    return has_attested or view.epoch in view.refused or is_late or not is_judge
