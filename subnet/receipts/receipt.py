"""The receipt of one node's score in one epoch, as a value: what ``mesh why`` says in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from consensus.attestation import compute_attestation_ratio
from consensus.records import RecordKind
from consensus.roster import RosterNode
from consensus.scoring import HosterReport, ValidatorReport
from consensus.submission import Submission
from consensus.types import BlockNumber, Epoch, Score, SubnetNodeId
from subnet.receipts.evidence import OwnRecord
from subnet.receipts.reasons import Cause
from subnet.receipts.recompute import Basis


class Comparison(Enum):
    """How the score that was computed again compares with the proposal on chain."""

    EQUAL = "equals the chain"
    DIFFERS = "differs from the chain"
    NO_PROPOSAL = "nothing was proposed"
    NOT_COMPARED = "not compared: this node has not all that the proposal names"


@dataclass(frozen=True, slots=True)
class RecordTrace:
    """What became of one record of the node.

    ``listed_by`` are the named sightings that list the version that most of them list, of
    ``versions``. ``seen_at`` is the head at which the keeping node saw it, and ``cutoff`` the first
    block at which it was too late. ``own`` is set where the node itself kept the evidence.
    """

    kind: RecordKind
    epoch: Epoch
    seen_at: BlockNumber | None
    cutoff: BlockNumber
    listed_by: tuple[SubnetNodeId, ...]
    versions: int
    is_accepted: bool
    own: OwnRecord | None = None


@dataclass(frozen=True, slots=True)
class LayerVotes:
    """How many hosters answered a layer, and how many of these answers are valid."""

    valid: int
    answered: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeReceipt:
    """One node's score in one epoch, and everything that it comes from.

    ``score`` is None where the node has no row. ``proposed`` is its row on chain. ``named`` are the
    nodes whose sightings the proposal names. ``is_named`` says whether the node's is among them;
    None where nothing was named.
    ``failed_probes`` are the named validators whose probes it failed. ``probation`` is what was
    left before this epoch, and ``probation_after`` what is left behind it. ``drawn`` are the
    audited layers. ``unseen`` says what the keeping node does not have.
    """

    epoch: Epoch
    node_id: SubnetNodeId
    kept_by: SubnetNodeId
    node: RosterNode | None
    basis: Basis
    comparison: Comparison
    differences: tuple[str, ...]
    score: Score | None
    proposed: Score | None
    submission: Submission | None
    elected: SubnetNodeId | None
    min_attestation: int | None
    is_settled: bool
    is_agreed: bool | None
    named: tuple[SubnetNodeId, ...]
    is_named: bool | None
    num_records: int
    traces: tuple[RecordTrace, ...]
    hoster: HosterReport | None
    votes: Mapping[int, LayerVotes]
    validator: ValidatorReport | None
    drawn: tuple[int, ...]
    failed_probes: tuple[SubnetNodeId, ...]
    probation: int
    probation_after: int
    causes: tuple[Cause, ...]
    unseen: tuple[str, ...]

    @property
    def num_named(self) -> int:
        return len(self.named)

    @property
    def is_own(self) -> bool:
        """Whether the node's own evidence is explained."""
        return self.node_id == self.kept_by

    @property
    def attestation_ratio(self) -> int:
        """Attestations over voters; 10**18 is one."""
        return 0 if self.submission is None else compute_attestation_ratio(self.submission)
