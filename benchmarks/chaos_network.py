"""A local network whose nodes come back: every one has a supervisor that starts it again.

It is composed as ``mesh localnet`` is, from the same parts: the development chain over WebSocket,
real registration, one process a node with its own p2pd. Beyond that, ports and the chain's database
stay the same over restarts, and the nodes know each other's addresses.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from benchmarks.chaos_grounds import Ground, Place
from benchmarks.chaos_journals import JournalWatch
from benchmarks.chaos_node import run_chaos_node
from consensus.challenge import ModelShape
from consensus.phases import Phase, compute_schedule, phase_at
from consensus.protocol_params import MAINNET
from consensus.submission import Submission
from consensus.types import BlockNumber, Epoch, EpochPosition, SubnetId, compute_epoch_position
from mesh.assets import shipped_model_path
from mesh.model.config import load_config
from mesh.model.files import resolve_model_folder
from subnet.account.registration import hex_account
from subnet.chain.substrate import SubstrateChain
from subnet.errors import ChainUnavailable
from subnet.hosting.manifest import load_own_manifest, make_shape
from subnet.localnet.block_making import (
    DEVCHAIN_METHOD,
    DevChainBlockMaker,
    fetch_head_number,
)
from subnet.localnet.chain_setup import create_identities, derive_account, register_everything
from subnet.localnet.environment import find_free_port
from subnet.localnet.node_plan import NodePlan, plan_nodes
from subnet.localnet.options import EPOCH_LENGTH, FINALITY_LAG
from subnet.localnet.processes import (
    Child,
    Message,
    ProcessGroup,
    die_with_parent,
    read_messages,
)
from subnet.operator.status import read_statuses

HOSTERS = 5
VALIDATORS = 3
SCHEDULE = compute_schedule(EPOCH_LENGTH, MAINNET)
START_TIMEOUT_S = 180.0
END_TIMEOUT_S = 60.0
RESTART_PAUSE_S = 0.2
"""What a supervisor waits before it starts a node again."""
START_PATIENCE_S = 60.0
"""How long the chain waits for nodes that are starting or busy."""
DUTY_SHARE = 2.0
"""What nodes have for their duties, in parts of the time in which they took in the block."""
CHAIN_RETRIES = 80
CHAIN_RETRY_S = 0.5
POLL_S = 0.05
DATA = "data"
LOOPBACK = "127.0.0.1"


class ChainProcess:
    """``mesh devchain`` with a database and a port that outlive the process."""

    def __init__(self, directory: Path, *, host: str, port: int, block_seconds: float) -> None:
        self._directory = directory
        self._host = host
        self._block_seconds = block_seconds
        self._process: asyncio.subprocess.Process | None = None
        self.port = port

    async def start(self, mode: str) -> None:
        """Return once it serves."""
        with (self._directory / "devchain.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "subnet.cli.mesh",
                "devchain",
                f"--host={self._host}",
                f"--port={self.port}",
                f"--block-seconds={self._block_seconds}",
                f"--epoch-length={EPOCH_LENGTH}",
                f"--finality-lag={FINALITY_LAG}",
                f"--block-mode={mode}",
                f"--db={self._directory / 'chain.sqlite'}",
                # Nodes in namespaces of their own come over a bridge, which no other machine is on.
                *(["--expose"] if self._host != LOOPBACK else []),
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                preexec_fn=partial(die_with_parent, os.getpid()),
            )
        assert self._process.stdout is not None
        async with asyncio.timeout(START_TIMEOUT_S):
            line = await self._process.stdout.readline()
        if not line.startswith(b"ws://"):
            raise RuntimeError((self._directory / "devchain.log").read_text()[-2000:])

    async def end(self, number: signal.Signals) -> None:
        """Return once the process is gone."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)
            await self._process.wait()


