"""Rewards and penalties for an epoch's submission, applied at the next epoch's slot block."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from consensus.types import NodeClass
from devchain import events, storage
from devchain.balances import deposit, increase_stake
from devchain.chain_types import ONE, ConsensusData, SubnetNode, SubnetState
from devchain.emergency_validators import count_submission
from devchain.fixed_point import (
    MAX_U128,
    decrease_reputation,
    increase_reputation,
    percent_div,
    percent_mul,
)
from devchain.nodes import graduate, insert_election_slot, remove_node
from devchain.runtime import Runtime
from devchain.stake_pools import add_rewards, node_pool, subnet_pool
from devchain.state import Item


@dataclass(frozen=True)
class Pot:
    """One subnet's units for one epoch."""

    owner: int
    delegators: int
    nodes: int


@dataclass(frozen=True)
class Agreement:
    """A submission that enough attested. ``emergency`` None: no emergency set exists."""

    submission: ConsensusData
    ratio: int
    pot: Pot
    emergency: frozenset[int] | None


@dataclass
class Paid:
    """What nodes, their delegators and their delegate accounts got, for the event."""

    nodes: list[tuple[int, int]] = field(default_factory=list)
    delegators: list[tuple[int, int]] = field(default_factory=list)
    accounts: list[tuple[int, tuple[bytes, int]]] = field(default_factory=list)


def settle_epoch(
    runtime: Runtime, subnet_id: int, *, epoch: int, emissions: int, weight: int
) -> None:
    """Pay or penalise the subnet for subnet epoch ``epoch``.

    ``emissions`` are the units of all subnets' validators, ``weight`` this subnet's share.
    """
    submission = runtime.state.find(storage.SUBNET_CONSENSUS_SUBMISSION, subnet_id, epoch)
    if submission is None:
        penalise_absence(runtime, subnet_id, epoch)
        return
    ratio = compute_ratio(runtime, subnet_id, submission, epoch)
    emergency = count_submission(runtime, subnet_id)
    if ratio < runtime.state.get(storage.MIN_ATTESTATION_PERCENTAGE):
        punish_disagreement(runtime, subnet_id, submission, ratio)
    else:
        pot = divide_emissions(runtime, subnet_id, percent_mul(emissions, weight))
        agreement = Agreement(submission, ratio, pot, emergency)
        reward_agreement(runtime, subnet_id, agreement)


def compute_ratio(runtime: Runtime, subnet_id: int, submission: ConsensusData, epoch: int) -> int:
    """Return attestations over nodes that could attest, at most 1.0.

    Those are the Validator-class nodes of the snapshot, or the emergency set.
    """
    emergency = runtime.state.find(storage.EMERGENCY_SUBNET_NODE_ELECTION_DATA, subnet_id)
    validators = sum(node.has_class(NodeClass.VALIDATOR, epoch) for node in submission.subnet_nodes)
    if emergency is not None:
        validators = len(emergency.subnet_node_ids)
    return min(percent_div(len(submission.attests), validators), ONE)


def divide_emissions(runtime: Runtime, subnet_id: int, total: int) -> Pot:
    """Split a subnet's units between its owner, its delegators and its nodes."""
    state = runtime.state
    owner = percent_mul(total, state.get(storage.SUBNET_OWNER_PERCENTAGE))
    share = state.get(storage.SUBNET_DELEGATE_STAKE_REWARDS_PERCENTAGE, subnet_id)
    delegators = percent_mul(total - owner, share)
    return Pot(owner, delegators, total - owner - delegators)


def penalise_absence(runtime: Runtime, subnet_id: int, epoch: int) -> None:
    """Lower an active subnet and its elected validator, which proposed nothing."""
    state = runtime.state
    subnet = state.find(storage.SUBNETS_DATA, subnet_id)
    elected = state.find(storage.SUBNET_ELECTED_VALIDATOR, subnet_id, epoch)
    if subnet is None or subnet.state is not SubnetState.ACTIVE or elected is None:
        return
    if subnet.start_epoch > runtime.general_epoch:
        return
    factor = state.get(storage.VALIDATOR_ABSENT_SUBNET_REPUTATION_FACTOR)
    reputation = decrease_reputation(state.get(storage.SUBNET_REPUTATION, subnet_id), factor)
    state.put(storage.SUBNET_REPUTATION, subnet_id, value=reputation)
    lower_node(runtime, subnet_id, elected, state.get(storage.VALIDATOR_ABSENT_DECREASE, subnet_id))


