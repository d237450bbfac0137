"""One peer on unmodified hivemind: its daemon, its DHT node and its signed RPC."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from typing import Any, Self
from weakref import WeakSet

from hivemind.p2p.p2p_daemon_bindings.datastructures import StreamInfo
from hivemind.utils.logging import use_hivemind_log_handler
from hivemind.utils.multiaddr import Multiaddr

from keys.peer import PeerId
from mesh.errors import DaemonFailed, PeerUnreachable, TransportError
from mesh.p2p.addresses import split_peer_address, with_peer_id
from mesh.p2p.channel import Channel, SocketChannel
from mesh.p2p.config import HostConfig
from mesh.p2p.daemon import Daemon, run_daemon
from mesh.p2p.dht_binding import BoundP2P, DhtRules, OpenCalls
from mesh.p2p.dht_reader import RecordReader
from mesh.p2p.dht_records import (
    DhtRecordStore,
    Neighbourhood,
    compute_timing,
    create_dht_node,
)
from mesh.p2p.dht_writer import RecordWriter
from mesh.p2p.interface import PeerCounts, RecordStore, StreamHandler, UnaryHandler
from mesh.p2p.offenders import Offenders
from mesh.p2p.owned_tasks import OwnedTasks
from mesh.p2p.peer_checks import PeerChecks
from mesh.p2p.pipe import open_pipe
from mesh.p2p.relay_start import run_relay
from mesh.p2p.reservations import RELAY_PROTOCOL, Reservations
from mesh.p2p.rpc import RpcContext
from mesh.p2p.rpc_client import RpcClient
from mesh.p2p.rpc_server import RpcServer
from mesh.p2p.rpc_stream import SignedStream
from mesh.p2p.rpc_wire import NETWORK_ID_SIZE, NO_NETWORK
from mesh.p2p.stream_listener import StreamListener
from mesh.p2p.traffic import Traffic

RPC_PROTOCOL = "/mesh/rpc/1"
EARLY_PROTOCOL = "/mesh/rpc/2"
"""The same with early streams, for peers that know them."""
PROTOCOLS = (EARLY_PROTOCOL, RPC_PROTOCOL)
STREAMS_NAME = "streams.sock"
NAMESPACE_SIZE = 8
RETRY_S = 0.5
PROBE_TIMEOUT_S = 10.0

logger = logging.getLogger(__name__)


class HivemindHost:
    """Satisfies mesh.p2p.interface.Host; made by ``open``."""

    def __init__(self, config: HostConfig, *, daemon: Daemon, p2p: BoundP2P) -> None:
        self._config = config
        self._daemon = daemon
        self._p2p = p2p
        self._context = RpcContext(
            key=config.key,
            network_id=config.network_id or NO_NETWORK,
            limits=config.limits,
        )
        self._offenders = Offenders(
            is_member=config.is_member, on_drop=self._drop, on_return=self._disconnect
        )
        p2p.rules = DhtRules(is_member=config.is_member, offenders=self._offenders)
        self._server = RpcServer(
            self._context,
            config.admission,
            is_member=config.is_member,
            offenders=self._offenders,
        )
        self._client = RpcClient(self._context, self._dial)
        relays = config.initial_peers if config.use_auto_relay else ()
        self._reservations = Reservations(daemon, config.key.peer_id, relays)
        self._tasks = OwnedTasks()
        self._channels: WeakSet[SocketChannel] = WeakSet()
        self._listener: StreamListener | None = None
        self._records: RecordStore | None = None
        self._checks: PeerChecks | None = None
        self._neighbourhood: Neighbourhood | None = None
        # Every node of a network may be given the same list, the first one included.
        self._initial_peers = [
            text for text in config.initial_peers if split_peer_address(text)[1] != self.peer_id
        ]
        # What the start waits for; None until the daemon has answered once.
        self._waiting_for: str | None = None

    @classmethod
    @asynccontextmanager
    async def open(cls, config: HostConfig) -> AsyncIterator[Self]:
        """Run a host for the length of the block; ``watch`` belongs in the caller's TaskGroup.

        Raises DaemonFailed when the daemon does not start or ends meanwhile, TransportError when
        no initial peer of this network answers within the start-up timeout.
        """
        _check(config)
        _quiet_hivemind()
        host: Self | None = None
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(config.startup_timeout_s):
                    daemon = await stack.enter_async_context(_run_p2pd(config))
                    async with daemon.watch_over():
                        p2p = await stack.enter_async_context(_attach(daemon, config))
                        host = cls(config, daemon=daemon, p2p=p2p)
                        stack.push_async_callback(host._close)
                        await host._start()
            except TimeoutError as error:
                seconds = f"{config.startup_timeout_s:g} s"
                if host is None or host._waiting_for is None:
                    raise DaemonFailed(f"p2pd did not answer within {seconds}") from error
                raise TransportError(f"{host._waiting_for} (tried for {seconds})") from error
            yield host

    @property
    def peer_id(self) -> PeerId:
        return self._config.key.peer_id

    @property
    def network_id(self) -> bytes:
        """The network that this host's calls name; zeros until it is known."""
        return self._context.network_id

    @property
    def records(self) -> RecordStore:
        """The record store. Raises TransportError on a host that was opened without a network."""
        if self._records is None:
            raise TransportError("a host without a network id has no record store")
        return self._records

    @property
    def checks(self) -> PeerChecks:
        """What this node asks peers about itself. Raises TransportError as ``records`` does."""
        if self._checks is None:
            raise TransportError("a host without a network id has no peers to ask")
        return self._checks

    @property
    def traffic(self) -> Traffic:
        """Bytes sent and received since the host was opened."""
        return self._p2p.traffic

    @property
    def daemon_pid(self) -> int:
        """The process id of p2pd."""
        return self._daemon.pid

    def set_network_id(self, network_id: bytes) -> None:
        """Name the network in every later call. Raises ValueError."""
        if len(network_id) != NETWORK_ID_SIZE:
            raise ValueError(f"a network id has {NETWORK_ID_SIZE} bytes")
        self._context.network_id = network_id

    async def watch(self) -> None:
        """Run until the daemon dies or hangs, then raise DaemonFailed; it never returns.

        At each probe it dials lost neighbours again.
        """
        while True:
            try:
                async with asyncio.timeout(self._config.probe_interval_s):
                    reason = await self._daemon.wait_exit()
            except TimeoutError:
                await self._probe()
                await self._stay_in_touch()
            else:
                raise DaemonFailed(reason)

    async def list_addresses(self) -> Sequence[str]:
        own = [with_peer_id(text, self.peer_id) for text in await self._daemon.fetch_addresses()]
        return [*own, *self._reservations.addresses]

    async def count_peers(self) -> PeerCounts:
        """Return how many peers are connected now. Raises DaemonFailed."""
        return await self._daemon.count_peers()

    async def connect(self, addresses: Sequence[str]) -> None:
        by_peer: dict[PeerId, list[str]] = defaultdict(list)
        for text in addresses:
            by_peer[split_peer_address(text)[1]].append(text)
        for peer, texts in by_peer.items():
            try:
                async with asyncio.timeout(self._config.connect_timeout_s):
                    await self._daemon.connect(peer, texts)
            except TimeoutError as error:
                # A daemon that is frozen would make every peer look absent.
                await self._probe()
                detail = f"no connection within {self._config.connect_timeout_s:g} s"
                raise PeerUnreachable(peer, detail) from error

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

    async def _start(self) -> None:
        config = self._config
        await self._listen()
        self._waiting_for = "no initial peer answers"
        # The caller's timeout ends the tries; the nodes of a network may start together.
        await _retry(self._dial_initial_peers)
        if config.use_auto_relay:
            await self._reservations.renew()
            self._tasks.start(self._reservations.keep())
        if config.network_id is None:
            return
        policy, timing = config.record_policy, compute_timing(config.block_time_s)
        node = await create_dht_node(
            self._p2p,
            own=self.peer_id,
            policy=policy,
            initial_peers=self._initial_peers,
            client_mode=config.client_mode,
            timing=timing,
        )
        reader = RecordReader(node, self._p2p, policy, request_s=timing.request_s)
        if not config.client_mode:
            await reader.serve()
        self._checks = PeerChecks(self.peer_id, self._daemon, node, reader)
        writer = RecordWriter(node, is_member=config.is_member)
        self._records = DhtRecordStore(policy, reader, writer, publish_s=timing.publish_s)
        peers = [split_peer_address(text)[1] for text in self._initial_peers]
        self._neighbourhood = Neighbourhood(node, peers)
        # A peer that answers but knows another network is no neighbour.
        self._waiting_for = "no initial peer is in this network"
        await _retry(self._neighbourhood.refresh)
        await self._neighbourhood.explore()

    async def _dial_initial_peers(self) -> bool:
        """Dial all of them; False when there are some and none answers."""
        dials = (self.connect([text]) for text in self._initial_peers)
        results = await asyncio.gather(*dials, return_exceptions=True)
        for result in results:
            if result is not None and not isinstance(result, PeerUnreachable):
                raise result
        if not results or None in results:
            return True
        self._waiting_for = f"no initial peer answers: {results[0]}"
        return False

    async def _dial(self, peer: PeerId) -> Channel:
        if peer == self.peer_id:
            # libp2p does not dial itself, but a route may lead through our own layers.
            client_end, server_end = open_pipe(peer, peer)
            self._tasks.start(self._server.handle(server_end))
            return client_end
        channel = await self._daemon.open_channel(peer, *PROTOCOLS, traffic=self.traffic.calls)
        channel.takes_early = channel.protocol == EARLY_PROTOCOL
        self._channels.add(channel)
        return channel

    async def _listen(self) -> None:
        """Have p2pd hand over the streams in which other peers call."""
        path = self._daemon.directory / STREAMS_NAME
        try:
            self._listener = StreamListener.open(
                path, turn_away=self._turn_away, on_stream=self._on_stream
            )
        except OSError as error:
            raise DaemonFailed(f"no socket can be made for p2pd: {error}") from error
        await self._daemon.hand_over(path, *PROTOCOLS)
        if self._config.relay_service is None:
            # p2pd relays 128 KiB a connection whatever it is told; this takes its handler's place.
            await self._p2p.add_binary_stream_handler(RELAY_PROTOCOL, _refuse_channel)

    def _turn_away(self, peer: PeerId) -> bool:
        return self._offenders.turn_away(peer, now_s=self._context.clock())

    def _on_stream(self, peer: PeerId, stream: socket.socket, arrived: bytes) -> None:
        self._tasks.start(self._answer(peer, stream, arrived))

    async def _answer(self, peer: PeerId, stream: socket.socket, arrived: bytes) -> None:
        channel = await SocketChannel.accept(peer, stream, arrived, traffic=self.traffic.calls)
        self._channels.add(channel)
        await self._server.handle(channel)

    def _drop(self, peer: PeerId) -> None:
        """End all that a peer has open with us."""
        logger.info("dropped a peer that keeps breaking rules: %s", peer)
        for channel in list(self._channels):
            if channel.peer_id == peer:
                channel.abort()
        self._disconnect(peer)

    def _disconnect(self, peer: PeerId) -> None:
        async def disconnect() -> None:
            with suppress(DaemonFailed):  # It is found dead by ``watch``.
                await self._daemon.disconnect(peer)

        self._tasks.start(disconnect())

    async def _probe(self) -> None:
        control = self._p2p._client.control
        if control._read_task.done() or control._write_task.done():
            raise DaemonFailed(f"the connection to p2pd (process {self.daemon_pid}) has ended")
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                await self._daemon.fetch_addresses()
        except TimeoutError as error:
            raise DaemonFailed(
                f"p2pd (process {self.daemon_pid}) hangs: it runs and does not answer for "
                f"{PROBE_TIMEOUT_S:g} s"
            ) from error

    async def _stay_in_touch(self) -> None:
        await self._dial_initial_peers()
        if self._neighbourhood is not None and not await self._neighbourhood.refresh():
            logger.warning("this node has no neighbours in the DHT")

    async def _close(self) -> None:
        """End what we answer, then what we asked."""
        if self._listener is not None:
            self._listener.close()
        await self._tasks.close()
        for channel in list(self._channels):
            channel.abort()


