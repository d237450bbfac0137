"""What one epoch of a subnet paid and took, and why a node of it got nothing.

Amounts come from the events of the block that settles the epoch. Who gets nothing is in no event,
so the reasons come from the proposal and from the subnet's share of the emissions: the runtime
weighs subnets by delegated stake among other things, and where the whole chain has none, every
weight is 0 and only proposers are paid, however well the nodes scored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from consensus.types import BlockNumber, Epoch, NodeClass, SubnetId, SubnetNodeId
from subnet.chain import parsing
from subnet.chain.events import ChainEvent, parse_event
from subnet.chain.items import Item
from subnet.chain.substrate import SubstrateChain
from subnet.errors import ConfigError

if TYPE_CHECKING:
    from subnet.chain.chain_session import ChainSession

WEIGHTS_OFFSET = 2
"""The block of a general epoch in which the runtime fixes every subnet's weight."""

ELECTED_AND_AWAY = "elected, and proposed nothing"
NOT_AGREED = "its proposal was attested by too few"
ATTESTED_IN_VAIN = "attested a proposal that too few attested"
ABSENT = "missing in the agreed proposal"
PRESENT = "in the agreed proposal"
BELOW_WEIGHT = "its share of the scores is below the subnet's least"
NOT_ATTESTED = "did not attest the proposal that the others agreed on"
NOT_YET = "nodes are not paid yet"
UNEXPLAINED = "the chain gives no cause"


@dataclass(frozen=True, slots=True)
class Shortfall:
    """Why an epoch paid at most its proposer, and what to do about it."""

    reason: str
    fix: str


@dataclass(frozen=True, slots=True)
class ReputationStep:
    """One change of a node's reputation, 10^18 is one, and what caused it."""

    before: int
    after: int
    cause: str


@dataclass(frozen=True, slots=True)
class ProposerReward:
    """What the proposer's stake got for its agreed proposal. It stands in no event."""

    node_id: SubnetNodeId
    amount: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochRewards:
    """The settlement of ``epoch``, in the first block of the next one.

    ``epoch`` is that of the proposal, which scores the epoch before it. Amounts are units of
    10^-18 TENSOR. ``is_agreed`` is False where there was no proposal, or too few attested it.
    ``slashed`` maps a hotkey to what its stake lost. ``steps`` holds each change of a node's
    reputation. ``nodes`` holds those that were paid; ``unpaid`` says of every other node of the
    proposal's snapshot why it was not. ``shared`` is what went from a node's pay to its delegators
    and its delegate account, beside ``nodes``. The proposer's base reward is not in ``nodes``.
    ``promoted`` maps a node to its new class, ``removed`` are nodes that left the subnet.
    ``moved`` is what its owner added to a hotkey's stake in this block, less what was taken.
    """

    subnet_id: SubnetId
    epoch: Epoch
    block: BlockNumber
    is_agreed: bool
    nodes: Mapping[SubnetNodeId, int]
    delegators: int
    slashed: Mapping[bytes, int]
    steps: Mapping[SubnetNodeId, tuple[ReputationStep, ...]]
    unpaid: Mapping[SubnetNodeId, str]
    shortfall: Shortfall | None
    elected: SubnetNodeId | None = None
    proposer: ProposerReward | None = None
    shared: Mapping[SubnetNodeId, int] = field(default_factory=dict)
    promoted: Mapping[SubnetNodeId, NodeClass] = field(default_factory=dict)
    removed: frozenset[SubnetNodeId] = frozenset()
    moved: Mapping[bytes, int] = field(default_factory=dict)

    @property
    def reputations(self) -> dict[SubnetNodeId, tuple[int, int]]:
        """Each changed reputation before and after the block; 10^18 is one."""
        return {
            node_id: (steps[0].before, steps[-1].after) for node_id, steps in self.steps.items()
        }


async def fetch_rewards(
    chain: SubstrateChain, subnet_id: SubnetId, epoch: Epoch | None = None
) -> EpochRewards:
    """Return how ``epoch`` was settled; None means the last one that was.

    Raises ConfigError while the epoch lasts, ChainUnavailable for a block whose state the
    endpoint no longer keeps.
    """
    length = (await chain.fetch_info()).epoch_length

    def work(session: ChainSession) -> EpochRewards | None:
        header, at = session.read_head()
        names = ("SubnetSlot", "SubnetsData")
        items = [Item(f"Network.{name}", (subnet_id,)) for name in names]
        slot, record = session.read_items(items, at=at)
        if slot is None or record is None:
            return None
        last = (header.number - slot) // length - 1
        wanted = last if epoch is None else epoch
        if not _find_first(record, is_named=epoch is not None) <= wanted <= last:
            return None
        settled = (wanted + 1) * length + slot
        at = session.read_block_hash(settled)
        facts = _read_facts(session, subnet_id, Epoch(wanted), at=at)
        own = [
            event
            for event in facts.events
            if event.pallet == "Network" and _get(event, "subnet_id", 0) == subnet_id
        ]
        collected = _collect(own, subnet_id, Epoch(wanted), BlockNumber(settled))
        return _explain(session, collected, facts, epoch_length=length)

    rewards = await chain.query(work)
    if rewards is None and epoch is None:
        raise ConfigError(f"no epoch of subnet {subnet_id} is settled yet", "ask an epoch later")
    if rewards is None:
        raise ConfigError(f"epoch {epoch} is not settled yet", "ask for an earlier --epoch")
    return rewards


