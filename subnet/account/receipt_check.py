"""Compares what a node kept of an epoch with the chain, and reads what the chain paid for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from consensus.roster import Roster, compute_network_id
from consensus.submission import Submission
from consensus.types import BlockNumber, Epoch, SubnetId, SubnetNodeId
from subnet.account.rewards import fetch_rewards
from subnet.chain.manifest_hash import parse_manifest_hash
from subnet.epoch.interfaces import ChainReader
from subnet.errors import ChainUnavailable, ConfigError, UnknownSubnet
from subnet.receipts.evidence import EpochEvidence
from subnet.receipts.settlement import ChainAnswer, ChainRow, Settlement

if TYPE_CHECKING:
    from subnet.chain.substrate import SubstrateChain


async def ask_chain(
    chain: SubstrateChain, evidence: EpochEvidence, node_id: SubnetNodeId
) -> ChainAnswer:
    """Return what the chain says now. Raises ChainUnavailable if it does not answer at all."""
    differences, unchecked = await compare_with_chain(chain, evidence)
    rosters = (evidence.following, evidence.roster)
    hotkeys = [node.hotkey for r in rosters if (node := r.get_by_id(node_id)) is not None]
    following = Epoch(evidence.epoch + 1)
    settlement, why = await _try_settlement(
        chain, evidence.subnet_id, following, node_id, hotkeys[0] if hotkeys else None
    )
    return ChainAnswer(differences, (*unchecked, *why), settlement)


async def ask_chain_alone(
    chain: SubstrateChain, subnet_id: SubnetId, epoch: Epoch, node_id: SubnetNodeId
) -> ChainRow:
    """Return what the chain alone says of a score that no node of this machine kept.

    Raises ChainUnavailable, and ConfigError for a subnet that is not there.
    """
    if await chain.fetch_subnet(subnet_id) is None:
        raise UnknownSubnet(f"the chain has no subnet {subnet_id}")
    following = Epoch(epoch + 1)
    nodes = {node.node_id: node for node in await chain.fetch_nodes(subnet_id)}
    node = nodes.get(node_id)
    settlement, why = await _try_settlement(
        chain, subnet_id, following, node_id, None if node is None else node.hotkey
    )
    return ChainRow(
        epoch=epoch,
        node_id=node_id,
        elected=await chain.fetch_elected_validator(subnet_id, following),
        submission=await chain.fetch_submission(subnet_id, following),
        min_attestation=await chain.fetch_min_attestation_percent(),
        answer=ChainAnswer((), why, settlement),
    )


async def fetch_settlement(
    chain: SubstrateChain,
    subnet_id: SubnetId,
    epoch: Epoch,
    node_id: SubnetNodeId,
    hotkey: bytes | None,
) -> Settlement:
    """Return what the proposal made in ``epoch`` paid one node, and took from its stake.

    Raises ChainUnavailable for a block that the endpoint no longer keeps, ConfigError while the
    epoch is not settled.
    """
    paid = await fetch_rewards(chain, subnet_id, epoch)
    shortfall, proposer = paid.shortfall, paid.proposer
    return Settlement(
        block=paid.block,
        paid=paid.nodes.get(node_id, 0),
        unpaid=paid.unpaid.get(node_id),
        slashed=0 if hotkey is None else paid.slashed.get(hotkey, 0),
        reputation=paid.reputations.get(node_id),
        shortfall=None if shortfall is None else f"{shortfall.reason}; fix: {shortfall.fix}",
        proposing=None if proposer is None or proposer.node_id != node_id else proposer.amount,
    )


async def _try_settlement(
    chain: SubstrateChain,
    subnet_id: SubnetId,
    epoch: Epoch,
    node_id: SubnetNodeId,
    hotkey: bytes | None,
) -> tuple[Settlement | None, tuple[str, ...]]:
    """Return what was paid, or why that cannot be said."""
    try:
        return await fetch_settlement(chain, subnet_id, epoch, node_id, hotkey), ()
    except ChainUnavailable:
        return None, ("what was paid: the endpoint no longer keeps the block that settled it",)
    except ConfigError:
        return None, (f"what was paid: epoch {epoch} is not settled yet",)


async def compare_with_chain(
    chain: ChainReader, evidence: EpochEvidence
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return where the chain contradicts the evidence, and what it no longer keeps.

    Raises ChainUnavailable if it does not answer at all, and ChainMismatch or UnknownSubnet if it
    has no such subnet.
    """
    differences, unchecked = [], []
    info = await chain.fetch_info()
    subnet = await chain.fetch_subnet(evidence.subnet_id)
    if subnet is None:
        return (f"the chain has no subnet {evidence.subnet_id}",), ()
    manifest_hash = parse_manifest_hash(subnet.misc, subnet_id=evidence.subnet_id)
    network_id = compute_network_id(info.genesis_hash, evidence.subnet_id, manifest_hash)
    if network_id != evidence.network_id:
        differences.append("its records are of another chain, subnet or model")
    if info.epoch_length != evidence.epoch_length:
        differences.append(f"an epoch of the chain has {info.epoch_length} blocks")
    if differences:
        return tuple(differences), ()
    proposal = await chain.fetch_submission(evidence.subnet_id, Epoch(evidence.epoch + 1))
    differences += _compare_proposals(evidence, proposal)
    differences += await _compare_elections(chain, evidence)
    for roster, what, block in _list_states(evidence):
        try:
            differences += await _compare_state(chain, evidence, roster, what, block)
        except ChainUnavailable:
            unchecked.append(f"{what}: the endpoint no longer keeps chain block {block}")
    return tuple(differences), tuple(unchecked)


