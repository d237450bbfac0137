"""Calls that propose an epoch's scores and that attest to them."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby

from consensus.types import NodeClass
from devchain import calls, events, storage
from devchain.chain_types import (
    ONE,
    AttestEntry,
    ConsensusData,
    SubnetNodeConsensusData,
)
from devchain.emergency_validators import check_may_attest
from devchain.errors import ensure, fail
from devchain.fixed_point import (
    MAX_U128,
    concave_decreasing,
    percent_div,
    sigmoid_decreasing,
    to_fixed,
    to_float,
)
from devchain.nodes import active_nodes
from devchain.runtime import Runtime


def propose_attestation(runtime: Runtime, origin: bytes, call: calls.ProposeAttestation) -> None:
    """Store the elected validator's scores, attested by itself; once per subnet epoch."""
    state, subnet_id = runtime.state, call.subnet_id
    slot = state.find(storage.SUBNET_SLOT, subnet_id)
    ensure(slot is not None and runtime.block >= slot, "SubnetEpochDataIsNone")
    epoch = runtime.subnet_epoch(subnet_id)
    elected = state.find(storage.SUBNET_ELECTED_VALIDATOR, subnet_id, epoch)
    if elected is None:
        fail("NoElectedValidator")
    hotkey = state.find(storage.SUBNET_NODE_ID_HOTKEY, subnet_id, elected)
    ensure(hotkey == origin, "InvalidValidator")
    submitted = state.contains(storage.SUBNET_CONSENSUS_SUBMISSION, subnet_id, epoch)
    ensure(not submitted, "SubnetRewardsAlreadySubmitted")
    data = qualify_data(runtime, call, epoch)
    submission = make_submission(runtime, call, elected=elected, epoch=epoch, data=data)
    state.put(storage.SUBNET_CONSENSUS_SUBMISSION, subnet_id, epoch, value=submission)
    runtime.emit(events.ValidatorSubmission(subnet_id, origin, epoch))


def qualify_data(
    runtime: Runtime, call: calls.ProposeAttestation, epoch: int
) -> tuple[SubnetNodeConsensusData, ...]:
    """Keep the rows that count: the first of adjacent duplicates, of Included nodes at least."""
    firsts = [next(rows) for _, rows in groupby(call.data, key=lambda row: row.subnet_node_id)]
    kept = tuple(row for row in firsts if _is_included(runtime, call.subnet_id, row, epoch))
    ensure(sum(row.score for row in kept) <= MAX_U128, "ScoreOverflow")
    return kept


def _is_included(
    runtime: Runtime, subnet_id: int, row: SubnetNodeConsensusData, epoch: int
) -> bool:
    node = runtime.state.find(storage.SUBNET_NODES_DATA, subnet_id, row.subnet_node_id)
    return node is not None and node.has_class(NodeClass.INCLUDED, epoch)


def make_submission(
    runtime: Runtime,
    call: calls.ProposeAttestation,
    *,
    elected: int,
    epoch: int,
    data: tuple[SubnetNodeConsensusData, ...],
) -> ConsensusData:
    """Build the submission with its snapshot of nodes and the proposer's own attestation."""
    progress = percent_div(blocks_into_epoch(runtime, call.subnet_id), runtime.config.epoch_length)
    nodes = active_nodes(runtime, call.subnet_id)
    return ConsensusData(
        validator_id=elected,
        block=runtime.block,
        validator_epoch_progress=progress,
        validator_reward_factor=compute_validator_factor(runtime, progress),
        attests={elected: AttestEntry(runtime.block, 0, ONE, call.attest_data)},
        subnet_nodes=tuple(node for node in nodes if node.has_class(NodeClass.IDLE, epoch)),
        prioritize_queue_node_id=_check_prioritised(runtime, call),
        remove_queue_node_id=_check_removable(runtime, call, epoch),
        data=data,
        args=call.args,
    )


