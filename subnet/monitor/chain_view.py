"""What the monitor asks the chain once an epoch: nodes, queue, pay, and the share that agrees.

A failed reading leaves what was known; the next head is the next attempt.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from consensus.submission import Submission
from consensus.types import Epoch, SubnetId, SubnetNodeId
from subnet.account.eligibility import Eligibility, NodeOnChain, judge_eligibility
from subnet.account.overview import NodeOverview, SubnetOverview, fetch_overview
from subnet.account.queue import fetch_queue
from subnet.account.rewards import fetch_rewards
from subnet.chain.items import Item
from subnet.chain.substrate import SubstrateChain
from subnet.errors import ConfigError
from subnet.monitor.swarm import ChainNode

if TYPE_CHECKING:
    from subnet.chain.chain_session import ChainSession

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
        self.nodes = await self._list_nodes(overview, epoch)
        self.min_attestation = await self.chain.fetch_min_attestation_percent()
        await self._read_pay(Epoch(epoch - 1))
        self._read_in = epoch
        return True

    async def fetch_submission(self, epoch: Epoch) -> Submission | None:
        """Return the proposal of an epoch as the chain's head has it. Raises ChainUnavailable."""
        return await self.chain.fetch_submission(self.subnet_id, epoch)

    async def _list_nodes(self, overview: SubnetOverview, epoch: Epoch) -> tuple[ChainNode, ...]:
        is_any_queued = any(row.node.is_queued for row in overview.nodes)
        queue = await fetch_queue(self.chain, self.subnet_id) if is_any_queued else ()
        places = {queued.node.node_id: place for place, queued in enumerate(queue, start=1)}
        eligible = await self._judge_nodes(overview, epoch)
        return tuple(
            _make_node(row, places, verdict)
            for row, verdict in zip(overview.nodes, eligible, strict=True)
        )

    async def _judge_nodes(self, overview: SubnetOverview, epoch: Epoch) -> list[Eligibility]:
        """Return whether each node can earn in the next epoch; one request for all of them."""
        hotkeys = [f"0x{row.node.hotkey.hex()}" for row in overview.nodes]

        def work(session: ChainSession) -> list[Any]:
            items = [
                Item("Network.MinSubnetNodeReputation", (self.subnet_id,), default=True),
                *(Item("System.Account", (hotkey,), default=True) for hotkey in hotkeys),
            ]
            return session.read_items(items, at=session.read_head_hash())

        min_reputation, *accounts = await self.chain.query(work)
        return [
            judge_eligibility(
                NodeOnChain(
                    epoch=epoch,
                    subnet_state=overview.state,
                    node_class=row.node.node_class,
                    is_queued=row.node.is_queued,
                    start_epoch=int(row.node.start_epoch),
                    reputation=row.reputation,
                    min_reputation=int(min_reputation),
                    hotkey_balance=int(account["data"]["free"]),
                )
            )
            for row, account in zip(overview.nodes, accounts, strict=True)
        ]

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


def _make_node(
    row: NodeOverview, places: Mapping[SubnetNodeId, int], eligibility: Eligibility
) -> ChainNode:
    node = row.node
    return ChainNode(
        node_id=node.node_id,
        peer_id=node.peer_id,
        node_class=node.node_class,
        start_epoch=int(node.start_epoch),
        queue_place=(places.get(node.node_id, len(places) + 1) if node.is_queued else None),
        stake=row.stake,
        reputation=row.reputation,
        eligibility=eligibility,
    )
