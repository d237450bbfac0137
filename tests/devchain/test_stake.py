"""Stake, unbonding and delegated stake, with the numbers seen on the real runtime."""

from __future__ import annotations

import pytest

from devchain import storage
from devchain.calls import (
    ActivateSubnet,
    AddStake,
    AddToDelegateStake,
    AddToNodeDelegateStake,
    ClaimUnbondings,
    DonateDelegateStake,
    DonateNodeDelegateStake,
    RemoveDelegateBalance,
    RemoveDelegateStake,
    RemoveNodeDelegateStake,
    RemoveStake,
    RemoveSubnetNode,
    TransferDelegateAccount,
    TransferDelegateStake,
    TransferNodeDelegateStake,
    UpdateDelegateAccount,
    UpdateNodeDelegateRewardRate,
    UpdateNonUnique,
    UpdateUnique,
)
from devchain.chain_types import TENSOR, DelegateAccount
from devchain.events import StakeRemoved, SubnetDelegateStakeAdded, SubnetRewards
from tests.support.ledger_world import FIRST_SUBNET, World, coldkey, hotkey, refused

DELEGATOR, OTHER = coldkey(6), coldkey(7)


@pytest.fixture
def world() -> World:
    started = World()
    started.start()
    return started


def free(world: World, account: bytes) -> int:
    return int(world.state.get(storage.ACCOUNT, account).data.free)


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
    assert world.state.get(storage.STAKE_UNBONDING_LEDGER, owner) == {328: 5 * TENSOR}
    before = free(world, owner)
    world.advance_to(327)
    assert refused(world, owner, ClaimUnbondings()) == "NoStakeUnbondingsOrCooldownNotMet"
    world.advance_to(328)
    world.apply(owner, ClaimUnbondings())
    assert free(world, owner) == before + 5 * TENSOR
    assert world.state.get(storage.TOTAL_UNBONDING_BALANCE) == 0


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
    assert world.state.get(storage.HOTKEY_OWNER, hotkey(node_id - 1)) == owner
    world.apply(owner, remove(node_id, 60 * TENSOR))
    assert not world.state.contains(storage.HOTKEY_OWNER, hotkey(node_id - 1))
    assert world.state.get(storage.COLDKEY_HOTKEYS, owner) == frozenset()
    world.register_node(node_id - 1)


def test_the_unbonding_ledger_is_bounded(world: World) -> None:
    world.apply(coldkey(0), add(1, 900 * TENSOR))
    world.state.put(storage.STAKE_COOLDOWN_EPOCHS, value=100)
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
    shares = storage.ACCOUNT_SUBNET_DELEGATE_STAKE_SHARES
    assert world.state.get(shares, DELEGATOR, FIRST_SUBNET) == amount
    total = world.state.get(storage.TOTAL_SUBNET_DELEGATE_STAKE_SHARES, FIRST_SUBNET)
    assert total == amount + 1000
    assert world.state.get(storage.SUBNET_NET_FLOW, FIRST_SUBNET) == amount


def test_rewards_make_shares_dearer(world: World) -> None:
    world.apply(DELEGATOR, AddToDelegateStake(FIRST_SUBNET, 50 * TENSOR))
    world.apply(OTHER, DonateDelegateStake(FIRST_SUBNET, 50 * TENSOR))
    world.apply(OTHER, AddToDelegateStake(FIRST_SUBNET, 50 * TENSOR))
    shares = world.state.get(storage.ACCOUNT_SUBNET_DELEGATE_STAKE_SHARES, OTHER, FIRST_SUBNET)
    assert shares / TENSOR == pytest.approx(25, abs=1e-6)
    world.apply(DELEGATOR, RemoveDelegateStake(FIRST_SUBNET, 50 * TENSOR))
    ledger = world.state.get(storage.STAKE_UNBONDING_LEDGER, DELEGATOR)
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
    shares = storage.ACCOUNT_SUBNET_DELEGATE_STAKE_SHARES
    assert world.state.get(shares, OTHER, FIRST_SUBNET) == 20 * TENSOR
    assert world.state.get(shares, DELEGATOR, FIRST_SUBNET) == 30 * TENSOR


