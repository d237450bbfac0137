"""What the monitor asks the chain once an epoch: nodes, queue, pay, and the share that agrees.

A failed reading leaves what was known; the next head is the next attempt.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

from consensus.submission import Submission
from consensus.types import Epoch, SubnetId, SubnetNodeId
from subnet.account.overview import NodeOverview, SubnetOverview, fetch_overview
from subnet.account.queue import fetch_queue
from subnet.account.rewards import fetch_rewards
from subnet.chain.substrate import SubstrateChain
from subnet.errors import ConfigError
from subnet.monitor.swarm import ChainNode

MAX_PAID_EPOCHS = 64
READ_TIMEOUT_S = 120.0
"""One reading asks for three values of every node, one after the other."""


@dataclass(slots=True)
class ChainView:
    """What was read last. ``paid`` maps a settled epoch (of proposals) to what each node got."""

    chain: SubstrateChain
    subnet_id: SubnetId
    nodes: tuple[ChainNode, ...] = ()
    min_attestation: int | None = None
    paid: OrderedDict[int, Mapping[int, int]] = field(default_factory=OrderedDict)
    _read_in: Epoch | None = None

    async def follow(self, epoch: Epoch) -> bool:
        """Read what changes with an epoch; False if it was read already.

        Raises ChainUnavailable.
        """
        if self._read_in == epoch:
            return False
        overview = await fetch_overview(self.chain, self.subnet_id)
        if overview is None:
            return False
        self.nodes = await self._list_nodes(overview)
        self.min_attestation = await self.chain.fetch_min_attestation_percent()
        await self._read_pay(Epoch(epoch - 1))
        self._read_in = epoch
        return True

    async def fetch_submission(self, epoch: Epoch) -> Submission | None:
        """Return the proposal of an epoch as the chain's head has it. Raises ChainUnavailable."""
        return await self.chain.fetch_submission(self.subnet_id, epoch)

    async def _list_nodes(self, overview: SubnetOverview) -> tuple[ChainNode, ...]:
        is_any_queued = any(row.node.is_queued for row in overview.nodes)
        queue = await fetch_queue(self.chain, self.subnet_id) if is_any_queued else ()
        places = {queued.node.node_id: place for place, queued in enumerate(queue, start=1)}
        return tuple(_make_node(row, places) for row in overview.nodes)

    async def _read_pay(self, settled: Epoch) -> None:
        """Read what the settlement of an epoch's proposal paid, once."""
        if settled < 0 or settled in self.paid:
            return
        try:
            rewards = await fetch_rewards(self.chain, self.subnet_id, settled)
        except ConfigError:
            # The epoch is older than the subnet.
            return
        paid = {int(node_id): amount for node_id, amount in rewards.nodes.items()}
        if rewards.proposer is not None:
            proposer = int(rewards.proposer.node_id)
            paid[proposer] = paid.get(proposer, 0) + rewards.proposer.amount
        self.paid[int(settled)] = paid
        while len(self.paid) > MAX_PAID_EPOCHS:
            self.paid.popitem(last=False)


def _make_node(row: NodeOverview, places: Mapping[SubnetNodeId, int]) -> ChainNode:
    node = row.node
    return ChainNode(
        node_id=node.node_id,
        peer_id=node.peer_id,
        node_class=node.node_class,
        start_epoch=int(node.start_epoch),
        queue_place=(places.get(node.node_id, len(places) + 1) if node.is_queued else None),
        stake=row.stake,
        reputation=row.reputation,
    )
