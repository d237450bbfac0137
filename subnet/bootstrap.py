"""A node without a role: a first peer to dial, a relay, and a place that keeps records.

It follows the chain as every node does, because what it keeps for others must be what
they would keep: records of the roster, signed and on time.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from consensus.protocol_params import MAINNET
from consensus.roster import Roster, compute_network_id
from consensus.types import Epoch, SubnetId
from keys.peer import PeerKey
from mesh.p2p.config import HostConfig
from mesh.p2p.hivemind_host import HivemindHost
from mesh.p2p.quic import modernise
from mesh.routing.directory import Directory
from mesh.routing.heartbeat import make_heartbeat_policy
from mesh.routing.info import NetworkInfo
from subnet.account.registration import find_subnet
from subnet.chain.block_time import fetch_block_time_ms
from subnet.chain.manifest_hash import parse_manifest_hash
from subnet.chain.substrate import SubstrateChain
from subnet.epoch.record_policy import ConsensusRecordPolicy
from subnet.epoch.rosters import Membership, SubnetTerms
from subnet.errors import ChainUnavailable, UnknownSubnet
from subnet.journal.journal import open_journal
from subnet.known_peers import Members, find_subnet_of_bootnode, read_membership
from subnet.operator.preflight import make_private_directory
from subnet.thread_runner import open_thread_runner
from subnet.version import SOFTWARE

HEADS_RETRY_S = 1.0
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


async def run_bootstrap(
    config: BootstrapConfig, *, on_ready: Callable[[tuple[str, ...]], None]
) -> None:
    """Run until SIGTERM or SIGINT. ``on_ready`` gets the addresses that others dial.

    Until the chain names this peer as a bootnode of a subnet, it only introduces and relays:
    a subnet cannot be registered before its bootnodes have addresses.
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(_run(config, on_ready))
        await stopping.wait()
        running.cancel()


async def _run(config: BootstrapConfig, on_ready: Callable[[tuple[str, ...]], None]) -> None:
    subnet = await _find_place(config)
    if subnet is None:
        subnet = await _relay_until_registered(config, on_ready)
    async with SubstrateChain.open(config.chain_url) as chain:
        await _serve_subnet(chain, subnet, config, on_ready)


async def _find_place(config: BootstrapConfig) -> SubnetId | None:
    """Return the subnet to serve; None while the chain is away or names none."""
    try:
        async with SubstrateChain.open(config.chain_url) as chain:
            if config.subnet is not None:
                return await find_subnet(chain, config.subnet)
            return await find_subnet_of_bootnode(chain, config.key.peer_id)
    except ChainUnavailable as error:
        logger.warning("chain unavailable", detail=str(error))
        return None


async def _relay_until_registered(
    config: BootstrapConfig, on_ready: Callable[[tuple[str, ...]], None]
) -> SubnetId:
    relay = HostConfig(
        key=config.key,
        host_maddrs=modernise(config.host_maddrs),
        announce_maddrs=modernise(config.announce_maddrs),
        initial_peers=modernise(config.initial_peers),
    )
    async with HivemindHost.open(relay) as host, asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(host.watch())
        on_ready(tuple(await host.list_addresses()))
        logger.warning("relaying only: no subnet on the chain names this peer as a bootnode")
        subnet = await _wait_for_place(config)
        watching.cancel()
    return subnet


async def _wait_for_place(config: BootstrapConfig) -> SubnetId:
    while True:
        subnet = await _find_place(config)
        if subnet is not None:
            return subnet
        await asyncio.sleep(PLACE_RETRY_S)


async def _serve_subnet(
    chain: SubstrateChain,
    subnet_id: SubnetId,
    config: BootstrapConfig,
    on_ready: Callable[[tuple[str, ...]], None],
) -> None:
    terms, manifest_hash = await _fetch_terms(chain, subnet_id)
    members = Members(chain, subnet_id)
    data_dir = config.data_dir / f"{subnet_id}-bootstrap"
    make_private_directory(data_dir)
    owner = config.key.peer_id.public_key
    with (
        open_thread_runner("journal") as run,
        open_journal(data_dir / "journal.sqlite", owner=owner, run=run) as journal,
    ):
        membership = Membership(terms, reader=chain, journal=journal)
        await read_membership(chain, membership, members)
        async with HivemindHost.open(_configure(config, terms, membership, members)) as host:
            directory = Directory(host, network_id=terms.network_id)
            directory.serve(lambda: _describe(terms, manifest_hash))
            on_ready(tuple(await host.list_addresses()))
            logger.info("serving", subnet_id=subnet_id, peer_id=str(host.peer_id))
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(host.watch())
                tasks.create_task(directory.keep_fresh(members.list_nodes))
                tasks.create_task(_follow_chain(chain, membership, members))


async def _fetch_terms(chain: SubstrateChain, subnet_id: SubnetId) -> tuple[SubnetTerms, bytes]:
    subnet = await chain.fetch_subnet(subnet_id)
    if subnet is None:
        raise UnknownSubnet(f"subnet {subnet_id} is gone from the chain")
    info = await chain.fetch_info()
    manifest_hash = parse_manifest_hash(subnet.misc, subnet_id=subnet_id)
    terms = SubnetTerms(
        subnet_id=subnet_id,
        network_id=compute_network_id(info.genesis_hash, subnet_id, manifest_hash),
        epoch_length=info.epoch_length,
        block_time_ms=await fetch_block_time_ms(chain),
        params=MAINNET,
    )
    return terms, manifest_hash


def _configure(
    config: BootstrapConfig, terms: SubnetTerms, membership: Membership, members: Members
) -> HostConfig:
    heartbeats = make_heartbeat_policy(terms.network_id, is_member=members.is_node, clock=time.time)
    return HostConfig(
        key=config.key,
        host_maddrs=modernise(config.host_maddrs),
        announce_maddrs=modernise(config.announce_maddrs),
        initial_peers=modernise(config.initial_peers),
        network_id=terms.network_id,
        record_policy=ConsensusRecordPolicy(lambda: membership.table, admit_heartbeat=heartbeats),
        is_member=members.is_known,
    )


def _describe(terms: SubnetTerms, manifest_hash: bytes) -> NetworkInfo:
    # A bootstrap node has no model; clients ask a node with a role for its name.
    return NetworkInfo(
        network_id=terms.network_id,
        manifest_hash=manifest_hash,
        model_name="",
        num_layers=0,
        max_context=0,
        vocab_size=0,
        software=SOFTWARE,
    )


async def _follow_chain(chain: SubstrateChain, membership: Membership, members: Members) -> None:
    """Keep rosters and members fresh; an outage keeps the last ones."""
    followed: tuple[Epoch, Roster | None] | None = None
    while True:
        try:
            async for head in chain.heads():
                position = await membership.locate(head)
                if position is None:
                    continue
                await membership.refresh(position)
                roster = membership.get_newest_roster()
                if (position.epoch, roster) != followed:
                    await members.follow(roster)
                    followed = (position.epoch, roster)
        except ChainUnavailable as error:
            logger.warning("chain lost", detail=str(error))
        await asyncio.sleep(HEADS_RETRY_S)
