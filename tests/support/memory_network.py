"""A network in memory, for tests and simulations: the same wire protocol over pipes.

No sockets, no threads, no wall clock of its own: it runs in a virtual-time loop, and one seeded
generator decides latency and loss.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from random import Random

from keys.errors import BadPeerId
from keys.peer import PeerId, PeerKey
from mesh.errors import PeerUnreachable, TransportError
from mesh.p2p.channel import Channel
from mesh.p2p.config import HostConfig
from mesh.p2p.interface import RecordPolicy, StreamHandler, UnaryHandler
from mesh.p2p.owned_tasks import OwnedTasks
from mesh.p2p.pipe import open_pipe
from mesh.p2p.record_checks import check_own_record, is_admitted
from mesh.p2p.rpc import RpcContext
from mesh.p2p.rpc_client import RpcClient
from mesh.p2p.rpc_server import RpcServer
from mesh.p2p.rpc_stream import SignedStream
from mesh.p2p.rpc_wire import NETWORK_ID_SIZE, NO_NETWORK
from mesh.p2p.traffic import Traffic

NUM_REPLICAS = 8
FIRST_PORT = 1024


@dataclass(frozen=True, slots=True)
class LinkConditions:
    """How messages travel: a uniform latency, and the share of dials and stores that fail."""

    min_latency_s: float = 0.0
    max_latency_s: float = 0.0
    drop_rate: float = 0.0


class MemoryNetwork:
    """Hosts that reach each other within one event loop.

    ``conditions`` may be replaced at any time; ``partition`` cuts groups off from one another.
    """

    def __init__(
        self,
        *,
        random: Random | None = None,
        clock: Callable[[], float] = time.time,
        conditions: LinkConditions | None = None,
        num_replicas: int = NUM_REPLICAS,
    ) -> None:
        self.random = random if random is not None else Random(0)
        self.clock = clock
        self.conditions = conditions if conditions is not None else LinkConditions()
        self.num_replicas = num_replicas
        self._hosts: dict[PeerId, MemoryHost] = {}
        self._groups: tuple[frozenset[PeerId], ...] = ()

    @asynccontextmanager
    async def open(self, config: HostConfig) -> AsyncIterator[MemoryHost]:
        """Run a host for the length of the block. Raises TransportError for a second one."""
        peer_id = config.key.peer_id
        if peer_id in self._hosts:
            raise TransportError(f"{peer_id} is already in the network")
        host = MemoryHost(config, self, port=FIRST_PORT + len(self._hosts))
        self._hosts[peer_id] = host
        try:
            yield host
        finally:
            del self._hosts[peer_id]
            await host.close()

    def partition(self, *groups: Sequence[PeerId]) -> None:
        """Let peers reach only their own group; a peer of no group reaches all."""
        self._groups = tuple(frozenset(group) for group in groups)

    def heal(self) -> None:
        """Undo ``partition``."""
        self._groups = ()

    def reach(self, source: PeerId, target: PeerId) -> MemoryHost:
        """Return the target's host. Raises PeerUnreachable: absent, cut off, or dropped."""
        host = self._hosts.get(target)
        if host is None or not self._is_linked(source, target):
            raise PeerUnreachable(target, "no such peer in the network")
        if self.conditions.drop_rate and self.random.random() < self.conditions.drop_rate:
            raise PeerUnreachable(target, "the connection was lost")
        return host

    def draw_latency_s(self) -> float:
        """Return the latency of the next message."""
        conditions = self.conditions
        if not conditions.max_latency_s:
            return 0.0
        return self.random.uniform(conditions.min_latency_s, conditions.max_latency_s)

    def nearest(self, key: bytes, network_id: bytes | None) -> list[MemoryHost]:
        """Return the hosts that should hold ``key``, nearest first, reachable or not."""
        target = int.from_bytes(hashlib.sha1(key).digest())
        candidates = [host for host in self._hosts.values() if host.stores_for(network_id)]
        candidates.sort(key=lambda host: host.place ^ target)
        return candidates[: self.num_replicas]

    def _is_linked(self, source: PeerId, target: PeerId) -> bool:
        return all((source in group) == (target in group) for group in self._groups)


