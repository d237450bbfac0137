"""What every process of a subnet does first: node and bootstrap share it.

It reads the subnet's terms, opens the journal of this key on this network, reads the rosters and
the known peers, and configures the host with them.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from consensus.challenge import ModelShape
from consensus.protocol_params import MAINNET, ConsensusParams
from consensus.roster import compute_network_id
from consensus.types import SubnetId
from keys.peer import PeerKey
from mesh.model.config import ModelConfig
from mesh.p2p.config import HostConfig
from mesh.p2p.interface import AdmissionPolicy
from mesh.p2p.quic import modernise
from mesh.routing.heartbeat import make_heartbeat_policy
from mesh.routing.info import NetworkInfo
from subnet.chain.block_time import fetch_block_time_ms
from subnet.chain.manifest_hash import parse_manifest_hash
from subnet.chain.substrate import SubstrateChain
from subnet.epoch.record_policy import ConsensusRecordPolicy
from subnet.epoch.rosters import Rosters
from subnet.epoch.terms import SubnetTerms
from subnet.errors import UnknownSubnet
from subnet.journal.journal import JOURNAL_FILE, Journal, open_journal
from subnet.known_peers import KnownPeers, read_known_peers
from subnet.operator.preflight import make_private_directory
from subnet.thread_runner import open_thread_runner
from subnet.version import SOFTWARE

OnReady = Callable[[tuple[str, ...]], None]
"""Called with the addresses that others dial, once the process serves."""

logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class SubnetOnChain:
    """What the chain says about one subnet. Every signature is bound to it."""

    terms: SubnetTerms
    manifest_hash: bytes

    def describe(self, model_name: str = "", model: ModelConfig | None = None) -> NetworkInfo:
        """Return what a peer is told about the network; without a model the name is empty."""
        return NetworkInfo(
            network_id=self.terms.network_id,
            manifest_hash=self.manifest_hash,
            model_name=model_name,
            num_layers=0 if model is None else model.num_layers,
            max_context=0 if model is None else model.max_context,
            vocab_size=0 if model is None else model.vocab_size,
            software=SOFTWARE,
        )


@dataclass(frozen=True, slots=True)
class SubnetMembership:
    """Who takes part: this node's journal, the rosters in it, and the known peers."""

    terms: SubnetTerms
    journal: Journal
    rosters: Rosters
    known_peers: KnownPeers

    def configure_host(
        self, relay: HostConfig, *, admission: AdmissionPolicy | None = None
    ) -> HostConfig:
        """Return ``relay`` with what makes it one of this subnet.

        It admits records of the rosters' nodes and heartbeats of known nodes.
        """
        network_id = self.terms.network_id
        heartbeats = make_heartbeat_policy(
            network_id, is_member=self.known_peers.is_node, clock=time.time
        )
        return replace(
            relay,
            network_id=network_id,
            record_policy=ConsensusRecordPolicy(
                lambda: self.rosters.table, admit_heartbeat=heartbeats
            ),
            is_member=self.known_peers.is_known,
            admission=admission,
            block_time_s=self.terms.block_time_s,
        )


def make_relay_config(
    key: PeerKey,
    *,
    host_maddrs: tuple[str, ...],
    announce_maddrs: tuple[str, ...],
    initial_peers: tuple[str, ...],
    auto_relay: bool = False,
) -> HostConfig:
    """Return a host that only introduces peers to each other: it keeps no records."""
    return HostConfig(
        key=key,
        host_maddrs=modernise(host_maddrs),
        announce_maddrs=modernise(announce_maddrs),
        initial_peers=modernise(initial_peers),
        use_auto_relay=auto_relay,
    )


async def fetch_subnet_on_chain(
    chain: SubstrateChain, subnet_id: SubnetId, params: ConsensusParams = MAINNET
) -> SubnetOnChain:
    """Read the subnet's terms. Raises ConfigError, UnknownSubnet or ChainError."""
    logger.info("reading the subnet from the chain", subnet_id=subnet_id)
    info = await chain.fetch_info()
    subnet = await chain.fetch_subnet(subnet_id)
    if subnet is None:
        raise UnknownSubnet(f"subnet {subnet_id} is gone from the chain")
    manifest_hash = parse_manifest_hash(subnet.misc, subnet_id=subnet_id)
    terms = SubnetTerms(
        subnet_id=subnet_id,
        network_id=compute_network_id(info.genesis_hash, subnet_id, manifest_hash),
        epoch_length=info.epoch_length,
        block_time_ms=await fetch_block_time_ms(chain),
        params=params,
    )
    return SubnetOnChain(terms, manifest_hash)


@asynccontextmanager
async def open_subnet_state(
    chain: SubstrateChain,
    terms: SubnetTerms,
    *,
    key: PeerKey,
    data_dir: Path,
    shape: ModelShape | None = None,
) -> AsyncIterator[SubnetMembership]:
    """Open the journal in ``data_dir`` and read the rosters and known peers.

    The journal belongs to the key and the network. A chain that starts anew is another network
    with other epochs, so the journal of the old one is refused. Raises ConfigError,
    JournalCorrupt, JournalFailed or ChainError.
    """
    make_private_directory(data_dir)
    logger.info("opening the journal", data_dir=str(data_dir))
    owner = key.peer_id.public_key + terms.network_id
    with (
        open_thread_runner("journal") as run,
        open_journal(data_dir / JOURNAL_FILE, owner=owner, run=run) as journal,
    ):
        logger.info("reading the roster and the known peers")
        rosters = Rosters(terms, reader=chain, journal=journal, shape=shape)
        known_peers = KnownPeers(chain, terms.subnet_id)
        await read_known_peers(chain, rosters, known_peers)
        yield SubnetMembership(terms, journal, rosters, known_peers)