def lower_node(runtime: Runtime, subnet_id: int, node_id: int, factor: int) -> int:
    """Take ``factor`` of a node's reputation; return what is left."""
    before = runtime.state.get(storage.SUBNET_NODE_REPUTATION, subnet_id, node_id)
    after = decrease_reputation(before, factor)
    runtime.state.put(storage.SUBNET_NODE_REPUTATION, subnet_id, node_id, value=after)
    runtime.emit(events.NodeReputationUpdate(subnet_id, node_id, before, after))
    return after


def raise_node(runtime: Runtime, subnet_id: int, node_id: int, factor: int) -> int:
    """Give a node back ``factor`` of the reputation that it lacks; return the result."""
    state = runtime.state
    before = state.get(storage.SUBNET_NODE_REPUTATION, subnet_id, node_id)
    after = increase_reputation(before, factor)
    if state.contains(storage.SUBNET_NODE_REPUTATION, subnet_id, node_id):
        state.put(storage.SUBNET_NODE_REPUTATION, subnet_id, node_id, value=after)
        runtime.emit(events.NodeReputationUpdate(subnet_id, node_id, before, after))
    return after


def punish_disagreement(
    runtime: Runtime, subnet_id: int, submission: ConsensusData, ratio: int
) -> None:
    """Slash the proposer, and lower the subnet and all attestors: too few attested."""
    state = runtime.state
    shortfall = ONE - percent_div(ratio, state.get(storage.MIN_ATTESTATION_PERCENTAGE))
    slash_proposer(runtime, subnet_id, submission.validator_id, ratio, shortfall)
    before = state.get(storage.SUBNET_REPUTATION, subnet_id)
    factor = state.get(storage.NOT_IN_CONSENSUS_SUBNET_REPUTATION_FACTOR)
    after = decrease_reputation(before, factor)
    state.put(storage.SUBNET_REPUTATION, subnet_id, value=after)
    runtime.emit(events.SubnetReputationUpdate(subnet_id, before, after))
    loss = percent_mul(state.get(storage.NON_CONSENSUS_ATTESTOR_DECREASE, subnet_id), shortfall)
    minimum = state.get(storage.MIN_SUBNET_NODE_REPUTATION, subnet_id)
    for node_id in sorted(submission.attests):
        is_there = state.contains(storage.SUBNET_NODE_ID_HOTKEY, subnet_id, node_id)
        if is_there and lower_node(runtime, subnet_id, node_id, loss) < minimum:
            remove_node(runtime, subnet_id, node_id)


def slash_proposer(
    runtime: Runtime, subnet_id: int, node_id: int, ratio: int, shortfall: int
) -> None:
    """Burn part of the proposer's stake: stake * 3.125 % * shortfall, at most 1 TENSOR."""
    state = runtime.state
    hotkey = state.find(storage.SUBNET_NODE_ID_HOTKEY, subnet_id, node_id)
    if hotkey is None:
        return
    stake = state.get(storage.ACCOUNT_SUBNET_STAKE, hotkey, subnet_id)
    base = percent_mul(stake, state.get(storage.BASE_SLASH_PERCENTAGE))
    amount = min(percent_mul(base, shortfall), state.get(storage.MAX_SLASH_AMOUNT))
    if amount:
        increase_stake(runtime, hotkey, subnet_id, -amount)
    loss = percent_mul(state.get(storage.VALIDATOR_NON_CONSENSUS_DECREASE, subnet_id), shortfall)
    reputation = lower_node(runtime, subnet_id, node_id, loss)
    adjust_coldkey(runtime, state.get(storage.HOTKEY_OWNER, hotkey), ratio)
    if reputation < state.get(storage.MIN_SUBNET_NODE_REPUTATION, subnet_id):
        remove_node(runtime, subnet_id, node_id)
    runtime.emit(events.Slashing(subnet_id, hotkey, amount))


def adjust_coldkey(runtime: Runtime, coldkey: bytes, ratio: int) -> None:
    """Move the coldkey's standing after its node proposed.

    The runtime multiplies in saturating 128 bits, so the step is all but a constant.
    """
    state = runtime.state
    if not state.contains(storage.COLDKEY_REPUTATION, coldkey):
        return
    minimum = state.get(storage.MIN_ATTESTATION_PERCENTAGE)
    reputation = state.get(storage.COLDKEY_REPUTATION, coldkey)
    rises = ratio >= minimum
    weight = state.get(
        storage.COLDKEY_REPUTATION_INCREASE_FACTOR
        if rises
        else storage.COLDKEY_REPUTATION_DECREASE_FACTOR
    )
    scarcity = min(ONE * ONE, MAX_U128) // (reputation.score + 1)
    product = min(min(abs(ratio - minimum) * weight, MAX_U128) * scarcity, MAX_U128)
    step = product // ONE // ONE
    score = min(max(reputation.score + (step if rises else -step), 0), ONE)
    if score == reputation.score:
        return
    changes = reputation.total_increases + reputation.total_decreases
    average = (reputation.average_attestation * changes + ratio) // (changes + 1)
    updated = replace(
        reputation,
        score=score,
        total_increases=reputation.total_increases + rises,
        total_decreases=reputation.total_decreases + (not rises),
        last_validator_epoch=runtime.general_epoch,
        start_epoch=reputation.start_epoch or runtime.general_epoch,
        average_attestation=average,
    )
    state.put(storage.COLDKEY_REPUTATION, coldkey, value=updated)


