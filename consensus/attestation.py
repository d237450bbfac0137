"""Whether the elected validator proposed what this node computed itself."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from consensus.commitment import encode_scores
from consensus.errors import ProposalMismatch
from consensus.types import Score, SubnetNodeId

_PROPOSAL_TAG = b"mesh/proposal"


def compute_proposal_hash(rows: Sequence[tuple[SubnetNodeId, Score]]) -> bytes:
    """Return the 32-byte name of proposal rows, which ascend by node id. Raises ValueError."""
    return hashlib.sha256(_PROPOSAL_TAG + encode_scores(rows)).digest()


def check_proposal(
    own: Sequence[tuple[SubnetNodeId, Score]], proposed: Sequence[tuple[SubnetNodeId, Score]]
) -> None:
    """Raise ProposalMismatch, naming the first difference, unless the proposal may be attested.

    The order of rows means nothing, on chain or here. An empty proposal is never attested, not
    even by a node that saw nothing: whoever proposes has at least its own record to show.
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


def is_proposal_equal(
    own: Sequence[tuple[SubnetNodeId, Score]], proposed: Sequence[tuple[SubnetNodeId, Score]]
) -> bool:
    """Whether :func:`check_proposal` finds nothing to refuse."""
    try:
        check_proposal(own, proposed)
    except ProposalMismatch:
        return False
    return True


def _describe(score: Score | None) -> str:
    return "no row" if score is None else str(score)
