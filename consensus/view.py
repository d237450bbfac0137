"""Everything that the duties of one node depend on, as one frozen value.

The epoch loop fills it from the chain, the journal and the records that were seen;
``consensus.duties`` reads it. What is done is in the view, so a restart or a
repeated head is harmless.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from consensus.phases import Schedule
from consensus.records import RecordKind
from consensus.roster import Roster, RosterNode
from consensus.types import BlockNumber, Epoch, EpochPosition, NodeClass, Role, SubnetNodeId
from keys.peer import PeerId


class EpochStatus(Enum):
    """Whether this node takes part in the present epoch, or why not."""

    ACTIVE = "active"
    WAITING = "waiting for the epoch's first block to be final"
    CHAIN_STALE = "the epoch's first block was not final in time"
    NOT_ELECTED = "the chain elected no validator in this epoch"
    NOT_IN_ROSTER = "this node is not Included or Validator in this epoch"
    CLOCK_SKEW = "chain time and this machine's clock differ"


@dataclass(frozen=True, slots=True)
class Attempts:
    """How often an extrinsic of this epoch was sent, and at which head last."""

    count: int = 0
    last_block: BlockNumber = BlockNumber(0)


@dataclass(frozen=True, slots=True)
class SubmissionSeen:
    """An epoch's proposal on chain, as far as duties need it."""

    proposer: SubnetNodeId
    attested: frozenset[SubnetNodeId]


@dataclass(frozen=True, slots=True)
class EpochView:
    """One node's view at one head.

    ``roster`` is None until the epoch's first block is final. ``elections`` holds whom the chain
    elected, None where it elected no node; an epoch that was not asked for is missing.
    ``own_records`` are the records that this node signed, and whether a replica has acknowledged
    them; for the ``unconfirmed`` none has since the process began. ``has_auditor`` says that the
    model's files are here. ``is_previous_settled`` is set once the previous epoch's final proposal,
    ``previous_submission``, was read, ``is_previous_reported`` once its scores stand in the
    journal, and ``refused`` holds the epochs whose proposal was compared and differs.
    """

    position: EpochPosition
    schedule: Schedule
    role: Role
    node_id: SubnetNodeId
    peer_id: PeerId
    has_hotkey: bool
    has_auditor: bool = False
    is_clock_right: bool = True
    is_stale: bool = False
    roster: Roster | None = None
    previous_roster: Roster | None = None
    elections: Mapping[Epoch, SubnetNodeId | None] = field(default_factory=dict)
    is_challenge_seen: bool = False
    own_records: Mapping[tuple[RecordKind, Epoch], bool] = field(default_factory=dict)
    unconfirmed: frozenset[tuple[RecordKind, Epoch]] = frozenset()
    submission: SubmissionSeen | None = None
    previous_submission: SubmissionSeen | None = None
    is_previous_settled: bool = False
    is_previous_reported: bool = False
    refused: frozenset[Epoch] = frozenset()
    proposals_sent: Attempts = field(default_factory=Attempts)
    attestations_sent: Attempts = field(default_factory=Attempts)

    @property
    def epoch(self) -> Epoch:
        return self.position.epoch

    @property
    def previous_epoch(self) -> Epoch:
        return Epoch(self.position.epoch - 1)

    @property
    def elected(self) -> SubnetNodeId | None:
        """The validator that the chain elected for this epoch."""
        return self.elections.get(self.epoch)

    @property
    def status(self) -> EpochStatus:
        """Whether this node takes part in the epoch, or the first reason why not."""
        if self.is_stale:
            return EpochStatus.CHAIN_STALE
        if self.roster is None:
            return EpochStatus.WAITING
        if self.elected is None:
            return EpochStatus.NOT_ELECTED
        if not self.has_class(NodeClass.INCLUDED):
            return EpochStatus.NOT_IN_ROSTER
        return EpochStatus.ACTIVE if self.is_clock_right else EpochStatus.CLOCK_SKEW

    def has_class(self, wanted: NodeClass) -> bool:
        """Whether this node is of at least this class in the epoch.

        While the epoch's roster is not known, the last one is asked.
        """
        node = self.find_own(self.roster or self.previous_roster)
        return node is not None and node.has_class(wanted, self.epoch)

    def find_own(self, roster: Roster | None) -> RosterNode | None:
        """Return this node in a roster; None too where the chain gives its id to another key."""
        node = None if roster is None else roster.get_by_id(self.node_id)
        return node if node is not None and node.peer_id == self.peer_id else None

    def is_scored(self, epoch: Epoch) -> bool | None:
        """Whether work in ``epoch`` is scored: the chain elected a validator. None if not known."""
        if epoch < 0:
            return False
        return self.elections[epoch] is not None if epoch in self.elections else None

    def has_to_publish(self, kind: RecordKind, epoch: Epoch) -> bool:
        """Whether a record of this node is there that no replica is known to hold.

        Replicas keep records in memory, and may have died with this node: an acknowledgement
        from before its restart does not count.
        """
        slot = (kind, epoch)
        return slot in self.own_records and (not self.own_records[slot] or slot in self.unconfirmed)
