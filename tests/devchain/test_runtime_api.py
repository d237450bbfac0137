"""The pallet's own queries through state_call."""

from __future__ import annotations

from typing import Any

import pytest

from devchain import runtime_api, storage
from devchain.calls import AddToDelegateStake
from devchain.chain_types import TENSOR, PeerInfo
from devchain.runtime_api import FUNCTIONS, View, call_function
from devchain.scale import (
    Bool,
    ByteVec,
    ScaleError,
    TupleOf,
    decode_all,
)
from tests.support.ledger_world import (
    FIRST_SUBNET,
    World,
    coldkey,
    hotkey,
    multiaddr,
    peer_text,
)


@pytest.fixture(scope="module")
def world() -> World:
    started = World()
    started.register_subnet()
    for index in range(3):
        started.register_node(
            index,
            peer_info=PeerInfo(peer_text(index + 1), multiaddr(index + 1)),
            bootnode_peer_info=PeerInfo(peer_text(index + 41), multiaddr(index + 41)),
        )
        started.activate_node(index)
    started.register_node(3)
    from devchain.calls import ActivateSubnet

    started.apply(coldkey(0), ActivateSubnet(FIRST_SUBNET))
    started.advance_to(23)
    started.apply(coldkey(6), AddToDelegateStake(FIRST_SUBNET, 50 * TENSOR))
    return started


def ask(world: World, name: str, *arguments: Any) -> Any:
    """Call a function as a client would, through its bytes."""
    view = View(world.state, world.ledger.block, 20)
    function = FUNCTIONS[name]
    answer = call_function(view, name, TupleOf(function.arguments).encode(arguments))
    if function.result == Bool():
        return decode_all(Bool(), answer)
    return decode_all(function.result, decode_all(ByteVec(), answer))


def test_a_subnet_is_described_completely(world: World) -> None:
    info = ask(world, "get_subnet_info", FIRST_SUBNET)
    assert (info.id, info.name, info.slot_index, info.slot_assignment) == (
        FIRST_SUBNET,
        b"mesh",
        3,
        None,
    )
    assert (info.total_nodes, info.total_active_nodes, info.total_electable_nodes) == (4, 3, 3)
    assert info.total_subnet_delegate_stake_balance == 50 * TENSOR
    assert ask(world, "get_all_subnets_info") == (info,)
    assert ask(world, "get_subnet_info", 5) is None


def test_nodes_are_listed_waiting_ones_too(world: World) -> None:
    infos = ask(world, "get_subnet_nodes_info", FIRST_SUBNET)
    assert {info.subnet_node_id for info in infos} == {1, 2, 3, 4}
    assert ask(world, "get_all_subnet_nodes_info") == infos
    [waiting] = ask(world, "get_coldkey_subnet_nodes_info", coldkey(3))
    assert (waiting.subnet_node_id, waiting.hotkey) == (4, hotkey(3))
    assert ask(world, "get_subnet_node_info", FIRST_SUBNET, 4) == waiting
    electable = ask(world, "get_validators_and_attestors", FIRST_SUBNET)
    assert [info.subnet_node_id for info in electable] == [1, 2, 3]
    elected = ask(world, "get_elected_validator_info", FIRST_SUBNET, world.epoch)
    assert elected.subnet_node_id == world.elected
    assert ask(world, "get_elected_validator_info", FIRST_SUBNET, 0) is None


def test_stakes_are_listed_by_owner(world: World) -> None:
    [stake] = ask(world, "get_coldkey_stakes", coldkey(1))
    assert (stake.subnet_node_id, stake.balance) == (2, 100 * TENSOR)
    [delegated] = ask(world, "get_delegate_stakes", coldkey(6))
    assert delegated.shares == 50 * TENSOR
    assert 0 < 50 * TENSOR - delegated.balance < 2000
    assert ask(world, "get_node_delegate_stakes", coldkey(6)) == ()


def test_bootnodes_are_official_announced_and_waiting(world: World) -> None:
    bootnodes = ask(world, "get_bootnodes", FIRST_SUBNET)
    assert bootnodes.subnet_bootnodes == {peer_text(250): multiaddr(250)}
    assert set(bootnodes.node_bootnodes) == {peer_text(41), peer_text(42), peer_text(43)}
    assert bootnodes.registered_bootnodes == {}


@pytest.mark.parametrize(
    ("peer", "min_class", "min_stake", "answer"),
    [
        (peer_text(1), 3, None, True),
        (peer_text(41), 3, None, True),
        (peer_text(1), 3, 101 * TENSOR, False),
        (peer_text(1), 4, None, False),
        (peer_text(4), 0, None, True),
        (peer_text(4), 1, None, False),
        (peer_text(250), 3, 10**30, True),
        (peer_text(99), 0, 0, False),
    ],
)
def test_stake_is_proven_by_peer_id(
    world: World, peer: bytes, min_class: int, min_stake: int | None, answer: bool
) -> None:
    assert ask(world, "proof_of_stake", FIRST_SUBNET, peer, min_class, min_stake) is answer


def test_a_queued_node_proves_nothing_before_its_start(world: World) -> None:
    node = world.state.get(storage.REGISTERED_SUBNET_NODES_DATA, FIRST_SUBNET, 4)
    assert node.classification.start_epoch == 0
    assert ask(world, "proof_of_stake", 5, peer_text(1), 0, None) is False


def test_bad_arguments_are_refused(world: World) -> None:
    view = View(world.state, world.ledger.block, 20)
    with pytest.raises(ScaleError):
        call_function(view, "get_subnet_info", b"\x01")
    with pytest.raises(KeyError):
        call_function(view, "get_everything", b"")
    assert ask(world, "get_all_overwatch_nodes_info") == ()
    assert runtime_api.API_VERSION == 1
