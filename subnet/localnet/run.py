"""Run one local network, from the first process to the last report.

Order: directory, fork server, chain, connections; register the subnet; start the nodes; skip to
the block before the first elected epoch; then blocks, client and gateway. The outcome of each
epoch is shown. Everything is stopped in the reverse order.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import secrets
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from consensus.phases import compute_schedule, phase_at
from consensus.protocol_params import MAINNET
from consensus.types import (
    BlockNumber,
    Epoch,
    EpochPosition,
    SubnetId,
    SubnetNodeId,
    compute_epoch_position,
)
from mesh.assets import default_question, shipped_model_path
from mesh.model.config import load_config
from mesh.model.files import resolve_known_model
from mesh.model.manifest import ModelManifest, add_plugins
from subnet.chain.substrate import SubstrateChain
from subnet.hosting.manifest import keep_manifest, load_own_manifest
from subnet.localnet.block_making import BlockMaker, fetch_head_number
from subnet.localnet.chain_setup import (
    NodeIdentity,
    create_client_identity,
    create_identities,
    register_everything,
)
from subnet.localnet.child_programs import run_client_child, run_gateway_child, run_node_child
from subnet.localnet.display import Display
from subnet.localnet.environment import (
    find_free_port,
    open_block_maker,
    open_directory,
    provide_chain,
)
from subnet.localnet.epoch_outcome import EpochOutcomes
from subnet.localnet.epoch_row import EpochRow
from subnet.localnet.errors import LocalnetFailed
from subnet.localnet.faults import FaultPlan
from subnet.localnet.node_plan import MAX_RUNS, NodePlan, RunNames, plan_nodes
from subnet.localnet.options import ANSWER_TOKENS, SETUP_TIMEOUT_S, LocalnetOptions
from subnet.localnet.processes import Child, Message, ProcessGroup, read_messages
from subnet.localnet.report_collector import ReportCollector, deadline
from subnet.operator.preflight import make_private_directory
from subnet.plugins.chosen import find_stamps


async def run_localnet(options: LocalnetOptions, display: Display) -> bool:
    """Run it; True if every epoch was proposed and attested by all and the answer was right.

    Raises LocalnetFailed, with the end of a log, when a part fails; everything that was
    started is stopped in any case. Raises PluginError before that for a plug-in that is not there.
    """
    manifest = choose_manifest(options)
    async with AsyncExitStack() as stack:
        directory = stack.enter_context(open_directory(options.keep))
        group = ProcessGroup(directory / "logs")
        group.warm_up()
        url = await stack.enter_async_context(provide_chain(options, directory, display))
        chain = await stack.enter_async_context(SubstrateChain.open(url))
        blocks = await stack.enter_async_context(open_block_maker(options, url))
        # Last in, first out: a node that stops still reaches its chain.
        stack.push_async_callback(group.aclose)
        localnet = _Localnet(
            options,
            display,
            group=group,
            chain=chain,
            chain_url=url,
            blocks=blocks,
            epoch_length=(await chain.fetch_info()).epoch_length,
            manifest=manifest,
        )
        return await localnet.run(directory)


def choose_manifest(options: LocalnetOptions) -> ModelManifest:
    """Return the model's manifest with the plug-ins that are asked for."""
    folder = resolve_known_model(options.model)
    architecture = load_config(folder.source).architecture
    stamps = find_stamps(architecture, scorer=options.scorer, probe=options.probe)
    return add_plugins(load_own_manifest(folder), stamps)


