"""Registration, activation, regular checks and removal of subnets."""

from __future__ import annotations

import math
from dataclasses import replace

from devchain import calls, events, storage
from devchain.addresses import check_multiaddr, is_peer_id
from devchain.balances import can_withdraw, transfer
from devchain.chain_types import (
    ONE,
    RegistrationSubnetData,
    SubnetData,
    SubnetRemovalReason,
    SubnetState,
)
from devchain.errors import ensure, fail
from devchain.fixed_point import decrease_reputation, percent_div, percent_mul, to_float
from devchain.nodes import clean_subnet_nodes
from devchain.registration_periods import is_enactment_over, is_in_enactment
from devchain.runtime import DESIGNATED_EPOCH_SLOTS, TREASURY_ACCOUNT, Runtime
from devchain.state import Item, StateReader

NEVER = 2**32 - 1


def register_subnet(runtime: Runtime, origin: bytes, call: calls.RegisterSubnet) -> None:
    """Buy a slot and become its owner."""
    check_registration(runtime, call.subnet_data)
    pay_registration(runtime, origin, max_cost=call.max_cost)
    subnet_id = runtime.state.get(storage.TOTAL_SUBNET_UIDS) + 1
    runtime.state.put(storage.TOTAL_SUBNET_UIDS, value=subnet_id)
    slot = assign_slot(runtime, subnet_id)
    store_subnet(runtime, call.subnet_data, subnet_id=subnet_id, slot=slot, owner=origin)
    runtime.emit(events.SubnetRegistered(origin, call.subnet_data.name, subnet_id))


def check_registration(runtime: Runtime, data: RegistrationSubnetData) -> None:
    """Check what the pallet checks, in the same order."""
    state = runtime.state
    ensure(not state.contains(storage.SUBNET_NAME, data.name), "SubnetNameExist")
    total = sum(1 for _ in state.items(storage.SUBNETS_DATA))
    ensure(total < state.get(storage.MAX_SUBNETS) + 1, "MaxSubnets")
    ensure(not state.contains(storage.SUBNET_REPO, data.repo), "SubnetRepoExist")
    ensure(bool(data.bootnodes), "BootnodesEmpty")
    ensure(len(data.bootnodes) <= state.get(storage.MAX_BOOTNODES), "TooManyBootnodes")
    for peer_id, multiaddr in sorted(data.bootnodes.items()):
        check_multiaddr(multiaddr)
        ensure(is_peer_id(peer_id), "InvalidBootnodePeerId")
    _check_stake_limits(runtime, data)
    low = state.get(storage.MIN_DELEGATE_STAKE_PERCENTAGE)
    high = state.get(storage.MAX_DELEGATE_STAKE_PERCENTAGE)
    ensure(low <= data.delegate_stake_percentage <= high, "InvalidMinDelegateStakePercentage")
    coldkeys = data.initial_coldkeys
    enough = len(coldkeys) >= state.get(storage.MIN_SUBNET_NODES)
    ensure(
        enough and all(count >= 1 for count in coldkeys.values()),
        "InvalidSubnetRegistrationInitialColdkeys",
    )


def _check_stake_limits(runtime: Runtime, data: RegistrationSubnetData) -> None:
    state = runtime.state
    low, high = state.get(storage.MIN_SUBNET_MIN_STAKE), state.get(storage.MAX_SUBNET_MIN_STAKE)
    ensure(low <= data.min_stake <= high, "InvalidSubnetMinStake")
    ensure(data.max_stake <= state.get(storage.NETWORK_MAX_STAKE_BALANCE), "InvalidSubnetMaxStake")
    ensure(data.min_stake <= data.max_stake, "InvalidSubnetStakeParameters")


def compute_registration_cost(runtime: Runtime) -> int:
    """Return the price now: it decays from the last one as min + (last - min) * left**alpha."""
    state = runtime.state
    last, minimum = (
        state.get(storage.LAST_REGISTRATION_COST),
        state.get(storage.MIN_REGISTRATION_COST),
    )
    decay_blocks = state.get(storage.REGISTRATION_COST_DECAY_BLOCKS)
    passed = runtime.block - state.get(storage.LAST_SUBNET_REGISTRATION_BLOCK)
    if decay_blocks == 0 or last <= minimum:
        return max(last, minimum)
    if passed >= decay_blocks:
        return minimum
    left = to_float(percent_div(decay_blocks - passed, decay_blocks))
    alpha = to_float(state.get(storage.REGISTRATION_COST_ALPHA))
    return minimum + int(float(last - minimum) * math.pow(left, alpha))


