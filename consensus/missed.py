"""Which duties a node owed and did not do: a pure function from a view.

A duty is missed once its record may leave no more, or the epoch of its extrinsic is over. It is
asked again at every head; who keeps the answers keeps each one once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from consensus.records import REVEAL_KINDS, RecordKind
from consensus.roster import Roster, RosterNode
from consensus.types import Epoch, NodeClass, Role
from consensus.view import EpochView, SubmissionSeen


class OwedDuty(Enum):
    """What a node can owe; the value says in words that it was not done."""

    CHALLENGE = "elected, did not publish the challenge"
    OUTPUT_COMMIT = "did not commit to outputs"
    OUTPUT_REVEAL = "did not reveal outputs"
    AUDIT_COMMIT = "did not commit to an audit"
    AUDIT_REVEAL = "did not reveal an audit"
    SIGHTING = "did not publish what it saw"
    SCORE_REVEAL = "did not reveal scores"
    PROPOSE = "elected, did not propose"
    ATTEST = "did not attest"


RECORD_DUTIES = {
    RecordKind.CHALLENGE: OwedDuty.CHALLENGE,
    RecordKind.OUTPUT_COMMIT: OwedDuty.OUTPUT_COMMIT,
    RecordKind.OUTPUT_REVEAL: OwedDuty.OUTPUT_REVEAL,
    RecordKind.AUDIT_COMMIT: OwedDuty.AUDIT_COMMIT,
    RecordKind.AUDIT_REVEAL: OwedDuty.AUDIT_REVEAL,
    RecordKind.SIGHTING: OwedDuty.SIGHTING,
    RecordKind.SCORE_REVEAL: OwedDuty.SCORE_REVEAL,
}

_AWAY = "this node was not running, or its chain did not answer, while it could be done"


@dataclass(frozen=True, slots=True)
class Missed:
    """One duty that was not done in ``epoch``; ``clue`` is what the view tells of the reason."""

    duty: OwedDuty
    epoch: Epoch
    clue: str


def list_missed(view: EpochView) -> tuple[Missed, ...]:
    """Return what was owed and not done: records whose window has closed, and submissions.

    Looked at are the present epoch, as far as it has come, and the one before, with its final
    proposal. While a roster is not known, nothing is said about its epoch.
    """
    previous = view.previous_epoch
    return (
        *_list_records(view, previous, view.previous_roster, has_ended=True),
        *_list_submissions(view, previous, view.previous_roster, view.previous_submission),
        *_list_records(view, view.epoch, view.roster, has_ended=False),
    )


def _list_records(
    view: EpochView, epoch: Epoch, roster: Roster | None, *, has_ended: bool
) -> Iterator[Missed]:
    if roster is None or view.is_scored(epoch) is not True:
        return
    node = view.find_own(roster)
    offset, windows, own = view.position.offset, view.schedule.windows, view.own_records
    for kind, duty in RECORD_DUTIES.items():
        if not has_ended and offset < windows[kind].leaves_until:
            continue
        if kind is RecordKind.CHALLENGE and (has_ended or view.is_challenge_seen):
            continue
        # The scores of an epoch are revealed in the one after it.
        slot = Epoch(epoch - 1) if kind is RecordKind.SCORE_REVEAL else epoch
        is_acknowledged = own.get((kind, slot))
        if is_acknowledged:
            continue
        if is_acknowledged is not None:
            yield Missed(duty, epoch, "no replica has acknowledged it")
        elif kind not in REVEAL_KINDS and is_owed(view, kind, epoch, node):
            yield Missed(duty, epoch, _explain(view, has_ended=has_ended))


def is_owed(view: EpochView, kind: RecordKind, epoch: Epoch, node: RosterNode | None) -> bool:
    """Whether this node had to sign such a record. Reveals are owed only where they were signed."""
    if node is None or not node.has_class(NodeClass.INCLUDED, epoch):
        return False
    match kind:
        case RecordKind.OUTPUT_COMMIT:
            return view.role is Role.HOSTER
        case RecordKind.AUDIT_COMMIT:
            return view.role is Role.VALIDATOR and view.has_auditor
        case RecordKind.SIGHTING:
            return node.has_class(NodeClass.VALIDATOR, epoch)
        case RecordKind.CHALLENGE:
            return view.elected == view.node_id
    return False


def _list_submissions(
    view: EpochView, epoch: Epoch, roster: Roster | None, submission: SubmissionSeen | None
) -> Iterator[Missed]:
    node = view.find_own(roster)
    if node is None or not view.is_previous_settled:
        return
    clue = "no hotkey was given" if not view.has_hotkey else _explain(view, has_ended=True)
    if submission is None:
        if view.elections.get(epoch) == view.node_id:
            yield Missed(OwedDuty.PROPOSE, epoch, clue)
        return
    has_attested = view.node_id in submission.attested | {submission.proposer}
    is_voter = node.has_class(NodeClass.VALIDATOR, epoch)
    # A proposal that was refused was judged, and the reason is kept with the refusal.
    if is_voter and not has_attested and epoch not in view.refused:
        yield Missed(OwedDuty.ATTEST, epoch, clue)


def _explain(view: EpochView, *, has_ended: bool) -> str:
    # ``status`` is of the present epoch and tells nothing about the one before.
    is_telling = not has_ended and view.status.name != "ACTIVE"
    return view.status.value if is_telling else _AWAY
