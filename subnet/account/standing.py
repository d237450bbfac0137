"""Where one node stands on the chain now: its class, what it waits for, what it may earn next.

``fetch_standing`` reads; the rest decides, so that ``mesh earnings``, the running node and its
status file say the same of the same facts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from consensus.types import (
    BlockNumber,
    Epoch,
    NodeClass,
    SubnetId,
    SubnetNodeId,
    compute_epoch_position,
)
from subnet.account.eligibility import (
    ONE,
    Eligibility,
    NodeOnChain,
    Obstacle,
    judge_eligibility,
)
from subnet.account.registration import (
    ActivationRules,
    RegisteredNode,
    find_registered_node,
    list_activation_items,
    make_activation_rules,
)
from subnet.chain.items import Item
from subnet.chain.substrate import SubstrateChain
from subnet.errors import ConfigError, UnknownSubnet

if TYPE_CHECKING:
    from subnet.chain.chain_session import ChainSession

MAX_NAMED_NODES = 16
"""Ids that an error message lists."""
_WAITS = (
    Obstacle.SUBNET_INACTIVE,
    Obstacle.QUEUED,
    Obstacle.REGISTERED,
    Obstacle.IDLE,
    Obstacle.INCLUDED,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One node at ``head``. Amounts are units of 10^-18 TENSOR, reputations have 10^18 as one.

    ``epoch`` is the subnet's present one, ``epoch_s`` its length in seconds; ``started_at`` is the
    general epoch from which the subnet is paid. ``queue_place`` counts from one, None outside the
    queue. ``idle_left`` and ``included_left`` are the agreed epochs that are missing for the next
    class. ``num_electable`` nodes may be elected, ``elected`` is it in the present epoch.
    ``fall`` is what an epoch outside the agreed proposal takes of the reputation.
    """

    head: BlockNumber
    epoch: Epoch
    epoch_s: float
    subnet_id: SubnetId
    subnet_state: str
    started_at: int
    node: RegisteredNode
    stake: int
    reputation: int
    min_reputation: int
    fall: int
    hotkey_balance: int
    rules: ActivationRules
    queue_place: int | None
    queue_epochs: int
    churn_limit: int
    idle_left: int
    included_left: int
    num_electable: int
    elected: SubnetNodeId | None

    @property
    def class_name(self) -> str:
        """The node's class as the pallet spells it; Queued while it waits."""
        return "Queued" if self.node.is_queued else self.node.node_class.name.capitalize()


async def fetch_standing(
    chain: SubstrateChain, subnet_id: SubnetId, node_id: SubnetNodeId
) -> Standing:
    """Return where the node stands at the head.

    Raises UnknownSubnet, ConfigError for a node that the subnet does not have, ChainUnavailable.
    """
    epoch_length = (await chain.fetch_info()).epoch_length

    def work(session: ChainSession) -> Standing | tuple[int, ...] | None:
        header, at = session.read_head()
        facts = _read_facts(session, subnet_id, node_id, at=at)
        if facts["SubnetsData"] is None:
            return None
        node = find_registered_node(facts["SubnetNodesData"], facts["RegisteredSubnetNodesData"])
        if node is None:
            rows = session.read_map("Network.SubnetNodesData", subnet_id, at=at)
            return tuple(sorted(int(record["id"]) for _, record in rows))
        return _read_standing(
            session, facts, node, head=header.number, at=at, epoch_length=epoch_length
        )

    found = await chain.query(work)
    if found is None:
        raise UnknownSubnet(f"the chain has no subnet {subnet_id}")
    if isinstance(found, tuple):
        known = ", ".join(map(str, found[:MAX_NAMED_NODES])) or "none"
        raise ConfigError(
            f"subnet {subnet_id} has no node {node_id}",
            f"name one of its nodes: {known}",
        )
    return found


_OF_SUBNET = (
    "AbsentDecreaseReputationFactor",
    "ChurnLimit",
    "IdleClassificationEpochs",
    "IncludedClassificationEpochs",
    "MinSubnetNodeReputation",
    "SubnetNodeQueueEpochs",
    "TotalSubnetElectableNodes",
)
_OF_NODE = (
    "SubnetNodeConsecutiveIncludedEpochs",
    "SubnetNodeIdleConsecutiveEpochs",
    "SubnetNodeReputation",
)
_RECORDS = ("SubnetNodesData", "RegisteredSubnetNodesData")


def _read_facts(
    session: ChainSession, subnet_id: SubnetId, node_id: SubnetNodeId, *, at: str
) -> dict[str, Any]:
    """Return everything that subnet and node alone name, by the item's name; one request."""
    items = [
        *(Item(f"Network.{name}", (subnet_id,)) for name in ("SubnetsData", "SubnetSlot")),
        *(Item(f"Network.{name}", (subnet_id, node_id)) for name in _RECORDS),
        *(Item(f"Network.{name}", (subnet_id,), default=True) for name in _OF_SUBNET),
        *(Item(f"Network.{name}", (subnet_id, node_id), default=True) for name in _OF_NODE),
        *list_activation_items(session, subnet_id),
    ]
    values = session.read_items(items, at=at)
    return {item.name.partition(".")[2]: value for item, value in zip(items, values, strict=True)}


