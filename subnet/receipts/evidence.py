"""What a node keeps of one epoch, so that every score of it can be computed and explained again.

The node collects it from its journal once the epoch's proposal is settled, because the journal
itself forgets after four epochs. It holds the inputs of ``consensus.epoch.score_epoch`` in their
signed encodings, what the chain says of the proposal, and what this node saw and did itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from consensus.challenge import ModelShape, compute_seed
from consensus.naming import Slot
from consensus.phases import Schedule, compute_schedule
from consensus.protocol_params import ConsensusParams
from consensus.records import RecordKind
from consensus.roster import Roster
from consensus.submission import Submission
from consensus.types import BlockNumber, Epoch, SubnetId, SubnetNodeId
from keys.envelope import Envelope


@dataclass(frozen=True, slots=True)
class FirstSeen:
    """A record that the keeping node saw, by the first bytes of its hash, and at which head."""

    slot: Slot
    name: bytes
    seen_at: BlockNumber


@dataclass(frozen=True, slots=True)
class OwnRecord:
    """A record that the keeping node signed, and whether a replica is known to hold it."""

    kind: RecordKind
    epoch: Epoch
    is_acknowledged: bool


@dataclass(frozen=True, slots=True)
class Notes:
    """What only the keeping node knows; it may name endpoints, so it is never shared.

    ``missed`` says which duty was not done in which epoch, and why. ``refused`` is why this node
    did not attest the proposal. ``num_heads`` counts the epoch's blocks that reached this node;
    None if its process is younger than the epoch. ``chain_trouble`` is the last reason why the
    chain did not answer in the epoch.
    """

    missed: tuple[tuple[Epoch, str, str], ...] = ()
    refused: str | None = None
    num_heads: int | None = None
    chain_trouble: str | None = None


@dataclass(frozen=True, kw_only=True)
class EpochEvidence:
    """One epoch, as one node kept it, and which node it is ``about`` if no other is asked for.

    ``roster`` is that of the epoch, ``following`` of the next one, whose proposal scores it, and
    ``previous`` of the one before; None where the node did not know it. ``is_scored`` and
    ``is_previous_scored`` say that the chain elected a validator in the epoch and in the one
    before. ``elected`` had to propose. ``submission`` is the proposal with its attestations, final
    once ``is_settled``; ``min_attestation`` the share that must attest, None if it is not known.
    ``departed`` are nodes of ``following`` that are not in the roster after it.
    ``probation`` holds how many epochs nodes stay unpaid, this one included. ``records`` are those
    that the proposal rests on, or those that this node saw where it has not all of them.
    """

    subnet_id: SubnetId
    network_id: bytes
    epoch_length: int
    block_time_ms: int
    params: ConsensusParams
    shape: ModelShape
    kept_by: SubnetNodeId
    about: SubnetNodeId
    roster: Roster
    following: Roster
    previous: Roster | None
    is_scored: bool
    is_previous_scored: bool
    draw: bytes | None
    probation: Mapping[SubnetNodeId, int]
    elected: SubnetNodeId | None
    submission: Submission | None
    is_settled: bool
    min_attestation: int | None
    records: tuple[Envelope, ...]
    departed: frozenset[SubnetNodeId] = frozenset()
    seen: tuple[FirstSeen, ...] = ()
    own: tuple[OwnRecord, ...] = ()
    notes: Notes = field(default_factory=Notes)

    @property
    def epoch(self) -> Epoch:
        return self.roster.epoch

    @cached_property
    def schedule(self) -> Schedule:
        return compute_schedule(self.epoch_length, self.params)

    @property
    def seed(self) -> bytes:
        """The seed of the epoch's challenge."""
        roster = self.roster
        return compute_seed(self.network_id, roster.epoch, roster.first_block, roster.block_hash)

    @cached_property
    def seen_at(self) -> Mapping[Slot, BlockNumber]:
        return {record.slot: record.seen_at for record in self.seen}

    def compute_cutoff(self, kind: RecordKind, epoch: Epoch) -> BlockNumber:
        """Return the first block at which a record of this slot is too late.

        The scores of an epoch are revealed in the one after it.
        """
        seen_in = epoch + 1 if kind is RecordKind.SCORE_REVEAL else epoch
        first_block = self.roster.first_block + (seen_in - self.epoch) * self.epoch_length
        return BlockNumber(first_block + self.schedule.windows[kind].counts_until)

    def share(self, about: SubnetNodeId) -> EpochEvidence:
        """Return what may be given to others, about one node."""
        return replace(self, about=about, notes=Notes())
