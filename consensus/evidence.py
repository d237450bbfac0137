"""From the records that a node saw, and when, to what counts.

Late records, reveals that open nothing and commits to another challenge are dropped
here, each with its reason; what remains is scored. A pure rule: the same facts give
the same evidence on every node.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from consensus.challenge import ModelShape
from consensus.commitment import CommitContext, check_output_reveal, check_score_reveal
from consensus.errors import InvalidRecord, Reason
from consensus.phases import Schedule
from consensus.records import (
    OutputCommit,
    RecordKind,
    decode_challenge,
    decode_output_commit,
    decode_output_reveal,
    decode_score_commit,
    decode_score_reveal,
)
from consensus.roster import Roster, RosterNode
from consensus.scoring import HosterEvidence, ValidatorEvidence
from consensus.submission import Submission
from consensus.types import BlockNumber, Epoch, NodeClass, SubnetNodeId
from keys.envelope import Envelope


@dataclass(frozen=True, slots=True)
class TimedRecord:
    """An admitted record, and the head at which this node first saw it."""

    envelope: Envelope
    seen_at: BlockNumber


TimedRecords = Mapping[tuple[RecordKind, SubnetNodeId], TimedRecord]
"""What a node saw of one epoch: the first record of each slot."""


@dataclass(frozen=True, slots=True)
class EpochFacts:
    """Everything that one node knows of one epoch when it scores it.

    ``seed`` is that of the epoch's challenge, ``expires_at`` the expiry that its authors sign,
    in seconds since 1970. ``submission`` is the final proposal of the epoch, which scores the
    epoch before it; None if there was none.
    """

    network_id: bytes
    roster: Roster
    schedule: Schedule
    seed: bytes
    shape: ModelShape
    expires_at: int
    sightings: TimedRecords
    submission: Submission | None = None

    def is_on_time(self, sighting: TimedRecord) -> bool:
        """Whether a record was first seen inside its window of this epoch.

        Score reveals of the epoch before are seen in this one.
        """
        kind = RecordKind(sighting.envelope.kind)
        return self.schedule.is_on_time(kind, sighting.seen_at - self.roster.first_block)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A record that does not count, and why."""

    kind: RecordKind
    node_id: SubnetNodeId
    reason: Reason


@dataclass(frozen=True, slots=True)
class OutputEvidence:
    """What counts of the hosters' work in one epoch.

    ``hosters`` have an accepted output commit: on time, to this epoch's challenge, for layers
    that exist.
    """

    hosters: tuple[HosterEvidence, ...]
    refusals: tuple[Refusal, ...]
    equivocators: frozenset[SubnetNodeId]

    @property
    def accepted(self) -> frozenset[SubnetNodeId]:
        return frozenset(hoster.node_id for hoster in self.hosters)


def find_challenge(sightings: TimedRecords, seed: bytes) -> SubnetNodeId | None:
    """Return the node that published the challenge with this seed; others are ignored."""
    for (kind, node_id), sighting in sightings.items():
        if kind is RecordKind.CHALLENGE and decode_challenge(sighting.envelope.body).seed == seed:
            return node_id
    return None


def collect_output_evidence(
    facts: EpochFacts, *, equivocators: frozenset[SubnetNodeId]
) -> OutputEvidence:
    """Open every hoster's reveal; say why where it does not open.

    Ignore an equivocator's records: nodes hold different versions, so scores would diverge.
    """
    hosters, refusals = [], []
    for node in facts.roster.with_class(NodeClass.INCLUDED):
        commit = facts.sightings.get((RecordKind.OUTPUT_COMMIT, node.node_id))
        reveal = facts.sightings.get((RecordKind.OUTPUT_REVEAL, node.node_id))
        if node.node_id in equivocators:
            refusals.append(Refusal(RecordKind.OUTPUT_COMMIT, node.node_id, Reason.EQUIVOCATION))
        elif commit is not None:
            try:
                promise = _accept_commit(commit, facts)
            except InvalidRecord as error:
                refusals.append(Refusal(RecordKind.OUTPUT_COMMIT, node.node_id, error.reason))
                continue
            hosters.append(_open_outputs(node, promise, commit=commit, reveal=reveal, facts=facts))
        elif reveal is not None:
            refusals.append(Refusal(RecordKind.OUTPUT_REVEAL, node.node_id, Reason.NO_COMMIT))
    return OutputEvidence(tuple(hosters), tuple(refusals), equivocators)


