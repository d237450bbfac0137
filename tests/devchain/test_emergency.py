"""The emergency set: named in a pause, alone elected and asked, and gone when its time is over."""

from __future__ import annotations

import pytest

from devchain import storage
from devchain.calls import (
    Attest,
    OwnerPauseSubnet,
    OwnerRevertEmergencyValidatorSet,
    OwnerSetEmergencyValidatorSet,
    OwnerUnpauseSubnet,
    OwnerUpdateAbsentDecreaseReputationFactor,
    OwnerUpdateIncludedIncreaseReputationFactor,
    RemoveSubnetNode,
)
from devchain.chain_types import ONE, EmergencySubnetValidatorData
from devchain.events import SubnetForked, SubnetForkRevert
from tests.support.ledger_world import FIRST_SUBNET, World, coldkey, hotkey, refused

OWNER = coldkey(0)
CHOSEN = (1, 2, 3)


@pytest.fixture
def world() -> World:
    """A paused subnet of five Validators, right after the slot of an epoch."""
    started = World()
    started.start(5)
    started.apply(OWNER, OwnerPauseSubnet(FIRST_SUBNET))
    return started


def choose(*node_ids: int) -> OwnerSetEmergencyValidatorSet:
    return OwnerSetEmergencyValidatorSet(FIRST_SUBNET, node_ids)


def find_set(world: World) -> EmergencySubnetValidatorData | None:
    found = world.state.find(storage.EMERGENCY_SUBNET_NODE_ELECTION_DATA, FIRST_SUBNET)
    assert found is None or isinstance(found, EmergencySubnetValidatorData)
    return found


def find_reputation(world: World, node_id: int) -> int:
    return int(world.state.get(storage.SUBNET_NODE_REPUTATION, FIRST_SUBNET, node_id))


def go_on(world: World) -> None:
    """Name the set, end the pause, and go to the next election."""
    world.apply(OWNER, choose(*CHOSEN))
    world.apply(OWNER, OwnerUnpauseSubnet(FIRST_SUBNET))
    world.advance(20)


def test_the_owner_names_validators_in_a_pause(world: World) -> None:
    (event,) = world.apply(OWNER, choose(3, 3, 1, 99, 2))
    assert event == SubnetForked(FIRST_SUBNET, OWNER, (3, 1, 2))
    # 0.9 ** 22 < 0.1 is the first power below the least reputation, and one more removes.
    assert find_set(world) == EmergencySubnetValidatorData((3, 1, 2), 23, 0, 0)


def test_a_set_is_the_owners_and_of_a_paused_subnet_and_not_too_small(world: World) -> None:
    assert refused(world, coldkey(1), choose(*CHOSEN)) == "NotSubnetOwner"
    assert refused(world, OWNER, choose(1, 1, 2, 99)) == "InvalidMinEmergencySubnetNodes"
    world.state.put(storage.MAX_EMERGENCY_SUBNET_NODES, value=3)
    assert refused(world, OWNER, choose(1, 2, 3, 4)) == "InvalidMaxEmergencySubnetNodes"
    world.apply(OWNER, OwnerUnpauseSubnet(FIRST_SUBNET))
    assert refused(world, OWNER, choose(*CHOSEN)) == "SubnetMustBePaused"


def test_its_time_runs_from_the_end_of_the_pause(world: World) -> None:
    world.apply(OWNER, choose(*CHOSEN))
    world.apply(OWNER, OwnerUnpauseSubnet(FIRST_SUBNET))
    data = find_set(world)
    assert data is not None
    assert data.max_emergency_validators_epoch == world.epoch + 2 * 23


def test_a_set_does_not_outlive_a_slot_within_the_pause(world: World) -> None:
    world.apply(OWNER, choose(*CHOSEN))
    world.advance(20)
    assert find_set(world) is None


def test_only_the_set_is_elected_and_attests_and_makes_consensus(world: World) -> None:
    go_on(world)
    assert world.elected in CHOSEN
    world.propose((1, 2, 3, 4, 5))
    assert refused(world, hotkey(4 - 1), Attest(FIRST_SUBNET)) == "InvalidEmergencySubnetNodeId"
    before = {node_id: world.stake(node_id) for node_id in CHOSEN}
    standing = {node_id: find_reputation(world, node_id) for node_id in (4, 5)}
    for node_id in set(CHOSEN) - {world.elected}:
        world.attest(node_id)
    world.advance(20)
    # Three of three agreed: nobody else is blamed for silence.
    for node_id in (4, 5):
        assert find_reputation(world, node_id) >= standing[node_id]
    assert any(world.stake(node_id) > before[node_id] for node_id in CHOSEN)
    data = find_set(world)
    assert data is not None
    assert data.total_epochs == 1


def test_a_silent_member_of_the_set_is_blamed_by_a_super_majority(world: World) -> None:
    go_on(world)
    data = find_set(world)
    assert data is not None
    world.state.put(storage.SUPER_MAJORITY_ATTESTATION_RATIO, value=ONE * 66 // 100)
    world.propose((1, 2, 3, 4, 5))
    attestor, silent = sorted(set(CHOSEN) - {world.elected})
    world.attest(attestor)
    standing = {node_id: find_reputation(world, node_id) for node_id in (silent, 4)}
    world.advance(20)
    assert find_reputation(world, silent) < standing[silent]
    assert find_reputation(world, 4) >= standing[4]


@pytest.mark.parametrize(
    "change",
    [{"total_epochs": 24}, {"max_emergency_validators_epoch": 1}],
)
def test_a_set_whose_time_is_over_ends_with_the_next_election(
    world: World, change: dict[str, int]
) -> None:
    go_on(world)
    fields = {
        "subnet_node_ids": CHOSEN,
        "target_emergency_validators_epochs": 23,
        "max_emergency_validators_epoch": 99,
        "total_epochs": 0,
    }
    data = EmergencySubnetValidatorData(**{**fields, **change})  # type: ignore[arg-type]
    world.state.put(storage.EMERGENCY_SUBNET_NODE_ELECTION_DATA, FIRST_SUBNET, value=data)
    world.advance(20)
    assert find_set(world) is None


def test_a_node_that_leaves_leaves_the_set(world: World) -> None:
    world.apply(OWNER, choose(1, 2, 3, 4))
    leaver = next(node_id for node_id in (1, 2, 3, 4) if node_id != world.elected)
    world.apply(coldkey(leaver - 1), RemoveSubnetNode(FIRST_SUBNET, leaver))
    data = find_set(world)
    assert data is not None
    assert data.subnet_node_ids == tuple(node for node in (1, 2, 3, 4) if node != leaver)


def test_the_factors_that_timed_a_set_stay_while_it_stands(world: World) -> None:
    slower = OwnerUpdateAbsentDecreaseReputationFactor(FIRST_SUBNET, ONE // 5)
    world.apply(OWNER, choose(*CHOSEN))
    assert refused(world, OWNER, slower) == "EmergencyValidatorsSet"
    world.apply(OWNER, OwnerUpdateIncludedIncreaseReputationFactor(FIRST_SUBNET, ONE // 5))
    (event,) = world.apply(OWNER, OwnerRevertEmergencyValidatorSet(FIRST_SUBNET))
    assert event == SubnetForkRevert(FIRST_SUBNET, OWNER)
    assert find_set(world) is None
    world.apply(OWNER, slower)