@asynccontextmanager
async def open_hosts(
    keys: Sequence[PeerKey], *, network_id: bytes, record_policy: RecordPolicy
) -> AsyncIterator[list[MemoryHost]]:
    """Run a host for each key, in a network of their own."""
    network = MemoryNetwork()
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                network.open(
                    HostConfig(key=key, network_id=network_id, record_policy=record_policy)
                )
            )
            for key in keys
        ]


class MemoryHost:
    """Satisfies mesh.p2p.interface.Host; made by ``MemoryNetwork.open``."""

    def __init__(self, config: HostConfig, network: MemoryNetwork, *, port: int) -> None:
        self._config = config
        self._network = network
        self._port = port
        self._context = RpcContext(
            key=config.key,
            network_id=config.network_id or NO_NETWORK,
            limits=config.limits,
            clock=network.clock,
            random_bytes=network.random.randbytes,
        )
        self._server = RpcServer(self._context, config.admission, is_member=config.is_member)
        self._client = RpcClient(self._context, self._dial)
        self._tasks = OwnedTasks()
        self._connected: set[PeerId] = set()
        self.traffic = Traffic()
        self.place = int.from_bytes(hashlib.sha1(config.key.peer_id.public_key).digest())
        self.replica = _Replica(config.record_policy, network.clock)

    @property
    def peer_id(self) -> PeerId:
        return self._config.key.peer_id

    @property
    def network_id(self) -> bytes:
        """The network that this host's calls name; zeros until it is known."""
        return self._context.network_id

    @property
    def records(self) -> MemoryRecordStore:
        if self._config.network_id is None:
            raise TransportError("a host without a network id has no record store")
        return MemoryRecordStore(self, self._network)

    @property
    def config(self) -> HostConfig:
        """What the host was opened with."""
        return self._config

    def set_network_id(self, network_id: bytes) -> None:
        """Name the network in every later call. Raises ValueError."""
        if len(network_id) != NETWORK_ID_SIZE:
            raise ValueError(f"a network id has {NETWORK_ID_SIZE} bytes")
        self._context.network_id = network_id

    def stores_for(self, network_id: bytes | None) -> bool:
        """Say whether this host keeps records of that network for others."""
        return not self._config.client_mode and self._config.network_id == network_id

    async def watch(self) -> None:
        """Run until cancelled: nothing here can die."""
        await asyncio.get_running_loop().create_future()

    async def list_addresses(self) -> Sequence[str]:
        return (f"/ip4/127.0.0.1/tcp/{self._port}/p2p/{self.peer_id}",)

    async def connect(self, addresses: Sequence[str]) -> None:
        for text in addresses:
            try:
                peer = PeerId.from_base58(text.rpartition("/p2p/")[2])
            except BadPeerId as error:
                raise ValueError(f"{text!r} names no peer") from error
            self._network.reach(self.peer_id, peer)

    def serve_unary(
        self,
        method: str,
        handler: UnaryHandler,
        *,
        max_request_size: int,
        any_network: bool = False,
    ) -> None:
        self._server.serve_unary(
            method, handler, max_request_size=max_request_size, any_network=any_network
        )

    def serve_stream(self, method: str, handler: StreamHandler) -> None:
        self._server.serve_stream(method, handler)

    async def call(self, peer: PeerId, method: str, payload: bytes, *, timeout_s: float) -> bytes:
        return await self._client.call(peer, method, payload, timeout_s=timeout_s)

    async def open_stream(
        self, peer: PeerId, method: str, *, timeout_s: float, early: bool = False
    ) -> SignedStream:
        return await self._client.open_stream(peer, method, timeout_s=timeout_s, early=early)

    def accept(self, channel: Channel) -> None:
        """Serve one incoming channel in the background."""
        self._tasks.start(self._server.handle(channel))

    async def close(self) -> None:
        """End everything that this host was answering."""
        await self._tasks.close()

    async def _dial(self, peer: PeerId) -> Channel:
        latency_s = self._network.draw_latency_s()
        # As in libp2p, a stream over a connection that is there is opened by its first bytes.
        await asyncio.sleep(0.0 if peer in self._connected else latency_s)
        target = self._network.reach(self.peer_id, peer)
        self._connected.add(peer)
        client_end, server_end = open_pipe(
            self.peer_id, peer, latency_s=self._network.draw_latency_s
        )
        if target is not self:
            client_end.traffic, server_end.traffic = self.traffic.calls, target.traffic.calls
        target.accept(server_end)
        return client_end


