"""A receipt in words, 80 columns wide, and as one JSON object.

Transformer layers are called blocks here, as everywhere on the command line; blocks of the chain
are written "chain block".
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any

from consensus.agreement import DISTANCE_ONE
from consensus.attestation import is_agreed
from consensus.records import RecordKind
from consensus.scoring import HosterReport, ValidatorReport
from consensus.submission import Submission
from consensus.types import SCORE_ONE, SubnetNodeId
from subnet.receipts.causes import name_layer
from subnet.receipts.reasons import KIND_WORDS
from subnet.receipts.receipt import Comparison, NodeReceipt, RecordTrace
from subnet.receipts.settlement import ChainAnswer, ChainRow, Settlement

WIDTH = 80
JSON_VERSION = 1


def describe_receipt(
    receipt: NodeReceipt, *, num_layers: int, tolerance: float, answer: ChainAnswer | None = None
) -> str:
    """Return the receipt as people read it; ``answer`` is what the chain says now."""
    parts = [
        _describe_head(receipt, answer),
        _describe_causes(receipt),
        _describe_records(receipt),
        _describe_hoster(receipt, num_layers=num_layers, tolerance=tolerance),
        _describe_validator(receipt, num_layers=num_layers),
        _describe_standing(receipt, num_layers=num_layers),
        _describe_proposal(receipt),
        _describe_payment(receipt.node_id, answer),
        _describe_unseen(receipt),
        _describe_unchecked(answer),
    ]
    return _join(parts)


def describe_chain_row(row: ChainRow) -> str:
    """Return what the chain alone says of a score, as people read it."""
    proposed = None if row.submission is None else dict(row.submission.scores).get(row.node_id)
    head = [
        f"node {row.node_id}, epoch {row.epoch}: the chain has {format_score(proposed)}",
        "  no node of this machine kept this epoch, so it is not computed again",
    ]
    proposal = _describe_submission(
        row.submission,
        node_id=row.node_id,
        elected=row.elected,
        min_attestation=row.min_attestation,
        is_settled=row.answer.settlement is not None,
    )
    title = f"Proposal (made in epoch {row.epoch + 1})"
    payment = _describe_payment(row.node_id, row.answer)
    return _join([iter(head), iter([title, *proposal]), payment, _describe_unchecked(row.answer)])


def render_chain_row(row: ChainRow) -> dict[str, Any]:
    """Return what the chain alone says of a score, as one JSON object."""
    submission, paid = row.submission, row.answer.settlement
    proposed = None if submission is None else dict(submission.scores).get(row.node_id)
    return {
        "version": JSON_VERSION,
        "epoch": row.epoch,
        "subnet_node_id": row.node_id,
        "verdict": "not_kept",
        "proposed": _render_number(proposed),
        "elected": row.elected,
        "proposal": None if submission is None else _render_submission(submission),
        "settlement": None if paid is None else _render_settlement(paid),
        "unchecked": list(row.answer.unchecked),
    }


def _join(parts: Sequence[Iterator[str]]) -> str:
    return "\n\n".join("\n".join(lines) for part in parts if (lines := list(part)))


def get_comparison(receipt: NodeReceipt, answer: ChainAnswer | None) -> Comparison:
    """Return how the score stands to the chain, as it answers now if it was asked."""
    is_contradicted = answer is not None and answer.differences
    return Comparison.DIFFERS if is_contradicted else receipt.comparison


def render_receipt(
    receipt: NodeReceipt, *, num_layers: int, answer: ChainAnswer | None = None
) -> dict[str, Any]:
    """Return the receipt as one JSON object; scores are decimal strings of integers at 10**18."""
    submission = receipt.submission
    return {
        "version": JSON_VERSION,
        "epoch": receipt.epoch,
        "subnet_node_id": receipt.node_id,
        "kept_by": receipt.kept_by,
        "node_class": None if receipt.node is None else receipt.node.node_class.name.lower(),
        "verdict": get_comparison(receipt, answer).name.lower(),
        "differences": [*receipt.differences, *(answer.differences if answer else ())],
        "basis": receipt.basis.name.lower(),
        "score": _render_number(receipt.score),
        "proposed": _render_number(receipt.proposed),
        "reasons": [
            {"code": cause.why.value, "reason": cause.sentence, "fix": cause.fix}
            for cause in receipt.causes
        ],
        "records": [_render_trace(trace) for trace in receipt.traces],
        "named_sightings": receipt.num_named,
        "is_named": receipt.is_named,
        "hoster": None if receipt.hoster is None else _render_hoster(receipt, receipt.hoster),
        "validator": None if receipt.validator is None else _render_validator(receipt.validator),
        "audited_blocks": list(receipt.drawn),
        "num_blocks": num_layers,
        "failed_probes_of": list(receipt.failed_probes),
        "probation": receipt.probation,
        "probation_after": receipt.probation_after,
        "elected": receipt.elected,
        "proposal": None
        if submission is None
        else _render_submission(submission) | {"agreed": receipt.is_agreed},
        "settled": receipt.is_settled,
        "settlement": None
        if answer is None or answer.settlement is None
        else _render_settlement(answer.settlement),
        "unseen": list(receipt.unseen),
        "unchecked": list(answer.unchecked) if answer else [],
    }


def format_score(score: int | None) -> str:
    """Return a score as a decimal; nothing is rounded up to more than it is."""
    return "-" if score is None else f"{score // 10**12 / 10**6:.6f}"


def _wrap(text: str, *, indent: str = "  ", hanging: str = "") -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent + hanging)


def _describe_head(receipt: NodeReceipt, answer: ChainAnswer | None) -> Iterator[str]:
    comparison = get_comparison(receipt, answer)
    score = "no row" if receipt.score is None else f"score {format_score(receipt.score)}"
    yield f"node {receipt.node_id}, epoch {receipt.epoch}: {score}; {comparison.value}"
    if comparison is Comparison.DIFFERS:
        proposed = format_score(receipt.proposed)
        yield from _wrap(f"the chain has {proposed}")
    differences = [*receipt.differences, *(answer.differences if answer else ())]
    for difference in differences:
        yield from _wrap(difference)
    source = f"computed again from {receipt.basis.value}"
    if receipt.num_named:
        source += f": {receipt.num_named} sightings accept {receipt.num_records} signed records"
    yield from _wrap(f"{source}; kept by node {receipt.kept_by}")


def _describe_causes(receipt: NodeReceipt) -> Iterator[str]:
    if not receipt.causes:
        return
    if receipt.score is None:
        yield "Why there is no row, so that the chain counts the node as absent"
    else:
        yield "Why it is 0" if not receipt.score else "What it could not earn"
    for cause, following in zip_longest(receipt.causes, receipt.causes[1:]):
        yield from _wrap(f"- {cause.sentence}", hanging="  ")
        if following is None or following.fix != cause.fix:
            yield from _wrap(f"fix: {cause.fix}", indent="    ", hanging="     ")


def _describe_records(receipt: NodeReceipt) -> Iterator[str]:
    if not receipt.traces:
        yield "Records"
        yield f"  none: node {receipt.kept_by} saw none, and no named sighting lists one"
        return
    yield f"{'Records':<16}epoch  first seen  late from  listed by"
    for trace in receipt.traces:
        seen = "-" if trace.seen_at is None else str(trace.seen_at)
        is_listed = receipt.num_named and not _is_sighting(trace, receipt)
        listed = f"{len(trace.listed_by)} of {receipt.num_named}" if is_listed else "-"
        yield (
            f"  {KIND_WORDS[trace.kind]:<14}{trace.epoch:<7}{seen:<12}{trace.cutoff:<11}"
            f"{listed:<9}  {_judge_trace(trace, receipt)}"
        ).rstrip()
        absent = sorted(set(receipt.named) - set(trace.listed_by)) if is_listed else []
        if absent and trace.listed_by:
            yield from _wrap(f"not listed by {list_nodes(absent)}", indent="    ")
    yield f"  seen: the chain block at which it reached node {receipt.kept_by}"


def _is_sighting(trace: RecordTrace, receipt: NodeReceipt) -> bool:
    """Whether this is the epoch's own sighting, which is named and not listed."""
    return trace.kind is RecordKind.SIGHTING and trace.epoch == receipt.epoch


