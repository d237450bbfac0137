"""Opens and runs one node: chain, journal, host, engine and epoch loop in one task group.

The node is crash-only: an unexpected error cancels the group and ends the process. A supervisor
starts it again, and the journal makes that safe.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import structlog

from consensus.phases import phase_at
from consensus.protocol_params import MAINNET, ConsensusParams
from consensus.types import LayerRange, Role
from consensus.view import EpochStatus
from mesh.client.connection import make_client_host_config
from mesh.errors import ManifestNotFound, MeshError
from mesh.model.config import LayerSpan
from mesh.model.manifest import ModelManifest
from mesh.p2p.addresses import choose_announced
from mesh.p2p.hivemind_host import HivemindHost
from mesh.p2p.interface import Host
from mesh.p2p.record_exchange import RecordExchange
from mesh.plugins import PluginKind, PluginStamp
from mesh.routing.announcer import Announcer
from mesh.routing.directory import Directory
from mesh.routing.features import name_software
from mesh.routing.heartbeat import MAX_SOFTWARE, ServerInfo, ServerRole, ServerState
from mesh.routing.info import NetworkInfo
from mesh.routing.manifest_exchange import serve_manifest
from subnet.account.money import MIN_HOTKEY_BALANCE, fetch_stake
from subnet.alerts.node import NodeAlerts
from subnet.alerts.watch import Watched
from subnet.chain.extrinsic_journal import ExtrinsicJournal, settle
from subnet.chain.substrate import SubstrateChain
from subnet.claim import FolderBefore, claim_identity
from subnet.doctor.checks import NODE_CHECKS, run_in_node
from subnet.doctor.finding import Verdict
from subnet.doctor.hourly import Health, HourlyExam
from subnet.doctor.in_node import NodeExam
from subnet.doctor.reach import OPEN_PORT, USE_RELAY, ReachWatch
from subnet.doctor.service import make_facts, make_methods, try_own_prompt
from subnet.doctor.subject import NodeFacts, Subject
from subnet.epoch.author import Author
from subnet.epoch.context import NodeContext
from subnet.epoch.loop import EpochLoop
from subnet.epoch.missed import describe_missed
from subnet.epoch.observer import HeadHandled, HeadSeen, NodeEvent, Observe, log_event
from subnet.errors import ChainUnavailable, ConfigError
from subnet.hosting.auditing import AuditInference
from subnet.hosting.layer_choice import LayerChoice
from subnet.hosting.limits import choose_rpc_limits
from subnet.hosting.manifest import fetch_manifest, find_manifest, keep_manifest, make_shape
from subnet.hosting.relay_guard import RelayGuard
from subnet.hosting.serving import LayerServer, LocalModel, ServedModel
from subnet.journal.journal import Journal
from subnet.known_peers import KnownPeers, fetch_bootnode_addresses
from subnet.metrics.chain_clock import ChainClock
from subnet.metrics.duties import DutyCounts
from subnet.metrics.node import MetricSources, NodeMetrics
from subnet.metrics.serving import serve_metrics
from subnet.metrics.table import Process
from subnet.monitor.chain_view import READ_TIMEOUT_S, ChainView
from subnet.monitor.collector import NodeMonitor, NodeSources
from subnet.monitor.in_node import open_node_monitor
from subnet.network import (
    OnReady,
    SubnetOnChain,
    SubnetState,
    fetch_subnet_on_chain,
    make_relay_config,
    open_subnet_state,
)
from subnet.operator.access import AccessGate
from subnet.operator.control import ControlServer
from subnet.operator.identity_lock import hold_identity
from subnet.operator.interrupts import Service
from subnet.operator.layout import check_folder, prepare_folder
from subnet.operator.preflight import PreparedNode
from subnet.operator.status import StatusFile
from subnet.operator.status_facts import LoadSample, StatusFacts
from subnet.operator.supervisor import Supervisor, find_chain_fault
from subnet.operator.vitals import Vitals
from subnet.plugins.chosen import ChosenPlugins, check_stamps, open_plugins
from subnet.probing.book import BOOK_FILE, ProbeBook
from subnet.probing.prober import ProbeContext, Prober
from subnet.probing.prompts import make_prompter
from subnet.probing.targets import is_validator, list_targets
from subnet.probing.verdict import Attempt
from subnet.receipts.store import ReceiptStore
from subnet.thread_runner import Runner, open_thread_runner
from subnet.version import SOFTWARE

CONNECT_PERIOD_S = 10.0
ADDRESSES_PERIOD_S = 15.0
DRAIN_S = 5.0
MANIFEST_ROUNDS = 6
MANIFEST_RETRY_S = 5.0
EXTRINSICS_FILE = "extrinsics.sqlite"
MAX_HEALTH_TEXT = 300
"""Characters of one check's words in the status file."""