def collect_score_evidence(
    scored: EpochFacts,
    *,
    revealing: EpochFacts,
    hosters: frozenset[SubnetNodeId],
    equivocators: frozenset[SubnetNodeId],
) -> tuple[ValidatorEvidence, ...]:
    """Open the score reveals of one epoch, which leave in the REVEAL phase of the next.

    ``hosters`` have an accepted output commit in the scored epoch and are paid for that role
    only. Scores of ``equivocators`` do not count.
    """
    evidence = []
    for node in scored.roster.with_class(NodeClass.INCLUDED):
        commit = scored.sightings.get((RecordKind.SCORE_COMMIT, node.node_id))
        if commit is None or node.node_id in hosters or not scored.is_on_time(commit):
            continue
        reveal = scored.sightings.get((RecordKind.SCORE_REVEAL, node.node_id))
        opened = _open_scores(node, commit=commit, reveal=reveal, revealing=revealing)
        if node.node_id in equivocators:
            opened = replace(opened, scores=(), refusal=Reason.EQUIVOCATION)
        evidence.append(opened)
    return tuple(evidence)


def find_present(
    facts: EpochFacts, outputs: OutputEvidence, validators: tuple[ValidatorEvidence, ...]
) -> frozenset[SubnetNodeId]:
    """Return the nodes with at least one accepted record in the epoch.

    Those are output commits, score commits, and score reveals of the epoch before it. A
    challenge is no work, and nodes stop looking for it once they have seen one.
    """
    committed = {
        node_id
        for (kind, node_id), sighting in facts.sightings.items()
        if kind is RecordKind.SCORE_COMMIT and facts.is_on_time(sighting)
    }
    revealed = {validator.node_id for validator in validators if validator.refusal is None}
    return outputs.accepted | committed | revealed


def _accept_commit(commit: TimedRecord, facts: EpochFacts) -> OutputCommit:
    if not facts.is_on_time(commit):
        raise InvalidRecord(Reason.LATE)
    promise = decode_output_commit(commit.envelope.body)
    if promise.seed != facts.seed:
        raise InvalidRecord(Reason.WRONG_SEED)
    if promise.layers.end > facts.shape.num_layers:
        raise InvalidRecord(Reason.WRONG_RANGE)
    return promise


def _open_outputs(
    node: RosterNode,
    promise: OutputCommit,
    *,
    commit: TimedRecord,
    reveal: TimedRecord | None,
    facts: EpochFacts,
) -> HosterEvidence:
    evidence = HosterEvidence(
        node.node_id,
        node.coldkey,
        promise.layers,
        committed_at=commit.seen_at,
        revealed_at=None if reveal is None else reveal.seen_at,
    )
    try:
        vectors = _check_outputs(promise, reveal, facts)
    except InvalidRecord as error:
        return replace(evidence, refusal=error.reason)
    return replace(evidence, vectors=vectors)


def _check_outputs(
    promise: OutputCommit, reveal: TimedRecord | None, facts: EpochFacts
) -> tuple[bytes, ...]:
    envelope = _accept_reveal(reveal, facts)
    opened = decode_output_reveal(envelope.body)
    if opened.layers != promise.layers:
        raise InvalidRecord(Reason.WRONG_RANGE)
    check_output_reveal(
        promise.commitment,
        _make_commit_context(envelope),
        seed=facts.seed,
        layers=opened.layers,
        salt=opened.salt,
        vectors=opened.vectors,
        num_layers=facts.shape.num_layers,
    )
    return opened.vectors


def _open_scores(
    node: RosterNode, *, commit: TimedRecord, reveal: TimedRecord | None, revealing: EpochFacts
) -> ValidatorEvidence:
    evidence = ValidatorEvidence(
        node.node_id,
        node.coldkey,
        committed_at=commit.seen_at,
        revealed_at=None if reveal is None else reveal.seen_at,
    )
    try:
        envelope = _accept_reveal(reveal, revealing)
        opened = decode_score_reveal(envelope.body)
        check_score_reveal(
            decode_score_commit(commit.envelope.body).commitment,
            _make_commit_context(envelope),
            salt=opened.salt,
            scores=opened.scores,
        )
    except InvalidRecord as error:
        return replace(evidence, refusal=error.reason)
    return replace(evidence, scores=opened.scores)


def _accept_reveal(reveal: TimedRecord | None, facts: EpochFacts) -> Envelope:
    if reveal is None:
        raise InvalidRecord(Reason.NOT_REVEALED)
    if not facts.is_on_time(reveal):
        raise InvalidRecord(Reason.LATE)
    return reveal.envelope


def _make_commit_context(envelope: Envelope) -> CommitContext:
    return CommitContext(
        envelope.network_id,
        Epoch(envelope.epoch),
        SubnetNodeId(envelope.node_id),
        envelope.author,
    )
