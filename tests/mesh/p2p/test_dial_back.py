"""AutoNAT's messages: what we ask, and that no answer of a peer hurts."""

from __future__ import annotations

import pytest

from keys.peer import PeerKey
from mesh.p2p.delimited import MAX_ANSWER_SIZE, read_length
from mesh.p2p.dial_back import (
    DialBack,
    DialStatus,
    decode_dial_answer,
    encode_dial_request,
)

OWN = PeerKey(b"\x11" * 32).peer_id
ADDRESS = bytes.fromhex("040102030406" + "7a69")
"""/ip4/1.2.3.4/tcp/31337"""


def test_a_request_names_the_peer_and_its_addresses_in_libp2p_s_layout() -> None:
    peer = b"\x0a\x26" + OWN.to_bytes() + b"\x12\x08" + ADDRESS
    dial = b"\x0a" + bytes((len(peer),)) + peer
    message = b"\x08\x00\x12" + bytes((len(dial),)) + dial
    assert encode_dial_request(OWN, [ADDRESS]) == bytes((len(message),)) + message


def test_a_long_request_has_a_length_of_two_bytes() -> None:
    raw = encode_dial_request(OWN, [ADDRESS] * 16)
    size = raw[0] & 0x7F | raw[1] << 7
    assert raw[0] > 0x7F and len(raw) == 2 + size


@pytest.mark.parametrize(
    "raw, expected",
    (
        # proto3 leaves out what is 0; libp2p's proto2 does not.
        ("08011a02" + "0800", DialBack(DialStatus.REACHED, "")),
        ("08011a06" + "0864" + "12026e6f", DialBack(DialStatus.NOT_REACHED, "no")),
        ("08011a05" + "0865" + "120120", DialBack(DialStatus.REFUSED, " ")),
        ("08011a07" + "08ac02" + "12026e6f", DialBack(DialStatus.INTERNAL, "no")),
        # The address that was dialled, field 3, is not used.
        ("08011a05" + "0800" + "1a01ff", DialBack(DialStatus.REACHED, "")),
    ),
)
def test_an_answer_is_read(raw: str, expected: DialBack) -> None:
    assert decode_dial_answer(bytes.fromhex(raw)) == expected


def test_text_that_would_move_a_terminal_is_shown_as_escapes() -> None:
    answer = decode_dial_answer(bytes.fromhex("1a06" + "0865" + "12021b5b"))
    assert answer.text == "'\\x1b['"


@pytest.mark.parametrize(
    "raw",
    (
        "",
        "0801",
        "08",
        "1a05" + "0865",
        "1a02" + "0807",
        "1a80808080808001",
        "0d00000000",
        "1a03" + "086512",
        "ffffffffffffffff",
    ),
)
def test_what_is_no_answer_is_refused(raw: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_dial_answer(bytes.fromhex(raw))


def test_a_length_is_complete_with_its_last_byte_and_has_a_limit() -> None:
    assert read_length(b"") is None
    assert read_length(b"\x80") is None
    assert read_length(b"\x80\x01") == 128
    for raw in (b"\x81\x80\x01", b"\xff" * 5):
        with pytest.raises(ValueError, match=r"too large|malformed"):
            read_length(raw)
    assert MAX_ANSWER_SIZE < 0x4001