logger = structlog.get_logger(__name__)


async def run_node(
    prepared: PreparedNode,
    *,
    params: ConsensusParams = MAINNET,
    observe: Observe = log_event,
    on_ready: OnReady | None = None,
    supervisor: Supervisor | None = None,
) -> None:
    """Run until SIGTERM or SIGINT, then drain. SIGHUP reads the access lists again.

    ``on_ready`` gets the addresses that others dial, once the node serves; ``supervisor`` hears
    that the node is ready once it takes part. Raises what ended it otherwise.
    """
    supervisor = supervisor or Supervisor()
    service = Service(supervisor)

    async def work() -> None:
        async with open_node(
            prepared, params=params, observe=observe, supervisor=supervisor
        ) as node:
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, node.reload_access)
            service.note_started(node.drain)
            await node.serve(on_ready)

    await service.run(work())


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeParts:
    """What ``open_node`` opened, for the length of its block."""

    prepared: PreparedNode
    manifest: ModelManifest | None
    plugins: ChosenPlugins
    subnet: SubnetOnChain
    chain: SubstrateChain
    extrinsics: ExtrinsicJournal
    state: SubnetState
    gate: AccessGate
    host: HivemindHost
    initial_peers: tuple[str, ...]
    run: Runner
    observe: Observe
    supervisor: Supervisor


@asynccontextmanager
async def open_node(
    prepared: PreparedNode, *, params: ConsensusParams, observe: Observe, supervisor: Supervisor
) -> AsyncIterator[Node]:
    """Open everything a node needs, in the order in which it can fail."""
    check_folder(prepared.data_dir)
    config = prepared.config
    async with AsyncExitStack() as stack:
        extrinsics = stack.enter_context(ExtrinsicJournal.open(prepared.data_dir / EXTRINSICS_FILE))
        logger.info("connecting to the chain", url=config.chain_url)
        chain = await stack.enter_async_context(
            SubstrateChain.open(config.chain_url, signer=prepared.hotkey, log=extrinsics)
        )
        supervisor.watch(lambda: find_chain_fault(chain.endpoints))
        subnet = await fetch_subnet_on_chain(chain, prepared.subnet_id, params)
        stack.enter_context(hold_identity(prepared.key, subnet.terms.network_id))
        prepare_folder(prepared.data_dir)
        before = FolderBefore.look(prepared)
        state = await stack.enter_async_context(
            open_subnet_state(
                chain,
                subnet.terms,
                key=prepared.key,
                data_dir=prepared.data_dir,
                shape=make_shape(prepared.model),
            )
        )
        gate = AccessGate(config.allow_file, config.deny_file, is_member=state.known_peers.is_node)
        initial_peers = await find_initial_peers(chain, prepared)
        await claim_identity(
            prepared, chain, state, initial_peers, before, say=supervisor.note_status
        )
        logger.info("joining the swarm", initial_peers=len(initial_peers))
        relay = make_relay_config(
            prepared.key,
            host_maddrs=config.get_host_maddrs(),
            announce_maddrs=config.get_announce_maddrs(),
            initial_peers=initial_peers,
            auto_relay=config.auto_relay,
        )
        host_config = state.configure_host(relay, admission=gate.check)
        host = await stack.enter_async_context(
            HivemindHost.open(replace(host_config, limits=choose_rpc_limits(config)))
        )
        manifest = await obtain_manifest(prepared, subnet, host, state.known_peers)
        plugins = stack.enter_context(open_plugins(check_plugins(prepared, manifest)))
        yield Node(
            NodeParts(
                prepared=prepared,
                manifest=manifest,
                plugins=plugins,
                subnet=subnet,
                chain=chain,
                extrinsics=extrinsics,
                state=state,
                gate=gate,
                host=host,
                initial_peers=initial_peers,
                run=stack.enter_context(open_thread_runner("scores")),
                observe=observe,
                supervisor=supervisor,
            )
        )


