"""Owners: settings, pause, removal, succession; and the keys of nodes."""

from __future__ import annotations

from typing import Any

import pytest

from devchain import calls, storage
from devchain.chain_types import (
    ONE,
    TENSOR,
    PeerInfo,
    SubnetRemovalReason,
    SubnetState,
)
from devchain.events import ChurnLimitUpdate, SubnetDeactivated
from devchain.subnet_owner import SETTINGS
from tests.support.ledger_world import FIRST_SUBNET, World, coldkey, hotkey, peer_text, refused

OWNER, STRANGER = coldkey(0), coldkey(5)
IDENTITY_FIELDS = (b"name", b"url", b"image", b"d", b"x", b"t", b"g", b"h", b"about", b"misc")


@pytest.fixture
def world() -> World:
    started = World()
    started.start()
    return started


def test_a_setting_changes_within_its_limits_and_is_announced(world: World) -> None:
    limit = calls.OwnerUpdateChurnLimit(FIRST_SUBNET, 9)
    assert refused(world, STRANGER, limit) == "NotSubnetOwner"
    assert world.apply(OWNER, limit) == [ChurnLimitUpdate(FIRST_SUBNET, OWNER, 9)]
    assert world.state.get(storage.CHURN_LIMIT, FIRST_SUBNET) == 9
    for value in (0, 65):
        bad = calls.OwnerUpdateChurnLimit(FIRST_SUBNET, value)
        assert refused(world, OWNER, bad) == "InvalidChurnLimit"


@pytest.mark.parametrize("call", SETTINGS)
def test_every_setting_refuses_strangers_and_absurd_values(world: World, call: Any) -> None:
    assert refused(world, STRANGER, call(FIRST_SUBNET, 5)) == "NotSubnetOwner"
    unlimited = calls.OwnerUpdateQueueImmunityEpochs
    if call is not unlimited:
        error = refused(
            world, OWNER, call(FIRST_SUBNET, 2**32 - 1 if "Epochs" in call.__name__ else 2 * ONE)
        )
        assert error in (SETTINGS[call].error, "InvalidPercent")


def test_registrations_and_their_target_bound_each_other(world: World) -> None:
    world.apply(OWNER, calls.OwnerUpdateMaxRegisteredNodes(FIRST_SUBNET, 10))
    target = calls.OwnerUpdateTargetNodeRegistrationsPerEpoch
    assert refused(world, OWNER, target(FIRST_SUBNET, 11)).startswith("InvalidTarget")
    world.apply(OWNER, target(FIRST_SUBNET, 10))
    more = calls.OwnerUpdateMaxRegisteredNodes(FIRST_SUBNET, 11)
    assert refused(world, OWNER, more) == "InvalidMaxRegisteredNodes"


def test_a_name_is_free_again_once_it_is_given_up(world: World) -> None:
    taken = calls.OwnerUpdateName(FIRST_SUBNET, b"mesh")
    assert refused(world, OWNER, taken) == "SubnetNameExist"
    world.apply(OWNER, calls.OwnerUpdateName(FIRST_SUBNET, b"fresh"))
    world.apply(OWNER, taken)
    world.apply(OWNER, calls.OwnerUpdateRepo(FIRST_SUBNET, b"elsewhere"))
    assert world.state.get(storage.SUBNET_REPO, b"elsewhere") == FIRST_SUBNET


def test_a_pause_stops_registrations_and_delays_those_who_wait(world: World) -> None:
    world.register_node(4)
    start = world.state.get(
        storage.REGISTERED_SUBNET_NODES_DATA, FIRST_SUBNET, 5
    ).classification.start_epoch
    pause = calls.OwnerPauseSubnet(FIRST_SUBNET)
    assert refused(world, STRANGER, pause) == "NotSubnetOwner"
    world.apply(OWNER, pause)
    assert refused(world, OWNER, pause) == "SubnetMustBeActive"
    from tests.support.ledger_world import node_call

    assert refused(world, coldkey(5), node_call(5)) == "SubnetIsPaused"
    world.advance(40)
    world.apply(OWNER, calls.OwnerUnpauseSubnet(FIRST_SUBNET))
    subnet = world.state.get(storage.SUBNETS_DATA, FIRST_SUBNET)
    assert (subnet.state, subnet.start_epoch) == (SubnetState.ACTIVE, 4)
    delayed = world.state.get(
        storage.REGISTERED_SUBNET_NODES_DATA, FIRST_SUBNET, 5
    ).classification.start_epoch
    assert delayed == start + 3


