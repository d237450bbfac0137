"""``mesh monitor``: a client without a journal that shows what it can see.

From any node it learns the network and every server's heartbeat; from the chain, where one is
given, the nodes, the proposals with their scores, attestations and pay. When records were seen it
cannot know.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog

from consensus.phases import Schedule, compute_schedule
from consensus.protocol_params import MAINNET
from consensus.submission import Submission
from consensus.types import Epoch, EpochPosition, SubnetId, compute_epoch_position
from keys.peer import PeerId
from mesh.client.connection import learn_network, make_client_host_config
from mesh.errors import MeshError, PeerError
from mesh.p2p.addresses import split_peer_address
from mesh.p2p.hivemind_host import HivemindHost
from mesh.p2p.quic import modernise
from mesh.progress import Step, ignore_step, track
from mesh.routing.directory import Directory
from mesh.routing.info import NetworkInfo
from subnet.chain.block_time import fetch_block_time_ms
from subnet.chain.substrate import SubstrateChain
from subnet.errors import ChainUnavailable, ConfigError, ReceiptNotKept, UnknownSubnet
from subnet.known_peers import fetch_bootnode_addresses
from subnet.monitor.chain_view import READ_TIMEOUT_S, ChainView
from subnet.monitor.collector import describe_network
from subnet.monitor.documents import ChainClock, EpochRecord, Head, History, Network, Observer
from subnet.monitor.epochs import (
    EpochFound,
    digest_results,
    make_clock,
    make_record,
)
from subnet.monitor.history import HistoryFile, open_history
from subnet.monitor.hub import Hub
from subnet.monitor.serving import serve_monitor
from subnet.monitor.swarm import Leavers, NewestResults, count_hosters, make_rows
from subnet.operator.monitor_options import MonitorOptions
from subnet.operator.preflight import make_private_directory
from subnet.thread_runner import Runner, open_thread_runner
from subnet.version import SOFTWARE

REFRESH_S = 10.0
RETRY_S = 5.0
FIRST_EPOCHS = 16
"""Epochs before the present one that are read from the chain at the start."""
FOLDER = "monitor"

logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchConfig:
    """Whom the monitor dials, and which chain it reads; one of both at least.

    Without ``initial_peers`` the chain names them. ``data_dir`` keeps the history; None keeps it
    in memory.
    """

    initial_peers: tuple[str, ...] = ()
    chain_url: str | None = None
    subnet_id: SubnetId | None = None
    data_dir: Path | None = None


async def run_watcher(
    config: WatchConfig,
    options: MonitorOptions,
    *,
    on_start: Callable[[str], None] | None = None,
) -> None:
    """Show what can be seen until cancelled. Raises ConfigError, UnknownSubnet or ChainError."""
    options.check()
    async with contextlib.AsyncExitStack() as stack:
        chain = None
        if config.chain_url is not None:
            chain = await stack.enter_async_context(
                SubstrateChain.open(config.chain_url, call_timeout_s=READ_TIMEOUT_S)
            )
        view = await _open_view(chain, config)
        run = stack.enter_context(open_thread_runner("monitor"))
        genesis = None if chain is None else (await chain.fetch_info()).genesis_hash
        history = stack.enter_context(_open_own_history(config, genesis))
        watcher = Watcher(view, history, run, shows_addresses=options.shows_addresses)
        await stack.enter_async_context(serve_monitor(options, watcher, on_start=on_start))
        peers = config.initial_peers
        if not peers and view is not None:
            peers = await fetch_bootnode_addresses(view.chain.chain, view.chain.subnet_id)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(watcher.follow_swarm(peers))
            if view is not None:
                tasks.create_task(watcher.follow_chain())


@contextlib.contextmanager
def _open_own_history(config: WatchConfig, genesis: bytes | None) -> Iterator[HistoryFile]:
    if config.data_dir is None or genesis is None:
        with open_history(None, network_id=b"") as history:
            yield history
        return
    folder = config.data_dir / FOLDER
    make_private_directory(folder)
    # Another chain, or the same one begun anew, has other epochs.
    name = f"subnet-{config.subnet_id}.sqlite"
    with open_history(folder / name, network_id=genesis) as history:
        yield history


@dataclass(frozen=True, slots=True)
class _View:
    """The chain and what does not change about the subnet on it."""

    chain: ChainView
    name: str
    slot: int
    epoch_length: int
    schedule: Schedule
    block_time_s: float

    def locate(self, block: int) -> EpochPosition:
        return compute_epoch_position(block, slot=self.slot, epoch_length=self.epoch_length)  # type: ignore[arg-type]


async def _open_view(chain: SubstrateChain | None, config: WatchConfig) -> _View | None:
    if chain is None:
        return None
    if config.subnet_id is None:
        raise ConfigError("which subnet of the chain?", "give --subnet ID")
    subnet = await chain.fetch_subnet(config.subnet_id)
    if subnet is None:
        raise UnknownSubnet(f"the chain has no subnet {config.subnet_id}")
    length = (await chain.fetch_info()).epoch_length
    return _View(
        ChainView(chain, config.subnet_id),
        subnet.name,
        subnet.slot or 0,
        length,
        compute_schedule(length, MAINNET),
        await fetch_block_time_ms(chain) / 1000,
    )


class Watcher:
    """Satisfies MonitorData for a process that only looks."""

    def __init__(
        self, view: _View | None, history: HistoryFile, run: Runner, *, shows_addresses: bool
    ) -> None:
        self._view = view
        self._history = history
        self._run = run
        self._shows_addresses = shows_addresses
        self._info: NetworkInfo | None = None
        self._directory: Directory | None = None
        self._position: EpochPosition | None = None
        self._head_at = 0.0
        self._elected: int | None = None
        self._submissions: dict[int, Submission] = {}
        self._results: dict[int, object] = {}
        self._newest = NewestResults()
        self._leavers = Leavers()
        self._trouble: dict[str, str] = {}
        self.hub = Hub()

    async def read_epoch(self, epoch: int) -> EpochRecord | None:
        return await self._run(self._history.read, epoch)

    async def read_history(self, count: int) -> History:
        return await self._run(self._history.read_tables, count)

    async def read_receipt(self, epoch: int, node_id: int) -> bytes:
        raise ReceiptNotKept(
            "this monitor has no journal, so it keeps no receipts",
            "open the monitor page of a node, or ask there: mesh why EPOCH NODE",
        )

    # The swarm.

    async def follow_swarm(self, addresses: tuple[str, ...]) -> None:
        """Read the directory of any node again and again; dial anew when none answers."""
        while True:
            try:
                await self._follow_one_host(addresses)
            except MeshError as error:
                self._say("swarm", "No node of the network answers.", detail=str(error))
            self.publish()
            await asyncio.sleep(RETRY_S)

    async def _follow_one_host(self, addresses: tuple[str, ...]) -> None:
        if not addresses:
            self._say("swarm", "The chain names no node to dial.")
            return
        initial = modernise(addresses)
        async with HivemindHost.open(make_client_host_config()) as host:
            self._info = await learn_network(host, initial)
            host.set_network_id(self._info.network_id)
            directory = self._directory = Directory(host, network_id=self._info.network_id)
            peers = [split_peer_address(address)[1] for address in initial]
            while True:
                await directory.fetch_from_first([*peers, *await _dial(directory, peers)])
                self._trouble.pop("swarm", None)
                self.publish()
                await asyncio.sleep(REFRESH_S)

    def _say(self, what: str, text: str, *, detail: str = "") -> None:
        """Show a notice; its detail, which may hold addresses, stands in the log only."""
        if self._trouble.get(what) != text:
            logger.warning("the monitor cannot see everything", reason=text, detail=detail)
        self._trouble[what] = text

    # The chain.

    async def follow_chain(self) -> None:
        """Read with every head what has changed."""
        assert self._view is not None
        chain = self._view.chain.chain
        while True:
            try:
                async for head in chain.heads():
                    await self._note_head(int(head.number))
                    self._trouble.pop("chain", None)
                    self.publish()
            except ChainUnavailable as error:
                self._say("chain", "The chain does not answer.", detail=str(error))
                self.publish()
            await asyncio.sleep(RETRY_S)

    async def _note_head(self, block: int) -> None:
        view = self._view
        assert view is not None
        before, self._position = self._position, view.locate(block)
        self._head_at = time.time()
        epoch = self._position.epoch
        if await view.chain.follow(epoch) or before is None:
            self._elected = await view.chain.chain.fetch_elected_validator(
                view.chain.subnet_id, epoch
            )
            first = epoch - FIRST_EPOCHS if before is None else before.epoch
            await self._catch_up(max(0, first), epoch)
        known = self._submissions.get(epoch)
        if known is None or not known.voters <= known.attested:
            await self._read_submission(epoch)
            await self._keep(Epoch(max(0, epoch - 1)))
        await self._keep(epoch)
        for old in [e for e in self._submissions if e < epoch - FIRST_EPOCHS]:
            del self._submissions[old]

    async def _catch_up(self, first: int, epoch: int) -> None:
        """Read the submissions of the epochs since ``first``, and write down what they change."""
        with contextlib.ExitStack() as stack:
            step: Step = ignore_step
            # One epoch is what every head of a new epoch brings.
            if epoch - first > 1:
                work = track("reading earlier epochs", total=epoch - first, unit="epochs")
                step = stack.enter_context(work)
            for earlier in range(first, epoch):
                await self._read_submission(Epoch(earlier))
                step(1)
            for earlier in range(max(0, first - 1), epoch):
                await self._keep(Epoch(earlier))

    async def _read_submission(self, epoch: Epoch) -> None:
        assert self._view is not None
        found = await self._view.chain.fetch_submission(epoch)
        if found is not None:
            self._submissions[epoch] = found

    async def _keep(self, epoch: Epoch) -> None:
        view, position = self._view, self._position
        assert view is not None and position is not None
        submission = self._submissions.get(epoch)
        following = self._submissions.get(epoch + 1)
        if submission is None and following is None and epoch < position.epoch:
            return
        is_present = epoch == position.epoch
        record = make_record(
            EpochFound(
                epoch=epoch,
                schedule=view.schedule,
                first_block=epoch * view.epoch_length + view.slot,
                known=frozenset(int(node.node_id) for node in view.chain.nodes)
                if is_present
                else frozenset(),
                elected=self._elected
                if is_present
                else submission.proposer
                if submission
                else None,
                submission=submission,
                following=following,
                min_attestation=view.chain.min_attestation,
                is_over=epoch < position.epoch,
                paid=view.chain.paid.get(epoch + 1, {}),
            )
        )
        self._newest.note(record, is_scored=any(node.score is not None for node in record.nodes))
        before = self._results.get(epoch)
        after = self._results[epoch] = digest_results(record)
        if before != after:
            await self._run(self._history.write, record)
            self.hub.note_epoch(epoch, has_results=True)

    # What is shown.

    def publish(self) -> None:
        """Put together what is known now."""
        view = self._view
        servers = () if self._directory is None else self._directory.list_servers()
        rows = make_rows(
            servers,
            () if view is None else view.chain.nodes,
            self._newest.earned,
            own=None,
            with_addresses=self._shows_addresses,
        )
        network = self._describe_network()
        head = Head(
            observer=Observer(kind="monitor", name="mesh monitor", software=SOFTWARE),
            network=network,
            chain=self._describe_clock(),
            hosters=count_hosters(servers, num_blocks=network.num_blocks),
            scored_epoch=self._newest.scored_epoch,
            settled_epoch=self._newest.settled_epoch,
            notices=tuple(self._trouble[name] for name in sorted(self._trouble)),
        )
        self.hub.publish(head, self._leavers.merge(rows, now_s=time.time()))

    def _describe_network(self) -> Network:
        subnet_id = None if self._view is None else int(self._view.chain.subnet_id)
        if self._info is None:
            name = "" if self._view is None else self._view.name
            return Network(
                subnet_id=subnet_id, network_id="", manifest_hash="", model=name, num_blocks=0
            )
        return describe_network(self._info, subnet_id=subnet_id)

    def _describe_clock(self) -> ChainClock | None:
        view, position = self._view, self._position
        if view is None or position is None:
            return None
        return make_clock(
            position,
            view.schedule,
            head_at=self._head_at,
            block_time_s=view.block_time_s,
            elected=self._elected,
        )


async def _dial(directory: Directory, known: list[PeerId]) -> list[PeerId]:
    """Return servers that can be asked in place of the first peers, dialled; a few."""
    found: list[PeerId] = []
    for server in directory.list_servers():
        if len(found) >= 3:
            break
        if server.peer_id in known:
            continue
        try:
            await directory.ensure_connected(server.peer_id)
        except PeerError:
            continue
        found.append(server.peer_id)
    return found