def pay_registration(runtime: Runtime, owner: bytes, *, max_cost: int) -> None:
    """Send the price to the treasury and set the next one."""
    state = runtime.state
    cost = compute_registration_cost(runtime)
    ensure(max_cost >= cost, "CostGreaterThanMaxCost")
    next_cost = percent_mul(cost, state.get(storage.NEW_REGISTRATION_COST_MULTIPLIER))
    state.put(storage.LAST_REGISTRATION_COST, value=next_cost)
    state.put(storage.LAST_SUBNET_REGISTRATION_BLOCK, value=runtime.block)
    if cost:
        ensure(can_withdraw(runtime, owner, cost), "NotEnoughBalanceToRegisterSubnet")
        transfer(runtime, owner, TREASURY_ACCOUNT, cost, keep_alive=True)


def assign_slot(runtime: Runtime, subnet_id: int) -> int:
    """Give the subnet the lowest free offset of the general epoch. Raises NoAvailableSlots."""
    state = runtime.state
    assigned = state.get(storage.ASSIGNED_SLOTS)
    candidates = range(DESIGNATED_EPOCH_SLOTS, runtime.config.epoch_length)
    slot = next((slot for slot in candidates if slot not in assigned), None)
    if slot is None:
        fail("NoAvailableSlots")
    state.put(storage.ASSIGNED_SLOTS, value=assigned | {slot})
    state.put(storage.SUBNET_SLOT, subnet_id, value=slot)
    state.put(storage.SLOT_ASSIGNMENT, slot, value=subnet_id)
    return slot


def store_subnet(
    runtime: Runtime, data: RegistrationSubnetData, *, subnet_id: int, slot: int, owner: bytes
) -> None:
    """Write the new subnet and its settings."""
    state = runtime.state
    friendly_id = slot - DESIGNATED_EPOCH_SLOTS + 1
    state.put(storage.SUBNET_ID_FRIENDLY_UID, subnet_id, value=friendly_id)
    state.put(storage.FRIENDLY_UID_SUBNET_ID, friendly_id, value=subnet_id)
    subnet = SubnetData(
        id=subnet_id,
        friendly_id=friendly_id,
        name=data.name,
        repo=data.repo,
        description=data.description,
        misc=data.misc,
        state=SubnetState.REGISTERED,
        start_epoch=NEVER,
    )
    state.put(storage.SUBNETS_DATA, subnet_id, value=subnet)
    state.put(storage.SUBNET_OWNER, subnet_id, value=owner)
    state.put(storage.SUBNET_MIN_STAKE_BALANCE, subnet_id, value=data.min_stake)
    state.put(storage.SUBNET_MAX_STAKE_BALANCE, subnet_id, value=data.max_stake)
    percentage = data.delegate_stake_percentage
    state.put(storage.SUBNET_DELEGATE_STAKE_REWARDS_PERCENTAGE, subnet_id, value=percentage)
    state.put(
        storage.SUBNET_REGISTRATION_INITIAL_COLDKEYS, subnet_id, value=dict(data.initial_coldkeys)
    )
    state.put(storage.SUBNET_BOOTNODES, subnet_id, value=dict(data.bootnodes))
    state.put(storage.SUBNET_NAME, data.name, value=subnet_id)
    state.put(storage.SUBNET_REPO, data.repo, value=subnet_id)
    state.put(storage.SUBNET_REGISTRATION_EPOCH, subnet_id, value=runtime.general_epoch)
    state.put(storage.ACTIVATION_GRACE_EPOCHS, subnet_id, value=_grace(runtime))
    state.add(storage.TOTAL_SUBNETS, amount=1)


def _grace(runtime: Runtime) -> int:
    return runtime.config.activation_grace_epochs


def check_owner(runtime: Runtime, origin: bytes, subnet_id: int) -> None:
    """Raise NotSubnetOwner unless ``origin`` owns the subnet."""
    ensure(runtime.state.find(storage.SUBNET_OWNER, subnet_id) == origin, "NotSubnetOwner")


