"""When which fault happens: drawn block by block from the scenario's seed.

All faults end where the quiet epochs begin; what was down is then up again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from random import Random
from typing import TYPE_CHECKING

from subnet.simulation.chain import BLOCK_TIME_S, FINALITY_LAG, EndpointFaults
from subnet.simulation.network import Link, NetworkFaults
from subnet.simulation.scenario import FaultFamily, Scenario
from subnet.simulation.windows import EPOCH_LENGTH, WINDOWS

if TYPE_CHECKING:
    from subnet.simulation.node import RunContext, SimNode

MAX_POINTS_TO_DEATH = 60
MAX_REST_S = 90.0
MAX_LONG_REST_S = 600.0
MAX_SKEW_S = 600.0
MIN_BYTES_PER_S = 500
MAX_BYTES_PER_S = 20_000
"""A record is some hundred bytes here, a hundredth of what it is with a real model."""
MAX_EMPTY_SLOTS = 3
MAX_LATE_S = 4.0


class FaultDriver:
    """Changes what is wrong, once a block."""

    def __init__(
        self, scenario: Scenario, context: RunContext, nodes: Mapping[int, SimNode]
    ) -> None:
        self._scenario = scenario
        self._network = context.network
        self._chain = context.chain
        self._effects = context.effects
        self._quiet_from = scenario.compute_quiet_block(context.chain.slot)
        self._windows = WINDOWS[scenario.epoch_length]
        self._nodes = nodes
        self._honest = sorted(scenario.honest)
        self._random = Random(f"faults/{scenario.seed}")
        self._ends: list[tuple[int, str, int]] = []
        self._is_quiet = False
        self.late_s = 0.0
        """By how much the next block alone is late; those after it are not."""
        self._start()

    def step(self, block: int, *, is_quiet: bool) -> None:
        """Begin and end faults at a new block."""
        if is_quiet:
            if not self._is_quiet:
                self._heal()
            return
        self._end_what_is_over(block)
        self.late_s = 0.0
        faults, random = self._scenario.faults, self._random
        length = self._windows.length
        if length > EPOCH_LENGTH and random.random() >= EPOCH_LENGTH / length:
            return  # An epoch has as many faults, whatever its length.
        if FaultFamily.CRASH in faults and random.random() < 0.08:
            self._kill(self._pick())
        if FaultFamily.PARTITION in faults and random.random() < 0.02:
            self._cut(block)
        if FaultFamily.HIDE in faults and random.random() < 0.08:
            self._hide()
        if FaultFamily.CHAIN in faults and random.random() < 0.05:
            self._break_endpoint(self._pick(), block)
        if FaultFamily.SKEW in faults and random.random() < 0.02:
            node = self._pick()
            self._nodes[node].skew_s = random.uniform(-MAX_SKEW_S, MAX_SKEW_S)
            self._ends.append((block + random.randrange(1, 40), "skew", node))
        if FaultFamily.DISK in faults and random.random() < 0.15:
            self._break_disk()
        if FaultFamily.FORK in faults:
            self._maybe_fork(block)
        if FaultFamily.LATE_BLOCKS in faults and random.random() < 0.1:
            self._delay_next_block()

    def _start(self) -> None:
        faults, random = self._scenario.faults, self._random
        if FaultFamily.LOSS in faults:
            self._network.faults.loss_percent = random.randrange(1, 25)
        if FaultFamily.SLOW in faults:
            self._network.faults.latency_s = (0.05, random.uniform(1.0, 6.0))
        if FaultFamily.NARROW in faults:
            self._network.faults.links = {
                node: (self._draw_link(), self._draw_link()) for node in sorted(self._nodes)
            }

    def _draw_link(self) -> Link:
        return Link(self._random.uniform(MIN_BYTES_PER_S, MAX_BYTES_PER_S))

    def _pick(self) -> int:
        return self._random.choice(self._honest)

    def _maybe_fork(self, block: int) -> None:
        """Let the next block replace the newest ones, often those that decide an epoch."""
        offset = (block - self._chain.slot) % self._windows.length
        decides = offset in (0, 1, self._windows.commit_end, self._windows.commit_end + 1)
        if self._random.random() >= (0.3 if decides else 0.05):
            return
        depth = self._random.randrange(1, FINALITY_LAG + 1)
        self._chain.fork_depth = depth
        # What is lost is sent again, for which there must be time before the epoch ends.
        has_time = FINALITY_LAG < offset < self._windows.length // 2
        self._chain.lost_percent = 20 if has_time else 0
        self._effects["forks"] += 1
        self._effects["draws-replaced"] += 0 <= offset - self._windows.commit_end < depth

    def _delay_next_block(self) -> None:
        """Let a few slots pass without a block, or the next one come late, the others in time."""
        self._effects["late-blocks"] += 1
        if self._random.random() < 0.5:
            self._chain.slipped_s += BLOCK_TIME_S * self._random.randrange(1, 1 + MAX_EMPTY_SLOTS)
        else:
            self.late_s = self._random.uniform(0.5, MAX_LATE_S)

    def _kill(self, node_id: int) -> None:
        """Let a node die at one of the next points that it passes, and rest for a while."""
        node = self._nodes[node_id]
        self._draw_rest(node)
        if node.switch.fire_at is None:
            delay = self._random.randrange(MAX_POINTS_TO_DEATH)
            node.switch.fire_at = node.switch.passed + delay

    def _draw_rest(self, node: SimNode) -> None:
        """Say for how long a process stays down once it is dead: not at all, some blocks, minutes.

        It is up again about when faults end, however late it dies.
        """
        random = self._random
        rests_s = (0.0, random.uniform(0, MAX_REST_S), random.uniform(MAX_REST_S, MAX_LONG_REST_S))
        left_s = MAX_REST_S + BLOCK_TIME_S * (self._quiet_from - self._chain.best.number)
        node.next_rest_s = random.choice(rests_s)
        node.up_by_s = asyncio.get_running_loop().time() + left_s

    def _break_disk(self) -> None:
        """Let a disk lose power, or refuse a write; the process ends, and rests for a while."""
        node = self._random.choice([node for node in self._nodes.values() if node.disk])
        assert node.disk is not None
        node.disk.arm(self._random.choice(("torn", "error")))
        self._draw_rest(node)

    def _cut(self, block: int) -> None:
        ids = sorted(self._nodes)
        self._random.shuffle(ids)
        middle = self._random.randrange(1, len(ids))
        self._network.faults.islands = (frozenset(ids[:middle]), frozenset(ids[middle:]))
        self._ends.append((block + self._random.randrange(2, 25), "cut", 0))

    def _hide(self) -> None:
        reader, author = self._pick(), self._pick()
        now_s = asyncio.get_running_loop().time()
        until_s = now_s + self._random.uniform(5, 15 * BLOCK_TIME_S)
        self._network.faults.hidden_until_s[reader, author] = until_s

    def _break_endpoint(self, node_id: int, block: int) -> None:
        random, endpoint = self._random, self._nodes[node_id].endpoint
        kind = random.randrange(4)
        endpoint.faults = EndpointFaults(
            is_down=kind == 0,
            lag_s=random.uniform(0, 20) if kind == 1 else 0.0,
            miss_percent=random.randrange(10, 60) if kind == 2 else 0,
            lose_receipts=kind == 3,
        )
        self._ends.append((block + random.randrange(1, 30), "chain", node_id))

    def _end_what_is_over(self, block: int) -> None:
        over = [end for end in self._ends if end[0] <= block]
        self._ends = [end for end in self._ends if end[0] > block]
        for _, what, node_id in over:
            self._end(what, node_id)

    def _end(self, what: str, node_id: int) -> None:
        match what:
            case "cut":
                self._network.faults.islands = ()
            case "chain":
                self._nodes[node_id].endpoint.faults = EndpointFaults()
            case "skew":
                self._nodes[node_id].skew_s = 0.0

    def _count_links(self) -> None:
        for pair in self._network.faults.links.values():
            self._effects["queued-bytes"] += sum(link.queued_bytes for link in pair)
            self._effects["dropped-messages"] += sum(link.num_dropped for link in pair)

    def _heal(self) -> None:
        self._is_quiet = True
        self._count_links()
        self.late_s = 0.0
        self._chain.fork_depth = 0
        self._ends.clear()
        self._network.faults = NetworkFaults()
        for node in self._nodes.values():
            node.endpoint.faults = EndpointFaults()
            node.skew_s = 0.0
            if node.disk is not None:
                node.disk.disarm()
            if not node.switch.is_dead:
                node.switch.fire_at = None
            node.next_rest_s = 0.0
