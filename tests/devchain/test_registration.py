"""Registering subnets and nodes: what the pallet refuses, and in which order."""

from __future__ import annotations

from typing import Any

import pytest

from consensus.types import NodeClass
from devchain import storage
from devchain.calls import (
    ActivateSubnet,
    OwnerUpdateMisc,
    RegisterSubnet,
    RemoveSubnetNode,
    UpdateBootnodes,
    UpdatePeerInfo,
)
from devchain.chain_types import (
    TENSOR,
    ActivationMode,
    DelegateAccount,
    PeerInfo,
    SubnetState,
)
from devchain.errors import DispatchError
from devchain.events import (
    StakeAdded,
    SubnetNodeRegistered,
    SubnetRegistered,
)
from devchain.runtime import TREASURY_ACCOUNT
from tests.support.ledger_world import (
    FIRST_SUBNET,
    World,
    coldkey,
    hotkey,
    multiaddr,
    node_call,
    peer_text,
    subnet_data,
)

POOR = bytes([9]) * 20


def refuse(world: World, origin: bytes, call: Any) -> str:
    """Apply a call that must fail without a trace; return the error's name."""
    before = dict(world.state._versions)
    snapshot = {item: {k: list(v) for k, v in keys.items()} for item, keys in before.items()}
    with pytest.raises(DispatchError) as failure:
        world.apply(origin, call)
    after = {
        item: {k: list(v) for k, v in keys.items() if v}
        for item, keys in world.state._versions.items()
    }
    assert {i: k for i, k in after.items() if k} == {i: k for i, k in snapshot.items() if k}
    return failure.value.name


def test_a_subnet_gets_the_next_id_the_lowest_slot_and_its_settings() -> None:
    world = World()
    world.advance(18)
    events = world.apply(coldkey(0), RegisterSubnet(2 * TENSOR, subnet_data(misc=b"note")))
    assert events[-1] == SubnetRegistered(coldkey(0), b"mesh", FIRST_SUBNET)
    subnet = world.state.get(storage.SUBNETS_DATA, FIRST_SUBNET)
    assert (subnet.friendly_id, subnet.state, subnet.misc) == (1, SubnetState.REGISTERED, b"note")
    assert subnet.start_epoch == 2**32 - 1
    assert world.state.get(storage.SUBNET_SLOT, FIRST_SUBNET) == 3
    assert world.state.get(storage.SLOT_ASSIGNMENT, 3) == FIRST_SUBNET


def test_the_price_decays_and_doubles_as_on_the_real_chain() -> None:
    world = World()
    world.advance(18)
    world.register_subnet()
    paid = world.state.get(storage.ACCOUNT, TREASURY_ACCOUNT).data.free
    assert paid // 10**13 == 99998
    assert world.state.get(storage.LAST_REGISTRATION_COST) == 2 * paid
    world.apply(coldkey(0), RegisterSubnet(2 * TENSOR, subnet_data(name=b"second", repo=b"second")))
    assert world.state.get(storage.SUBNET_SLOT, FIRST_SUBNET + 1) == 4


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"bootnodes": {}}, "BootnodesEmpty"),
        ({"bootnodes": {peer_text(i): multiaddr(i) for i in range(1, 34)}}, "TooManyBootnodes"),
        ({"bootnodes": {b"12D3": multiaddr(1)}}, "InvalidBootnodePeerId"),
        ({"bootnodes": {b"\x00$" + bytes(36): multiaddr(1)}}, "InvalidBootnodePeerId"),
        ({"bootnodes": {peer_text(1): b""}}, "MultiaddrInvalidProtocol"),
        ({"bootnodes": {peer_text(1): multiaddr(1)[:8]}}, "MultiaddrInvalidProtocol"),
        ({"bootnodes": {peer_text(1): multiaddr(1)[:-1]}}, "MultiaddrTruncated"),
        ({"bootnodes": {peer_text(1): b"\xcc\x03" + multiaddr(1)}}, "MultiaddrInvalidProtocol"),
        ({"bootnodes": {peer_text(1): b"\xff" * 12}}, "MultiaddrInvalidVarint"),
        ({"min_stake": 99 * TENSOR}, "InvalidSubnetMinStake"),
        ({"max_stake": 1001 * TENSOR}, "InvalidSubnetMaxStake"),
        ({"min_stake": 200 * TENSOR, "max_stake": 150 * TENSOR}, "InvalidSubnetStakeParameters"),
        ({"delegate_stake_percentage": TENSOR // 100}, "InvalidMinDelegateStakePercentage"),
        ({"initial_coldkeys": {coldkey(0): 1}}, "InvalidSubnetRegistrationInitialColdkeys"),
        (
            {"initial_coldkeys": {coldkey(i): i for i in range(3)}},
            "InvalidSubnetRegistrationInitialColdkeys",
        ),
    ],
)
def test_a_bad_subnet_is_refused_by_name(changes: dict[str, Any], error: str) -> None:
    world = World()
    world.advance()
    assert refuse(world, coldkey(0), RegisterSubnet(TENSOR, subnet_data(**changes))) == error