def activate_subnet(runtime: Runtime, origin: bytes, call: calls.ActivateSubnet) -> None:
    """Start the subnet's consensus with the next general epoch, or remove it if it is too late."""
    check_owner(runtime, origin, call.subnet_id)
    subnet = runtime.subnet(call.subnet_id)
    ensure(subnet.state is SubnetState.REGISTERED, "SubnetActivatedAlready")
    registered = runtime.state.find(storage.SUBNET_REGISTRATION_EPOCH, subnet.id)
    earliest = runtime.state.get(storage.MIN_SUBNET_REGISTRATION_EPOCHS)
    ensure(
        registered is not None and registered + earliest <= runtime.general_epoch,
        "MinSubnetRegistrationEpochsNotMet",
    )
    obstacle = find_activation_obstacle(runtime, subnet.id)
    if is_enactment_over(runtime, subnet):
        remove_subnet(runtime, subnet.id, SubnetRemovalReason.ENACTMENT_PERIOD)
    elif obstacle is None:
        start_subnet(runtime, subnet)
    elif is_in_enactment(runtime, subnet):
        remove_subnet(runtime, subnet.id, obstacle)
    else:
        fail("SubnetActivationConditionsNotMetYet")


def find_activation_obstacle(runtime: Runtime, subnet_id: int) -> SubnetRemovalReason | None:
    """Return what still keeps the subnet from being activated."""
    state = runtime.state
    if state.get(storage.SUBNET_REPUTATION, subnet_id) < state.get(storage.MIN_SUBNET_REPUTATION):
        return SubnetRemovalReason.MIN_REPUTATION
    active = state.get(storage.TOTAL_ACTIVE_SUBNET_NODES, subnet_id)
    if active < state.get(storage.MIN_SUBNET_NODES):
        return SubnetRemovalReason.MIN_SUBNET_NODES
    delegated = state.get(storage.TOTAL_SUBNET_DELEGATE_STAKE_BALANCE, subnet_id)
    if delegated < compute_min_delegate_stake(state, subnet_id):
        return SubnetRemovalReason.MIN_SUBNET_DELEGATE_STAKE
    return None


_ISSUED = (
    storage.TOTAL_ISSUANCE,
    storage.TOTAL_STAKE,
    storage.TOTAL_DELEGATE_STAKE,
    storage.TOTAL_NODE_DELEGATE_STAKE,
    storage.TOTAL_UNBONDING_BALANCE,
    storage.TOTAL_ACCOUNT_DELEGATE_STAKE,
)
"""The totals that add up to all issued units."""


def compute_min_delegate_stake(state: StateReader, subnet_id: int) -> int:
    """Return the delegated units that a subnet needs: a share of everything issued."""
    issued = sum(state.get(total) for total in _ISSUED)
    base = percent_mul(issued, state.get(storage.MIN_SUBNET_DELEGATE_STAKE_FACTOR))
    electable = len(state.get(storage.SUBNET_NODE_ELECTION_SLOTS, subnet_id))
    return percent_mul(base, _delegate_multiplier(state, electable))


def _delegate_multiplier(state: StateReader, electable: int) -> int:
    """Rise linearly from 1.0 at the fewest nodes to the maximum at the most."""
    fewest, most = state.get(storage.MIN_SUBNET_NODES), state.get(storage.MAX_SUBNET_NODES)
    highest = state.get(storage.MAX_MIN_DELEGATE_STAKE_MULTIPLIER)
    if electable <= fewest:
        return ONE
    if electable >= most:
        return highest
    return ONE + percent_mul(percent_div(electable - fewest, most - fewest), max(0, highest - ONE))


def start_subnet(runtime: Runtime, subnet: SubnetData) -> None:
    """Make the subnet Active and drop what only its registration needed."""
    state, epoch = runtime.state, runtime.general_epoch
    started = replace(subnet, state=SubnetState.ACTIVE, start_epoch=epoch + 1)
    state.put(storage.SUBNETS_DATA, subnet.id, value=started)
    state.add(storage.TOTAL_ACTIVE_SUBNETS, amount=1)
    state.remove(storage.SUBNET_REGISTRATION_EPOCH, subnet.id)
    state.remove(storage.SUBNET_REGISTRATION_INITIAL_COLDKEYS, subnet.id)
    state.remove(storage.INITIAL_COLDKEY_DATA, subnet.id)
    update_block = storage.LAST_SUBNET_DELEGATE_STAKE_REWARDS_UPDATE
    state.put(update_block, subnet.id, value=runtime.block)
    state.put(storage.PREVIOUS_SUBNET_PAUSE_EPOCH, subnet.id, value=epoch)
    state.put(storage.PREV_SUBNET_ACTIVATION_EPOCH, value=epoch)
    runtime.emit(events.SubnetActivated(subnet.id))


