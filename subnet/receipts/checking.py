"""Checks a receipt file of another node, as far as that can be done without the chain."""

from __future__ import annotations

from consensus.scorer import Scorer
from subnet.errors import ReceiptInvalid
from subnet.receipts.encoding import check_digest, decode_evidence
from subnet.receipts.evidence import EpochEvidence
from subnet.receipts.explain import compare
from subnet.receipts.receipt import Comparison
from subnet.receipts.recompute import Recomputed, check_records, recompute


def open_shared(raw: bytes, scorer: Scorer | None = None) -> tuple[EpochEvidence, Recomputed]:
    """Return what a file says, and the scores that follow from it.

    ``scorer`` is the subnet's own rule of pay, if it has one.

    Every signature is checked, then the hashes of the proposal and its rows; what none of these
    covers is covered by the checksum alone. Raises ReceiptDamaged or ReceiptInvalid, naming the
    first thing that does not hold. A file that holds may still be about a chain that never was:
    that is for ``subnet.account.receipt_check``.
    """
    evidence = decode_evidence(raw)
    check_records(evidence)
    again = recompute(evidence, scorer)
    comparison, differences = compare(evidence, again)
    check_whole(again, comparison)
    if comparison is Comparison.DIFFERS:
        raise ReceiptInvalid(f"the scores do not follow from the records: {differences[0]}")
    check_digest(raw)
    return evidence, again


def check_whole(again: Recomputed, comparison: Comparison) -> None:
    """Raise ReceiptInvalid, naming it, if something that the proposal names is missing."""
    if comparison is Comparison.NOT_COMPARED:
        missing = again.missing[0]
        raise ReceiptInvalid(
            f"{missing} is missing, so the scores cannot be computed again",
            "ask a node that has it: one that attested the proposal",
        )
