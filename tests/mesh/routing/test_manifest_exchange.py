"""Nodes pass the model manifest on, and check it by the hash on chain alone."""

import hashlib

import pytest

from keys.peer import PeerKey
from mesh.errors import PeerError, PeerMisbehaved
from mesh.routing.manifest_exchange import fetch_manifest_body, serve_manifest
from tests.support.memory_network import open_hosts

NETWORK = b"n" * 32
KEYS = [PeerKey(bytes([i]) * 32) for i in range(1, 3)]
BODY = b'{"format":2}'


class Policy:
    def admit(self, value, expires_at):
        return b""


async def test_a_manifest_is_had_from_a_peer_by_its_hash():
    async with open_hosts(KEYS, network_id=NETWORK, record_policy=Policy()) as (one, other):
        serve_manifest(one, BODY)
        found = await fetch_manifest_body(other, one.peer_id, hashlib.sha256(BODY).digest())
    assert found == BODY


async def test_a_peer_with_another_manifest_misbehaves():
    async with open_hosts(KEYS, network_id=NETWORK, record_policy=Policy()) as (one, other):
        serve_manifest(one, BODY + b" ")
        with pytest.raises(PeerMisbehaved, match="another manifest"):
            await fetch_manifest_body(other, one.peer_id, hashlib.sha256(BODY).digest())


async def test_a_peer_without_a_manifest_says_so():
    async with open_hosts(KEYS, network_id=NETWORK, record_policy=Policy()) as (one, other):
        with pytest.raises(PeerError):
            await fetch_manifest_body(other, one.peer_id, bytes(32))
