"""Registration, activation, promotion and removal of subnet nodes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from consensus.types import NodeClass
from devchain import calls, events, storage
from devchain.addresses import check_multiaddr, is_peer_id
from devchain.balances import add_stake, withdraw
from devchain.chain_types import (
    ONE,
    ActivationMode,
    DelegateAccount,
    PeerInfo,
    SubnetData,
    SubnetNode,
    SubnetNodeClassification,
    SubnetState,
)
from devchain.errors import ensure, fail
from devchain.fixed_point import percent_mul
from devchain.registration_periods import is_in_enactment
from devchain.runtime import Runtime
from devchain.state import Item, StateReader

PEER_ID_ITEMS = (
    storage.PEER_ID_SUBNET_NODE_ID,
    storage.BOOTNODE_PEER_ID_SUBNET_NODE_ID,
    storage.CLIENT_PEER_ID_SUBNET_NODE_ID,
)


def register_subnet_node(runtime: Runtime, origin: bytes, call: calls.RegisterSubnetNode) -> None:
    """Stake and enter a subnet with a fresh hotkey; the origin is the coldkey."""
    state, subnet = runtime.state, runtime.subnet(call.subnet_id)
    check_registration_open(runtime, origin, call, subnet)
    node_id = state.get(storage.TOTAL_SUBNET_NODE_UIDS, subnet.id) + 1
    state.put(storage.TOTAL_SUBNET_NODE_UIDS, subnet.id, value=node_id)
    claim_names(runtime, origin, call, node_id=node_id)
    pay_node_registration(runtime, origin, call)
    node = make_node(runtime, call, node_id=node_id, subnet=subnet)
    link_keys(runtime, origin, call, node_id=node_id)
    state.add(storage.TOTAL_SUBNET_NODES, subnet.id, amount=1)
    state.add(storage.TOTAL_NODES, amount=1)
    if subnet.state is SubnetState.REGISTERED:
        _count_initial_coldkey(runtime, origin, subnet.id)
        if runtime.config.activation_mode is ActivationMode.AUTOMATIC:
            activate_node(runtime, subnet, node)
            return
    state.put(storage.REGISTERED_SUBNET_NODES_DATA, subnet.id, node_id, value=node)
    if runtime.config.activation_mode is ActivationMode.AUTOMATIC:
        queue = state.get(storage.SUBNET_NODE_QUEUE, subnet.id)
        state.put(storage.SUBNET_NODE_QUEUE, subnet.id, value=(*queue, node))
    runtime.emit(events.SubnetNodeRegistered(subnet.id, node_id, origin, call.hotkey, node))


def check_registration_open(
    runtime: Runtime, origin: bytes, call: calls.RegisterSubnetNode, subnet: SubnetData
) -> None:
    """Check what the pallet checks before the node itself, in the same order."""
    state = runtime.state
    ensure(origin != call.hotkey, "ColdkeyMatchesHotkey")
    ensure(subnet.state is not SubnetState.PAUSED, "SubnetIsPaused")
    ensure(not state.contains(storage.HOTKEY_OWNER, call.hotkey), "HotkeyHasOwner")
    ensure(not is_in_enactment(runtime, subnet), "SubnetMustBeRegisteringOrActivated")
    allowances = state.find(storage.SUBNET_REGISTRATION_INITIAL_COLDKEYS, subnet.id)
    if allowances is not None:
        ensure(origin in allowances, "ColdkeyRegistrationWhitelist")
        used = (state.find(storage.INITIAL_COLDKEY_DATA, subnet.id) or {}).get(origin, 0)
        ensure(used < allowances[origin], "MaxRegisteredNodes")
    waiting = _count_waiting(runtime, subnet.id)
    ensure(waiting <= state.get(storage.MAX_REGISTERED_NODES, subnet.id), "MaxRegisteredNodes")


def _count_waiting(runtime: Runtime, subnet_id: int) -> int:
    if runtime.config.activation_mode is ActivationMode.AUTOMATIC:
        return len(runtime.state.get(storage.SUBNET_NODE_QUEUE, subnet_id))
    return sum(1 for _ in runtime.state.items(storage.REGISTERED_SUBNET_NODES_DATA, subnet_id))


def claim_names(
    runtime: Runtime, origin: bytes, call: calls.RegisterSubnetNode, *, node_id: int
) -> None:
    """Reserve peer ids, multiaddrs and the unique parameter; the three peer ids must differ."""
    state, subnet_id = runtime.state, call.subnet_id
    infos = (call.peer_info, call.bootnode_peer_info, call.client_peer_info)
    for item, info in zip(PEER_ID_ITEMS, infos, strict=True):
        if info is not None:
            check_peer_info(runtime, subnet_id, info)
            claim_peer(runtime, subnet_id, item, info, node_id)
    if call.unique is not None:
        taken = state.contains(storage.UNIQUE_PARAM_SUBNET_NODE_ID, subnet_id, call.unique)
        ensure(not taken, "SubnetNodeUniqueParamTaken")
        state.put(storage.UNIQUE_PARAM_SUBNET_NODE_ID, subnet_id, call.unique, value=node_id)
    if call.delegate_account is not None:
        check_delegate_account(call.delegate_account, coldkey=origin, hotkey=call.hotkey)


def check_peer_info(runtime: Runtime, subnet_id: int, info: PeerInfo) -> None:
    """Raise InvalidPeerId, PeerIdExist, a multiaddr error or MultiaddrExist."""
    state = runtime.state
    ensure(is_peer_id(info.peer_id), "InvalidPeerId")
    taken = any(state.contains(item, subnet_id, info.peer_id) for item in PEER_ID_ITEMS)
    ensure(not taken, "PeerIdExist")
    if info.multiaddr is not None:
        check_multiaddr(info.multiaddr)
        known = state.contains(storage.MULTIADDR_SUBNET_NODE_ID, subnet_id, info.multiaddr)
        ensure(not known, "MultiaddrExist")


def check_delegate_account(delegate: DelegateAccount, *, coldkey: bytes, hotkey: bytes) -> None:
    """Raise a DelegateAccount error unless the account is a third party with a sane rate."""
    ensure(delegate.account_id != hotkey, "DelegateAccountCannotBeHotkey")
    ensure(delegate.account_id != coldkey, "DelegateAccountCannotBeColdkey")
    ensure(0 < delegate.rate <= ONE, "InvalidDelegateAccountRate")


def pay_node_registration(runtime: Runtime, coldkey: bytes, call: calls.RegisterSubnetNode) -> None:
    """Burn the registration fee and take the stake."""
    state, subnet_id = runtime.state, call.subnet_id
    staked = state.get(storage.ACCOUNT_SUBNET_STAKE, call.hotkey, subnet_id)
    ensure(staked == 0, "MustUnstakeToRegister")
    hotkeys = state.get(storage.COLDKEY_HOTKEYS, coldkey)
    ensure(call.hotkey not in hotkeys, "HotkeyAlreadyRegisteredToColdkey")
    ensure(call.delegate_reward_rate <= ONE, "InvalidDelegateRewardRate")
    burn = compute_burn(runtime, subnet_id)
    ensure(burn <= call.max_burn_amount, "MaxBurnAmountExceeded")
    ensure(withdraw(runtime, coldkey, burn), "BalanceBurnError")
    state.add(storage.NODE_REGISTRATIONS_THIS_EPOCH, subnet_id, amount=1)
    add_stake(runtime, coldkey, call.hotkey, subnet_id=subnet_id, amount=call.stake_to_be_added)


def compute_burn(runtime: Runtime, subnet_id: int) -> int:
    """Return the units that a registration burns now."""
    rate = runtime.state.get(storage.CURRENT_NODE_BURN_RATE, subnet_id)
    return percent_mul(runtime.state.get(storage.BASE_NODE_BURN_AMOUNT), rate)


def make_node(
    runtime: Runtime, call: calls.RegisterSubnetNode, *, node_id: int, subnet: SubnetData
) -> SubnetNode:
    """Build the node as it waits: class Registered from its start epoch."""
    start_epoch = compute_start_epoch(runtime, subnet)
    return SubnetNode(
        id=node_id,
        hotkey=call.hotkey,
        peer_info=call.peer_info,
        bootnode_peer_info=call.bootnode_peer_info,
        client_peer_info=call.client_peer_info,
        classification=SubnetNodeClassification(NodeClass.REGISTERED, start_epoch),
        delegate_reward_rate=call.delegate_reward_rate,
        last_delegate_reward_rate_update=runtime.block if call.delegate_reward_rate else 0,
        unique=call.unique,
        non_unique=call.non_unique,
        delegate_account=call.delegate_account,
    )


def compute_start_epoch(runtime: Runtime, subnet: SubnetData) -> int:
    """Return the subnet epoch from which the node may become active."""
    epoch = runtime.subnet_epoch(subnet.id)
    if runtime.config.activation_mode is ActivationMode.AUTOMATIC:
        return epoch + 1
    if subnet.state is SubnetState.REGISTERED:
        return epoch
    return epoch + 1 + runtime.config.activation_queue_epochs


def link_keys(
    runtime: Runtime, coldkey: bytes, call: calls.RegisterSubnetNode, *, node_id: int
) -> None:
    """Write the maps between node, hotkey and coldkey."""
    state, subnet_id, hotkey = runtime.state, call.subnet_id, call.hotkey
    state.put(storage.HOTKEY_SUBNET_NODE_ID, subnet_id, hotkey, value=node_id)
    state.put(storage.SUBNET_NODE_ID_HOTKEY, subnet_id, node_id, value=hotkey)
    state.put(storage.HOTKEY_SUBNET_ID, hotkey, value=subnet_id)
    state.put(storage.HOTKEY_OWNER, hotkey, value=coldkey)
    hotkeys = state.get(storage.COLDKEY_HOTKEYS, coldkey)
    state.put(storage.COLDKEY_HOTKEYS, coldkey, value=hotkeys | {hotkey})
    by_subnet = state.get(storage.COLDKEY_SUBNET_NODES, coldkey)
    subnets = storage.SUBNETS_DATA
    living = {key: ids for key, ids in by_subnet.items() if state.contains(subnets, key)}
    living[subnet_id] = living.get(subnet_id, frozenset()) | {node_id}
    state.put(storage.COLDKEY_SUBNET_NODES, coldkey, value=living)


def _count_initial_coldkey(runtime: Runtime, coldkey: bytes, subnet_id: int) -> None:
    used = runtime.state.find(storage.INITIAL_COLDKEY_DATA, subnet_id) or {}
    counted = {**used, coldkey: used.get(coldkey, 0) + 1}
    runtime.state.put(storage.INITIAL_COLDKEY_DATA, subnet_id, value=counted)


def activate_subnet_node(runtime: Runtime, origin: bytes, call: calls.ActivateSubnetNode) -> None:
    """The original flow: the node's owner activates it inside its start window."""
    state = runtime.state
    mode = runtime.config.activation_mode
    ensure(mode is ActivationMode.MANUAL, "ActivationIsAutomatic")
    subnet = runtime.subnet(call.subnet_id)
    ensure(subnet.state is not SubnetState.PAUSED, "SubnetIsPaused")
    node = state.find(storage.REGISTERED_SUBNET_NODES_DATA, subnet.id, call.subnet_node_id)
    if node is None:
        fail("InvalidSubnetNodeId")
    check_keys_owner(runtime, origin, subnet.id, node.id)
    start = node.classification.start_epoch
    grace = state.get(storage.ACTIVATION_GRACE_EPOCHS, subnet.id)
    ensure(start <= runtime.subnet_epoch(subnet.id) <= start + grace, "NotStartEpoch")
    staked = state.get(storage.ACCOUNT_SUBNET_STAKE, node.hotkey, subnet.id)
    ensure(staked >= state.get(storage.SUBNET_MIN_STAKE_BALANCE, subnet.id), "MinStakeNotReached")
    activate_node(runtime, subnet, node)