def _find_first(subnet: Mapping[str, Any], *, is_named: bool) -> int:
    """Return the first epoch that may be asked for.

    Epochs pass, and settle nothing, for a subnet that waits to be activated, whose start epoch is
    the largest number there is. Going on after a pause sets it anew: what was settled before can
    be asked for by its number.
    """
    start, state = int(subnet["start_epoch"]), str(subnet["state"])
    return start if state == "Registered" or (state == "Active" and not is_named) else 0


def _collect(
    events: list[ChainEvent], subnet_id: SubnetId, epoch: Epoch, block: BlockNumber
) -> EpochRewards:
    """Return what the events of the settling block say; causes and reasons are added later."""
    nodes: Counter[SubnetNodeId] = Counter()
    shared: Counter[SubnetNodeId] = Counter()
    slashed: Counter[bytes] = Counter()
    moved: Counter[bytes] = Counter()
    steps: dict[SubnetNodeId, list[ReputationStep]] = {}
    promoted: dict[SubnetNodeId, NodeClass] = {}
    removed: set[SubnetNodeId] = set()
    delegators, is_agreed = 0, False
    for event in events:
        match event.name:
            case "SubnetRewards":
                is_agreed = True
                delegators += int(_get(event, "delegate_stake_reward", 2))
                for node_id, amount in _get(event, "node_rewards", 1):
                    nodes[SubnetNodeId(node_id)] += int(amount)
                for node_id, amount in _get(event, "node_delegate_stake_rewards", 3):
                    shared[SubnetNodeId(node_id)] += int(amount)
                for node_id, (_, amount) in _get(event, "node_delegate_account_allocations", 4):
                    shared[SubnetNodeId(node_id)] += int(amount)
            case "Slashing":
                account = parsing.parse_bytes(_get(event, "account_id", 1))
                slashed[account] += int(_get(event, "amount", 2))
            case "StakeAdded" | "StakeRemoved":
                sign = 1 if event.name == "StakeAdded" else -1
                account = parsing.parse_bytes(_get(event, "hotkey", 2))
                moved[account] += sign * int(_get(event, "amount", 3))
            case "NodeReputationUpdate":
                was, now = _get(event, "prev_reputation", 2), _get(event, "new_reputation", 3)
                step = ReputationStep(int(was), int(now), UNEXPLAINED)
                steps.setdefault(_get_node(event), []).append(step)
            case "NodeClassGraduation":
                classification = _get(event, "classification", 2)
                promoted[_get_node(event)] = parsing.parse_class(classification["node_class"])
            case "SubnetNodeRemoved":
                removed.add(_get_node(event))
    return EpochRewards(
        subnet_id=subnet_id,
        epoch=epoch,
        block=block,
        is_agreed=is_agreed,
        nodes=dict(nodes),
        delegators=delegators,
        slashed=dict(slashed),
        steps={node_id: tuple(found) for node_id, found in steps.items()},
        unpaid={},
        shortfall=None,
        shared=dict(shared),
        promoted=promoted,
        removed=frozenset(removed),
        moved=dict(moved),
    )


@dataclass(frozen=True, slots=True)
class _Facts:
    """The state of the block that settled an epoch, and its events. Shares have 10^18 as one."""

    submission: Mapping[str, Any] | None
    elected: int | None
    super_majority: int
    base_reward: int
    min_attestation: int
    events: tuple[ChainEvent, ...]


def _read_facts(session: ChainSession, subnet_id: SubnetId, epoch: Epoch, *, at: str) -> _Facts:
    """Read them with one request. ``at`` is the block's hash."""
    submission, elected, most, base, least, records = session.read_items(
        [
            Item("Network.SubnetConsensusSubmission", (subnet_id, epoch)),
            Item("Network.SubnetElectedValidator", (subnet_id, epoch)),
            Item("Network.SuperMajorityAttestationRatio", default=True),
            Item("Network.BaseValidatorReward", default=True),
            Item("Network.MinAttestationPercentage", default=True),
            Item("System.Events"),
        ],
        at=at,
    )
    events = tuple(parse_event(record)[1] for record in records or ())
    return _Facts(submission, elected, int(most), int(base), int(least), events)


