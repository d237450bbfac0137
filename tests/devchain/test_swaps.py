"""Delegated stake between pools: it leaves at once, waits an epoch, and arrives whole."""

from __future__ import annotations

from typing import Any

import pytest

from devchain import storage
from devchain.calls import (
    AddToDelegateStake,
    AddToNodeDelegateStake,
    RemoveDelegateStake,
    SwapDelegateStake,
    SwapFromNodeToSubnet,
    SwapFromSubnetToNode,
    SwapNodeDelegateStake,
    UpdateSwapQueue,
)
from devchain.chain_types import (
    TENSOR,
    SwapToNodeDelegateStake,
    SwapToSubnetDelegateStake,
)
from devchain.events import (
    DelegateNodeStakeSwapped,
    DelegateNodeToSubnetDelegateStakeSwapped,
    SubnetDelegateToNodeDelegateStakeSwapped,
    SwapCallQueued,
    SwapCallQueueUpdated,
)
from tests.support.ledger_world import FIRST_SUBNET, World, coldkey, refused

DELEGATOR, OTHER = coldkey(6), coldkey(7)
DELAY = 20


@pytest.fixture
def world() -> World:
    """A subnet with 50 TENSOR in its pool and 10 in the pool of node 2, all of one delegator."""
    started = World()
    started.start()
    started.apply(DELEGATOR, AddToDelegateStake(FIRST_SUBNET, 50 * TENSOR))
    started.apply(DELEGATOR, AddToNodeDelegateStake(FIRST_SUBNET, 2, 10 * TENSOR))
    return started


def subnet_shares(world: World, account: bytes = DELEGATOR) -> int:
    key = (account, FIRST_SUBNET)
    return int(world.state.get(storage.ACCOUNT_SUBNET_DELEGATE_STAKE_SHARES, *key))


def node_shares(world: World, node_id: int, account: bytes = DELEGATOR) -> int:
    key = (account, FIRST_SUBNET, node_id)
    return int(world.state.get(storage.ACCOUNT_NODE_DELEGATE_STAKE_SHARES, *key))


def test_a_swap_from_subnet_to_node_leaves_at_once_and_arrives_an_epoch_later(
    world: World,
) -> None:
    amount = 20 * TENSOR
    events = world.apply(DELEGATOR, SwapFromSubnetToNode(FIRST_SUBNET, FIRST_SUBNET, 3, amount))
    queued = next(event for event in events if isinstance(event, SwapCallQueued))
    worth = queued.call.balance
    assert amount - 1000 <= worth <= amount
    assert queued.call == SwapToNodeDelegateStake(DELEGATOR, FIRST_SUBNET, 3, worth)
    assert events[-1] == SubnetDelegateToNodeDelegateStakeSwapped(
        DELEGATOR, FIRST_SUBNET, FIRST_SUBNET, 3, worth
    )
    assert subnet_shares(world) == 30 * TENSOR
    world.advance(DELAY - 1)
    assert node_shares(world, 3) == 0
    world.advance()
    assert node_shares(world, 3) == worth
    assert world.state.get(storage.TOTAL_NODE_DELEGATE_STAKE_BALANCE, FIRST_SUBNET, 3) == worth
    assert world.state.get(storage.SWAP_QUEUE_ORDER) == ()
    assert world.state.find(storage.SWAP_CALL_QUEUE, 0) is None


def test_swaps_from_a_node_go_to_another_node_or_to_a_subnet(world: World) -> None:
    to_node = SwapNodeDelegateStake(FIRST_SUBNET, 2, FIRST_SUBNET, 4, 3 * TENSOR)
    to_subnet = SwapFromNodeToSubnet(FIRST_SUBNET, 2, FIRST_SUBNET, 2 * TENSOR)
    assert isinstance(world.apply(DELEGATOR, to_node)[-1], DelegateNodeStakeSwapped)
    last = world.apply(DELEGATOR, to_subnet)[-1]
    assert isinstance(last, DelegateNodeToSubnetDelegateStakeSwapped)
    assert node_shares(world, 2) == 5 * TENSOR
    before = subnet_shares(world)
    world.advance(DELAY)
    assert node_shares(world, 4) > 3 * TENSOR - 1000
    assert subnet_shares(world) > before + 2 * TENSOR - 2000