def _judge_trace(trace: RecordTrace, receipt: NodeReceipt) -> str:
    if _is_sighting(trace, receipt):
        is_named = receipt.is_named
        word = "" if is_named is None else "named" if is_named else "not named"
    elif not receipt.num_named:
        word = "signed" if trace.own else ""
    elif trace.versions > 1:
        word = f"{trace.versions} versions"
    else:
        word = "accepted" if trace.is_accepted else "not accepted"
    is_late = trace.seen_at is not None and trace.seen_at >= trace.cutoff
    is_unheld = trace.own is not None and not trace.own.is_acknowledged
    words = (word, "late" if is_late else "", "no replica holds it" if is_unheld else "")
    return ", ".join(filter(None, words))


def _describe_hoster(receipt: NodeReceipt, *, num_layers: int, tolerance: float) -> Iterator[str]:
    hoster = receipt.hoster
    if hoster is None:
        return
    yield f"Hosted blocks {hoster.layers}"
    yield "  block  valid answers  distance  score     share"
    for reason in hoster.reasons:
        votes = receipt.votes[reason.layer]
        distance = "-" if reason.distance is None else f"{reason.distance / DISTANCE_ONE:.1e}"
        verdict = "" if reason.refusal is None else str(reason.refusal).replace("_", " ")
        yield (
            f"  {name_layer(reason.layer, num_layers):<7}{votes.valid} of {votes.answered:<10} "
            f"{distance:<10}{format_score(reason.score):<10}{format_score(reason.share):<10}"
            f"{verdict}"
        ).rstrip()
    penalty = "" if hoster.penalty is None else f"; {str(hoster.penalty).replace('_', ' ')}"
    yield f"  distance: to the mean of the valid votes; {tolerance:.1e} is allowed{penalty}"


