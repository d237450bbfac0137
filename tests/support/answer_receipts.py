"""Receipts as hosters sign them, made without a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keys.peer import PeerKey
from mesh.client.receipts import AnswerReceipt
from mesh.inference.receipts import RunningReceipt
from mesh.inference.sampling import Sampling
from mesh.inference.wire import OpenSession
from mesh.model.config import LayerSpan
from mesh.routing.hop import Hop

NETWORK_ID = b"n" * 32
KEYS = tuple(PeerKey(bytes([number]) * 32) for number in (1, 2, 3))
ROUTE = tuple(Hop(key.peer_id, LayerSpan(2 * n, 2 * n + 2)) for n, key in enumerate(KEYS))
NOW = 1_800_000_000


def make_request(*, salt: bytes = b"s" * 32, sampling: Sampling | None = None) -> OpenSession:
    return OpenSession(
        bytes(range(16)),
        ROUTE,
        sampling or Sampling(temperature=0.5, seed=7, stop_token_ids=(2,)),
        (5, 6, 7),
        max_new_tokens=9,
        receipt_salt=salt,
    )


def run_hops(request: OpenSession, tokens: Sequence[int]) -> list[RunningReceipt]:
    """Return what the hops of a route have noted after an answer of ``tokens``."""
    hops = []
    for key in KEYS:
        hops.append(RunningReceipt(key, NETWORK_ID, request, clock=lambda: NOW))
        request = request.for_next_hop() if not request.is_last else request
    for token_id in tokens:
        for before, after in zip(hops, hops[1:], strict=False):
            frame = b"rows of %d" % token_id
            before.note_sent(frame)
            after.note_received(frame)
        hops[0].note_token(token_id)
        hops[-1].note_token(token_id)
    return hops


def make_receipt(tokens: Sequence[int] = (8, 9, 2)) -> dict[str, Any]:
    """Return a receipt that holds, ready for JSON."""
    receipt = AnswerReceipt()
    receipt.salt = b"s" * 32
    request = make_request(salt=receipt.salt)
    part = receipt.start_part(request, NETWORK_ID)
    part.tokens += tokens
    part.hops += [hop.sign(0) for hop in run_hops(request, tokens)]
    told = receipt.to_dict()
    assert told is not None
    return told
