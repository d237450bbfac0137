"""The wire format: one value has one encoding, and whatever else arrives is refused."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from random import Random

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from keys.errors import BadPeerId, BadSignature
from keys.peer import PeerId, PeerKey
from mesh.p2p.interface import MAX_FRAME_SIZE, MAX_UNARY_SIZE
from mesh.p2p.rpc_wire import (
    ANSWER_SIZE,
    FRAME_HEADER_SIZE,
    MAX_DETAIL_SIZE,
    OPENING_SIZE,
    TAG_SIZE,
    AnswerStatus,
    EphemeralKey,
    FrameOpener,
    FrameSealer,
    MalformedMessage,
    Opening,
    OpeningKind,
    RpcAnswer,
    check_opening,
    compute_request_hash,
    decode_answer,
    decode_opening,
    decode_refusal,
    derive_early_key,
    derive_stream_keys,
    encode_refusal,
    hash_payload,
    seal_answer,
    seal_opening,
)
from tests.support.p2p import NETWORK_ID, make_key

CLIENT, SERVER, OTHER = make_key("client"), make_key("server"), make_key("other")
OPENING = Opening(
    kind=OpeningKind.UNARY,
    method="mesh.info",
    network_id=NETWORK_ID,
    client=CLIENT.peer_id,
    server=SERVER.peer_id,
    time_ms=1_700_000_000_000,
    nonce=bytes(range(16)),
    binding=hash_payload(b"payload"),
    payload_size=7,
)
RAW_OPENING = seal_opening(CLIENT, OPENING)
REQUEST_HASH = compute_request_hash(RAW_OPENING)
ANSWER = RpcAnswer(AnswerStatus.OK, REQUEST_HASH, hash_payload(b"reply"), 5)
KEY, TRANSCRIPT = b"k" * 32, b"t" * 32
BUDGET = 10 * MAX_FRAME_SIZE
EARLY_PUBLIC = bytes.fromhex("ce8d3ad1ccb633ec7b70c17814a5c76ecd029685050d344745ba05870e587d59")
EARLY_KEY = "bf784a20927c95664d28b6d8bc8d7bca57698e3206e37d401b7dbf7588479c36"


def test_an_opening_survives_the_wire() -> None:
    assert len(RAW_OPENING) == OPENING_SIZE
    assert decode_opening(RAW_OPENING) == OPENING
    check_opening(OPENING, RAW_OPENING)


def test_the_wire_format_does_not_drift() -> None:
    digest = hashlib.sha256(RAW_OPENING + seal_answer(SERVER, ANSWER)).hexdigest()
    assert digest == "c8e78cd15aa1e7e0104947225df425f995ebc6676cd7b1fe1209cc5e231accf5"


def test_no_byte_of_an_opening_can_be_changed() -> None:
    for position in range(OPENING_SIZE):
        tampered = bytearray(RAW_OPENING)
        tampered[position] ^= 1
        with pytest.raises((MalformedMessage, BadSignature)):
            check_opening(decode_opening(bytes(tampered)), bytes(tampered))


@pytest.mark.parametrize("method", ["", "m" * 42])
def test_an_impossible_method_is_our_own_mistake(method: str) -> None:
    with pytest.raises(ValueError, match="method"):
        seal_opening(CLIENT, dataclasses.replace(OPENING, method=method))


@given(st.binary(max_size=2 * OPENING_SIZE))
@settings(max_examples=200, deadline=None)
def test_decoding_noise_raises_malformed_message_and_nothing_else(raw: bytes) -> None:
    prefix = RAW_OPENING[:6]
    for candidate in (raw, (prefix + raw).ljust(OPENING_SIZE, b"\0")[:OPENING_SIZE]):
        with contextlib.suppress(MalformedMessage):
            decode_opening(candidate)
    for decode in (decode_refusal, _decode_answer):
        with contextlib.suppress(MalformedMessage):
            decode(raw.ljust(ANSWER_SIZE, b"\0")[:ANSWER_SIZE])


def _decode_answer(raw: bytes) -> RpcAnswer:
    return decode_answer(raw, server=SERVER.peer_id, request_hash=REQUEST_HASH)


def test_an_answer_is_the_asked_peers_answer_to_this_request() -> None:
    assert _decode_answer(seal_answer(SERVER, ANSWER)) == ANSWER
    with pytest.raises(MalformedMessage, match="not signed by the peer"):
        _decode_answer(seal_answer(OTHER, ANSWER))
    earlier = dataclasses.replace(ANSWER, request_hash=bytes(32))
    with pytest.raises(MalformedMessage, match="another request"):
        _decode_answer(seal_answer(SERVER, earlier))


@pytest.mark.parametrize(
    ("status", "size"), [(AnswerStatus.OK, MAX_UNARY_SIZE + 1), (AnswerStatus.REFUSED, 4096)]
)
def test_an_oversized_answer_is_refused_before_it_is_read(status: AnswerStatus, size: int) -> None:
    huge = dataclasses.replace(ANSWER, status=status, payload_size=size)
    with pytest.raises(MalformedMessage, match="over"):
        _decode_answer(seal_answer(SERVER, huge))


def test_a_refusal_survives_the_wire_and_a_long_detail_is_cut() -> None:
    assert decode_refusal(encode_refusal("busy", "später")) == ("busy", "später")
    reason, detail = decode_refusal(encode_refusal("busy", "ä" * MAX_DETAIL_SIZE))
    assert (reason, detail) == ("busy", "ä" * (MAX_DETAIL_SIZE // 2))


@pytest.mark.parametrize("raw", [b"", b"\x04", b"\x04bu", b"\x00detail", b"\x01\x1b", b"\x01a\xff"])
def test_a_refusal_that_is_not_printable_text_is_malformed(raw: bytes) -> None:
    with pytest.raises(MalformedMessage):
        decode_refusal(raw)


def test_both_ends_derive_the_same_keys_and_each_direction_its_own() -> None:
    random = Random(5)
    client, server = EphemeralKey(random.randbytes), EphemeralKey(random.randbytes)
    keys = [
        derive_stream_keys(own.agree(other.public), opening=b"opening", answer=b"answer")
        for own, other in ((client, server), (server, client))
    ]
    assert keys[0] == keys[1]
    assert keys[0].client_to_server != keys[0].server_to_client
    other_handshake = derive_stream_keys(
        client.agree(server.public), opening=b"opening", answer=b"another"
    )
    assert other_handshake.client_to_server != keys[0].client_to_server


def test_both_ends_of_an_early_stream_derive_one_key_without_an_answer() -> None:
    ephemeral = EphemeralKey(Random(5).randbytes)
    ours = derive_early_key(ephemeral.agree(SERVER.peer_id.to_x25519()), opening=b"opening")
    theirs = derive_early_key(SERVER.agree(ephemeral.public), opening=b"opening")
    assert ours == theirs
    others = derive_early_key(OTHER.agree(ephemeral.public), opening=b"opening")
    another = derive_early_key(SERVER.agree(ephemeral.public), opening=b"another")
    assert len({ours.key, others.key, another.key}) == 3


def test_the_key_of_an_early_stream_is_fixed_by_the_protocol() -> None:
    key = derive_early_key(PeerKey(b"\1" * 32).agree(EARLY_PUBLIC), opening=b"opening")
    assert key.key.hex() == EARLY_KEY
    # The same by another library: RFC 7748 over the clamped hash of RFC 8032's seed.
    scalar = hashlib.sha512(b"\1" * 32).digest()[:32]
    shared = X25519PrivateKey.from_private_bytes(scalar).exchange(
        X25519PublicKey.from_public_bytes(EARLY_PUBLIC)
    )
    assert derive_early_key(shared, opening=b"opening") == key


def test_an_identity_of_small_order_has_no_early_stream() -> None:
    with pytest.raises(BadPeerId, match="X25519"):
        PeerId(bytes(32)).to_x25519()
    with pytest.raises(BadPeerId, match="small order"):
        SERVER.agree(bytes(32))


def test_an_ephemeral_key_of_small_order_is_refused() -> None:
    with pytest.raises(MalformedMessage, match="small order"):
        EphemeralKey(Random(1).randbytes).agree(bytes(32))


def test_secrets_have_no_repr() -> None:
    keys = derive_stream_keys(b"s" * 32, opening=b"", answer=b"")
    assert keys.client_to_server.hex() not in repr(keys)
    assert "client_to_server" not in repr(keys)


# Frames


def _opener(*, max_total: int = BUDGET) -> FrameOpener:
    return FrameOpener(KEY, TRANSCRIPT, max_total=max_total)


def _open(opener: FrameOpener, frame: bytes) -> bytes | None:
    header, body = frame[:FRAME_HEADER_SIZE], frame[FRAME_HEADER_SIZE:]
    assert opener.read_header(header) == len(body)
    return opener.open(header, body, CLIENT.peer_id)


def test_frames_open_in_order_and_end_with_a_signature() -> None:
    sealer, opener = FrameSealer(KEY, TRANSCRIPT), _opener()
    for payload in (b"", b"one", bytes(MAX_FRAME_SIZE)):
        assert _open(opener, sealer.seal(payload)) == payload
    assert _open(opener, sealer.seal_finish(CLIENT)) is None


def test_no_byte_of_a_frame_can_be_changed() -> None:
    frame = FrameSealer(KEY, TRANSCRIPT).seal(b"payload")
    for position in range(len(frame)):
        tampered = bytearray(frame)
        tampered[position] ^= 1
        header, body = bytes(tampered[:FRAME_HEADER_SIZE]), bytes(tampered[FRAME_HEADER_SIZE:])
        opener = _opener()
        with pytest.raises(MalformedMessage):
            if opener.read_header(header) != len(body):
                raise MalformedMessage("the size was changed")
            opener.open(header, body, CLIENT.peer_id)


@pytest.mark.parametrize("order", [(0, 0), (1, 0), (0, 2)])
def test_a_repeated_swapped_or_dropped_frame_is_refused(order: tuple[int, int]) -> None:
    sealer, opener = FrameSealer(KEY, TRANSCRIPT), _opener()
    frames = [sealer.seal(bytes((number,))) for number in range(3)]
    with pytest.raises(MalformedMessage, match="was due"):
        for number in order:
            _open(opener, frames[number])


def test_a_frame_of_the_other_direction_is_refused() -> None:
    frame = FrameSealer(b"o" * 32, TRANSCRIPT).seal(b"reflected")
    with pytest.raises(MalformedMessage, match="tampered"):
        _open(_opener(), frame)


def test_an_oversized_frame_is_refused_by_its_header() -> None:
    header = bytearray(FrameSealer(KEY, TRANSCRIPT).seal(b"")[:FRAME_HEADER_SIZE])
    header[:4] = (MAX_FRAME_SIZE + 1).to_bytes(4, "little")
    with pytest.raises(MalformedMessage, match="announces"):
        _opener().read_header(bytes(header))


def test_a_stream_has_a_total_too() -> None:
    sealer, opener = FrameSealer(KEY, TRANSCRIPT), _opener(max_total=10)
    _open(opener, sealer.seal(bytes(10)))
    with pytest.raises(MalformedMessage, match="more than"):
        opener.read_header(sealer.seal(b"x")[:FRAME_HEADER_SIZE])


def test_the_last_signature_is_the_peers_own() -> None:
    sealer, opener = FrameSealer(KEY, TRANSCRIPT), _opener()
    _open(opener, sealer.seal(b"one"))
    with pytest.raises(MalformedMessage, match="last signature"):
        _open(opener, sealer.seal_finish(OTHER))


def test_the_last_signature_covers_every_frame() -> None:
    sealer, opener = FrameSealer(KEY, TRANSCRIPT), _opener()
    _open(opener, sealer.seal(b"one"))
    # Same count and key, but the signer has another history.
    liar = FrameSealer(KEY, TRANSCRIPT)
    liar.seal(b"two")
    with pytest.raises(MalformedMessage, match="last signature"):
        _open(opener, liar.seal_finish(CLIENT))


def test_a_tag_costs_thirty_two_bytes() -> None:
    assert len(FrameSealer(KEY, TRANSCRIPT).seal(b"")) == FRAME_HEADER_SIZE + TAG_SIZE
