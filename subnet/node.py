"""One node, put together: chain, journal, host, engine and epoch loop in one task group.

Crash-only: an unexpected error cancels the group and ends the process; a supervisor
starts it again, and the journal makes that safe.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import structlog

from consensus.challenge import ModelShape
from consensus.phases import phase_at
from consensus.protocol_params import MAINNET, ConsensusParams
from consensus.roster import compute_network_id
from consensus.types import Role
from mesh.errors import MeshError
from mesh.model.config import LayerSpan
from mesh.p2p.config import HostConfig
from mesh.p2p.hivemind_host import HivemindHost
from mesh.p2p.quic import modernise
from mesh.routing.announcer import Announcer
from mesh.routing.directory import Directory
from mesh.routing.heartbeat import ServerInfo, ServerRole, ServerState, make_heartbeat_policy
from mesh.routing.info import NetworkInfo
from subnet.account.money import is_hotkey_funded
from subnet.chain.block_time import fetch_block_time_ms
from subnet.chain.extrinsic_journal import ExtrinsicJournal, settle
from subnet.chain.manifest_hash import parse_manifest_hash
from subnet.chain.substrate import SubstrateChain
from subnet.epoch.loop import EpochLoop
from subnet.epoch.observer import HeadHandled, NodeEvent, Observe, log_event
from subnet.epoch.performer import Participant, World
from subnet.epoch.record_policy import ConsensusRecordPolicy
from subnet.epoch.rosters import Membership, SubnetTerms
from subnet.errors import ChainUnavailable, ConfigError, UnknownSubnet
from subnet.hosting.layer_choice import LayerChoice
from subnet.hosting.serving import LayerServer, LocalModel, ServedModel
from subnet.journal.journal import Journal, open_journal
from subnet.known_peers import Members, fetch_bootnode_addresses, read_membership
from subnet.operator.access import AccessGate
from subnet.operator.identity_lock import hold_identity
from subnet.operator.preflight import PreparedNode, make_private_directory
from subnet.operator.status import NodeStatus, write_status
from subnet.thread_runner import Runner, open_thread_runner
from subnet.version import SOFTWARE

CONNECT_PERIOD_S = 10.0
DRAIN_S = 5.0
JOURNAL_FILE = "journal.sqlite"
EXTRINSICS_FILE = "extrinsics.sqlite"

logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Network:
    """What the chain says about the subnet that this node serves."""

    terms: SubnetTerms
    manifest_hash: bytes


@dataclass(frozen=True, slots=True)
class Ready:
    """The node serves: its peers can dial it at ``addresses``."""

    addresses: tuple[str, ...]


async def run_node(
    prepared: PreparedNode,
    *,
    params: ConsensusParams = MAINNET,
    observe: Observe = log_event,
    on_ready: Callable[[Ready], None] | None = None,
) -> None:
    """Run until SIGTERM or SIGINT, then drain. SIGHUP reads the access lists again.

    Raises what ended it otherwise.
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    async with open_node(prepared, params=params, observe=observe) as node:
        loop.add_signal_handler(signal.SIGHUP, node.reload_access)
        async with asyncio.TaskGroup() as tasks:
            serving = tasks.create_task(node.serve(on_ready))
            await stopping.wait()
            logger.info("stopping")
            await node.drain()
            serving.cancel()


@asynccontextmanager
async def open_node(
    prepared: PreparedNode, *, params: ConsensusParams, observe: Observe
) -> AsyncIterator[Node]:
    """Open everything a node needs, in the order in which it can fail."""
    make_private_directory(prepared.data_dir)
    async with AsyncExitStack() as stack:
        extrinsics = stack.enter_context(ExtrinsicJournal.open(prepared.data_dir / EXTRINSICS_FILE))
        chain = await stack.enter_async_context(
            SubstrateChain.open(
                prepared.config.chain_url,
                signer=prepared.hotkey,
                node_id=prepared.node_id,
                log=extrinsics,
            )
        )
        network = await fetch_network(chain, prepared, params)
        run_journal = stack.enter_context(open_thread_runner("journal"))
        run_scores = stack.enter_context(open_thread_runner("scores"))
        journal = stack.enter_context(
            open_journal(
                prepared.data_dir / JOURNAL_FILE,
                # A chain that starts anew is another network, and its epochs are other epochs.
                owner=prepared.key.peer_id.public_key + network.terms.network_id,
                run=run_journal,
            )
        )
        stack.enter_context(hold_identity(prepared.key, network.terms.network_id))
        membership = Membership(
            network.terms, reader=chain, journal=journal, shape=_get_shape(prepared)
        )
        members = Members(chain, prepared.subnet_id)
        await read_membership(chain, membership, members)
        config = prepared.config
        gate = AccessGate(config.allow_file, config.deny_file, is_member=members.is_node)
        host = await stack.enter_async_context(
            HivemindHost.open(
                _configure_host(
                    prepared,
                    network,
                    membership,
                    members,
                    gate,
                    initial_peers=await find_initial_peers(chain, prepared),
                )
            )
        )
        yield Node(
            prepared,
            network,
            chain=chain,
            extrinsics=extrinsics,
            journal=journal,
            membership=membership,
            members=members,
            gate=gate,
            host=host,
            run=run_scores,
            observe=observe,
        )