def _explain(
    session: ChainSession, paid: EpochRewards, facts: _Facts, *, epoch_length: int
) -> EpochRewards:
    """Add why nodes got nothing."""
    record, elected, most = facts.submission, facts.elected, facts.super_majority
    base, least = facts.base_reward, facts.min_attestation
    paid = replace(
        paid,
        elected=None if elected is None else SubnetNodeId(elected),
        steps={
            node_id: _name_causes(record, paid, node_id, super_majority=int(most))
            for node_id in paid.steps
        },
    )
    if record is None:
        reason = "nothing was proposed in this epoch"
        return replace(
            paid, shortfall=Shortfall(reason, "run every node with its --hotkey-path, all the time")
        )
    if paid.is_agreed:
        shortfall = _explain_weight(session, paid, epoch_length=epoch_length)
        proposer = ProposerReward(
            SubnetNodeId(record["validator_id"]),
            int(base) * int(record["validator_reward_factor"]) // 10**18,
        )
        paid = replace(paid, proposer=proposer)
    else:
        validators = _count_validators(record)
        shortfall = Shortfall(
            f"{len(record['attests'])} of {validators} validators attested the proposal,"
            f" and {least * 100 // 10**18} % are needed",
            f"`mesh chain submission --epoch {paid.epoch}` shows who did;"
            " look at the logs of the others",
        )
    return replace(paid, unpaid=_list_unpaid(record, paid), shortfall=shortfall)


def _name_causes(
    record: Mapping[str, Any] | None,
    paid: EpochRewards,
    node_id: SubnetNodeId,
    *,
    super_majority: int,
) -> tuple[ReputationStep, ...]:
    """Return the steps with their causes. The runtime takes them in the order of the events."""
    steps = paid.steps[node_id]
    num_falls = sum(step.after <= step.before for step in steps)
    falls = iter(_list_falls(record, paid, node_id, num_falls, super_majority=super_majority))
    return tuple(
        replace(step, cause=PRESENT if step.after > step.before else next(falls, UNEXPLAINED))
        for step in steps
    )


def _list_falls(
    record: Mapping[str, Any] | None,
    paid: EpochRewards,
    node_id: SubnetNodeId,
    num_falls: int,
    *,
    super_majority: int,
) -> list[str]:
    """Return why the runtime lowered this node's reputation ``num_falls`` times, in order."""
    if record is None:
        return [ELECTED_AND_AWAY]
    attested = {found for found, _ in record["attests"]}
    if not paid.is_agreed:
        own = [NOT_AGREED] if node_id == record["validator_id"] else []
        return own + [ATTESTED_IN_VAIN] * (node_id in attested)
    if node_id not in {row["subnet_node_id"] for row in record["data"]}:
        return [ABSENT]
    needed = _count_validators(record) * super_majority
    is_fined = node_id not in attested and len(attested) * 10**18 >= needed
    return [BELOW_WEIGHT] * (num_falls - is_fined) + [NOT_ATTESTED] * is_fined


def _count_validators(record: Mapping[str, Any]) -> int:
    return sum(_get_class(node) is NodeClass.VALIDATOR for node in record["subnet_nodes"])


def _explain_weight(
    session: ChainSession, paid: EpochRewards, *, epoch_length: int
) -> Shortfall | None:
    """Return why the subnet's share of the emissions was nothing; None if it got some."""
    general_epoch = paid.block // epoch_length
    at = session.read_block_hash(general_epoch * epoch_length + WEIGHTS_OFFSET)
    record, delegated = session.read_items(
        [
            Item("Network.FinalSubnetEmissionWeights", (general_epoch,)),
            Item("Network.TotalDelegateStake", default=True),
        ],
        at=at,
    )
    if record is not None and dict(record["weights"]).get(paid.subnet_id):
        return None
    fix = f"`mesh chain delegate --subnet {paid.subnet_id} --amount 50`, from any account"
    if delegated:
        return Shortfall("the subnet's share of the emissions was 0", fix)
    return Shortfall(
        "no stake was delegated on this chain, so the weight of every subnet was 0", fix
    )


def _list_unpaid(record: Mapping[str, Any], paid: EpochRewards) -> dict[SubnetNodeId, str]:
    scores = {row["subnet_node_id"]: row["score"] for row in reversed(record["data"])}
    unpaid = {}
    for node in record["subnet_nodes"]:
        node_id = SubnetNodeId(node["id"])
        node_class = _get_class(node)
        if node_id in paid.nodes:
            continue
        if node_class is not NodeClass.VALIDATOR:
            unpaid[node_id] = f"{node_class.name.capitalize()} {NOT_YET}"
        elif node_id not in scores:
            unpaid[node_id] = "it is not in the proposal"
        elif not scores[node_id]:
            unpaid[node_id] = "its score is 0"
        else:
            unpaid[node_id] = "its share of what the epoch paid to nodes is 0"
    return unpaid


def _get_class(node: Mapping[str, Any]) -> NodeClass:
    """Return the class of a node of the proposal's snapshot."""
    return parsing.parse_class(node["classification"]["node_class"])


def _get_node(event: ChainEvent) -> SubnetNodeId:
    return SubnetNodeId(_get(event, "subnet_node_id", 1))


def _get(event: ChainEvent, name: str, position: int) -> Any:
    """Return a field by its name, or by position in an event whose fields have none."""
    return event.fields.get(name, event.fields.get(str(position)))
