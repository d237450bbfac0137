"""The receipts in a node's data folder: one file an epoch, bounded in number and bytes.

A file is replaced as a whole, so it can be read while the node runs, and reading changes nothing.
Receipts are for people: one that cannot be written costs nothing else.
"""

from __future__ import annotations

import re
from pathlib import Path

import structlog

from consensus.types import Epoch
from subnet.errors import ConfigError, ReceiptDamaged, SubnetError
from subnet.private_file import LEFTOVER_SUFFIX, replace_private_file
from subnet.receipts.encoding import MAX_SIZE, check_digest, decode_evidence, encode_evidence
from subnet.receipts.evidence import EpochEvidence

FOLDER = "receipts"
KEPT_EPOCHS = 128
KEPT_BYTES = 512 << 20
"""What all receipts of one node take; the oldest go first."""
_FILE = re.compile(r"(\d{1,10})\.receipt")

logger = structlog.get_logger(__name__)


class ReceiptStore:
    """What one node keeps for receipts. Never raises: a first failure is logged."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._is_failing = False

    def is_settled(self, epoch: Epoch) -> bool:
        """Whether the epoch was kept after its proposal was settled."""
        try:
            is_there = epoch in list_epochs(self._data_dir)
            return is_there and read_receipt(self._data_dir, epoch).is_settled
        except (OSError, SubnetError):
            return False

    def write(self, evidence: EpochEvidence) -> None:
        """Keep an epoch, in place of what was kept of it."""
        try:
            write_receipt(self._data_dir, evidence.epoch, encode_evidence(evidence))
        except (OSError, ValueError) as error:
            if not self._is_failing:
                logger.warning("the receipts of an epoch cannot be kept", reason=str(error))
            self._is_failing = True
        else:
            self._is_failing = False


def write_receipt(data_dir: Path, epoch: Epoch, raw: bytes) -> None:
    """Replace the epoch's file, and delete the oldest ones beyond the bounds. Raises OSError."""
    folder = data_dir / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    for leftover in folder.glob(f"*{LEFTOVER_SUFFIX}"):
        leftover.unlink()
    replace_private_file(folder / f"{epoch}.receipt", raw, is_durable=True)
    paths = _list_paths(data_dir)
    total = sum(path.stat().st_size for path in paths.values())
    for old in sorted(paths):
        if len(paths) <= KEPT_EPOCHS and total <= KEPT_BYTES:
            break
        path = paths.pop(old)
        total -= path.stat().st_size
        path.unlink()


def list_epochs(data_dir: Path) -> tuple[Epoch, ...]:
    """Return the epochs of which a node keeps receipts, ascending."""
    return tuple(sorted(_list_paths(data_dir)))


def read_receipt(data_dir: Path, epoch: Epoch) -> EpochEvidence:
    """Return what a node keeps of an epoch. Raises ReceiptDamaged."""
    path = data_dir / FOLDER / f"{epoch}.receipt"
    try:
        raw = read_file(path)
        evidence = decode_evidence(raw)
        check_digest(raw)
    except ReceiptDamaged as error:
        raise ReceiptDamaged(
            f"{path} is damaged: {error}", "remove it; ask for another epoch, or another node"
        ) from error
    if evidence.epoch != epoch:
        raise ReceiptDamaged(f"{path} is of epoch {evidence.epoch}", "remove it")
    return evidence


def read_file(path: Path) -> bytes:
    """Return a receipt file's bytes; its size is checked first.

    Raises ConfigError for a file that cannot be read, and ReceiptDamaged for one that is too large.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_SIZE + 1)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}", "name a file that `mesh why --share` wrote"
        ) from error
    if len(raw) > MAX_SIZE:
        raise ReceiptDamaged(f"{path} is larger than a receipt can be")
    return raw


def _list_paths(data_dir: Path) -> dict[Epoch, Path]:
    folder = data_dir / FOLDER
    found = folder.iterdir() if folder.is_dir() else ()
    named = ((_FILE.fullmatch(path.name), path) for path in found)
    return {Epoch(int(match[1])): path for match, path in named if match is not None}
