"""Stake, unbonding and delegated stake, with the numbers seen on the real runtime."""

from __future__ import annotations

from typing import Any

import pytest

from subnet.devchain import items
from subnet.devchain.calls import (
    AddStake,
    AddToDelegateStake,
    ClaimUnbondings,
    DonateDelegateStake,
    RemoveDelegateStake,
    RemoveStake,
    RemoveSubnetNode,
    TransferDelegateStake,
)
from subnet.devchain.errors import DispatchError
from subnet.devchain.events import StakeRemoved, SubnetDelegateStakeAdded
from subnet.devchain.values import TENSOR
from tests.support.ledger_world import FIRST_SUBNET, World, coldkey, hotkey

DELEGATOR, OTHER = coldkey(6), coldkey(7)


@pytest.fixture
def world() -> World:
    started = World()
    started.start()
    return started


def refused(world: World, origin: bytes, call: Any) -> str:
    with pytest.raises(DispatchError) as failure:
        world.apply(origin, call)
    return failure.value.name


def free(world: World, account: bytes) -> int:
    return int(world.state.get(items.ACCOUNT, account).data.free)


def idle_node(world: World) -> int:
    return next(node_id for node_id in range(1, 5) if node_id != world.elected)


def add(node_id: int, amount: int) -> AddStake:
    return AddStake(FIRST_SUBNET, node_id, hotkey(node_id - 1), amount)


def remove(node_id: int, amount: int) -> RemoveStake:
    return RemoveStake(FIRST_SUBNET, hotkey(node_id - 1), amount)


def test_stake_is_added_by_the_coldkey_up_to_the_maximum(world: World) -> None:
    assert refused(world, coldkey(5), add(1, TENSOR)) == "NotKeyOwner"
    assert refused(world, coldkey(0), add(1, 901 * TENSOR)) == "MaxStakeReached"
    world.apply(coldkey(0), add(1, 900 * TENSOR))
    assert world.stake(1) == 1000 * TENSOR


def test_removed_stake_is_claimable_one_epoch_later_to_the_block(world: World) -> None:
    """Seen: removed in block 308, claimable exactly in block 328."""
    world.advance_to(308)
    node_id = idle_node(world)
    owner = coldkey(node_id - 1)
    world.apply(owner, add(node_id, 5 * TENSOR))
    events = world.apply(owner, remove(node_id, 5 * TENSOR))
    assert events == [StakeRemoved(FIRST_SUBNET, owner, hotkey(node_id - 1), 5 * TENSOR)]
    assert world.state.get(items.STAKE_UNBONDING_LEDGER, owner) == {328: 5 * TENSOR}
    before = free(world, owner)
    world.advance_to(327)
    assert refused(world, owner, ClaimUnbondings()) == "NoStakeUnbondingsOrCooldownNotMet"
    world.advance_to(328)
    world.apply(owner, ClaimUnbondings())
    assert free(world, owner) == before + 5 * TENSOR
    assert world.state.get(items.TOTAL_UNBONDING_BALANCE) == 0


def test_a_node_keeps_the_minimum_and_the_elected_keeps_everything(world: World) -> None:
    node_id, elected = idle_node(world), world.elected
    assert refused(world, coldkey(node_id - 1), remove(node_id, 1)) == "MinStakeNotReached"
    assert refused(world, coldkey(node_id - 1), remove(node_id, 0)) == "AmountZero"
    too_much = remove(node_id, 10**30)
    assert refused(world, coldkey(node_id - 1), too_much) == "NotEnoughStakeToWithdraw"
    assert (
        refused(world, coldkey(elected - 1), remove(elected, 1)) == "ElectedValidatorCannotUnstake"
    )
    assert refused(world, hotkey(node_id - 1), remove(node_id, 1)) == "NotKeyOwner"


def test_a_fresh_node_cannot_unstake_yet() -> None:
    world = World()
    world.register_subnet()
    world.register_node(0, stake_to_be_added=200 * TENSOR)
    world.activate_node(0)
    assert refused(world, coldkey(0), remove(1, TENSOR)) == "MinActiveNodeStakeEpochs"


def test_a_former_node_takes_everything_and_its_hotkey_is_free_again(world: World) -> None:
    node_id = idle_node(world)
    owner = coldkey(node_id - 1)
    world.apply(owner, RemoveSubnetNode(FIRST_SUBNET, node_id))
    world.apply(owner, remove(node_id, 40 * TENSOR))
    assert world.state.get(items.HOTKEY_OWNER, hotkey(node_id - 1)) == owner
    world.apply(owner, remove(node_id, 60 * TENSOR))
    assert not world.state.contains(items.HOTKEY_OWNER, hotkey(node_id - 1))
    assert world.state.get(items.COLDKEY_HOTKEYS, owner) == frozenset()
    world.register_node(node_id - 1)


