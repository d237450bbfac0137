"""Runtimes of different shapes serve the same client; an unknown one is refused by name."""

from __future__ import annotations

from typing import Any, cast

import pytest

from consensus.types import SubnetId, SubnetNodeId
from keys.peer import PeerKey
from subnet.chain.chain_session import ChainSession
from subnet.chain.codec import Runtime
from subnet.chain.interface import REQUIRED_CALLS, REQUIRED_STORAGE, check_interface
from subnet.chain.shapes import HotkeyShape, ValidatorShape, add_own_node, choose_shape
from subnet.errors import ChainMismatch

SUBNET = SubnetId(128001)
HOTKEYS = {number: f"0x{number:040x}" for number in range(1, 9)}


class FakeRuntime:
    """Declares names, as metadata does."""

    def __init__(self, *, storage: set[str], attest: tuple[str, ...] = ()) -> None:
        self._storage = storage
        self._attest = attest

    def has_storage(self, pallet: str, item: str) -> bool:
        return f"{pallet}.{item}" in self._storage

    def has_call(self, pallet: str, name: str) -> bool:
        return f"{pallet}.{name}" in REQUIRED_CALLS

    def get_call_arguments(self, _pallet: str, _name: str) -> tuple[str, ...]:
        return self._attest


class FakeSession:
    """Answers from dictionaries."""

    def __init__(self, runtime: FakeRuntime, state: dict[str, dict[Any, Any]]) -> None:
        self.runtime = runtime
        self._state = state

    def read_head_hash(self) -> str:
        return "0x00"

    def read_map(self, item: str, *_keys: object, at: str) -> list[tuple[Any, Any]]:
        return list(self._state.get(item, {}).items())

    def read_many(self, item: str, keys: list[Any], *, at: str) -> list[Any]:
        return [self._state[item].get(key) for key in keys]


def make_row(node_id: int, **more: object) -> dict[str, object]:
    text = str(PeerKey(bytes([node_id]) * 32).peer_id)
    return {
        "id": node_id,
        "peer_info": {"peer_id": f"0x{text.encode().hex()}", "multiaddr": None},
        "classification": {"node_class": "Validator", "start_epoch": 0},
        **more,
    }


VALIDATORS = FakeRuntime(
    storage={
        *REQUIRED_STORAGE,
        "Network.ValidatorIdHotkey",
        "Network.ValidatorColdkey",
        "Network.SubnetNodeIdHotkey",
    },
    attest=("subnet_id", "subnet_node_id", "data"),
)
NODES = {
    "Network.SubnetNodesData": {
        3: make_row(3, validator_id=7),
        1: make_row(1, validator_id=7),
        2: make_row(2, validator_id=8),
    },
    "Network.ValidatorIdHotkey": {7: HOTKEYS[7], 8: HOTKEYS[8]},
    "Network.ValidatorColdkey": {7: HOTKEYS[5], 8: HOTKEYS[6]},
    "Network.SubnetNodeIdHotkey": {3: HOTKEYS[4]},
}


def make_session(runtime: FakeRuntime, state: dict[str, dict[Any, Any]]) -> ChainSession:
    return cast(ChainSession, FakeSession(runtime, state))


def account(number: int) -> bytes:
    return number.to_bytes(20, "big")


def test_nodes_of_validators_are_read_with_the_keys_that_sign_and_own() -> None:
    shape = choose_shape(cast(Runtime, VALIDATORS))
    assert isinstance(shape, ValidatorShape)
    nodes = shape.read_nodes(make_session(VALIDATORS, NODES), SUBNET, at="0x00")
    assert [(n.node_id, n.hotkey, n.coldkey) for n in nodes] == [
        (1, account(7), account(5)),
        (2, account(8), account(6)),
        (3, account(4), account(5)),
    ]


def test_a_call_that_names_the_node_gets_the_hotkeys_own() -> None:
    session = make_session(VALIDATORS, NODES)
    arguments = {"subnet_id": SUBNET, "data": None}
    for hotkey, node_id in ((7, 1), (8, 2), (4, 3)):
        complete = add_own_node(session, "attest", arguments, hotkey=account(hotkey), node_id=None)
        assert complete["subnet_node_id"] == node_id


def test_a_hotkey_of_no_node_or_of_several_is_asked_which() -> None:
    several = {**NODES, "Network.SubnetNodeIdHotkey": {}}
    for state, hotkey, names in ((NODES, 1, "none"), (several, 7, "1, 3")):
        session = make_session(VALIDATORS, state)
        with pytest.raises(ChainMismatch, match=names):
            add_own_node(
                session, "attest", {"subnet_id": SUBNET}, hotkey=account(hotkey), node_id=None
            )
    complete = add_own_node(
        make_session(VALIDATORS, several),
        "attest",
        {"subnet_id": SUBNET},
        hotkey=account(7),
        node_id=SubnetNodeId(3),
    )
    assert complete["subnet_node_id"] == 3


def test_a_call_that_does_not_name_the_node_is_left_alone() -> None:
    runtime = FakeRuntime(storage=set(), attest=("subnet_id", "attest_data"))
    arguments = {"subnet_id": SUBNET, "attest_data": None}
    session = make_session(runtime, {})
    assert add_own_node(session, "attest", arguments, hotkey=account(1), node_id=None) == arguments


def test_a_runtime_with_hotkeys_is_hoskinsons_shape() -> None:
    runtime = FakeRuntime(storage={"Network.HotkeyOwner", "Network.HotkeySubnetNodeId"})
    assert isinstance(choose_shape(cast(Runtime, runtime)), HotkeyShape)


def test_an_unknown_shape_is_refused_by_name() -> None:
    runtime = FakeRuntime(storage=set(REQUIRED_STORAGE))
    with pytest.raises(ChainMismatch, match="a hotkey for each node or a validator for each node"):
        check_interface(cast(Runtime, runtime), url="ws://somewhere")


def test_everything_that_a_runtime_lacks_is_named_at_once() -> None:
    runtime = FakeRuntime(storage={*REQUIRED_STORAGE} - {"Network.SubnetSlot", "Timestamp.Now"})
    with pytest.raises(ChainMismatch, match=r"lacks Timestamp\.Now, Network\.SubnetSlot"):
        check_interface(cast(Runtime, runtime), url="ws://somewhere")
