"""Scores an epoch again from what a node kept of it. There is no second scoring.

What a proposal names is opened as ``subnet.epoch.judge`` does, from ``EpochEvidence`` instead of
the network, and scored by ``consensus.epoch``. Nothing of the evidence is believed: signatures,
the two hashes of the proposal's ``args`` and the rows are checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from consensus.admission import EpochTable, admit, compute_expiry, compute_vector_sizes
from consensus.attestation import check_naming
from consensus.epoch import score_epoch, score_nothing
from consensus.errors import InvalidRecord, ProposalMismatch
from consensus.evidence import EpochFacts
from consensus.naming import (
    Naming,
    Slot,
    check_named_list,
    decode_args,
    find_accepted,
    get_name,
    hash_accepted,
    open_sighting,
)
from consensus.records import RecordKind, Sighting, decode_named_list
from consensus.report import EpochReport
from consensus.scorer import Scorer
from consensus.types import Epoch, SubnetNodeId
from keys.envelope import Envelope
from subnet.errors import ReceiptInvalid
from subnet.receipts.evidence import EpochEvidence


class Basis(Enum):
    """What the scores of an epoch were computed from."""

    NAMED = "the records that the proposal names"
    NOTHING_NAMED = "a proposal that names no sightings: every row is 0"
    NOT_SCORED = "an epoch in which the chain elected no validator: nothing is scored"
    OWN_VIEW = "what the keeping node saw itself"


@dataclass(frozen=True, slots=True)
class Recomputed:
    """The score of an epoch, computed again.

    ``named`` are the named sightings, and ``listed`` says for each slot which version of the record
    which of them list. ``missing`` is what the keeping node does not have of that which the
    proposal names, and ``mismatches`` what of the proposal does not hold beside its rows.
    """

    report: EpochReport
    basis: Basis
    named: Mapping[SubnetNodeId, Sighting] = field(default_factory=dict)
    accepted: Mapping[Slot, bytes] = field(default_factory=dict)
    listed: Mapping[Slot, Mapping[bytes, tuple[SubnetNodeId, ...]]] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    mismatches: tuple[str, ...] = ()


class _Missing(Exception):
    """The keeping node does not have something that the proposal names."""


def check_records(evidence: EpochEvidence) -> None:
    """Raise ReceiptInvalid, naming the record, unless each is signed by a node of its roster."""
    sizes = compute_vector_sizes(evidence.shape, evidence.params)
    table = EpochTable(evidence.network_id, vector_sizes=sizes)
    rosters = (evidence.previous, evidence.roster, evidence.following)
    for roster in (roster for roster in rosters if roster is not None):
        expires_at = compute_expiry(
            roster.timestamp_s,
            epoch_length=evidence.epoch_length,
            block_time_ms=evidence.block_time_ms,
            life_epochs=evidence.params.record_life_epochs,
        )
        table = table.add(roster, expires_at=expires_at)
    for envelope in evidence.records:
        try:
            admit(envelope.to_bytes(), None, table)
        except InvalidRecord as error:
            what = f"the {RecordKind(envelope.kind).name} of node {envelope.node_id}"
            raise ReceiptInvalid(
                f"{what} of epoch {envelope.epoch} does not hold: {error}"
            ) from error


def recompute(evidence: EpochEvidence, scorer: Scorer | None = None) -> Recomputed:
    """Return the epoch's score: from what the proposal names where all of it is there.

    ``scorer`` is the subnet's own rule of pay, if it has one. Raises ScorerFailed if it fails.
    """
    submission, roster = evidence.submission, evidence.roster
    if not evidence.is_scored:
        return Recomputed(_score_nothing(evidence), Basis.NOT_SCORED)
    if submission is None:
        return _score_own_view(evidence, scorer)
    try:
        naming = decode_args(submission.args, roster)
    except ProposalMismatch as error:
        return _score_own_view(evidence, scorer, mismatches=(str(error),))
    if naming.is_empty:
        report = _score_nothing(evidence)
        mismatches = _compare_naming(report, naming)
        return Recomputed(report, Basis.NOTHING_NAMED, mismatches=mismatches)
    try:
        return _score_named(evidence, naming, scorer)
    except _Missing as missing:
        return _score_own_view(evidence, scorer, missing=(str(missing),))
    except (ProposalMismatch, InvalidRecord) as error:
        return _score_own_view(evidence, scorer, mismatches=(str(error),))


def _score_nothing(evidence: EpochEvidence) -> EpochReport:
    probation = evidence.probation if evidence.is_scored else {}
    return score_nothing(
        evidence.roster, evidence.following, probation=probation, seed=evidence.seed
    )


def _score_named(evidence: EpochEvidence, naming: Naming, scorer: Scorer | None) -> Recomputed:
    by_name = {get_name(envelope): envelope for envelope in evidence.records}
    named = _open_named(evidence, naming, by_name)
    accepted = find_accepted(list(named.values()), evidence.roster)
    for (kind, epoch, node_id), name in accepted.items():
        if name not in by_name:
            raise _Missing(f"the {kind.name} of node {node_id} of epoch {epoch}")
    if evidence.draw is None:
        raise _Missing("the block that drew the audits")
    records = {slot: by_name[name] for slot, name in accepted.items()}
    if hash_accepted(records, accepted) != naming.accepted_hash:
        raise ProposalMismatch("args: the accepted records are others")
    facts = _make_facts(evidence, records, named)
    report = score_epoch(facts, evidence.following, evidence.params, scorer)
    return Recomputed(
        report,
        Basis.NAMED,
        named,
        accepted,
        _list_by_slot(evidence, named),
        mismatches=_compare_naming(report, naming),
    )


def _open_named(
    evidence: EpochEvidence, naming: Naming, by_name: Mapping[bytes, Envelope]
) -> dict[SubnetNodeId, Sighting]:
    """Return the named sightings. Raises _Missing, ProposalMismatch or InvalidRecord."""
    by_hash = {envelope.record_hash: envelope for envelope in by_name.values()}
    named_list = by_hash.get(naming.list_hash)
    if named_list is None:
        raise _Missing("the list of sightings that the proposal names")
    hashes = check_named_list(decode_named_list(named_list.body), evidence.roster)
    for node_id, record_hash in hashes.items():
        record = by_hash.get(record_hash)
        if record is None:
            raise _Missing(f"the SIGHTING of node {node_id} of epoch {evidence.epoch}")
        slot = (record.kind, record.epoch, record.node_id)
        if slot != (RecordKind.SIGHTING, evidence.epoch, node_id):
            raise ProposalMismatch(f"named list: what node {node_id} is named for is not its own")
    return {
        node_id: open_sighting(by_hash[record_hash], evidence.roster)
        for node_id, record_hash in hashes.items()
    }


def _list_by_slot(
    evidence: EpochEvidence, named: Mapping[SubnetNodeId, Sighting]
) -> dict[Slot, dict[bytes, tuple[SubnetNodeId, ...]]]:
    nodes, listed = evidence.roster.nodes, dict[Slot, dict[bytes, tuple[SubnetNodeId, ...]]]()
    for witness, sighting in sorted(named.items()):
        for row in sighting.seen:
            slot = (row.kind, Epoch(evidence.epoch - row.age), nodes[row.position].node_id)
            versions = listed.setdefault(slot, {})
            versions[row.name] = (*versions.get(row.name, ()), witness)
    return listed


def _compare_naming(report: EpochReport, naming: Naming) -> tuple[str, ...]:
    try:
        check_naming(report, naming)
    except ProposalMismatch as error:
        return (str(error),)
    return ()


def _score_own_view(
    evidence: EpochEvidence,
    scorer: Scorer | None,
    *,
    missing: tuple[str, ...] = (),
    mismatches: tuple[str, ...] = (),
) -> Recomputed:
    """Score what the keeping node saw in time: what it would have paid."""
    by_name = {get_name(envelope): envelope for envelope in evidence.records}
    records = {}
    for seen in evidence.seen:
        kind, epoch, _ = seen.slot
        if seen.name in by_name and seen.seen_at < evidence.compute_cutoff(kind, epoch):
            records[seen.slot] = by_name[seen.name]
    facts = _make_facts(evidence, records, {})
    report = score_epoch(facts, evidence.following, evidence.params, scorer)
    return Recomputed(report, Basis.OWN_VIEW, missing=missing, mismatches=mismatches)


def _make_facts(
    evidence: EpochEvidence,
    records: Mapping[Slot, Envelope],
    named: Mapping[SubnetNodeId, Sighting],
) -> EpochFacts:
    return EpochFacts(
        roster=evidence.roster,
        previous=evidence.previous if evidence.is_previous_scored else None,
        seed=evidence.seed,
        draw=evidence.draw,
        shape=evidence.shape,
        records=records,
        named=named,
        probation=evidence.probation,
        seen_at=evidence.seen_at,
    )
