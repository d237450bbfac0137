"""Finds why a node's score is 0 or low: from the report, the named sightings and what was seen.

The sentences stand in ``reasons.TABLE``. Reasons of the whole epoch come first, then those of the
node itself: its records, its work as a hoster and as a validator, and its duties on chain.
"""

from __future__ import annotations

from collections.abc import Iterator

from consensus.errors import Reason
from consensus.missed import RECORD_DUTIES, OwedDuty
from consensus.records import RecordKind
from consensus.scoring import HosterReport, ValidatorReport
from consensus.types import SCORE_ONE, Epoch, NodeClass
from subnet.receipts.evidence import EpochEvidence
from subnet.receipts.reasons import KIND_WORDS, LAYER_REFUSALS, REFUSALS, Cause, Why, make_cause
from subnet.receipts.receipt import NodeReceipt, RecordTrace
from subnet.receipts.recompute import Basis, Recomputed

FEW_HEADS_PERCENT = 80
"""A node that fewer of an epoch's blocks reach has trouble with its chain endpoint."""


def find_causes(
    evidence: EpochEvidence, again: Recomputed, receipt: NodeReceipt
) -> tuple[Cause, ...]:
    """Return the reasons, each once, the most general first."""
    return tuple(dict.fromkeys(_Finder(evidence, again, receipt).find()))


