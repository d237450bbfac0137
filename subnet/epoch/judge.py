"""This node as a judge: scores epochs from its journal, and signs what it saw and scored.

The rules are ``consensus.epoch``; this file gives them their facts and runs them in a thread
beside the event loop.
"""

from __future__ import annotations

from consensus.challenge import ModelShape
from consensus.commitment import compute_score_commitment
from consensus.duties import Attest, Propose
from consensus.epoch import compute_committed_scores, compute_first_rows, score_epoch
from consensus.equivocation import list_seen_records
from consensus.evidence import EpochFacts
from consensus.records import (
    RecordKind,
    ScoreCommit,
    ScoreReveal,
    encode_score_commit,
    encode_score_reveal,
    encode_seen_records,
)
from consensus.report import EpochReport
from consensus.roster import Roster
from consensus.scoring import ScoreRows
from consensus.types import Epoch
from subnet.epoch.author import Author
from subnet.journal.journal import Journal
from subnet.thread_runner import Runner

MAX_REPORTS_KEPT = 3


class Judge:
    """Scores epochs from the journal."""

    def __init__(self, author: Author, shape: ModelShape, *, journal: Journal, run: Runner) -> None:
        self._author = author
        self._terms = author.terms
        self._shape = shape
        self._journal = journal
        self._run = run
        self._reports: dict[Epoch, EpochReport] = {}

    async def list_seen(self, roster: Roster) -> bytes:
        """Return the body of the record that lists the commits and reveals of others seen here."""
        current = dict(self._journal.get_timed_records(roster.epoch))
        previous = dict(self._journal.get_timed_records(Epoch(roster.epoch - 1)))
        own = self._author.node_id

        def hash_bodies() -> bytes:
            return encode_seen_records(list_seen_records(current, previous, own=own))

        return await self._run(hash_bodies)

    async def commit_scores(self, roster: Roster) -> tuple[bytes, bytes]:
        """Score the epoch's hosters; return the bodies of commit and reveal."""
        facts = self._gather(roster)
        scores = await self._run(compute_committed_scores, facts, self._terms.params)
        salt = self._author.derive_salt(RecordKind.SCORE_COMMIT, roster.epoch)
        context = self._author.make_context(roster.epoch)
        commitment = compute_score_commitment(context, salt=salt, scores=scores)
        return (
            encode_score_commit(ScoreCommit(commitment)),
            encode_score_reveal(ScoreReveal(salt, scores)),
        )

    async def score_epoch(self, epoch: Epoch) -> EpochReport:
        """Score an epoch that is over: hosters by their outputs, validators by their scores."""
        if epoch not in self._reports:
            rosters, before = self._journal.rosters, Epoch(epoch - 1)
            facts = self._gather(rosters[epoch])
            was_scored = before in rosters and self._journal.elections.get(before) is not None
            previous = self._gather(rosters[before]) if was_scored else None
            report = await self._run(score_epoch, facts, previous, self._terms.params)
            self._reports[epoch] = report
            self._reports.pop(Epoch(epoch - MAX_REPORTS_KEPT), None)
        return self._reports[epoch]

    async def compute_rows(self, duty: Propose | Attest) -> ScoreRows:
        """Return what this node proposes, or expects to be proposed, in the duty's epoch."""
        if duty.is_first:
            return compute_first_rows(self._journal.rosters[duty.epoch])
        return (await self.score_epoch(duty.scored_epoch)).rows

    def _gather(self, roster: Roster) -> EpochFacts:
        return EpochFacts(
            network_id=self._terms.network_id,
            roster=roster,
            schedule=self._terms.schedule,
            seed=self._terms.compute_challenge(roster).seed,
            shape=self._shape,
            expires_at=self._terms.compute_expiry(roster.timestamp_s),
            # A copy: the arithmetic runs in a thread while the loop goes on journaling.
            sightings=dict(self._journal.get_timed_records(roster.epoch)),
            submission=self._journal.submissions.get(roster.epoch),
        )