def test_units_in_the_queue_are_in_no_pool_and_in_no_ledger(world: World) -> None:
    before = world.state.get(storage.TOTAL_DELEGATE_STAKE)
    world.apply(DELEGATOR, SwapDelegateStake(FIRST_SUBNET, FIRST_SUBNET, 10 * TENSOR))
    left = world.state.get(storage.TOTAL_DELEGATE_STAKE)
    assert before - left == world.state.find(storage.SWAP_CALL_QUEUE, 0).call.balance
    assert world.state.get(storage.STAKE_UNBONDING_LEDGER, DELEGATOR) == {}


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (SwapDelegateStake(FIRST_SUBNET, 7, 1), "InvalidSubnetId"),
        (SwapDelegateStake(FIRST_SUBNET, FIRST_SUBNET, 0), "SharesZero"),
        (SwapDelegateStake(7, FIRST_SUBNET, 1), "NotEnoughStakeToWithdraw"),
        (SwapNodeDelegateStake(FIRST_SUBNET, 2, FIRST_SUBNET, 9, 1), "InvalidSubnetNodeId"),
        (SwapFromSubnetToNode(FIRST_SUBNET, FIRST_SUBNET, 9, 1), "InvalidSubnetNodeId"),
        (SwapFromNodeToSubnet(FIRST_SUBNET, 2, 7, 1), "InvalidSubnetId"),
        (
            SwapFromNodeToSubnet(FIRST_SUBNET, 2, FIRST_SUBNET, 11 * TENSOR),
            "NotEnoughStakeToWithdraw",
        ),
    ],
)
def test_a_swap_from_or_to_nowhere_is_refused(world: World, call: Any, name: str) -> None:
    assert refused(world, DELEGATOR, call) == name
    assert world.state.get(storage.SWAP_QUEUE_ORDER) == ()


def test_a_queued_swap_is_sent_elsewhere_with_its_own_units(world: World) -> None:
    world.apply(DELEGATOR, SwapDelegateStake(FIRST_SUBNET, FIRST_SUBNET, 10 * TENSOR))
    worth = world.state.find(storage.SWAP_CALL_QUEUE, 0).call.balance
    elsewhere = SwapToNodeDelegateStake(DELEGATOR, FIRST_SUBNET, 1, 999 * TENSOR)
    (event,) = world.apply(DELEGATOR, UpdateSwapQueue(0, elsewhere))
    assert isinstance(event, SwapCallQueueUpdated)
    world.advance(DELAY)
    assert node_shares(world, 1) == worth


def test_an_update_of_a_swap_names_the_caller_and_a_place_that_exists(world: World) -> None:
    mine = SwapToSubnetDelegateStake(DELEGATOR, FIRST_SUBNET, 0)
    assert refused(world, DELEGATOR, UpdateSwapQueue(0, mine)) == "SwapCallNotFound"
    world.apply(DELEGATOR, SwapDelegateStake(FIRST_SUBNET, FIRST_SUBNET, 10 * TENSOR))
    assert refused(world, OTHER, UpdateSwapQueue(0, mine)) == "NotKeyOwner"
    nowhere = SwapToSubnetDelegateStake(DELEGATOR, 7, 0)
    assert refused(world, DELEGATOR, UpdateSwapQueue(0, nowhere)) == "InvalidSubnetId"
    no_node = SwapToNodeDelegateStake(DELEGATOR, FIRST_SUBNET, 9, 0)
    assert refused(world, DELEGATOR, UpdateSwapQueue(0, no_node)) == "InvalidSubnetNodeId"


def test_swaps_are_carried_out_in_order_and_so_many_a_block(world: World) -> None:
    world.state.put(storage.MAX_SWAP_QUEUE_CALLS_PER_BLOCK, value=2)
    for _ in range(3):
        world.apply(DELEGATOR, SwapDelegateStake(FIRST_SUBNET, FIRST_SUBNET, TENSOR))
    world.advance(DELAY)
    assert world.state.get(storage.SWAP_QUEUE_ORDER) == (2,)
    world.advance()
    assert world.state.get(storage.SWAP_QUEUE_ORDER) == ()


def test_a_call_that_moves_stake_waits_for_the_rate_limit_and_a_swap_does_not_count(
    world: World,
) -> None:
    world.state.put(storage.TX_RATE_LIMIT, value=2)
    add = AddToDelegateStake(FIRST_SUBNET, TENSOR)
    swap = SwapDelegateStake(FIRST_SUBNET, FIRST_SUBNET, TENSOR)
    for call in (add, swap, RemoveDelegateStake(FIRST_SUBNET, TENSOR)):
        assert refused(world, DELEGATOR, call) == "TxRateLimitExceeded"
    world.apply(OTHER, add)
    world.advance(3)
    world.apply(DELEGATOR, swap)
    world.apply(DELEGATOR, swap)
    world.apply(DELEGATOR, add)
    assert refused(world, DELEGATOR, swap) == "TxRateLimitExceeded"
    assert world.state.get(storage.LAST_TX_BLOCK, DELEGATOR) == world.ledger.block


def test_a_paused_network_lets_a_queued_swap_be_changed_and_carries_none_out(
    world: World,
) -> None:
    world.apply(DELEGATOR, SwapDelegateStake(FIRST_SUBNET, FIRST_SUBNET, TENSOR))
    world.state.put(storage.TX_PAUSE, value=True)
    again = SwapDelegateStake(FIRST_SUBNET, FIRST_SUBNET, TENSOR)
    assert refused(world, DELEGATOR, again) == "Paused"
    elsewhere = SwapToNodeDelegateStake(DELEGATOR, FIRST_SUBNET, 1, 0)
    world.apply(DELEGATOR, UpdateSwapQueue(0, elsewhere))
    world.advance(2 * DELAY)
    assert world.state.get(storage.SWAP_QUEUE_ORDER) == (0,)