def _compare_proposals(evidence: EpochEvidence, proposal: Submission | None) -> list[str]:
    kept = evidence.submission
    if kept is None and proposal is None:
        return []
    if kept is None or proposal is None:
        if not evidence.is_settled and kept is None:
            return []
        return [f"the proposal: {'none' if proposal is None else 'one'} stands on the chain"]
    differences = []
    if sorted(kept.scores) != sorted(proposal.scores):
        differences.append("the proposal's rows are others on the chain")
    if kept.args != proposal.args:
        differences.append("the proposal's args are others on the chain")
    if (kept.proposer, kept.block) != (proposal.proposer, proposal.block):
        differences.append(
            f"node {proposal.proposer} proposed, in chain block {proposal.block}, on the chain"
        )
    is_grown = kept.attested <= proposal.attested and not evidence.is_settled
    if kept.attested != proposal.attested and not is_grown:
        differences.append(f"{len(proposal.attested)} nodes attested, on the chain")
    return differences


async def _compare_elections(chain: ChainReader, evidence: EpochEvidence) -> list[str]:
    following = Epoch(evidence.epoch + 1)
    elected = await chain.fetch_elected_validator(evidence.subnet_id, following)
    # A chain that has forgotten an election answers as one that held none.
    if elected in (None, evidence.elected):
        return []
    return [f"the chain elected node {elected} in epoch {following}"]


def _list_states(
    evidence: EpochEvidence,
) -> Iterator[tuple[Roster | None, str, BlockNumber]]:
    """Yield the rosters and the draw, with the chain blocks that they were read at."""
    for roster in (evidence.previous, evidence.roster, evidence.following):
        if roster is not None:
            yield roster, f"the nodes of epoch {roster.epoch}", roster.first_block
    if evidence.draw is not None:
        audit = evidence.roster.first_block + evidence.schedule.audit_start
        yield None, "the block that drew the audits", BlockNumber(audit)


async def _compare_state(
    chain: ChainReader,
    evidence: EpochEvidence,
    roster: Roster | None,
    what: str,
    number: BlockNumber,
) -> list[str]:
    block = await chain.fetch_block(number)
    expected = evidence.draw if roster is None else roster.block_hash
    if block.block_hash != expected:
        return [f"{what}: chain block {number} has another hash"]
    if roster is None:
        return []
    if block.timestamp_s != roster.timestamp_s:
        return [f"{what}: chain block {number} has another time"]
    nodes = await chain.fetch_nodes(evidence.subnet_id, at_block=number)
    return [] if nodes == roster.nodes else [f"{what} are others at chain block {number}"]