@dataclass
class Member:
    """One node of the network: its process while it runs, and what it has reported."""

    plan: NodePlan
    node_id: int
    config: Message
    data_dir: Path
    others: Sequence[str]
    """Where the other nodes are dialled."""
    child: Child | None = None
    is_ready: asyncio.Event = field(default_factory=asyncio.Event)
    may_run: asyncio.Event = field(default_factory=asyncio.Event)
    is_held: bool = False
    """Whether a fault keeps it from working at all, so that the chain does not wait for it."""
    may_end: bool = False
    """Whether an end of the process is what the present fault is about."""
    started_at: float = 0.0
    ends: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.plan.name

    @property
    def pid(self) -> int | None:
        """The process id, None between two processes."""
        return None if self.child is None else self.child.process.pid

    def find_daemon(self) -> psutil.Process | None:
        """Return the node's p2pd; None while it has none."""
        with contextlib.suppress(psutil.Error):
            if self.pid is not None:
                for child in psutil.Process(self.pid).children():
                    if child.name() == "p2pd":
                        return child
        return None

    def tail_log(self, path: Path) -> str:
        """Return the last line of the node's log that is an error, or the last line."""
        lines = path.read_text(errors="replace").splitlines()[-40:]
        errors = [line for line in lines if "rror" in line]
        return (errors or lines or [""])[-1][:400]


