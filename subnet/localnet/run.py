"""One local network from the first process to the last report."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import math
import secrets
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from consensus.params import MAINNET
from consensus.phases import compute_schedule, phase_at
from consensus.types import (
    BlockNumber,
    Epoch,
    EpochPosition,
    SubnetId,
    SubnetNodeId,
    compute_epoch_position,
)
from mesh.assets import default_question, shipped_model_path, shipped_questions
from mesh.model.config import load_config
from mesh.model.files import resolve_model_folder
from subnet.chain.substrate import SubstrateChain
from subnet.cli.chain_options import check_development_chain
from subnet.errors import ConfigError
from subnet.localnet.blocks import BUILD_TIMEOUT_S, Blocks, choose_blocks, fetch_head_number
from subnet.localnet.children import run_client_child, run_gateway_child, run_node_child
from subnet.localnet.devchain_process import run_devchain
from subnet.localnet.display import Display
from subnet.localnet.options import (
    ANSWER_TOKENS,
    EPOCH_LENGTH,
    FINALITY_LAG,
    SETUP_TIMEOUT_S,
    LocalnetOptions,
)
from subnet.localnet.plan import MAX_RUNS, NodePlan, RunNames, plan_nodes
from subnet.localnet.processes import Child, Message, ProcessGroup, read_messages
from subnet.localnet.rows import EpochRow
from subnet.localnet.settle import build_row
from subnet.localnet.setup import (
    NodeIdentity,
    create_client_identity,
    create_identities,
    register_everything,
)
from subnet.manifest import build_own_manifest

SETTLE_POLL_S = 0.25


class LocalnetFailed(ConfigError):
    """A part of the local network did not do what it should."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "run it again with --keep DIR and look at the logs there")


@dataclass
class _State:
    """What the children have reported so far."""

    addresses: dict[str, str] = field(default_factory=dict)
    reports: dict[tuple[str, Epoch], Mapping[str, Any]] = field(default_factory=dict)
    answer: str = ""
    is_answered: bool = False
    route: list[Mapping[str, Any]] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)


async def run_localnet(options: LocalnetOptions, display: Display) -> bool:
    """Run it; True if every epoch was proposed and attested by all and the answer was right.

    Raises LocalnetFailed, with the end of a log, when a part fails; everything that was
    started is stopped in any case.
    """
    async with AsyncExitStack() as stack:
        directory = stack.enter_context(_open_directory(options.keep))
        group = ProcessGroup(directory / "logs")
        group.warm_up()
        url = await stack.enter_async_context(_provide_chain(options, directory, display))
        chain = await stack.enter_async_context(SubstrateChain.open(url))
        blocks = await stack.enter_async_context(_open_blocks(options, url))
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
        )
        return await localnet.run(directory)


@asynccontextmanager
async def _provide_chain(
    options: LocalnetOptions, directory: Path, display: Display
) -> AsyncIterator[str]:
    """Yield the address of the chain to run on; one made for the occasion ends with it."""
    if options.chain_url is not None:
        display.step(f"chain on {options.chain_url}")
        yield options.chain_url
        return
    async with run_devchain(
        block_seconds=options.block_seconds,
        epoch_length=EPOCH_LENGTH,
        finality_lag=FINALITY_LAG,
        log_path=directory / "logs" / "devchain.log",
    ) as url:
        display.step(f"development chain on {url}")
        yield url


@asynccontextmanager
async def _open_blocks(options: LocalnetOptions, url: str) -> AsyncIterator[Blocks]:
    """Yield who makes the blocks, on a connection of its own: it must not wait for reads."""
    async with SubstrateChain.open(url, call_timeout_s=BUILD_TIMEOUT_S) as chain:
        await check_development_chain(chain, url)
        blocks = await choose_blocks(
            chain, block_seconds=options.block_seconds, is_driven=options.is_driven, url=url
        )
        try:
            yield blocks
        finally:
            await blocks.aclose()


