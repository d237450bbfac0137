"""From the accepted records of an epoch to what counts.

Reveals that open nothing and commits to another challenge are dropped here, each with its reason;
what remains is scored. Which records are accepted is decided before (``consensus.naming``). A pure
rule: the same facts give the same evidence on every node.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from consensus.challenge import ModelShape
from consensus.commitment import check_output_reveal, check_score_reveal, make_commit_context
from consensus.errors import InvalidRecord, Reason
from consensus.naming import Slot
from consensus.records import (
    NO_SCORES,
    OutputCommit,
    RecordKind,
    ScoreRow,
    Sighting,
    decode_challenge,
    decode_output_commit,
    decode_output_reveal,
    decode_score_reveal,
    decode_sighting,
)
from consensus.roster import Roster
from consensus.scoring import HosterEvidence, ValidatorEvidence
from consensus.types import BlockNumber, Epoch, NodeClass, SubnetNodeId
from keys.envelope import Envelope


@dataclass(frozen=True, slots=True)
class TimedRecord:
    """An admitted record, and the head at which this node first saw it."""

    envelope: Envelope
    seen_at: BlockNumber


TimedRecords = Mapping[tuple[RecordKind, SubnetNodeId], TimedRecord]
"""What a node saw of one epoch: the first record of each kind and author."""


@dataclass(frozen=True, slots=True)
class EpochFacts:
    """Everything that the score of one epoch depends on.

    ``roster`` is that of the epoch and ``previous`` that of the epoch before it; None if the chain
    elected no validator in that one, so no work was scored in it. ``seed`` is that of the epoch's
    challenge. ``draw`` is the hash of AUDIT's first block, which drew the audited layers; None
    where it is not known, so nothing is audited. ``records`` are the accepted ones. ``named`` are
    the named sightings. ``probation`` holds how many epochs nodes stay unpaid, this one included.
    ``seen_at`` is when this node saw a record; only reports show it.
    """

    roster: Roster
    previous: Roster | None
    seed: bytes
    draw: bytes | None
    shape: ModelShape
    records: Mapping[Slot, Envelope]
    named: Mapping[SubnetNodeId, Sighting] = field(default_factory=dict)
    probation: Mapping[SubnetNodeId, int] = field(default_factory=dict)
    seen_at: Mapping[Slot, BlockNumber] = field(default_factory=dict)

    @property
    def epoch(self) -> Epoch:
        return self.roster.epoch


@dataclass(frozen=True, slots=True)
class Refusal:
    """A record that does not count, and why."""

    kind: RecordKind
    node_id: SubnetNodeId
    reason: Reason


@dataclass(frozen=True, slots=True)
class OutputEvidence:
    """What counts of the hosters' work in one epoch.

    ``hosters`` have an accepted output commit to this epoch's challenge, for layers that exist.
    """

    hosters: tuple[HosterEvidence, ...]
    refusals: tuple[Refusal, ...]

    @property
    def accepted(self) -> frozenset[SubnetNodeId]:
        return frozenset(hoster.node_id for hoster in self.hosters)


def find_challenge(sightings: TimedRecords, seed: bytes) -> SubnetNodeId | None:
    """Return the node that published the challenge with this seed; others are ignored."""
    for (kind, node_id), sighting in sightings.items():
        if kind is RecordKind.CHALLENGE and decode_challenge(sighting.envelope.body).seed == seed:
            return node_id
    return None


def collect_output_evidence(facts: EpochFacts) -> OutputEvidence:
    """Open every hoster's reveal; say why where it does not open."""
    hosters, refusals = [], []
    for node in facts.roster.with_class(NodeClass.INCLUDED):
        commit_slot = (RecordKind.OUTPUT_COMMIT, facts.epoch, node.node_id)
        reveal_slot = (RecordKind.OUTPUT_REVEAL, facts.epoch, node.node_id)
        commit, reveal = facts.records.get(commit_slot), facts.records.get(reveal_slot)
        if commit is not None:
            try:
                promise = _accept_commit(commit, facts)
            except InvalidRecord as error:
                refusals.append(Refusal(RecordKind.OUTPUT_COMMIT, node.node_id, error.reason))
                continue
            evidence = HosterEvidence(
                node.node_id,
                node.coldkey,
                promise.layers,
                committed_at=facts.seen_at.get(commit_slot),
                revealed_at=facts.seen_at.get(reveal_slot),
            )
            hosters.append(_open_outputs(evidence, promise, reveal, facts))
        elif reveal is not None:
            refusals.append(Refusal(RecordKind.OUTPUT_REVEAL, node.node_id, Reason.NO_COMMIT))
    return OutputEvidence(tuple(hosters), tuple(refusals))