def test_a_nodes_reward_is_shared_with_delegators_then_with_its_delegate_account() -> None:
    account = bytes([5]) * 20
    world = World()
    world.register_subnet()
    for index in range(3):
        world.register_node(
            index,
            delegate_reward_rate=TENSOR // 2 if index == 0 else 0,
            delegate_account=DelegateAccount(account, TENSOR // 4) if index == 0 else None,
        )
        world.activate_node(index)
    world.apply(coldkey(0), ActivateSubnet(FIRST_SUBNET))
    world.advance_to(23)
    world.apply(DELEGATOR, AddToDelegateStake(FIRST_SUBNET, 50 * TENSOR))
    world.apply(DELEGATOR, AddToNodeDelegateStake(FIRST_SUBNET, 1, 10 * TENSOR))
    rewards = next(event for event in world.agree((1, 2, 3)) if isinstance(event, SubnetRewards))
    paid = dict(rewards.node_rewards)
    whole = paid[2]
    assert dict(rewards.node_delegate_stake_rewards) == {1: whole // 2}
    quarter = (whole - whole // 2) // 4
    assert dict(rewards.node_delegate_account_allocations) == {1: (account, quarter)}
    assert paid[1] == whole - whole // 2 - quarter
    pool = world.state.get(storage.TOTAL_NODE_DELEGATE_STAKE_BALANCE, FIRST_SUBNET, 1)
    assert pool == 10 * TENSOR + whole // 2
    world.apply(account, RemoveDelegateBalance(quarter))
    assert refused(world, account, RemoveDelegateBalance(1)) == "NotEnoughStakeToWithdraw"
    assert list(world.state.get(storage.STAKE_UNBONDING_LEDGER, account).values()) == [quarter]


def test_node_delegation_moves_is_donated_to_and_unbonds(world: World) -> None:
    unknown = AddToNodeDelegateStake(FIRST_SUBNET, 99, TENSOR)
    assert refused(world, DELEGATOR, unknown) == "InvalidSubnetNodeId"
    small = AddToNodeDelegateStake(FIRST_SUBNET, 1, 1)
    assert refused(world, DELEGATOR, small) == "MinNodeDelegateStakeDepositNotReached"
    world.apply(DELEGATOR, AddToNodeDelegateStake(FIRST_SUBNET, 1, 10 * TENSOR))
    world.apply(OTHER, DonateNodeDelegateStake(FIRST_SUBNET, 1, 10 * TENSOR))
    half = TransferNodeDelegateStake(FIRST_SUBNET, 1, OTHER, 5 * TENSOR)
    world.apply(DELEGATOR, half)
    world.apply(OTHER, RemoveNodeDelegateStake(FIRST_SUBNET, 1, 5 * TENSOR))
    [amount] = world.state.get(storage.STAKE_UNBONDING_LEDGER, OTHER).values()
    assert amount / TENSOR == pytest.approx(10, abs=1e-6)
    twice = RemoveNodeDelegateStake(FIRST_SUBNET, 1, 1)
    assert refused(world, OTHER, twice) == "NotEnoughStakeToWithdraw"


def test_a_reward_rate_rises_at_once_and_falls_slowly(world: World) -> None:
    def rate(value: int) -> UpdateNodeDelegateRewardRate:
        return UpdateNodeDelegateRewardRate(FIRST_SUBNET, 1, value)

    assert refused(world, hotkey(0), rate(1)) == "NotKeyOwner"
    assert refused(world, coldkey(0), rate(TENSOR)) == "InvalidDelegateRewardRate"
    assert refused(world, coldkey(0), rate(0)) == "NoDelegateRewardRateChange"
    world.apply(coldkey(0), rate(TENSOR // 2))
    assert refused(world, coldkey(0), rate(0)) == "SurpassesMaxRewardRateDecrease"
    world.apply(coldkey(0), rate(TENSOR // 2 - 10**7))


def test_a_delegate_account_is_set_in_parts_and_handed_on(world: World) -> None:
    def change(account: bytes | None, rate: int | None) -> UpdateDelegateAccount:
        return UpdateDelegateAccount(FIRST_SUBNET, 1, account, rate)

    assert refused(world, coldkey(0), change(None, None)) == "InvalidDelegateAccountParameters"
    assert refused(world, coldkey(0), change(OTHER, None)) == "DelegateAccountRateIsNone"
    assert refused(world, coldkey(0), change(None, 5)) == "DelegateAccountIdIsNone"
    handover = TransferDelegateAccount(FIRST_SUBNET, 1, DELEGATOR)
    assert refused(world, OTHER, handover) == "NoDelegateAccountSet"
    world.apply(coldkey(0), change(OTHER, 5))
    world.apply(coldkey(0), change(None, 7))
    assert world.node(1).delegate_account == DelegateAccount(OTHER, 7)
    assert refused(world, DELEGATOR, handover) == "NotDelegateAccountOwner"
    world.apply(OTHER, handover)
    assert world.node(1).delegate_account == DelegateAccount(DELEGATOR, 7)


def test_unique_parameters_stay_unique(world: World) -> None:
    world.apply(hotkey(0), UpdateUnique(FIRST_SUBNET, 1, b"mine"))
    assert (
        refused(world, hotkey(1), UpdateUnique(FIRST_SUBNET, 2, b"mine")) == "UniqueParameterTaken"
    )
    world.apply(hotkey(0), UpdateUnique(FIRST_SUBNET, 1, None))
    world.apply(hotkey(1), UpdateUnique(FIRST_SUBNET, 2, b"mine"))
    world.apply(coldkey(1), UpdateNonUnique(FIRST_SUBNET, 2, b"mine"))
    assert (world.node(2).unique, world.node(2).non_unique) == (b"mine", b"mine")
