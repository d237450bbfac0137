"""Reads the chain's state at one head and builds the view that duties are computed from."""

from __future__ import annotations

from consensus.submission import Submission
from consensus.types import BlockNumber, Epoch, EpochPosition
from consensus.view import EpochView, SubmissionSeen
from subnet.epoch.context import NodeContext
from subnet.epoch.observer import EpochSettled
from subnet.journal.journal import Extrinsic


class ViewBuilder:
    """Reads what a head may have changed, and builds the view that duties are computed from."""

    def __init__(self, context: NodeContext) -> None:
        self._context = context
        self._terms = context.terms
        self._journal = context.journal
        self._rosters = context.rosters
        self._node_id = context.author.node_id
        self._has_hotkey = context.writer is not None
        self._submission_epoch: Epoch | None = None
        self._submission: Submission | None = None
        self._attested_at: BlockNumber | None = None
        """The head at which this node's part in the submission was seen first."""
        self._final_epoch: Epoch | None = None
        """The epoch in which a final block has this node's attestation."""

    async def refresh(self, position: EpochPosition) -> None:
        """Ask the chain what it may have changed. Raises ChainUnavailable."""
        await self._rosters.refresh(position)
        await self._settle(Epoch(position.epoch - 1))
        await self._refresh_submission(position)

    def build_view(
        self, position: EpochPosition, *, is_clock_right: bool, is_challenge_seen: bool
    ) -> EpochView:
        """Return everything that duties depend on."""
        journal, epoch = self._journal, position.epoch
        previous = Epoch(epoch - 1)
        return EpochView(
            position=position,
            schedule=self._terms.schedule,
            role=self._context.role,
            node_id=self._node_id,
            peer_id=self._context.author.key.peer_id,
            has_hotkey=self._has_hotkey,
            has_auditor=self._context.get_auditor() is not None,
            is_clock_right=is_clock_right,
            is_stale=journal.is_stale(epoch),
            roster=journal.rosters.get(epoch),
            previous_roster=journal.rosters.get(previous),
            elections=self._rosters.elections,
            is_challenge_seen=is_challenge_seen,
            own_records={slot: own.is_acknowledged for slot, own in journal.own_records.items()},
            unconfirmed=journal.list_unconfirmed(),
            submission=_describe(self.get_submission(epoch)),
            previous_submission=_describe(journal.submissions.get(previous)),
            is_previous_settled=previous in journal.submissions,
            is_previous_reported=previous in journal.reports,
            refused=frozenset(journal.refused),
            proposals_sent=journal.get_attempts(Extrinsic.PROPOSE, epoch),
            attestations_sent=journal.get_attempts(Extrinsic.ATTEST, epoch),
        )

    def get_submission(self, epoch: Epoch) -> Submission | None:
        """Return the epoch's proposal as it was read last."""
        return self._submission if self._submission_epoch == epoch else None

    async def _settle(self, epoch: Epoch) -> None:
        """Read the final proposal of an epoch that is over, once."""
        elected = self._rosters.elections.get(epoch)
        if elected is None or epoch in self._journal.submissions:
            return
        submission = await self._fetch_submission(epoch)
        await self._journal.record_submission(epoch, submission)
        self._context.observe(EpochSettled(epoch, elected, submission))

    async def _refresh_submission(self, position: EpochPosition) -> None:
        """Read the epoch's proposal until this node has nothing more to do with it.

        A fork may undo the proposal or an attestation, so what this node sent is looked for again
        once the block at which it was first seen is final.
        """
        epoch = position.epoch
        is_done = epoch == self._final_epoch or epoch in self._journal.refused
        if is_done or not self._has_hotkey:
            return
        seen_at = self._attested_at if self._submission_epoch == epoch else None
        if seen_at is None:
            self._submission = await self._fetch_submission(epoch, at_block=position.block)
            self._submission_epoch = epoch
            is_seen = self._is_attested(self._submission)
            self._attested_at = position.block if is_seen else None
        elif await self._rosters.finality.fetch_is_final(seen_at, head=position.block):
            if self._is_attested(await self._fetch_submission(epoch, at_block=seen_at)):
                self._final_epoch = epoch
            else:
                self._attested_at = None

    def _is_attested(self, submission: Submission | None) -> bool:
        return submission is not None and self._node_id in submission.attested

    async def _fetch_submission(
        self, epoch: Epoch, *, at_block: BlockNumber | None = None
    ) -> Submission | None:
        return await self._context.reader.fetch_submission(
            self._terms.subnet_id, epoch, at_block=at_block
        )


def _describe(submission: Submission | None) -> SubmissionSeen | None:
    return None if submission is None else SubmissionSeen(submission.proposer, submission.attested)