def collect_score_evidence(
    facts: EpochFacts, *, hosters: frozenset[SubnetNodeId]
) -> tuple[ValidatorEvidence, ...]:
    """Open the score reveals of the epoch before, which leave in the REVEAL phase of this one.

    Their commitments stand in the accepted sightings of the epoch before. ``hosters`` are paid for
    no scores: they committed to outputs in this epoch, or are on probation.
    """
    if facts.previous is None:
        return ()
    before, evidence = facts.previous.epoch, []
    for node in facts.previous.with_class(NodeClass.INCLUDED):
        sighting_slot = (RecordKind.SIGHTING, before, node.node_id)
        reveal_slot = (RecordKind.SCORE_REVEAL, before, node.node_id)
        sighting = facts.records.get(sighting_slot)
        if sighting is None or node.node_id in hosters:
            continue
        opened = ValidatorEvidence(
            node.node_id,
            node.coldkey,
            committed_at=facts.seen_at.get(sighting_slot),
            revealed_at=facts.seen_at.get(reveal_slot),
        )
        try:
            rows = _check_scores(sighting, facts.records.get(reveal_slot), facts)
        except InvalidRecord as error:
            evidence.append(replace(opened, refusal=error.reason))
        else:
            evidence.append(replace(opened, rows=rows))
    return tuple(evidence)


def find_present(
    facts: EpochFacts, outputs: OutputEvidence, validators: tuple[ValidatorEvidence, ...]
) -> frozenset[SubnetNodeId]:
    """Return the nodes with at least one accepted record in the epoch.

    Those are named sightings, output commits, audit commits, and score reveals of the epoch
    before it. A challenge is no work.
    """
    audited = {
        node_id
        for kind, epoch, node_id in facts.records
        if kind is RecordKind.AUDIT_COMMIT and epoch == facts.epoch
    }
    revealed = {validator.node_id for validator in validators if validator.refusal is None}
    return outputs.accepted | audited | revealed | facts.named.keys()


def find_reveal_hashes(facts: EpochFacts) -> dict[SubnetNodeId, bytes]:
    """Return the whole hash of each accepted output reveal of the epoch before."""
    if facts.previous is None:
        return {}
    hashes = {}
    for node in facts.previous.with_class(NodeClass.INCLUDED):
        slot = (RecordKind.OUTPUT_REVEAL, facts.previous.epoch, node.node_id)
        reveal = facts.records.get(slot)
        if reveal is not None:
            hashes[node.node_id] = reveal.record_hash
    return hashes


def _accept_commit(commit: Envelope, facts: EpochFacts) -> OutputCommit:
    promise = decode_output_commit(commit.body)
    if promise.seed != facts.seed:
        raise InvalidRecord(Reason.WRONG_SEED)
    if promise.layers.end > facts.shape.num_layers:
        raise InvalidRecord(Reason.WRONG_RANGE)
    return promise


def _open_outputs(
    evidence: HosterEvidence, promise: OutputCommit, reveal: Envelope | None, facts: EpochFacts
) -> HosterEvidence:
    try:
        vectors = _check_outputs(promise, reveal, facts)
    except InvalidRecord as error:
        return replace(evidence, refusal=error.reason)
    return replace(evidence, vectors=vectors)


def _check_outputs(
    promise: OutputCommit, reveal: Envelope | None, facts: EpochFacts
) -> tuple[bytes, ...]:
    if reveal is None:
        raise InvalidRecord(Reason.NOT_REVEALED)
    opened = decode_output_reveal(reveal.body)
    if opened.layers != promise.layers:
        raise InvalidRecord(Reason.WRONG_RANGE)
    check_output_reveal(
        promise.commitment,
        make_commit_context(reveal),
        seed=facts.seed,
        layers=opened.layers,
        salt=opened.salt,
        vectors=opened.vectors,
        num_layers=facts.shape.num_layers,
    )
    return opened.vectors


def _check_scores(
    sighting: Envelope, reveal: Envelope | None, facts: EpochFacts
) -> tuple[ScoreRow, ...]:
    commitment = decode_sighting(sighting.body).commitment
    if commitment == NO_SCORES:
        raise InvalidRecord(Reason.NO_COMMIT)
    if reveal is None:
        raise InvalidRecord(Reason.NOT_REVEALED)
    opened = decode_score_reveal(reveal.body)
    check_score_reveal(commitment, make_commit_context(reveal), salt=opened.salt, rows=opened.rows)
    return opened.rows
