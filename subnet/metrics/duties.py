"""Counts of what the epoch loop tells: duties done and missed, scores, elections."""

from __future__ import annotations

from collections import Counter

from consensus.duties import Attest, Duty, Propose, Republish
from consensus.missed import OwedDuty
from consensus.types import SCORE_ONE, Epoch, SubnetNodeId
from consensus.view import EpochStatus
from subnet.epoch.missed import find_owed
from subnet.epoch.observer import (
    AttestationRefused,
    DutyDone,
    DutyFailed,
    DutyMissed,
    EpochScored,
    EpochSettled,
    ExtrinsicLanded,
    HeadHandled,
    NodeEvent,
    RecordDropped,
)
from subnet.journal.journal import Extrinsic
from subnet.metrics.page import Page

UNPAID = "unpaid"


class DutyCounts:
    """Counts the events of one node since it started."""

    def __init__(self, node_id: SubnetNodeId, *, is_paid: bool) -> None:
        self._node_id = node_id
        self._is_paid = is_paid
        self._done: Counter[OwedDuty] = Counter()
        self._postponed: Counter[OwedDuty] = Counter()
        self._missed: Counter[OwedDuty] = Counter()
        self._refused = self._dropped = self._elections = 0
        self._status: EpochStatus | None = None
        self._score: tuple[Epoch, float] | None = None

    def observe(self, event: NodeEvent) -> None:
        """Count one event."""
        match event:
            case HeadHandled(_, status):
                self._status = status
            case DutyDone(Propose() | Attest() | Republish()):
                # What was refused, or done before, ends without an error too.
                return
            case DutyDone(duty):
                _count(self._done, duty)
            case ExtrinsicLanded(extrinsic, _, _):
                self._done[_SUBMISSIONS[extrinsic]] += 1
            case DutyFailed(duty, _):
                _count(self._postponed, duty)
            case DutyMissed(owed, _, _):
                self._missed[owed] += 1
            case AttestationRefused():
                self._refused += 1
            case RecordDropped():
                self._dropped += 1
            case EpochSettled(_, elected, _):
                self._elections += elected == self._node_id
            case EpochScored(report):
                score = dict(report.rows).get(self._node_id, 0)
                self._score = report.epoch, score / SCORE_ONE

    def fill(self, page: Page) -> None:
        """Put the counts into the page; every duty is there from the start, at 0."""
        for owed in OwedDuty:
            name = owed.name.lower()
            page.add("mesh_duties_done_total", self._done[owed], name)
            page.add("mesh_duties_postponed_total", self._postponed[owed], name)
            page.add("mesh_duties_missed_total", self._missed[owed], name)
        page.add("mesh_attestations_refused_total", self._refused)
        page.add("mesh_records_dropped_total", self._dropped)
        page.add("mesh_elections_total", self._elections)
        page.add_state("mesh_participation", self._name_status(), _STATUSES)
        if self._score is not None:
            page.add("mesh_score_epoch", self._score[0])
            page.add("mesh_score", self._score[1])

    def _name_status(self) -> str | None:
        if not self._is_paid:
            return UNPAID
        return None if self._status is None else self._status.name.lower()


_STATUSES = (*(status.name.lower() for status in EpochStatus), UNPAID)
_SUBMISSIONS = {Extrinsic.PROPOSE: OwedDuty.PROPOSE, Extrinsic.ATTEST: OwedDuty.ATTEST}


def _count(counter: Counter[OwedDuty], duty: Duty) -> None:
    """Count one; a duty that is owed to no other node, such as a report, is not counted."""
    owed = find_owed(duty)
    if owed is not None:
        counter[owed[0]] += 1
