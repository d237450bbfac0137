"""A bootstrap before and after it has a subnet, and a gateway whose model has gaps."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from consensus.phases import compute_schedule
from consensus.protocol_params import MINIMAL
from consensus.types import BlockNumber, compute_epoch_position
from mesh.api.measures import GatewayMeasures, RequestOutcome
from mesh.p2p.interface import PeerCounts
from mesh.p2p.traffic import Traffic
from subnet.chain.endpoints import Endpoints
from subnet.epoch.interfaces import BlockInfo
from subnet.epoch.observer import HeadSeen
from subnet.metrics.bootstrap import BootstrapMetrics, FollowedSubnet
from subnet.metrics.chain_metrics import HeadTracker
from subnet.metrics.gateway import GatewayMetrics
from subnet.metrics.page import Page, make_renderer
from subnet.metrics.table import STANDARD_SERIES, Process
from tests.support.metrics import get_value, list_names, list_promised, parse_page

NOW_S = 1000.0
BY_SERVER = {"mesh_build_info", "mesh_ready", "mesh_ready_check", *STANDARD_SERIES}
NO_SERVERS: Any = SimpleNamespace(list_servers=lambda: ())


def read(process, fill):
    return parse_page(make_renderer(process, fill)().decode())


class FakeHost:
    """A host with one peer."""

    def __init__(self):
        self.traffic = Traffic()

    async def count_peers(self):
        return PeerCounts(direct=1, relayed=0)


async def measure(metrics, host, monkeypatch):
    """Let the bootstrap measure once."""

    async def stop(_seconds):
        raise InterruptedError

    monkeypatch.setattr("subnet.operator.vitals.asyncio.sleep", stop)
    try:
        await metrics.keep_fresh(host)
    except InterruptedError:
        return


def follow(metrics):
    head = HeadTracker(
        schedule=compute_schedule(20, MINIMAL), block_time_s=6.0, clock=lambda: NOW_S
    )
    head.observe(HeadSeen(BlockInfo(BlockNumber(147), b"h" * 32, int(NOW_S))))
    head.note_position(compute_epoch_position(BlockNumber(147), slot=0, epoch_length=20))
    endpoints = Endpoints(["ws://127.0.0.1:9944"])
    metrics.follow(FollowedSubnet(head=head, endpoints=endpoints, directory=NO_SERVERS))


async def test_a_bootstrap_lacks_a_subnet_until_the_chain_names_it(tmp_path, monkeypatch):
    metrics = BootstrapMetrics(tmp_path)
    assert [check.ok for check in metrics.list_checks()] == [False, False, True]
    metrics.is_online = True
    relaying, serving = FakeHost(), FakeHost()
    relaying.traffic.calls.add_received(5)
    serving.traffic.calls.add_received(7)
    await measure(metrics, relaying, monkeypatch)
    assert [check.name for check in metrics.list_checks() if not check.ok] == ["chain"]
    await measure(metrics, serving, monkeypatch)
    follow(metrics)
    assert all(check.ok for check in metrics.list_checks())
    samples = read(Process.BOOTSTRAP, metrics.fill)
    assert list_names(samples) | BY_SERVER == list_promised(Process.BOOTSTRAP)
    # Its two hosts, one after the other, are one process.
    assert get_value(samples, "mesh_received_bytes_total", kind="calls") == 12
    assert get_value(samples, "mesh_peers", path="direct") == 1


def test_a_gateway_is_ready_while_every_block_is_served():
    uncovered = [(2, 4)]
    client: Any = SimpleNamespace(
        host=FakeHost(), directory=NO_SERVERS, config=SimpleNamespace(num_layers=8)
    )
    measures = GatewayMeasures()
    measures.results[RequestOutcome.FAILED] = 3
    measures.refills, measures.replays = 4, 5
    metrics = GatewayMetrics(measures, client, find_uncovered=lambda: uncovered)
    (check,) = metrics.list_checks()
    assert not check.ok and check.detail == "no server for blocks 2:4"
    uncovered.clear()
    (check,) = metrics.list_checks()
    assert check.ok
    samples = read(Process.GATEWAY, metrics.fill)
    assert list_names(samples) | BY_SERVER == list_promised(Process.GATEWAY)
    assert get_value(samples, "mesh_requests_total", result="failed") == 3
    assert get_value(samples, "mesh_requests_total", result="finished") == 0
    assert get_value(samples, "mesh_refills_total") == 4
    assert get_value(samples, "mesh_replays_total") == 5


def test_a_chain_that_was_never_seen_is_not_fresh():
    head = HeadTracker(schedule=compute_schedule(20, MINIMAL), block_time_s=6.0)
    assert not head.check().ok
    page = Page(Process.NODE)
    head.fill(page)
    assert {family.name for family in page.list_families()} == {
        "mesh_chain_block_time_seconds",
        "mesh_chain_unavailable",
    }
