"""Peer identities: known answers first, then everything that is not one."""

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys.errors import BadPeerId, BadSignature
from keys.peer import PeerId, PeerKey

SEED = bytes(range(32))
PUBLIC_KEY = bytes.fromhex("03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8")
PEER_ID = "12D3KooWA4Xop1JaT3MHxwYMkCepYsv4iPVopMXwCz5iHYdBfeSB"
GROUP_ORDER = 2**252 + 27742317777372353535851937790883648493

# Every encoding of a point whose order divides 8 that has a canonical form (RFC 7748, RFC 8032).
SMALL_ORDER_KEYS = (
    bytes(32),
    (1).to_bytes(32, "little"),
    bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
    bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
    bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa"),
)


def test_known_seed_gives_the_known_peer_id():
    key = PeerKey(SEED)
    assert key.peer_id.public_key == PUBLIC_KEY
    assert str(key.peer_id) == PEER_ID
    assert key.to_libp2p() == bytes.fromhex("08011240") + SEED + PUBLIC_KEY


def test_known_signature_of_rfc_8032():
    seed = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
    signature = bytes.fromhex(
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )
    assert PeerKey(seed).sign(b"\x72") == signature


def test_derived_secret_is_hmac_of_the_seed():
    import hashlib
    import hmac

    expected = hmac.new(SEED, b"purpose", hashlib.sha256).digest()
    assert PeerKey(SEED).derive_secret(b"purpose") == expected
    assert PeerKey(SEED).derive_secret(b"purposf") != expected


@given(public_key=st.binary(min_size=32, max_size=32))
def test_peer_id_round_trips(public_key):
    peer_id = PeerId(public_key)
    assert PeerId.from_bytes(peer_id.to_bytes()) == peer_id
    assert PeerId.from_base58(peer_id.to_base58()) == peer_id


@given(raw=st.binary(max_size=64))
def test_other_bytes_are_no_peer_id(raw):
    try:
        peer_id = PeerId.from_bytes(raw)
    except BadPeerId:
        return
    assert peer_id.to_bytes() == raw


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1" * 65,
        "0OIl",
        "\N{SNOWMAN}",
        PEER_ID[:-1],
        PEER_ID + "1",
        "1" + PEER_ID,
        PEER_ID + " ",
        PEER_ID + "\n",
        " " + PEER_ID,
        "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",
    ],
)
def test_other_text_is_no_peer_id(text):
    with pytest.raises(BadPeerId):
        PeerId.from_base58(text)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_public_key_of_another_size_is_refused(size):
    with pytest.raises(BadPeerId):
        PeerId(bytes(size))


def test_signature_of_another_message_or_key_is_refused():
    key = PeerKey(SEED)
    signature = key.sign(b"message")
    key.peer_id.check_signature(b"message", signature)
    with pytest.raises(BadSignature):
        key.peer_id.check_signature(b"massage", signature)
    with pytest.raises(BadSignature):
        PeerKey(bytes(32)).peer_id.check_signature(b"message", signature)


@pytest.mark.parametrize("size", [0, 63, 65])
def test_signature_of_another_size_is_refused(size):
    with pytest.raises(BadSignature):
        PeerKey(SEED).peer_id.check_signature(b"message", bytes(size))


@pytest.mark.parametrize("public_key", SMALL_ORDER_KEYS, ids=lambda key: key[:4].hex())
@pytest.mark.parametrize("point", SMALL_ORDER_KEYS, ids=lambda key: key[:4].hex())
def test_small_order_key_signs_nothing(public_key, point):
    # With such a key, R = point and S = 0 would verify for many messages.
    for message in (b"a", b"b", b"c"):
        with pytest.raises(BadSignature):
            PeerId(public_key).check_signature(message, point + bytes(32))


def test_non_canonical_scalar_is_refused():
    key = PeerKey(SEED)
    signature = key.sign(b"message")
    scalar = int.from_bytes(signature[32:], "little") + GROUP_ORDER
    with pytest.raises(BadSignature):
        key.peer_id.check_signature(b"message", signature[:32] + scalar.to_bytes(32, "little"))


def test_private_key_shows_no_secret_and_is_not_copied():
    key = PeerKey(SEED)
    for text in (repr(key), str(key), f"{key}"):
        assert SEED.hex() not in text
        assert PEER_ID in text
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError):
            pickle.dumps(key, protocol=protocol)
    with pytest.raises(TypeError):
        copy.deepcopy(key)


def test_generated_keys_differ():
    assert PeerKey.generate().peer_id != PeerKey.generate().peer_id
