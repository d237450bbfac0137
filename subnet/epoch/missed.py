"""Says which duties this node owed and did not do, once each, with the reason."""

from __future__ import annotations

from consensus.duties import Attest, Duty, Propose, ReportEpoch
from consensus.missed import RECORD_DUTIES, OwedDuty, list_missed
from consensus.records import RecordKind
from consensus.types import Epoch
from consensus.view import EpochView
from subnet.epoch.context import NodeContext
from subnet.epoch.observer import DutyMissed
from subnet.journal.journal import Journal

KEPT_REASON_EPOCHS = 3


class MissedDuties:
    """Keeps the last reason why each duty was postponed, for when its time is over."""

    def __init__(self, context: NodeContext) -> None:
        self._journal = context.journal
        self._observe = context.observe
        self._reasons: dict[tuple[OwedDuty, Epoch], str] = {}

    def remember(self, duty: Duty, reason: str) -> None:
        """Keep why a duty could not be done now."""
        owed = find_owed(duty)
        if owed is not None:
            self._reasons[owed] = reason

    async def note(self, view: EpochView) -> None:
        """Journal and tell what can be done no more and was not told yet."""
        for missed in list_missed(view):
            if missed.duty in self._journal.missed.get(missed.epoch, {}):
                continue
            reason = self._reasons.get((missed.duty, missed.epoch), missed.clue)
            await self._journal.record_missed(missed.epoch, missed.duty, reason)
            self._observe(DutyMissed(missed.duty, missed.epoch, reason))
        for owed in [o for o in self._reasons if o[1] <= view.epoch - KEPT_REASON_EPOCHS]:
            del self._reasons[owed]


def find_owed(duty: Duty) -> tuple[OwedDuty, Epoch] | None:
    """Return what a duty is part of, and the epoch in which it is owed."""
    match duty:
        case ReportEpoch():
            return None
        case Propose(epoch):
            return OwedDuty.PROPOSE, epoch
        case Attest(epoch):
            return OwedDuty.ATTEST, epoch
    kind = RECORD_DUTIES.get(duty.kind)
    # The scores of an epoch are revealed in the one after it.
    later = 1 if duty.kind is RecordKind.SCORE_REVEAL else 0
    return None if kind is None else (kind, Epoch(duty.epoch + later))


def describe_missed(journal: Journal) -> tuple[str, ...]:
    """Return a line for each duty missed and each proposal refused, the newest epoch first."""
    found = [(epoch, f"refused the proposal: {why}") for epoch, why in journal.refused.items()]
    found += [
        (epoch, f"{duty.value}: {why}")
        for epoch, missed in journal.missed.items()
        for duty, why in missed.items()
    ]
    newest_first = sorted(found, key=lambda line: line[0], reverse=True)
    return tuple(f"epoch {epoch}: {line}" for epoch, line in newest_first)
