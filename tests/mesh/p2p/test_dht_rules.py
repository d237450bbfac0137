"""What may be said in the DHT, asked of the rules alone."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hivemind.dht.routing import DHTID
from hivemind.dht.validation import DHTRecord
from hivemind.proto import dht_pb2
from hivemind.utils import MSGPackSerializer
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.errors import PeerRefusal, RecordRefused
from mesh.p2p.dht_binding import (
    KEYS_PER_FIND,
    MAX_KEYS_PER_REQUEST,
    MAX_STORE_REQUEST,
    REQUEST_BURST,
    DhtRefused,
    DhtRules,
    _split_store,
    compute_node_id,
)
from mesh.p2p.dht_records import MIN_REQUEST_S, PolicyValidator, compute_timing
from mesh.p2p.dht_value import decode_value
from mesh.p2p.interface import MAX_RECORD_SIZE
from mesh.p2p.offenders import Offenders
from tests.support.p2p import make_key

ALICE, BOB = make_key("alice").peer_id, make_key("bob").peer_id
PLAIN = MSGPackSerializer.dumps(None)
NOW = time.time()


def _rules(**options: Any) -> DhtRules:
    return DhtRules(**{"is_member": None, "clock": lambda: NOW, **options})


def _info(node_id: bytes) -> dht_pb2.NodeInfo:
    return dht_pb2.NodeInfo(node_id=node_id)


def _store(**changes: Any) -> dht_pb2.StoreRequest:
    fields = {
        "keys": [bytes(20)],
        "subkeys": [PLAIN],
        "values": [b""],
        "expiration_time": [NOW + 60],
        "in_cache": [False],
        "peer": _info(compute_node_id(ALICE)),
    }
    return dht_pb2.StoreRequest(**{**fields, **changes})


def test_the_place_follows_from_the_key() -> None:
    _rules().check_request(dht_pb2.PingRequest(peer=_info(compute_node_id(ALICE))), ALICE)
    _rules().check_request(dht_pb2.PingRequest(), ALICE)
    for false in (compute_node_id(BOB), bytes(20), b"short"):
        with pytest.raises(DhtRefused, match="node id"):
            _rules().check_request(dht_pb2.PingRequest(peer=_info(false)), ALICE)
        with pytest.raises(DhtRefused, match="node id"):
            _rules().clean_answer(dht_pb2.PingResponse(peer=_info(false)), ALICE)


def test_neighbours_at_false_places_are_dropped() -> None:
    result = dht_pb2.FindResult(type=dht_pb2.NOT_FOUND)
    for node_id, peer_id in [
        (compute_node_id(ALICE), ALICE.to_bytes()),
        (bytes(20), BOB.to_bytes()),
        (compute_node_id(BOB), b"an RSA peer"),
    ]:
        result.nearest_node_ids.append(node_id)
        result.nearest_peer_ids.append(peer_id)
    answer = dht_pb2.FindResponse(results=[result])
    _rules().clean_answer(answer, ALICE)
    assert list(answer.results[0].nearest_peer_ids) == [ALICE.to_bytes()]
    assert list(answer.results[0].nearest_node_ids) == [compute_node_id(ALICE)]


def test_a_dictionary_in_an_answer_is_not_decoded() -> None:
    result = dht_pb2.FindResult(type=dht_pb2.FOUND_DICTIONARY, value=b"\xc9bomb")
    answer = dht_pb2.FindResponse(results=[result])
    _rules().clean_answer(answer, ALICE)
    assert answer.results[0].type == dht_pb2.NOT_FOUND
    assert answer.results[0].value == b""


@pytest.mark.parametrize(
    "changes",
    [
        {"subkeys": [b""]},
        {"subkeys": [MSGPackSerializer.dumps("subkey")]},
        {"subkeys": []},
        {"in_cache": [True]},
        {"keys": [bytes(21)]},
        {"keys": [bytes(20)] * (MAX_KEYS_PER_REQUEST + 1)},
        {"values": []},
        {"expiration_time": []},
    ],
)
def test_a_store_of_anything_but_plain_values_is_refused(changes: dict[str, Any]) -> None:
    _rules().check_request(_store(), ALICE)
    with pytest.raises(DhtRefused):
        _rules().check_request(_store(**changes), ALICE)


def test_a_find_of_too_many_keys_is_refused() -> None:
    keys = [bytes(20)] * KEYS_PER_FIND
    _rules().check_request(dht_pb2.FindRequest(keys=keys), ALICE)
    with pytest.raises(DhtRefused):
        _rules().check_request(dht_pb2.FindRequest(keys=[*keys, bytes(20)]), ALICE)


def test_an_answer_of_the_largest_records_fits_one_message() -> None:
    neighbours = 20 * (DHTID.HASH_NBYTES + 38 + 4)
    assert KEYS_PER_FIND * (MAX_RECORD_SIZE + neighbours + 64) < 4 << 20


def test_only_members_hold_places_and_store_but_all_may_read() -> None:
    rules = _rules(is_member=lambda peer: peer == BOB)
    rules.check_request(dht_pb2.FindRequest(keys=[bytes(20)]), ALICE)
    rules.check_request(_store(peer=_info(compute_node_id(BOB))), BOB)
    for request in (_store(), _store(peer=_info(b"")), dht_pb2.PingRequest(peer=_store().peer)):
        with pytest.raises(DhtRefused, match="members"):
            rules.check_request(request, ALICE)


def test_a_strangers_store_is_refused_before_a_byte_is_decoded() -> None:
    no_request = b"\xff" * 10_000
    offenders = Offenders()
    rules = _rules(is_member=lambda peer: peer == BOB, offenders=offenders)
    with pytest.raises(DhtRefused, match="members"):
        rules.decode_request(dht_pb2.StoreRequest, no_request, ALICE)
    while not offenders.is_dropped(ALICE, now_s=NOW):
        with pytest.raises(DhtRefused):
            rules.decode_request(dht_pb2.StoreRequest, no_request, ALICE)
    # One that keeps doing it is not asked what it wants any more.
    with pytest.raises(PeerRefusal, match="dropped"):
        rules.decode_request(dht_pb2.PingRequest, no_request, ALICE)
    store = _store(peer=_info(compute_node_id(BOB)))
    assert rules.decode_request(dht_pb2.StoreRequest, store.SerializeToString(), BOB) == store


def test_a_flood_of_requests_is_refused() -> None:
    rules = _rules()
    for _ in range(REQUEST_BURST):
        rules.check_request(dht_pb2.PingRequest(), ALICE)
    with pytest.raises(PeerRefusal, match="rate"):
        rules.check_request(dht_pb2.PingRequest(), ALICE)
    rules.check_request(dht_pb2.PingRequest(), BOB)


def test_a_hand_off_is_cut_into_requests_that_fit() -> None:
    count, size = 200, 100_000
    request = _store(
        keys=[number.to_bytes(20, "big") for number in range(count)],
        subkeys=[PLAIN] * count,
        values=[bytes(size)] * count,
        expiration_time=[NOW + number for number in range(count)],
        in_cache=[False] * count,
    )
    parts = list(_split_store(request))
    assert [key for part in parts for key in part.keys] == list(request.keys)
    assert [time for part in parts for time in part.expiration_time] == list(
        request.expiration_time
    )
    assert all(sum(map(len, part.values)) <= MAX_STORE_REQUEST for part in parts)
    assert all(len(part.keys) <= MAX_KEYS_PER_REQUEST for part in parts)
    assert len(list(_split_store(_store()))) == 1


def test_the_check_costs_less_than_a_millisecond() -> None:
    rules, request = _rules(), _store()
    started = time.perf_counter()
    for _ in range(200):
        rules.check_request(request, ALICE)
    assert (time.perf_counter() - started) / 200 < 0.001


# The record validator


class _Policy:
    def admit(self, value: bytes, expires_at: float) -> bytes:
        if value == b"refused":
            raise RecordRefused("malformed")
        if value == b"defect":
            raise ZeroDivisionError
        return b"key"


@pytest.mark.parametrize("size", [0, 1, 255, 256, 65_535, 65_536, 1 << 20])
def test_a_value_is_one_byte_string(size: int) -> None:
    assert decode_value(MSGPackSerializer.dumps(bytes(size))) == bytes(size)


@pytest.mark.parametrize(
    "raw", [b"\xc5\x00\x01x", b"\xc6\x00\x00\x00\x01x", b"\xc6\x00\x00\x01\x00"]
)
def test_a_second_encoding_of_a_value_is_refused(raw: bytes) -> None:
    assert decode_value(raw) is None


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_a_decoded_value_encodes_to_the_same_bytes(raw: bytes) -> None:
    value = decode_value(raw)
    assert value is None or MSGPackSerializer.dumps(value) == raw


@pytest.mark.parametrize("value", [b"refused", b"defect", b"x" * (2 << 20)])
def test_the_validator_refuses_and_never_raises(value: bytes) -> None:
    record = DHTRecord(bytes(20), PLAIN, MSGPackSerializer.dumps(value), NOW + 60)
    assert not PolicyValidator(_Policy()).validate(record)


def test_without_a_policy_nothing_is_admitted() -> None:
    record = DHTRecord(bytes(20), PLAIN, MSGPackSerializer.dumps(b"value"), NOW + 60)
    assert not PolicyValidator(None).validate(record)


# Waiting


def test_every_wait_of_the_record_store_is_a_part_of_a_block() -> None:
    for block_s in (2.0, 6.0, 12.0):
        timing = compute_timing(block_s)
        assert timing.request_s == block_s / 4
        assert max(timing.publish_s, timing.ban_s) <= block_s
    assert compute_timing(0.5).request_s == MIN_REQUEST_S