def reward_agreement(runtime: Runtime, subnet_id: int, agreement: Agreement) -> None:
    """Pay the proposer, the owner, the nodes and the delegators: enough attested."""
    state, submission, pot = runtime.state, agreement.submission, agreement.pot
    pay_proposer(runtime, subnet_id, submission, agreement.ratio)
    if is_super_majority(runtime, agreement):
        apply_queue_decisions(runtime, subnet_id, submission)
    restore_subnet(runtime, subnet_id, submission)
    owner = state.find(storage.SUBNET_OWNER, subnet_id)
    if owner is not None:
        deposit(runtime, owner, pot.owner)
    paid = Paid()
    for node in submission.subnet_nodes:
        amount = settle_node(runtime, subnet_id, node, agreement)
        if amount:
            pay_node(runtime, subnet_id, node, amount, paid)
    add_rewards(runtime, subnet_pool(subnet_id), pot.delegators)
    runtime.emit(
        events.SubnetRewards(
            subnet_id,
            tuple(paid.nodes),
            pot.delegators,
            tuple(paid.delegators),
            tuple(paid.accounts),
        )
    )


def is_super_majority(runtime: Runtime, agreement: Agreement) -> bool:
    """Whether enough attested to change the queue and to penalise the others."""
    return agreement.ratio >= runtime.state.get(storage.SUPER_MAJORITY_ATTESTATION_RATIO)


def pay_proposer(runtime: Runtime, subnet_id: int, submission: ConsensusData, ratio: int) -> None:
    """Add the base reward, times how early the proposal came, to the proposer's stake."""
    state = runtime.state
    hotkey = state.find(storage.SUBNET_NODE_ID_HOTKEY, subnet_id, submission.validator_id)
    if hotkey is None:
        return
    adjust_coldkey(runtime, state.get(storage.HOTKEY_OWNER, hotkey), ratio)
    base = state.get(storage.BASE_VALIDATOR_REWARD)
    reward = percent_mul(base, submission.validator_reward_factor)
    increase_stake(runtime, hotkey, subnet_id, reward)


def apply_queue_decisions(runtime: Runtime, subnet_id: int, submission: ConsensusData) -> None:
    """Move one queued node to the front and drop another, as a super-majority wanted."""
    state = runtime.state
    queue = state.get(storage.SUBNET_NODE_QUEUE, subnet_id)
    wanted = submission.prioritize_queue_node_id
    first = tuple(node for node in queue if node.id == wanted)
    if wanted is not None and first:
        rest = tuple(node for node in queue if node.id != wanted)
        state.put(storage.SUBNET_NODE_QUEUE, subnet_id, value=first + rest)
        runtime.emit(events.QueuedNodePrioritized(subnet_id, wanted))
    removed = submission.remove_queue_node_id
    if removed is not None and state.contains(
        storage.REGISTERED_SUBNET_NODES_DATA, subnet_id, removed
    ):
        remove_node(runtime, subnet_id, removed)
        runtime.emit(events.QueuedNodeRemoved(subnet_id, removed))


def restore_subnet(runtime: Runtime, subnet_id: int, submission: ConsensusData) -> None:
    """Give the subnet some of its reputation back."""
    state = runtime.state
    reputation = state.get(storage.SUBNET_REPUTATION, subnet_id)
    if reputation == ONE or len(submission.data) < state.get(storage.MIN_SUBNET_NODES):
        return
    factor = state.get(storage.IN_CONSENSUS_SUBNET_REPUTATION_FACTOR)
    restored = increase_reputation(reputation, factor)
    state.put(storage.SUBNET_REPUTATION, subnet_id, value=restored)