class ChaosNetwork:
    """The running network. Made by ``open_network``."""

    def __init__(
        self,
        base: _Base,
        subnet_id: SubnetId,
        slot: int,
        members: Sequence[Member],
        shape: ModelShape,
    ) -> None:
        self.directory = base.directory
        self.ground = base.ground
        self.group = base.group
        self.chain_process = base.chain_process
        self.chain = base.chain
        self.members = tuple(members)
        self.journals = JournalWatch(shape)
        self.block_seconds = base.block_seconds
        self.say = base.say
        self.subnet_id = subnet_id
        self._slot = slot
        self._head = BlockNumber(0)
        self._moved = asyncio.Condition()
        self._reading = asyncio.Lock()
        self.reports: dict[tuple[str, int], Mapping[str, Any]] = {}
        self.kills = 0
        self.restart_s: list[float] = []
        self._ready_at = 0.0
        """When the last start of a node ended."""
        self.faults: list[str] = []
        """What must not happen and did."""

    @property
    def position(self) -> EpochPosition:
        """Where the newest head stands."""
        return compute_epoch_position(self._head, slot=self._slot, epoch_length=EPOCH_LENGTH)

    @property
    def phase(self) -> Phase:
        return phase_at(self.position, SCHEDULE)

    async def wait_for(self, epoch: Epoch, offset: int) -> None:
        """Return at this head, or at once when it has been."""
        target = epoch * EPOCH_LENGTH + self._slot + offset
        async with self._moved:
            await self._moved.wait_for(lambda: self._head >= target)

    async def make_blocks(self) -> None:
        """Make block after block, until cancelled.

        A block comes after ``block_seconds``, and not before the nodes have dealt with the last one
        and had twice that time again. So the speed of this machine decides nothing: a node that is
        starting holds the chain up, for START_PATIENCE_S at most, and from its start on the block
        lasts as long as any other. Else it would have no time to read what others publish again
        as they start, and a restart would cost two blocks.
        """
        while True:
            made_at = time.monotonic()
            await self._ask(lambda: self.chain.query(lambda s: s.rpc("dev_newBlock", {"count": 1})))
            head = await self._ask(lambda: fetch_head_number(self.chain))
            async with self._moved:
                self._head = head
                self._moved.notify_all()
            with contextlib.suppress(TimeoutError):
                await wait_until(lambda at=head: self._is_handled(at), "nodes", START_PATIENCE_S)
            spent_s = time.monotonic() - max(made_at, self._ready_at)
            await asyncio.sleep(max(self.block_seconds - spent_s, DUTY_SHARE * spent_s))

    def _is_handled(self, block: int) -> bool:
        """Whether each node that is not held by a fault has planned for ``block``.

        A killed node is waited for as well, while its journal is read and while it starts.
        """
        return all(
            one.is_ready.is_set()
            and any((status.head or 0) >= block for status in read_statuses(one.data_dir))
            for one in self.members
            if not one.is_held
        )

    async def skip_to_eve(self, maker: DevChainBlockMaker) -> Epoch:
        """Go to the last block before an epoch and return that epoch."""
        head = await fetch_head_number(self.chain)
        epoch = (head - self._slot) // EPOCH_LENGTH + 1
        await maker.skip_to(BlockNumber(epoch * EPOCH_LENGTH + self._slot - 1))
        return Epoch(epoch)

    async def supervise(self, member: Member) -> None:
        """Run a node again and again, as systemd would, until cancelled."""
        while True:
            await member.may_run.wait()
            await self._run_once(member)
            await asyncio.sleep(RESTART_PAUSE_S)

    async def _run_once(self, member: Member) -> None:
        member.started_at = time.monotonic()
        child = await self.group.start(member.name, run_chaos_node, member.config)
        member.child = child
        async for message in read_messages(child):
            self._take(member, message)
        end = await child.describe_end()
        member.is_ready.clear()
        member.child = None
        child.connection.close()
        member.ends.append(end)
        # It dials a node that is up: the old bootnode may be the killed one.
        member.config |= {"new_swarm": False, "initial_peers": list(member.others)}
        if not member.may_end:
            self.faults.append(f"{member.name} {end}: {member.tail_log(child.log_path)}")

    def _take(self, member: Member, message: Message) -> None:
        if message["kind"] == "ready":
            self.restart_s.append(time.monotonic() - member.started_at)
            self._ready_at = time.monotonic()
            member.may_end = False
            member.is_ready.set()
        else:
            report = json.loads(message["report"])
            self.reports[member.name, report["epoch"]] = report

    def get_log(self, member: Member) -> Path:
        """Return the file that all processes of a node log to."""
        return self.directory / "logs" / f"{member.name}.log"

    async def wait_ready(self, members: Sequence[Member]) -> None:
        """Return once all of them serve."""
        async with asyncio.timeout(START_TIMEOUT_S):
            for member in members:
                await member.is_ready.wait()

    async def kill(self, member: Member) -> None:
        """End a node without a warning, keep what its journal holds at that moment, let it back.

        Its p2pd must be gone with it.
        """
        await self.take_down(member)
        member.may_run.set()

    async def take_down(self, member: Member) -> None:
        """Kill a node and keep it down. A node between two processes is waited for."""
        await wait_until(lambda: member.pid is not None, "start")
        member.may_run.clear()
        member.may_end = True
        victim, daemon = psutil.Process(member.pid), member.find_daemon()
        victim.kill()
        self.kills += 1
        await self._see_end(member, victim, daemon)
        await self.read_journal(member)

    async def kill_daemon(self, member: Member) -> None:
        """End a node's p2pd without a warning; the node must end by itself."""
        await wait_until(lambda: member.find_daemon() is not None, "p2pd")
        daemon, node = member.find_daemon(), psutil.Process(member.pid)
        assert daemon is not None
        member.may_end = True
        daemon.kill()
        self.kills += 1
        await self._see_end(member, node, daemon)
        await self.read_journal(member)

    async def _see_end(
        self, member: Member, node: psutil.Process, daemon: psutil.Process | None
    ) -> None:
        child = member.child
        for process, what in ((node, "node"), (daemon, "p2pd")):
            if process is None:
                continue
            try:
                await wait_until(lambda one=process: not is_running(one), "end", END_TIMEOUT_S)
            except TimeoutError:
                self.faults.append(f"the {what} of {member.name} outlived its end")
                process.kill()
        # Else the next fault would meet the dead process.
        await wait_until(lambda: member.child is not child or child is None, "supervisor")

    async def read_journal(self, member: Member) -> None:
        """Take in what the node's journal holds now."""
        async with self._reading:
            await asyncio.to_thread(self.journals.read, member.data_dir)

    async def read_journals(self) -> None:
        for member in self.members:
            await self.read_journal(member)

    async def fetch_submission(self, epoch: Epoch) -> Submission | None:
        """Return the epoch's proposal; ask again while the chain restarts."""
        return await self._ask(lambda: self.chain.fetch_submission(self.subnet_id, epoch))

    async def fetch_nonce(self, member: Member) -> int:
        """Return how many extrinsics of the node's hotkey the chain has taken."""
        account = hex_account(derive_account(member.plan.hotkey_account).account_id)
        found = await self._ask(
            lambda: self.chain.query(
                lambda s: s.read("System.Account", account, at=s.read_head_hash())
            )
        )
        return int(found["nonce"])

    async def _ask(self, ask: Callable[[], Any]) -> Any:
        for _ in range(CHAIN_RETRIES):
            try:
                return await ask()
            except ChainUnavailable:
                await asyncio.sleep(CHAIN_RETRY_S)
        return await ask()