class _Localnet:
    def __init__(
        self,
        options: LocalnetOptions,
        display: Display,
        *,
        group: ProcessGroup,
        chain: SubstrateChain,
        chain_url: str,
        blocks: Blocks,
        epoch_length: int,
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
        self._state = _State()
        self._model = load_config(shipped_model_path())
        self._nodes = plan_nodes(
            hosters=options.hosters,
            validators=options.validators,
            num_blocks=self._model.num_blocks,
            first_account=self._names.first_account,
        )
        self._node_ids: Mapping[str, SubnetNodeId] = {}

    async def run(self, directory: Path) -> bool:
        identities = create_identities(directory, self._nodes)
        first_port = _find_free_port()
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
            watchers.append(tasks.create_task(self._blocks.run()))
            watchers.append(tasks.create_task(self._show_heads(subnet_id)))
            client = await self._start_client(directory)
            watchers.append(tasks.create_task(self._watch(client)))
            if self._options.serve_port is not None:
                gateway = await self._start_gateway(self._options.serve_port)
                watchers.append(tasks.create_task(self._watch(gateway)))
            is_right = await self._judge(subnet_id, first_epoch)
            for watcher in watchers:
                watcher.cancel()
        return is_right

    async def _register(self, identities: Mapping[str, NodeIdentity], bootnode: str) -> SubnetId:
        manifest = build_own_manifest(
            resolve_model_folder(str(shipped_model_path())), self._model, params=MAINNET
        )
        await self._blocks.begin_setup()
        subnet_id, self._node_ids = await register_everything(
            self._chain,
            self._nodes,
            name=self._names.subnet,
            identities=identities,
            manifest_hash=manifest.manifest_hash,
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
            children.append(await self._group.start(node.name, run_node_child, config))
        return children

    def _configure_node(
        self, node: NodePlan, identity: NodeIdentity, subnet_id: SubnetId, data_dir: Path
    ) -> Message:
        return {
            "model": str(shipped_model_path()),
            "role": node.role.value,
            "identity_path": str(identity.path),
            "chain_url": self._chain_url,
            "subnet_id": subnet_id,
            "blocks": None if node.blocks is None else [node.blocks.start, node.blocks.end],
            "hotkey_account": node.hotkey_account,
            "data_dir": str(data_dir),
        }

    async def _begin_first_epoch(self, subnet_id: SubnetId, bootnode: str) -> Epoch:
        """Wait for the nodes and skip to the eve of the first elected epoch."""
        names = {node.name for node in self._nodes}
        await self._wait_until(
            lambda: self._state.addresses.keys() >= names, SETUP_TIMEOUT_S, "start"
        )
        self._display.step(f"{len(names)} nodes are up; dial {bootnode}")
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
        prompt = self._options.prompt or default_question().question
        self._display.step(f"question: {prompt}")
        return await self._group.start(
            "client",
            run_client_child,
            {
                "initial_peers": list(self._state.addresses.values()),
                "identity_path": str(create_client_identity(directory)),
                "model": str(shipped_model_path()),
                "prompt": prompt,
                "max_new_tokens": ANSWER_TOKENS,
                "max_blocks_per_hop": max(1, math.ceil(5 * self._model.num_blocks / 8)),
            },
        )

    async def _start_gateway(self, port: int) -> Child:
        return await self._group.start(
            "gateway",
            run_gateway_child,
            {
                "initial_peers": list(self._state.addresses.values()),
                "model": str(shipped_model_path()),
                "port": port,
            },
        )

    async def _watch(self, child: Child) -> None:
        """Take a child's reports; its end before ours is a failure."""
        async for message in read_messages(child):
            self._take(child.name, message)
        if child.name == "client" and self._state.is_answered:
            return
        if self._options.serve_port is not None and child.name in self._node_ids:
            # Applications are being served: that a node dies is what they want to see survived.
            self._display.step(f"{child.name} ended; the others go on")
            return
        raise LocalnetFailed(f"{child.name} ended; the end of its log:\n{child.tail_log()}")

    def _take(self, name: str, message: Message) -> None:
        match message["kind"]:
            case "ready":
                self._state.addresses[name] = message["addresses"][0]
            case "scored":
                report = json.loads(message["report"])
                self._state.reports[name, Epoch(report["epoch"])] = report
            case "listening":
                self._display.step(f"gateway on {message['url']}: chat page /, OpenAI API /v1")
            case "piece":
                self._state.answer += message["text"]
                self._display.piece(message["text"])
            case "answered":
                self._state.is_answered = True
                self._state.route = message["route"]
                self._display.piece("")
                hops = " → ".join("{}:{}".format(*hop["blocks"]) for hop in message["route"])
                self._display.step(f"answered over blocks {hops}")
        self._state.changed.set()

    async def _show_heads(self, subnet_id: SubnetId) -> None:
        slot = await self._fetch_slot(subnet_id)
        schedule = compute_schedule(self._epoch_length, MAINNET)
        async for head in self._chain.heads():
            position = self._locate(head.number, slot)
            self._display.head(
                epoch=position.epoch,
                offset=position.offset,
                length=self._epoch_length,
                phase=phase_at(position, schedule).value,
            )

    async def _judge(self, subnet_id: SubnetId, first_epoch: Epoch) -> bool:
        is_right = True
        count = self._options.epochs
        for epoch in (
            range(first_epoch, first_epoch + count) if count else itertools.count(first_epoch)
        ):
            async with _deadline(self._epoch_timeout_s, f"proposal of epoch {epoch}"):
                row = await self._settle(subnet_id, Epoch(epoch))
            self._display.row(row)
            is_right &= row.is_attested_by_all
        await self._wait_until(lambda: self._state.is_answered, self._epoch_timeout_s, "answer")
        return is_right and self._is_answer_right()

    async def _settle(self, subnet_id: SubnetId, epoch: Epoch) -> EpochRow:
        """Wait until all have attested the epoch's scores, or the chance is over."""
        slot = await self._fetch_slot(subnet_id)
        proposing = Epoch(epoch + 1)
        while True:
            position = self._locate(await fetch_head_number(self._chain), slot)
            submission = await self._chain.fetch_submission(subnet_id, proposing)
            is_over = position.epoch > proposing
            has_all = submission is not None and submission.attested >= set(self._node_ids.values())
            if (has_all or is_over) and submission is not None:
                report = self._find_report(submission.proposer, epoch)
                if report is not None:
                    return build_row(Epoch(epoch), submission, report, self._nodes, self._node_ids)
            if is_over:
                raise LocalnetFailed(f"nobody proposed the scores of epoch {epoch}")
            await asyncio.sleep(SETTLE_POLL_S)

    def _find_report(self, proposer: SubnetNodeId, epoch: Epoch) -> Mapping[str, Any] | None:
        name = next(name for name, node_id in self._node_ids.items() if node_id == proposer)
        return self._state.reports.get((name, epoch))

    def _is_answer_right(self) -> bool:
        """Whether the shipped model's exact answer came, over at least two hosters."""
        prompt = self._options.prompt or default_question().question
        known = [question for question in shipped_questions() if prompt in question.wordings]
        if known and self._state.answer != known[0].answer:
            self._display.step("the answer is WRONG; expected was: " + known[0].answer)
            return False
        return len(self._state.route) >= 2

    async def _wait_until(self, is_done: Any, timeout_s: float, what: str) -> None:
        async with _deadline(timeout_s, what):
            while not is_done():
                await self._state.changed.wait()
                self._state.changed.clear()


@asynccontextmanager
async def _deadline(seconds: float, what: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise LocalnetFailed(f"no {what} within {seconds:.0f} s") from error


@contextlib.contextmanager
def _open_directory(keep: Path | None) -> Any:
    """Yield a private directory for keys, journals and logs; removed unless it is to be kept."""
    if keep is not None:
        if keep.exists() and any(keep.iterdir()):
            raise ConfigError(f"{keep} is not empty", "choose a new directory for --keep")
        keep.mkdir(parents=True, exist_ok=True, mode=0o700)
        yield keep
        return
    directory = Path(tempfile.mkdtemp(prefix="mesh-localnet-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
