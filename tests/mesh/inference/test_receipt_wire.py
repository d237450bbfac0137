"""The frames of receipts and what is signed: round trips, every byte checked, pinned bytes."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from keys.errors import BadSignature
from mesh.inference.receipt_statement import (
    DigestKind,
    SessionStatement,
    add_frame,
    hash_salt,
    hash_tokens,
    start_digest,
)
from mesh.inference.receipt_wire import (
    SETTLE,
    HopReceipt,
    decode_receipt,
    decode_receipted,
    encode_receipt,
    encode_receipted,
)
from mesh.inference.refusals import Refused
from mesh.inference.sampling import Sampling
from mesh.inference.wire import FrameType, encode_open
from tests.support.answer_receipts import KEYS, NETWORK_ID, make_request, run_hops

PLAIN = make_request()
SHAPED = make_request(sampling=Sampling(min_p=0.25, logit_bias=((7, -1.5),)))
SIGNED = run_hops(PLAIN, (8, 9))[1].sign(64)
STATEMENT = SessionStatement.of_request(PLAIN, NETWORK_ID)


@pytest.mark.parametrize("request_", [PLAIN, SHAPED])
def test_a_request_comes_back_as_it_was(request_):
    assert decode_receipted(encode_receipted(request_)) == request_


@pytest.mark.parametrize("request_", [PLAIN, SHAPED])
def test_a_request_that_is_cut_or_longer_is_refused_at_every_place(request_):
    frame = encode_receipted(request_)
    for size in range(len(frame)):
        with pytest.raises(Refused):
            decode_receipted(frame[:size])
    with pytest.raises(Refused):
        decode_receipted(frame + b"\0")


def test_a_request_without_a_whole_salt_is_not_sent():
    with pytest.raises(ValueError, match="salt"):
        encode_receipted(replace(PLAIN, receipt_salt=b"short"))


def test_a_request_within_a_request_is_refused():
    inner = encode_receipted(PLAIN)
    outer = bytearray(inner[:38]) + inner
    outer[34:38] = len(inner).to_bytes(4, "little")
    with pytest.raises(Refused):
        decode_receipted(bytes(outer))


def test_an_ordinary_request_does_not_tell_the_salt():
    assert PLAIN.receipt_salt not in encode_open(PLAIN)
    assert repr(PLAIN.receipt_salt) not in repr(PLAIN)


def test_a_receipt_comes_back_as_it_was_and_has_one_size():
    frame = encode_receipt(SIGNED)
    assert decode_receipt(frame) == SIGNED
    for raw in (frame[:-1], frame + b"\0", b"", SETTLE, bytes([FrameType.TOKEN]) + frame[1:]):
        with pytest.raises(Refused):
            decode_receipt(raw)


def test_the_signed_bytes_are_pinned():
    """Changing them is another version of the receipt: earlier ones would no longer check."""
    message = STATEMENT.get_message(SIGNED)
    assert message.startswith(b"mesh/receipt/1" + NETWORK_ID + PLAIN.session_id)
    assert len(message) == 14 + 32 + 16 + 3 * 32 + 4 + 1 + 1 + 4 + 8 + 2 * 32 + 3 * 36
    assert hashlib.sha256(message).hexdigest() == GOLDEN_MESSAGE
    assert hashlib.sha256(encode_receipt(SIGNED)).hexdigest() == GOLDEN_RECEIPT
    assert hashlib.sha256(encode_receipted(PLAIN)).hexdigest() == GOLDEN_REQUEST


GOLDEN_MESSAGE = "9bfbd1e750c3840e9842f7dfdfef0b8db7eb337c826aaf230614072f7b94c183"
GOLDEN_RECEIPT = "a30da37bbb56a533392632039be20651f72003d8b44aceac6725c980106abc0f"
GOLDEN_REQUEST = "2f6b70fdc930363766042e50f6ccfc455d2cbb2b1123337b3d6a2bd4d006ca51"


def test_a_signature_covers_every_field_of_statement_and_receipt():
    STATEMENT.check_signature(SIGNED)
    others = [
        replace(STATEMENT, network_id=bytes(32)),
        replace(STATEMENT, session_id=bytes(16)),
        replace(STATEMENT, route=STATEMENT.route[:2]),
        replace(STATEMENT, first_index=1),
        replace(STATEMENT, salt_digest=bytes(32)),
        replace(STATEMENT, prompt_digest=bytes(32)),
        replace(STATEMENT, sampling_digest=bytes(32)),
    ]
    for other in others:
        with pytest.raises(BadSignature):
            other.check_signature(SIGNED)
    for name in HopReceipt.__dataclass_fields__:
        value = getattr(SIGNED, name)
        changed = value - 1 if isinstance(value, int) else bytes(len(value))
        with pytest.raises(BadSignature):
            STATEMENT.check_signature(replace(SIGNED, **{name: changed}))


def test_a_signature_of_something_else_is_no_receipt():
    """The tag keeps the identity's other signatures apart from these."""
    message = STATEMENT.get_message(SIGNED)
    untagged = KEYS[1].sign(message.removeprefix(b"mesh/receipt/1"))
    with pytest.raises(BadSignature):
        STATEMENT.check_signature(replace(SIGNED, signature=untagged))


def test_a_digest_depends_on_its_salt_its_subject_and_where_frames_end():
    salt, other = b"s" * 32, b"t" * 32
    found = {
        hash_tokens(salt, DigestKind.PROMPT, (1, 2)),
        hash_tokens(salt, DigestKind.TOKENS, (1, 2)),
        hash_tokens(other, DigestKind.TOKENS, (1, 2)),
        hash_tokens(salt, DigestKind.TOKENS, (1,)),
        hash_salt(salt),
        hash_salt(other),
    }
    for frames in ((b"ab", b"c"), (b"a", b"bc"), (b"abc",)):
        digest = start_digest(salt, DigestKind.STEPS)
        for frame in frames:
            add_frame(digest, frame)
        found.add(digest.digest())
    assert len(found) == 9
