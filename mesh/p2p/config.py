"""How a host is opened. No heavy imports, so that configuration costs nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from keys.peer import PeerId, PeerKey
from mesh.p2p.interface import AdmissionPolicy, RecordPolicy
from mesh.p2p.rpc_guard import RpcLimits

DEFAULT_BLOCK_TIME_S = 6.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayLimits:
    """What a relay does for peers that cannot be dialled: p2pd's circuit relay.

    ``max_reservations`` peers may be reached through it, each by ``max_circuits`` connections at
    once, each for ``max_time_s`` and ``max_bytes`` in each direction.
    """

    max_reservations: int = 128
    max_circuits: int = 16
    max_time_s: int = 600
    max_bytes: int = 256 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class HostConfig:
    """One node's place in the network.

    ``host_maddrs`` are listened on, ``announce_maddrs`` are told to others when they differ.
    Without a ``network_id`` there is no record store: that is for clients, which learn it from
    their first peer. Without a ``record_policy`` no record is admitted. ``is_member`` says who
    may hold a place in the DHT and store there, and for whom a share of the RPC limits is kept;
    None means all peers. A host in
    ``client_mode`` stores no records for others and listens only where it is told to.
    ``use_relay`` lets it be dialled, and dial, through relays; with ``relay_service`` it is one.
    ``use_auto_relay`` has those of the initial peers that are relays pass on what others dial.
    What the record store waits for is a part of ``block_time_s``, the chain's time between blocks.
    """

    key: PeerKey
    host_maddrs: tuple[str, ...] = ("/ip4/127.0.0.1/tcp/0",)
    announce_maddrs: tuple[str, ...] = ()
    initial_peers: tuple[str, ...] = ()
    network_id: bytes | None = None
    record_policy: RecordPolicy | None = None
    admission: AdmissionPolicy | None = None
    is_member: Callable[[PeerId], bool] | None = None
    client_mode: bool = False
    use_relay: bool = True
    relay_service: RelayLimits | None = None
    use_auto_relay: bool = False
    nat_port_map: bool = False
    limits: RpcLimits = field(default_factory=RpcLimits)
    block_time_s: float = DEFAULT_BLOCK_TIME_S
    startup_timeout_s: float = 60.0
    connect_timeout_s: float = 15.0
    probe_interval_s: float = 15.0
