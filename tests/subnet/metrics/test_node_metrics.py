"""What a node counts of its own epochs, what it reads of its parts, and when it is ready."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from consensus.duties import Attest, CommitOutput, Republish
from consensus.missed import OwedDuty
from consensus.phases import compute_schedule
from consensus.protocol_params import MINIMAL
from consensus.records import RecordKind
from consensus.report import EpochReport
from consensus.types import (
    SCORE_ONE,
    BlockNumber,
    Epoch,
    Score,
    SubnetNodeId,
    compute_epoch_position,
)
from consensus.view import EpochStatus
from keys.peer import PeerKey
from mesh.inference.measures import RefillResult
from mesh.inference.refusals import RefusalReason
from mesh.model.config import LayerSpan
from mesh.p2p.dial_back import Reach
from mesh.p2p.interface import PeerCounts
from mesh.p2p.traffic import Traffic
from mesh.routing.coverage import count_servers
from mesh.routing.heartbeat import ServerState
from subnet.account.eligibility import Eligibility, Obstacle
from subnet.chain.endpoints import Endpoints, name_endpoints
from subnet.epoch.interfaces import BlockInfo
from subnet.epoch.observer import (
    AttestationRefused,
    DutyDone,
    DutyFailed,
    DutyMissed,
    EpochScored,
    EpochSettled,
    ExtrinsicLanded,
    HeadHandled,
    HeadSeen,
    Unavailable,
)
from subnet.errors import ChainUnavailable
from subnet.hosting.serving import LayerServer
from subnet.journal.journal import Extrinsic
from subnet.metrics.chain_metrics import HeadTracker
from subnet.metrics.duties import DutyCounts
from subnet.metrics.node import MetricSources, NodeMetrics
from subnet.metrics.page import make_renderer
from subnet.metrics.table import METRICS, NODE, STANDARD_SERIES, Process, list_series
from subnet.operator.vitals import LOW_DISK_BYTES, Vitals
from tests.support.metrics import Samples, get_value, list_names, parse_page

OWN = SubnetNodeId(3)
EPOCH = Epoch(7)
SECRET_URL = "wss://user:pass@rpc.example.org/v1/0123456789abcdef"
WITH_AN_ENGINE = {"mesh_kv_cache_tokens", "mesh_kv_cache_usage_perc"}


class NoServers:
    """A directory that knows no server."""

    def list_servers(self) -> tuple[()]:
        return ()


class Scene:
    """A hoster's metrics, and everything that they are read from."""

    def __init__(self, directory: Any) -> None:
        unused: Any = None
        self.now_s = 1000.0
        self.state = ServerState.ONLINE
        self.reach = Reach.UNKNOWN
        self.others = 2
        self.vitals = Vitals(directory)
        self.vitals.peers = PeerCounts(direct=2, relayed=1)
        self.vitals.disk_free = 5 * LOW_DISK_BYTES
        self.endpoints = Endpoints([SECRET_URL, "ws://127.0.0.1:9944"])
        self.server = LayerServer(
            unused, unused, host=unused, directory=unused, choice=unused, announce=unused
        )
        schedule = compute_schedule(20, MINIMAL)
        self.eligibility: Eligibility | None = None
        self.metrics = NodeMetrics(
            MetricSources(
                head=HeadTracker(schedule=schedule, block_time_s=6.0, clock=lambda: self.now_s),
                duties=DutyCounts(OWN, is_paid=True),
                vitals=self.vitals,
                endpoints=self.endpoints,
                traffic=Traffic(),
                directory=NoServers(),  # type: ignore[arg-type]
                num_layers=8,
                server=self.server,
                get_state=lambda: self.state,
                get_reach=lambda: self.reach,
                get_eligibility=lambda: self.eligibility,
                count_others=lambda: self.others,
                count_alerts=lambda: (1, 2),
            )
        )
        self.see(147)

    def see(self, block: int, status: EpochStatus = EpochStatus.ACTIVE) -> None:
        number = BlockNumber(block)
        position = compute_epoch_position(number, slot=0, epoch_length=20)
        self.observe(HeadSeen(BlockInfo(number, b"h" * 32, int(self.now_s))))
        self.observe(HeadHandled(position, status))

    def observe(self, event: Any) -> None:
        self.metrics.observe(event)

    def read(self) -> Samples:
        return parse_page(make_renderer(Process.NODE, self.metrics.fill)().decode())

    def list_missing(self) -> list[str]:
        return [check.name for check in self.metrics.list_checks() if not check.ok]


