"""Swaps of delegated stake between pools: units leave at once and arrive an epoch later."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from devchain import calls, events, stake_pools, storage
from devchain.chain_types import (
    QueuedSwapCall,
    QueuedSwapItem,
    SwapToNodeDelegateStake,
    SwapToSubnetDelegateStake,
)
from devchain.errors import DispatchError, ensure, fail
from devchain.nodes import get_node
from devchain.runtime import Runtime

MAX_QUEUED_SWAPS = 1000
"""What is queued beyond this is never carried out: seen in the real runtime and kept."""


def swap_delegate_stake(runtime: Runtime, origin: bytes, call: calls.SwapDelegateStake) -> None:
    """Move shares of one subnet's pool to another's."""
    target = runtime.subnet(call.to_subnet_id).id
    source = stake_pools.subnet_pool(call.from_subnet_id)
    amount = stake_pools.leave(runtime, source, origin, call.delegate_stake_shares_to_swap)
    _queue(runtime, SwapToSubnetDelegateStake(origin, target, amount))


def swap_node_delegate_stake(
    runtime: Runtime, origin: bytes, call: calls.SwapNodeDelegateStake
) -> None:
    """Move shares of one node's pool to another's."""
    source, target = _node_source(call), (call.to_subnet_id, call.to_subnet_node_id)
    get_node(runtime.state, *target)
    shares = call.node_delegate_stake_shares_to_swap
    amount = stake_pools.leave(runtime, stake_pools.node_pool(*source), origin, shares)
    _queue(runtime, SwapToNodeDelegateStake(origin, *target, amount))
    runtime.emit(events.DelegateNodeStakeSwapped(origin, *source, *target, amount))


def swap_from_node_to_subnet(
    runtime: Runtime, origin: bytes, call: calls.SwapFromNodeToSubnet
) -> None:
    """Move shares of a node's pool to a subnet's."""
    source, target = _node_source(call), runtime.subnet(call.to_subnet_id).id
    shares = call.node_delegate_stake_shares_to_swap
    amount = stake_pools.leave(runtime, stake_pools.node_pool(*source), origin, shares)
    _queue(runtime, SwapToSubnetDelegateStake(origin, target, amount))
    runtime.emit(events.DelegateNodeToSubnetDelegateStakeSwapped(origin, *source, target, amount))


def swap_from_subnet_to_node(
    runtime: Runtime, origin: bytes, call: calls.SwapFromSubnetToNode
) -> None:
    """Move shares of a subnet's pool to a node's."""
    source, target = call.from_subnet_id, (call.to_subnet_id, call.to_subnet_node_id)
    get_node(runtime.state, *target)
    shares = call.delegate_stake_shares_to_swap
    amount = stake_pools.leave(runtime, stake_pools.subnet_pool(source), origin, shares)
    _queue(runtime, SwapToNodeDelegateStake(origin, *target, amount))
    runtime.emit(events.SubnetDelegateToNodeDelegateStakeSwapped(origin, source, *target, amount))


def update_swap_queue(runtime: Runtime, origin: bytes, call: calls.UpdateSwapQueue) -> None:
    """Send a queued swap elsewhere; its units stay as they are.

    Seen in the real runtime and kept: the new target must name the caller, but the swap
    may be that of another account.
    """
    queued = runtime.state.find(storage.SWAP_CALL_QUEUE, call.id)
    if queued is None:
        fail("SwapCallNotFound")
    wanted = call.new_call
    ensure(wanted.account_id == origin, "NotKeyOwner")
    if isinstance(wanted, SwapToSubnetDelegateStake):
        runtime.subnet(wanted.to_subnet_id)
    else:
        get_node(runtime.state, wanted.to_subnet_id, wanted.to_subnet_node_id)
    changed = replace(wanted, balance=queued.call.balance)
    runtime.state.put(storage.SWAP_CALL_QUEUE, call.id, value=replace(queued, call=changed))
    runtime.emit(events.SwapCallQueueUpdated(call.id, origin, changed))


def run_swaps(runtime: Runtime) -> None:
    """Carry out, in order, what has waited long enough, up to the limit of a block."""
    state = runtime.state
    for _ in range(state.get(storage.MAX_SWAP_QUEUE_CALLS_PER_BLOCK)):
        order = state.get(storage.SWAP_QUEUE_ORDER)
        queued = state.find(storage.SWAP_CALL_QUEUE, order[0]) if order else None
        if queued is None or runtime.block - queued.queued_at_block < queued.execute_after_blocks:
            return
        # A swap that is worth no share is over all the same.
        with suppress(DispatchError):
            stake_pools.join(
                runtime, _target_pool(queued.call), queued.call.account_id, queued.call.balance
            )
        state.put(storage.SWAP_QUEUE_ORDER, value=order[1:])
        state.remove(storage.SWAP_CALL_QUEUE, queued.id)


def _node_source(call: calls.SwapNodeDelegateStake | calls.SwapFromNodeToSubnet) -> tuple[int, int]:
    return call.from_subnet_id, call.from_subnet_node_id


def _queue(runtime: Runtime, swap: QueuedSwapCall) -> None:
    state = runtime.state
    swap_id = state.get(storage.NEXT_SWAP_QUEUE_ID)
    queued = QueuedSwapItem(swap_id, swap, runtime.block, runtime.config.epoch_length)
    state.put(storage.SWAP_CALL_QUEUE, swap_id, value=queued)
    order = state.get(storage.SWAP_QUEUE_ORDER)
    if len(order) < MAX_QUEUED_SWAPS:
        state.put(storage.SWAP_QUEUE_ORDER, value=(*order, swap_id))
    state.put(storage.NEXT_SWAP_QUEUE_ID, value=swap_id + 1)
    runtime.emit(events.SwapCallQueued(swap_id, swap.account_id, swap))


def _target_pool(swap: QueuedSwapCall) -> stake_pools.StakePool:
    if isinstance(swap, SwapToSubnetDelegateStake):
        return stake_pools.subnet_pool(swap.to_subnet_id)
    return stake_pools.node_pool(swap.to_subnet_id, swap.to_subnet_node_id)