def _run_p2pd(config: HostConfig) -> AbstractAsyncContextManager[Daemon]:
    limits = config.relay_service
    return run_daemon(config) if limits is None else run_relay(config, limits)


async def _refuse_channel(
    _info: StreamInfo, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    writer.transport.abort()


async def _retry(attempt: Callable[[], Awaitable[bool]]) -> None:
    while True:
        if await attempt():
            return
        await asyncio.sleep(RETRY_S)


@asynccontextmanager
async def _attach(daemon: Daemon, config: HostConfig) -> AsyncIterator[BoundP2P]:
    # hivemind puts its own socket under a fixed prefix in /tmp; ours goes with the daemon's.
    attached: Any = type("AttachedP2P", (BoundP2P,), {})
    attached._UNIX_SOCKET_PREFIX = f"/unix{daemon.directory}/"
    p2p = await attached.replicate(Multiaddr(f"/unix{daemon.control_path}"))
    p2p._client.control._pending_calls = OpenCalls()
    p2p.traffic = Traffic()
    p2p.hand_offs, p2p.handed_to = OwnedTasks(), set()
    # It travels with each request. Records and calls name the whole network id.
    p2p.namespace = (config.network_id or NO_NETWORK)[:NAMESPACE_SIZE].hex()
    try:
        yield p2p
    finally:
        await _detach(p2p)


async def _detach(p2p: BoundP2P) -> None:
    """Shut hivemind's client down and wait for its tasks, which it only cancels."""
    control = p2p._client.control
    tasks = (control._read_task, control._write_task, p2p._listen_task)
    await p2p.hand_offs.close()
    await p2p.shutdown()
    await asyncio.gather(*(task for task in tasks if task is not None), return_exceptions=True)
    # Transports close one round later.
    await asyncio.sleep(0)


def _check(config: HostConfig) -> None:
    if config.network_id is not None and len(config.network_id) != NETWORK_ID_SIZE:
        raise ValueError(f"a network id has {NETWORK_ID_SIZE} bytes")
    for text in config.initial_peers:
        split_peer_address(text)


def _quiet_hivemind() -> None:
    """Let hivemind speak through our handlers, and only of what an operator can act on.

    On import it installs a handler of its own and renames the level WARNING of the whole process.
    """
    use_hivemind_log_handler("nowhere")
    logging.addLevelName(logging.WARNING, "WARNING")
    logging.getLogger("hivemind").setLevel(logging.WARNING)
