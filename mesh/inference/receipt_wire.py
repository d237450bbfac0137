"""The frames of answers with a receipt, as fixed-width little-endian bytes.

RECEIPTED    client -> first -> ... -> last   an OPEN or SHAPED frame, and the receipt's salt
SETTLE       client -> first -> ... -> last   no further step: say what went in and out
RECEIPT      any range -> back to the client  what a range signed

A method of its own, as for SHAPED: hosters of earlier versions do not serve it, so that a client
leaves them out of the route, and a request without a receipt is the same bytes as before. No torch
here: clients use these frames too.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

from keys.peer import SIGNATURE_SIZE
from mesh.inference.shaped_wire import decode_shaped, encode_shaped
from mesh.inference.wire import (
    SALT_SIZE,
    VERSION,
    FrameType,
    OpenSession,
    check_size,
    check_version,
    decode_open,
    encode_open,
    make_malformed,
    read_header,
)

RECEIPT_METHOD = "mesh.receipt"
DIGEST_SIZE = 32
SETTLE = bytes((FrameType.SETTLE,))
"""The whole frame."""

# type, version, salt, size of the OPEN or SHAPED frame
_RECEIPTED = struct.Struct(f"<BB{SALT_SIZE}sI")
# type, hop index, reused tokens, Unix time, what came in, what went out, signature
_RECEIPT = struct.Struct(f"<BBIQ{DIGEST_SIZE}s{DIGEST_SIZE}s{SIGNATURE_SIZE}s")


@dataclass(frozen=True, slots=True)
class HopReceipt:
    """What one range signed; mesh/inference/receipts.py says what the signature covers.

    ``reused`` tokens of the prompt were kept from an earlier answer, so nothing of them was
    computed or sent. ``signed_s`` is the Unix time of the hoster's clock.
    """

    hop_index: int
    reused: int
    signed_s: int
    received: bytes
    sent: bytes
    signature: bytes


def encode_receipted(request: OpenSession) -> bytes:
    """Encode a request. Raises ValueError for fields that do not fit."""
    salt = request.receipt_salt
    if len(salt) != SALT_SIZE:
        raise ValueError(f"a salt has {SALT_SIZE} bytes")
    plain = encode_shaped(request) if request.sampling.is_shaped else encode_open(request)
    return _RECEIPTED.pack(FrameType.RECEIPTED, VERSION, salt, len(plain)) + plain


def decode_receipted(frame: bytes) -> OpenSession:
    """Parse a request: sizes first. Raises Refused."""
    version, salt, size = read_header(frame, _RECEIPTED, FrameType.RECEIPTED)
    check_version(version)
    check_size(frame, _RECEIPTED.size + size)
    plain = frame[_RECEIPTED.size :]
    is_shaped = plain[:1] == bytes((FrameType.SHAPED,))
    request = decode_shaped(plain) if is_shaped else decode_open(plain)
    if is_shaped and not request.sampling.is_shaped:
        raise make_malformed("a SHAPED frame without anything that shapes")
    return replace(request, receipt_salt=salt)


def encode_receipt(receipt: HopReceipt) -> bytes:
    """Encode what a range signed."""
    return _RECEIPT.pack(
        FrameType.RECEIPT,
        receipt.hop_index,
        receipt.reused,
        receipt.signed_s,
        receipt.received,
        receipt.sent,
        receipt.signature,
    )


def decode_receipt(frame: bytes) -> HopReceipt:
    """Parse what a range signed; the signature is not verified. Raises Refused(MALFORMED)."""
    fields = read_header(frame, _RECEIPT, FrameType.RECEIPT)
    check_size(frame, _RECEIPT.size)
    return HopReceipt(*fields)
