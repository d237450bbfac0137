"""Doing what is owed. Each duty is idempotent: what is done stands in the journal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from consensus.challenge import ModelShape
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
from consensus.records import RecordKind
from consensus.types import Epoch, EpochPosition, Role, SubnetNodeId
from keys.peer import PeerKey
from subnet.epoch.hoster import Hoster
from subnet.epoch.interfaces import ChainReader, ChainWriter, Inference, RecordStore
from subnet.epoch.judge import Judge
from subnet.epoch.observer import EpochScored, Observe
from subnet.epoch.publisher import Author, Publisher
from subnet.epoch.rosters import SubnetTerms
from subnet.epoch.submitter import Submitter
from subnet.errors import DutyPostponed
from subnet.journal.journal import Journal
from subnet.thread_runner import Runner

GetPosition = Callable[[], EpochPosition | None]
"""Tells where the newest head stands."""


@dataclass(frozen=True, slots=True)
class Participant:
    """Which node this is, and the shape of the model that it serves or judges.

    One that is not ``is_paid`` watches: it owes nothing and publishes nothing.
    """

    key: PeerKey
    node_id: SubnetNodeId
    role: Role
    shape: ModelShape
    is_paid: bool = True


@dataclass(frozen=True, slots=True)
class World:
    """What the node acts on.

    ``writer`` is None without a hotkey. ``get_inference`` returns None while the model loads:
    what the journal holds is published meanwhile. ``get_wall_time_s`` is this machine's clock.
    """

    reader: ChainReader
    writer: ChainWriter | None
    store: RecordStore
    get_inference: Callable[[], Inference | None]
    get_wall_time_s: Callable[[], float]


class Performer:
    """Performs one duty at a time per call; raises DutyPostponed where it cannot be done now."""

    def __init__(
        self,
        terms: SubnetTerms,
        participant: Participant,
        world: World,
        *,
        journal: Journal,
        run: Runner,
        get_position: GetPosition,
        observe: Observe,
    ) -> None:
        author = Author(terms, participant.key, participant.node_id)
        self._terms = terms
        self._world = world
        self._journal = journal
        self._get_position = get_position
        self._observe = observe
        self._publisher = Publisher(author, store=world.store, journal=journal)
        self._hoster = Hoster(author, participant.shape)
        self._judge = Judge(author, participant.shape, journal=journal, run=run)
        self._submitter = _build_submitter(terms, participant, world, journal, observe)

    async def perform(self, duty: Duty) -> None:
        """Do it. Raises DutyPostponed, ChainUnavailable or TransportError: it stays owed."""
        match duty:
            case PublishChallenge(epoch):
                await self._publisher.publish_challenge(self._journal.rosters[epoch])
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

    async def _commit_output(self, epoch: Epoch) -> None:
        inference = self._world.get_inference()
        if inference is None:
            raise DutyPostponed("the model is still loading")
        commit, reveal = await self._hoster.answer(self._journal.rosters[epoch], inference)
        offset = self._get_offset(epoch)
        if offset is None or not self._terms.schedule.is_departure(
            RecordKind.OUTPUT_COMMIT, offset
        ):
            raise DutyPostponed("the answer was ready too late to commit to it")
        await self._journal.record_signed(commit, reveal)
        await self._publisher.publish(RecordKind.OUTPUT_COMMIT, epoch)

    async def _publish_sighting(self, epoch: Epoch) -> None:
        sighting = await self._judge.list_seen(self._journal.rosters[epoch])
        await self._journal.record_signed(sighting)
        await self._publisher.publish(RecordKind.SIGHTING, epoch)

    async def _commit_scores(self, epoch: Epoch) -> None:
        commit, reveal = await self._judge.commit_scores(self._journal.rosters[epoch])
        offset = self._get_offset(epoch)
        if offset is None or not self._terms.schedule.is_departure(RecordKind.SCORE_COMMIT, offset):
            raise DutyPostponed("the scores were ready too late to commit to them")
        await self._journal.record_signed(commit, reveal)
        await self._publisher.publish(RecordKind.SCORE_COMMIT, epoch)

    async def _score_epoch(self, epoch: Epoch) -> None:
        report = await self._judge.score_epoch(epoch)
        await self._journal.record_report(epoch, report.to_json().encode())
        self._observe(EpochScored(report))

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


def _build_submitter(
    terms: SubnetTerms,
    participant: Participant,
    world: World,
    journal: Journal,
    observe: Observe,
) -> Submitter | None:
    if world.writer is None:
        return None
    return Submitter(
        subnet_id=terms.subnet_id,
        node_id=participant.node_id,
        reader=world.reader,
        writer=world.writer,
        journal=journal,
        observe=observe,
    )
