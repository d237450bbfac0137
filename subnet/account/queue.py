"""The nodes that wait to be activated in a subnet, and the first epoch in which each may be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from consensus.types import Epoch, SubnetId
from subnet.account.registration import (
    RegisteredNode,
    fetch_activation_rules,
    parse_registered_node,
)
from subnet.chain.substrate import SubstrateChain

if TYPE_CHECKING:
    from subnet.chain.chain_session import ChainSession


@dataclass(frozen=True, slots=True)
class QueuedNode:
    """A node that waits to be activated.

    ``earliest_epoch`` is the first subnet epoch in which it may become Idle; the nodes in front
    of it and the churn limit may make it later. Where its operator activates it, ``last_epoch`` is
    the last one in which that is possible, else None. From ``removable_from`` on a validator may
    propose to remove it from the queue.
    """

    node: RegisteredNode
    earliest_epoch: Epoch
    last_epoch: Epoch | None
    removable_from: Epoch


async def fetch_queue(chain: SubstrateChain, subnet_id: SubnetId) -> tuple[QueuedNode, ...]:
    """Return the queued nodes of a subnet in the order of its queue, front first."""
    rules = await fetch_activation_rules(chain, subnet_id)

    def work(session: ChainSession) -> tuple[QueuedNode, ...]:
        at = session.read_head_hash()

        def read_setting(name: str) -> int:
            return int(session.read(f"Network.{name}", subnet_id, at=at, default=True))

        waiting = read_setting("SubnetNodeQueueEpochs") + 1 if rules.is_automatic else 0
        immune = read_setting("QueueImmunityEpochs")
        queued = {
            node.node_id: node
            for node in (
                parse_registered_node(record, is_queued=True)
                for _, record in session.read_map(
                    "Network.RegisteredSubnetNodesData", subnet_id, at=at
                )
            )
        }
        order = [
            row["id"] for row in session.read("Network.SubnetNodeQueue", subnet_id, at=at) or []
        ]
        # Where operators activate their nodes there is no order, only who waits.
        nodes = [queued[node_id] for node_id in order or sorted(queued) if node_id in queued]
        return tuple(
            QueuedNode(
                node=node,
                # Activated when the epoch is past start_epoch + SubnetNodeQueueEpochs, or by its
                # operator from start_epoch on.
                earliest_epoch=Epoch(node.start_epoch + waiting),
                last_epoch=None
                if rules.grace_epochs is None
                else Epoch(node.start_epoch + rules.grace_epochs),
                removable_from=Epoch(node.start_epoch + immune),
            )
            for node in nodes
        )

    return await chain.query(work)
