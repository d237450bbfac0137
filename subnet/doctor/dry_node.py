"""Runs the dry node of ``mesh doctor --dry-node``: a hoster's work, of which nothing is published.

Its host is a client without an address under a key made for the occasion, its journal lies in a
temporary folder, and its epoch loop has no duties. Only the model is the operator's own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from consensus.roster import Roster
from consensus.types import LayerRange, Role, SubnetId
from keys.peer import PeerKey
from mesh.client.connection import make_client_host_config
from mesh.errors import ManifestNotFound
from mesh.model.config import ModelConfig, load_config
from mesh.model.files import ModelFolder, check_has_weights, resolve_known_model
from mesh.model.manifest import ModelManifest
from mesh.p2p.hivemind_host import HivemindHost
from mesh.p2p.quic import modernise
from mesh.p2p.record_exchange import RecordExchange
from mesh.routing.directory import Directory
from subnet.chain.substrate import SubstrateChain
from subnet.doctor.dry_scores import (
    NOBODYS_ID,
    DryAnswer,
    DryScore,
    DryScores,
    answer_dry,
)
from subnet.epoch.author import Author
from subnet.epoch.context import NodeContext
from subnet.epoch.gatherer import Gatherer
from subnet.epoch.judge import Judge
from subnet.epoch.loop import EpochLoop
from subnet.errors import ConfigError
from subnet.hosting.layer_choice import LayerChoice
from subnet.hosting.manifest import fetch_manifest, find_manifest, make_shape
from subnet.hosting.serving import EngineInference, LocalModel, SubnetModel, open_engine
from subnet.known_peers import fetch_bootnode_addresses
from subnet.network import SubnetMembership, SubnetOnChain, fetch_subnet_on_chain, open_subnet_state
from subnet.operator.config import NodeConfig
from subnet.operator.preflight import choose_blocks
from subnet.plugins.chosen import check_stamps, open_plugins
from subnet.thread_runner import Runner, open_thread_runner

OnStep = Callable[[str], None]
"""Hears, in a few words, what the dry node does next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """What a dry node opened."""

    folder: ModelFolder
    model: ModelConfig
    subnet: SubnetOnChain
    chain: SubstrateChain
    state: SubnetMembership
    host: HivemindHost
    author: Author


async def run_dry_node(
    config: NodeConfig,
    subnet_id: SubnetId,
    *,
    on_step: OnStep,
    on_score: Callable[[DryScore], bool],
) -> None:
    """Say of each epoch what it would have scored, until ``on_score`` returns False.

    Raises ConfigError, ChainError, ModelError or TransportError.
    """
    folder = resolve_known_model(config.model)
    model = load_config(folder.source)
    check_has_weights(folder)
    named = choose_blocks(config, model)
    async with AsyncExitStack() as stack:
        parts = await _open_parts(stack, config, subnet_id, folder, model, on_step=on_step)
        terms = parts.subnet.terms
        manifest = await _obtain_manifest(parts)
        layers = named or await _choose_layers(config, parts)
        on_step(f"checking and loading blocks {layers}")
        served = SubnetModel(manifest, terms.params, terms.schedule)
        engine = await stack.enter_async_context(
            open_engine(LocalModel(config, folder, model), served, layers)
        )
        check_stamps(manifest.plugins, model.architecture)
        plugins = stack.enter_context(open_plugins(manifest.plugins))
        scores = DryScores(
            parts.author, get_roster=parts.state.rosters.get_roster, scorer=plugins.scorer
        )
        run = stack.enter_context(open_thread_runner("scores"))
        context = _make_context(parts, manifest, run, scores)
        inference = EngineInference(engine, layers)
        judge = Judge(context, Gatherer(context))

        async def answer(roster: Roster) -> DryAnswer:
            on_step(f"answering the challenge of epoch {roster.epoch}")
            return await answer_dry(parts.author, roster, inference=inference, shape=context.shape)

        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(engine.serve()),
                tasks.create_task(parts.host.watch()),
                tasks.create_task(EpochLoop(context).run()),
            ]
            on_step("waiting for the next commit phase")
            async with aclosing(scores.run(judge, answer)) as found:
                async for score in found:
                    if not on_score(score):
                        break
            for task in running:
                task.cancel()


async def _open_parts(
    stack: AsyncExitStack,
    config: NodeConfig,
    subnet_id: SubnetId,
    folder: ModelFolder,
    model: ModelConfig,
    *,
    on_step: OnStep,
) -> _Parts:
    chain = await stack.enter_async_context(SubstrateChain.open(config.chain_url))
    subnet = await fetch_subnet_on_chain(chain, subnet_id)
    key = PeerKey.generate()
    place = Path(stack.enter_context(TemporaryDirectory(prefix="mesh-dry-")))
    state = await stack.enter_async_context(
        open_subnet_state(chain, subnet.terms, key=key, data_dir=place, shape=make_shape(model))
    )
    addresses = config.initial_peers or await fetch_bootnode_addresses(chain, subnet_id)
    if not addresses:
        raise ConfigError("the chain names no bootnode to dial", "give --initial-peers ADDR")
    on_step(f"joining the swarm as a client, through {', '.join(addresses)}")
    client = replace(make_client_host_config(key), initial_peers=modernise(addresses))
    host = await stack.enter_async_context(HivemindHost.open(state.configure_host(client)))
    return _Parts(
        folder=folder,
        model=model,
        subnet=subnet,
        chain=chain,
        state=state,
        host=host,
        author=Author(subnet.terms, key, NOBODYS_ID),
    )


async def _obtain_manifest(parts: _Parts) -> ModelManifest:
    """Return the manifest that the chain names, from beside the model or from a peer."""
    wanted = parts.subnet.manifest_hash
    manifest = find_manifest(parts.folder, manifest_hash=wanted, kept_in=parts.folder.path)
    if manifest is None:
        directory = Directory(parts.host, network_id=parts.subnet.terms.network_id)
        peers = await directory.find_peers(parts.state.known_peers.list_nodes())
        manifest = await fetch_manifest(parts.host, peers, wanted)
    if manifest is None:
        raise ManifestNotFound(
            f"the manifest {wanted.hex()} that the chain names is neither in {parts.folder.path} "
            "nor with a peer"
        )
    return manifest


async def _choose_layers(config: NodeConfig, parts: _Parts) -> LayerRange:
    """Return the layers that a hoster with this memory would take now."""
    choice = LayerChoice(
        config,
        parts.model,
        Directory(parts.host, network_id=parts.subnet.terms.network_id),
        own=parts.host.peer_id,
        list_nodes=parts.state.known_peers.list_nodes,
    )
    return await choice.choose_first()


def _make_context(
    parts: _Parts, manifest: ModelManifest, run: Runner, scores: DryScores
) -> NodeContext:
    """Return a node that only watches: it has no duties and publishes nothing."""
    return NodeContext(
        author=parts.author,
        role=Role.HOSTER,
        shape=make_shape(parts.model, manifest),
        journal=parts.state.journal,
        rosters=parts.state.rosters,
        store=parts.host.records,
        peers=RecordExchange(parts.host, lambda name: None),
        reader=parts.chain,
        writer=None,
        run=run,
        observe=scores.note_event,
        get_inference=lambda: None,
        get_auditor=lambda: None,
        list_failed_probes=lambda roster: frozenset(),
        get_wall_time_s=time.time,
        is_paid=False,
    )