def activate_node(runtime: Runtime, subnet: SubnetData, node: SubnetNode) -> None:
    """Move a waiting node among the active ones.

    It becomes Validator while its subnet is registering, Idle afterwards. Raises
    MaxRegisteredNodes when the subnet is full.
    """
    state = runtime.state
    active = state.get(storage.TOTAL_ACTIVE_SUBNET_NODES, subnet.id)
    ensure(active < state.get(storage.MAX_SUBNET_NODES), "MaxRegisteredNodes")
    state.remove(storage.REGISTERED_SUBNET_NODES_DATA, subnet.id, node.id)
    registering = subnet.state is SubnetState.REGISTERED
    node_class = NodeClass.VALIDATOR if registering else NodeClass.IDLE
    classification = SubnetNodeClassification(node_class, runtime.subnet_epoch(subnet.id))
    activated = replace(node, classification=classification)
    state.put(storage.SUBNET_NODES_DATA, subnet.id, node.id, value=activated)
    if registering:
        insert_election_slot(runtime, subnet.id, node.id)
    state.add(storage.TOTAL_ACTIVE_SUBNET_NODES, subnet.id, amount=1)
    state.add(storage.TOTAL_ACTIVE_NODES, amount=1)
    coldkey = state.get(storage.HOTKEY_OWNER, node.hotkey)
    reputation = state.get(storage.COLDKEY_REPUTATION, coldkey)
    updated = replace(
        reputation,
        lifetime_node_count=reputation.lifetime_node_count + 1,
        total_active_nodes=reputation.total_active_nodes + 1,
    )
    state.put(storage.COLDKEY_REPUTATION, coldkey, value=updated)
    runtime.emit(events.SubnetNodeActivated(subnet.id, node.id))


