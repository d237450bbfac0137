"""Calls that change an account's hotkeys and coldkeys, and its identity."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from devchain import calls, events, storage
from devchain.balances import increase_stake
from devchain.chain_types import ColdkeyIdentityData
from devchain.errors import ensure
from devchain.runtime import Runtime
from devchain.state import Item, Key


def _swap(runtime: Runtime, item: Item[Any], first: Key, second: Key) -> None:
    """Exchange two entries, either of which may be absent."""
    state = runtime.state
    ours, theirs = state.take(item, *first), state.take(item, *second)
    if ours is not None:
        state.put(item, *second, value=ours)
    if theirs is not None:
        state.put(item, *first, value=theirs)


def update_hotkey(runtime: Runtime, origin: bytes, call: calls.UpdateHotkey) -> None:
    """Give a node another hotkey, with its maps and its stake."""
    state, old, new = runtime.state, call.old_hotkey, call.new_hotkey
    ensure(origin != new, "ColdkeyMatchesHotkey")
    ensure(state.find(storage.HOTKEY_OWNER, old) == origin, "NotKeyOwner")
    ensure(not state.contains(storage.HOTKEY_OWNER, new), "HotkeyHasOwner")
    hotkeys = state.get(storage.COLDKEY_HOTKEYS, origin)
    ensure(old in hotkeys, "OldHotkeyNotRegistered")
    state.put(storage.COLDKEY_HOTKEYS, origin, value=hotkeys - {old} | {new})
    _swap(runtime, storage.HOTKEY_OWNER, (old,), (new,))
    subnet_id = state.take(storage.HOTKEY_SUBNET_ID, old)
    if subnet_id is not None:
        _move_node(runtime, subnet_id, old, new)
        state.put(storage.HOTKEY_SUBNET_ID, new, value=subnet_id)
    for (_, staked_in), amount in list(state.items(storage.ACCOUNT_SUBNET_STAKE, old)):
        increase_stake(runtime, old, staked_in, -amount)
        increase_stake(runtime, new, staked_in, amount)
    runtime.emit(events.UpdateHotkey(old, new))


def _move_node(runtime: Runtime, subnet_id: int, old: bytes, new: bytes) -> None:
    state = runtime.state
    node_id = state.take(storage.HOTKEY_SUBNET_NODE_ID, subnet_id, old)
    if node_id is None:
        return
    state.put(storage.HOTKEY_SUBNET_NODE_ID, subnet_id, new, value=node_id)
    state.put(storage.SUBNET_NODE_ID_HOTKEY, subnet_id, node_id, value=new)
    for item in (storage.SUBNET_NODES_DATA, storage.REGISTERED_SUBNET_NODES_DATA):
        node = state.find(item, subnet_id, node_id)
        if node is not None:
            state.put(item, subnet_id, node_id, value=replace(node, hotkey=new))


def update_coldkey(runtime: Runtime, origin: bytes, call: calls.UpdateColdkey) -> None:
    """Hand one hotkey, and everything that the coldkey has, to another coldkey.

    As on the real runtime the coldkey's other hotkeys keep naming the old one.
    """
    state, new = runtime.state, call.new_coldkey
    ensure(call.hotkey != new, "ColdkeyMatchesHotkey")
    ensure(state.find(storage.HOTKEY_OWNER, call.hotkey) == origin, "NotKeyOwner")
    state.put(storage.HOTKEY_OWNER, call.hotkey, value=new)
    identity = state.find(storage.COLDKEY_IDENTITY, origin)
    if identity is not None:
        state.put(storage.COLDKEY_IDENTITY_NAME_OWNER, identity.name, value=new)
        _swap(runtime, storage.COLDKEY_IDENTITY, (origin,), (new,))
    for item in (
        storage.STAKE_UNBONDING_LEDGER,
        storage.COLDKEY_HOTKEYS,
        storage.COLDKEY_REPUTATION,
        storage.COLDKEY_SUBNET_NODES,
    ):
        _swap(runtime, item, (origin,), (new,))
    runtime.emit(events.UpdateColdkey(origin, new))


def register_or_update_identity(
    runtime: Runtime, origin: bytes, call: calls.RegisterOrUpdateIdentity
) -> None:
    """Store the coldkey's identity; every field is required."""
    state = runtime.state
    ensure(state.get(storage.HOTKEY_OWNER, call.hotkey) == origin, "NotKeyOwner")
    identity = ColdkeyIdentityData(
        **{field.name: getattr(call, field.name) for field in fields(ColdkeyIdentityData)}
    )
    filled = all(getattr(identity, field.name) for field in fields(identity))
    ensure(filled, "IdentityFieldEmpty")
    owner = state.find(storage.COLDKEY_IDENTITY_NAME_OWNER, identity.name)
    ensure(owner in (None, origin), "IdentityTaken")
    present = state.find(storage.COLDKEY_IDENTITY, origin)
    if present is not None:
        state.remove(storage.COLDKEY_IDENTITY_NAME_OWNER, present.name)
    state.put(storage.COLDKEY_IDENTITY_NAME_OWNER, identity.name, value=origin)
    state.put(storage.COLDKEY_IDENTITY, origin, value=identity)
    runtime.emit(events.IdentityRegistered(origin, identity))


def remove_identity(runtime: Runtime, origin: bytes, _call: calls.RemoveIdentity) -> None:
    """Remove the coldkey's identity."""
    identity = runtime.state.take(storage.COLDKEY_IDENTITY, origin) or ColdkeyIdentityData()
    runtime.state.remove(storage.COLDKEY_IDENTITY_NAME_OWNER, identity.name)
    runtime.emit(events.IdentityRemoved(origin, identity))