@pytest.fixture
def scene(tmp_path):
    return Scene(tmp_path)


def test_every_metric_of_a_node_is_there_and_no_other(scene):
    scene.vitals.balance = scene.vitals.stake = 10**18
    scene.eligibility = Eligibility(EPOCH)
    scene.observe(EpochScored(EpochReport(EPOCH, bytes(32))))
    promised = {
        name for metric in METRICS.values() if metric.processes >= NODE for name in metric.series
    }
    by_server = {"mesh_build_info", "mesh_ready", "mesh_ready_check"}
    found = list_names(scene.read()) - set(STANDARD_SERIES)
    assert found == promised - by_server - WITH_AN_ENGINE
    assert found < list_series()


def test_whether_it_can_earn_next_is_one_number_with_one_reason(scene):
    def read() -> tuple[float, list[str]]:
        samples = scene.read()
        reasons = {
            dict(labels)["reason"]: value
            for (name, labels), value in samples.items()
            if name == "mesh_ineligible_reason"
        }
        assert reasons.keys() == {str(each) for each in Obstacle}
        true = [reason for reason, value in reasons.items() if value == 1]
        return get_value(samples, "mesh_eligible_next_epoch"), true

    assert not any(name.startswith("mesh_eligible") for name, _ in scene.read())
    scene.eligibility = Eligibility(EPOCH)
    assert read() == (1, [])
    scene.eligibility = Eligibility(EPOCH, Obstacle.LOW_BALANCE, "its hotkey cannot pay a fee")
    assert read() == (0, ["low_balance"])


def test_no_label_takes_more_values_than_its_list_has(scene):
    for number in range(100):
        scene.server.measures.note_failure(f"made up {number}")
        scene.observe(EpochSettled(Epoch(number), SubnetNodeId(number), None))
    series = Counter(name for name, labels in scene.read() if dict(labels).keys() != {"le"})
    assert max(series.values()) == len(RefusalReason)


def test_duties_are_counted_once_by_what_became_of_them(scene):
    scene.observe(DutyDone(CommitOutput(EPOCH)))
    scene.observe(DutyDone(Republish(RecordKind.OUTPUT_COMMIT, EPOCH)))
    scene.observe(DutyFailed(CommitOutput(EPOCH), "the model is still loading"))
    scene.observe(DutyMissed(OwedDuty.OUTPUT_REVEAL, EPOCH, "no replica has acknowledged it"))
    samples = scene.read()
    assert get_value(samples, "mesh_duties_done_total", duty="output_commit") == 1
    assert get_value(samples, "mesh_duties_postponed_total", duty="output_commit") == 1
    assert get_value(samples, "mesh_duties_missed_total", duty="output_reveal") == 1
    assert get_value(samples, "mesh_duties_missed_total", duty="output_commit") == 0


def test_a_refused_attestation_is_not_one_that_was_done(scene):
    scene.observe(AttestationRefused(EPOCH, "the scores differ"))
    scene.observe(DutyDone(Attest(EPOCH, Epoch(EPOCH - 1), is_first=False)))
    samples = scene.read()
    assert get_value(samples, "mesh_attestations_refused_total") == 1
    assert get_value(samples, "mesh_duties_done_total", duty="attest") == 0
    scene.observe(ExtrinsicLanded(Extrinsic.ATTEST, EPOCH, BlockNumber(150)))
    assert get_value(scene.read(), "mesh_duties_done_total", duty="attest") == 1


