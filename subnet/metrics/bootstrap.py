"""The metrics and checks of a bootstrap, before and after a subnet names it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mesh.api.checks import HealthCheck
from mesh.p2p.hivemind_host import HivemindHost
from mesh.p2p.traffic import Traffic
from mesh.routing.directory import Directory
from subnet.chain.endpoints import Endpoints
from subnet.metrics.chain_metrics import HeadTracker, fill_endpoints
from subnet.metrics.page import Page
from subnet.metrics.swarm import fill_peers, fill_servers, fill_traffic
from subnet.operator.vitals import Vitals, describe_disk


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowedSubnet:
    """What a bootstrap has once the chain names it as a bootnode of a subnet."""

    head: HeadTracker
    endpoints: Endpoints
    directory: Directory


class BootstrapMetrics:
    """Reads a bootstrap's parts on demand. ``is_online`` once it has told its addresses.

    The bytes of the host that it had before it found its subnet are counted too.
    """

    def __init__(self, data_dir: Path) -> None:
        self._vitals = Vitals(data_dir)
        self._subnet: FollowedSubnet | None = None
        self._traffic: list[Traffic] = []
        self.is_online = False

    def follow(self, subnet: FollowedSubnet) -> None:
        """Show this subnet from now on."""
        self._subnet = subnet

    async def keep_fresh(self, host: HivemindHost) -> None:
        """Measure what needs waiting, until cancelled."""
        self._traffic.append(host.traffic)
        await self._vitals.keep_fresh(host.count_peers)

    def list_checks(self) -> tuple[HealthCheck, ...]:
        """Return what a bootstrap needs to introduce and to relay."""
        disk = HealthCheck(
            "disk", not self._vitals.is_disk_low, describe_disk(self._vitals.disk_free)
        )
        subnet = self._subnet
        return (
            HealthCheck("serving", self.is_online, "online" if self.is_online else "starting"),
            HealthCheck("chain", False, "no subnet on the chain names this peer as a bootnode")
            if subnet is None
            else subnet.head.check(),
            disk,
        )

    def fill(self, page: Page) -> None:
        """Put everything that is known into the page."""
        fill_traffic(page, self._traffic)
        fill_peers(page, self._vitals.peers)
        page.add("mesh_disk_free_bytes", self._vitals.disk_free)
        if self._subnet is not None:
            self._subnet.head.fill(page)
            fill_endpoints(page, self._subnet.endpoints)
            fill_servers(page, self._subnet.directory.list_servers())
