"""Who belongs to the subnet, epoch by epoch: the chain's word, read once and kept.

The roster of an epoch is the chain's state at the epoch's first block, read when that
block is final. It anchors everything that nodes must agree on: who may speak, the
seed, and when records expire. An outage of the chain keeps the last good roster for
a while and never opens the door.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from consensus.admission import EpochTable, compute_expiry, compute_vector_sizes
from consensus.challenge import ModelShape, compute_seed
from consensus.phases import Schedule, compute_schedule
from consensus.protocol_params import ConsensusParams
from consensus.records import Challenge
from consensus.roster import Roster, RosterNode
from consensus.types import (
    BlockNumber,
    Epoch,
    EpochPosition,
    SubnetId,
    SubnetNodeId,
    compute_epoch_position,
)
from keys.peer import PeerId
from subnet.epoch.interfaces import BlockInfo, ChainReader
from subnet.journal.journal import Journal

HISTORY_EPOCHS = 2
"""A node that starts reads so many past rosters, to hold the records that still live."""


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


class Membership:
    """Reads rosters and elections from the chain into the journal, and answers from there.

    ``shape`` is the model's, where it is known: reveals of another shape are then not admitted.
    """

    def __init__(
        self,
        terms: SubnetTerms,
        *,
        reader: ChainReader,
        journal: Journal,
        shape: ModelShape | None = None,
    ) -> None:
        self._terms = terms
        self._reader = reader
        self._journal = journal
        self._slot: int | None = None
        self._tentative: dict[Epoch, SubnetNodeId | None] = {}
        sizes = None if shape is None else compute_vector_sizes(shape, terms.params)
        self._table = EpochTable(terms.network_id, vector_sizes=sizes)
        for epoch in sorted(journal.rosters):
            self._admit(journal.rosters[epoch])

    @property
    def table(self) -> EpochTable:
        """What the record policy knows of epochs; it only grows."""
        return self._table

    @property
    def elections(self) -> dict[Epoch, SubnetNodeId | None]:
        """Whom the chain elected, as far as known; this epoch's answer may still change."""
        return {**self._tentative, **self._journal.elections}

    def get_roster(self, epoch: Epoch) -> Roster | None:
        """Return the roster of ``epoch`` if it was read."""
        return self._journal.rosters.get(epoch)

    def get_newest_roster(self) -> Roster | None:
        """Return the roster that was read last; None before the first."""
        rosters = self._journal.rosters
        return rosters[max(rosters)] if rosters else None

    def find_member(self, peer_id: PeerId, *, now_s: float) -> RosterNode | None:
        """Return the node that speaks with this key, by the last good roster.

        A roster older than ``max_roster_age_epochs`` epochs admits nobody.
        """
        last = self.get_newest_roster()
        if last is None:
            return None
        # The roster's own epoch is its life; only what comes after is age.
        max_epochs = 1 + self._terms.params.max_roster_age_epochs
        life_s = max_epochs * self._terms.epoch_length * self._terms.block_time_s
        return last.get_by_peer(peer_id) if now_s < last.timestamp_s + life_s else None

    async def locate(self, head: BlockInfo) -> EpochPosition | None:
        """Return where ``head`` stands in the subnet's epochs; None until it has a slot."""
        if self._slot is None:
            subnet = await self._reader.fetch_subnet(self._terms.subnet_id)
            self._slot = None if subnet is None else subnet.slot
        return self.get_position(head.number)

    def get_position(self, block: BlockNumber) -> EpochPosition | None:
        """Return where a block stands, without asking the chain; None before the slot is known."""
        if self._slot is None or block < self._slot:
            return None
        return compute_epoch_position(block, slot=self._slot, epoch_length=self._terms.epoch_length)

    async def refresh(self, position: EpochPosition) -> None:
        """Read what is missing of this epoch and the ones before it. Raises ChainUnavailable."""
        await self._refresh_rosters(position)
        for age in range(HISTORY_EPOCHS, 0, -1):
            epoch = Epoch(position.epoch - age)
            if epoch >= 0 and epoch not in self._journal.elections:
                await self._journal.record_election(epoch, await self._fetch_elected(epoch))
        if position.epoch not in self._journal.elections:
            await self._refresh_election(position.epoch)

    async def _refresh_rosters(self, position: EpochPosition) -> None:
        wanted = [
            Epoch(position.epoch - age)
            for age in range(HISTORY_EPOCHS, -1, -1)
            if position.epoch >= age and Epoch(position.epoch - age) not in self._journal.rosters
        ]
        if not wanted:
            return
        final = await self._reader.fetch_finalised_number()
        for epoch in wanted:
            first_block = position.first_block - (position.epoch - epoch) * position.length
            if first_block <= final:
                await self._read_roster(epoch, first_block)
        is_missing = position.epoch not in self._journal.rosters
        is_late = position.offset >= self._terms.schedule.finality_deadline
        if is_missing and is_late and not self._journal.is_stale(position.epoch):
            await self._journal.record_stale(position.epoch)

    async def _read_roster(self, epoch: Epoch, first_block: int) -> None:
        block = await self._reader.fetch_block(BlockNumber(first_block))
        nodes = await self._reader.fetch_nodes(self._terms.subnet_id, at_block=block.number)
        roster = Roster(epoch, block.number, block.block_hash, block.timestamp_s, nodes)
        await self._journal.record_roster(roster)
        self._admit(roster)

    async def _refresh_election(self, epoch: Epoch) -> None:
        elected = await self._fetch_elected(epoch)
        if epoch in self._journal.rosters:
            # The epoch's first block is final, and it holds the election.
            await self._journal.record_election(epoch, elected)
            self._tentative.clear()
        else:
            self._tentative = {epoch: elected}

    async def _fetch_elected(self, epoch: Epoch) -> SubnetNodeId | None:
        return await self._reader.fetch_elected_validator(self._terms.subnet_id, epoch)

    def _admit(self, roster: Roster) -> None:
        expires_at = self._terms.compute_expiry(roster.timestamp_s)
        self._table = self._table.add(roster, expires_at=expires_at)


def is_clock_right(head: BlockInfo, *, now_s: float, params: ConsensusParams) -> bool:
    """Whether this machine's clock and the chain's agree well enough to take part."""
    return abs(now_s - head.timestamp_s) <= params.max_clock_skew_s
