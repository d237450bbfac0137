"""Performs duties. Each one can be repeated: what is done stands in the journal."""

from __future__ import annotations

from collections.abc import Callable

from consensus.duties import (
    Attest,
    CommitOutput,
    CommitScores,
    Duty,
    Propose,
    PublishChallenge,
    PublishSighting,
    Republish,
    RevealOutput,
    RevealScores,
    ScoreEpoch,
)
from consensus.records import RecordKind, encode_challenge
from consensus.roster import Roster
from consensus.types import Epoch, EpochPosition
from subnet.epoch.context import NodeContext
from subnet.epoch.hoster import answer_challenge
from subnet.epoch.judge import Judge
from subnet.epoch.observer import EpochScored
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
        self._judge = Judge(context.author, context.shape, journal=context.journal, run=context.run)
        self._submitter = None if context.writer is None else Submitter(context, context.writer)

    async def perform(self, duty: Duty) -> None:
        """Perform ``duty``. It stays due on DutyPostponed, ChainUnavailable and TransportError."""
        match duty:
            case PublishChallenge(epoch):
                await self._publish_challenge(epoch)
            case CommitOutput(epoch):
                await self._commit_output(epoch)
            case PublishSighting(epoch):
                await self._publish_sighting(epoch)
            case CommitScores(epoch):
                await self._commit_scores(epoch)
            case RevealOutput(epoch):
                await self._publisher.publish(RecordKind.OUTPUT_REVEAL, epoch)
            case RevealScores(epoch):
                await self._publisher.publish(RecordKind.SCORE_REVEAL, epoch)
            case Republish(kind, epoch):
                await self._publisher.publish(kind, epoch)
            case ScoreEpoch(epoch):
                await self._score_epoch(epoch)
            case Propose() | Attest():
                await self._submit(duty)

    async def _publish_challenge(self, epoch: Epoch) -> None:
        roster = self._journal.rosters[epoch]
        body = encode_challenge(self._terms.compute_challenge(roster))
        await self._publisher.issue(roster, RecordKind.CHALLENGE, body)

    async def _commit_output(self, epoch: Epoch) -> None:
        inference, roster = self._context.get_inference(), self._journal.rosters[epoch]
        if inference is None:
            raise DutyPostponed("the model is still loading")
        bodies = await answer_challenge(
            self._context.author, self._context.shape, roster, inference
        )
        await self._commit(roster, RecordKind.OUTPUT_COMMIT, RecordKind.OUTPUT_REVEAL, bodies)

    async def _publish_sighting(self, epoch: Epoch) -> None:
        roster = self._journal.rosters[epoch]
        body = await self._judge.list_seen(roster)
        await self._publisher.issue(roster, RecordKind.SIGHTING, body)

    async def _commit_scores(self, epoch: Epoch) -> None:
        roster = self._journal.rosters[epoch]
        bodies = await self._judge.commit_scores(roster)
        await self._commit(roster, RecordKind.SCORE_COMMIT, RecordKind.SCORE_REVEAL, bodies)

    async def _commit(
        self, roster: Roster, kind: RecordKind, reveal: RecordKind, bodies: tuple[bytes, bytes]
    ) -> None:
        """Publish a commit unless its window has closed while it was computed."""
        offset = self._get_offset(roster.epoch)
        if offset is None or not self._terms.schedule.is_departure(kind, offset):
            raise DutyPostponed(f"the {kind.name} was ready too late")
        commit_body, reveal_body = bodies
        await self._publisher.issue(roster, kind, commit_body, reveal=(reveal, reveal_body))

    async def _score_epoch(self, epoch: Epoch) -> None:
        report = await self._judge.score_epoch(epoch)
        await self._journal.record_report(epoch, report.to_json().encode())
        self._context.observe(EpochScored(report))

    async def _submit(self, duty: Propose | Attest) -> None:
        position = self._get_position()
        if self._submitter is None or position is None or position.epoch != duty.epoch:
            raise DutyPostponed("the epoch is over")
        rows = await self._judge.compute_rows(duty)
        if isinstance(duty, Propose):
            await self._submitter.propose(duty, rows, position.block)
        else:
            await self._submitter.attest(duty, rows, position.block)

    def _get_offset(self, epoch: Epoch) -> int | None:
        """Return the newest head's offset in ``epoch``; None once that is over."""
        position = self._get_position()
        return position.offset if position is not None and position.epoch == epoch else None
