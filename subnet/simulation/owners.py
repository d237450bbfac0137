"""What the owners of nodes do while a network runs: register, start, remove and switch off nodes.

A node is there for others, and its process runs, from the final block that registers it to the
final block in which the chain no longer lists it. What becomes of it between, from class to class,
is the ledger's doing.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping

from consensus.types import BlockNumber, NodeClass
from devchain.calls import NetworkCall, RemoveSubnetNode
from subnet.epoch.interfaces import BlockInfo
from subnet.simulation.chain import (
    FINALITY_LAG,
    SUBNET_ID,
    NodeAccount,
    SimChain,
    make_registration,
)
from subnet.simulation.scenario import NodeSpec, Scenario


class Owners:
    """Acts once a block. ``start`` and ``stop`` begin and end the process of a node."""

    def __init__(
        self,
        scenario: Scenario,
        chain: SimChain,
        *,
        accounts: Mapping[int, NodeAccount],
        start: Callable[[int], None],
        stop: Callable[[int], None],
        effects: Counter[str],
    ) -> None:
        self._scenario = scenario
        self._chain = chain
        self._accounts = accounts
        self._start = start
        self._stop = stop
        self._effects = effects
        self._sent: dict[int, asyncio.Future[BlockInfo]] = {}
        self._listed = {spec.node_id for spec in scenario.founders}
        """The nodes of the newest final block that was looked at."""
        self._known = set(self._listed)
        """Those that a final block has ever listed: ids are never used twice."""
        self._running = set(self._listed)
        self._classes: dict[int, NodeClass] = {}

    def step(self, block: int) -> None:
        """Look at the newest final block, and do what is due in the epoch of ``block``."""
        final = BlockNumber(block - FINALITY_LAG)
        epoch = (block - self._chain.slot) // self._chain.epoch_length
        listed = self._chain.list_registered(final)
        best = self._chain.list_registered(block)
        for spec in self._scenario.nodes:
            self._follow(spec, is_listed=spec.node_id in listed)
            self._act(spec, epoch, is_listed=spec.node_id in best)
        self._count_promotions(final)

    def _follow(self, spec: NodeSpec, *, is_listed: bool) -> None:
        """Start a node that the chain has begun to list; stop one that it lists no more."""
        node_id = spec.node_id
        if is_listed and node_id not in self._listed:
            self._listed.add(node_id)
            self._known.add(node_id)
            self._running.add(node_id)
            self._effects["joined"] += 1
            self._start(node_id)
        if not is_listed and node_id in self._listed:
            self._listed.discard(node_id)
            self._effects["left" if spec.leaves is not None else "removed"] += 1
            self._end(node_id)

    def _act(self, spec: NodeSpec, epoch: int, *, is_listed: bool) -> None:
        coldkey = self._accounts[spec.node_id].coldkey
        # The chain counts ids up: an owner waits until the registration before is final.
        is_next = len(self._known) == spec.node_id - 1
        if spec.joins is not None and epoch >= spec.joins and is_next and not is_listed:
            self._send(spec.node_id, coldkey, make_registration(self._accounts[spec.node_id]))
        if spec.leaves is not None and epoch >= spec.leaves and is_listed:
            # The chain refuses it while the node is elected; it is sent again.
            self._send(spec.node_id, coldkey, RemoveSubnetNode(SUBNET_ID, spec.node_id))
        if spec.stops is not None and epoch >= spec.stops:
            self._end(spec.node_id)

    def _send(self, node_id: int, coldkey: bytes, call: NetworkCall) -> None:
        sent = self._sent.get(node_id)
        if sent is None or sent.done():
            self._sent[node_id] = self._chain.submit(coldkey, call, head=self._chain.best.number)

    def _end(self, node_id: int) -> None:
        if node_id in self._running:
            self._running.discard(node_id)
            self._stop(node_id)

    def _count_promotions(self, final: BlockNumber) -> None:
        for node in self._chain.read_nodes(final):
            before = self._classes.get(node.node_id, node.node_class)
            self._effects["promoted"] += node.node_class > before
            self._classes[node.node_id] = node.node_class
