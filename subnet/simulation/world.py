"""One run: chain, network and nodes of a scenario, its faults, and the invariants over them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from consensus.types import SCORE_ONE, Epoch
from keys.envelope import Envelope
from subnet.simulation.bounds import count_entries
from subnet.simulation.chain import BLOCK_TIME_S, FINALITY_LAG, SimChain
from subnet.simulation.disk import SimDisk
from subnet.simulation.faults import FaultDriver
from subnet.simulation.inference import FakeModel
from subnet.simulation.invariants import Invariants, Violation, is_two_thirds
from subnet.simulation.memory import (
    pause_collection,
    remember_records,
    remember_scores,
    remember_signatures,
)
from subnet.simulation.network import SimNetwork
from subnet.simulation.node import RunContext, SimNode, make_account
from subnet.simulation.owners import Owners
from subnet.simulation.scenario import FaultFamily, Scenario
from subnet.simulation.trace import RunTrace
from subnet.simulation.virtual_time import run_virtual

WARM_UP_PERCENT = 80
"""Nodes start at this part of epoch 0, in which the chain elects no node yet."""

COUNTED_EPOCHS = 10
"""What nodes keep is counted after so many epochs, and at the end."""
MIN_REPUTATION = SCORE_ONE // 2
"""Where nodes come and go the chain removes those below half: after seven epochs of silence."""
MAX_DISKS = 2
"""Nodes whose disks fail: a file costs the simulator more time than memory."""


@dataclass(frozen=True)
class RunResult:
    """What a run came to. ``num_attested`` counts epochs with at least 66 %."""

    scenario: Scenario
    trace_hash: str
    num_lines: int
    num_checks: int
    num_attested: int
    num_deaths: int
    num_points: int
    """Await points that the nodes' last lives passed."""
    effects: Mapping[str, int]
    """How often each kind of fault or lie really did something, where that is counted."""

    def describe(self) -> dict[str, Any]:
        """Return the numbers, for people and other programs."""
        return {
            "seed": self.scenario.seed,
            "epochs": self.scenario.epochs,
            "epoch_length": self.scenario.epoch_length,
            "coldkeys": len({node.coldkey for node in self.scenario.nodes}),
            "faults": sorted(fault.value for fault in self.scenario.faults),
            "lies": sorted(b.value for node in self.scenario.nodes for b in node.behaviours),
            "attested": self.num_attested,
            "deaths": self.num_deaths,
            "checks": self.num_checks,
            "effects": dict(sorted(self.effects.items())),
            "trace": self.trace_hash,
        }


def run_scenario(
    scenario: Scenario,
    *,
    show: Callable[[str], None] | None = None,
    prepare: Callable[[World], None] | None = None,
) -> RunResult:
    """Run a scenario on a fresh virtual clock. Raises Violation.

    ``prepare`` may arrange something before the nodes start.
    """
    trace = RunTrace(show)
    with remember_signatures(), remember_records(), remember_scores(), pause_collection():
        try:
            return run_virtual(_run(scenario, trace, prepare))
        except Violation as violation:
            violation.add_note("\n".join(["the last lines:", *list(trace.tail)[-40:]]))
            raise


async def _run(
    scenario: Scenario, trace: RunTrace, prepare: Callable[[World], None] | None
) -> RunResult:
    world = World(scenario, trace)
    if prepare is not None:
        prepare(world)
    try:
        await world.run()
    finally:
        world.close()
    return world.get_result()


