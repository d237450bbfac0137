"""Hooks that run at the start of a block, before its extrinsics.

Offsets of the general epoch: 0 checks subnets, 2 fixes the emission weights, and
a subnet's own slot settles its last epoch and elects for the new one.
"""

from __future__ import annotations

from consensus.types import NodeClass
from devchain import storage
from devchain.chain_types import ONE
from devchain.emergency_validators import list_electable
from devchain.emissions import store_emission_weights
from devchain.fixed_point import percent_div, percent_mul
from devchain.nodes import activate_node
from devchain.rewards import settle_epoch
from devchain.runtime import Runtime
from devchain.stake_swaps import run_swaps
from devchain.subnets import check_subnets

WEIGHTS_OFFSET = 2


def run_hooks(runtime: Runtime) -> None:
    """Run the one hook that this block owes, then the swaps whose time has come."""
    if runtime.state.get(storage.TX_PAUSE):
        return
    _run_offset_hook(runtime)
    run_swaps(runtime)


def _run_offset_hook(runtime: Runtime) -> None:
    length = runtime.config.epoch_length
    offset = runtime.block % length
    if offset == 0:
        if runtime.block >= length:
            check_subnets(runtime)
    elif offset == WEIGHTS_OFFSET:
        if runtime.block >= length:
            store_emission_weights(runtime)
    else:
        subnet_id = runtime.state.find(storage.SLOT_ASSIGNMENT, offset)
        if subnet_id is not None:
            step_subnet(runtime, subnet_id)


def step_subnet(runtime: Runtime, subnet_id: int) -> None:
    """Settle the subnet's last epoch, elect for this one, let queued nodes in.

    A subnet that had no weight entry in this general epoch was not active then,
    and nothing happens.
    """
    state = runtime.state
    distribution = state.get(storage.FINAL_SUBNET_EMISSION_WEIGHTS, runtime.general_epoch)
    weight = distribution.weights.get(subnet_id)
    if weight is None:
        return
    epoch = runtime.subnet_epoch(subnet_id)
    emissions = distribution.validator_emissions
    settle_epoch(runtime, subnet_id, epoch=epoch - 1, emissions=emissions, weight=weight)
    elect(runtime, subnet_id, epoch)
    process_queue(runtime, subnet_id, epoch)
    update_burn_rate(runtime, subnet_id)


def elect(runtime: Runtime, subnet_id: int, epoch: int) -> None:
    """Draw the epoch's validator from the electable nodes, unless it is known."""
    state = runtime.state
    if state.contains(storage.SUBNET_ELECTED_VALIDATOR, subnet_id, epoch):
        return
    slots = list_electable(runtime, subnet_id, epoch)
    if slots:
        elected = slots[runtime.draw(len(slots))]
        state.put(storage.SUBNET_ELECTED_VALIDATOR, subnet_id, epoch, value=elected)


def process_queue(runtime: Runtime, subnet_id: int, epoch: int) -> None:
    """Activate queued nodes from the front, as many as the churn limit lets in."""
    state = runtime.state
    queue = state.get(storage.SUBNET_NODE_QUEUE, subnet_id)
    if not queue or epoch % state.get(storage.CHURN_LIMIT_MULTIPLIER, subnet_id):
        return
    active = state.get(storage.TOTAL_ACTIVE_SUBNET_NODES, subnet_id)
    room = max(0, state.get(storage.MAX_SUBNET_NODES) - active)
    wait = state.get(storage.SUBNET_NODE_QUEUE_EPOCHS, subnet_id)
    activated = 0
    for queued in queue[: min(room, state.get(storage.CHURN_LIMIT, subnet_id))]:
        if queued.classification.start_epoch + wait >= epoch:
            break
        # The queue's copy is from registration; the stored node may have changed since.
        node = state.find(storage.REGISTERED_SUBNET_NODES_DATA, subnet_id, queued.id)
        if node is not None and node.classification.node_class is NodeClass.REGISTERED:
            activate_node(runtime, runtime.subnet(subnet_id), node)
        activated += 1
    if activated:
        state.put(storage.SUBNET_NODE_QUEUE, subnet_id, value=queue[activated:])


def update_burn_rate(runtime: Runtime, subnet_id: int) -> None:
    """Let the registration fee follow how many nodes registered in the last epoch."""
    state = runtime.state
    registrations = state.get(storage.NODE_REGISTRATIONS_THIS_EPOCH, subnet_id)
    target_count = state.get(storage.TARGET_NODE_REGISTRATIONS_PER_EPOCH, subnet_id)
    low, high = state.get(storage.MIN_NODE_BURN_RATE), state.get(storage.MAX_NODE_BURN_RATE)
    reached = min(percent_div(registrations, target_count), ONE)
    target = low + percent_mul(high - low, reached)
    alpha = state.get(storage.NODE_BURN_RATE_ALPHA, subnet_id)
    present = state.get(storage.CURRENT_NODE_BURN_RATE, subnet_id)
    moved = percent_mul(target, alpha) + percent_mul(present, ONE - alpha)
    state.put(storage.CURRENT_NODE_BURN_RATE, subnet_id, value=min(max(moved, low), high))
    state.put(storage.NODE_REGISTRATIONS_THIS_EPOCH, subnet_id, value=0)