def _read_standing(
    session: ChainSession,
    facts: dict[str, Any],
    node: RegisteredNode,
    *,
    head: int,
    at: str,
    epoch_length: int,
) -> Standing:
    """Return the standing; one request more, for what node and epoch name."""
    subnet = facts["SubnetsData"]
    subnet_id, hotkey = int(subnet["id"]), f"0x{node.hotkey.hex()}"
    position = compute_epoch_position(
        BlockNumber(head), slot=facts["SubnetSlot"] or 0, epoch_length=epoch_length
    )
    elected, account, stake, queue = session.read_items(
        [
            Item("Network.SubnetElectedValidator", (subnet_id, position.epoch)),
            Item("System.Account", (hotkey,), default=True),
            Item("Network.AccountSubnetStake", (hotkey, subnet_id), default=True),
            Item("Network.SubnetNodeQueue", (subnet_id,)),
        ],
        at=at,
    )
    places = [int(row["id"]) for row in queue or ()] if node.is_queued else []
    idle = included = 0
    if node.node_class is NodeClass.IDLE:
        idle = int(facts["SubnetNodeIdleConsecutiveEpochs"])
    if node.node_class is NodeClass.INCLUDED:
        included = int(facts["SubnetNodeConsecutiveIncludedEpochs"])
    return Standing(
        head=BlockNumber(head),
        epoch=position.epoch,
        epoch_s=epoch_length * session.block_time_ms / 1000,
        subnet_id=SubnetId(subnet_id),
        subnet_state=str(subnet["state"]),
        started_at=int(subnet["start_epoch"]),
        node=node,
        stake=int(stake),
        reputation=int(facts["SubnetNodeReputation"]),
        min_reputation=int(facts["MinSubnetNodeReputation"]),
        fall=int(facts["AbsentDecreaseReputationFactor"]),
        hotkey_balance=int(account["data"]["free"]),
        rules=make_activation_rules(session, facts.get("ActivationGraceEpochs")),
        queue_place=places.index(node.node_id) + 1 if node.node_id in places else None,
        queue_epochs=int(facts["SubnetNodeQueueEpochs"]),
        churn_limit=max(1, int(facts["ChurnLimit"])),
        idle_left=max(1, int(facts["IdleClassificationEpochs"]) - idle),
        included_left=max(1, int(facts["IncludedClassificationEpochs"]) - included),
        num_electable=int(facts["TotalSubnetElectableNodes"]),
        elected=None if elected is None else SubnetNodeId(elected),
    )


def describe_next_class(standing: Standing) -> str:
    """Return what the node is, and what it waits for, as one sentence."""
    node = standing.node
    if standing.subnet_state == "Registered":
        return f"{standing.class_name} of a subnet that waits for its owner's activate-subnet"
    if node.is_queued:
        return f"Queued: {_describe_queue(standing)}"
    match node.node_class:
        case NodeClass.IDLE:
            return (
                f"Idle since epoch {node.start_epoch}: Included after {standing.idle_left} more"
                f" agreed epochs, in epoch {standing.epoch + standing.idle_left} at the earliest"
            )
        case NodeClass.INCLUDED:
            low = standing.reputation < ONE
            needs = f", and a reputation of 1 (now {standing.reputation / ONE:.3f})" if low else ""
            return (
                f"Included since epoch {node.start_epoch}: Validator after"
                f" {standing.included_left} more agreed epochs with its row in the proposal{needs},"
                f" in epoch {standing.epoch + standing.included_left} at the earliest"
            )
        case NodeClass.VALIDATOR:
            return f"Validator since epoch {node.start_epoch}: the highest class"
    return f"{standing.class_name}: not activated yet; {_describe_activation(standing)}"


def _describe_queue(standing: Standing) -> str:
    if not standing.rules.is_automatic:
        return _describe_activation(standing)
    place = standing.queue_place or 1
    ready = max(standing.node.start_epoch + standing.queue_epochs + 1, standing.epoch + 1)
    epoch = ready + (place - 1) // standing.churn_limit
    return f"place {place} in the queue, activated by the chain in epoch {epoch} at the earliest"


def _describe_activation(standing: Standing) -> str:
    first, grace = standing.node.start_epoch, standing.rules.grace_epochs
    window = f"from epoch {first} on" if grace is None else f"in epochs {first} to {first + grace}"
    return f"waits for `mesh chain activate-node`, {window}"


def check_eligibility(standing: Standing, *, unable: str | None = None) -> Eligibility:
    """Return whether the node can be elected, attest and be paid in the next epoch.

    ``unable`` is why the process on this machine could not do it, if it knows a reason.
    """
    node = standing.node
    found = judge_eligibility(
        NodeOnChain(
            epoch=standing.epoch,
            subnet_state=standing.subnet_state,
            node_class=node.node_class,
            is_queued=node.is_queued,
            start_epoch=node.start_epoch,
            reputation=standing.reputation,
            min_reputation=standing.min_reputation,
            hotkey_balance=standing.hotkey_balance,
        )
    )
    if found.obstacle in _WAITS:
        return replace(found, reason=describe_next_class(standing))
    if found.obstacle is None and unable is not None:
        return replace(found, obstacle=Obstacle.PROCESS, reason=unable)
    return found