class MemoryRecordStore:
    """Satisfies mesh.p2p.interface.RecordStore over the hosts' replicas."""

    def __init__(self, host: MemoryHost, network: MemoryNetwork) -> None:
        self._host = host
        self._network = network

    async def publish(self, key: bytes, value: bytes, expires_at: int) -> bool:
        config = self._host.config
        check_own_record(config.record_policy, key=key, value=value, expires_at=expires_at)
        await asyncio.sleep(self._network.draw_latency_s())
        is_held = False
        for target in self._network.nearest(key, config.network_id):
            if self._can_store_at(target):
                if target is not self._host:
                    self._host.traffic.records.add_sent(len(value))
                    target.traffic.records.add_received(len(value))
                is_held |= target.replica.offer(key, value, float(expires_at))
        return is_held

    async def fetch(
        self,
        keys: Sequence[bytes] | Mapping[bytes, int],
        *,
        timeout_s: float,
        max_misses: int = NUM_REPLICAS,
    ) -> Mapping[bytes, bytes]:
        latency_s = self._network.draw_latency_s()
        await asyncio.sleep(min(latency_s, timeout_s))
        if latency_s > timeout_s:
            return {}
        earliest = keys if isinstance(keys, Mapping) else dict.fromkeys(keys, 0)
        found = (
            (key, self._find(key, expires_at, max_misses)) for key, expires_at in earliest.items()
        )
        return {key: value for key, value in found if value is not None}

    def _find(self, key: bytes, earliest: int, max_misses: int) -> bytes | None:
        own, misses = self._host.replica, 0
        for target in self._network.nearest(key, self._host.config.network_id):
            if misses == max_misses:
                break
            if not self._is_reachable(target):
                continue
            held = target.replica.get(key)
            if held is None or held[0] < earliest:
                misses += 1
                continue
            if target is not self._host:
                target.traffic.records.add_sent(len(held[1]))
                self._host.traffic.records.add_received(len(held[1]))
            if own.admits(key, *held):
                return held[1]
        return None

    def _can_store_at(self, target: MemoryHost) -> bool:
        is_member = target.config.is_member
        own = self._host.peer_id
        return (is_member is None or is_member(own)) and self._is_reachable(target)

    def _is_reachable(self, target: MemoryHost) -> bool:
        if target is self._host:
            return True
        try:
            self._network.reach(self._host.peer_id, target.peer_id)
        except PeerUnreachable:
            return False
        return True


class _Replica:
    """What one host holds for the network: write-once, larger expiry wins."""

    def __init__(self, policy: RecordPolicy | None, clock: Callable[[], float]) -> None:
        self._policy = policy
        self._clock = clock
        self._held: dict[bytes, tuple[float, bytes]] = {}

    def offer(self, key: bytes, value: bytes, expires_at: float) -> bool:
        """Store a record and say whether it is held now."""
        if expires_at < self._clock() or not self.admits(key, expires_at, value):
            return False
        held = self._held.get(key)
        if held is None or expires_at > held[0]:
            self._held[key] = (expires_at, value)
            return True
        return held == (expires_at, value)

    def get(self, key: bytes) -> tuple[float, bytes] | None:
        """Return expiry and value, unless it has expired."""
        held = self._held.get(key)
        if held is not None and held[0] < self._clock():
            del self._held[key]
            return None
        return held

    def admits(self, key: bytes, expires_at: float, value: bytes) -> bool:
        """Ask the policy whether the record belongs under ``key``."""
        return is_admitted(self._policy, key=key, value=value, expires_at=expires_at)
