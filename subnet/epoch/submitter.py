"""Sends the two extrinsics of an epoch; each is looked up on chain and journaled first."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from consensus.attestation import (
    check_proposal,
    check_queue_arguments,
    is_last_check,
    may_attest,
)
from consensus.duties import Attest, Propose
from consensus.errors import ProposalMismatch
from consensus.report import EpochReport
from consensus.rows import ScoreRows, drop_departed
from consensus.submission import Submission
from consensus.types import BlockNumber, Epoch, EpochPosition, NodeClass
from subnet.epoch.context import NodeContext
from subnet.epoch.interfaces import ChainWriter, ExtrinsicReceipt
from subnet.epoch.observer import AttestationRefused, ExtrinsicLanded
from subnet.errors import DutyPostponed, ExtrinsicFailed
from subnet.journal.journal import Extrinsic

CheckProposal = Callable[[Attest, Submission], Awaitable[EpochReport]]
"""Returns the report that a proposal should rest on; see ``Judge.check``."""


class Submitter:
    """Sends a proposal or an attestation at most once, as far as the chain shows it."""

    def __init__(self, context: NodeContext, writer: ChainWriter) -> None:
        self._subnet_id = context.terms.subnet_id
        self._schedule = context.terms.schedule
        self._node_id = context.author.node_id
        self._reader = context.reader
        self._rosters = context.rosters
        self._writer = writer
        self._journal = context.journal
        self._observe = context.observe

    async def is_proposed(self, epoch: Epoch) -> bool:
        """Whether the epoch has a proposal. Raises ChainUnavailable."""
        return await self._fetch_submission(epoch) is not None

    async def propose(
        self, duty: Propose, rows: ScoreRows, args: bytes, *, head: BlockNumber
    ) -> None:
        """Propose ``rows`` unless the epoch has a proposal. Raises DutyPostponed."""
        if await self.is_proposed(duty.epoch):
            return
        await self._send(
            Extrinsic.PROPOSE,
            duty.epoch,
            head,
            lambda: self._writer.propose(self._subnet_id, rows, args),
        )

    async def attest(self, duty: Attest, check: CheckProposal, *, head: EpochPosition) -> None:
        """Attest the epoch's proposal if it equals what ``check`` computes, else keep the reason.

        Raises DutyPostponed while something that the proposal names cannot be had, or too few
        attested it by the deadline; at its last check that is the reason to refuse it.
        """
        submission = await self._fetch_submission(duty.epoch)
        if submission is None:
            raise DutyPostponed("the proposal has left the chain")
        if self._node_id in submission.attested:
            return
        try:
            check_queue_arguments(submission)
            report = await check(duty, submission)
            await self._compare(report.rows, submission)
            if not may_attest(submission, head.offset, self._schedule):
                raise DutyPostponed("a third of the voters did not attest it by the deadline")
        except ProposalMismatch as error:
            await self._refuse(duty.epoch, str(error))
            return
        except DutyPostponed as error:
            if not is_last_check(submission, head.offset, self._schedule):
                raise
            await self._refuse(duty.epoch, f"it could not be attested in time: {error}")
            return
        await self._send(
            Extrinsic.ATTEST, duty.epoch, head.block, lambda: self._writer.attest(self._subnet_id)
        )

    async def _refuse(self, epoch: Epoch, reason: str) -> None:
        await self._journal.record_refused(epoch, reason)
        self._observe(AttestationRefused(epoch, reason))

    async def _compare(self, rows: ScoreRows, submission: Submission) -> None:
        try:
            check_proposal(rows, submission.scores)
        except ProposalMismatch:
            nodes = await self._reader.fetch_nodes(self._subnet_id, at_block=submission.block)
            listed = {node.node_id for node in nodes if node.node_class >= NodeClass.INCLUDED}
            proposed = submission.scores
            check_proposal(drop_departed(rows, proposed=proposed, listed=listed), proposed)

    async def _fetch_submission(self, epoch: Epoch) -> Submission | None:
        return await self._reader.fetch_submission(self._subnet_id, epoch)

    async def _send(
        self,
        extrinsic: Extrinsic,
        epoch: Epoch,
        head: BlockNumber,
        send: Callable[[], Awaitable[ExtrinsicReceipt]],
    ) -> None:
        await self._journal.record_sent(extrinsic, epoch, head)
        try:
            receipt = await send()
        except ExtrinsicFailed as error:
            await self._journal.record_answered(extrinsic, epoch, error.reason)
            raise DutyPostponed(str(error)) from error
        await self._journal.record_answered(extrinsic, epoch, receipt.block_hash.hex())
        landed = self._rosters.get_position(receipt.block_number)
        if landed is not None and landed.epoch != epoch:
            raise DutyPostponed(
                f"Late: the {extrinsic.value} of epoch {epoch} landed in block"
                f" {receipt.block_number}, which belongs to epoch {landed.epoch}"
            )
        self._observe(ExtrinsicLanded(extrinsic, epoch, receipt.block_number))
