"""What the owner of a node may change about it, beside its peer ids."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from devchain import calls, items
from devchain.errors import ensure, fail
from devchain.events import (
    SubnetNodeUpdateDelegateAccount,
    SubnetNodeUpdateDelegateRewardRate,
    SubnetNodeUpdateNonUnique,
    SubnetNodeUpdateUnique,
)
from devchain.nodes import check_delegate_account, check_keys_owner, find_node
from devchain.runtime import Runtime
from devchain.values import DelegateAccount, SubnetNode


def _require_node(runtime: Runtime, subnet_id: int, node_id: int) -> SubnetNode:
    node = find_node(runtime, subnet_id, node_id)
    if node is None:
        fail("InvalidSubnetNodeId")
    return node


def _check_coldkey(runtime: Runtime, origin: bytes, subnet_id: int, node_id: int) -> None:
    hotkey = runtime.state.find(items.SUBNET_NODE_ID_HOTKEY, subnet_id, node_id)
    owner = runtime.state.find(items.HOTKEY_OWNER, hotkey) if hotkey is not None else None
    ensure(owner == origin, "NotKeyOwner")


def _change(runtime: Runtime, subnet_id: int, node: SubnetNode, **changes: Any) -> None:
    """Store the changed node where it is, active or waiting."""
    is_active = runtime.state.contains(items.SUBNET_NODES_DATA, subnet_id, node.id)
    item = items.SUBNET_NODES_DATA if is_active else items.REGISTERED_SUBNET_NODES_DATA
    runtime.state.put(item, subnet_id, node.id, value=replace(node, **changes))


def update_node_delegate_reward_rate(
    runtime: Runtime, origin: bytes, call: calls.UpdateNodeDelegateRewardRate
) -> None:
    """Change what part of its rewards the node gives to its delegators; slowly downwards."""
    state, rate = runtime.state, call.new_delegate_reward_rate
    _check_coldkey(runtime, origin, call.subnet_id, call.subnet_node_id)
    highest = state.get(items.MAX_DELEGATE_STAKE_PERCENTAGE)
    ensure(rate <= highest, "InvalidDelegateRewardRate")
    node = _require_node(runtime, call.subnet_id, call.subnet_node_id)
    passed = runtime.block - node.last_delegate_reward_rate_update
    ensure(passed >= state.get(items.NODE_REWARD_RATE_UPDATE_PERIOD), "MaxRewardRateUpdates")
    ensure(rate != node.delegate_reward_rate, "NoDelegateRewardRateChange")
    step = state.get(items.MAX_REWARD_RATE_DECREASE)
    ensure(node.delegate_reward_rate - rate <= step, "SurpassesMaxRewardRateDecrease")
    _change(
        runtime,
        call.subnet_id,
        node,
        delegate_reward_rate=rate,
        last_delegate_reward_rate_update=runtime.block,
    )
    runtime.emit(SubnetNodeUpdateDelegateRewardRate(call.subnet_id, node.id, rate))


def update_unique(runtime: Runtime, origin: bytes, call: calls.UpdateUnique) -> None:
    """Change the parameter that no two nodes of a subnet share."""
    state, subnet_id, item = runtime.state, call.subnet_id, items.UNIQUE_PARAM_SUBNET_NODE_ID
    check_keys_owner(runtime, origin, subnet_id, call.subnet_node_id)
    node = _require_node(runtime, subnet_id, call.subnet_node_id)
    if node.unique is not None:
        state.remove(item, subnet_id, node.unique)
    if call.unique is not None:
        ensure(not state.contains(item, subnet_id, call.unique), "UniqueParameterTaken")
        state.put(item, subnet_id, call.unique, value=node.id)
    _change(runtime, subnet_id, node, unique=call.unique)
    runtime.emit(SubnetNodeUpdateUnique(subnet_id, node.id, call.unique))


def update_non_unique(runtime: Runtime, origin: bytes, call: calls.UpdateNonUnique) -> None:
    """Change the node's free parameter."""
    check_keys_owner(runtime, origin, call.subnet_id, call.subnet_node_id)
    node = _require_node(runtime, call.subnet_id, call.subnet_node_id)
    _change(runtime, call.subnet_id, node, non_unique=call.non_unique)
    runtime.emit(SubnetNodeUpdateNonUnique(call.subnet_id, node.id, call.non_unique))


def update_delegate_account(
    runtime: Runtime, origin: bytes, call: calls.UpdateDelegateAccount
) -> None:
    """Change who gets part of the node's rewards, or which part; the other stays."""
    _check_coldkey(runtime, origin, call.subnet_id, call.subnet_node_id)
    node = _require_node(runtime, call.subnet_id, call.subnet_node_id)
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
    coldkey = runtime.state.get(items.HOTKEY_OWNER, node.hotkey)
    check_delegate_account(delegate, coldkey=coldkey, hotkey=node.hotkey)
    _change(runtime, subnet_id, node, delegate_account=delegate)
    runtime.emit(SubnetNodeUpdateDelegateAccount(subnet_id, node.id, delegate))


def transfer_delegate_account(
    runtime: Runtime, origin: bytes, call: calls.TransferDelegateAccount
) -> None:
    """The delegate account hands its part to another account."""
    node = _require_node(runtime, call.subnet_id, call.subnet_node_id)
    present = node.delegate_account
    if present is None:
        fail("NoDelegateAccountSet")
    ensure(present.account_id == origin, "NotDelegateAccountOwner")
    successor = replace(present, account_id=call.delegate_account_id)
    _set_delegate(runtime, call.subnet_id, node, successor)
