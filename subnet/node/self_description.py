"""What a node says of itself: to its peers, in its status file and to its supervisor."""

from __future__ import annotations

from typing import Any

from consensus.view import EpochStatus
from mesh.model.config import LayerSpan
from mesh.p2p.interface import PeerCounts
from mesh.routing.directory import Directory
from mesh.routing.features import name_software
from mesh.routing.heartbeat import MAX_SOFTWARE, ServerInfo, ServerRole, ServerState
from subnet.doctor.finding import CheckStatus
from subnet.doctor.hourly import Health
from subnet.hosting.serving import LayerServer
from subnet.operator.preflight import PreparedNode
from subnet.operator.status_facts import LoadSample
from subnet.version import SOFTWARE

MAX_HEALTH_TEXT = 300
"""Characters of one check's words in the status file."""


def is_taking_part(state: ServerState, status: EpochStatus, *, is_unpaid: bool) -> bool:
    """Whether a node does what it was started for: it serves, and is paid if it wants to be."""
    return state is ServerState.ONLINE and (is_unpaid or status is EpochStatus.ACTIVE)


def find_unable(prepared: PreparedNode) -> str | None:
    """Return why the node, as it was started, can neither propose nor attest; None if it can."""
    if prepared.config.unpaid:
        return "it runs with --unpaid"
    return "no hotkey was given" if prepared.hotkey is None else None


def describe_server(
    server: LayerServer | None, *, state: ServerState, addresses: tuple[str, ...]
) -> ServerInfo:
    """Return what a node announces; ``server`` is a hoster's, None for a validator."""
    layers = None if server is None else server.layers
    return ServerInfo(
        role=ServerRole.VALIDATOR if server is None else ServerRole.HOSTER,
        state=state,
        span=None if layers is None else LayerSpan(layers.start, layers.end),
        throughput=0 if server is None else server.throughput,
        free_cache_tokens=0 if server is None else server.free_cache_tokens,
        dtype="" if server is None else server.dtype,
        software=_name_software(server),
        addresses=addresses,
    )


def _name_software(server: LayerServer | None) -> str:
    """Return the program's name with what this node can do and how busy it is."""
    if server is None:
        return SOFTWARE
    return server.add_load(name_software(SOFTWARE, server.features, max_size=MAX_SOFTWARE))


def sample_load(
    server: LayerServer | None, directory: Directory, peers: PeerCounts | None
) -> LoadSample:
    """Return what the node serves now."""
    size = 0 if server is None else server.cache_tokens
    return LoadSample(
        sessions=None if server is None else server.session_count,
        rows_computed=0 if server is None else server.rows_computed,
        cache_used=size - server.free_cache_tokens if server is not None and size else None,
        cache_size=size or None,
        peers=peers,
        servers=directory.list_servers(),
    )


def describe_health(health: Health | None) -> dict[str, Any]:
    """Return the fields of the status that the hourly examination decides."""
    if health is None:
        return {}
    failing, warned = (
        tuple(
            f"{one.name}: {one.finding.detail}"[:MAX_HEALTH_TEXT]
            for one in health.list_with(status)
        )
        for status in (CheckStatus.FAIL, CheckStatus.WARN)
    )
    return {"examined_at": health.examined_at, "failing": failing, "warned": warned}