def test_the_score_is_this_node_s_and_says_of_which_epoch(scene):
    rows = ((SubnetNodeId(1), Score(SCORE_ONE)), (OWN, Score(SCORE_ONE // 4)))
    scene.observe(EpochScored(EpochReport(EPOCH, bytes(32), rows=rows)))
    samples = scene.read()
    assert get_value(samples, "mesh_score") == 0.25
    assert get_value(samples, "mesh_score_epoch") == EPOCH
    scene.observe(EpochScored(EpochReport(Epoch(EPOCH + 1), bytes(32), rows=rows[:1])))
    assert get_value(scene.read(), "mesh_score") == 0


def test_only_the_own_election_is_counted(scene):
    scene.observe(EpochSettled(EPOCH, SubnetNodeId(1), None))
    scene.observe(EpochSettled(Epoch(EPOCH + 1), OWN, None))
    assert get_value(scene.read(), "mesh_elections_total") == 1


def test_phase_and_lag_follow_the_head(scene):
    scene.now_s += 9
    samples = scene.read()
    assert get_value(samples, "mesh_chain_block_height") == 147
    assert get_value(samples, "mesh_chain_head_age_seconds") == 9
    assert get_value(samples, "mesh_epoch") == 7
    phases = {labels: value for (name, labels), value in samples.items() if name == "mesh_phase"}
    assert sorted(phases.values()) == [0, 0, 0, 0, 1]
    assert 0 < get_value(samples, "mesh_phase_deadline_seconds") <= 20 * 6


def test_endpoints_are_named_without_what_may_be_a_secret(scene):
    scene.endpoints.leave(SECRET_URL, ChainUnavailable("it does not answer"))
    scene.observe(Unavailable("chain", "it does not answer"))
    samples = scene.read()
    assert get_value(samples, "mesh_chain_endpoint_up", endpoint="rpc.example.org") == 0
    assert get_value(samples, "mesh_chain_endpoint_up", endpoint="127.0.0.1:9944") == 1
    failures = "mesh_chain_endpoint_failures_total"
    assert get_value(samples, failures, endpoint="rpc.example.org") == 1
    assert get_value(samples, "mesh_chain_unavailable_total") == 1
    assert not any(
        "pass" in value or "0123" in value for _, labels in samples for _, value in labels
    )


def test_two_endpoints_at_one_host_have_two_names():
    assert name_endpoints(["wss://a.org/1", "wss://a.org/2", "wss://b.org:1/"]) == (
        "a.org",
        "a.org#2",
        "b.org:1",
    )


@pytest.mark.parametrize(
    ("name", "break_it"),
    [
        ("serving", lambda scene: setattr(scene, "state", ServerState.DRAINING)),
        ("chain", lambda scene: setattr(scene, "now_s", scene.now_s + 121)),
        ("clock", lambda scene: scene.see(148, EpochStatus.CLOCK_SKEW)),
        ("peers", lambda scene: setattr(scene.vitals, "peers", PeerCounts(0, 0))),
        ("disk", lambda scene: setattr(scene.vitals, "disk_free", LOW_DISK_BYTES - 1)),
    ],
)
def test_readiness_names_each_thing_that_is_missing(scene, name, break_it):
    assert scene.list_missing() == []
    break_it(scene)
    assert scene.list_missing() == [name]


def test_the_first_node_of_a_subnet_is_ready_without_peers(scene):
    scene.vitals.peers = PeerCounts(0, 0)
    scene.others = 0
    assert scene.list_missing() == []


def test_a_failed_session_is_counted_under_a_reason_that_we_know(scene):
    scene.server.measures.note_failure("busy")
    scene.server.measures.note_failure(f"made up by {PeerKey(b'x' * 32).peer_id}")
    samples = scene.read()
    assert get_value(samples, "mesh_sessions_failed_total", reason="busy") == 1
    assert get_value(samples, "mesh_sessions_failed_total", reason="failed") == 1


def test_the_least_served_block_counts_and_boasts_beyond_the_model_do_not():
    spans = [LayerSpan(0, 4), LayerSpan(2, 6), LayerSpan(5, 99)]
    assert count_servers(spans, num_layers=6) == (1, 1, 2, 2, 1, 2)
    assert count_servers([], num_layers=3) == (0, 0, 0)


def test_refills_are_counted_by_what_the_session_found(scene):
    measures = scene.server.measures
    measures.refills[RefillResult.KEPT] += 2
    measures.refilled_rows += 64
    samples = scene.read()
    found = [
        get_value(samples, "mesh_session_refills_total", result=result.value)
        for result in RefillResult
    ]
    assert found == [2, 0, 0]
    assert get_value(samples, "mesh_refilled_rows_total") == 64
