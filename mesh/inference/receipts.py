"""What a range signs about an answer: who computed which layers, and what went in and out.

Theory of operation
===================

A client that wants a receipt sends a salt with its request. While the answer runs, each range
hashes what it receives and what it sends:

===============  ============================  ================================
range            what came in                  what went out
===============  ============================  ================================
the first        the ids of chosen tokens      its STEP frames
one between      STEP frames of the one before its STEP frames
the last         STEP frames of the one before the ids of the tokens it chose
the only one     the ids of chosen tokens      the same ids
===============  ============================  ================================

So the digests close a ring: what one range sent is what the next received, and what the last chose
is what the first went on with. The prompt is hashed on its own, because every range was sent it.

At the end the first range sends SETTLE after its last STEP, each range passes it on after its own
last one, signs a statement once, and the signatures travel back. The client may ask for that end
(SETTLE to the first range) before the answer's last token: the first range then submits no further
step, waits for the token that is on its way, and settles as at the end.

All digests are BLAKE2b keyed with the salt. Prompts and tokens are few enough to be guessed: who
does not know the salt cannot try them. The statement names network, session, route and salt, so a
signature does not pass for another answer. Streams keep frames in order and whole, so both ends of
one hash the same bytes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

from keys.peer import SIGNATURE_SIZE, PeerKey
from mesh.inference.hops import NextHop
from mesh.inference.receipt_statement import (
    DigestKind,
    SessionStatement,
    add_frame,
    add_token,
    start_digest,
)
from mesh.inference.receipt_wire import SETTLE, HopReceipt, decode_receipt, encode_receipt
from mesh.inference.refusals import RefusalReason, Refused
from mesh.inference.wire import OpenSession
from mesh.p2p.interface import Stream


class RunningReceipt:
    """What one range has received and sent of a session so far.

    The event loop and the compute thread both add to it, one after the other as the session goes.
    """

    def __init__(
        self,
        key: PeerKey,
        network_id: bytes,
        request: OpenSession,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._key = key
        self._request = request
        self._clock = clock
        self._statement = SessionStatement.of_request(request, network_id)
        salt = request.receipt_salt
        self._received = start_digest(
            salt, DigestKind.TOKENS if request.is_first else DigestKind.STEPS
        )
        self._sent = start_digest(salt, DigestKind.TOKENS if request.is_last else DigestKind.STEPS)

    def note_received(self, frame: bytes) -> None:
        """Add a STEP frame that arrived."""
        add_frame(self._received, frame)

    def note_sent(self, frame: bytes) -> None:
        """Add a STEP frame that leaves."""
        add_frame(self._sent, frame)

    def note_token(self, token_id: int) -> None:
        """Add a token that the last range chose, or that the first one was told."""
        if self._request.is_first:
            add_token(self._received, token_id)
        if self._request.is_last:
            add_token(self._sent, token_id)

    def sign(self, reused: int) -> HopReceipt:
        """Sign what came and went. ``reused`` tokens of the prompt were kept from before."""
        receipt = HopReceipt(
            self._request.hop_index,
            reused,
            int(self._clock()),
            self._received.digest(),
            self._sent.digest(),
            bytes(SIGNATURE_SIZE),
        )
        return replace(receipt, signature=self._statement.sign(self._key, receipt))


async def settle(
    own: HopReceipt, upstream: Stream, next_hop: NextHop | None, *, hops: int, timeout_s: float
) -> None:
    """Send one's own receipt, and those of the ranges after it as they come.

    Raises Refused that blames the next hop, or PeerError.
    """
    if next_hop is not None:
        await next_hop.send(SETTLE)
    await upstream.send(encode_receipt(own))
    if next_hop is None:
        return
    try:
        async with asyncio.timeout(timeout_s):
            for hop_index in range(own.hop_index + 1, hops):
                await upstream.send(await _receive_receipt(next_hop, hop_index))
    except TimeoutError as error:
        raise Refused(
            RefusalReason.TIMEOUT, "no receipt in time", hop_index=next_hop.hop_index
        ) from error


async def _receive_receipt(next_hop: NextHop, hop_index: int) -> bytes:
    frame = await next_hop.receive()
    try:
        if frame is not None and decode_receipt(frame).hop_index == hop_index:
            return frame
    except Refused as refused:
        raise Refused(
            RefusalReason.HOP_LOST, str(refused), hop_index=next_hop.hop_index
        ) from refused
    raise Refused(RefusalReason.HOP_LOST, "no receipt came", hop_index=next_hop.hop_index)
