"""Heartbeats: canonical, small, renewable, and refused when anything is off."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from keys.peer import PeerKey
from mesh.errors import RecordRefused
from mesh.model.config import LayerSpan
from mesh.routing.features import Feature, name_software
from mesh.routing.heartbeat import (
    MAX_HEARTBEAT_BODY,
    ServerInfo,
    ServerRole,
    ServerState,
    compute_heartbeat_expiry,
    decode_server_info,
    encode_server_info,
    make_heartbeat_key,
    make_heartbeat_policy,
    seal_heartbeat,
)

KEY = PeerKey(b"\1" * 32)
NETWORK = b"n" * 32
INFO = ServerInfo(
    role=ServerRole.HOSTER,
    state=ServerState.ONLINE,
    span=LayerSpan(2, 6),
    throughput=1234,
    free_cache_tokens=4096,
    dtype="bfloat16",
    software="mesh/0.1.0",
    addresses=("/ip4/127.0.0.1/tcp/31330/p2p/x", "/ip4/10.0.0.1/udp/1/quic/p2p/x"),
)
NOW = 1_700_000_010.0


def sealed(**changes):
    arguments = {"network_id": NETWORK, "node_id": 3, "expires_at": 1_700_000_100}
    return seal_heartbeat(KEY, INFO, **{**arguments, **changes}).to_bytes()


def admit(raw, expires_at, *, now=NOW, members=(KEY.peer_id,)):
    policy = make_heartbeat_policy(
        NETWORK, is_member=lambda peer: peer in members, clock=lambda: now
    )
    return policy(raw, expires_at)


def test_server_info_survives_the_wire():
    for info in (INFO, replace(INFO, span=None, addresses=(), software="")):
        assert decode_server_info(encode_server_info(info)) == info


def test_features_are_announced_behind_the_programs_name():
    able = replace(INFO, software=name_software("mesh/0.1.0", tuple(Feature), max_size=32))
    assert able.software == "mesh/0.1.0;dfgrs"
    assert decode_server_info(encode_server_info(able)) == able
    assert able.features == set(Feature) and able.product == "mesh/0.1.0"


@pytest.mark.parametrize("software", ["mesh/0.1.0", "", "test", "mesh/9;", "mesh/9;xyz"])
def test_a_heartbeat_of_another_version_says_that_its_server_cannot(software):
    """Earlier ones have no letters, and later ones may have others."""
    info = decode_server_info(encode_server_info(replace(INFO, software=software)))
    assert info.features == frozenset() and info.software == software


def test_an_earlier_version_reads_a_heartbeat_with_features():
    """The bytes are those of a longer name: sizes, characters and order are as they were."""
    plain = encode_server_info(replace(INFO, software="mesh/0.1.0"))
    able = encode_server_info(replace(INFO, software="mesh/0.1.0;gs"))
    head = plain.index(b"mesh/0.1.0")
    assert able.replace(b";gs", b"")[head:] == plain[head:]
    assert len(able) == len(plain) + 3 and b";gs".decode().isprintable()


def test_a_name_that_would_be_too_long_is_announced_without_features():
    assert name_software("m" * 30, tuple(Feature), max_size=32) == "m" * 30
    assert name_software("m" * 26, tuple(Feature), max_size=32) == "m" * 26 + ";dfgrs"


def test_truncated_trailing_and_garbled_bodies_are_refused():
    body = encode_server_info(INFO)
    for size in range(len(body)):
        with pytest.raises(RecordRefused, match="malformed"):
            decode_server_info(body[:size])
    with pytest.raises(RecordRefused, match="malformed"):
        decode_server_info(body + b"\0")
    seed = random.randrange(2**32)
    print(f"seed={seed}")
    rng = random.Random(seed)
    for _ in range(2000):
        garbled = bytearray(body)
        for _ in range(3):
            garbled[rng.randrange(len(garbled))] = rng.randrange(256)
        try:
            decode_server_info(bytes(garbled))
        except RecordRefused:
            continue


@pytest.mark.parametrize("changes", [{"software": "a\x1b[2J"}, {"addresses": ("/ip4/1\n2",)}])
def test_control_characters_are_refused(changes):
    with pytest.raises(RecordRefused, match="malformed"):
        decode_server_info(encode_server_info(replace(INFO, **changes)))


def test_oversized_body_is_refused():
    full = replace(INFO, addresses=("a" * 200,) * 8)
    with pytest.raises(ValueError, match="at most"):
        encode_server_info(full)
    with pytest.raises(RecordRefused):
        decode_server_info(bytes(MAX_HEARTBEAT_BODY + 1))


def test_good_heartbeat_is_admitted_under_its_authors_key():
    assert admit(sealed(), 1_700_000_100) == make_heartbeat_key(NETWORK, KEY.peer_id)


@pytest.mark.parametrize(
    ("changes", "shift", "reason"),
    [
        ({"expires_at": 1_700_000_101}, 0, "wrong_expiry"),
        ({"expires_at": 1_700_000_160}, 0, "wrong_expiry"),
        ({}, 30, "wrong_expiry"),
        ({}, float("nan"), "wrong_expiry"),
        ({}, float("inf"), "wrong_expiry"),
        ({"network_id": b"x" * 32}, 0, "wrong_network"),
    ],
)
def test_shifted_non_finite_or_foreign_heartbeats_are_refused(changes, shift, reason):
    expires_at = changes.get("expires_at", 1_700_000_100)
    with pytest.raises(RecordRefused, match=reason):
        admit(sealed(**changes), expires_at + shift)


def test_tampered_or_strangers_heartbeat_is_refused():
    raw = bytearray(sealed())
    raw[-70] ^= 1
    with pytest.raises(RecordRefused):
        admit(bytes(raw), 1_700_000_100)
    with pytest.raises(RecordRefused, match="not_a_member"):
        admit(sealed(), 1_700_000_100, members=())
    with pytest.raises(RecordRefused, match="malformed"):
        admit(b"nonsense", 1_700_000_100)


def test_admission_never_turns_from_yes_to_no():
    for now in (NOW, NOW + 60, NOW + 3600, NOW + 10**7):
        admit(sealed(), 1_700_000_100, now=now)


def test_an_urgent_change_always_finds_a_free_expiry():
    for second in range(60):
        now = 1_700_000_000.25 + second
        first = compute_heartbeat_expiry(now, 0, is_joining=True)
        assert 19 <= first - now <= 50
        usual = compute_heartbeat_expiry(now, first)
        assert usual == first + 30 == compute_heartbeat_expiry(now, 0)
        assert usual % 30 == 0
        assert 50 <= usual - now <= 80
        assert compute_heartbeat_expiry(now, usual) is None
        urgent = compute_heartbeat_expiry(now, usual, is_urgent=True)
        assert urgent == usual + 30
        assert urgent <= now + 117


def test_regular_announcements_never_let_a_heartbeat_expire():
    now = 1_700_000_003.0
    last = compute_heartbeat_expiry(now, 0, is_joining=True)
    assert last > now + 5
    now += 5
    for _ in range(200):
        expires_at = compute_heartbeat_expiry(now, last)
        last = expires_at or last
        now += 20
        assert last > now + 20
