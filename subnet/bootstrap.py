"""Runs a bootstrap: a node without a role, to dial first, to relay, and to keep records.

It follows the chain as every node does, because its store must admit the same records: signed, on
time, and of the roster's nodes.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import structlog

from consensus.phases import phase_at
from consensus.roster import Roster
from consensus.types import Epoch, SubnetId
from keys.peer import PeerKey
from mesh.p2p.config import RelayLimits
from mesh.p2p.hivemind_host import HivemindHost
from mesh.routing.directory import Directory
from subnet.account.registration import find_subnet
from subnet.chain.substrate import SubstrateChain
from subnet.epoch.heads import follow_heads
from subnet.epoch.observer import HeadSeen, NodeEvent, log_event
from subnet.epoch.terms import SubnetTerms
from subnet.errors import ChainUnavailable
from subnet.known_peers import find_subnet_of_bootnode
from subnet.metrics.bootstrap import BootstrapMetrics, FollowedSubnet
from subnet.metrics.chain_metrics import HeadTracker
from subnet.metrics.serving import serve_metrics
from subnet.metrics.table import Process
from subnet.network import (
    OnReady,
    SubnetMembership,
    fetch_subnet_on_chain,
    make_relay_config,
    open_subnet_state,
)
from subnet.operator.interrupts import Service
from subnet.operator.layout import prepare_folder
from subnet.operator.metrics_options import MetricsOptions
from subnet.operator.status import StatusFile
from subnet.operator.supervisor import Supervisor, find_chain_fault

ROLE = "bootstrap"
PLACE_RETRY_S = 10.0

logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class BootstrapConfig:
    """Where a bootstrap node listens and whose subnet it serves.

    ``subnet`` is an id or a name; None means the one that names this peer as a bootnode.
    """

    key: PeerKey
    chain_url: str
    subnet: str | None
    host_maddrs: tuple[str, ...]
    announce_maddrs: tuple[str, ...]
    initial_peers: tuple[str, ...]
    data_dir: Path
    metrics: MetricsOptions | None = None


async def run_bootstrap(
    config: BootstrapConfig, *, on_ready: OnReady, supervisor: Supervisor | None = None
) -> None:
    """Run until SIGTERM or SIGINT. ``on_ready`` gets the addresses that others dial.

    Until the chain names this peer as a bootnode of a subnet, it only introduces and relays:
    a subnet cannot be registered before its bootnodes have addresses.
    """
    supervisor = supervisor or Supervisor()
    service = Service(supervisor)
    await service.run(_Bootstrap(config, service, on_ready, supervisor).run())


class _Bootstrap:
    """One bootstrap: what it follows, and what its status file says."""

    def __init__(
        self,
        config: BootstrapConfig,
        service: Service,
        on_ready: OnReady,
        supervisor: Supervisor,
    ) -> None:
        self._config = config
        self._supervisor = supervisor
        self._service = service
        self._on_ready = on_ready
        relay = make_relay_config(
            config.key,
            host_maddrs=config.host_maddrs,
            announce_maddrs=config.announce_maddrs,
            initial_peers=config.initial_peers,
        )
        self._relay = replace(relay, relay_service=RelayLimits())
        self._terms: SubnetTerms | None = None
        self._addresses: tuple[str, ...] = ()
        self._directory = config.data_dir / f"{ROLE}-{config.key.peer_id}"
        self._status = StatusFile(self._directory, self._get_facts)
        self._metrics = BootstrapMetrics(config.data_dir)

    async def run(self) -> None:
        metrics = self._metrics
        prepare_folder(self._directory)
        async with serve_metrics(
            self._config.metrics, Process.BOOTSTRAP, metrics.fill, metrics.list_checks
        ):
            await self._run()

    async def _run(self) -> None:
        logger.info("connecting to the chain", url=self._config.chain_url)
        with self._status.say_when_stopped():
            subnet_id = await self._find_place() or await self._relay_until_registered()
            async with SubstrateChain.open(self._config.chain_url) as chain:
                self._supervisor.watch(lambda: find_chain_fault(chain.endpoints))
                await self._serve_subnet(chain, subnet_id)

    async def _find_place(self) -> SubnetId | None:
        """Return the subnet to serve; None while the chain is away or names none."""
        config = self._config
        try:
            async with SubstrateChain.open(config.chain_url) as chain:
                if config.subnet is not None:
                    return await find_subnet(chain, config.subnet)
                return await find_subnet_of_bootnode(chain, config.key.peer_id)
        except ChainUnavailable as error:
            logger.warning("chain unavailable", detail=str(error))
            return None

    async def _relay_until_registered(self) -> SubnetId:
        async with HivemindHost.open(self._relay) as host, asyncio.TaskGroup() as tasks:
            helpers = [
                tasks.create_task(host.watch()),
                tasks.create_task(self._status.keep_fresh()),
                tasks.create_task(self._metrics.keep_fresh(host)),
            ]
            await self._go_online(host)
            logger.warning("relaying only: no subnet on the chain names this peer as a bootnode")
            subnet_id = None
            while subnet_id is None:
                await asyncio.sleep(PLACE_RETRY_S)
                subnet_id = await self._find_place()
            for helper in helpers:
                helper.cancel()
        return subnet_id

    async def _serve_subnet(self, chain: SubstrateChain, subnet_id: SubnetId) -> None:
        config = self._config
        subnet = await fetch_subnet_on_chain(chain, subnet_id)
        data_dir = config.data_dir / f"{subnet_id}-{ROLE}"
        prepare_folder(data_dir)
        async with open_subnet_state(
            chain, subnet.terms, key=config.key, data_dir=data_dir
        ) as state:
            logger.info("joining the swarm", initial_peers=len(config.initial_peers))
            async with HivemindHost.open(state.configure_host(self._relay)) as host:
                self._terms = subnet.terms
                directory = Directory(host, network_id=subnet.terms.network_id)
                # It has no model; clients ask a node with a role for its name.
                directory.serve(subnet.describe)
                tracker = HeadTracker(
                    schedule=subnet.terms.schedule, block_time_s=subnet.terms.block_time_s
                )
                self._metrics.follow(
                    FollowedSubnet(head=tracker, endpoints=chain.endpoints, directory=directory)
                )
                await self._go_online(host)
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._status.keep_fresh())
                    tasks.create_task(self._metrics.keep_fresh(host))
                    tasks.create_task(host.watch())
                    tasks.create_task(directory.keep_fresh(state.known_peers.list_nodes))
                    tasks.create_task(self._follow_chain(chain, state, tracker))
                    logger.info("serving", subnet_id=subnet_id, peer_id=str(host.peer_id))

    async def _go_online(self, host: HivemindHost) -> None:
        """Tell the addresses to the caller and to the status file."""
        self._addresses = tuple(await host.list_addresses())
        self._service.note_started(_drain)
        self._on_ready(self._addresses)
        self._status.write()
        self._metrics.is_online = True
        self._supervisor.note_ready()
        taking_part = self._get_facts()["taking_part"]
        self._supervisor.note_status(f"online; {taking_part}")

    async def _follow_chain(
        self, chain: SubstrateChain, state: SubnetMembership, tracker: HeadTracker
    ) -> None:
        """Keep rosters and known peers fresh; an outage keeps the last ones."""

        def observe(event: NodeEvent) -> None:
            tracker.observe(event)
            log_event(event)

        followed: tuple[Epoch, Roster | None] | None = None
        rosters = state.rosters
        heads = follow_heads(
            chain,
            state.terms,
            newest=rosters.get_newest_roster(),
            get_wall_time_s=time.time,
            observe=observe,
        )
        async with aclosing(heads):
            async for head in heads:
                tracker.observe(HeadSeen(head))
                try:
                    position = await rosters.locate(head)
                    if position is None:
                        continue
                    tracker.note_position(position)
                    self._status.note_head(position, phase_at(position, state.terms.schedule))
                    await rosters.refresh(position)
                    roster = rosters.get_newest_roster()
                    if (position.epoch, roster) != followed:
                        await state.known_peers.follow(roster)
                        followed = (position.epoch, roster)
                except ChainUnavailable as error:
                    logger.warning("chain unavailable", detail=str(error))

    def _get_facts(self) -> dict[str, Any]:
        """Return what the status file says beside the head."""
        terms = self._terms
        return {
            "peer_id": str(self._config.key.peer_id),
            "subnet_id": None if terms is None else terms.subnet_id,
            "subnet_node_id": None,
            "role": ROLE,
            "blocks": None,
            "block_time_s": None if terms is None else terms.block_time_s,
            "taking_part": "relaying only" if terms is None else "no role",
            "addresses": self._addresses,
        }


async def _drain() -> None:
    """Nothing is open that others wait for."""
