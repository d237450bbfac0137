"""What a machine without a place in the subnet would have scored, epoch by epoch.

Theory of operation. It follows the chain and reads the others' records as a node does, and answers
each epoch's challenge when a hoster would. When the epoch is over and the next one's roster is
final, it scores the epoch from what it saw, with one hoster more: itself, under a key made for the
occasion, as if its commit and reveal had been published in time. The scoring is the protocol's own,
``consensus.epoch.score_epoch``. Nothing leaves the machine.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

from consensus.challenge import ModelShape
from consensus.epoch import score_epoch
from consensus.errors import ScorerFailed
from consensus.evidence import EpochFacts
from consensus.protocol_params import ConsensusParams
from consensus.records import RecordKind
from consensus.roster import Roster, RosterNode
from consensus.scorer import Scorer
from consensus.scoring import HosterReport
from consensus.types import (
    SCORE_ONE,
    Epoch,
    EpochPosition,
    NodeClass,
    SubnetNodeId,
)
from subnet.epoch.author import Author
from subnet.epoch.hoster import answer_challenge
from subnet.epoch.interfaces import Inference
from subnet.epoch.judge import Judge
from subnet.epoch.observer import HeadHandled, NodeEvent
from subnet.epoch.terms import SubnetTerms
from subnet.errors import ConfigError
from subnet.plugins.chosen import SCORER_HINT

NOBODYS_ID = SubnetNodeId(2**32 - 1)
"""The id of the hoster that is not there: behind those of all nodes."""
ACCOUNT_SIZE = 20
MAX_KEPT = 4
"""Answered epochs that wait for their end."""


@dataclass(frozen=True, slots=True)
class DryAnswer:
    """The bodies of commit and reveal of one epoch, and how long they took to compute."""

    roster: Roster
    commit: bytes
    reveal: bytes
    seconds: float


@dataclass(frozen=True, slots=True)
class DryScore:
    """What one epoch would have paid. ``window_s`` is the time that the epoch has for the answer.

    ``others`` is the number of hosters whose answers were seen; without any, nothing is compared.
    """

    epoch: Epoch
    report: HosterReport
    others: int
    seconds: float
    window_s: float

    @property
    def reason(self) -> str:
        """Why it is nothing or less than it could be; empty if there is no reason."""
        report = self.report
        if self.seconds > self.window_s:
            return "the answer was ready too late: serve fewer blocks, or take a faster device"
        if not self.others:
            return "no other hoster's answer was seen, so there is nothing to compare with"
        refusals = {reason.layer: reason.refusal for reason in report.reasons if reason.refusal}
        cause = report.refusal or report.penalty or next(iter(refusals.values()), None)
        if cause is None:
            return ""
        where = f" on block {', '.join(map(str, refusals))}" if refusals else ""
        return f"{cause.value}{where}: serve exactly the model that the subnet's manifest names"

    @property
    def score(self) -> int:
        """The score at 10**18: 0 for an answer that was too late."""
        return 0 if self.seconds > self.window_s else self.report.score

    def describe(self) -> str:
        """Return it in words."""
        text = (
            f"epoch {self.epoch}: would have scored {self.score / SCORE_ONE:.6f} with blocks "
            f"{self.report.layers}, beside {self.others} other hosters; answered in "
            f"{self.seconds:.2f} s of {self.window_s:.0f} s"
        )
        return f"{text}\n  {self.reason}" if self.reason else text

    def to_json(self) -> dict[str, Any]:
        layers = self.report.layers
        return {
            "epoch": self.epoch,
            "score": str(self.score),
            "blocks": [layers.start, layers.end],
            "other_hosters": self.others,
            "seconds": round(self.seconds, 3),
            "window_seconds": self.window_s,
            "reason": self.reason,
        }


class DryScores:
    """Answers challenges and scores the answers. ``note_event`` hears where the chain is."""

    def __init__(
        self,
        author: Author,
        *,
        get_roster: Callable[[Epoch], Roster | None],
        scorer: Scorer | None = None,
    ) -> None:
        self._author = author
        self._scorer = scorer
        self._get_roster = get_roster
        self._answers: dict[Epoch, DryAnswer] = {}
        self._position: EpochPosition | None = None
        self._news = asyncio.Event()

    def note_event(self, event: NodeEvent) -> None:
        """Hear what the epoch loop has seen."""
        if isinstance(event, HeadHandled):
            self._position = event.position
            self._news.set()

    async def run(
        self, judge: Judge, answer: Callable[[Roster], Awaitable[DryAnswer]]
    ) -> AsyncGenerator[DryScore, None]:
        """Yield the score of each epoch, soon after its end. Raises ModelError or ConfigError.

        An epoch whose score the chain's silence delays waits; the oldest of too many are left out.
        """
        while True:
            await self._news.wait()
            self._news.clear()
            position = self._position
            if position is None:
                continue
            await self._answer_now(position, answer)
            for epoch in [epoch for epoch in self._answers if epoch < position.epoch]:
                next_roster = self._get_roster(Epoch(epoch + 1))
                if next_roster is not None:
                    yield await self._score(judge, self._answers.pop(epoch), next_roster)
            while len(self._answers) > MAX_KEPT:
                self._answers.pop(min(self._answers))

    async def _answer_now(
        self, position: EpochPosition, answer: Callable[[Roster], Awaitable[DryAnswer]]
    ) -> None:
        schedule, roster = self._author.terms.schedule, self._get_roster(position.epoch)
        is_time = schedule.is_departure(RecordKind.OUTPUT_COMMIT, position.offset)
        if roster is not None and is_time and position.epoch not in self._answers:
            self._answers[position.epoch] = await answer(roster)

    async def _score(self, judge: Judge, answer: DryAnswer, next_roster: Roster) -> DryScore:
        terms = self._author.terms
        facts = await judge.gather_own(answer.roster)
        try:
            report = score_as_if(
                facts,
                next_roster,
                answer,
                author=self._author,
                params=terms.params,
                scorer=self._scorer,
            )
        except ScorerFailed as error:
            raise ConfigError(str(error), SCORER_HINT) from error
        others = sum(
            (kind, epoch) == (RecordKind.OUTPUT_REVEAL, facts.epoch)
            for kind, epoch, _ in facts.records
        )
        return DryScore(facts.epoch, report, others, answer.seconds, compute_window_s(terms))


async def answer_dry(
    author: Author, roster: Roster, *, inference: Inference, shape: ModelShape
) -> DryAnswer:
    """Answer the challenge of the roster's epoch, and measure how long it takes."""
    began_at = time.monotonic()
    commit, reveal = await answer_challenge(author, shape, roster, inference)
    return DryAnswer(roster, commit, reveal, time.monotonic() - began_at)