def test_a_paused_subnet_pays_no_penalty_for_a_missing_proposal(world: World) -> None:
    world.apply(OWNER, calls.OwnerPauseSubnet(FIRST_SUBNET))
    assert world.advance(20) == []
    assert world.elected in range(1, 5)


def test_a_subnet_paused_too_long_is_removed() -> None:
    world = World(
        parameters={
            "MinSubnetRegistrationEpochs": 0,
            "MaxSubnetPauseEpochs": 1,
            "MinSubnetDelegateStakeFactor": 0,
            "SubnetPauseCooldownEpochs": 0,
        }
    )
    world.start()
    world.apply(OWNER, calls.OwnerPauseSubnet(FIRST_SUBNET))
    world.advance(20 * 25)
    assert world.state.find(storage.SUBNETS_DATA, FIRST_SUBNET) is None


def test_a_deactivated_subnet_is_gone_and_stakes_can_leave(world: World) -> None:
    events = world.apply(OWNER, calls.OwnerDeactivateSubnet(FIRST_SUBNET))
    assert events[-1] == SubnetDeactivated(FIRST_SUBNET, SubnetRemovalReason.OWNER)
    assert not list(world.state.items(storage.SUBNET_NODES_DATA))
    assert world.state.get(storage.TOTAL_ACTIVE_NODES) == 0
    world.apply(coldkey(1), calls.RemoveStake(FIRST_SUBNET, hotkey(1), 100 * TENSOR))
    world.advance(20)
    world.apply(coldkey(1), calls.ClaimUnbondings())
    world.register_subnet()
    assert world.state.get(storage.SUBNET_SLOT, FIRST_SUBNET + 1) == 3