def test_names_repos_costs_and_slots_run_out_by_name() -> None:
    world = World(epoch_length=5)
    world.register_subnet()
    again = RegisterSubnet(100 * TENSOR, subnet_data())
    assert refuse(world, coldkey(0), again) == "SubnetNameExist"
    other = RegisterSubnet(100 * TENSOR, subnet_data(name=b"other"))
    assert refuse(world, coldkey(0), other) == "SubnetRepoExist"
    dear = RegisterSubnet(TENSOR, subnet_data(name=b"other", repo=b"other"))
    assert refuse(world, coldkey(0), dear) == "CostGreaterThanMaxCost"
    fine = RegisterSubnet(100 * TENSOR, subnet_data(name=b"other", repo=b"other"))
    assert refuse(world, POOR, fine) == "NotEnoughBalanceToRegisterSubnet"
    world.apply(coldkey(0), fine)
    third = RegisterSubnet(100 * TENSOR, subnet_data(name=b"third", repo=b"third"))
    assert refuse(world, coldkey(0), third) == "NoAvailableSlots"


def test_a_registration_burns_stakes_and_waits() -> None:
    world = World()
    world.register_subnet()
    events = world.apply(coldkey(1), node_call(1))
    assert StakeAdded(FIRST_SUBNET, coldkey(1), hotkey(1), 100 * TENSOR) in events
    assert isinstance(events[-1], SubnetNodeRegistered)
    assert events[-1].data.classification.node_class is NodeClass.REGISTERED
    spent = 10_000 * TENSOR - world.state.get(storage.ACCOUNT, coldkey(1)).data.free
    assert spent == 100 * TENSOR + TENSOR // 100_000
    assert world.state.get(storage.HOTKEY_SUBNET_NODE_ID, FIRST_SUBNET, hotkey(1)) == 1
    assert not world.state.contains(storage.SUBNET_NODES_DATA, FIRST_SUBNET, 1)
    assert world.state.get(storage.INITIAL_COLDKEY_DATA, FIRST_SUBNET) == {coldkey(1): 1}


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"subnet_id": 5}, "InvalidSubnetId"),
        ({"hotkey": coldkey(1)}, "ColdkeyMatchesHotkey"),
        ({"hotkey": hotkey(0)}, "HotkeyHasOwner"),
        ({"peer_info": PeerInfo(b"short")}, "InvalidPeerId"),
        ({"peer_info": PeerInfo(peer_text(1))}, "PeerIdExist"),
        ({"peer_info": PeerInfo(peer_text(9), b"\x01")}, "MultiaddrInvalidProtocol"),
        ({"peer_info": PeerInfo(peer_text(9), multiaddr(1))}, "MultiaddrExist"),
        ({"bootnode_peer_info": PeerInfo(peer_text(2))}, "PeerIdExist"),
        ({"client_peer_info": PeerInfo(b"?" * 52)}, "InvalidPeerId"),
        ({"unique": b"taken"}, "SubnetNodeUniqueParamTaken"),
        ({"delegate_account": DelegateAccount(hotkey(1), 1)}, "DelegateAccountCannotBeHotkey"),
        ({"delegate_account": DelegateAccount(coldkey(1), 1)}, "DelegateAccountCannotBeColdkey"),
        ({"delegate_account": DelegateAccount(POOR, 0)}, "InvalidDelegateAccountRate"),
        ({"delegate_reward_rate": TENSOR + 1}, "InvalidDelegateRewardRate"),
        ({"max_burn_amount": 1}, "MaxBurnAmountExceeded"),
        ({"stake_to_be_added": 0}, "InvalidAmount"),
        ({"stake_to_be_added": 99 * TENSOR}, "MinStakeNotReached"),
        ({"stake_to_be_added": 1001 * TENSOR}, "MaxStakeReached"),
    ],
)
def test_a_bad_node_is_refused_by_name(changes: dict[str, Any], error: str) -> None:
    world = World()
    world.register_subnet()
    world.register_node(0, peer_info=PeerInfo(peer_text(1), multiaddr(1)), unique=b"taken")
    assert refuse(world, coldkey(1), node_call(1, **changes)) == error


def test_only_listed_coldkeys_register_and_only_as_often_as_allowed() -> None:
    world = World()
    world.register_subnet()
    assert refuse(world, POOR, node_call(7)) == "ColdkeyRegistrationWhitelist"
    world.register_node(0)
    assert refuse(world, coldkey(0), node_call(7)) == "MaxRegisteredNodes"


def test_a_coldkey_without_funds_cannot_stake() -> None:
    world = World()
    world.register_subnet(initial_coldkeys={POOR: 1, coldkey(0): 1, coldkey(1): 1})
    assert refuse(world, POOR, node_call(7)) == "BalanceBurnError"


def test_activation_needs_its_owner_and_three_active_nodes() -> None:
    world = World()
    world.register_subnet()
    activate = ActivateSubnet(FIRST_SUBNET)
    assert refuse(world, coldkey(1), activate) == "NotSubnetOwner"
    for index in range(3):
        world.register_node(index)
    assert refuse(world, coldkey(0), activate) == "SubnetActivationConditionsNotMetYet"
    for index in range(3):
        world.activate_node(index)
    world.apply(coldkey(0), activate)
    assert world.state.get(storage.SUBNETS_DATA, FIRST_SUBNET).start_epoch == 1
    assert not world.state.contains(storage.SUBNET_REGISTRATION_INITIAL_COLDKEYS, FIRST_SUBNET)
    assert refuse(world, coldkey(0), activate) == "SubnetActivatedAlready"