def _check_prioritised(runtime: Runtime, call: calls.ProposeAttestation) -> int | None:
    queue = runtime.state.get(storage.SUBNET_NODE_QUEUE, call.subnet_id)
    queued = {node.id for node in queue}
    return call.prioritize_queue_node_id if call.prioritize_queue_node_id in queued else None


def _check_removable(runtime: Runtime, call: calls.ProposeAttestation, epoch: int) -> int | None:
    immunity = runtime.state.get(storage.QUEUE_IMMUNITY_EPOCHS, call.subnet_id)
    removable = {
        node.id
        for node in runtime.state.get(storage.SUBNET_NODE_QUEUE, call.subnet_id)
        if node.classification.start_epoch + immunity <= epoch
    }
    return call.remove_queue_node_id if call.remove_queue_node_id in removable else None


def blocks_into_epoch(runtime: Runtime, subnet_id: int) -> int:
    """Return this block's offset in the subnet's epoch."""
    slot = runtime.state.find(storage.SUBNET_SLOT, subnet_id) or 0
    return max(0, runtime.block - slot) % runtime.config.epoch_length


def compute_validator_factor(runtime: Runtime, progress: int) -> int:
    """Return what a proposal at this progress earns of the base reward."""
    midpoint = to_float(runtime.state.get(storage.VALIDATOR_REWARD_MIDPOINT))
    steepness = float(runtime.state.get(storage.VALIDATOR_REWARD_K))
    return to_fixed(sigmoid_decreasing(to_float(progress), midpoint=midpoint, steepness=steepness))


def compute_attestor_factor(runtime: Runtime, progress: int) -> int:
    """Return what an attestation at this progress earns of its reward."""
    minimum = to_float(runtime.state.get(storage.ATTESTOR_MIN_REWARD_FACTOR))
    power = float(runtime.state.get(storage.ATTESTOR_REWARD_EXPONENT))
    return to_fixed(concave_decreasing(to_float(progress), minimum=minimum, power=power))


def attest(runtime: Runtime, origin: bytes, call: calls.Attest) -> None:
    """Agree with the current epoch's submission; Validator-class nodes, once."""
    state, subnet_id = runtime.state, call.subnet_id
    epoch = runtime.subnet_epoch(subnet_id)
    node_id = state.find(storage.HOTKEY_SUBNET_NODE_ID, subnet_id, origin)
    if node_id is None:
        fail("InvalidHotkeySubnetNodeId")
    node = state.find(storage.SUBNET_NODES_DATA, subnet_id, node_id)
    if node is None:
        fail("InvalidSubnetNodeId")
    ensure(node.has_class(NodeClass.VALIDATOR, epoch), "InvalidSubnetNodeClassification")
    check_may_attest(runtime, subnet_id, node_id)
    submission = state.find(storage.SUBNET_CONSENSUS_SUBMISSION, subnet_id, epoch)
    if submission is None:
        fail("InvalidSubnetConsensusSubmission")
    in_snapshot = any(node.id == node_id for node in submission.subnet_nodes)
    ensure(in_snapshot, "InvalidSubnetNodeId")
    ensure(node_id not in submission.attests, "AlreadyAttested")
    entry = make_attest_entry(runtime, call, submission)
    attests = {**submission.attests, node_id: entry}
    changed = replace(submission, attests=attests)
    state.put(storage.SUBNET_CONSENSUS_SUBMISSION, subnet_id, epoch, value=changed)
    runtime.emit(events.Attestation(subnet_id, node_id, epoch))


def make_attest_entry(
    runtime: Runtime, call: calls.Attest, submission: ConsensusData
) -> AttestEntry:
    """Measure the attestation against the time that was left when it was proposed."""
    length = runtime.config.epoch_length
    slot = runtime.state.find(storage.SUBNET_SLOT, call.subnet_id) or 0
    remaining = length - (submission.block - slot) % length
    passed = runtime.block - submission.block
    progress = ONE if passed >= remaining else percent_div(passed, remaining)
    factor = compute_attestor_factor(runtime, progress)
    return AttestEntry(runtime.block, progress, factor, call.attest_data)