class _Localnet:
    def __init__(
        self,
        options: LocalnetOptions,
        display: Display,
        *,
        group: ProcessGroup,
        chain: SubstrateChain,
        chain_url: str,
        blocks: BlockMaker,
        epoch_length: int,
        manifest: ModelManifest,
    ) -> None:
        self._options = options
        self._display = display
        self._group = group
        self._chain = chain
        self._chain_url = chain_url
        self._blocks = blocks
        self._epoch_length = epoch_length
        self._epoch_timeout_s = options.compute_epoch_timeout_s(epoch_length)
        self._names = (
            RunNames()
            if options.chain_url is None
            else RunNames.for_run(secrets.randbelow(MAX_RUNS))
        )
        self._reported = ReportCollector(display)
        self._folder = resolve_known_model(options.model)
        # A path, so that no folder of that name in a child's directory is taken for it.
        self._model_name = str(shipped_model_path()) if options.is_shipped_model else options.model
        self._model = load_config(self._folder.source)
        self._nodes = plan_nodes(
            hosters=options.hosters,
            validators=options.validators,
            num_layers=self._model.num_layers,
            first_account=self._names.first_account,
            ranges=options.ranges,
        )
        self._node_ids: Mapping[str, SubnetNodeId] = {}
        self._manifest = manifest
        self._children: dict[str, Child] = {}
        self._faults = FaultPlan(options.faults, self._get_pid, display.step)

    async def run(self, directory: Path) -> bool:
        identities = create_identities(directory, self._nodes)
        first_port = find_free_port()
        bootnode = f"/ip4/127.0.0.1/tcp/{first_port}/p2p/{identities[self._nodes[0].name].peer_id}"
        subnet_id = await self._register(identities, bootnode)
        async with asyncio.TaskGroup() as tasks:
            watchers = [
                tasks.create_task(self._watch(child))
                for child in await self._start_nodes(
                    directory, identities, subnet_id, first_port=first_port
                )
            ]
            first_epoch = await self._begin_first_epoch(subnet_id, bootnode)
            self._faults.epoch = first_epoch
            watchers.append(tasks.create_task(self._blocks.run()))
            watchers.append(tasks.create_task(self._show_heads(subnet_id)))
            client = await self._start_client(directory)
            watchers.append(tasks.create_task(self._watch(client)))
            if self._options.serve_port is not None:
                gateway = await self._start_gateway(self._options.serve_port)
                watchers.append(tasks.create_task(self._watch(gateway)))
            if self._options.is_one_answer:
                is_right = await self._wait_for_answer()
            else:
                is_right = await self._follow_epochs(subnet_id, first_epoch)
            self._faults.resume_all()
            for watcher in watchers:
                watcher.cancel()
        return is_right

    def _get_pid(self, number: int) -> int | None:
        child = self._children.get(self._nodes[number - 1].name)
        return child.process.pid if child is not None and child.is_alive else None

    async def _register(self, identities: Mapping[str, NodeIdentity], bootnode: str) -> SubnetId:
        await self._blocks.begin_setup()
        subnet_id, self._node_ids = await register_everything(
            self._chain,
            self._nodes,
            name=self._names.subnet,
            identities=identities,
            manifest_hash=self._manifest.manifest_hash,
            bootnode_address=bootnode,
            say=self._display.step,
        )
        return subnet_id

    async def _start_nodes(
        self,
        directory: Path,
        identities: Mapping[str, NodeIdentity],
        subnet_id: SubnetId,
        *,
        first_port: int,
    ) -> list[Child]:
        children = []
        for index, node in enumerate(self._nodes):
            config = self._configure_node(
                node, identities[node.name], subnet_id, directory / node.name
            )
            config["host_maddrs"] = [f"/ip4/127.0.0.1/tcp/{0 if index else first_port}"]
            # The first one is the bootnode that the chain names; the others find it there.
            config["new_swarm"] = index == 0
            if index == len(self._nodes) - 1:
                config["monitor_port"] = self._options.monitor_port
            if self._manifest.plugins:
                # The manifest beside the shipped model is another one.
                place = directory / node.name / f"{subnet_id}-{self._node_ids[node.name]}"
                make_private_directory(place.parent)
                make_private_directory(place)
                keep_manifest(self._manifest, place)
            child = await self._group.start(node.name, run_node_child, config)
            self._children[node.name] = child
            children.append(child)
        return children

    def _configure_node(
        self, node: NodePlan, identity: NodeIdentity, subnet_id: SubnetId, data_dir: Path
    ) -> Message:
        return {
            "model": self._model_name,
            "role": node.role.value,
            "identity_path": str(identity.path),
            "chain_url": self._chain_url,
            "subnet_id": subnet_id,
            "blocks": None if node.layers is None else [node.layers.start, node.layers.end],
            "hotkey_account": node.hotkey_account,
            "data_dir": str(data_dir),
        }

    async def _begin_first_epoch(self, subnet_id: SubnetId, bootnode: str) -> Epoch:
        """Wait for the nodes and skip to the eve of the first elected epoch."""
        names = {node.name for node in self._nodes}
        await self._reported.wait_until(
            lambda: self._reported.addresses.keys() >= names,
            timeout_s=SETUP_TIMEOUT_S,
            what="start",
        )
        self._display.step(f"{len(names)} nodes are up; dial {bootnode}")
        if self._options.monitor_port is not None:
            self._display.step(f"monitor page http://127.0.0.1:{self._options.monitor_port}/")
        slot = await self._fetch_slot(subnet_id)
        head = await fetch_head_number(self._chain)
        target = (head // self._epoch_length + 1) * self._epoch_length + slot
        await self._blocks.skip_to(BlockNumber(target - 1))
        return self._locate(BlockNumber(target), slot).epoch

    def _locate(self, block: BlockNumber, slot: int) -> EpochPosition:
        return compute_epoch_position(block, slot=slot, epoch_length=self._epoch_length)

    async def _fetch_slot(self, subnet_id: SubnetId) -> int:
        subnet = await self._chain.fetch_subnet(subnet_id)
        if subnet is None or subnet.slot is None:
            raise LocalnetFailed("the subnet has no slot on the chain")
        return subnet.slot

    async def _start_client(self, directory: Path) -> Child:
        prompt = self._get_prompt()
        self._display.step(f"question: {prompt}")
        return await self._group.start(
            "client",
            run_client_child,
            {
                "initial_peers": list(self._reported.addresses.values()),
                "identity_path": str(create_client_identity(directory)),
                "model": self._model_name,
                "prompt": prompt,
                "max_new_tokens": ANSWER_TOKENS,
                "max_layers_per_hop": self._compute_max_layers_per_hop(),
            },
        )

    async def _start_gateway(self, port: int) -> Child:
        return await self._group.start(
            "gateway",
            run_gateway_child,
            {
                "initial_peers": list(self._reported.addresses.values()),
                "model": self._model_name,
                "port": port,
                "max_layers_per_hop": (
                    None if self._options.ranges is None else self._compute_max_layers_per_hop()
                ),
            },
        )

    def _compute_max_layers_per_hop(self) -> int:
        """Return a limit that no hoster can keep alone, so that answers go over several."""
        if self._options.ranges is not None:
            return math.ceil(self._model.num_layers / self._options.ranges)
        return max(1, math.ceil(5 * self._model.num_layers / 8))

    async def _watch(self, child: Child) -> None:
        """Take a child's reports. Raises LocalnetFailed if it ends before the network does."""
        async for message in read_messages(child):
            self._reported.take(child.name, message)
        if child.name == "client" and self._reported.is_answered:
            return
        ended = f"{child.name} {await child.describe_end()}"
        if child.name in {self._nodes[number - 1].name for number in self._faults.killed}:
            self._display.step(f"{ended}, as --fault asked; the others go on")
            return
        if self._options.is_watched and child.name in self._node_ids:
            # That a node dies is what applications and people want to see survived.
            self._display.step(f"{ended}; the others go on")
            return
        raise LocalnetFailed(f"{ended}; the end of its log:\n{child.tail_log()}")

    async def _show_heads(self, subnet_id: SubnetId) -> None:
        slot = await self._fetch_slot(subnet_id)
        schedule = compute_schedule(self._epoch_length, MAINNET)
        async for head in self._chain.heads():
            position = self._locate(head.number, slot)
            self._faults.note_phase(position.epoch, phase_at(position, schedule))
            self._display.head(
                epoch=position.epoch,
                offset=position.offset,
                length=self._epoch_length,
                phase=phase_at(position, schedule).value,
            )

    async def _follow_epochs(self, subnet_id: SubnetId, first_epoch: Epoch) -> bool:
        """Show what becomes of each epoch; True if all went right, and the answer too."""
        outcomes = EpochOutcomes(
            self._chain,
            subnet_id,
            slot=await self._fetch_slot(subnet_id),
            epoch_length=self._epoch_length,
            nodes=self._nodes,
            node_ids=self._node_ids,
            find_report=self._find_report,
            get_gone=lambda: {
                self._node_ids[self._nodes[number - 1].name] for number in self._faults.killed
            },
        )
        is_right = True
        struck = {self._node_ids[self._nodes[number - 1].name] for number in self._faults.nodes}
        count = self._options.epochs
        for epoch in (
            range(first_epoch, first_epoch + count) if count else itertools.count(first_epoch)
        ):
            async with deadline(self._epoch_timeout_s, f"proposal of epoch {epoch}"):
                row = await outcomes.wait_for(Epoch(epoch))
            if isinstance(row, EpochRow):
                is_right &= row.is_attested_by_all_but(struck)
            elif row.elected in struck:
                self._display.step("a node under --fault had to propose")
            elif not self._options.is_watched:
                raise LocalnetFailed(row.to_text())
            else:
                is_right = False
            self._display.row(row)
        return await self._wait_for_answer() and is_right

    async def _wait_for_answer(self) -> bool:
        """Wait for the answer to the question; True if it is right."""
        await self._reported.wait_until(
            lambda: self._reported.is_answered, timeout_s=self._epoch_timeout_s, what="answer"
        )
        return self._reported.is_answer_right(
            self._get_prompt(), is_shipped=self._options.is_shipped_model
        )

    def _find_report(self, proposer: SubnetNodeId, epoch: Epoch) -> Mapping[str, Any] | None:
        name = next(name for name, node_id in self._node_ids.items() if node_id == proposer)
        return self._reported.find_report(name, epoch)

    def _get_prompt(self) -> str:
        return self._options.prompt or default_question().question
