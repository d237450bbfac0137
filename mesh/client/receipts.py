"""The receipt of an answer as its owner keeps it: what hosters signed of each session.

mesh/inference/receipts.py says what hosters sign, mesh/client/receipt_check.py checks it. What
these need is imported where it is used: a program that asks a gateway has httpx and nothing else.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mesh.errors import MeshError

if TYPE_CHECKING:
    from mesh.client.receipt_check import CheckedReceipt
    from mesh.client.receipt_parts import ReceiptPart
    from mesh.inference.wire import OpenSession

MAX_RECEIPT_BYTES = 16 << 20
SALT_SIZE = 32
"""That of mesh/inference/wire.py, which needs cryptography."""
_FILE_MODE = 0o600


class NoReceipt(MeshError):
    """No hoster signed anything: nothing came, or the gateway is of an earlier version."""

    def __init__(self) -> None:
        super().__init__("the answer came without a receipt")


class AnswerReceipt:
    """Given to ``generate`` of ``MeshClient`` or ``HttpMeshClient``; complete once that has ended.

    One receipt is for one answer. Its salt, and with it the prompt, are its owner's to show.
    """

    def __init__(self) -> None:
        self.salt = os.urandom(SALT_SIZE)
        self._parts: list[ReceiptPart] = []
        self._told: dict[str, Any] | None = None

    def start_part(self, request: OpenSession, network_id: bytes) -> ReceiptPart:
        """Return the part of a session that begins. One that gave no token is dropped."""
        from mesh.client.receipt_parts import ReceiptPart

        self._drop_empty()
        part = ReceiptPart(request, network_id)
        self._parts.append(part)
        return part

    def take(self, told: Mapping[str, Any]) -> None:
        """Take a receipt that a gateway gathered, as JSON gives it; it is not checked."""
        self._told = dict(told)

    def to_dict(self) -> dict[str, Any] | None:
        """Return the receipt for JSON; None if no hoster gave a token.

        Its owner can check the prompt and the tokens. With ``salt``, ``prompt_token_ids``,
        ``token_ids`` and ``sampling`` set to null it can be shown to others, who check the rest.
        """
        if self._told is not None:
            return self._told
        self._drop_empty()
        if not self._parts:
            return None
        from mesh.inference.receipt_statement import RECEIPT_VERSION

        first = self._parts[0]
        sampling = asdict(first.request.sampling)
        return {
            "version": RECEIPT_VERSION,
            "network_id": first.network_id.hex(),
            "salt": self.salt.hex(),
            "prompt_token_ids": list(first.request.token_ids),
            "token_ids": [token_id for part in self._parts for token_id in part.tokens],
            "sampling": sampling,
            "parts": [part.to_dict() for part in self._parts],
        }

    def save(self, path: str | Path) -> None:
        """Write a new file for ``mesh receipt check``, of mode 0600: it holds the prompt.

        Raises FileExistsError, another OSError, or NoReceipt. A file that could not be completed is
        removed.
        """
        content = json.dumps(self._require()).encode() + b"\n"
        with open(path, "xb", opener=_open_private) as file:
            try:
                file.write(content)
                file.flush()
            except BaseException:
                os.unlink(path)
                raise

    def check(self) -> CheckedReceipt:
        """Check signatures, digests, prompt and tokens, as ``mesh receipt check`` does.

        Raises ReceiptRefused that names what does not hold, or NoReceipt. In the distribution
        ``mesh-subnet-client`` it needs the extra ``receipts``.
        """
        from mesh.client.receipt_check import check_receipt

        # As from a file: what is checked is what is kept.
        return check_receipt(json.loads(json.dumps(self._require())))

    def _require(self) -> dict[str, Any]:
        told = self.to_dict()
        if told is None:
            raise NoReceipt
        return told

    def _drop_empty(self) -> None:
        self._parts = [part for part in self._parts if part.tokens]


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, _FILE_MODE)
