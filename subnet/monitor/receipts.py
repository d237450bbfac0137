"""Receipts for the page: computed again from a node's files, one at a time, the last ones kept.

What only the node knows (endpoints, missed duties) is left out, as in a shared receipt.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

from consensus.types import Epoch, SubnetNodeId
from subnet.errors import ReceiptNotKept
from subnet.receipts.describe import render_receipt
from subnet.receipts.evidence import EpochEvidence
from subnet.receipts.explain import make_receipt
from subnet.receipts.folders import check_node
from subnet.receipts.recompute import Recomputed, check_records, recompute
from subnet.receipts.store import list_epochs, read_receipt
from subnet.thread_runner import Runner

MAX_KEPT = 4
"""Epochs that are kept computed; one of 1,000 nodes takes some megabytes."""
MAX_WAITING = 8


class ReceiptsBusy(Exception):
    """MAX_WAITING receipts wait to be computed."""


class ReceiptReader:
    """Reads the receipts in ``data_dir``; ``run`` has one thread."""

    def __init__(self, data_dir: Path, run: Runner) -> None:
        self._data_dir = data_dir
        self._run = run
        self._waiting = 0
        self._computed: OrderedDict[Epoch, tuple[bool, EpochEvidence, Recomputed]] = OrderedDict()

    async def read(self, epoch: int, node_id: int) -> bytes:
        """Return the receipt as JSON. Raises ConfigError, ReceiptError or ReceiptsBusy."""
        if self._waiting >= MAX_WAITING:
            raise ReceiptsBusy
        self._waiting += 1
        try:
            return await self._run(self._read, Epoch(epoch), SubnetNodeId(node_id))
        finally:
            self._waiting -= 1

    def _read(self, epoch: Epoch, node_id: SubnetNodeId) -> bytes:
        evidence, again = self._compute(epoch)
        check_node(evidence, node_id)
        receipt = make_receipt(evidence.share(node_id), again, node_id)
        body: dict[str, Any] = render_receipt(receipt, num_layers=evidence.shape.num_layers)
        return json.dumps(body).encode()

    def _compute(self, epoch: Epoch) -> tuple[EpochEvidence, Recomputed]:
        found = self._computed.get(epoch)
        # What was kept before the proposal was settled is kept again afterwards.
        if found is not None and found[0]:
            self._computed.move_to_end(epoch)
            return found[1], found[2]
        if epoch not in list_epochs(self._data_dir):
            raise ReceiptNotKept(
                f"this node keeps no receipt of epoch {epoch}",
                "an epoch is kept once it is scored, and the oldest are dropped",
            )
        evidence = read_receipt(self._data_dir, epoch)
        check_records(evidence)
        again = recompute(evidence)
        self._computed[epoch] = (evidence.is_settled, evidence, again)
        while len(self._computed) > MAX_KEPT:
            self._computed.popitem(last=False)
        return evidence, again
