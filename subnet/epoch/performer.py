"""Performs duties. Each one can be repeated: what is done stands in the journal."""

from __future__ import annotations

from collections.abc import Callable

from consensus.duties import (
    Attest,
    CommitAudit,
    CommitOutput,
    Duty,
    Propose,
    PublishChallenge,
    PublishSighting,
    ReportEpoch,
    Republish,
    RevealAudit,
    RevealOutput,
    RevealScores,
    is_in_time_to_land,
)
from consensus.records import RecordKind, encode_challenge
from consensus.roster import Roster
from consensus.types import Epoch, EpochPosition
from mesh.errors import ModelError, TransportError
from subnet.epoch.context import NodeContext
from subnet.epoch.gatherer import Gatherer
from subnet.epoch.hoster import answer_challenge
from subnet.epoch.judge import Judge
from subnet.epoch.observer import DutyFailed, EpochScored
from subnet.epoch.publisher import Publisher
from subnet.epoch.submitter import Submitter
from subnet.errors import DutyPostponed

GetPosition = Callable[[], EpochPosition | None]
"""Tells where the newest head stands."""


class Performer:
    """Performs one duty at a time per call; raises DutyPostponed where it cannot be done now."""

    def __init__(self, context: NodeContext, *, get_position: GetPosition) -> None:
        self._context = context
        self._terms = context.terms
        self._journal = context.journal
        self._get_position = get_position
        self._publisher = Publisher(context)
        self._judge = Judge(context, Gatherer(context))
        self._submitter = None if context.writer is None else Submitter(context, context.writer)

    async def perform(self, duty: Duty) -> None:
        """Perform ``duty``. It stays due on DutyPostponed, ChainUnavailable and TransportError."""
        match duty:
            case PublishChallenge(epoch):
                await self._publish_challenge(epoch)
            case CommitOutput(epoch):
                await self._commit_output(epoch)
            case CommitAudit(epoch):
                await self._commit_audit(epoch)
            case PublishSighting(epoch):
                await self._publish_sighting(epoch)
            case RevealOutput(epoch) | RevealAudit(epoch) | RevealScores(epoch):
                await self._publisher.publish(duty.kind, epoch)
            case Republish(kind, epoch):
                await self._publisher.publish(kind, epoch)
            case Propose():
                await self._propose(duty)
            case Attest():
                await self._attest(duty)
            case ReportEpoch(epoch):
                await self._report(epoch)

    async def _publish_challenge(self, epoch: Epoch) -> None:
        roster = self._journal.rosters[epoch]
        body = encode_challenge(self._terms.compute_challenge(roster))
        await self._publisher.issue(roster, RecordKind.CHALLENGE, body)

    async def _commit_output(self, epoch: Epoch) -> None:
        inference, roster = self._context.get_inference(), self._journal.rosters[epoch]
        if inference is None:
            raise DutyPostponed("the model is still loading")
        commit, reveal = await answer_challenge(
            self._context.author, self._context.shape, roster, inference
        )
        await self._issue_in_time(
            roster, RecordKind.OUTPUT_COMMIT, commit, reveal=(RecordKind.OUTPUT_REVEAL, reveal)
        )

    async def _commit_audit(self, epoch: Epoch) -> None:
        roster = self._journal.rosters[epoch]
        # The commit must leave before this block is final. If another one becomes final instead,
        # this audit was computed for nothing.
        draw = await self._context.reader.fetch_block(self._context.rosters.get_draw_block(roster))
        try:
            commit, reveal = await self._judge.audit(roster, draw.block_hash)
        except ModelError as error:
            raise DutyPostponed(str(error)) from error
        await self._issue_in_time(
            roster, RecordKind.AUDIT_COMMIT, commit, reveal=(RecordKind.AUDIT_REVEAL, reveal)
        )

    async def _publish_sighting(self, epoch: Epoch) -> None:
        roster = self._journal.rosters[epoch]
        sighting, scores = await self._judge.sight(roster)
        reveal = None if scores is None else (RecordKind.SCORE_REVEAL, scores)
        await self._issue_in_time(roster, RecordKind.SIGHTING, sighting, reveal=reveal)

    async def _issue_in_time(
        self,
        roster: Roster,
        kind: RecordKind,
        body: bytes,
        *,
        reveal: tuple[RecordKind, bytes] | None,
    ) -> None:
        """Publish a record unless its window has closed while it was computed."""
        position = self._get_position()
        is_in_time = (
            position is not None
            and position.epoch == roster.epoch
            and self._terms.schedule.is_departure(kind, position.offset)
        )
        if not is_in_time:
            raise DutyPostponed(f"the {kind.name} was ready too late")
        await self._publisher.issue(roster, kind, body, reveal=reveal)

    async def _propose(self, duty: Propose) -> None:
        submitter, position = self._prepare_submission(duty)
        if await submitter.is_proposed(duty.epoch):
            return
        proposal = await self._judge.prepare(
            duty, may_give_up=position.offset >= self._terms.schedule.audit_start
        )
        if proposal.list_body is not None:
            await self._issue_list(duty, proposal.list_body)
        _, position = self._prepare_submission(duty)
        await submitter.propose(duty, proposal.report.rows, proposal.args, head=position.block)

    async def _issue_list(self, duty: Propose, body: bytes) -> None:
        roster = self._journal.rosters[duty.epoch]
        try:
            await self._publisher.issue(roster, RecordKind.NAMED_LIST, body)
        except (DutyPostponed, TransportError) as error:
            # It is in the journal, so attestors get it from this node itself.
            self._context.observe(DutyFailed(duty, str(error)))

    async def _attest(self, duty: Attest) -> None:
        submitter, position = self._prepare_submission(duty)
        await submitter.attest(duty, self._judge.check, head=position)

    def _prepare_submission(self, duty: Propose | Attest) -> tuple[Submitter, EpochPosition]:
        """Return what sends the extrinsic, and the head. Raises DutyPostponed if it is too late."""
        position = self._get_position()
        if self._submitter is None or position is None or position.epoch != duty.epoch:
            raise DutyPostponed("the epoch is over")
        if not is_in_time_to_land(type(duty), position.offset, self._terms.schedule):
            raise DutyPostponed("it could land in the next epoch")
        return self._submitter, position

    async def _report(self, epoch: Epoch) -> None:
        report = await self._judge.report(epoch)
        await self._journal.record_report(epoch, report.to_json().encode())
        self._context.observe(EpochScored(report))