class _Finder:
    """The reasons of one receipt; ``again`` is the epoch's score, computed again."""

    def __init__(self, evidence: EpochEvidence, again: Recomputed, receipt: NodeReceipt) -> None:
        self._evidence = evidence
        self._again = again
        self._receipt = receipt
        self._node_id = receipt.node_id
        self._traces = {(trace.kind, trace.epoch): trace for trace in receipt.traces}

    def find(self) -> Iterator[Cause]:
        evidence, node = self._evidence, self._receipt.node
        yield from self._find_of_epoch()
        if node is not None and node.has_class(NodeClass.INCLUDED, evidence.epoch):
            if evidence.is_scored:
                yield from self._find_of_work()
        elif self._node_id in {n.node_id for n in evidence.following.with_class(_LEAST)}:
            yield self._make(Why.NOT_PRESENT_BEFORE)
        elif node is not None:
            yield self._make(Why.CLASS_TOO_LOW, node_class=node.node_class.name.capitalize())
        else:
            yield self._make(Why.NOT_IN_ROSTER, block=evidence.roster.first_block)
        yield from self._find_of_chain()

    def _make(self, why: Why, **facts: object) -> Cause:
        epoch = self._evidence.epoch
        known = {"node": self._node_id, "previous_epoch": epoch - 1, "next_epoch": epoch + 1}
        return make_cause(why, **known | facts)

    def _find_of_epoch(self) -> Iterator[Cause]:
        """Say why the epoch pays no node, if it does not."""
        evidence, receipt = self._evidence, self._receipt
        if not evidence.is_scored:
            yield self._make(Why.NOTHING_SCORED)
        if evidence.elected is None:
            yield self._make(Why.NO_ELECTION)
        elif evidence.submission is None and evidence.is_settled:
            if evidence.elected == self._node_id:
                detail = self._explain_own(OwedDuty.PROPOSE, Epoch(evidence.epoch + 1))
                yield self._make(Why.ELECTED_AWAY, detail=detail)
            else:
                yield self._make(Why.NO_PROPOSAL, elected=evidence.elected)
        if self._again.basis is Basis.NOTHING_NAMED:
            is_own = evidence.elected == self._node_id
            why = Why.NAMED_NOTHING if is_own else Why.NOTHING_NAMED
            yield self._make(why, elected=evidence.elected)
        submission, least = evidence.submission, evidence.min_attestation
        if submission is None or least is None or not receipt.is_settled:
            return
        if not receipt.is_agreed:
            yield self._make(
                Why.NOT_AGREED,
                attested=len(submission.attested),
                voters=len(submission.voters),
                needed=f"{100 * least / SCORE_ONE:g} %",
            )

    def _find_of_work(self) -> Iterator[Cause]:
        receipt = self._receipt
        yield from self._find_few_heads()
        hoster, validator = receipt.hoster, receipt.validator
        if receipt.probation:
            yield self._make(Why.ON_PROBATION, left=receipt.probation)
        if self._again.basis is Basis.NOTHING_NAMED:
            return
        if hoster is not None:
            yield from self._find_of_hoster(hoster)
        elif validator is not None and self._has_validated(validator):
            yield from self._find_of_validator(validator)
        else:
            yield from self._find_of_idle()

    def _find_few_heads(self) -> Iterator[Cause]:
        notes, length = self._evidence.notes, self._evidence.epoch_length
        heads = notes.num_heads
        if self._receipt.is_own and heads is not None and heads * 100 < FEW_HEADS_PERCENT * length:
            detail = "" if notes.chain_trouble is None else f" ({notes.chain_trouble})"
            yield self._make(Why.FEW_HEADS, heads=heads, length=length, detail=detail)

    def _find_of_hoster(self, hoster: HosterReport) -> Iterator[Cause]:
        params = self._evidence.params
        tolerance = f"{2.0**-params.tolerance_bits:.1e}"
        drawn = [layer for layer in self._receipt.drawn if layer in self._receipt.votes]
        layers = ", ".join(self._name_layer(layer) for layer in drawn)
        match hoster.penalty:
            case Reason.REFUTED:
                epochs = params.probation_epochs
                yield self._make(Why.REFUTED, layers=layers, tolerance=tolerance, epochs=epochs)
            case Reason.WITHHELD:
                yield self._make(Why.WITHHELD, layers=layers, epochs=params.withheld_epochs)
            case Reason.NOT_SERVING:
                yield self._make(
                    Why.NOT_SERVING,
                    failed=len(self._receipt.failed_probes),
                    num_named=self._receipt.num_named,
                )
        if hoster.refusal is not None:
            yield self._explain_refusal(RecordKind.OUTPUT_REVEAL, hoster.refusal)
            return
        refused: dict[Why, list[str]] = {}
        for reason in hoster.reasons:
            if reason.refusal is not None:
                why = LAYER_REFUSALS[reason.refusal]
                refused.setdefault(why, []).append(self._name_layer(reason.layer))
        for why, names in refused.items():
            yield self._make(why, layers=", ".join(names), tolerance=tolerance)

    def _find_of_validator(self, validator: ValidatorReport) -> Iterator[Cause]:
        if validator.refusal is not None:
            yield self._explain_scores(validator.refusal)
        elif not validator.rows:
            yield self._make(Why.NO_SCORES_EXPECTED)
        wrong = [row.hoster for row in validator.rows if row.refusal is not None]
        if wrong and validator.refusal is None:
            yield self._make(
                Why.SCORES_WRONG,
                wrong=len(wrong),
                rows=len(validator.rows),
                hosters=", ".join(map(str, wrong)),
            )
        if validator.accuracy and not validator.score_share:
            yield from self._find_shared_coldkey()
        yield from self._find_of_audit(validator)

    def _find_of_audit(self, validator: ValidatorReport) -> Iterator[Cause]:
        layers = ", ".join(self._name_layer(layer) for layer in self._receipt.drawn)
        match validator.audit_refusal:
            case None if RecordKind.AUDIT_COMMIT not in self._list_accepted():
                detail = self._explain_own(OwedDuty.AUDIT_COMMIT, self._evidence.epoch)
                yield self._make(Why.NO_AUDIT, detail=detail)
            case None if not validator.audit_share:
                shared = list(self._find_shared_coldkey())
                needed = self._evidence.params.min_references
                yield from shared or [self._make(Why.TOO_FEW_AUDITORS, needed=needed)]
            case None:
                return
            case Reason.OUTSIDE_TOLERANCE:
                yield self._make(Why.AUDIT_WRONG, layers=layers)
            case Reason.NOT_REVEALED:
                yield self._explain_record(RecordKind.AUDIT_REVEAL, self._evidence.epoch)
            case refusal:
                detail = str(refusal).replace("_", " ")
                yield self._make(Why.AUDIT_NOT_COUNTED, detail=detail)

    def _has_validated(self, validator: ValidatorReport) -> bool:
        """Whether a report is of a validator's work; a hoster's sighting alone makes one too."""
        has_audited = (RecordKind.AUDIT_COMMIT, self._evidence.epoch) in self._traces
        return validator.refusal is not Reason.NO_COMMIT or has_audited

    def _find_of_idle(self) -> Iterator[Cause]:
        """Say why nothing of the node counted as work."""
        epoch = self._evidence.epoch
        of_epoch = [kind for kind, of in self._traces if of == epoch]
        refused = [r for r in self._again.report.refusals if r.node_id == self._node_id]
        for refusal in refused:
            yield self._explain_refusal(refusal.kind, refusal.reason)
        for kind in _WORK:
            if kind in of_epoch and kind not in self._list_accepted():
                yield self._explain_record(kind, epoch)
        if not of_epoch:
            yield self._make(Why.SILENT)
        if not any(kind in of_epoch for kind in _WORK) and not refused:
            is_auditor = self._find_missed(OwedDuty.AUDIT_COMMIT, epoch) and self._receipt.is_own
            kind = RecordKind.AUDIT_COMMIT if is_auditor else RecordKind.OUTPUT_COMMIT
            if of_epoch or self._find_missed(RECORD_DUTIES[kind], epoch):
                yield self._explain_record(kind, epoch)

    def _find_of_chain(self) -> Iterator[Cause]:
        """Say that the node did not attest, and why if this is its own evidence."""
        evidence, submission = self._evidence, self._evidence.submission
        if submission is None or not evidence.is_settled:
            return
        is_owed = self._node_id in submission.voters - submission.attested
        if not is_owed:
            return
        if self._receipt.is_own and evidence.notes.refused is not None:
            yield self._make(Why.ATTESTATION_REFUSED, detail=evidence.notes.refused)
        else:
            detail = self._explain_own(OwedDuty.ATTEST, Epoch(evidence.epoch + 1))
            yield self._make(Why.NOT_ATTESTED, detail=detail)

    def _explain_scores(self, refusal: Reason) -> Cause:
        before = Epoch(self._evidence.epoch - 1)
        match refusal:
            case Reason.NO_COMMIT if not self._evidence.is_previous_scored:
                return self._make(Why.NO_SCORES_EXPECTED)
            case Reason.NO_COMMIT:
                sighting = self._traces.get((RecordKind.SIGHTING, before))
                if sighting is not None and sighting.is_accepted:
                    return self._make(Why.NO_SCORES)
                return self._explain_record(RecordKind.SIGHTING, before)
            case Reason.NOT_REVEALED:
                return self._explain_record(RecordKind.SCORE_REVEAL, before)
        return self._make(Why.COMMITMENT_MISMATCH, kind=KIND_WORDS[RecordKind.SCORE_REVEAL])

    def _explain_refusal(self, kind: RecordKind, refusal: Reason) -> Cause:
        if refusal is Reason.NOT_REVEALED:
            return self._explain_record(kind, self._evidence.epoch)
        return self._make(REFUSALS[refusal], kind=KIND_WORDS[kind])

    def _explain_record(self, kind: RecordKind, epoch: Epoch) -> Cause:
        """Say why a record is not accepted."""
        word, num_named = KIND_WORDS[kind], self._receipt.num_named
        cutoff = self._evidence.compute_cutoff(kind, epoch)
        seen_in = Epoch(epoch + 1) if kind is RecordKind.SCORE_REVEAL else epoch
        detail = self._explain_own(RECORD_DUTIES[kind], seen_in)
        trace = self._traces.get((kind, epoch))
        if trace is None or (trace.seen_at is None and not trace.listed_by):
            return self._make(Why.RECORD_NOT_SEEN, kind=word, cutoff=cutoff, detail=detail)
        if trace.versions > 1:
            return self._make(Why.EQUIVOCATION, kind=word, versions=trace.versions)
        listed = len(trace.listed_by)
        if self._is_late(trace):
            return self._make(
                Why.RECORD_LATE,
                kind=word,
                seen_at=trace.seen_at,
                cutoff=cutoff,
                listed=listed,
                num_named=num_named,
            )
        return self._make(
            Why.RECORD_TOO_FEW, kind=word, listed=listed, num_named=num_named, detail=detail
        )

    def _is_late(self, trace: RecordTrace) -> bool:
        """Whether the keeping node saw the record, and too late."""
        return trace.seen_at is not None and trace.seen_at >= trace.cutoff

    def _find_shared_coldkey(self) -> Iterator[Cause]:
        """Name the node of the same coldkey to which the validator's part went."""
        coldkeys = {node.node_id: node.coldkey for node in self._evidence.roster.nodes}
        own = coldkeys.get(self._node_id)
        for other in self._again.report.validators:
            is_shared = own is not None and coldkeys.get(other.node_id) == own
            if is_shared and other.node_id != self._node_id and other.score:
                yield self._make(Why.SHARED_COLDKEY, other=other.node_id)
                return

    def _list_accepted(self) -> set[RecordKind]:
        epoch = self._evidence.epoch
        return {
            kind for (kind, of), trace in self._traces.items() if of == epoch and trace.is_accepted
        }

    def _explain_own(self, duty: OwedDuty, epoch: Epoch) -> str:
        """Return, for the keeping node itself, why a duty was not done; else nothing."""
        reason = self._find_missed(duty, epoch) if self._receipt.is_own else None
        return "" if reason is None else f" ({reason})"

    def _find_missed(self, duty: OwedDuty, epoch: Epoch) -> str | None:
        missed = self._evidence.notes.missed
        return next((why for at, name, why in missed if (at, name) == (epoch, duty.name)), None)

    def _name_layer(self, layer: int) -> str:
        return name_layer(layer, self._evidence.shape.num_layers)


_LEAST = NodeClass.INCLUDED
_WORK = (RecordKind.OUTPUT_COMMIT, RecordKind.AUDIT_COMMIT)
"""What a node is paid for begins with one of these."""


def name_layer(layer: int, num_layers: int) -> str:
    """Return a layer's name on the command line; the output head counts as the one after the last.

    The command line calls layers blocks.
    """
    return "head" if layer == num_layers else str(layer)