def insert_election_slot(runtime: Runtime, subnet_id: int, node_id: int) -> None:
    """Make the node electable."""
    state = runtime.state
    slots = state.get(storage.SUBNET_NODE_ELECTION_SLOTS, subnet_id)
    ensure(node_id not in slots, "ElectionSlotInsertFail")
    state.put(storage.SUBNET_NODE_ELECTION_SLOTS, subnet_id, value=(*slots, node_id))
    state.put(storage.NODE_SLOT_INDEX, subnet_id, node_id, value=len(slots))
    state.add(storage.TOTAL_SUBNET_ELECTABLE_NODES, subnet_id, amount=1)
    state.add(storage.TOTAL_ELECTABLE_NODES, amount=1)


def remove_election_slot(runtime: Runtime, subnet_id: int, node_id: int) -> None:
    """Make the node unelectable; the last slot moves into the gap."""
    state = runtime.state
    electable = state.get(storage.SUBNET_NODE_ELECTION_SLOTS, subnet_id)
    if node_id not in electable:
        return
    slots = list(electable)
    position = slots.index(node_id)
    moved = slots.pop()
    if moved != node_id:
        slots[position] = moved
        state.put(storage.NODE_SLOT_INDEX, subnet_id, moved, value=position)
    state.put(storage.SUBNET_NODE_ELECTION_SLOTS, subnet_id, value=tuple(slots))
    state.remove(storage.NODE_SLOT_INDEX, subnet_id, node_id)
    state.add(storage.TOTAL_SUBNET_ELECTABLE_NODES, subnet_id, amount=-1)
    state.add(storage.TOTAL_ELECTABLE_NODES, amount=-1)


