"""When this node attests a proposal, and when the chain's nodes have attested one."""

from __future__ import annotations

from collections.abc import Sequence

from consensus.errors import ProposalMismatch
from consensus.naming import Naming
from consensus.protocol_params import ConsensusParams
from consensus.report import EpochReport
from consensus.roster import Roster
from consensus.submission import Submission
from consensus.types import NodeClass, Score, SubnetNodeId


def check_proposal(
    own: Sequence[tuple[SubnetNodeId, Score]], proposed: Sequence[tuple[SubnetNodeId, Score]]
) -> None:
    """Raise ProposalMismatch, naming the first difference, unless the proposal may be attested.

    The order of rows means nothing, on chain or here. An empty proposal is never attested: a
    proposer has at least its own record to show.
    """
    if not proposed:
        raise ProposalMismatch("the proposal is empty")
    theirs = dict(proposed)
    if len(theirs) != len(proposed):
        raise ProposalMismatch("the proposal lists a node twice")
    ours = dict(own)
    for node_id in sorted(ours.keys() | theirs.keys()):
        if ours.get(node_id) != theirs.get(node_id):
            raise ProposalMismatch(
                f"node {node_id}: proposed {_describe(theirs.get(node_id))}, "
                f"computed {_describe(ours.get(node_id))}"
            )


def check_naming(own: EpochReport, named: Naming) -> None:
    """Raise ProposalMismatch unless unpaid hosters and probation are those of ``own``."""
    if named.unpaid != own.unpaid:
        nodes = sorted(named.unpaid ^ own.unpaid)
        raise ProposalMismatch(f"args: nodes {nodes} are unpaid in one of proposal and own report")
    for node_id in sorted(named.probation.keys() | own.probation.keys()):
        theirs, ours = named.probation.get(node_id, 0), own.probation.get(node_id, 0)
        if theirs != ours:
            raise ProposalMismatch(
                f"args: node {node_id} has {theirs} epochs of probation left, computed {ours}"
            )


def is_attested(submission: Submission, roster: Roster, params: ConsensusParams) -> bool:
    """Whether enough Validator-class nodes of the proposal's epoch attested it.

    Enough are ``min_attestation_percent`` of them, as the pallet counts; the proposer is among
    those that attested.
    """
    voters = {node.node_id for node in roster.with_class(NodeClass.VALIDATOR)}
    num_attested = len(submission.attested & voters)
    return 100 * num_attested >= params.min_attestation_percent * len(voters)


def _describe(score: Score | None) -> str:
    return "no row" if score is None else str(score)