def _describe_validator(receipt: NodeReceipt, *, num_layers: int) -> Iterator[str]:
    validator = receipt.validator
    if validator is None:
        return
    yield f"Validated: {format_score(validator.score)}"
    if validator.refusal is not None:
        refusal = str(validator.refusal).replace("_", " ")
        yield f"  scores of epoch {receipt.epoch - 1}: do not count, {refusal}"
    else:
        accuracy = 100 * validator.accuracy / SCORE_ONE
        share = format_score(validator.score_share)
        yield f"  scores of epoch {receipt.epoch - 1}: {accuracy:.0f} % right, paid {share}"
    if validator.rows and validator.refusal is None:
        yield "    hoster  own total  expected"
        for row in validator.rows:
            word = "right" if row.refusal is None else str(row.refusal).replace("_", " ")
            own, expected = format_score(row.total), format_score(row.expected)
            yield f"    {row.hoster:<8}{own:<11}{expected:<10} {word}"
        yield "    expected: the median of the validators' totals, where three or more count"
    layers = ", ".join(name_layer(layer, num_layers) for layer in receipt.drawn)
    word = "counts" if validator.audit_refusal is None else "does not count, "
    if validator.audit_refusal is not None:
        word += str(validator.audit_refusal).replace("_", " ")
    yield f"  audit of block {layers}: {word}, paid {format_score(validator.audit_share)}"


def _describe_standing(receipt: NodeReceipt, *, num_layers: int) -> Iterator[str]:
    layers = ", ".join(name_layer(layer, num_layers) for layer in receipt.drawn)
    yield f"Audited block: {layers or 'not known'}"
    if receipt.num_named:
        failed = receipt.failed_probes
        named = f" ({list_nodes(failed)})" if failed else ""
        yield f"Probes: failed by {len(failed)} of {receipt.num_named} named validators{named}"
    before, after = receipt.probation, receipt.probation_after
    if before or after:
        yield f"Probation: {before} epochs before this one was scored, {after} after it"
    else:
        yield "Probation: none"


def _describe_proposal(receipt: NodeReceipt) -> Iterator[str]:
    yield f"Proposal (made in epoch {receipt.epoch + 1})"
    yield from _describe_submission(
        receipt.submission,
        node_id=receipt.node_id,
        elected=receipt.elected,
        min_attestation=receipt.min_attestation,
        is_settled=receipt.is_settled,
    )
    if receipt.is_named is not None:
        yield f"  names the sighting of node {receipt.node_id}: {_yes(receipt.is_named)}"


def _describe_submission(
    submission: Submission | None,
    *,
    node_id: SubnetNodeId,
    elected: SubnetNodeId | None,
    min_attestation: int | None,
    is_settled: bool,
) -> Iterator[str]:
    if submission is None:
        whom = "no node" if elected is None else f"node {elected}"
        yield f"  {whom} was elected; nothing was proposed{'' if is_settled else ' yet'}"
        return
    yield f"  by node {submission.proposer} in chain block {submission.block}"
    needed, verdict = "", "not settled yet"
    if min_attestation is not None:
        needed = f", {100 * min_attestation / SCORE_ONE:g} % are needed"
        if is_settled:
            is_enough = is_agreed(submission, min_attestation=min_attestation)
            verdict = "agreed" if is_enough else "not agreed"
    yield (
        f"  attested by {len(submission.attested)} of {len(submission.voters)} validators"
        f"{needed}: {verdict}"
    )
    yield f"  attested by node {node_id}: {_yes(node_id in submission.attested)}"
    absent = submission.voters - submission.attested
    if absent:
        yield from _wrap(f"not attested by: {list_nodes(sorted(absent))}")