async def fetch_network(
    chain: SubstrateChain, prepared: PreparedNode, params: ConsensusParams
) -> Network:
    """Read what every signature is bound to. Raises ConfigError or ChainError."""
    info = await chain.fetch_info()
    subnet = await chain.fetch_subnet(prepared.subnet_id)
    if subnet is None:
        raise UnknownSubnet(f"subnet {prepared.subnet_id} is gone from the chain")
    manifest_hash = parse_manifest_hash(subnet.misc, subnet_id=prepared.subnet_id)
    terms = SubnetTerms(
        subnet_id=prepared.subnet_id,
        network_id=compute_network_id(info.genesis_hash, prepared.subnet_id, manifest_hash),
        epoch_length=info.epoch_length,
        block_time_ms=await fetch_block_time_ms(chain),
        params=params,
    )
    return Network(terms, manifest_hash)


def _get_shape(prepared: PreparedNode) -> ModelShape:
    model = prepared.model
    return ModelShape(model.num_layers, model.hidden_size, model.vocab_size)


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


def _configure_host(
    prepared: PreparedNode,
    network: Network,
    membership: Membership,
    members: Members,
    gate: AccessGate,
    *,
    initial_peers: tuple[str, ...],
) -> HostConfig:
    config = prepared.config
    heartbeats = make_heartbeat_policy(
        network.terms.network_id, is_member=members.is_node, clock=time.time
    )
    return HostConfig(
        key=prepared.key,
        host_maddrs=modernise(config.get_host_maddrs()),
        announce_maddrs=modernise(config.get_announce_maddrs()),
        initial_peers=modernise(initial_peers),
        network_id=network.terms.network_id,
        record_policy=ConsensusRecordPolicy(lambda: membership.table, admit_heartbeat=heartbeats),
        is_member=members.is_known,
        admission=gate.check,
    )