def settle_node(runtime: Runtime, subnet_id: int, node: SubnetNode, agreement: Agreement) -> int:
    """Promote, penalise or reward one node of the snapshot; return the units it is paid.

    Seen in the real runtime and kept: while an emergency set exists no node is promoted, Idle nodes
    count as absent, and Included nodes are paid.
    """
    state, submission = runtime.state, agreement.submission
    minimum = state.get(storage.MIN_SUBNET_NODE_REPUTATION, subnet_id)
    reputation = state.get(storage.SUBNET_NODE_REPUTATION, subnet_id, node.id)
    if reputation < minimum:
        remove_node(runtime, subnet_id, node.id)
        return 0
    node_class = node.classification.node_class
    if node_class is NodeClass.IDLE and agreement.emergency is None:
        promote_idle(runtime, subnet_id, node.id)
        return 0
    row = next((row for row in submission.data if row.subnet_node_id == node.id), None)
    if row is None:
        penalise_missing(runtime, subnet_id, node)
        return 0
    if reputation != ONE:
        factor = state.get(storage.INCLUDED_INCREASE, subnet_id)
        reputation = raise_node(runtime, subnet_id, node.id, factor)
    weight = percent_div(row.score, sum(row.score for row in submission.data))
    if weight < state.get(storage.NODE_MIN_WEIGHT_THRESHOLD, subnet_id):
        factor = state.get(storage.BELOW_MIN_WEIGHT_DECREASE, subnet_id)
        reputation = lower_node(runtime, subnet_id, node.id, factor)
    if node_class is NodeClass.INCLUDED and agreement.emergency is None:
        promote_included(runtime, subnet_id, node.id, reputation)
        return 0
    could_attest = agreement.emergency is None or node.id in agreement.emergency
    entry = submission.attests.get(node.id) if could_attest else None
    if entry is None and could_attest and is_super_majority(runtime, agreement):
        factor = state.get(storage.NON_ATTESTOR_DECREASE, subnet_id)
        reputation = lower_node(runtime, subnet_id, node.id, factor)
    if reputation < minimum:
        remove_node(runtime, subnet_id, node.id)
        return 0
    reward_factor = ONE if entry is None else entry.reward_factor
    return percent_mul(percent_mul(weight, agreement.pot.nodes), reward_factor)


def promote_idle(runtime: Runtime, subnet_id: int, node_id: int) -> None:
    """Count an epoch as Idle; enough of them make the node Included."""
    count = _count_epoch(runtime, storage.IDLE_CONSECUTIVE_EPOCHS, subnet_id, node_id)
    if count >= runtime.state.get(storage.IDLE_CLASSIFICATION_EPOCHS, subnet_id):
        graduate(runtime, subnet_id, node_id)


def promote_included(runtime: Runtime, subnet_id: int, node_id: int, reputation: int) -> None:
    """Count an epoch in the data; enough of them at full reputation make a Validator."""
    state = runtime.state
    count = _count_epoch(runtime, storage.CONSECUTIVE_INCLUDED_EPOCHS, subnet_id, node_id)
    enough = count >= state.get(storage.INCLUDED_CLASSIFICATION_EPOCHS, subnet_id)
    if enough and reputation >= ONE and graduate(runtime, subnet_id, node_id):
        insert_election_slot(runtime, subnet_id, node_id)
        state.remove(storage.CONSECUTIVE_INCLUDED_EPOCHS, subnet_id, node_id)


def _count_epoch(runtime: Runtime, item: Item[int], subnet_id: int, node_id: int) -> int:
    runtime.state.add(item, subnet_id, node_id, amount=1)
    return runtime.state.get(item, subnet_id, node_id)


def penalise_missing(runtime: Runtime, subnet_id: int, node: SubnetNode) -> None:
    """Lower a node that is missing in the agreed data."""
    state = runtime.state
    lower_node(runtime, subnet_id, node.id, state.get(storage.ABSENT_DECREASE, subnet_id))
    if node.classification.node_class is NodeClass.INCLUDED:
        state.put(storage.CONSECUTIVE_INCLUDED_EPOCHS, subnet_id, node.id, value=0)


def pay_node(runtime: Runtime, subnet_id: int, node: SubnetNode, amount: int, paid: Paid) -> None:
    """Share a node's reward with its delegators and its delegate account; stake the rest."""
    pool = node_pool(subnet_id, node.id)
    if node.delegate_reward_rate and runtime.state.get(pool.shares, *pool.key):
        share = percent_mul(amount, node.delegate_reward_rate)
        amount -= share
        add_rewards(runtime, pool, share)
        paid.delegators.append((node.id, share))
    delegate = node.delegate_account
    if delegate is not None:
        share = percent_mul(amount, delegate.rate)
        amount -= share
        runtime.state.add(storage.ACCOUNT_DELEGATE_STAKE, delegate.account_id, amount=share)
        runtime.state.add(storage.TOTAL_ACCOUNT_DELEGATE_STAKE, amount=share)
        paid.accounts.append((node.id, (delegate.account_id, share)))
    # The snapshot's hotkey is paid, even if the node has another one by now.
    increase_stake(runtime, node.hotkey, subnet_id, amount)
    paid.nodes.append((node.id, amount))