_SUBNET_ONLY_ITEMS: tuple[Item[int], ...] = (
    storage.CHURN_LIMIT,
    storage.CHURN_LIMIT_MULTIPLIER,
    storage.SUBNET_NODE_QUEUE_EPOCHS,
    storage.IDLE_CLASSIFICATION_EPOCHS,
    storage.INCLUDED_CLASSIFICATION_EPOCHS,
    storage.QUEUE_IMMUNITY_EPOCHS,
    storage.MAX_REGISTERED_NODES,
    storage.TARGET_NODE_REGISTRATIONS_PER_EPOCH,
    storage.NODE_BURN_RATE_ALPHA,
    storage.MIN_SUBNET_NODE_REPUTATION,
    storage.NODE_MIN_WEIGHT_THRESHOLD,
    storage.ABSENT_DECREASE,
    storage.INCLUDED_INCREASE,
    storage.BELOW_MIN_WEIGHT_DECREASE,
    storage.NON_ATTESTOR_DECREASE,
    storage.NON_CONSENSUS_ATTESTOR_DECREASE,
    storage.VALIDATOR_ABSENT_DECREASE,
    storage.VALIDATOR_NON_CONSENSUS_DECREASE,
    storage.SUBNET_MIN_STAKE_BALANCE,
    storage.SUBNET_MAX_STAKE_BALANCE,
    storage.SUBNET_DELEGATE_STAKE_REWARDS_PERCENTAGE,
    storage.SUBNET_REGISTRATION_EPOCH,
    storage.SUBNET_REPUTATION,
    storage.CURRENT_NODE_BURN_RATE,
    storage.NODE_REGISTRATIONS_THIS_EPOCH,
    storage.LAST_SUBNET_DELEGATE_STAKE_REWARDS_UPDATE,
    storage.PREVIOUS_SUBNET_PAUSE_EPOCH,
    storage.ACTIVATION_GRACE_EPOCHS,
)


def remove_subnet(runtime: Runtime, subnet_id: int, reason: SubnetRemovalReason) -> None:
    """Delete the subnet and its nodes; stake and submissions stay."""
    state = runtime.state
    subnet = state.take(storage.SUBNETS_DATA, subnet_id)
    if subnet is None:
        return
    state.remove(storage.SUBNET_NAME, subnet.name)
    state.remove(storage.SUBNET_REPO, subnet.repo)
    state.remove(storage.SUBNET_ID_FRIENDLY_UID, subnet_id)
    state.remove(storage.FRIENDLY_UID_SUBNET_ID, subnet.friendly_id)
    slot = state.take(storage.SUBNET_SLOT, subnet_id)
    if slot is not None:
        state.remove(storage.SLOT_ASSIGNMENT, slot)
        state.put(storage.ASSIGNED_SLOTS, value=state.get(storage.ASSIGNED_SLOTS) - {slot})
    state.remove(storage.SUBNET_OWNER, subnet_id)
    state.remove(storage.PENDING_SUBNET_OWNER, subnet_id)
    state.remove(storage.SUBNET_BOOTNODE_ACCESS, subnet_id)
    state.remove(storage.SUBNET_REGISTRATION_INITIAL_COLDKEYS, subnet_id)
    state.remove(storage.INITIAL_COLDKEY_DATA, subnet_id)
    state.remove(storage.SUBNET_BOOTNODES, subnet_id)
    state.remove(storage.EMERGENCY_SUBNET_NODE_ELECTION_DATA, subnet_id)
    for item in _SUBNET_ONLY_ITEMS:
        state.remove(item, subnet_id)
    state.add(storage.TOTAL_SUBNETS, amount=-1)
    if subnet.state is SubnetState.ACTIVE:
        state.add(storage.TOTAL_ACTIVE_SUBNETS, amount=-1)
    clean_subnet_nodes(runtime, subnet_id)
    runtime.emit(events.SubnetDeactivated(subnet_id, reason))


