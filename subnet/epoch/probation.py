"""Who is on probation: read from the latest attested proposal that the chain holds."""

from __future__ import annotations

from collections.abc import Mapping

from consensus.attestation import is_agreed
from consensus.errors import ProposalMismatch
from consensus.naming import MAX_PROBATION, carry_probation, decode_args
from consensus.roster import Roster
from consensus.types import BlockNumber, Epoch, SubnetNodeId
from subnet.epoch.context import NodeContext


class ProbationReader:
    """Reads how many epochs nodes stay unpaid, and keeps it in the journal."""

    def __init__(self, context: NodeContext) -> None:
        self._terms = context.terms
        self._reader = context.reader
        self._journal = context.journal

    async def read(self, epoch: Epoch) -> Mapping[SubnetNodeId, int]:
        """Return the epochs left before ``epoch``, this one included. Raises ChainUnavailable.

        It stands in the latest proposal, made in ``epoch`` or earlier, that was attested in the
        state of the next epoch's first block. That block must be final, so that all nodes read
        the same; before that, the answer is that of the best block and is not kept.
        """
        known = self._journal.probation.get(epoch)
        if known is not None:
            return known
        next_roster = self._journal.rosters.get(Epoch(epoch + 1))
        at_block = None if next_roster is None else next_roster.first_block
        left = await self._search(epoch, at_block)
        if at_block is not None:
            await self._journal.record_probation(epoch, left)
        return left

    async def _search(self, epoch: Epoch, at_block: BlockNumber | None) -> dict[SubnetNodeId, int]:
        """Go back over the epochs without an attested proposal; what they carried is over then."""
        least = await self._reader.fetch_min_attestation_percent(at_block=at_block)
        for age in range(min(MAX_PROBATION, epoch)):
            proposed_in = Epoch(epoch - age)
            submission = await self._reader.fetch_submission(
                self._terms.subnet_id, proposed_in, at_block=at_block
            )
            if submission is None or not is_agreed(submission, min_attestation=least):
                continue
            scored = await self._get_roster(Epoch(proposed_in - 1))
            try:
                named = decode_args(submission.args, scored)
            except ProposalMismatch:
                # Two thirds attested something else than this protocol: it carries nothing.
                return {}
            return carry_probation(named.probation, epochs=age)
        return {}

    async def _get_roster(self, epoch: Epoch) -> Roster:
        known = self._journal.rosters.get(epoch)
        if known is not None:
            return known
        newest = self._journal.rosters[max(self._journal.rosters)]
        first = newest.first_block - (newest.epoch - epoch) * self._terms.epoch_length
        block = await self._reader.fetch_block(BlockNumber(first))
        nodes = await self._reader.fetch_nodes(self._terms.subnet_id, at_block=block.number)
        return Roster(epoch, block.number, block.block_hash, block.timestamp_s, nodes)