def test_a_subnet_under_its_minimum_of_delegated_stake_is_removed_on_even_epochs(
    world: World,
) -> None:
    world.state.put(storage.MIN_SUBNET_DELEGATE_STAKE_FACTOR, value=ONE // 1000)
    world.advance_to(39)
    assert world.state.find(storage.SUBNETS_DATA, FIRST_SUBNET) is not None
    events = world.advance_to(40)
    reason = SubnetRemovalReason.MIN_SUBNET_DELEGATE_STAKE
    assert events[-1] == SubnetDeactivated(FIRST_SUBNET, reason)


def test_ownership_passes_when_the_heir_accepts(world: World) -> None:
    accept = calls.AcceptSubnetOwnership(FIRST_SUBNET)
    assert refused(world, STRANGER, accept) == "NoPendingSubnetOwner"
    world.apply(OWNER, calls.TransferSubnetOwnership(FIRST_SUBNET, STRANGER))
    assert refused(world, coldkey(6), accept) == "NotPendingSubnetOwner"
    world.apply(STRANGER, accept)
    assert world.state.get(storage.SUBNET_OWNER, FIRST_SUBNET) == STRANGER


def test_initial_coldkeys_change_only_while_registering() -> None:
    world = World()
    world.register_subnet()
    add = calls.OwnerAddOrUpdateInitialColdkeys(FIRST_SUBNET, {coldkey(1): 2})
    world.apply(OWNER, add)
    world.apply(OWNER, calls.OwnerRemoveInitialColdkeys(FIRST_SUBNET, frozenset({coldkey(2)})))
    allowed = world.state.get(storage.SUBNET_REGISTRATION_INITIAL_COLDKEYS, FIRST_SUBNET)
    assert allowed[coldkey(1)] == 2 and coldkey(2) not in allowed
    started = World()
    started.start()
    assert refused(started, OWNER, add) == "SubnetMustBeRegistering"


def test_stake_limits_and_the_delegates_share_change_in_bounds(world: World) -> None:
    limits = calls.OwnerUpdateMinMaxStake
    assert refused(world, OWNER, limits(FIRST_SUBNET, 200, 100)) == "InvalidValues"
    assert refused(world, OWNER, limits(FIRST_SUBNET, 1, 100)) == "InvalidSubnetMinStake"
    world.apply(OWNER, limits(FIRST_SUBNET, 150 * TENSOR, 500 * TENSOR))
    share = calls.OwnerUpdateDelegateStakePercentage
    jump = share(FIRST_SUBNET, ONE // 2)
    assert refused(world, OWNER, jump) == "DelegateStakePercentageAbsDiffTooLarge"
    world.apply(OWNER, share(FIRST_SUBNET, ONE * 12 // 100))
    again = share(FIRST_SUBNET, ONE * 13 // 100)
    assert refused(world, OWNER, again) == "DelegateStakePercentageUpdateTooSoon"


def test_bootnode_access_is_given_and_taken(world: World) -> None:
    give = calls.OwnerAddBootnodeAccess(FIRST_SUBNET, STRANGER)
    world.apply(OWNER, give)
    assert refused(world, OWNER, give) == "InBootnodeAccessList"
    take = calls.OwnerRemoveBootnodeAccess(FIRST_SUBNET, STRANGER)
    world.apply(OWNER, take)
    assert refused(world, OWNER, take) == "NotInAccessList"


def test_a_new_hotkey_takes_the_node_and_its_stake(world: World) -> None:
    node_id = next(number for number in range(1, 5) if number != world.elected)
    owner, old, new = coldkey(node_id - 1), hotkey(node_id - 1), hotkey(99)
    taken = calls.UpdateHotkey(old, hotkey(node_id % 4))
    assert refused(world, owner, taken) == "HotkeyHasOwner"
    assert refused(world, STRANGER, calls.UpdateHotkey(old, new)) == "NotKeyOwner"
    assert refused(world, owner, calls.UpdateHotkey(old, owner)) == "ColdkeyMatchesHotkey"
    world.apply(owner, calls.UpdateHotkey(old, new))
    assert world.node(node_id).hotkey == new
    assert world.state.get(storage.ACCOUNT_SUBNET_STAKE, new, FIRST_SUBNET) == 100 * TENSOR
    assert world.state.get(storage.HOTKEY_SUBNET_NODE_ID, FIRST_SUBNET, new) == node_id
    world.propose((1, 2, 3, 4))
    world.apply(new, calls.Attest(FIRST_SUBNET))


def test_a_new_coldkey_takes_what_the_old_one_had(world: World) -> None:
    new = bytes([8]) * 20
    world.apply(coldkey(1), calls.UpdateColdkey(hotkey(1), new))
    assert world.state.get(storage.HOTKEY_OWNER, hotkey(1)) == new
    assert world.state.get(storage.COLDKEY_HOTKEYS, new) == frozenset({hotkey(1)})
    assert world.state.get(storage.COLDKEY_SUBNET_NODES, new) == {FIRST_SUBNET: frozenset({2})}
    again = calls.UpdateColdkey(hotkey(1), coldkey(1))
    assert refused(world, coldkey(1), again) == "NotKeyOwner"


def test_an_identity_needs_every_field_and_its_own_name(world: World) -> None:
    identity = calls.RegisterOrUpdateIdentity(hotkey(1), *IDENTITY_FIELDS)
    assert refused(world, coldkey(2), identity) == "NotKeyOwner"
    empty = calls.RegisterOrUpdateIdentity(hotkey(1), *IDENTITY_FIELDS[:-1], b"")
    assert refused(world, coldkey(1), empty) == "IdentityFieldEmpty"
    world.apply(coldkey(1), identity)
    other = calls.RegisterOrUpdateIdentity(hotkey(2), *IDENTITY_FIELDS)
    assert refused(world, coldkey(2), other) == "IdentityTaken"
    world.apply(coldkey(1), calls.RemoveIdentity())
    world.apply(coldkey(2), other)


def test_bootnode_and_client_peers_share_one_namespace(world: World) -> None:
    bootnode = calls.UpdateBootnodePeerInfo(FIRST_SUBNET, 1, PeerInfo(peer_text(60)))
    world.apply(coldkey(0), bootnode)
    client = calls.UpdateClientPeerInfo(FIRST_SUBNET, 2, PeerInfo(peer_text(60)))
    assert refused(world, coldkey(1), client) == "PeerIdExist"
    world.apply(coldkey(0), calls.UpdateBootnodePeerInfo(FIRST_SUBNET, 1, None))
    world.apply(coldkey(1), client)
    assert world.node(1).bootnode_peer_info is None
    assert world.node(2).client_peer_info == PeerInfo(peer_text(60))
