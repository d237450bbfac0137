"""What a node owes in the present epoch and how far it is with it: a pure function from a view.

``consensus.duties`` says what to do at this head; this says it for people, for the whole epoch, and
whether stopping the node now would cost it something.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

from consensus.missed import RECORD_DUTIES, OwedDuty, is_owed
from consensus.records import REVEAL_KINDS, RecordKind
from consensus.types import Epoch, NodeClass
from consensus.view import EpochStatus, EpochView

DUTY_WORDS = {
    OwedDuty.CHALLENGE: "challenge",
    OwedDuty.OUTPUT_COMMIT: "commit",
    OwedDuty.OUTPUT_REVEAL: "reveal",
    OwedDuty.AUDIT_COMMIT: "audit commit",
    OwedDuty.AUDIT_REVEAL: "audit reveal",
    OwedDuty.SIGHTING: "sighting",
    OwedDuty.SCORE_REVEAL: "score reveal",
    OwedDuty.PROPOSE: "propose",
    OwedDuty.ATTEST: "attest",
}

_COMMITS = {
    RecordKind.OUTPUT_REVEAL: RecordKind.OUTPUT_COMMIT,
    RecordKind.AUDIT_REVEAL: RecordKind.AUDIT_COMMIT,
}


class Progress(Enum):
    """How far a duty of this epoch is."""

    DONE = "done"
    DUE = "due"
    LATER = "later"
    MISSED = "missed"


@dataclass(frozen=True, slots=True)
class DutyNow:
    """One duty of the present epoch. ``until`` is the last offset at which it can be done."""

    duty: OwedDuty
    progress: Progress
    until: int

    @property
    def is_open(self) -> bool:
        return self.progress in (Progress.DUE, Progress.LATER)


def list_duties_now(view: EpochView) -> tuple[DutyNow, ...]:
    """Return every duty that this node has in the epoch, in the order in which they end.

    Before the epoch's roster is known, the last one says whether the node has any.
    """
    duties = (*_list_records(view), *_list_submissions(view))
    return tuple(sorted(duties, key=lambda duty: duty.until))


def explain_stay(view: EpochView, duties: Iterable[DutyNow]) -> str | None:
    """Return why stopping the node now would cost it something; None if it would not.

    ``duties`` are the node's of this epoch. It costs nothing once each of them is done or past. The
    next epoch's commit is the next duty; the node that is elected by then has until the middle of
    that epoch to propose.
    """
    takes_part = (EpochStatus.ACTIVE, EpochStatus.WAITING)
    if view.status not in takes_part or not view.has_class(NodeClass.INCLUDED):
        return None
    if view.status is EpochStatus.WAITING:
        return f"epoch {view.epoch} has just begun: its duties are not known yet"
    for now in duties:
        if now.is_open:
            word = DUTY_WORDS[now.duty]
            last = view.position.block - view.position.offset + now.until
            state = "is due" if now.progress is Progress.DUE else "is still to come"
            return f"{word} of epoch {view.epoch} {state}, in chain block {last} at the latest"
    return None


def explain_unable(view: EpochView, *, is_paid: bool) -> str | None:
    """Return why this node, which is elected, cannot propose in the epoch; None if it can."""
    if not is_paid:
        return "it runs with --unpaid"
    if not view.has_hotkey:
        return "no hotkey was given"
    if view.position.offset > view.schedule.last_proposal:
        return "the time for a proposal is over"
    # Until the epoch's first block is final there is nothing wrong yet.
    is_told = view.status not in (EpochStatus.ACTIVE, EpochStatus.WAITING)
    return view.status.value if is_told else None


def _list_records(view: EpochView) -> Iterator[DutyNow]:
    roster = view.roster or view.previous_roster
    node, offset, own = view.find_own(roster), view.position.offset, view.own_records
    if view.is_scored(view.epoch) is not True:
        return
    for kind, duty in RECORD_DUTIES.items():
        window = view.schedule.windows[kind]
        # The scores of an epoch are revealed in the one after it.
        slot = (kind, Epoch(view.epoch - 1) if kind is RecordKind.SCORE_REVEAL else view.epoch)
        is_signed = slot in own
        has_to = is_signed if kind in REVEAL_KINDS else is_owed(view, kind, view.epoch, node)
        if kind in _COMMITS and not is_signed:
            # It is signed together with its commit, which may be still to come.
            commit = _COMMITS[kind]
            may_commit = offset < view.schedule.windows[commit].leaves_until
            has_to = may_commit and is_owed(view, commit, view.epoch, node)
        if not has_to:
            continue
        is_done = own.get(slot, False) or (kind is RecordKind.CHALLENGE and view.is_challenge_seen)
        progress = _find_progress(
            is_done=is_done, offset=offset, first=window.leaves_from, end=window.leaves_until
        )
        yield DutyNow(duty, progress, window.leaves_until - 1)


def _list_submissions(view: EpochView) -> Iterator[DutyNow]:
    schedule, offset, submission = view.schedule, view.position.offset, view.submission
    if not view.has_hotkey:
        return
    if view.elected == view.node_id:
        progress = _find_progress(
            is_done=submission is not None,
            offset=offset,
            first=0,
            end=schedule.last_proposal + 1,
        )
        yield DutyNow(OwedDuty.PROPOSE, progress, schedule.last_proposal)
        return
    if view.elected is None or not view.has_class(NodeClass.VALIDATOR):
        return
    if submission is None:
        # A proposal that is not there by then does not come any more.
        if offset <= schedule.attestation_deadline:
            yield DutyNow(OwedDuty.ATTEST, Progress.LATER, schedule.last_attestation)
        return
    is_done = view.node_id in submission.attested or view.epoch in view.refused
    progress = _find_progress(
        is_done=is_done, offset=offset, first=0, end=schedule.last_attestation + 1
    )
    yield DutyNow(OwedDuty.ATTEST, progress, schedule.last_attestation)


def _find_progress(*, is_done: bool, offset: int, first: int, end: int) -> Progress:
    if is_done:
        return Progress.DONE
    if offset >= end:
        return Progress.MISSED
    return Progress.DUE if offset >= first else Progress.LATER
