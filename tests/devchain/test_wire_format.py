"""Keys, extrinsics and headers, against published bytes."""

from __future__ import annotations

from typing import Any

import pytest

from devchain import storage
from devchain.calls import Attest, Call, Remark, RemarkWithEvent, TransferKeepAlive
from devchain.config import DEVELOPMENT_ACCOUNTS
from devchain.errors import InvalidTransaction
from devchain.execution import compute_fee
from devchain.extrinsics import (
    Era,
    decode_extrinsic,
    decode_timestamp,
    encode_timestamp,
)
from devchain.pallets import CALL_TYPE
from devchain.scale import ScaleError
from devchain.storage_keys import hash_key, hash_prefix, items_below, parse_key
from keys.account import DEVELOPMENT_NAMES, derive_development_account
from tests.support.ledger_world import hotkey, peer_text
from tests.support.signed_extrinsics import encode_signed

GENESIS = bytes([0x45]) * 32
ALITH = derive_development_account(0)


def make(call: Call, *, nonce: int = 0, **how: Any) -> bytes:
    return encode_signed(call, signer=ALITH, nonce=nonce, genesis_hash=GENESIS, **how)


def test_funded_accounts_are_those_of_the_development_phrase() -> None:
    derived = {
        name: derive_development_account(index).account_id
        for index, name in enumerate(DEVELOPMENT_NAMES)
    }
    assert derived == DEVELOPMENT_ACCOUNTS


def test_the_pallet_prefix_is_the_published_one() -> None:
    assert hash_prefix(storage.SUBNET_SLOT)[:16].hex() == "f258460b41b9b2fdb96c15e5c16fdacb"


@pytest.mark.parametrize(
    ("item", "key"),
    [
        (storage.SUBNET_SLOT, (128_001,)),
        (storage.SUBNET_ELECTED_VALIDATOR, (128_001, 5)),
        (storage.PEER_ID_SUBNET_NODE_ID, (128_001, peer_text(1))),
        (storage.ACCOUNT_SUBNET_STAKE, (hotkey(1), 128_001)),
        (storage.BLOCK_HASH, (7,)),
        (storage.TOTAL_NODES, ()),
    ],
)
def test_storage_keys_come_back(item: object, key: tuple[object, ...]) -> None:
    assert parse_key(hash_key(item, key)) == (item, key)  # type: ignore[arg-type]


def test_a_key_with_a_wrong_hash_or_a_missing_part_names_nothing() -> None:
    raw = hash_key(storage.ACCOUNT_SUBNET_STAKE, (hotkey(1), 128_001))
    assert parse_key(raw[:32] + bytes(16) + raw[48:]) is None
    assert parse_key(raw[:-1]) is None
    assert parse_key(raw + b"\x00") is None
    assert parse_key(b"") is None


def test_a_pallet_prefix_lists_its_items() -> None:
    prefix = hash_prefix(storage.ACCOUNT)[:16]
    assert storage.ACCOUNT in items_below(prefix)
    assert storage.SUBNET_SLOT not in items_below(prefix)


def test_a_remark_is_encoded_as_on_the_real_chain() -> None:
    assert CALL_TYPE.encode(RemarkWithEvent(b"hello")).hex() == "00071468656c6c6f"
    raw = make(RemarkWithEvent(b"hello"))
    assert raw.hex().startswith("850184f24ff3a9")


@pytest.mark.parametrize("offset", [0, 27])
@pytest.mark.parametrize("size", [5, 600])
def test_both_recovery_forms_and_both_payload_sizes_verify(offset: int, size: int) -> None:
    extrinsic = decode_extrinsic(make(Remark(bytes(size)), recovery_offset=offset))
    extrinsic.check_signature(genesis_hash=GENESIS, era_hash=GENESIS)
    assert extrinsic.signer == ALITH.account_id


def test_blake2_instead_of_keccak_is_a_bad_proof() -> None:
    extrinsic = decode_extrinsic(make(Remark(b"x"), is_keccak=False))
    with pytest.raises(InvalidTransaction, match="bad signature"):
        extrinsic.check_signature(genesis_hash=GENESIS, era_hash=GENESIS)


def test_a_signature_for_another_chain_is_a_bad_proof() -> None:
    extrinsic = decode_extrinsic(make(Remark(b"x")))
    with pytest.raises(InvalidTransaction, match="bad signature"):
        extrinsic.check_signature(genesis_hash=bytes(32), era_hash=bytes(32))


def test_another_signers_address_is_a_bad_proof() -> None:
    raw = make(Remark(b"x"))
    forged = raw.replace(ALITH.account_id, derive_development_account(1).account_id)
    with pytest.raises(InvalidTransaction, match="bad signature"):
        decode_extrinsic(forged).check_signature(genesis_hash=GENESIS, era_hash=GENESIS)


@pytest.mark.parametrize("recovery", [2, 4, 26, 31, 255])
def test_an_impossible_recovery_byte_is_a_bad_proof(recovery: int) -> None:
    raw = bytearray(make(Remark(b"x")))
    raw[2 + 1 + 20 + 64] = recovery
    with pytest.raises(InvalidTransaction):
        decode_extrinsic(bytes(raw)).check_signature(genesis_hash=GENESIS, era_hash=GENESIS)


@pytest.mark.parametrize("cut", [1, 30, 100])
def test_a_truncated_extrinsic_is_refused(cut: int) -> None:
    with pytest.raises(ScaleError):
        decode_extrinsic(make(Remark(b"x"))[:-cut])


def test_an_unknown_call_and_trailing_bytes_are_refused() -> None:
    raw = make(Remark(b"x"))
    with pytest.raises(ScaleError):
        decode_extrinsic(raw + b"\x00")
    with pytest.raises(ScaleError):
        decode_extrinsic(raw[:-4] + b"\x63" + raw[-3:])


def test_the_timestamp_inherent_comes_back() -> None:
    raw = encode_timestamp(1_700_000_000_123)
    assert decode_timestamp(raw) == 1_700_000_000_123
    with pytest.raises(ScaleError):
        decode_timestamp(make(Remark(b"x")))


def test_a_mortal_era_is_born_at_its_phase() -> None:
    era = Era(64, 10)
    assert [era.birth(current) for current in (5, 10, 73, 74, 75)] == [10, 10, 10, 74, 74]


def test_fees_are_those_of_the_real_runtime() -> None:
    """Read from the running runtime: a remark_with_event of 5 bytes, 99 in all."""
    assert compute_fee(RemarkWithEvent(b"hello"), 99) == 131_776_654
    assert compute_fee(Attest(1), 98) == 108_157_098
    assert compute_fee(TransferKeepAlive(hotkey(1), 1), 121) == 108_157_121 + 165_655_000
