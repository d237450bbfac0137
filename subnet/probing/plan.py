"""Whom a node probes in an epoch, and when: a pure rule over a secret of its own.

No hoster can know which validators probe it, or when. A restarted node draws the same plan again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass

from consensus.protocol_params import ConsensusParams
from consensus.types import Epoch, SubnetNodeId
from keys.envelope import HASH_SIZE
from keys.peer import PeerKey

_SECRET_TAG = b"mesh/probe"
_ORDER_TAG = b"mesh/probe-order"
_MOMENT_TAG = b"mesh/probe-moment"
LAST_MOMENT_PERCENT = 85
"""Later attempts would not end before the epoch does."""


@dataclass(frozen=True, slots=True)
class PlannedProbe:
    """One hoster to probe. ``moments`` are those of the attempts, in blocks from the epoch's
    first one, ascending; an attempt after a success is not made.
    """

    node_id: SubnetNodeId
    moments: tuple[float, ...]


def derive_probe_secret(key: PeerKey, *, network_id: bytes, epoch: Epoch) -> bytes:
    """Return the 32 secret bytes that a node's probes of one epoch are drawn from."""
    if len(network_id) != HASH_SIZE:
        raise ValueError("a network id has 32 bytes")
    return key.derive_secret(_SECRET_TAG + network_id + epoch.to_bytes(4, "little"))


def plan_probes(
    secret: bytes,
    hosters: Collection[SubnetNodeId],
    failed_last: Collection[SubnetNodeId],
    *,
    params: ConsensusParams,
    epoch_length: int,
) -> tuple[PlannedProbe, ...]:
    """Return at most ``params.probes`` of ``hosters``, those that failed the last probe first.

    One place is always drawn among the others: nodes that stay dead would otherwise keep
    the others from being probed.
    """
    drawn = sorted(hosters, key=lambda node_id: _draw(_ORDER_TAG, secret, node_id))
    suspected = [node_id for node_id in drawn if node_id in failed_last]
    others = [node_id for node_id in drawn if node_id not in failed_last]
    first = suspected[: params.probes - 1] if others else suspected
    chosen = (first + others + suspected[len(first) :])[: params.probes]
    return tuple(
        PlannedProbe(node_id, _draw_moments(secret, node_id, params, epoch_length))
        for node_id in chosen
    )


def _draw_moments(
    secret: bytes, node_id: SubnetNodeId, params: ConsensusParams, epoch_length: int
) -> tuple[float, ...]:
    latest = epoch_length * LAST_MOMENT_PERCENT / 100
    fractions = [
        int.from_bytes(_draw(_MOMENT_TAG, secret, node_id, attempt)[:6], "little") / 2**48
        for attempt in range(params.probe_attempts)
    ]
    return tuple(sorted(latest * fraction for fraction in fractions))


def _draw(tag: bytes, secret: bytes, *numbers: int) -> bytes:
    message = tag + secret + b"".join(number.to_bytes(4, "little") for number in numbers)
    return hashlib.sha256(message).digest()
