"""The file of a receipt that a command asked for: new, private, and checked once it is written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from subnet.errors import ConfigError

if TYPE_CHECKING:
    from mesh.client.receipts import AnswerReceipt


def check_receipt_path(file: Path) -> None:
    """Raise ConfigError for a file that cannot be new, before anything is asked."""
    if os.path.lexists(file):
        raise _make_exists(file)
    if not file.parent.is_dir():
        raise ConfigError(f"there is no folder {file.parent}", "make it, or name another file")


def keep_receipt(receipt: AnswerReceipt, file: Path) -> str:
    """Write the receipt and check it; return a line that says what it holds. Raises ConfigError."""
    from mesh.client.receipt_check import ReceiptRefused

    try:
        receipt.save(file)
    except FileExistsError:
        raise _make_exists(file) from None
    except OSError as error:
        raise ConfigError(
            f"cannot write the receipt to {file}: {error.strerror}", "ask again with another file"
        ) from None
    try:
        checked = receipt.check()
    except ReceiptRefused as error:
        raise ConfigError(
            f"the receipt in {file} does not hold: {error}",
            "do not rely on this answer; the file shows what its hosters signed",
        ) from None
    hops = [signed_s for part in checked.parts for signed_s in part.signed_s]
    signed = sum(signed_s is not None for signed_s in hops)
    rest = "" if checked.is_complete else ", the others were lost or too slow"
    return f"receipt in {file}: {signed} of {len(hops)} hops signed{rest}; it holds"


def _make_exists(file: Path) -> ConfigError:
    return ConfigError(f"{file} exists, and a receipt replaces no file", "name another file")
