"""When this node attests a proposal, and when the chain's nodes have attested one."""

from __future__ import annotations

from collections.abc import Sequence

from consensus.errors import ProposalMismatch
from consensus.naming import Naming
from consensus.phases import BLOCKS_TO_LAND, Schedule
from consensus.report import EpochReport
from consensus.submission import Submission
from consensus.types import SCORE_ONE, Score, SubnetNodeId


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


def check_queue_arguments(submission: Submission) -> None:
    """Raise ProposalMismatch if the proposal names a queued node to activate first or to remove.

    The chain obeys such a proposal once 87.5 % attest it, whatever its rows say; the protocol has
    no rule by which a node could be named.
    """
    for name in ("prioritize_queue_node_id", "remove_queue_node_id"):
        node_id: SubnetNodeId | None = getattr(submission, name)
        if node_id is not None:
            raise ProposalMismatch(f"{name}: proposed node {node_id}, must be none")


def compute_attestation_ratio(submission: Submission) -> int:
    """Return attestations over voters as the chain counts them: fixed point, at most one.

    Rounded down; 10**18 is one; 0 without voters. While the owner's emergency set lasts, the chain
    divides by its size instead.
    """
    if not submission.voters:
        return 0
    return min(len(submission.attested) * SCORE_ONE // len(submission.voters), SCORE_ONE)


def is_backed(submission: Submission) -> bool:
    """Whether more than a third of the voters attested: an honest one has what is named."""
    return 3 * len(submission.attested) > len(submission.voters)


def may_attest(submission: Submission, offset: int, schedule: Schedule) -> bool:
    """Whether a proposal that was checked may be attested at this head.

    What it names must be there by the attestation deadline. After it only a backed proposal is
    attested, by those that had it last. Else a proposer that shows its list to some of them, just
    in time, would split honest nodes, and the chain punishes the smaller side.
    """
    return offset <= schedule.attestation_deadline or is_backed(submission)


def is_last_check(submission: Submission, offset: int, schedule: Schedule) -> bool:
    """Whether a proposal that was not attested at this head is refused for good.

    Attestations of the deadline's head land within a few blocks. If they do not back the proposal,
    nothing that comes later does.
    """
    last = schedule.last_attestation
    if not is_backed(submission):
        last = min(last, schedule.attestation_deadline + BLOCKS_TO_LAND)
    return offset >= last


def is_agreed(submission: Submission, *, min_attestation: int) -> bool:
    """Whether the chain settles the proposal as agreed.

    ``min_attestation`` is its MinAttestationPercentage (fixed point, 10**18 is one), read at the
    block at which the question is asked, as the submission is.
    """
    return compute_attestation_ratio(submission) >= min_attestation


def _describe(score: Score | None) -> str:
    return "no row" if score is None else str(score)
