"""Runs one node: chain, journal, host, engine and epoch loop in one task group.

The node is crash-only: an unexpected error cancels the group and ends the process. A supervisor
starts it again, and the journal makes that safe.

``run_node`` runs until a signal. ``open_node`` opens chain, journal, identity, host, manifest and
plug-ins, in the order in which they can fail. ``parts`` lists what was opened and makes the node's
parts from it; ``node`` joins the parts and runs them.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import structlog

from consensus.protocol_params import MAINNET, ConsensusParams
from mesh.p2p.hivemind_host import HivemindHost
from subnet.chain.extrinsic_journal import ExtrinsicJournal
from subnet.chain.substrate import SubstrateChain
from subnet.claim import FolderBefore, claim_identity
from subnet.epoch.observer import Observe, log_event
from subnet.errors import ConfigError
from subnet.hosting.limits import choose_rpc_limits
from subnet.hosting.manifest import make_shape
from subnet.known_peers import fetch_bootnode_addresses
from subnet.network import OnReady, fetch_subnet_on_chain, make_relay_config, open_subnet_state
from subnet.node.manifest import check_plugins, obtain_manifest
from subnet.node.node import Node
from subnet.node.parts import NodeParts
from subnet.operator.access import AccessGate
from subnet.operator.identity_lock import hold_identity
from subnet.operator.interrupts import Service
from subnet.operator.layout import check_folder, prepare_folder
from subnet.operator.preflight import PreparedNode
from subnet.operator.supervisor import Supervisor, find_chain_fault
from subnet.plugins.chosen import open_plugins
from subnet.thread_runner import open_thread_runner

EXTRINSICS_FILE = "extrinsics.sqlite"

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
