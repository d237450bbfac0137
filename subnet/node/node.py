"""The running parts of one node, joined: what each hears of the others, and what ends them."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import structlog

from consensus.phases import phase_at
from consensus.types import LayerRange, Role
from consensus.view import EpochStatus
from mesh.errors import MeshError
from mesh.routing.announcer import Announcer
from mesh.routing.directory import Directory
from mesh.routing.heartbeat import ServerInfo, ServerState
from mesh.routing.manifest_exchange import serve_manifest
from subnet.alerts.node import NodeAlerts
from subnet.alerts.watch import Watched
from subnet.chain.extrinsic_journal import settle
from subnet.chain.substrate import SubstrateChain
from subnet.doctor.checks import NODE_CHECKS, run_in_node
from subnet.doctor.hourly import Health, HourlyExam
from subnet.doctor.in_node import NodeExam
from subnet.doctor.reach import ReachWatch
from subnet.doctor.service import make_facts, make_methods, try_own_prompt
from subnet.doctor.subject import NodeFacts, Subject
from subnet.epoch.author import Author
from subnet.epoch.context import NodeContext
from subnet.epoch.loop import EpochLoop
from subnet.epoch.missed import describe_missed
from subnet.epoch.observer import HeadHandled, HeadSeen, NodeEvent
from subnet.errors import ChainUnavailable
from subnet.hosting.manifest import make_shape
from subnet.metrics.chain_metrics import HeadTracker
from subnet.metrics.duties import DutyCounts
from subnet.metrics.epoch_traffic import EpochTraffic
from subnet.metrics.node import MetricSources, NodeMetrics
from subnet.metrics.serving import serve_metrics
from subnet.metrics.table import Process
from subnet.monitor.chain_view import READ_TIMEOUT_S
from subnet.monitor.collector import NodeMonitor
from subnet.monitor.in_node import open_node_monitor
from subnet.network import OnReady
from subnet.node.parts import (
    NodeParts,
    find_file_runner,
    make_exchange,
    make_monitor_sources,
    make_probe_context,
    make_relay_guard,
    make_server,
    make_status_facts,
    open_auditor,
    open_probe_book,
)
from subnet.node.self_description import (
    describe_health,
    describe_server,
    is_taking_part,
    sample_load,
)
from subnet.node.upkeep import AnnouncedAddresses, keep_connected, read_hotkey
from subnet.operator.control import ControlServer
from subnet.operator.status import StatusFile
from subnet.operator.status_facts import LoadSample
from subnet.operator.vitals import Vitals
from subnet.probing.prober import Prober
from subnet.probing.verdict import Attempt
from subnet.receipts.store import ReceiptStore

DRAIN_S = 5.0

logger = structlog.get_logger(__name__)


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
        self._addresses = AnnouncedAddresses(parts)
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
        is_hoster = prepared.config.role is Role.HOSTER
        self._server = make_server(parts, self._directory, self._announcer) if is_hoster else None
        self._relay_guard = None if self._server is None else make_relay_guard(parts, self._server)
        self._exchange = make_exchange(parts)
        self._auditor = open_auditor(parts)
        self.probes = open_probe_book(parts)
        self._probe_context = make_probe_context(
            parts, self.probes, self._directory, self._on_event
        )
        self._prober = Prober(self._probe_context)
        self._exam = self._make_exam()
        self._control = ControlServer(
            prepared.data_dir, make_methods(self._get_node_facts, self._exam)
        )
        self._hourly = HourlyExam(self._get_subject)
        self._reach = ReachWatch(lambda: self._exam)
        self._facts = make_status_facts(parts)
        self._status = StatusFile(prepared.data_dir, self._get_facts)
        self._vitals = Vitals(prepared.data_dir)
        self._head = HeadTracker(schedule=terms.schedule, block_time_s=terms.block_time_s)
        self._alerts = self._make_alerts()
        self._epoch_traffic = EpochTraffic(parts.host.traffic)
        self._metrics = self._make_metrics()
        self._monitor: NodeMonitor | None = None
        self._loop = EpochLoop(
            NodeContext(
                author=Author(terms, prepared.key, prepared.node_id),
                role=prepared.config.role,
                shape=make_shape(prepared.model, parts.manifest),
                journal=parts.state.journal,
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
        self._directory.serve(self._parts.describe_network)
        if self._parts.manifest is not None:
            serve_manifest(self._host, self._parts.manifest.body)
        self._exchange.serve()
        await self._addresses.find()
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
            tasks.create_task(keep_connected(self._directory))
            tasks.create_task(self._addresses.follow(self._announcer.notify))
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

    def _make_metrics(self) -> NodeMetrics:
        prepared, alerts = self._prepared, self._alerts
        return NodeMetrics(
            MetricSources(
                head=self._head,
                duties=DutyCounts(prepared.node_id, is_paid=not prepared.config.unpaid),
                vitals=self._vitals,
                endpoints=self._parts.chain.endpoints,
                traffic=self._host.traffic,
                directory=self._directory,
                num_layers=prepared.model.num_layers,
                server=self._server,
                get_state=self._get_state,
                get_reach=lambda: self._reach.reach,
                get_eligibility=lambda: self._facts.eligibility,
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
        chain_url = self._prepared.config.chain_url
        # A connection of its own: reading every node must not keep the epoch loop waiting.
        async with SubstrateChain.open(chain_url, call_timeout_s=READ_TIMEOUT_S) as chain:
            sources = make_monitor_sources(
                self._parts, self._directory, chain, lambda: self._facts.eligibility
            )
            async with open_node_monitor(options, sources) as monitor:
                self._monitor = monitor
                yield

    def _make_alerts(self) -> NodeAlerts | None:
        prepared = self._prepared
        if prepared.config.alert_webhook is None:
            return None
        return NodeAlerts(
            prepared.config.alert_webhook,
            Watched(
                node_id=prepared.node_id,
                vitals=self._vitals,
                check_chain=self._head.check,
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

    def _make_exam(self) -> NodeExam:
        """Return what the checks of ``mesh doctor`` may use of this node."""
        prepared, parts, server = self._prepared, self._parts, self._server
        return NodeExam(
            role=prepared.config.role,
            is_unpaid=prepared.config.unpaid,
            author=Author(self._terms, prepared.key, prepared.node_id),
            shape=make_shape(prepared.model, parts.manifest),
            peers=self._host.checks,
            addresses=lambda: self._addresses.announced,
            list_servers=self._directory.list_servers,
            get_heartbeat=lambda: self._announcer.newest,
            get_roster=self._rosters.get_newest_roster,
            get_inference=lambda: None if server is None else server.get_inference(),
            try_prompt=None if server is None else self._try_prompt,
            open_file_runner=lambda: find_file_runner(parts, self._auditor),
        )

    async def _try_prompt(self, layers: LayerRange) -> Attempt:
        node_id = self._prepared.node_id
        return await try_own_prompt(self._probe_context, self._host, node_id, layers)

    @property
    def health(self) -> Health | None:
        """What the last hourly examination found; None before the first."""
        return self._hourly.health

    def _get_node_facts(self) -> NodeFacts:
        return make_facts(self._prepared, self._addresses.announced)

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
            addresses=list(self._addresses.announced),
        )
        if on_ready is not None:
            on_ready(self._addresses.announced)

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
        return describe_server(
            self._server, state=self._get_state(), addresses=self._addresses.announced
        )

    async def _follow_epochs(self) -> None:
        """With every epoch and roster: who is known, what became of extrinsics, who pays."""
        while True:
            try:
                await self._known_peers.follow(self._rosters.get_newest_roster())
                await settle(self._parts.chain, self._parts.extrinsics)
                await self._facts.follow(self._parts.chain)
                await read_hotkey(self._parts, self._facts.standing, self._vitals)
            except ChainUnavailable as error:
                logger.warning("chain unavailable", detail=str(error))
            self._announcer.notify()
            await self._has_news.wait()
            self._has_news.clear()

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
        ended = self._epoch_traffic.note(event.position.epoch)
        if ended is not None:
            logger.info(
                "bytes of an epoch", epoch=ended.epoch, received=ended.received, sent=ended.sent
            )
        self._tell_supervisor(event.status)
        self._status.note_head(event.position, phase_at(event.position, self._terms.schedule))

    def _tell_supervisor(self, status: EpochStatus) -> None:
        """Say what the node does; it is ready once it serves and takes part in an epoch."""
        state, is_unpaid = self._get_state(), self._prepared.config.unpaid
        self._parts.supervisor.note_status(f"{state.name.lower()}; {self._taking_part}")
        if is_taking_part(state, status, is_unpaid=is_unpaid):
            self._parts.supervisor.note_ready()

    def _sample_load(self) -> LoadSample:
        return sample_load(self._server, self._directory, self._vitals.peers)

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
            "addresses": self._addresses.announced,
            "reach": self._reach.reach.value,
            "relays_refused": None if self._server is None else self._server.guard.refused,
            "missed": describe_missed(self._parts.state.journal),
            **self._facts.render(),
            **describe_health(self.health),
        }
