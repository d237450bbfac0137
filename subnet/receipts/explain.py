"""From what a node kept of an epoch to the receipt of one node's score: a pure function.

Every number comes from ``consensus.epoch.score_epoch`` (``recompute``) and is compared with the
proposal on chain; the reasons are found in ``causes``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from consensus.attestation import check_proposal, is_agreed
from consensus.audit import draw_layers
from consensus.errors import ProposalMismatch
from consensus.naming import Slot
from consensus.records import SEEN_SLOTS, RecordKind
from consensus.report import EpochReport
from consensus.rows import drop_departed
from consensus.scoring import HosterReport
from consensus.types import Epoch, SubnetNodeId
from subnet.receipts.causes import find_causes
from subnet.receipts.evidence import EpochEvidence
from subnet.receipts.reasons import KIND_WORDS
from subnet.receipts.receipt import Comparison, LayerVotes, NodeReceipt, RecordTrace
from subnet.receipts.recompute import Basis, Recomputed

TRACED = tuple(slot for slot in SEEN_SLOTS if slot != (RecordKind.OUTPUT_REVEAL, 1))
"""The reveals of the epoch before are listed for the tags of scores only."""


def make_receipt(evidence: EpochEvidence, again: Recomputed, node_id: SubnetNodeId) -> NodeReceipt:
    """Return the receipt of a node; ``again`` is the score of the evidence, computed again."""
    report, submission, least = again.report, evidence.submission, evidence.min_attestation
    proposed = {} if submission is None else dict(submission.scores)
    traces = tuple(_trace_records(evidence, again, node_id))
    hoster = next((row for row in report.hosters if row.node_id == node_id), None)
    comparison, differences = compare(evidence, again)
    agreed = None
    if submission is not None and least is not None:
        agreed = is_agreed(submission, min_attestation=least)
    receipt = NodeReceipt(
        epoch=evidence.epoch,
        node_id=node_id,
        kept_by=evidence.kept_by,
        node=evidence.roster.get_by_id(node_id),
        basis=again.basis,
        comparison=comparison,
        differences=differences,
        score=dict(report.rows).get(node_id),
        proposed=proposed.get(node_id),
        submission=submission,
        elected=evidence.elected,
        min_attestation=least,
        is_settled=evidence.is_settled,
        is_agreed=agreed,
        named=tuple(sorted(again.named)),
        is_named=node_id in again.named if again.basis is Basis.NAMED else None,
        num_records=len(again.accepted) or len(evidence.records),
        traces=traces,
        hoster=hoster,
        votes=_count_votes(report, hoster),
        validator=next((row for row in report.validators if row.node_id == node_id), None),
        drawn=()
        if evidence.draw is None
        else draw_layers(evidence.draw, evidence.shape, evidence.params),
        failed_probes=_list_accusers(evidence, again, node_id),
        probation=evidence.probation.get(node_id, 0),
        probation_after=report.probation.get(node_id, 0),
        causes=(),
        unseen=_list_unseen(again, traces, node_id, kept_by=evidence.kept_by),
    )
    return replace(receipt, causes=find_causes(evidence, again, receipt))


def compare(evidence: EpochEvidence, again: Recomputed) -> tuple[Comparison, tuple[str, ...]]:
    """Return how the rows that were computed again stand to the proposal, and what differs."""
    submission = evidence.submission
    if submission is None:
        return Comparison.NO_PROPOSAL, ()
    if again.mismatches:
        return Comparison.DIFFERS, again.mismatches
    if again.basis is Basis.OWN_VIEW:
        return Comparison.NOT_COMPARED, ()
    rows = again.report.rows
    try:
        check_proposal(rows, submission.scores)
    except ProposalMismatch as error:
        listed = {node_id for node_id, _ in rows} - evidence.departed
        kept = drop_departed(rows, proposed=submission.scores, listed=listed)
        departed = {node_id for node_id, _ in rows} - {node_id for node_id, _ in kept}
        try:
            check_proposal(kept, submission.scores)
        except ProposalMismatch:
            return Comparison.DIFFERS, (str(error),)
        named = ", ".join(str(node_id) for node_id in sorted(departed))
        return Comparison.EQUAL, (f"the chain dropped the rows of nodes that had left: {named}",)
    return Comparison.EQUAL, ()


def _trace_records(
    evidence: EpochEvidence, again: Recomputed, node_id: SubnetNodeId
) -> Iterator[RecordTrace]:
    own = {
        (row.kind, row.epoch, evidence.kept_by): row
        for row in evidence.own
        if evidence.kept_by == node_id
    }
    for kind, age in (*TRACED, (RecordKind.SIGHTING, 0)):
        slot: Slot = (kind, Epoch(evidence.epoch - age), node_id)
        versions = again.listed.get(slot, {})
        accepted = again.accepted.get(slot)
        listed_by = max(versions.values(), key=len, default=())
        trace = RecordTrace(
            kind=kind,
            epoch=slot[1],
            seen_at=evidence.seen_at.get(slot),
            cutoff=evidence.compute_cutoff(kind, slot[1]),
            listed_by=versions[accepted] if accepted is not None else listed_by,
            versions=len(versions),
            is_accepted=accepted is not None
            or ((kind, age) == (RecordKind.SIGHTING, 0) and node_id in again.named),
            own=own.get(slot),
        )
        if trace.seen_at is not None or trace.versions or trace.own or trace.is_accepted:
            yield trace


def _count_votes(report: EpochReport, hoster: HosterReport | None) -> dict[int, LayerVotes]:
    """Return how the hosters answered each layer that the node committed to."""
    if hoster is None:
        return {}
    answers = [reason for other in report.hosters for reason in other.reasons]
    return {
        own.layer: LayerVotes(
            valid=sum(a.layer == own.layer and a.refusal is None for a in answers),
            answered=sum(a.layer == own.layer for a in answers),
        )
        for own in hoster.reasons
    }


def _list_accusers(
    evidence: EpochEvidence, again: Recomputed, node_id: SubnetNodeId
) -> tuple[SubnetNodeId, ...]:
    """Return the named validators whose last probes of the node failed."""
    places = {node.node_id: place for place, node in enumerate(evidence.roster.nodes)}
    place = places.get(node_id)
    return tuple(sorted(by for by, said in again.named.items() if place in said.failed_probes))


def _list_unseen(
    again: Recomputed,
    traces: tuple[RecordTrace, ...],
    node_id: SubnetNodeId,
    *,
    kept_by: SubnetNodeId,
) -> tuple[str, ...]:
    """Return what the keeping node does not have or did not see itself."""
    unseen = [
        f"{missing}: named by the proposal, and not on this node" for missing in again.missing
    ]
    if node_id != kept_by:
        unseen += [
            f"the {KIND_WORDS[trace.kind]} of epoch {trace.epoch} itself, when it travelled"
            for trace in traces
            if trace.seen_at is None and trace.versions
        ]
    return tuple(unseen)