def test_the_unbonding_ledger_is_bounded(world: World) -> None:
    world.apply(coldkey(0), add(1, 900 * TENSOR))
    world.state.put(items.STAKE_COOLDOWN_EPOCHS, value=100)
    for _ in range(32):
        world.advance(20)
        while world.elected == 1:
            world.advance(20)
        world.apply(coldkey(0), remove(1, TENSOR))
    world.advance(20)
    while world.elected == 1:
        world.advance(20)
    assert refused(world, coldkey(0), remove(1, TENSOR)) == "MaxUnlockingsReached"


def test_the_first_deposit_mints_dead_shares(world: World) -> None:
    amount = 50 * TENSOR
    events = world.apply(DELEGATOR, AddToDelegateStake(FIRST_SUBNET, amount))
    assert events[-1] == SubnetDelegateStakeAdded(FIRST_SUBNET, DELEGATOR, amount)
    shares = items.ACCOUNT_SUBNET_DELEGATE_STAKE_SHARES
    assert world.state.get(shares, DELEGATOR, FIRST_SUBNET) == amount
    total = world.state.get(items.TOTAL_SUBNET_DELEGATE_STAKE_SHARES, FIRST_SUBNET)
    assert total == amount + 1000
    assert world.state.get(items.SUBNET_NET_FLOW, FIRST_SUBNET) == amount


def test_rewards_make_shares_dearer(world: World) -> None:
    world.apply(DELEGATOR, AddToDelegateStake(FIRST_SUBNET, 50 * TENSOR))
    world.apply(OTHER, DonateDelegateStake(FIRST_SUBNET, 50 * TENSOR))
    world.apply(OTHER, AddToDelegateStake(FIRST_SUBNET, 50 * TENSOR))
    shares = world.state.get(items.ACCOUNT_SUBNET_DELEGATE_STAKE_SHARES, OTHER, FIRST_SUBNET)
    assert shares / TENSOR == pytest.approx(25, abs=1e-6)
    world.apply(DELEGATOR, RemoveDelegateStake(FIRST_SUBNET, 50 * TENSOR))
    ledger = world.state.get(items.STAKE_UNBONDING_LEDGER, DELEGATOR)
    assert list(ledger) == [43]
    assert ledger[43] / TENSOR == pytest.approx(100, abs=1e-6)
    assert ledger[43] <= 100 * TENSOR


def test_delegation_is_refused_by_name(world: World) -> None:
    assert refused(world, OTHER, AddToDelegateStake(7, TENSOR)) == "InvalidSubnetId"
    small = AddToDelegateStake(FIRST_SUBNET, 999)
    assert refused(world, OTHER, small) == "MinDelegateStakeDepositNotReached"
    rich = AddToDelegateStake(FIRST_SUBNET, 10**30)
    assert refused(world, OTHER, rich) == "NotEnoughBalanceToStake"
    assert refused(world, OTHER, RemoveDelegateStake(FIRST_SUBNET, 0)) == "SharesZero"
    none = RemoveDelegateStake(FIRST_SUBNET, 5)
    assert refused(world, OTHER, none) == "NotEnoughStakeToWithdraw"
    assert refused(world, OTHER, DonateDelegateStake(FIRST_SUBNET, 1)) == "MinDelegateStake"


def test_shares_move_between_accounts_and_come_from_somewhere(world: World) -> None:
    world.apply(DELEGATOR, AddToDelegateStake(FIRST_SUBNET, 50 * TENSOR))
    to_self = TransferDelegateStake(FIRST_SUBNET, DELEGATOR, TENSOR)
    assert refused(world, DELEGATOR, to_self) == "TransferToSelfNotAllowed"
    more = TransferDelegateStake(FIRST_SUBNET, OTHER, 51 * TENSOR)
    assert refused(world, DELEGATOR, more) == "NotEnoughStakeToWithdraw"
    world.apply(DELEGATOR, TransferDelegateStake(FIRST_SUBNET, OTHER, 20 * TENSOR))
    shares = items.ACCOUNT_SUBNET_DELEGATE_STAKE_SHARES
    assert world.state.get(shares, OTHER, FIRST_SUBNET) == 20 * TENSOR
    assert world.state.get(shares, DELEGATOR, FIRST_SUBNET) == 30 * TENSOR