def _describe_payment(node_id: SubnetNodeId, answer: ChainAnswer | None) -> Iterator[str]:
    yield "Reward or slash"
    if answer is None:
        yield "  the chain's events say: give --chain URL"
        return
    paid = answer.settlement
    if paid is None:
        yield "  not known, see below"
        return
    yield f"  settled in chain block {paid.block}: node {node_id} got {_tensor(paid.paid)}"
    for reason in (paid.unpaid if not paid.paid else None, paid.shortfall):
        if reason is not None:
            yield from _wrap(reason, indent="    ")
    if paid.proposing is not None:
        yield f"  and for its proposal {_tensor(paid.proposing)}"
    if paid.slashed:
        yield f"  slashed: {_tensor(paid.slashed)}"
    if paid.reputation is not None:
        was, now = (format_score(value) for value in paid.reputation)
        yield f"  reputation: {was} -> {now}"


def _describe_unseen(receipt: NodeReceipt) -> Iterator[str]:
    if receipt.unseen:
        yield f"Not seen by node {receipt.kept_by}"
        for what in receipt.unseen:
            yield from _wrap(f"- {what}", hanging="  ")


def _describe_unchecked(answer: ChainAnswer | None) -> Iterator[str]:
    if answer is not None and answer.unchecked:
        yield "Not compared with the chain"
        for what in answer.unchecked:
            yield from _wrap(f"- {what}", hanging="  ")


def list_nodes(nodes: Sequence[SubnetNodeId]) -> str:
    """Return node ids as people write them."""
    return ", ".join(f"node {node_id}" for node_id in nodes)


def _yes(is_so: bool) -> str:
    return "yes" if is_so else "no"


def _tensor(units: int) -> str:
    return f"{units / SCORE_ONE:.6f} TENSOR"


def _render_number(number: int | None) -> str | None:
    return None if number is None else str(number)


def _render_submission(submission: Submission) -> dict[str, Any]:
    return {
        "proposer": submission.proposer,
        "block": submission.block,
        "attested": sorted(submission.attested),
        "voters": sorted(submission.voters),
    }


def _render_trace(trace: RecordTrace) -> dict[str, Any]:
    return {
        "kind": trace.kind.name.lower(),
        "epoch": trace.epoch,
        "seen_at": trace.seen_at,
        "late_from": trace.cutoff,
        "listed_by": list(trace.listed_by),
        "versions": trace.versions,
        "accepted": trace.is_accepted,
        "acknowledged": None if trace.own is None else trace.own.is_acknowledged,
    }


def _render_hoster(receipt: NodeReceipt, hoster: HosterReport) -> dict[str, Any]:
    return {
        "blocks": [hoster.layers.start, hoster.layers.end],
        "refusal": hoster.refusal,
        "penalty": hoster.penalty,
        "total": str(hoster.total),
        "score": str(hoster.score),
        "layers": [
            {
                "block": reason.layer,
                "verdict": reason.verdict.value,
                "refusal": reason.refusal,
                "valid_answers": receipt.votes[reason.layer].valid,
                "answers": receipt.votes[reason.layer].answered,
                "distance": None if reason.distance is None else reason.distance / DISTANCE_ONE,
                "score": str(reason.score),
                "share": str(reason.share),
            }
            for reason in hoster.reasons
        ],
    }


def _render_validator(validator: ValidatorReport) -> dict[str, Any]:
    return {
        "refusal": validator.refusal,
        "accuracy": str(validator.accuracy),
        "score_share": str(validator.score_share),
        "audit_refusal": validator.audit_refusal,
        "audit_share": str(validator.audit_share),
        "rows": [
            {
                "subnet_node_id": row.hoster,
                "total": _render_number(row.total),
                "expected": _render_number(row.expected),
                "refusal": row.refusal,
            }
            for row in validator.rows
        ],
    }


def _render_settlement(paid: Settlement) -> dict[str, Any]:
    return {
        "block": paid.block,
        "paid": str(paid.paid),
        "unpaid": paid.unpaid,
        "slashed": str(paid.slashed),
        "reputation": None if paid.reputation is None else [str(v) for v in paid.reputation],
        "shortfall": paid.shortfall,
        "proposing": None if paid.proposing is None else str(paid.proposing),
    }
