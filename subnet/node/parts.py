"""What a node is made of: what is opened for it, and the parts that are made from that."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from consensus.types import Role
from mesh.client.connection import make_client_host_config
from mesh.model.manifest import ModelManifest
from mesh.p2p.hivemind_host import HivemindHost
from mesh.p2p.interface import Host
from mesh.p2p.record_exchange import RecordExchange
from mesh.routing.announcer import Announcer
from mesh.routing.directory import Directory
from mesh.routing.info import NetworkInfo
from subnet.account.eligibility import Eligibility
from subnet.chain.extrinsic_journal import ExtrinsicJournal
from subnet.chain.substrate import SubstrateChain
from subnet.epoch.observer import NodeEvent, Observe
from subnet.hosting.auditing import AuditInference
from subnet.hosting.layer_choice import LayerChoice
from subnet.hosting.manifest import make_shape
from subnet.hosting.relay_guard import RelayGuard
from subnet.hosting.serving import LayerServer, LocalModel, SubnetModel
from subnet.journal.journal import Journal
from subnet.monitor.chain_view import ChainView
from subnet.monitor.collector import NodeSources
from subnet.network import SubnetMembership, SubnetOnChain
from subnet.node.self_description import find_unable
from subnet.operator.access import AccessGate
from subnet.operator.preflight import PreparedNode
from subnet.operator.status_facts import StatusFacts
from subnet.operator.supervisor import Supervisor
from subnet.plugins.chosen import ChosenPlugins
from subnet.probing.book import BOOK_FILE, ProbeBook
from subnet.probing.prober import ProbeContext
from subnet.probing.prompts import make_prompter
from subnet.probing.targets import is_validator, list_targets
from subnet.thread_runner import Runner


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeParts:
    """What ``open_node`` opened, for the length of its block."""

    prepared: PreparedNode
    manifest: ModelManifest | None
    plugins: ChosenPlugins
    subnet: SubnetOnChain
    chain: SubstrateChain
    extrinsics: ExtrinsicJournal
    state: SubnetMembership
    gate: AccessGate
    host: HivemindHost
    initial_peers: tuple[str, ...]
    run: Runner
    observe: Observe
    supervisor: Supervisor

    def describe_network(self) -> NetworkInfo:
        return self.subnet.describe(self.prepared.folder.name, self.prepared.model)


def make_server(parts: NodeParts, directory: Directory, announcer: Announcer) -> LayerServer:
    """Return what loads and serves a hoster's layers."""
    prepared, terms, known_peers = parts.prepared, parts.subnet.terms, parts.state.known_peers
    return LayerServer(
        LocalModel(prepared.config, prepared.folder, prepared.model),
        SubnetModel(parts.manifest, terms.params, terms.schedule),
        host=parts.host,
        directory=directory,
        choice=LayerChoice(
            prepared.config,
            prepared.model,
            directory,
            own=prepared.key.peer_id,
            list_nodes=known_peers.list_nodes,
        ),
        announce=announcer.notify,
        layers=prepared.layers,
        rank=prepared.rank,
        key=prepared.key,
        is_member=known_peers.is_node,
    )


def make_relay_guard(parts: NodeParts, server: LayerServer) -> RelayGuard:
    return RelayGuard(
        parts.subnet.terms,
        make_shape(parts.prepared.model),
        reader=parts.chain,
        rosters=parts.state.rosters,
        guard=server.guard,
    )


def make_exchange(parts: NodeParts) -> RecordExchange:
    """Return what gives peers the records that they name."""
    journal = parts.state.journal
    return RecordExchange(parts.host, lambda name: _find_record(journal, name))


def _find_record(journal: Journal, name: bytes) -> bytes | None:
    """Return a record for a peer that names it by its hash, which tells nothing unpublished.

    The hash of an own reveal that waits for its window covers a secret salt.
    """
    envelope = journal.find_by_name(name)
    return None if envelope is None else envelope.to_bytes()


def open_auditor(parts: NodeParts) -> AuditInference | None:
    """Return what audits single layers of the model's files; None for a hoster or with --light."""
    config = parts.prepared.config
    if config.role is Role.HOSTER or config.light:
        return None
    return _open_file_runner(parts)


def find_file_runner(parts: NodeParts, auditor: AuditInference | None) -> AuditInference | None:
    """Return what computes a layer from the model's files: a validator's auditor, or a new one.

    Raises DeviceUnavailable.
    """
    if auditor is not None or parts.prepared.config.role is Role.VALIDATOR:
        return auditor
    return _open_file_runner(parts)


def _open_file_runner(parts: NodeParts) -> AuditInference | None:
    """Return what computes a layer from the model's files; None without a manifest."""
    prepared, manifest = parts.prepared, parts.manifest
    if manifest is None:
        return None
    return AuditInference(
        prepared.folder,
        prepared.model,
        manifest,
        params=parts.subnet.terms.params,
        device=prepared.config.device,
    )


def open_probe_book(parts: NodeParts) -> ProbeBook:
    terms = parts.subnet.terms
    return ProbeBook.open(
        parts.prepared.data_dir / BOOK_FILE, network_id=terms.network_id, params=terms.params
    )


def make_probe_context(
    parts: NodeParts,
    book: ProbeBook,
    directory: Directory,
    observe: Callable[[NodeEvent], None],
) -> ProbeContext:
    """Return what the prober may use of this node."""
    prepared, terms, state = parts.prepared, parts.subnet.terms, parts.state
    rosters, own = state.rosters, prepared.key.peer_id
    return ProbeContext(
        key=prepared.key,
        network_id=terms.network_id,
        params=terms.params,
        model=prepared.model,
        block_time_s=terms.block_time_s,
        book=book,
        make_prompt=make_prompter(prepared.folder.source, prepared.model),
        list_targets=lambda: list_targets(
            rosters,
            state.journal,
            own=own,
            num_layers=prepared.model.num_layers,
        ),
        is_validator=lambda: is_validator(rosters, own),
        list_servers=directory.list_servers,
        open_client=lambda: open_stranger(terms.network_id),
        observe=observe,
        probe=parts.plugins.probe,
    )


@asynccontextmanager
async def open_stranger(network_id: bytes) -> AsyncIterator[Host]:
    """Open a client's host in the network under a key that no peer knows."""
    async with HivemindHost.open(make_client_host_config()) as host:
        host.set_network_id(network_id)
        yield host


def make_status_facts(parts: NodeParts) -> StatusFacts:
    prepared = parts.prepared
    return StatusFacts(
        prepared.data_dir,
        subnet_id=prepared.subnet_id,
        node_id=prepared.node_id,
        schedule=parts.subnet.terms.schedule,
        num_layers=prepared.model.num_layers,
        unable=find_unable(prepared),
    )


def make_monitor_sources(
    parts: NodeParts,
    directory: Directory,
    chain: SubstrateChain,
    get_eligibility: Callable[[], Eligibility | None],
) -> NodeSources:
    """Return what the monitor page may read; ``chain`` is a connection of its own."""
    prepared, terms = parts.prepared, parts.subnet.terms
    return NodeSources(
        terms=terms,
        shape=make_shape(prepared.model, parts.manifest),
        network=parts.describe_network(),
        journal=parts.state.journal,
        get_roster=parts.state.rosters.get_newest_roster,
        directory=directory,
        chain=ChainView(chain, prepared.subnet_id),
        own=prepared.key.peer_id,
        node_id=prepared.node_id,
        get_eligibility=get_eligibility,
        data_dir=prepared.data_dir,
    )
