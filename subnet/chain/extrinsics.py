"""A call and its signed form, as values."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

MIN_LIFETIME = 4
"""Blocks; the shortest mortal era."""
MAX_LIFETIME = 64
"""Blocks after which an extrinsic can land no more, unless the caller wants fewer."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call by its names; ``arguments`` by the names of the metadata."""

    pallet: str
    name: str
    arguments: Mapping[str, object]

    def __str__(self) -> str:
        return f"{self.pallet}.{self.name}"


@dataclass(frozen=True, slots=True)
class SignedExtrinsic:
    """Signed bytes. The nonce in them lets the chain include them once at most.

    ``since`` is the number of the block at which their era begins: they are in a later block, and
    before ``until`` or nowhere.
    """

    call: str
    sender: bytes
    nonce: int
    data: bytes
    since: int
    until: int

    @property
    def extrinsic_hash(self) -> bytes:
        return hashlib.blake2b(self.data, digest_size=32).digest()


def compute_lifetime(head: int, *, end: int | None) -> int:
    """Return the longest lifetime, a power of two, of which no block reaches ``end``.

    The shortest that the chain knows is four blocks: what is signed in the last three before
    ``end`` may land after it.
    """
    lifetime = MIN_LIFETIME
    while 2 * lifetime <= (MAX_LIFETIME if end is None else min(end - head, MAX_LIFETIME)):
        lifetime *= 2
    return lifetime


def choose_era(head: int, *, final: int, end: int | None) -> tuple[int, int]:
    """Return the block at which the era of what is signed at ``head`` begins, and its length.

    The hash of that block is signed too. If a reorganisation takes the block away, the chain
    answers BadProof, so the era begins at the newest ``final`` block. Where no era from there
    leaves MIN_LIFETIME blocks to land and is over by ``end``, it begins at the head.
    """
    lifetime = MAX_LIFETIME
    while lifetime >= MIN_LIFETIME:
        until = final + lifetime
        if until >= head + MIN_LIFETIME and (end is None or until <= end):
            return final, lifetime
        lifetime //= 2
    return head, compute_lifetime(head, end=end)