async def obtain_manifest(
    prepared: PreparedNode, subnet: SubnetOnChain, host: Host, known_peers: KnownPeers
) -> ModelManifest | None:
    """Return the manifest that the chain names: from this machine, or else from a peer.

    None for a node without pay that does not have it. Raises ModelError.
    """
    wanted, folder = subnet.manifest_hash, prepared.folder
    manifest = find_manifest(folder, manifest_hash=wanted, kept_in=prepared.data_dir)
    if manifest is not None or prepared.config.unpaid:
        return manifest
    logger.info("asking peers for the manifest", manifest_hash=wanted.hex())
    directory = Directory(host, network_id=subnet.terms.network_id)
    for round_number in range(1 if prepared.config.new_swarm else MANIFEST_ROUNDS):
        if round_number:
            await asyncio.sleep(MANIFEST_RETRY_S)
        peers = await directory.find_peers(known_peers.list_nodes())
        manifest = await fetch_manifest(host, peers, wanted)
        if manifest is not None:
            keep_manifest(manifest, prepared.data_dir)
            return manifest
    raise ManifestNotFound(
        f"the manifest {wanted.hex()} that the chain names is neither in {folder.path} "
        "nor with a peer"
    )


def check_plugins(
    prepared: PreparedNode, manifest: ModelManifest | None
) -> Mapping[PluginKind, PluginStamp]:
    """Return the plug-ins that the manifest names, which are those of this node.

    ``mesh why`` finds their names in the manifest that is kept. Raises PluginMismatch.
    """
    if manifest is None:
        return {}
    check_stamps(manifest.plugins, prepared.model.architecture)
    if manifest.plugins:
        logger.info("using plug-ins", plugins=[str(one) for one in manifest.plugins.values()])
        keep_manifest(manifest, prepared.data_dir)
    return manifest.plugins


def _open_auditor(
    prepared: PreparedNode, manifest: ModelManifest | None, params: ConsensusParams
) -> AuditInference | None:
    """Return what audits single layers of the model's files; None for a hoster or with --light."""
    config = prepared.config
    if config.role is Role.HOSTER or config.light or manifest is None:
        return None
    return AuditInference(
        prepared.folder, prepared.model, manifest, params=params, device=config.device
    )


def _find_record(journal: Journal, name: bytes) -> bytes | None:
    """Return a record for a peer that names it by its hash, which tells nothing unpublished.

    The hash of an own reveal that waits for its window covers a secret salt.
    """
    envelope = journal.find_by_name(name)
    return None if envelope is None else envelope.to_bytes()


async def find_initial_peers(chain: SubstrateChain, prepared: PreparedNode) -> tuple[str, ...]:
    """Return whom to dial first: as configured, or whom the chain names. Raises ConfigError."""
    config = prepared.config
    if config.initial_peers or config.new_swarm:
        return config.initial_peers
    named = await fetch_bootnode_addresses(chain, prepared.subnet_id)
    others = tuple(address for address in named if str(prepared.key.peer_id) not in address)
    if not others:
        raise ConfigError(
            f"the chain names no bootnode of subnet {prepared.subnet_id} to dial",
            "give --initial-peers ADDR, or --new-swarm for the first node",
        )
    return others


