"""When an alert fires and when it clears, for each kind."""

from __future__ import annotations

import pytest

from consensus.duties import Attest, CommitOutput, Republish
from consensus.missed import OwedDuty
from consensus.records import RecordKind
from consensus.report import EpochReport
from consensus.types import SCORE_ONE, BlockNumber, Epoch, Score, SubnetNodeId
from mesh.api.checks import HealthCheck
from mesh.p2p.interface import PeerCounts
from subnet.alerts.book import AlertBook, AlertKind
from subnet.alerts.watch import LOW_BALANCE, UNREACHABLE_S, AlertWatch, Watched
from subnet.epoch.observer import (
    AttestationRefused,
    DutyDone,
    DutyMissed,
    EpochScored,
    ExtrinsicLanded,
)
from subnet.journal.journal import Extrinsic
from subnet.operator.vitals import LOW_DISK_BYTES, Vitals

OWN = SubnetNodeId(3)
EPOCH = Epoch(9)
FRESH = HealthCheck("chain", True, "the newest head is 3 s old")
OLD = HealthCheck("chain", False, "the newest head is 130 s old")
UNKNOWN = HealthCheck("chain", False, "no head was seen yet")


class Scene:
    """A watch, what it looks at, and what it told: ``+name`` for firing, ``-name`` for cleared."""

    def __init__(self, directory):
        self.vitals = Vitals(directory)
        self.chain = FRESH
        self.others = 2
        self.now_s = 0.0
        self.alerts = []
        watched = Watched(
            node_id=OWN,
            vitals=self.vitals,
            check_chain=lambda: self.chain,
            count_others=lambda: self.others,
        )
        self.watch = AlertWatch(
            watched, AlertBook(directory), self.alerts.append, clock=lambda: self.now_s
        )

    def told(self):
        found = [f"{'+' if alert.is_firing else '-'}{alert.name}" for alert in self.alerts]
        self.alerts.clear()
        return found

    def look(self, **vitals):
        for name, value in vitals.items():
            setattr(self.vitals, name, value)
        self.watch.look()
        return self.told()

    def see(self, *events):
        for event in events:
            self.watch.observe(event)
        return self.told()

    def score(self, epoch, part):
        rows = ((OWN, Score(int(part * SCORE_ONE))),)
        return self.see(EpochScored(EpochReport(Epoch(epoch), bytes(32), rows=rows)))


@pytest.fixture
def scene(tmp_path):
    return Scene(tmp_path)


@pytest.mark.parametrize("owed", [OwedDuty.OUTPUT_COMMIT, OwedDuty.OUTPUT_REVEAL])
def test_a_missed_commit_or_reveal_fires_once(scene, owed):
    name = f"+missed_duty:{owed.name.lower()}"
    assert scene.see(DutyMissed(owed, EPOCH, "the model is still loading")) == [name]
    assert scene.see(DutyMissed(owed, Epoch(EPOCH + 1), "again")) == []


def test_a_missed_duty_clears_when_it_is_done_and_not_when_it_is_repeated(scene):
    scene.see(DutyMissed(OwedDuty.OUTPUT_COMMIT, EPOCH, "late"))
    assert scene.see(DutyDone(Republish(RecordKind.OUTPUT_COMMIT, EPOCH))) == []
    assert scene.see(DutyDone(CommitOutput(EPOCH))) == ["-missed_duty:output_commit"]


def test_a_refused_attestation_clears_with_the_next_one_that_lands(scene):
    assert scene.see(AttestationRefused(EPOCH, "scores differ")) == ["+attestation_refused"]
    assert scene.see(DutyDone(Attest(EPOCH, Epoch(EPOCH - 1), is_first=False))) == []
    assert scene.see(ExtrinsicLanded(Extrinsic.PROPOSE, EPOCH, BlockNumber(1))) == []
    landed = ExtrinsicLanded(Extrinsic.ATTEST, EPOCH, BlockNumber(1))
    assert scene.see(landed) == ["-attestation_refused"]


def test_a_node_that_nobody_is_connected_to_fires_after_a_while(scene):
    assert scene.look(peers=PeerCounts(0, 0)) == []
    scene.now_s += UNREACHABLE_S
    assert scene.look() == ["+unreachable"]
    assert scene.look(peers=None) == [], "p2pd that does not answer tells nothing about peers"
    assert scene.look(peers=PeerCounts(0, 1)) == ["-unreachable"]
    assert scene.look(peers=PeerCounts(0, 0)) == [], "the time begins anew"


def test_the_only_node_of_a_subnet_is_not_unreachable(scene):
    scene.others = 0
    scene.look(peers=PeerCounts(0, 0))
    scene.now_s += 2 * UNREACHABLE_S
    assert scene.look() == []


def test_a_low_balance_fires_and_clears(scene):
    assert scene.look() == [], "a node without a hotkey has no balance"
    assert scene.look(balance=LOW_BALANCE - 1) == ["+low_balance"]
    assert scene.look(balance=LOW_BALANCE) == ["-low_balance"]


def test_a_score_below_half_of_the_usual_fires_and_the_reason_can_be_asked_for(scene):
    assert scene.score(1, 0.0) == [], "a first score is no drop"
    for epoch in range(2, 6):
        assert scene.score(epoch, 0.8) == []
    scene.watch.observe(
        EpochScored(EpochReport(Epoch(6), bytes(32), rows=((OWN, Score(SCORE_ONE // 4)),)))
    )
    (alert,) = scene.alerts
    assert alert.name.kind is AlertKind.SCORE_DROP and "mesh why 6" in alert.detail
    scene.told()
    assert scene.score(7, 0.7) == ["-score_drop"]


def test_a_score_that_stays_zero_never_counts_as_recovered(scene):
    scene.score(1, 0.8)
    assert scene.score(2, 0.0) == ["+score_drop"]
    for epoch in range(3, 12):
        assert scene.score(epoch, 0.0) == []


def test_a_node_that_the_report_leaves_out_has_dropped_to_zero(scene):
    scene.score(1, 0.8)
    assert scene.see(EpochScored(EpochReport(Epoch(2), bytes(32)))) == ["+score_drop"]


def test_a_chain_that_stands_still_fires_and_one_that_was_never_seen_does_not(scene):
    scene.chain = UNKNOWN
    assert scene.look() == []
    scene.chain = FRESH
    assert scene.look() == []
    scene.chain = OLD
    assert scene.look() == ["+chain_stale"]
    scene.chain = FRESH
    assert scene.look() == ["-chain_stale"]


def test_a_full_disk_fires_and_clears_only_with_some_room(scene):
    assert scene.look(disk_free=LOW_DISK_BYTES - 1) == ["+disk_low"]
    assert scene.look(disk_free=LOW_DISK_BYTES + 1) == []
    assert scene.look(disk_free=2 * LOW_DISK_BYTES) == ["-disk_low"]