class World:
    """Everything of one run, in one event loop."""

    def __init__(self, scenario: Scenario, trace: RunTrace) -> None:
        self.scenario = scenario
        self.trace = trace
        self._random = Random(f"world/{scenario.seed}")
        accounts = [make_account(spec.node_id, spec.owner) for spec in scenario.nodes]
        seed = f"chain/{scenario.seed}".encode()
        has_changes = FaultFamily.ROSTER in scenario.faults
        self.chain = SimChain(
            accounts,
            seed=seed,
            trace=trace,
            epoch_length=scenario.epoch_length,
            num_founders=len(scenario.founders),
            min_reputation=MIN_REPUTATION if has_changes else None,
        )
        self.slot = self.chain.slot
        warm_up = WARM_UP_PERCENT * scenario.epoch_length // 100
        while self.chain.best.number < self.slot + warm_up:
            self.chain.produce(self._random)
        self._start_time_s = self.chain.get_time_s(self.chain.best.number)
        peers = [account.peer_id for account in accounts]
        self.network = SimNetwork(peers, random=Random(f"network/{scenario.seed}"))
        self.network.on_publish = self._check_published
        self.network.set_members({spec.node_id for spec in scenario.founders})
        self.invariants = Invariants(
            scenario,
            slot=self.slot,
            read_nodes=self.chain.read_nodes,
            read_elected=self.chain.read_elected,
        )
        self.effects: Counter[str] = Counter()
        self._tasks: asyncio.TaskGroup | None = None
        self._lives: dict[int, asyncio.Task[None]] = {}
        context = RunContext(
            chain=self.chain,
            network=self.network,
            model=FakeModel(),
            invariants=self.invariants,
            trace=trace,
            get_wall_time_s=self.get_wall_time_s,
            spawn=self._spawn,
            effects=self.effects,
            peers={spec.node_id: peer for spec, peer in zip(scenario.nodes, peers, strict=True)},
            authors={
                peer.public_key: spec.node_id
                for spec, peer in zip(scenario.nodes, peers, strict=True)
            },
            liars=frozenset(spec.node_id for spec in scenario.nodes if not spec.is_honest),
        )
        self.nodes = {
            spec.node_id: SimNode(spec, context, seed=scenario.seed) for spec in scenario.nodes
        }
        self._folder = self._give_disks() if FaultFamily.DISK in scenario.faults else None
        self.faults = FaultDriver(scenario, context, self.nodes)
        self._owners = Owners(
            scenario,
            self.chain,
            accounts=dict(enumerate(accounts, start=1)),
            start=self._start,
            stop=self._stop,
            effects=self.effects,
        )
        self._num_attested = 0
        loop = asyncio.get_running_loop()
        trace.attach(lambda: (loop.time(), self.chain.best.number))

    def _give_disks(self) -> TemporaryDirectory[str]:
        """Put the journals of some honest nodes on disks that may fail."""
        # In memory if the machine has such a folder: nothing here must survive this machine.
        memory = Path("/dev/shm")
        folder = TemporaryDirectory(dir=memory if memory.is_dir() else None)
        random = Random(f"disks/{self.scenario.seed}")
        founders = {spec.node_id for spec in self.scenario.founders}
        for node_id in random.sample(sorted(self.scenario.honest & founders), MAX_DISKS):
            self.nodes[node_id].disk = SimDisk(
                Path(folder.name) / f"node{node_id}.db",
                random=Random(f"disk/{self.scenario.seed}/{node_id}"),
                note=lambda effect: self.effects.update([effect]),
            )
        return folder

    def get_wall_time_s(self) -> float:
        now_s = asyncio.get_running_loop().time()
        return self._start_time_s + now_s

    async def run(self) -> None:
        """Run all epochs, then stop everything and look for what is left."""
        for spec in self.scenario.nodes:
            self.trace.add("world", str(spec))
        self.trace.add("world", f"replay: {self.scenario.command}")
        main = asyncio.current_task()
        try:
            await self._run_nodes()
        except ExceptionGroup as errors:
            # Not except*: before Python 3.11.4 it puts what it raises into a group.
            _, unexpected = errors.split((_Stopped, Violation))
            if unexpected is not None:
                # The invariants know of an honest node that ended; the rest is the simulator's.
                self.invariants.raise_any()
                raise
        self.invariants.stopped(task for task in asyncio.all_tasks() if task is not main)
        self.invariants.raise_any()

    async def _run_nodes(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            for spec in self.scenario.founders:
                self._lives[spec.node_id] = tasks.create_task(self.nodes[spec.node_id].live())
            await self._drive()
            raise _Stopped

    def _start(self, node_id: int) -> None:
        """Start the process of a node that has joined."""
        assert self._tasks is not None
        self.trace.add("world", f"node {node_id} joins")
        self._lives[node_id] = self._tasks.create_task(self.nodes[node_id].live())
        self.network.set_members(self._lives.keys())
        self.invariants.started(node_id, self.chain.best.number)

    def _stop(self, node_id: int) -> None:
        """End the process of a node for good."""
        self.trace.add("world", f"node {node_id} stops")
        self._lives.pop(node_id).cancel()
        self.network.set_members(self._lives.keys())
        self.invariants.ended(node_id, self.chain.best.number)

    async def _drive(self) -> None:
        """Build the blocks of all epochs, on time; check after each."""
        epochs, length = self.scenario.epochs, self.scenario.epoch_length
        end = self.slot + (epochs + 1) * length - 1
        quiet_from = self.scenario.compute_quiet_block(self.slot)
        loop = asyncio.get_running_loop()
        while self.chain.best.number < end:
            block = self.chain.best.number + 1
            due_s = self.chain.get_time_s(block) - self._start_time_s + self.faults.late_s
            await asyncio.sleep(max(0.0, due_s - loop.time()))
            self.chain.produce(self._random)
            self._check_epoch_end(block - FINALITY_LAG)
            self.faults.step(block, is_quiet=block >= quiet_from)
            if FaultFamily.ROSTER in self.scenario.faults:
                self._owners.step(block)
            self.invariants.raise_any()
        await asyncio.sleep(BLOCK_TIME_S * 0.9)
        self._check_epoch_end(end + 1)
        self.invariants.raise_any()

    def _check_epoch_end(self, next_block: int) -> None:
        """Look at a chain epoch as it was before the first block of the next one."""
        if next_block <= self.slot or (next_block - self.slot) % self.scenario.epoch_length:
            return
        epoch = Epoch((next_block - self.slot) // self.scenario.epoch_length - 1)
        submission = self.chain.read_submission(epoch, at_block=next_block - 1)
        if submission is not None:
            self._num_attested += is_two_thirds(submission)
        self.trace.add("world", f"epoch {epoch} over: {submission}")
        self.invariants.epoch_over(
            epoch,
            self.chain.read_elected(epoch),
            submission,
            is_quiet=epoch >= self.scenario.epochs,
        )
        if (epoch + 1) % COUNTED_EPOCHS == 0 or epoch == self.scenario.epochs:
            self._count_kept()
        if next_block <= self.chain.best.number:
            before, after = (
                self.chain.read_node_states(block) for block in (next_block - 1, next_block)
            )
            self.invariants.settled(epoch, submission, before=before, after=after)

    def _count_kept(self) -> None:
        """Count what the honest nodes that run keep."""
        self.invariants.waiting(self.chain.num_waiting)
        for node_id in sorted(self._lives.keys() & self.scenario.honest):
            node = self.nodes[node_id]
            node.replica.drop_expired(self.get_wall_time_s())
            if node.program is None or node.replica.policy is None:
                continue  # Its process is down.
            (num_rows,) = node.connection.execute("SELECT count(*) FROM log").fetchone()
            self.invariants.kept(
                node_id,
                count_entries(node.program),
                num_rows=num_rows,
                num_held=len(node.replica.held),
            )

    def _check_published(self, node: int, record: Envelope) -> None:
        if node not in self.scenario.honest:
            return
        self.trace.add(f"node {node}", f"publishes kind {record.kind} of {record.epoch}")
        self.invariants.published(
            node,
            record,
            best_block=self.chain.best.number,
            journal=self.nodes[node].connection,
        )

    def _spawn(self, coroutine: Any) -> None:
        assert self._tasks is not None
        self._tasks.create_task(coroutine)

    def close(self) -> None:
        for node in self.nodes.values():
            node.close()
        if self._folder is not None:
            self._folder.cleanup()

    def get_result(self) -> RunResult:
        lies = sum(replica.num_lies for replica in self.network.replicas.values())
        effects = self.effects + Counter({"replica-lies": lies})
        return RunResult(
            scenario=self.scenario,
            trace_hash=self.trace.hash,
            num_lines=self.trace.num_lines,
            num_checks=self.invariants.num_checks,
            num_attested=self._num_attested,
            num_deaths=sum(node.lives - 1 for node in self.nodes.values()),
            effects=effects,
            num_points=sum(node.switch.passed for node in self.nodes.values()),
        )


class _Stopped(Exception):
    """All epochs are over."""
