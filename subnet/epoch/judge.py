"""Every node's work as a judge: score what was seen, commit the scores, propose or attest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from consensus.challenge import ModelShape
from consensus.commitment import compute_score_commitment
from consensus.duties import Attest, Propose
from consensus.equivocation import find_equivocators, list_seen_records
from consensus.evidence import (
    EpochContext,
    OutputEvidence,
    Sightings,
    collect_output_evidence,
    collect_score_evidence,
    find_present,
)
from consensus.protocol_params import ConsensusParams
from consensus.records import (
    OUTPUT_KINDS,
    SCORE_KINDS,
    RecordKind,
    ScoreCommit,
    ScoreReveal,
    encode_score_commit,
    encode_score_reveal,
    encode_seen_records,
)
from consensus.roster import Roster
from consensus.scoring import (
    HosterScores,
    ScoreRows,
    ValidatorEvidence,
    compute_hoster_scores,
    compute_proposal_rows,
    compute_validator_scores,
)
from consensus.submission import Submission
from consensus.types import Epoch, NodeClass, Score, SubnetNodeId
from subnet.epoch.author import Author
from subnet.epoch.reports import EpochReport, build_report
from subnet.journal.journal import Journal
from subnet.thread_runner import Runner

MAX_REPORTS_KEPT = 3


@dataclass(frozen=True, slots=True)
class EpochFacts:
    """What is judged in one epoch, taken from the journal at one moment.

    ``submission`` is the proposal of the epoch itself, which scores the epoch before it.
    """

    context: EpochContext
    sightings: Sightings
    submission: Submission | None


class Validator:
    """Scores epochs from the journal. The arithmetic runs beside the event loop."""

    def __init__(self, author: Author, shape: ModelShape, *, journal: Journal, run: Runner) -> None:
        self._author = author
        self._terms = author.terms
        self._shape = shape
        self._journal = journal
        self._run = run
        self._reports: dict[Epoch, EpochReport] = {}

    async def list_seen(self, roster: Roster) -> bytes:
        """Return the body of the record that lists the commits and reveals of others seen here."""
        current = dict(self._journal.get_sightings(roster.epoch))
        previous = dict(self._journal.get_sightings(Epoch(roster.epoch - 1)))
        own = self._author.node_id

        def hash_bodies() -> bytes:
            return encode_seen_records(list_seen_records(current, previous, own=own))

        return await self._run(hash_bodies)

    async def commit_scores(self, roster: Roster) -> tuple[bytes, bytes]:
        """Score the epoch's hosters; return the bodies of commit and reveal."""
        facts = self._gather(roster)
        _, scored, _ = await self._run(score_outputs, facts, self._terms.params)
        scores = tuple(sorted(scored.scores.items()))
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
            report = await self._run(score, facts, previous, self._terms.params)
            self._reports[epoch] = report
            self._reports.pop(Epoch(epoch - MAX_REPORTS_KEPT), None)
        return self._reports[epoch]

    async def compute_rows(self, duty: Propose | Attest) -> ScoreRows:
        """Return what this node proposes, or expects to be proposed, in the duty's epoch."""
        if not duty.is_first:
            return (await self.score_epoch(duty.scored_epoch)).rows
        return compute_proposal_rows(
            self._journal.rosters[duty.epoch],
            present=(),
            hosters=(),
            hoster_scores={},
            validator_scores={},
            is_first_elected=True,
        )

    def _gather(self, roster: Roster) -> EpochFacts:
        context = EpochContext(
            network_id=self._terms.network_id,
            roster=roster,
            schedule=self._terms.schedule,
            seed=self._terms.compute_challenge(roster).seed,
            shape=self._shape,
            expires_at=self._terms.compute_expiry(roster.timestamp_s),
        )
        # A copy: the arithmetic runs in a thread while the loop goes on journaling.
        sightings = dict(self._journal.get_sightings(roster.epoch))
        return EpochFacts(context, sightings, self._journal.submissions.get(roster.epoch))


def score_outputs(
    facts: EpochFacts, params: ConsensusParams
) -> tuple[OutputEvidence, HosterScores, frozenset[SubnetNodeId]]:
    """Open and score the hosters' outputs of one epoch; say whose count for nothing."""
    equivocators = find_output_equivocators(facts)
    outputs = collect_output_evidence(facts.sightings, facts.context, equivocators=equivocators)
    scores = compute_hoster_scores(
        outputs.hosters,
        epoch=facts.context.roster.epoch,
        shape=facts.context.shape,
        params=params,
    )
    return outputs, scores, equivocators


def find_output_equivocators(facts: EpochFacts) -> frozenset[SubnetNodeId]:
    """Return who signed two commits or two reveals of outputs in the epoch."""
    context = facts.context
    return find_equivocators(facts.sightings, OUTPUT_KINDS, seen_in=context, signed_in=context)


def score(facts: EpochFacts, previous: EpochFacts | None, params: ConsensusParams) -> EpochReport:
    """Score one epoch. ``previous`` is the epoch before it, None if that was not scored."""
    outputs, hosters, equivocators = score_outputs(facts, params)
    roster = facts.context.roster
    accepted: frozenset[SubnetNodeId] = frozenset()
    evidence: tuple[ValidatorEvidence, ...] = ()
    if previous is not None:
        before = find_output_equivocators(previous)
        accepted = collect_output_evidence(
            previous.sightings, previous.context, equivocators=before
        ).accepted
        equivocators |= find_equivocators(
            facts.sightings, SCORE_KINDS, seen_in=facts.context, signed_in=previous.context
        )
        evidence = collect_score_evidence(
            previous.sightings,
            scored=previous.context,
            revealing=facts.context,
            hosters=accepted,
            equivocators=before | equivocators,
        )
    scored_roster = roster if previous is None else previous.context.roster
    validators = compute_validator_scores(
        evidence,
        epoch=scored_roster.epoch,
        node_ids=[node.node_id for node in scored_roster.with_class(NodeClass.INCLUDED)],
        attested=find_attested_rows(facts.submission, roster, hosters=accepted, params=params),
        params=params,
    )
    rows = compute_proposal_rows(
        roster,
        present=equivocators
        | find_present(facts.sightings, facts.context, outputs=outputs, validators=evidence),
        hosters=outputs.accepted,
        hoster_scores={
            node_id: worth
            for node_id, worth in hosters.scores.items()
            if node_id not in equivocators
        },
        validator_scores=validators.scores,
        is_first_elected=False,
    )
    return build_report(
        facts.context, outputs=outputs, hosters=hosters, validators=validators, rows=rows
    )


def find_attested_rows(
    submission: Submission | None,
    roster: Roster,
    *,
    hosters: frozenset[SubnetNodeId],
    params: ConsensusParams,
) -> Mapping[SubnetNodeId, Score] | None:
    """Return the hosters' rows of an epoch's proposal, None unless enough nodes attested it."""
    if submission is None:
        return None
    voters = {node.node_id for node in roster.with_class(NodeClass.VALIDATOR)}
    attested = len(submission.attested & voters)
    if 100 * attested < params.min_attestation_percent * len(voters):
        return None
    return {node_id: score for node_id, score in submission.scores if node_id in hosters}