def check_subnets(runtime: Runtime) -> None:
    """Once a general epoch: remove subnets that missed their deadlines or lost their standing."""
    subnets = [subnet for _, subnet in runtime.state.items(storage.SUBNETS_DATA)]
    for subnet in subnets:
        if subnet.state is SubnetState.REGISTERED:
            _check_registering(runtime, subnet)
        elif subnet.state is SubnetState.PAUSED:
            _check_paused(runtime, subnet)
        elif subnet.state is SubnetState.ACTIVE and subnet.start_epoch <= runtime.general_epoch:
            _check_active(runtime, subnet)
    if len(subnets) > runtime.state.get(storage.MAX_SUBNETS):
        _remove_excess(runtime)


def _remove_excess(runtime: Runtime) -> None:
    """One subnet too many: on a removal epoch the one with the least delegated stake goes."""
    state, epoch = runtime.state, runtime.general_epoch
    quiet_until = state.get(storage.PREV_SUBNET_ACTIVATION_EPOCH)
    quiet_until += state.get(storage.MIN_SUBNET_REMOVAL_INTERVAL)
    if epoch % state.get(storage.MAX_SUBNET_REMOVAL_INTERVAL) or epoch < quiet_until:
        return
    candidates = [
        (state.get(storage.TOTAL_SUBNET_DELEGATE_STAKE_BALANCE, subnet.id), subnet.id)
        for _, subnet in state.items(storage.SUBNETS_DATA)
        if subnet.state is SubnetState.ACTIVE and subnet.start_epoch <= epoch
    ]
    if candidates:
        remove_subnet(runtime, min(candidates)[1], SubnetRemovalReason.MAX_SUBNETS)


def _check_paused(runtime: Runtime, subnet: SubnetData) -> None:
    state = runtime.state
    if subnet.start_epoch + state.get(storage.MAX_SUBNET_PAUSE_EPOCHS) >= runtime.general_epoch:
        return
    factor = state.get(storage.MAX_PAUSE_EPOCHS_SUBNET_REPUTATION_FACTOR)
    reputation = decrease_reputation(state.get(storage.SUBNET_REPUTATION, subnet.id), factor)
    state.put(storage.SUBNET_REPUTATION, subnet.id, value=reputation)
    if reputation < state.get(storage.MIN_SUBNET_REPUTATION):
        remove_subnet(runtime, subnet.id, SubnetRemovalReason.PAUSE_EXPIRED)


def _check_registering(runtime: Runtime, subnet: SubnetData) -> None:
    state = runtime.state
    active = state.get(storage.TOTAL_ACTIVE_SUBNET_NODES, subnet.id)
    if is_enactment_over(runtime, subnet):
        remove_subnet(runtime, subnet.id, SubnetRemovalReason.ENACTMENT_PERIOD)
    elif is_in_enactment(runtime, subnet) and active < state.get(storage.MIN_SUBNET_NODES):
        remove_subnet(runtime, subnet.id, SubnetRemovalReason.MIN_SUBNET_NODES)


def _check_active(runtime: Runtime, subnet: SubnetData) -> None:
    state = runtime.state
    delegated = state.get(storage.TOTAL_SUBNET_DELEGATE_STAKE_BALANCE, subnet.id)
    interval = state.get(storage.DELEGATE_STAKE_SUBNET_REMOVAL_INTERVAL)
    too_little = delegated < compute_min_delegate_stake(state, subnet.id)
    if too_little and runtime.general_epoch % interval == 0:
        remove_subnet(runtime, subnet.id, SubnetRemovalReason.MIN_SUBNET_DELEGATE_STAKE)
        return
    reputation = state.get(storage.SUBNET_REPUTATION, subnet.id)
    electable = state.get(storage.TOTAL_SUBNET_ELECTABLE_NODES, subnet.id)
    if electable < state.get(storage.MIN_SUBNET_NODES):
        factor = state.get(storage.LESS_THAN_MIN_NODES_SUBNET_REPUTATION_FACTOR)
        reputation = decrease_reputation(reputation, factor)
        state.put(storage.SUBNET_REPUTATION, subnet.id, value=reputation)
    if reputation < state.get(storage.MIN_SUBNET_REPUTATION):
        remove_subnet(runtime, subnet.id, SubnetRemovalReason.MIN_REPUTATION)
