"""What every kind of process shows of the network: bytes, peers, servers, blocks without any."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from mesh.p2p.dial_back import Reach
from mesh.p2p.interface import PeerCounts
from mesh.p2p.traffic import Traffic
from mesh.routing.coverage import count_servers
from mesh.routing.directory import KnownServer
from mesh.routing.heartbeat import ServerRole
from subnet.metrics.page import Page


def fill_traffic(page: Page, hosts: Sequence[Traffic]) -> None:
    """Put the bytes that the hosts of this process exchanged with peers, one after the other."""
    for kind, counters in (
        ("calls", [traffic.calls for traffic in hosts]),
        ("records", [traffic.records for traffic in hosts]),
    ):
        page.add("mesh_received_bytes_total", sum(c.received for c in counters), kind)
        page.add("mesh_sent_bytes_total", sum(c.sent for c in counters), kind)


def fill_peers(page: Page, peers: PeerCounts | None) -> None:
    """Put how many peers are connected, once it is known."""
    if peers is not None:
        page.add("mesh_peers", peers.direct, "direct")
        page.add("mesh_peers", peers.relayed, "relay")


def fill_reach(page: Page, reach: Reach) -> None:
    """Put how peers reach this node."""
    for how in Reach:
        page.add("mesh_reachable", int(how is reach), how.value)


def fill_servers(page: Page, servers: tuple[KnownServer, ...]) -> None:
    """Put how many servers have a valid heartbeat."""
    roles = Counter(server.info.role for server in servers)
    for role in ServerRole:
        page.add("mesh_servers", roles[role], role.name.lower())


def fill_blocks(page: Page, servers: tuple[KnownServer, ...], *, num_layers: int) -> None:
    """Put how many servers the model's least served layer has."""
    spans = [
        server.info.span
        for server in servers
        if server.info.span is not None and server.info.takes_sessions
    ]
    page.add("mesh_blocks_online_min", min(count_servers(spans, num_layers=num_layers)))