def test_a_subnet_that_misses_its_deadline_is_removed() -> None:
    world = World(parameters={"SubnetRegistrationEpochs": 1, "SubnetEnactmentEpochs": 1})
    world.register_subnet()
    world.register_node(0)
    world.advance_to(45)
    assert world.state.find(storage.SUBNETS_DATA, FIRST_SUBNET) is None
    assert world.state.get(storage.ACCOUNT_SUBNET_STAKE, hotkey(0), FIRST_SUBNET) == 100 * TENSOR
    assert world.state.get(storage.ASSIGNED_SLOTS) == frozenset()


def test_no_node_registers_during_enactment() -> None:
    world = World(parameters={"SubnetRegistrationEpochs": 0, "MinSubnetNodes": 1})
    world.register_subnet()
    world.register_node(0)
    world.activate_node(0)
    world.advance_to(21)
    assert refuse(world, coldkey(1), node_call(1)) == "SubnetMustBeRegisteringOrActivated"


def test_owner_settings_are_the_owners() -> None:
    world = World()
    world.register_subnet()
    change = OwnerUpdateMisc(FIRST_SUBNET, b"mesh-manifest:00")
    assert refuse(world, coldkey(1), change) == "NotSubnetOwner"
    world.apply(coldkey(0), change)
    assert world.state.get(storage.SUBNETS_DATA, FIRST_SUBNET).misc == b"mesh-manifest:00"


def test_bootnodes_are_removed_then_added_by_those_with_access() -> None:
    world = World()
    world.register_subnet()
    change = UpdateBootnodes(
        FIRST_SUBNET, {peer_text(1): multiaddr(1)}, frozenset({peer_text(250)})
    )
    assert refuse(world, coldkey(1), change) == "InvalidAccess"
    world.apply(coldkey(0), change)
    assert world.state.get(storage.SUBNET_BOOTNODES, FIRST_SUBNET) == {peer_text(1): multiaddr(1)}
    broken = UpdateBootnodes(FIRST_SUBNET, {peer_text(2): b"?"}, frozenset())
    assert refuse(world, coldkey(0), broken) == "InvalidMultiaddr"


def test_peer_info_changes_only_for_the_coldkey_and_to_a_new_peer_id() -> None:
    world = World()
    world.start()
    fresh = UpdatePeerInfo(FIRST_SUBNET, 1, PeerInfo(peer_text(77)))
    assert refuse(world, hotkey(0), fresh) == "NotKeyOwner"
    same = UpdatePeerInfo(FIRST_SUBNET, 1, PeerInfo(peer_text(1)))
    assert refuse(world, coldkey(0), same) == "PeerIdExist"
    world.apply(coldkey(0), fresh)
    assert world.node(1).peer_info.peer_id == peer_text(77)
    assert not world.state.contains(storage.PEER_ID_SUBNET_NODE_ID, FIRST_SUBNET, peer_text(1))


def test_a_removed_node_is_forgotten_but_keeps_its_stake() -> None:
    world = World()
    world.start()
    leaver = next(node_id for node_id in range(1, 5) if node_id != world.elected)
    assert refuse(world, coldkey(7), RemoveSubnetNode(FIRST_SUBNET, leaver)) == "NotKeyOwner"
    elected = RemoveSubnetNode(FIRST_SUBNET, world.elected)
    assert refuse(world, hotkey(world.elected - 1), elected) == "ElectedValidatorCannotRemove"
    world.apply(hotkey(leaver - 1), RemoveSubnetNode(FIRST_SUBNET, leaver))
    assert leaver not in world.state.get(storage.SUBNET_NODE_ELECTION_SLOTS, FIRST_SUBNET)
    assert world.state.get(storage.TOTAL_ACTIVE_SUBNET_NODES, FIRST_SUBNET) == 3
    assert world.stake(leaver) == 100 * TENSOR
    assert refuse(world, coldkey(7), node_call(leaver - 1)) == "HotkeyHasOwner"
    slots = world.state.get(storage.SUBNET_NODE_ELECTION_SLOTS, FIRST_SUBNET)
    indices = [world.state.get(storage.NODE_SLOT_INDEX, FIRST_SUBNET, node) for node in slots]
    assert indices == [0, 1, 2]


def test_automatic_mode_makes_nodes_of_a_registering_subnet_validators_at_once() -> None:
    world = World(activation_mode=ActivationMode.AUTOMATIC)
    world.register_subnet()
    world.register_node(0)
    assert world.node(1).classification.node_class is NodeClass.VALIDATOR


def test_a_paused_network_refuses_every_call() -> None:
    world = World()
    world.register_subnet()
    world.state.put(storage.TX_PAUSE, value=True)
    assert refuse(world, coldkey(1), node_call(1)) == "Paused"
