"""The emergency set: nodes of the owner's choice that alone are elected and attest for a time."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import groupby

from consensus.types import NodeClass
from devchain import calls, events, storage
from devchain.chain_types import EmergencySubnetValidatorData, SubnetState
from devchain.errors import ensure
from devchain.fixed_point import percent_mul, to_float
from devchain.runtime import Runtime
from devchain.subnets import check_owner


def owner_set_emergency_validator_set(
    runtime: Runtime, origin: bytes, call: calls.OwnerSetEmergencyValidatorSet
) -> None:
    """Name the Validator-class nodes that go on alone after the pause."""
    state, subnet_id = runtime.state, call.subnet_id
    check_owner(runtime, origin, subnet_id)
    ensure(runtime.subnet(subnet_id).state is SubnetState.PAUSED, "SubnetMustBePaused")
    # As in proposals, only duplicates that stand next to each other fall away.
    named = (node_id for node_id, _ in groupby(call.subnet_node_ids))
    chosen = tuple(node_id for node_id in named if _is_validator(runtime, subnet_id, node_id))
    ensure(len(chosen) >= state.get(storage.MIN_SUBNET_NODES), "InvalidMinEmergencySubnetNodes")
    most = state.get(storage.MAX_EMERGENCY_SUBNET_NODES)
    ensure(len(chosen) <= most, "InvalidMaxEmergencySubnetNodes")
    target = count_epochs_until_removal(runtime, subnet_id)
    data = EmergencySubnetValidatorData(chosen, target, 0, 0)
    state.put(storage.EMERGENCY_SUBNET_NODE_ELECTION_DATA, subnet_id, value=data)
    runtime.emit(events.SubnetForked(subnet_id, origin, chosen))


def owner_revert_emergency_validator_set(
    runtime: Runtime, origin: bytes, call: calls.OwnerRevertEmergencyValidatorSet
) -> None:
    """End the emergency set, if there is one."""
    check_owner(runtime, origin, call.subnet_id)
    runtime.state.remove(storage.EMERGENCY_SUBNET_NODE_ELECTION_DATA, call.subnet_id)
    runtime.emit(events.SubnetForkRevert(call.subnet_id, origin))


def count_epochs_until_removal(runtime: Runtime, subnet_id: int) -> int:
    """Return after how many absences in a row a node is removed, by the strictest rules at most."""
    state = runtime.state
    slowest = _count_losses(
        state.get(storage.MIN_MIN_SUBNET_NODE_REPUTATION),
        state.get(storage.MIN_NODE_REPUTATION_FACTOR),
    )
    own = _count_losses(
        state.get(storage.MIN_SUBNET_NODE_REPUTATION, subnet_id),
        state.get(storage.ABSENT_DECREASE, subnet_id),
    )
    return min(slowest, own)


def _count_losses(minimum: int, factor: int) -> int:
    return math.ceil(math.log(to_float(minimum)) / math.log(1.0 - to_float(factor))) + 1


def _is_validator(runtime: Runtime, subnet_id: int, node_id: int) -> bool:
    node = runtime.state.find(storage.SUBNET_NODES_DATA, subnet_id, node_id)
    epoch = runtime.subnet_epoch(subnet_id)
    return node is not None and node.has_class(NodeClass.VALIDATOR, epoch)


def start_emergency(runtime: Runtime, subnet_id: int) -> None:
    """The subnet goes on from its pause: from now on the set's time runs."""
    state, item = runtime.state, storage.EMERGENCY_SUBNET_NODE_ELECTION_DATA
    data = state.find(item, subnet_id)
    if data is not None:
        factor = state.get(storage.MAX_EMERGENCY_VALIDATOR_EPOCHS_MULTIPLIER)
        lasts = percent_mul(data.target_emergency_validators_epochs, factor)
        end = runtime.subnet_epoch(subnet_id) + lasts
        state.put(item, subnet_id, value=replace(data, max_emergency_validators_epoch=end))


def list_electable(runtime: Runtime, subnet_id: int, epoch: int) -> tuple[int, ...]:
    """Return the ids of the electable nodes, and end a set whose time is over.

    Seen in the real runtime and kept: a set that is named while the subnet pauses does not outlive
    the pause's next slot, for until the pause is over its last epoch is 0.
    """
    state, item = runtime.state, storage.EMERGENCY_SUBNET_NODE_ELECTION_DATA
    data = state.find(item, subnet_id)
    if data is not None:
        is_spent = data.total_epochs > data.target_emergency_validators_epochs
        if not is_spent and epoch <= data.max_emergency_validators_epoch:
            return data.subnet_node_ids
        state.remove(item, subnet_id)
    return state.get(storage.SUBNET_NODE_ELECTION_SLOTS, subnet_id)


def count_submission(runtime: Runtime, subnet_id: int) -> frozenset[int] | None:
    """Count an epoch with a proposal; return the set, None if there is none."""
    state, item = runtime.state, storage.EMERGENCY_SUBNET_NODE_ELECTION_DATA
    data = state.find(item, subnet_id)
    if data is None:
        return None
    state.put(item, subnet_id, value=replace(data, total_epochs=data.total_epochs + 1))
    return frozenset(data.subnet_node_ids)


def check_may_attest(runtime: Runtime, subnet_id: int, node_id: int) -> None:
    """Raise InvalidEmergencySubnetNodeId for a node outside the set."""
    data = runtime.state.find(storage.EMERGENCY_SUBNET_NODE_ELECTION_DATA, subnet_id)
    ensure(data is None or node_id in data.subnet_node_ids, "InvalidEmergencySubnetNodeId")
