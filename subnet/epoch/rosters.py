"""Rosters, elections and draws per epoch, cached in the journal.

The roster of an epoch is the list of the subnet's activated nodes in the chain's state at the
epoch's first block. It is read once that block is final. Every node reads the same roster, so
all nodes agree on who may publish records, on the challenge's seed and on when records expire.
The draw of an epoch, which selects the layers to audit, is the hash of AUDIT's first block; it is
read once that is final too. While the chain does not answer, what was read before stays in use.
"""

from __future__ import annotations

from consensus.admission import EpochTable, compute_vector_sizes
from consensus.challenge import ModelShape
from consensus.roster import Roster
from consensus.types import (
    BlockNumber,
    Epoch,
    EpochPosition,
    SubnetNodeId,
    compute_epoch_position,
)
from subnet.epoch.finality import Finality
from subnet.epoch.interfaces import BlockInfo, ChainReader
from subnet.epoch.terms import SubnetTerms
from subnet.journal.journal import Journal

HISTORY_EPOCHS = 2
"""Past rosters that a node reads at its start: records of these epochs have not expired yet."""


class Rosters:
    """Reads rosters, elections and draws from the chain into the journal; answers from there.

    ``shape`` is the model's. If it is given, reveals of another shape are not admitted.
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
        self.finality = Finality(reader)
        self._slot: int | None = None
        self._tentative: dict[Epoch, SubnetNodeId | None] = {}
        sizes = None if shape is None else compute_vector_sizes(shape, terms.params)
        self._table = EpochTable(terms.network_id, vector_sizes=sizes)
        for epoch in sorted(journal.rosters):
            self._admit(journal.rosters[epoch])

    @property
    def table(self) -> EpochTable:
        """The epochs and authors whose records are admitted. It only grows."""
        return self._table

    @property
    def elections(self) -> dict[Epoch, SubnetNodeId | None]:
        """The elected validator of each epoch, None where none was elected.

        The current epoch's answer may change until the epoch's first block is final.
        """
        return {**self._tentative, **self._journal.elections}

    def get_roster(self, epoch: Epoch) -> Roster | None:
        """Return the roster of ``epoch`` if it was read."""
        return self._journal.rosters.get(epoch)

    def get_newest_roster(self) -> Roster | None:
        """Return the roster that was read last; None before the first."""
        rosters = self._journal.rosters
        return rosters[max(rosters)] if rosters else None

    async def locate(self, head: BlockInfo) -> EpochPosition | None:
        """Return the position of ``head`` in the epochs; None until the subnet has a slot."""
        if self._slot is None:
            subnet = await self._reader.fetch_subnet(self._terms.subnet_id)
            self._slot = None if subnet is None else subnet.slot
        return self.get_position(head.number)

    def get_position(self, block: BlockNumber) -> EpochPosition | None:
        """Return a block's position without asking the chain; None until the slot is known."""
        if self._slot is None or block < self._slot:
            return None
        return compute_epoch_position(block, slot=self._slot, epoch_length=self._terms.epoch_length)

    async def refresh(self, position: EpochPosition) -> None:
        """Read what is missing, up to now. Raises ChainUnavailable."""
        await self._refresh_rosters(position)
        for age in range(HISTORY_EPOCHS, 0, -1):
            epoch = Epoch(position.epoch - age)
            if epoch >= 0 and epoch not in self._journal.elections:
                await self._journal.record_election(epoch, await self._fetch_elected(epoch))
        if position.epoch not in self._journal.elections:
            await self._refresh_election(position.epoch)
        await self._refresh_draws(position)

    def get_draw_block(self, roster: Roster) -> BlockNumber:
        """Return the number of the block whose hash draws the layers to audit."""
        return BlockNumber(roster.first_block + self._terms.schedule.audit_start)

    async def _refresh_rosters(self, position: EpochPosition) -> None:
        wanted = [
            Epoch(position.epoch - age)
            for age in range(HISTORY_EPOCHS, -1, -1)
            if position.epoch >= age and Epoch(position.epoch - age) not in self._journal.rosters
        ]
        if not wanted:
            return
        for epoch in wanted:
            age = position.epoch - epoch
            first_block = BlockNumber(position.first_block - age * position.length)
            if await self.finality.fetch_is_final(first_block, head=position.block):
                await self._read_roster(epoch, first_block)
        is_missing = position.epoch not in self._journal.rosters
        is_late = position.offset >= self._terms.schedule.finality_deadline
        if is_missing and is_late and not self._journal.is_stale(position.epoch):
            await self._journal.record_stale(position.epoch)

    async def _read_roster(self, epoch: Epoch, first_block: BlockNumber) -> None:
        block = await self._reader.fetch_block(first_block)
        nodes = await self._reader.fetch_nodes(self._terms.subnet_id, at_block=block.number)
        roster = Roster(epoch, block.number, block.block_hash, block.timestamp_s, nodes)
        await self._journal.record_roster(roster)
        self._admit(roster)

    async def _refresh_election(self, epoch: Epoch) -> None:
        is_final = epoch in self._journal.rosters
        if not is_final and epoch in self._tentative:
            return
        elected = await self._fetch_elected(epoch)
        if is_final:
            # The epoch's first block is final, and it holds the election.
            await self._journal.record_election(epoch, elected)
            self._tentative.clear()
        else:
            self._tentative = {epoch: elected}

    async def _refresh_draws(self, position: EpochPosition) -> None:
        """Read the draws of the present epoch and the one before, once they are final."""
        epochs = (Epoch(position.epoch - 1), position.epoch)
        rosters = [self._journal.rosters[epoch] for epoch in epochs if self._lacks_draw(epoch)]
        for roster in rosters:
            number = self.get_draw_block(roster)
            if await self.finality.fetch_is_final(number, head=position.block):
                block = await self._reader.fetch_block(number)
                await self._journal.record_draw(roster.epoch, block.block_hash)

    def _lacks_draw(self, epoch: Epoch) -> bool:
        return epoch in self._journal.rosters and epoch not in self._journal.draws

    async def _fetch_elected(self, epoch: Epoch) -> SubnetNodeId | None:
        return await self._reader.fetch_elected_validator(self._terms.subnet_id, epoch)

    def _admit(self, roster: Roster) -> None:
        expires_at = self._terms.compute_expiry(roster.timestamp_s)
        self._table = self._table.add(roster, expires_at=expires_at)
