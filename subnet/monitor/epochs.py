"""From what a node's journal holds of an epoch, or the chain alone, to its record. Pure.

Scores are copied from the report that ``consensus.epoch`` made, or from the proposal on chain.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from consensus.attestation import compute_attestation_ratio, is_agreed
from consensus.audit import draw_layers
from consensus.challenge import ModelShape
from consensus.evidence import TimedRecords
from consensus.phases import Phase, Schedule, get_phase_end, phase_at
from consensus.protocol_params import ConsensusParams
from consensus.records import RecordKind
from consensus.submission import Submission
from consensus.types import EpochPosition
from subnet.monitor.documents import (
    ChainClock,
    EpochNode,
    EpochRecord,
    EpochSummary,
    History,
    Kind,
    PhaseSpan,
    Proposal,
    Role,
    Window,
)
from subnet.monitor.swarm import to_millionths

KINDS: Mapping[RecordKind, Kind] = {
    RecordKind.OUTPUT_COMMIT: "commit",
    RecordKind.AUDIT_COMMIT: "audit_commit",
    RecordKind.OUTPUT_REVEAL: "reveal",
    RecordKind.AUDIT_REVEAL: "audit_reveal",
    RecordKind.SCORE_REVEAL: "score_reveal",
    RecordKind.SIGHTING: "sighting",
}
NO_ROW = "no row: the chain counts the node as absent"


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochFound:
    """What is known of one epoch. ``seen`` also holds the score reveals of the epoch before.

    ``known`` are the nodes of its roster. Without a journal nothing is ``seen``, and
    ``has_records`` is False. ``report`` is EpochReport.to_json, parsed. ``following`` is the
    proposal of the next epoch, which scores this one, and ``paid`` what its settlement gave.
    """

    epoch: int
    schedule: Schedule | None = None
    first_block: int | None = None
    known: frozenset[int] = frozenset()
    has_records: bool = False
    seen: TimedRecords = field(default_factory=dict)
    report: Mapping[str, Any] | None = None
    elected: int | None = None
    submission: Submission | None = None
    min_attestation: int | None = None
    is_over: bool = False
    audited: Sequence[int] = ()
    following: Submission | None = None
    paid: Mapping[int, int] = field(default_factory=dict)


def list_phases(schedule: Schedule) -> tuple[PhaseSpan, ...]:
    """Return the phases in their order."""
    spans, start = [], 0
    for phase in Phase:
        end = get_phase_end(phase, schedule)
        spans.append(PhaseSpan(name=phase.value, start=start, end=end))
        start = end
    return tuple(spans)


def make_clock(
    position: EpochPosition,
    schedule: Schedule,
    *,
    head_at: float,
    block_time_s: float,
    elected: int | None,
) -> ChainClock:
    """Return where the chain stands; ``head_at`` is when its head came."""
    return ChainClock(
        head=position.block,
        head_at=head_at,
        block_time_s=block_time_s,
        epoch=position.epoch,
        offset=position.offset,
        length=position.length,
        phase=phase_at(position, schedule).value,
        phases=list_phases(schedule),
        elected=elected,
    )


def list_windows(schedule: Schedule) -> dict[Kind, Window]:
    """Return when each kind of record may leave, and from when on it is too late."""
    return {
        name: Window(
            opens=schedule.windows[kind].leaves_from, closes=schedule.windows[kind].counts_until
        )
        for kind, name in KINDS.items()
    }


def find_audited(
    draw: bytes | None, shape: ModelShape | None, params: ConsensusParams
) -> tuple[int, ...]:
    """Return the audited blocks; none while the draw is not known."""
    return () if draw is None or shape is None else tuple(draw_layers(draw, shape, params))


def make_record(found: EpochFound) -> EpochRecord:
    """Return the record of an epoch."""
    schedule = found.schedule
    return EpochRecord(
        epoch=found.epoch,
        length=None if schedule is None else schedule.length,
        phases=() if schedule is None else list_phases(schedule),
        windows=list_windows(schedule) if schedule and found.has_records else {},
        elected=found.elected,
        proposal=_make_proposal(found),
        audited_blocks=tuple(found.audited),
        source=_find_source(found),
        nodes=_make_nodes(found),
    )


def _find_source(found: EpochFound) -> Any:
    if found.report is not None:
        return "computed"
    return None if found.following is None else "chain"


def _make_proposal(found: EpochFound) -> Proposal | None:
    submission, least = found.submission, found.min_attestation
    if submission is None:
        return None
    agreed = None
    if found.is_over and least is not None:
        agreed = is_agreed(submission, min_attestation=least)
    length = None if found.schedule is None else found.schedule.length
    offset = 0 if found.first_block is None else submission.block - found.first_block
    return Proposal(
        proposer=submission.proposer,
        offset=max(0, offset if length is None else min(offset, length)),
        attested=tuple(sorted(submission.attested)),
        voters=tuple(sorted(submission.voters)),
        ratio=to_millionths(compute_attestation_ratio(submission)),
        needed=None if least is None else to_millionths(least),
        is_agreed=agreed,
    )


def _make_nodes(found: EpochFound) -> tuple[EpochNode, ...]:
    report: Mapping[str, Any] = found.report or {}
    hosters = {row["subnet_node_id"]: row for row in report.get("hosters", ())}
    validators = {row["subnet_node_id"]: row for row in report.get("validators", ())}
    scores = _find_scores(found)
    probation = dict(report.get("probation", ()))
    records = _find_records(found)
    nodes = []
    for node_id in sorted(found.known | scores.keys() | records.keys() | hosters.keys()):
        hoster, validator = hosters.get(node_id), validators.get(node_id)
        paid = found.paid.get(node_id)
        nodes.append(
            EpochNode(
                node_id=node_id,
                role=_find_role(records.get(node_id, {}), hoster, validator),
                records=records.get(node_id, {}),
                score=scores.get(node_id),
                accuracy=None
                if validator is None or not validator["rows"]
                else to_millionths(int(validator["accuracy"])),
                problem=_find_problem(found, node_id, hoster, validator, scores),
                paid=None if paid is None else str(paid),
                probation=int(probation.get(node_id, 0)),
            )
        )
    return tuple(nodes)


def _find_scores(found: EpochFound) -> dict[int, int]:
    if found.report is not None:
        rows: Iterable[Any] = found.report["rows"]
        return {int(node_id): to_millionths(int(score)) for node_id, score in rows}
    if found.following is None:
        return {}
    # The first of two rows for one node is the one that is paid.
    listed = reversed(found.following.scores)
    return {int(node_id): to_millionths(int(score)) for node_id, score in listed}


def _find_records(found: EpochFound) -> dict[int, dict[Kind, int]]:
    if found.first_block is None:
        return {}
    records: dict[int, dict[Kind, int]] = {}
    for (kind, node_id), record in found.seen.items():
        if kind in KINDS:
            offset = max(0, record.seen_at - found.first_block)
            records.setdefault(int(node_id), {})[KINDS[kind]] = offset
    return records


def _find_role(
    records: Mapping[Kind, int], hoster: object | None, validator: object | None
) -> Role | None:
    if hoster is not None or "commit" in records:
        return "hoster"
    if validator is not None or "audit_commit" in records:
        return "validator"
    return None


def _find_problem(
    found: EpochFound,
    node_id: int,
    hoster: Mapping[str, Any] | None,
    validator: Mapping[str, Any] | None,
    scores: Mapping[int, int],
) -> str | None:
    if scores.get(node_id):
        # A part of its work may still not count: the receipt says so.
        return None
    for report, names in (
        (hoster, ("penalty", "refusal")),
        (validator, ("refusal", "audit_refusal")),
    ):
        for name in names:
            if report is not None and report[name] is not None:
                return str(report[name])
    if hoster is not None:
        refusals = [row["refusal"] for row in hoster["reasons"] if row["refusal"] is not None]
        return str(refusals[0]) if refusals else "nothing of its work counts"
    is_scored = found.report is not None or found.following is not None
    return NO_ROW if is_scored and node_id not in scores else None


def digest_results(record: EpochRecord) -> object:
    """Return what of a record is worth keeping: equal digests, nothing new but records."""
    is_over = record.proposal is not None and record.proposal.is_agreed is not None
    shown = tuple(
        (node.node_id, node.score, node.accuracy, node.problem, node.paid) for node in record.nodes
    )
    return record.proposal, record.source, shown, is_over, record.audited_blocks


def summarise(record: EpochRecord) -> EpochSummary:
    """Return the record's column of the history."""
    proposal = record.proposal
    if proposal is None:
        return EpochSummary(epoch=record.epoch, elected=record.elected)
    voters = set(proposal.voters)
    return EpochSummary(
        epoch=record.epoch,
        elected=record.elected,
        proposer=proposal.proposer,
        attested=len(voters & set(proposal.attested)),
        voters=len(voters),
        ratio=proposal.ratio,
        needed=proposal.needed,
        is_agreed=proposal.is_agreed,
    )


def make_history(records: Sequence[EpochRecord], *, oldest: int | None) -> History:
    """Return the tables of ``records``, which ascend by epoch."""
    by_epoch = [{node.node_id: node for node in record.nodes} for record in records]
    ids = sorted({node_id for nodes in by_epoch for node_id in nodes})

    def collect(name: str) -> tuple[tuple[Any, ...], ...]:
        return tuple(
            tuple(getattr(nodes[node_id], name) if node_id in nodes else None for nodes in by_epoch)
            for node_id in ids
        )

    return History(
        oldest=oldest,
        epochs=tuple(summarise(record) for record in records),
        nodes=tuple(ids),
        scores=collect("score"),
        accuracies=collect("accuracy"),
        problems=collect("problem"),
        paid=collect("paid"),
    )
