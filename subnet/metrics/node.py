"""The metrics and checks of a node, read when they are asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from consensus.view import EpochStatus
from mesh.api.checks import HealthCheck
from mesh.p2p.dial_back import Reach
from mesh.p2p.traffic import Traffic
from mesh.routing.directory import Directory
from mesh.routing.heartbeat import ServerState
from subnet.account.eligibility import Eligibility, Obstacle
from subnet.account.registration import TENSOR
from subnet.chain.endpoints import Endpoints
from subnet.epoch.observer import HeadHandled, NodeEvent
from subnet.hosting.serving import LayerServer
from subnet.metrics.chain_metrics import HeadTracker, fill_endpoints
from subnet.metrics.duties import DutyCounts
from subnet.metrics.hosting import fill_hosting, fill_serving_state
from subnet.metrics.page import Page
from subnet.metrics.swarm import (
    fill_blocks,
    fill_peers,
    fill_reach,
    fill_servers,
    fill_traffic,
)
from subnet.operator.vitals import Vitals, describe_disk


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricSources:
    """What a node's metrics are read from. ``server`` is None for a validator.

    ``count_alerts`` gives those that fire and those that were lost; None without a webhook.

    ``get_eligibility`` says whether it can earn in the next epoch, None while that is not known.
    ``count_others`` says how many other nodes of the subnet are known.
    """

    head: HeadTracker
    duties: DutyCounts
    vitals: Vitals
    endpoints: Endpoints
    traffic: Traffic
    directory: Directory
    num_layers: int
    server: LayerServer | None
    get_state: Callable[[], ServerState]
    get_reach: Callable[[], Reach]
    get_eligibility: Callable[[], Eligibility | None]
    count_others: Callable[[], int]
    count_alerts: Callable[[], tuple[int, int]] | None


class NodeMetrics:
    """Counts a node's events, and reads the rest from its sources."""

    def __init__(self, sources: MetricSources) -> None:
        self._sources = sources
        self._status: EpochStatus | None = None

    def observe(self, event: NodeEvent) -> None:
        """Count one event of the epoch loop. Quick, and never raises."""
        if isinstance(event, HeadHandled):
            self._status = event.status
        self._sources.head.observe(event)
        self._sources.duties.observe(event)

    def list_checks(self) -> tuple[HealthCheck, ...]:
        """Return what a node needs to serve and to earn."""
        vitals = self._sources.vitals
        return (
            self._check_serving(),
            self._sources.head.check(),
            self._check_clock(),
            self._check_peers(),
            HealthCheck("disk", not vitals.is_disk_low, describe_disk(vitals.disk_free)),
        )

    def fill(self, page: Page) -> None:
        """Put everything that is known into the page."""
        sources = self._sources
        servers = sources.directory.list_servers()
        sources.head.fill(page)
        sources.duties.fill(page)
        fill_endpoints(page, sources.endpoints)
        fill_traffic(page, [sources.traffic])
        fill_peers(page, sources.vitals.peers)
        fill_servers(page, servers)
        fill_blocks(page, servers, num_layers=sources.num_layers)
        fill_serving_state(page, sources.get_state())
        fill_reach(page, sources.get_reach())
        if sources.server is not None:
            fill_hosting(page, sources.server)
        if sources.count_alerts is not None:
            firing, lost = sources.count_alerts()
            page.add("mesh_alerts_firing", firing)
            page.add("mesh_alerts_lost_total", lost)
        vitals = sources.vitals
        page.add("mesh_disk_free_bytes", vitals.disk_free)
        page.add("mesh_hotkey_balance_tensor", _to_tensor(vitals.balance))
        page.add("mesh_stake_tensor", _to_tensor(vitals.stake))
        eligibility = sources.get_eligibility()
        if eligibility is not None:
            page.add("mesh_eligible_next_epoch", float(eligibility.obstacle is None))
            reasons = [each.value for each in Obstacle]
            page.add_state("mesh_ineligible_reason", eligibility.obstacle, reasons)

    def _check_serving(self) -> HealthCheck:
        state = self._sources.get_state()
        return HealthCheck(
            "serving", state is ServerState.ONLINE, f"the node is {state.name.lower()}"
        )

    def _check_clock(self) -> HealthCheck:
        is_wrong = self._status is EpochStatus.CLOCK_SKEW
        return HealthCheck(
            "clock", not is_wrong, EpochStatus.CLOCK_SKEW.value if is_wrong else "right"
        )

    def _check_peers(self) -> HealthCheck:
        peers, others = self._sources.vitals.peers, self._sources.count_others()
        if peers is None:
            return HealthCheck("peers", False, "p2pd was not asked yet, or does not answer")
        return HealthCheck("peers", peers.all > 0 or not others, f"{peers.all} connected")


def _to_tensor(amount: int | None) -> float | None:
    return None if amount is None else amount / TENSOR
