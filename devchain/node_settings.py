"""Calls that change a node: peer ids, delegate reward rate, parameters, delegate account."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from devchain import calls, events, storage
from devchain.chain_types import DelegateAccount, SubnetNode
from devchain.errors import ensure, fail
from devchain.nodes import (
    check_coldkey,
    check_delegate_account,
    check_keys_owner,
    check_peer_info,
    claim_peer,
    get_node,
    release_peer,
)
from devchain.runtime import Runtime
from devchain.state import Item


def _change(runtime: Runtime, subnet_id: int, node: SubnetNode, **changes: Any) -> None:
    """Store the changed node where it is, active or waiting."""
    is_active = runtime.state.contains(storage.SUBNET_NODES_DATA, subnet_id, node.id)
    item = storage.SUBNET_NODES_DATA if is_active else storage.REGISTERED_SUBNET_NODES_DATA
    runtime.state.put(item, subnet_id, node.id, value=replace(node, **changes))


@dataclass(frozen=True)
class _PeerSlot:
    """One of a node's three peer ids: its field, its reverse map, its event."""

    field: str
    item: Item[int]
    event: Callable[[int, int, Any], events.Event]


PeerInfoCall = calls.UpdatePeerInfo | calls.UpdateBootnodePeerInfo | calls.UpdateClientPeerInfo
_PEER_SLOTS: dict[type[calls.Call], _PeerSlot] = {
    calls.UpdatePeerInfo: _PeerSlot(
        "peer_info", storage.PEER_ID_SUBNET_NODE_ID, events.SubnetNodeUpdatePeerInfo
    ),
    calls.UpdateBootnodePeerInfo: _PeerSlot(
        "bootnode_peer_info",
        storage.BOOTNODE_PEER_ID_SUBNET_NODE_ID,
        events.SubnetNodeUpdateBootnodePeerInfo,
    ),
    calls.UpdateClientPeerInfo: _PeerSlot(
        "client_peer_info",
        storage.CLIENT_PEER_ID_SUBNET_NODE_ID,
        events.SubnetNodeUpdateClientPeerInfo,
    ),
}


def update_peer_info(runtime: Runtime, origin: bytes, call: PeerInfoCall) -> None:
    """Change one of the node's peer ids and its multiaddr; only the coldkey may."""
    subnet_id, slot, info = call.subnet_id, _PEER_SLOTS[type(call)], call.new_peer_info
    check_coldkey(runtime, origin, subnet_id, call.subnet_node_id)
    node = get_node(runtime.state, subnet_id, call.subnet_node_id)
    if info is not None:
        check_peer_info(runtime, subnet_id, info)
    release_peer(runtime, subnet_id, slot.item, getattr(node, slot.field))
    if info is not None:
        claim_peer(runtime, subnet_id, slot.item, info, node.id)
    _change(runtime, subnet_id, node, **{slot.field: info})
    runtime.emit(slot.event(subnet_id, node.id, info))


def update_node_delegate_reward_rate(
    runtime: Runtime, origin: bytes, call: calls.UpdateNodeDelegateRewardRate
) -> None:
    """Change what part of its rewards the node gives to its delegators; slowly downwards."""
    state, subnet_id, rate = runtime.state, call.subnet_id, call.new_delegate_reward_rate
    check_coldkey(runtime, origin, subnet_id, call.subnet_node_id)
    highest = state.get(storage.MAX_DELEGATE_STAKE_PERCENTAGE)
    ensure(rate <= highest, "InvalidDelegateRewardRate")
    node = get_node(state, subnet_id, call.subnet_node_id)
    passed = runtime.block - node.last_delegate_reward_rate_update
    ensure(passed >= state.get(storage.NODE_REWARD_RATE_UPDATE_PERIOD), "MaxRewardRateUpdates")
    ensure(rate != node.delegate_reward_rate, "NoDelegateRewardRateChange")
    step = state.get(storage.MAX_REWARD_RATE_DECREASE)
    ensure(node.delegate_reward_rate - rate <= step, "SurpassesMaxRewardRateDecrease")
    changes = {"delegate_reward_rate": rate, "last_delegate_reward_rate_update": runtime.block}
    _change(runtime, subnet_id, node, **changes)
    runtime.emit(events.SubnetNodeUpdateDelegateRewardRate(subnet_id, node.id, rate))


def update_unique(runtime: Runtime, origin: bytes, call: calls.UpdateUnique) -> None:
    """Change the parameter that no two nodes of a subnet share."""
    state, subnet_id, item = runtime.state, call.subnet_id, storage.UNIQUE_PARAM_SUBNET_NODE_ID
    check_keys_owner(runtime, origin, subnet_id, call.subnet_node_id)
    node = get_node(state, subnet_id, call.subnet_node_id)
    if node.unique is not None:
        state.remove(item, subnet_id, node.unique)
    if call.unique is not None:
        ensure(not state.contains(item, subnet_id, call.unique), "UniqueParameterTaken")
        state.put(item, subnet_id, call.unique, value=node.id)
    _change(runtime, subnet_id, node, unique=call.unique)
    runtime.emit(events.SubnetNodeUpdateUnique(subnet_id, node.id, call.unique))


def update_non_unique(runtime: Runtime, origin: bytes, call: calls.UpdateNonUnique) -> None:
    """Change the node's free parameter."""
    check_keys_owner(runtime, origin, call.subnet_id, call.subnet_node_id)
    node = get_node(runtime.state, call.subnet_id, call.subnet_node_id)
    _change(runtime, call.subnet_id, node, non_unique=call.non_unique)
    runtime.emit(events.SubnetNodeUpdateNonUnique(call.subnet_id, node.id, call.non_unique))


def update_delegate_account(
    runtime: Runtime, origin: bytes, call: calls.UpdateDelegateAccount
) -> None:
    """Change the account that gets part of the node's rewards, or the part; the other stays."""
    check_coldkey(runtime, origin, call.subnet_id, call.subnet_node_id)
    node = get_node(runtime.state, call.subnet_id, call.subnet_node_id)
    account_id, rate, present = call.delegate_account_id, call.delegate_rate, node.delegate_account
    ensure(account_id is not None or rate is not None, "InvalidDelegateAccountParameters")
    if present is not None:
        account_id = present.account_id if account_id is None else account_id
        rate = present.rate if rate is None else rate
    if account_id is None:
        fail("DelegateAccountIdIsNone")
    if rate is None:
        fail("DelegateAccountRateIsNone")
    _set_delegate(runtime, call.subnet_id, node, DelegateAccount(account_id, rate))


def _set_delegate(
    runtime: Runtime, subnet_id: int, node: SubnetNode, delegate: DelegateAccount
) -> None:
    coldkey = runtime.state.get(storage.HOTKEY_OWNER, node.hotkey)
    check_delegate_account(delegate, coldkey=coldkey, hotkey=node.hotkey)
    _change(runtime, subnet_id, node, delegate_account=delegate)
    runtime.emit(events.SubnetNodeUpdateDelegateAccount(subnet_id, node.id, delegate))


def transfer_delegate_account(
    runtime: Runtime, origin: bytes, call: calls.TransferDelegateAccount
) -> None:
    """Hand the delegate account's part to another account, as the delegate account itself."""
    node = get_node(runtime.state, call.subnet_id, call.subnet_node_id)
    present = node.delegate_account
    if present is None:
        fail("NoDelegateAccountSet")
    ensure(present.account_id == origin, "NotDelegateAccountOwner")
    successor = replace(present, account_id=call.delegate_account_id)
    _set_delegate(runtime, call.subnet_id, node, successor)
