"""The part of a receipt that one session gives: what was asked, and what its hosters signed.

mesh/inference/receipts.py says what hosters sign.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Any

from mesh.errors import PeerError
from mesh.inference.receipt_statement import SessionStatement
from mesh.inference.receipt_wire import SETTLE, HopReceipt, decode_receipt
from mesh.inference.refusals import Refused
from mesh.inference.wire import FrameType, OpenSession, decode_token
from mesh.p2p.interface import Stream

_TOKEN_TYPE = bytes((FrameType.TOKEN,))

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class ReceiptPart:
    """One session: what was asked, the tokens that came, and what its hosters signed.

    A session that was lost has no signatures. ``tokens`` may have one at its end that the reader
    was not shown, because it stopped before.
    """

    request: OpenSession
    network_id: bytes
    tokens: list[int] = field(default_factory=list)
    hops: list[HopReceipt] = field(default_factory=list)

    async def settle(self, stream: Stream, *, is_over: bool, timeout_s: float) -> None:
        """Read what the hosters signed; ask them to end first unless the answer ``is_over``.

        A receipt that does not come is left out: the answer is there, and stays.
        """
        try:
            async with asyncio.timeout(timeout_s):
                if not is_over:
                    await stream.send(SETTLE)
                while len(self.hops) < len(self.request.route):
                    if not self._take(await stream.receive()):
                        return
        except (PeerError, Refused, TimeoutError) as error:
            logger.info("a receipt is incomplete: %s", error)

    def _take(self, frame: bytes) -> bool:
        """Take a token that was on its way, or a hop's receipt; say whether it was the next."""
        if frame[:1] == _TOKEN_TYPE:
            token = decode_token(frame)
            is_next = token.index == self.request.first_index + len(self.tokens)
            if is_next and len(self.tokens) < self.request.max_new_tokens:
                self.tokens.append(token.token_id)
                return True
            return False
        receipt = decode_receipt(frame)
        if receipt.hop_index != len(self.hops):
            return False
        self.hops.append(receipt)
        return True

    def to_dict(self) -> dict[str, Any]:
        """Return the part for JSON; what a hop did not sign is null."""
        statement = SessionStatement.of_request(self.request, self.network_id)
        return {
            "session_id": statement.session_id.hex(),
            "first_index": statement.first_index,
            "salt_digest": statement.salt_digest.hex(),
            "prompt_digest": statement.prompt_digest.hex(),
            "sampling_digest": statement.sampling_digest.hex(),
            "hops": [
                {
                    "peer_id": str(hop.peer_id),
                    "blocks": [hop.span.start, hop.span.end],
                    "receipt": _describe(self.hops[place]) if place < len(self.hops) else None,
                }
                for place, hop in enumerate(self.request.route)
            ],
        }


def _describe(receipt: HopReceipt) -> dict[str, Any]:
    return {
        "reused": receipt.reused,
        "signed_s": receipt.signed_s,
        "received": receipt.received.hex(),
        "sent": receipt.sent.hex(),
        "signature": receipt.signature.hex(),
    }