class Node:
    """The running parts of one node. Made by ``open_node``."""

    def __init__(
        self,
        prepared: PreparedNode,
        network: Network,
        *,
        chain: SubstrateChain,
        extrinsics: ExtrinsicJournal,
        journal: Journal,
        membership: Membership,
        members: Members,
        gate: AccessGate,
        host: HivemindHost,
        run: Runner,
        observe: Observe,
    ) -> None:
        self._prepared = prepared
        self._network = network
        self._chain = chain
        self._extrinsics = extrinsics
        self._membership = membership
        self._members = members
        self._host = host
        self._observe = observe
        self._state = ServerState.JOINING
        self.reload_access = gate.reload
        self._addresses: tuple[str, ...] = ()
        self._followed: tuple[int, int | None] | None = None
        self._has_news = asyncio.Event()
        network_id = network.terms.network_id
        self._directory = Directory(host, network_id=network_id)
        self._announcer = Announcer(
            host,
            self._directory,
            key=prepared.key,
            network_id=network_id,
            node_id=prepared.node_id,
            describe=self._describe,
        )
        self._server = self._make_server() if prepared.config.role is Role.HOSTER else None
        self._loop = EpochLoop(
            network.terms,
            Participant(
                key=prepared.key,
                node_id=prepared.node_id,
                role=prepared.config.role,
                shape=_get_shape(prepared),
                is_paid=not prepared.config.unpaid,
            ),
            World(
                reader=chain,
                writer=chain if prepared.hotkey is not None else None,
                store=host.records,
                get_inference=lambda: (
                    None if self._server is None else self._server.get_inference()
                ),
                get_wall_time_s=time.time,
            ),
            journal=journal,
            membership=membership,
            run=run,
            observe=self._on_event,
        )

    async def serve(self, on_ready: Callable[[Ready], None] | None) -> None:
        """Serve until cancelled. Raises, in a group, whatever ends a part.

        What the journal holds is published while the model still loads.
        """
        self._directory.serve(self._describe_network)
        self._addresses = tuple(await self._host.list_addresses())
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._host.watch())
            tasks.create_task(self._loop.run())
            tasks.create_task(self._announcer.run())
            tasks.create_task(self._directory.keep_fresh(self._members.list_nodes))
            tasks.create_task(self._keep_connected())
            tasks.create_task(self._follow_epochs())
            if self._server is None:
                self._go_online(on_ready)
            else:
                tasks.create_task(self._server.run(lambda: self._go_online(on_ready)))

    def _make_server(self) -> LayerServer:
        prepared, terms = self._prepared, self._network.terms
        return LayerServer(
            LocalModel(prepared.config, prepared.folder, prepared.model, prepared.data_dir),
            ServedModel(self._network.manifest_hash, terms.params, terms.schedule),
            host=self._host,
            directory=self._directory,
            choice=LayerChoice(
                prepared.config,
                prepared.model,
                self._directory,
                own=prepared.key.peer_id,
                list_nodes=self._members.list_nodes,
            ),
            announce=self._announcer.notify,
            layers=prepared.layers,
            rank=prepared.rank,
            is_member=self._members.is_node,
        )

    def _go_online(self, on_ready: Callable[[Ready], None] | None) -> None:
        self._state = ServerState.ONLINE
        self._announcer.notify()
        logger.info(
            "serving",
            pid=os.getpid(),
            peer_id=str(self._host.peer_id),
            role=self._prepared.config.role.value,
            layers=None if self._server is None else str(self._server.layers),
            addresses=list(self._addresses),
        )
        if on_ready is not None:
            on_ready(Ready(self._addresses))

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
        if server is None:
            return ServerInfo(
                role=ServerRole.VALIDATOR,
                state=self._state,
                span=None,
                throughput=0,
                free_cache_tokens=0,
                dtype="",
                software=SOFTWARE,
                addresses=self._addresses,
            )
        layers = server.layers
        return ServerInfo(
            role=ServerRole.HOSTER,
            state=server.state,
            span=None if layers is None else LayerSpan(layers.start, layers.end),
            throughput=server.throughput,
            free_cache_tokens=server.free_cache_tokens,
            dtype=server.dtype,
            software=SOFTWARE,
            addresses=self._addresses,
        )

    def _describe_network(self) -> NetworkInfo:
        model = self._prepared.model
        return NetworkInfo(
            network_id=self._network.terms.network_id,
            manifest_hash=self._network.manifest_hash,
            model_name=self._prepared.folder.name,
            num_layers=model.num_layers,
            max_context=model.max_context,
            vocab_size=model.vocab_size,
            software=SOFTWARE,
        )

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
                await self._members.follow(self._membership.get_newest_roster())
                await settle(self._chain, self._extrinsics)
                await self._warn_of_empty_hotkey()
            except ChainUnavailable as error:
                logger.warning("chain unavailable", detail=str(error))
            self._announcer.notify()
            await self._has_news.wait()
            self._has_news.clear()

    async def _warn_of_empty_hotkey(self) -> None:
        hotkey = self._prepared.hotkey
        if hotkey is not None and not await is_hotkey_funded(self._chain, hotkey.account_id):
            logger.warning(
                "the hotkey cannot pay a fee, so proposals and attestations will be refused",
                hotkey=hotkey.address,
                fix=f"mesh chain transfer --to {hotkey.address} --amount 0.1 --key-file COLDKEY",
            )

    def _on_event(self, event: NodeEvent) -> None:
        if isinstance(event, HeadHandled):
            roster = self._membership.get_newest_roster()
            followed = (event.position.epoch, None if roster is None else roster.epoch)
            if followed != self._followed:
                self._followed = followed
                self._has_news.set()
            if self._server is not None:
                self._server.note_position(event.position)
            self._write_status(event)
        self._observe(event)

    def _write_status(self, event: HeadHandled) -> None:
        position = event.position
        layers = None if self._server is None else self._server.layers
        taking_part = "unpaid" if self._prepared.config.unpaid else event.status.value
        write_status(
            self._prepared.data_dir,
            NodeStatus(
                peer_id=str(self._host.peer_id),
                subnet_id=self._prepared.subnet_id,
                subnet_node_id=self._prepared.node_id,
                role=self._prepared.config.role.value,
                blocks=None if layers is None else (layers.start, layers.end),
                written_at=time.time(),
                head=position.block,
                epoch=position.epoch,
                phase=phase_at(position, self._network.terms.schedule).value,
                taking_part=taking_part,
                addresses=self._addresses,
            ),
        )