def graduate(runtime: Runtime, subnet_id: int, node_id: int) -> bool:
    """Raise an active node's class by one from this subnet epoch on; return whether it exists."""
    node = runtime.state.find(storage.SUBNET_NODES_DATA, subnet_id, node_id)
    if node is None:
        return False
    next_class = NodeClass(min(node.classification.node_class + 1, NodeClass.VALIDATOR))
    classification = SubnetNodeClassification(next_class, runtime.subnet_epoch(subnet_id))
    changed = replace(node, classification=classification)
    runtime.state.put(storage.SUBNET_NODES_DATA, subnet_id, node_id, value=changed)
    runtime.emit(events.NodeClassGraduation(subnet_id, node_id, classification))
    return True


def find_node(state: StateReader, subnet_id: int, node_id: int) -> SubnetNode | None:
    """Return the node, active or waiting."""
    active = state.find(storage.SUBNET_NODES_DATA, subnet_id, node_id)
    waiting = state.find(storage.REGISTERED_SUBNET_NODES_DATA, subnet_id, node_id)
    return waiting if active is None else active


def get_node(state: StateReader, subnet_id: int, node_id: int) -> SubnetNode:
    """Return the node, active or waiting. Raises InvalidSubnetNodeId."""
    node = find_node(state, subnet_id, node_id)
    if node is None:
        fail("InvalidSubnetNodeId")
    return node


