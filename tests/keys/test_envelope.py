"""The signed container: one encoding for one statement, and no other bytes."""

import dataclasses
import hashlib
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keys.envelope import (
    HEADER_SIZE,
    MAX_BODY_SIZE,
    OVERHEAD,
    decode_envelope,
    seal,
)
from keys.errors import BadEnvelope, BadPeerId, BadSignature
from keys.peer import PeerKey

KEY = PeerKey(bytes(range(32)))


def sample(**changes):
    fields = {
        "kind": 3,
        "network_id": b"\xaa" * 32,
        "epoch": 7,
        "expires_at": 1_700_000_000,
        "node_id": 5,
        "body": b"body",
    }
    return seal(KEY, **(fields | changes))


@given(
    kind=st.integers(0, 255),
    network_id=st.binary(min_size=32, max_size=32),
    epoch=st.integers(0, 2**32 - 1),
    expires_at=st.integers(0, 2**64 - 1),
    node_id=st.integers(0, 2**32 - 1),
    body=st.binary(max_size=200),
)
@settings(max_examples=50)
def test_envelope_round_trips(**fields):
    envelope = seal(KEY, **fields)
    decoded = decode_envelope(envelope.to_bytes())
    assert decoded == envelope
    assert decoded.to_bytes() == envelope.to_bytes()
    decoded.check_signature()


def test_layout_written_out():
    expected = (
        b"MESH\x01\x03"
        + b"\xaa" * 32
        + struct.pack("<I", 7)
        + struct.pack("<Q", 1_700_000_000)
        + struct.pack("<I", 5)
        + KEY.peer_id.public_key
        + struct.pack("<I", 4)
        + b"body"
    )
    envelope = sample()
    assert envelope.unsigned_bytes() == expected
    body_hash = hashlib.sha256(b"body").digest()
    assert envelope.signature == KEY.sign(b"mesh/envelope/1" + expected[:-4] + body_hash)
    assert envelope.record_hash == hashlib.sha256(b"mesh/record" + expected).digest()


def test_a_header_proves_who_signed_without_the_body():
    header = sample().header
    header.check_signature()
    for forged in (
        dataclasses.replace(header, body_hash=bytes(32)),
        dataclasses.replace(header, body_size=3),
        dataclasses.replace(header, node_id=6),
        dataclasses.replace(header, author=PeerKey(b"o" * 32).peer_id),
    ):
        with pytest.raises(BadSignature):
            forged.check_signature()


def test_every_single_byte_flip_is_refused():
    raw = sample().to_bytes()
    for position in range(len(raw)):
        for mask in (0x01, 0x80, 0xFF):
            tampered = bytearray(raw)
            tampered[position] ^= mask
            with pytest.raises((BadEnvelope, BadSignature, BadPeerId)):
                decode_envelope(bytes(tampered)).check_signature()


def test_every_truncation_is_refused():
    raw = sample().to_bytes()
    for size in range(len(raw)):
        with pytest.raises(BadEnvelope):
            decode_envelope(raw[:size])


@pytest.mark.parametrize("extra", [b"\x00", b"\xff" * 100])
def test_trailing_bytes_are_refused(extra):
    with pytest.raises(BadEnvelope):
        decode_envelope(sample().to_bytes() + extra)


def test_size_is_checked_before_anything_else():
    oversize = b"?" * (OVERHEAD + 65)
    with pytest.raises(BadEnvelope, match="bytes"):
        decode_envelope(oversize, max_body_size=64)
    largest = sample(body=bytes(64)).to_bytes()
    assert decode_envelope(largest, max_body_size=64).body == bytes(64)
    with pytest.raises(BadEnvelope, match="bytes"):
        decode_envelope(largest, max_body_size=63)


@pytest.mark.parametrize("claimed", [0, 3, 5, 2**32 - 1])
def test_wrong_body_length_is_refused(claimed):
    raw = bytearray(sample().to_bytes())
    raw[HEADER_SIZE - 4 : HEADER_SIZE] = struct.pack("<I", claimed)
    with pytest.raises(BadEnvelope):
        decode_envelope(bytes(raw))


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": 256},
        {"kind": -1},
        {"epoch": 2**32},
        {"epoch": -1},
        {"expires_at": 2**64},
        {"node_id": 2**32},
        {"network_id": bytes(31)},
        {"body": bytes(MAX_BODY_SIZE + 1)},
    ],
)
def test_fields_out_of_range_are_our_own_mistake(changes):
    with pytest.raises(ValueError):
        sample(**changes)


def test_signature_of_one_field_serves_no_other():
    envelope = sample()
    for change in ({"epoch": 8}, {"node_id": 6}, {"kind": 4}, {"body": b"bodz"}):
        with pytest.raises(BadSignature):
            dataclasses.replace(envelope, **change).check_signature()


def test_another_authors_name_is_refused():
    stolen = dataclasses.replace(sample(), author=PeerKey(bytes(32)).peer_id)
    with pytest.raises(BadSignature):
        decode_envelope(stolen.to_bytes()).check_signature()


def test_record_hash_ignores_the_signature_and_nothing_else():
    envelope = sample()
    assert dataclasses.replace(envelope, signature=bytes(64)).record_hash == envelope.record_hash
    assert dataclasses.replace(envelope, epoch=8).record_hash != envelope.record_hash
