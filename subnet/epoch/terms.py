"""What is fixed for one subnet on one chain, and what follows from it for an epoch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from consensus.admission import compute_expiry
from consensus.challenge import compute_seed
from consensus.phases import Schedule, compute_schedule
from consensus.protocol_params import ConsensusParams
from consensus.records import Challenge
from consensus.roster import Roster
from consensus.types import SubnetId


@dataclass(frozen=True)
class SubnetTerms:
    """What is fixed for one subnet on one chain, the same on every node.

    ``block_time_ms`` is the chain's target time between blocks: 6,000 on the real chain.
    """

    subnet_id: SubnetId
    network_id: bytes
    epoch_length: int
    block_time_ms: int
    params: ConsensusParams

    @cached_property
    def schedule(self) -> Schedule:
        return compute_schedule(self.epoch_length, self.params)

    @property
    def block_time_s(self) -> float:
        return self.block_time_ms / 1000

    def compute_expiry(self, timestamp_s: int) -> int:
        """Return when the records of the epoch that began at ``timestamp_s`` expire."""
        return compute_expiry(
            timestamp_s,
            epoch_length=self.epoch_length,
            block_time_ms=self.block_time_ms,
            life_epochs=self.params.record_life_epochs,
        )

    def compute_challenge(self, roster: Roster) -> Challenge:
        """Return the challenge of the roster's epoch, which the chain alone decides."""
        seed = compute_seed(self.network_id, roster.epoch, roster.first_block, roster.block_hash)
        return Challenge(roster.first_block, roster.block_hash, seed)