def is_taking_part(state: ServerState, status: EpochStatus, *, is_unpaid: bool) -> bool:
    """Whether a node does what it was started for: it serves, and is paid if it wants to be."""
    return state is ServerState.ONLINE and (is_unpaid or status is EpochStatus.ACTIVE)


def find_unable(prepared: PreparedNode) -> str | None:
    """Return why the node, as it was started, can neither propose nor attest; None if it can."""
    if prepared.config.unpaid:
        return "it runs with --unpaid"
    return "no hotkey was given" if prepared.hotkey is None else None


@asynccontextmanager
async def open_stranger(network_id: bytes) -> AsyncIterator[Host]:
    """Open a client's host in the network under a key that no peer knows."""
    async with HivemindHost.open(make_client_host_config()) as host:
        host.set_network_id(network_id)
        yield host


class Node:
    """The running parts of one node. Made by ``open_node``."""

    def __init__(self, parts: NodeParts) -> None:
        self._parts = parts
        self._prepared = prepared = parts.prepared
        self._terms = terms = parts.subnet.terms
        self._host = parts.host
        self._rosters = parts.state.rosters
        self._known_peers = parts.state.known_peers
        self._state = ServerState.JOINING
        self.reload_access = parts.gate.reload
        self._addresses: tuple[str, ...] = ()
        self._seen_addresses: Sequence[str] = ()
        self._followed: tuple[int, int | None] | None = None
        self._taking_part = "starting"
        self._has_news = asyncio.Event()
        self._directory = Directory(parts.host, network_id=terms.network_id)
        self._announcer = Announcer(
            parts.host,
            self._directory,
            key=prepared.key,
            network_id=terms.network_id,
            node_id=prepared.node_id,
            describe=self._describe,
        )
        self._server = self._make_server() if prepared.config.role is Role.HOSTER else None
        self._relay_guard = None if self._server is None else self._make_relay_guard(self._server)
        journal = parts.state.journal
        self._exchange = RecordExchange(parts.host, lambda name: _find_record(journal, name))
        self._auditor = _open_auditor(prepared, parts.manifest, terms.params)
        self.probes = ProbeBook.open(
            prepared.data_dir / BOOK_FILE, network_id=terms.network_id, params=terms.params
        )
        self._probe_context = self._make_probe_context()
        self._prober = Prober(self._probe_context)
        self._exam = self._make_exam()
        self._control = ControlServer(
            prepared.data_dir, make_methods(self._get_node_facts, self._exam)
        )
        self._hourly = HourlyExam(self._get_subject)
        self._reach = ReachWatch(lambda: self._exam)
        self._facts = StatusFacts(
            prepared.data_dir,
            subnet_id=prepared.subnet_id,
            node_id=prepared.node_id,
            schedule=terms.schedule,
            num_layers=prepared.model.num_layers,
            unable=find_unable(prepared),
        )
        self._status = StatusFile(prepared.data_dir, self._get_facts)
        self._vitals = Vitals(prepared.data_dir)
        self._clock = ChainClock(schedule=terms.schedule, block_time_s=terms.block_time_s)
        self._alerts = self._make_alerts()
        self._metrics = self._make_metrics()
        self._monitor: NodeMonitor | None = None
        self._loop = EpochLoop(
            NodeContext(
                author=Author(terms, prepared.key, prepared.node_id),
                role=prepared.config.role,
                shape=make_shape(prepared.model, parts.manifest),
                journal=journal,
                rosters=self._rosters,
                store=parts.host.records,
                peers=self._exchange,
                reader=parts.chain,
                writer=parts.chain if prepared.hotkey is not None else None,
                run=parts.run,
                observe=self._on_event,
                get_inference=lambda: (
                    None if self._server is None else self._server.get_inference()
                ),
                get_auditor=lambda: self._auditor,
                # Probes are wired here.
                list_failed_probes=self.probes.list_failed,
                get_wall_time_s=time.time,
                is_paid=not prepared.config.unpaid,
                receipts=ReceiptStore(prepared.data_dir),
                scorer=parts.plugins.scorer,
            )
        )

    async def serve(self, on_ready: OnReady | None) -> None:
        """Serve until cancelled. Raises, in a group, whatever ends a part.

        What the journal holds is published while the model still loads.
        """
        self._directory.serve(self._describe_network)
        if self._parts.manifest is not None:
            serve_manifest(self._host, self._parts.manifest.body)
        self._exchange.serve()
        self._addresses = await self._find_addresses()
        with self._status.say_when_stopped():
            await self._run_parts(on_ready)

    async def _run_parts(self, on_ready: OnReady | None) -> None:
        metrics = self._metrics
        async with (
            serve_metrics(
                self._prepared.config.metrics, Process.NODE, metrics.fill, metrics.list_checks
            ),
            self._show_monitor(),
            asyncio.TaskGroup() as tasks,
        ):
            tasks.create_task(self._host.watch())
            tasks.create_task(
                self._vitals.keep_fresh(self._host.count_peers, on_news=self._on_measured)
            )
            if self._alerts is not None:
                tasks.create_task(self._alerts.run())
            tasks.create_task(self._loop.run())
            tasks.create_task(self._announcer.run())
            tasks.create_task(self._directory.keep_fresh(self._known_peers.list_nodes))
            tasks.create_task(self._keep_connected())
            tasks.create_task(self._follow_addresses())
            tasks.create_task(self._reach.run())
            tasks.create_task(self._follow_epochs())
            tasks.create_task(self._status.keep_fresh())
            tasks.create_task(self._facts.watch_load(self._sample_load))
            tasks.create_task(self._prober.run())
            tasks.create_task(self._control.run())
            tasks.create_task(self._hourly.run())
            if self._server is None:
                self._go_online(on_ready)
            else:
                tasks.create_task(self._server.run(lambda: self._go_online(on_ready)))
            if self._relay_guard is not None:
                tasks.create_task(self._relay_guard.run())

    def _on_measured(self) -> None:
        if self._alerts is not None:
            self._alerts.look()

    def _make_relay_guard(self, server: LayerServer) -> RelayGuard:
        return RelayGuard(
            self._terms,
            make_shape(self._prepared.model),
            reader=self._parts.chain,
            rosters=self._rosters,
            guard=server.guard,
        )

    def _make_server(self) -> LayerServer:
        prepared, terms = self._prepared, self._terms
        return LayerServer(
            LocalModel(prepared.config, prepared.folder, prepared.model),
            ServedModel(self._parts.manifest, terms.params, terms.schedule),
            host=self._host,
            directory=self._directory,
            choice=LayerChoice(
                prepared.config,
                prepared.model,
                self._directory,
                own=prepared.key.peer_id,
                list_nodes=self._known_peers.list_nodes,
            ),
            announce=self._announcer.notify,
            layers=prepared.layers,
            rank=prepared.rank,
            key=prepared.key,
            is_member=self._known_peers.is_node,
        )

    def _make_metrics(self) -> NodeMetrics:
        prepared, alerts = self._prepared, self._alerts
        return NodeMetrics(
            MetricSources(
                clock=self._clock,
                duties=DutyCounts(prepared.node_id, is_paid=not prepared.config.unpaid),
                vitals=self._vitals,
                endpoints=self._parts.chain.endpoints,
                traffic=self._host.traffic,
                directory=self._directory,
                num_layers=prepared.model.num_layers,
                server=self._server,
                get_state=self._get_state,
                get_reach=lambda: self._reach.reach,
                count_others=self._count_others,
                count_alerts=None if alerts is None else lambda: (alerts.firing, alerts.lost),
            )
        )

    @asynccontextmanager
    async def _show_monitor(self) -> AsyncIterator[None]:
        """Show the monitor page while the block runs, if the operator asked for it."""
        options = self._prepared.config.monitor
        if options is None:
            yield
            return
        # A connection of its own: reading every node must not keep the epoch loop waiting.
        async with (
            SubstrateChain.open(
                self._prepared.config.chain_url, call_timeout_s=READ_TIMEOUT_S
            ) as chain,
            open_node_monitor(options, self._make_monitor_sources(chain)) as monitor,
        ):
            self._monitor = monitor
            yield

    def _make_monitor_sources(self, chain: SubstrateChain) -> NodeSources:
        prepared, parts = self._prepared, self._parts
        return NodeSources(
            terms=self._terms,
            shape=make_shape(prepared.model, parts.manifest),
            network=self._describe_network(),
            journal=parts.state.journal,
            get_roster=self._rosters.get_newest_roster,
            directory=self._directory,
            chain=ChainView(chain, prepared.subnet_id),
            own=prepared.key.peer_id,
            node_id=prepared.node_id,
            data_dir=prepared.data_dir,
        )

    def _make_alerts(self) -> NodeAlerts | None:
        prepared = self._prepared
        if prepared.config.alert_webhook is None:
            return None
        return NodeAlerts(
            prepared.config.alert_webhook,
            Watched(
                node_id=prepared.node_id,
                vitals=self._vitals,
                check_chain=self._clock.check,
                count_others=self._count_others,
            ),
            name=f"node {prepared.node_id} of subnet {prepared.subnet_id}",
            directory=prepared.data_dir,
        )

    def _count_others(self) -> int:
        """Return how many other nodes of the subnet the chain names."""
        own = self._prepared.key.peer_id
        return sum(peer != own for peer in self._known_peers.list_nodes())

    def _get_state(self) -> ServerState:
        return self._state if self._server is None else self._server.state

    def _make_probe_context(self) -> ProbeContext:
        prepared, terms = self._prepared, self._terms
        rosters, own = self._rosters, prepared.key.peer_id
        return ProbeContext(
            key=prepared.key,
            network_id=terms.network_id,
            params=terms.params,
            model=prepared.model,
            block_time_s=terms.block_time_s,
            book=self.probes,
            make_prompt=make_prompter(prepared.folder.source, prepared.model),
            list_targets=lambda: list_targets(
                rosters,
                self._parts.state.journal,
                own=own,
                num_layers=prepared.model.num_layers,
            ),
            is_validator=lambda: is_validator(rosters, own),
            list_servers=self._directory.list_servers,
            open_client=lambda: open_stranger(terms.network_id),
            observe=self._on_event,
            probe=self._parts.plugins.probe,
        )

    def _make_exam(self) -> NodeExam:
        """Return what the checks of ``mesh doctor`` may use of this node."""
        prepared, parts, server = self._prepared, self._parts, self._server
        return NodeExam(
            role=prepared.config.role,
            is_unpaid=prepared.config.unpaid,
            author=Author(self._terms, prepared.key, prepared.node_id),
            shape=make_shape(prepared.model, parts.manifest),
            peers=self._host.checks,
            addresses=lambda: self._addresses,
            list_servers=self._directory.list_servers,
            get_heartbeat=lambda: self._announcer.newest,
            get_roster=self._rosters.get_newest_roster,
            get_inference=lambda: None if server is None else server.get_inference(),
            try_prompt=None if server is None else self._try_prompt,
            open_file_runner=self._open_file_runner,
        )

    def _open_file_runner(self) -> AuditInference | None:
        """Return what computes a layer from the model's files: a validator's auditor, or a new one.

        Raises DeviceUnavailable.
        """
        prepared, manifest = self._prepared, self._parts.manifest
        if self._auditor is not None or prepared.config.role is Role.VALIDATOR or manifest is None:
            return self._auditor
        return AuditInference(
            prepared.folder,
            prepared.model,
            manifest,
            params=self._terms.params,
            device=prepared.config.device,
        )

    async def _try_prompt(self, layers: LayerRange) -> Attempt:
        node_id = self._prepared.node_id
        return await try_own_prompt(self._probe_context, self._host, node_id, layers)

    @property
    def health(self) -> Health | None:
        """What the last hourly examination found; None before the first."""
        return self._hourly.health

    def _get_node_facts(self) -> NodeFacts:
        return make_facts(self._prepared, self._addresses)

    def _get_subject(self) -> Subject:
        """Return this node for its own hourly examination."""
        return Subject(
            self._get_node_facts(),
            chain=self._parts.chain,
            ask_node=lambda name: run_in_node(NODE_CHECKS[name], self._exam),
            params=self._terms.params,
        )

    def _go_online(self, on_ready: OnReady | None) -> None:
        self._state = ServerState.ONLINE
        # The next head may be too late for this epoch's commit.
        self._loop.plan_again()
        self._announcer.notify()
        logger.info(
            "serving",
            pid=os.getpid(),
            peer_id=str(self._host.peer_id),
            role=self._prepared.config.role.value,
            blocks=None if self._server is None else str(self._server.layers),
            addresses=list(self._addresses),
        )
        if on_ready is not None:
            on_ready(self._addresses)

    async def drain(self) -> None:
        """Refuse new sessions, say so, and give the open ones a moment."""
        self._state = ServerState.DRAINING
        if self._server is not None:
            self._server.begin_drain()
        try:
            async with asyncio.timeout(DRAIN_S):
                await self._announcer.announce()
                if self._server is not None:
                    await self._server.wait_for_sessions(DRAIN_S)
        except (TimeoutError, MeshError):
            return

    def _describe(self) -> ServerInfo:
        server = self._server
        layers = None if server is None else server.layers
        return ServerInfo(
            role=ServerRole.VALIDATOR if server is None else ServerRole.HOSTER,
            state=self._get_state(),
            span=None if layers is None else LayerSpan(layers.start, layers.end),
            throughput=0 if server is None else server.throughput,
            free_cache_tokens=0 if server is None else server.free_cache_tokens,
            dtype="" if server is None else server.dtype,
            software=self._name_software(),
            addresses=self._addresses,
        )

    def _name_software(self) -> str:
        """Return the program's name with what this node can do and how busy it is."""
        server = self._server
        if server is None:
            return SOFTWARE
        return server.add_load(name_software(SOFTWARE, server.features, max_size=MAX_SOFTWARE))

    def _describe_network(self) -> NetworkInfo:
        prepared = self._prepared
        return self._parts.subnet.describe(prepared.folder.name, prepared.model)

    async def _find_addresses(self) -> tuple[str, ...]:
        """Return the addresses to announce: none of a home, unless the operator asked for it."""
        config = self._prepared.config
        self._seen_addresses = await self._host.list_addresses()
        announced = choose_announced(
            self._seen_addresses,
            asked=(*config.get_host_maddrs(), *config.get_announce_maddrs()),
            known=self._parts.initial_peers,
        )
        if not announced:
            logger.warning(
                "no address is announced: those of this network are kept private",
                fix=f"{OPEN_PORT}{USE_RELAY}",
            )
        return announced

    async def _follow_addresses(self) -> None:
        """Announce at once what has changed: a relay came or went."""
        while True:
            await asyncio.sleep(ADDRESSES_PERIOD_S)
            if await self._host.list_addresses() != self._seen_addresses:
                self._addresses = await self._find_addresses()
                logger.info("the addresses have changed", addresses=list(self._addresses))
                self._announcer.notify()

    async def _keep_connected(self) -> None:
        """Dial the servers that are known, so that a hop to one of them costs no search."""
        while True:
            for server in self._directory.list_servers():
                try:
                    await self._directory.ensure_connected(server.peer_id)
                except MeshError as error:
                    logger.debug("a server cannot be dialled", detail=str(error))
            await asyncio.sleep(CONNECT_PERIOD_S)

    async def _follow_epochs(self) -> None:
        """With every epoch and roster: who is known, what became of extrinsics, who pays."""
        while True:
            try:
                await self._known_peers.follow(self._rosters.get_newest_roster())
                await settle(self._parts.chain, self._parts.extrinsics)
                await self._facts.follow(self._parts.chain)
                await self._read_hotkey()
            except ChainUnavailable as error:
                logger.warning("chain unavailable", detail=str(error))
            self._announcer.notify()
            await self._has_news.wait()
            self._has_news.clear()

    async def _read_hotkey(self) -> None:
        """Take what the hotkey has, from where the node stands; warn if that pays no fee."""
        hotkey, chain, vitals = self._prepared.hotkey, self._parts.chain, self._vitals
        if hotkey is None:
            return
        standing = self._facts.standing
        if standing is not None and standing.node.hotkey == hotkey.account_id:
            vitals.balance, vitals.stake = standing.hotkey_balance, standing.stake
        else:
            vitals.balance = await chain.fetch_balance(hotkey.account_id)
            vitals.stake = await fetch_stake(chain, hotkey.account_id, self._terms.subnet_id)
        if vitals.balance < MIN_HOTKEY_BALANCE:
            logger.warning(
                "the hotkey cannot pay a fee, so proposals and attestations will be refused",
                hotkey=hotkey.address,
                fix=f"mesh chain transfer --to {hotkey.address} --amount 0.1 --key-file COLDKEY",
            )

    def _on_event(self, event: NodeEvent) -> None:
        if isinstance(event, HeadSeen) and self._relay_guard is not None:
            self._relay_guard.note_head(event.head)
        self._facts.note(event)
        if isinstance(event, HeadHandled):
            self._on_head(event)
        self._metrics.observe(event)
        if self._alerts is not None:
            self._alerts.observe(event)
        if self._monitor is not None:
            self._monitor.observe(event)
        self._parts.observe(event)

    def _on_head(self, event: HeadHandled) -> None:
        roster = self._rosters.get_newest_roster()
        followed = (event.position.epoch, None if roster is None else roster.epoch)
        if followed != self._followed:
            self._followed = followed
            self._has_news.set()
        if self._server is not None:
            self._server.note_position(event.position)
        self._prober.note_position(event.position)
        self._taking_part = "unpaid" if self._prepared.config.unpaid else event.status.value
        self._tell_supervisor(event.status)
        self._status.note_head(event.position, phase_at(event.position, self._terms.schedule))

    def _tell_supervisor(self, status: EpochStatus) -> None:
        """Say what the node does; it is ready once it serves and takes part in an epoch."""
        state, is_unpaid = self._get_state(), self._prepared.config.unpaid
        self._parts.supervisor.note_status(f"{state.name.lower()}; {self._taking_part}")
        if is_taking_part(state, status, is_unpaid=is_unpaid):
            self._parts.supervisor.note_ready()

    def _sample_load(self) -> LoadSample:
        server = self._server
        size = 0 if server is None else server.cache_tokens
        return LoadSample(
            sessions=None if server is None else server.session_count,
            rows_computed=0 if server is None else server.rows_computed,
            cache_used=size - server.free_cache_tokens if server is not None and size else None,
            cache_size=size or None,
            peers=self._vitals.peers,
            servers=self._directory.list_servers(),
        )

    def _get_facts(self) -> dict[str, Any]:
        """Return what the status file says beside the head."""
        config = self._prepared.config
        layers = None if self._server is None else self._server.layers
        return {
            "peer_id": str(self._host.peer_id),
            "subnet_id": self._prepared.subnet_id,
            "subnet_node_id": self._prepared.node_id,
            "role": config.role.value,
            "blocks": None if layers is None else (layers.start, layers.end),
            "block_time_s": self._terms.block_time_s,
            "taking_part": self._taking_part,
            "addresses": self._addresses,
            "reach": self._reach.reach.value,
            "relays_refused": None if self._server is None else self._server.guard.refused,
            "missed": describe_missed(self._parts.state.journal),
            **self._facts.render(),
            **self._describe_health(),
        }

    def _describe_health(self) -> dict[str, Any]:
        """Return the fields of the status that the hourly examination decides."""
        health = self.health
        if health is None:
            return {}
        failing, warned = (
            tuple(
                f"{one.name}: {one.finding.detail}"[:MAX_HEALTH_TEXT]
                for one in health.list_with(verdict)
            )
            for verdict in (Verdict.FAIL, Verdict.WARN)
        )
        return {"examined_at": health.examined_at, "failing": failing, "warned": warned}
