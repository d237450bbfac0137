"""When which fault happens: drawn block by block from the scenario's seed.

All faults end where the quiet epochs begin; what was down is then up again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from random import Random
from typing import TYPE_CHECKING

from subnet.simulation.chain import BLOCK_TIME_S, EndpointFaults
from subnet.simulation.network import Network, NetworkFaults
from subnet.simulation.scenario import Fault, Scenario

if TYPE_CHECKING:
    from subnet.simulation.node import SimNode

MAX_POINTS_TO_DEATH = 60
MAX_REST_S = 90.0
MAX_SKEW_S = 600.0


class FaultDriver:
    """Changes what is wrong, once a block."""

    def __init__(self, scenario: Scenario, network: Network, nodes: Mapping[int, SimNode]) -> None:
        self._scenario = scenario
        self._network = network
        self._nodes = nodes
        self._honest = sorted(scenario.honest)
        self._random = Random(f"faults/{scenario.seed}")
        self._ends: list[tuple[int, str, int]] = []
        self._is_quiet = False
        self._start()

    def step(self, block: int, *, is_quiet: bool) -> None:
        """Begin and end faults at a new block."""
        if is_quiet:
            if not self._is_quiet:
                self._heal()
            return
        self._end_what_is_over(block)
        faults, random = self._scenario.faults, self._random
        if Fault.CRASH in faults and random.random() < 0.08:
            self._kill(self._pick())
        if Fault.PARTITION in faults and random.random() < 0.02:
            self._cut(block)
        if Fault.HIDE in faults and random.random() < 0.08:
            self._hide()
        if Fault.CHAIN in faults and random.random() < 0.05:
            self._break_endpoint(self._pick(), block)
        if Fault.SKEW in faults and random.random() < 0.02:
            node = self._pick()
            self._nodes[node].skew_s = random.uniform(-MAX_SKEW_S, MAX_SKEW_S)
            self._ends.append((block + random.randrange(1, 40), "skew", node))

    def _start(self) -> None:
        faults, random = self._scenario.faults, self._random
        if Fault.LOSS in faults:
            self._network.faults.loss_percent = random.randrange(1, 25)
        if Fault.SLOW in faults:
            self._network.faults.latency_s = (0.05, random.uniform(1.0, 6.0))

    def _pick(self) -> int:
        return self._random.choice(self._honest)

    def _kill(self, node_id: int) -> None:
        """Let a node die at one of the next points that it passes, and rest for a while."""
        node = self._nodes[node_id]
        node.next_rest_s = self._random.choice((0.0, self._random.uniform(0, MAX_REST_S)))
        if node.switch.fire_at is None:
            delay = self._random.randrange(MAX_POINTS_TO_DEATH)
            node.switch.fire_at = node.switch.passed + delay

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

    def _heal(self) -> None:
        self._is_quiet = True
        self._ends.clear()
        self._network.faults = NetworkFaults()
        for node in self._nodes.values():
            node.endpoint.faults = EndpointFaults()
            node.skew_s = 0.0
            if not node.switch.is_dead:
                node.switch.fire_at = None
            node.next_rest_s = 0.0
