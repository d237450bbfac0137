"""Hosts of both kinds behind one way of opening them, and a record policy for their stores."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from random import Random
from typing import Any

from keys.envelope import Envelope, decode_envelope, seal
from keys.errors import KeysError
from keys.peer import PeerKey
from mesh.errors import RecordRefused
from mesh.p2p.config import HostConfig
from tests.support.memory_network import MemoryNetwork

NETWORK_ID = bytes(range(32))
KINDS = ("memory", "hivemind")
RECORD_LIFETIME_S = 300


def make_key(name: str) -> PeerKey:
    """A key that is the same in every run."""
    return PeerKey(Random(name).randbytes(32))


class SignedRecordPolicy:
    """Admits envelopes of this network, signed by an author it knows, at their own expiry."""

    def __init__(self, *authors: PeerKey) -> None:
        self._authors = frozenset(key.peer_id for key in authors)

    def admit(self, value: bytes, expires_at: float) -> bytes:
        try:
            envelope = decode_envelope(value)
            envelope.check_signature()
        except KeysError as error:
            raise RecordRefused("malformed", str(error)) from error
        if envelope.network_id != NETWORK_ID or envelope.expires_at != expires_at:
            raise RecordRefused("wrong-expiry")
        if self._authors and envelope.author not in self._authors:
            raise RecordRefused("wrong-author")
        return record_key(envelope)


class EverythingPolicy:
    """What a corrupt node's store admits."""

    def admit(self, value: bytes, expires_at: float) -> bytes:
        return value[:8]


def record_key(envelope: Envelope) -> bytes:
    author = envelope.author.public_key
    place = bytes((envelope.kind,)) + envelope.epoch.to_bytes(4, "little")
    return b"mesh/rec" + envelope.network_id + place + author


def make_record(
    key: PeerKey, body: bytes, *, epoch: int, expires_at: int | None = None
) -> Envelope:
    expires_at = int(time.time()) + RECORD_LIFETIME_S if expires_at is None else expires_at
    return seal(
        key,
        kind=3,
        network_id=NETWORK_ID,
        epoch=epoch,
        expires_at=expires_at,
        node_id=1,
        body=body,
    )


class HostFactory:
    """Opens hosts of one network; they close with it, last first."""

    def __init__(self, kind: str, stack: AsyncExitStack) -> None:
        self.kind = kind
        self._stack = stack
        self._memory = MemoryNetwork(random=Random(7))
        self._bootstrap: tuple[str, ...] = ()

    async def open(self, name: str, **overrides: Any) -> Any:
        defaults = {"key": make_key(name), "network_id": NETWORK_ID}
        config = HostConfig(**{**defaults, "initial_peers": self._bootstrap, **overrides})
        if self.kind == "memory":
            return await self._stack.enter_async_context(self._memory.open(config))
        from mesh.p2p.hivemind_host import HivemindHost

        host = await self._stack.enter_async_context(HivemindHost.open(config))
        if not self._bootstrap:
            self._bootstrap = tuple(await host.list_addresses())
        return host


@asynccontextmanager
async def open_factory(kind: str) -> AsyncIterator[HostFactory]:
    async with AsyncExitStack() as stack:
        yield HostFactory(kind, stack)