def active_nodes(runtime: Runtime, subnet_id: int) -> Iterator[SubnetNode]:
    """Yield the activated nodes by id."""
    for _, node in runtime.state.items(storage.SUBNET_NODES_DATA, subnet_id):
        yield node


def find_keys(
    state: StateReader, subnet_id: int, node_id: int
) -> tuple[bytes | None, bytes | None]:
    """Return the node's hotkey and coldkey."""
    hotkey = state.find(storage.SUBNET_NODE_ID_HOTKEY, subnet_id, node_id)
    return hotkey, state.find(storage.HOTKEY_OWNER, hotkey) if hotkey is not None else None


def check_keys_owner(runtime: Runtime, origin: bytes, subnet_id: int, node_id: int) -> None:
    """Raise NotKeyOwner unless ``origin`` is the node's hotkey or coldkey."""
    ensure(origin in find_keys(runtime.state, subnet_id, node_id), "NotKeyOwner")


def check_coldkey(runtime: Runtime, origin: bytes, subnet_id: int, node_id: int) -> None:
    """Raise NotKeyOwner unless ``origin`` is the node's coldkey."""
    _, coldkey = find_keys(runtime.state, subnet_id, node_id)
    ensure(coldkey == origin, "NotKeyOwner")


def is_elected(runtime: Runtime, subnet_id: int, node_id: int) -> bool:
    """Whether the node is the elected validator of the subnet's current epoch."""
    epoch = runtime.subnet_epoch(subnet_id)
    return runtime.state.find(storage.SUBNET_ELECTED_VALIDATOR, subnet_id, epoch) == node_id


def remove_subnet_node(runtime: Runtime, origin: bytes, call: calls.RemoveSubnetNode) -> None:
    """Leave the subnet; the stake stays until it is withdrawn."""
    check_keys_owner(runtime, origin, call.subnet_id, call.subnet_node_id)
    elected = is_elected(runtime, call.subnet_id, call.subnet_node_id)
    ensure(not elected, "ElectedValidatorCannotRemove")
    remove_node(runtime, call.subnet_id, call.subnet_node_id)


def remove_node(runtime: Runtime, subnet_id: int, node_id: int) -> None:
    """Delete a node, active or waiting; do nothing if there is none."""
    state = runtime.state
    active = state.take(storage.SUBNET_NODES_DATA, subnet_id, node_id)
    waiting = state.take(storage.REGISTERED_SUBNET_NODES_DATA, subnet_id, node_id)
    node = active or waiting
    if node is None:
        return
    _forget_node(runtime, subnet_id, node)
    if active is not None:
        remove_election_slot(runtime, subnet_id, node_id)
        state.add(storage.TOTAL_ACTIVE_SUBNET_NODES, subnet_id, amount=-1)
        state.add(storage.TOTAL_ACTIVE_NODES, amount=-1)
        _leave_emergency_set(runtime, subnet_id, node_id)
    else:
        queue = state.get(storage.SUBNET_NODE_QUEUE, subnet_id)
        left = tuple(queued for queued in queue if queued.id != node_id)
        if left != queue:
            state.put(storage.SUBNET_NODE_QUEUE, subnet_id, value=left)


def _leave_emergency_set(runtime: Runtime, subnet_id: int, node_id: int) -> None:
    item = storage.EMERGENCY_SUBNET_NODE_ELECTION_DATA
    data = runtime.state.find(item, subnet_id)
    if data is not None and node_id in data.subnet_node_ids:
        left = tuple(other for other in data.subnet_node_ids if other != node_id)
        runtime.state.put(item, subnet_id, value=replace(data, subnet_node_ids=left))


_NODE_ITEMS: tuple[Item[Any], ...] = (
    storage.SUBNET_NODE_ID_HOTKEY,
    storage.SUBNET_NODE_REPUTATION,
    storage.IDLE_CONSECUTIVE_EPOCHS,
    storage.CONSECUTIVE_INCLUDED_EPOCHS,
)