def is_running(process: psutil.Process) -> bool:
    """Return whether the process still runs; a zombie does not."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


async def wait_until(is_done: Callable[[], bool], what: str, timeout_s: float = 120.0) -> None:
    """Poll until ``is_done``. Raises TimeoutError."""
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                if is_done():
                    return
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise TimeoutError(f"no {what} within {timeout_s:.0f} s") from None


@dataclass(frozen=True, slots=True)
class _Base:
    """What a network is composed on."""

    directory: Path
    ground: Ground
    group: ProcessGroup
    chain_process: ChainProcess
    chain: SubstrateChain
    maker: DevChainBlockMaker
    block_seconds: float
    say: Callable[[str], None]


@asynccontextmanager
async def open_network(
    directory: Path,
    *,
    block_seconds: float,
    ground: Ground,
    say: Callable[[str], None],
) -> AsyncIterator[tuple[ChaosNetwork, Epoch]]:
    """Run a network; yield it, at the eve of its first epoch, with that epoch, as blocks begin."""
    async with AsyncExitStack() as stack:
        group = ProcessGroup(directory / "logs")
        group.warm_up()
        chain_process = ChainProcess(
            directory, host=ground.chain_host, port=find_free_port(), block_seconds=block_seconds
        )
        stack.push_async_callback(chain_process.end, signal.SIGTERM)
        await chain_process.start("instant")
        chain = await stack.enter_async_context(
            SubstrateChain.open(f"ws://127.0.0.1:{chain_process.port}")
        )
        maker = DevChainBlockMaker(chain, block_seconds=block_seconds)
        model = load_config(shipped_model_path())
        plan = plan_nodes(hosters=HOSTERS, validators=VALIDATORS, num_layers=model.num_layers)
        places = await stack.enter_async_context(
            ground.open([directory / node.name / DATA for node in plan], chain_process.port)
        )
        # Last in, first out: a node that stops still reaches its chain.
        stack.push_async_callback(group.aclose)
        base = _Base(directory, ground, group, chain_process, chain, maker, block_seconds, say)
        network = await _compose(base, plan, places)
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(network.supervise(one)) for one in network.members]
            for member in network.members:
                member.may_run.set()
            await network.wait_ready(network.members)
            say(f"{len(network.members)} nodes are up")
            first = await network.skip_to_eve(maker)
            await chain.query(lambda session: session.rpc(DEVCHAIN_METHOD, "manual"))
            running.append(tasks.create_task(network.make_blocks()))
            try:
                yield network, first
            finally:
                for task in running:
                    task.cancel()


async def _compose(base: _Base, plan: Sequence[NodePlan], places: Sequence[Place]) -> ChaosNetwork:
    """Register the nodes and return the network, with no node started."""
    folder = resolve_model_folder(str(shipped_model_path()))
    manifest = load_own_manifest(folder)
    identities = create_identities(base.directory, plan)
    addresses = {
        node.name: f"{place.address}/p2p/{identities[node.name].peer_id}"
        for node, place in zip(plan, places, strict=True)
    }
    await base.maker.begin_setup()
    subnet_id, node_ids = await register_everything(
        base.chain,
        plan,
        identities=identities,
        manifest_hash=manifest.manifest_hash,
        bootnode_address=addresses[plan[0].name],
        say=base.say,
    )
    subnet = await base.chain.fetch_subnet(subnet_id)
    assert subnet is not None and subnet.slot is not None
    members = []
    for node, place in zip(plan, places, strict=True):
        data_dir = base.directory / node.name / DATA
        others = [known for name, known in addresses.items() if name != node.name]
        config = {
            "model": str(shipped_model_path()),
            "role": node.role.value,
            "identity_path": str(identities[node.name].path),
            "subnet_id": subnet_id,
            "blocks": None if node.layers is None else [node.layers.start, node.layers.end],
            "hotkey_account": node.hotkey_account,
            "data_dir": str(data_dir),
            "initial_peers": [] if node is plan[0] else others,
            # The first node has no peer to wait for.
            "new_swarm": node is plan[0],
            "hides_records": False,
            **describe_place(place),
        }
        members.append(Member(node, node_ids[node.name], config, data_dir, others))
    return ChaosNetwork(
        base, subnet_id, subnet.slot, members, make_shape(load_config(folder.source), manifest)
    )


def describe_place(place: Place) -> Message:
    """Return the part of a node's configuration that its place decides."""
    return {
        "chain_url": place.chain_url,
        "host_maddrs": list(place.host_maddrs),
        "announce_maddrs": list(place.announce_maddrs),
        "namespace": place.namespace,
    }