def compute_window_s(terms: SubnetTerms) -> float:
    """Return the seconds in which a commit may leave its author."""
    window = terms.schedule.windows[RecordKind.OUTPUT_COMMIT]
    return (window.leaves_until - window.leaves_from) * terms.block_time_s


def score_as_if(
    facts: EpochFacts,
    next_roster: Roster,
    answer: DryAnswer,
    *,
    author: Author,
    params: ConsensusParams,
    scorer: Scorer | None = None,
) -> HosterReport:
    """Return what the author's answer earns if it is one more hoster of the epoch.

    Raises ScorerFailed.
    """
    roster = _add_node(facts.roster, author)
    records = dict(facts.records)
    for kind, body in (
        (RecordKind.OUTPUT_COMMIT, answer.commit),
        (RecordKind.OUTPUT_REVEAL, answer.reveal),
    ):
        records[kind, facts.epoch, author.node_id] = author.seal(kind, roster, body)
    report = score_epoch(
        replace(facts, roster=roster, records=records),
        _add_node(next_roster, author),
        params,
        scorer,
    )
    return next(one for one in report.hosters if one.node_id == author.node_id)


def _add_node(roster: Roster, author: Author) -> Roster:
    account = hashlib.sha256(author.key.peer_id.public_key).digest()[:ACCOUNT_SIZE]
    node = RosterNode(
        author.node_id, author.key.peer_id, account, account, NodeClass.INCLUDED, roster.epoch
    )
    return replace(roster, nodes=(*roster.nodes, node))
