"""When alerts of a node fire and clear, from what the epoch loop tells and what is measured."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from statistics import mean

from consensus.duties import Attest, Propose, Republish
from consensus.missed import OwedDuty
from consensus.report import EpochReport
from consensus.types import SCORE_ONE, SubnetNodeId
from mesh.api.checks import HealthCheck
from subnet.account.registration import TENSOR
from subnet.alerts.book import Alert, AlertBook, AlertKind, AlertName
from subnet.epoch.missed import find_owed
from subnet.epoch.observer import (
    AttestationRefused,
    DutyDone,
    DutyMissed,
    EpochScored,
    ExtrinsicLanded,
    NodeEvent,
)
from subnet.journal.journal import Extrinsic
from subnet.operator.vitals import LOW_DISK_BYTES, Vitals, describe_disk

LOW_BALANCE = TENSOR // 100
USUAL_EPOCHS = 4
"""Scored epochs whose mean is the usual score; less than half of it is a drop."""
UNREACHABLE_S = 120.0
"""A node without any connection for so long is cut off; p2pd reconnects sooner by itself."""
ENOUGH_DISK_BYTES = LOW_DISK_BYTES * 3 // 2

_SUBMISSIONS = {Extrinsic.PROPOSE: OwedDuty.PROPOSE, Extrinsic.ATTEST: OwedDuty.ATTEST}


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """What is looked at. ``count_others`` says how many other nodes of the subnet are known."""

    node_id: SubnetNodeId
    vitals: Vitals
    check_chain: Callable[[], HealthCheck]
    count_others: Callable[[], int]


class AlertWatch:
    """Tells changes to ``tell``. ``clock`` is monotonic seconds."""

    def __init__(
        self,
        watched: Watched,
        book: AlertBook,
        tell: Callable[[Alert], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._watched = watched
        self._book = book
        self._tell = tell
        self._clock = clock
        self._scores: deque[float] = deque(maxlen=USUAL_EPOCHS)
        self._alone_since: float | None = None
        self._has_seen_chain = False

    def observe(self, event: NodeEvent) -> None:
        """Take one event of the epoch loop."""
        match event:
            case DutyMissed(owed, epoch, reason):
                self._set_missed(owed, f"epoch {epoch}: {owed.value}: {reason}")
            case AttestationRefused(epoch, detail):
                self._set(AlertKind.ATTESTATION_REFUSED, f"epoch {epoch}: {detail}")
            case ExtrinsicLanded(extrinsic, _, _):
                self._set_missed(_SUBMISSIONS[extrinsic], None)
                if extrinsic is Extrinsic.ATTEST:
                    self._set(AlertKind.ATTESTATION_REFUSED, None)
            case DutyDone(Propose() | Attest() | Republish()):
                return
            case DutyDone(duty):
                owed_in = find_owed(duty)
                if owed_in is not None:
                    self._set_missed(owed_in[0], None)
            case EpochScored(report):
                self._judge_score(report)

    def look(self) -> None:
        """Look at what is measured: disk, balance, peers, and the age of the head."""
        self._look_at_disk()
        self._look_at_balance()
        self._look_at_peers()
        chain = self._watched.check_chain()
        self._has_seen_chain |= chain.ok
        if self._has_seen_chain:
            self._set(AlertKind.CHAIN_STALE, None if chain.ok else chain.detail)

    def _look_at_disk(self) -> None:
        free = self._watched.vitals.disk_free
        if free is None:
            return
        if free < LOW_DISK_BYTES:
            self._set(AlertKind.DISK_LOW, f"{describe_disk(free)} on the disk of the data folder")
        elif free >= ENOUGH_DISK_BYTES:
            self._set(AlertKind.DISK_LOW, None)

    def _look_at_balance(self) -> None:
        balance = self._watched.vitals.balance
        if balance is not None:
            is_low = balance < LOW_BALANCE
            detail = f"the hotkey has {balance / TENSOR:.6f} TENSOR for fees"
            self._set(AlertKind.LOW_BALANCE, detail if is_low else None)

    def _look_at_peers(self) -> None:
        peers = self._watched.vitals.peers
        if peers is None:
            return
        if peers.all or not self._watched.count_others():
            self._alone_since = None
            self._set(AlertKind.UNREACHABLE, None)
            return
        now_s = self._clock()
        if self._alone_since is None:
            self._alone_since = now_s
        if now_s - self._alone_since >= UNREACHABLE_S:
            self._set(AlertKind.UNREACHABLE, "no peer is connected to this node")

    def _judge_score(self, report: EpochReport) -> None:
        score = dict(report.rows).get(self._watched.node_id, 0) / SCORE_ONE
        usual = mean(self._scores) if self._scores else 0.0
        self._scores.append(score)
        if score < usual / 2:
            detail = f"epoch {report.epoch}: {score:.4f} after {usual:.4f} on average"
            self._set(AlertKind.SCORE_DROP, f"{detail}; `mesh why {report.epoch}` tells the reason")
        elif score > 0:
            self._set(AlertKind.SCORE_DROP, None)

    def _set_missed(self, owed: OwedDuty, detail: str | None) -> None:
        self._change(AlertName(AlertKind.MISSED_DUTY, owed), detail)

    def _set(self, kind: AlertKind, detail: str | None) -> None:
        self._change(AlertName(kind), detail)

    def _change(self, name: AlertName, detail: str | None) -> None:
        alert = self._book.set(name, detail)
        if alert is not None:
            self._tell(alert)