def _forget_node(runtime: Runtime, subnet_id: int, node: SubnetNode) -> None:
    state = runtime.state
    if node.unique is not None:
        state.remove(storage.UNIQUE_PARAM_SUBNET_NODE_ID, subnet_id, node.unique)
    infos = (node.peer_info, node.bootnode_peer_info, node.client_peer_info)
    for item, info in zip(PEER_ID_ITEMS, infos, strict=True):
        release_peer(runtime, subnet_id, item, info)
    state.remove(storage.HOTKEY_SUBNET_NODE_ID, subnet_id, node.hotkey)
    for node_item in _NODE_ITEMS:
        state.remove(node_item, subnet_id, node.id)
    _unlink_coldkey(runtime, subnet_id, node)
    state.add(storage.TOTAL_SUBNET_NODES, subnet_id, amount=-1)
    state.add(storage.TOTAL_NODES, amount=-1)
    runtime.emit(events.SubnetNodeRemoved(subnet_id, node.id))


def _unlink_coldkey(runtime: Runtime, subnet_id: int, node: SubnetNode) -> None:
    state = runtime.state
    coldkey = state.get(storage.HOTKEY_OWNER, node.hotkey)
    owned = state.get(storage.COLDKEY_SUBNET_NODES, coldkey)
    by_subnet = {**owned, subnet_id: owned.get(subnet_id, frozenset()) - {node.id}}
    left = {subnet: ids for subnet, ids in by_subnet.items() if ids}
    state.put(storage.COLDKEY_SUBNET_NODES, coldkey, value=left)
    reputation = state.get(storage.COLDKEY_REPUTATION, coldkey)
    lowered = replace(reputation, total_active_nodes=max(0, reputation.total_active_nodes - 1))
    state.put(storage.COLDKEY_REPUTATION, coldkey, value=lowered)


_SUBNET_NODE_PREFIXES: tuple[Item[Any], ...] = (
    storage.SUBNET_NODES_DATA,
    storage.REGISTERED_SUBNET_NODES_DATA,
    *PEER_ID_ITEMS,
    storage.MULTIADDR_SUBNET_NODE_ID,
    storage.UNIQUE_PARAM_SUBNET_NODE_ID,
    storage.HOTKEY_SUBNET_NODE_ID,
    storage.SUBNET_NODE_ID_HOTKEY,
    storage.SUBNET_NODE_REPUTATION,
    storage.CONSECUTIVE_INCLUDED_EPOCHS,
    storage.SUBNET_ELECTED_VALIDATOR,
    storage.NODE_SLOT_INDEX,
)


def clean_subnet_nodes(runtime: Runtime, subnet_id: int) -> None:
    """Delete every node item of a subnet that is being removed.

    Seen on the real runtime and kept: TotalElectableNodes is not lowered, and the counts of
    Idle epochs stay.
    """
    state = runtime.state
    active = state.get(storage.TOTAL_ACTIVE_SUBNET_NODES, subnet_id)
    state.add(storage.TOTAL_ACTIVE_NODES, amount=-active)
    for item in _SUBNET_NODE_PREFIXES:
        state.remove_prefix(item, subnet_id)
    for total in (
        storage.TOTAL_ACTIVE_SUBNET_NODES,
        storage.TOTAL_SUBNET_NODES,
        storage.TOTAL_SUBNET_NODE_UIDS,
        storage.TOTAL_SUBNET_ELECTABLE_NODES,
    ):
        state.remove(total, subnet_id)
    state.remove(storage.SUBNET_NODE_ELECTION_SLOTS, subnet_id)
    state.remove(storage.SUBNET_NODE_QUEUE, subnet_id)


def claim_peer(
    runtime: Runtime, subnet_id: int, item: Item[int], info: PeerInfo, node_id: int
) -> None:
    """Reserve a peer id, and the multiaddr if there is one, for the node."""
    runtime.state.put(item, subnet_id, info.peer_id, value=node_id)
    if info.multiaddr is not None:
        addresses = storage.MULTIADDR_SUBNET_NODE_ID
        runtime.state.put(addresses, subnet_id, info.multiaddr, value=node_id)


def release_peer(runtime: Runtime, subnet_id: int, item: Item[int], info: PeerInfo | None) -> None:
    """Free what :func:`claim_peer` reserved."""
    if info is not None:
        runtime.state.remove(item, subnet_id, info.peer_id)
        if info.multiaddr is not None:
            runtime.state.remove(storage.MULTIADDR_SUBNET_NODE_ID, subnet_id, info.multiaddr)
