"""Which records a replica keeps: one pure rule for the record store of every node.

The rule knows a table of epochs that only grows, so its answer for a value never
turns from yes to no: it filters reads as well as stores. It never waits and never
asks the chain.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from consensus.challenge import FLOAT_SIZE, ModelShape, compute_owed_layers, compute_vector_length
from consensus.errors import InvalidRecord, Reason
from consensus.protocol_params import ConsensusParams
from consensus.records import (
    EPOCH_KINDS,
    MAX_BODY_SIZES,
    OutputReveal,
    RecordKind,
    decode_body,
)
from consensus.roster import Roster
from consensus.types import Epoch, NodeClass, SubnetNodeId
from keys.envelope import OVERHEAD, Envelope, decode_envelope
from keys.errors import BadEnvelope, BadSignature
from keys.peer import PeerId

MAX_KNOWN_EPOCHS = 16
"""Epochs in the table; records of an older one have expired long ago."""
_SMALLEST = OVERHEAD
_LARGEST = OVERHEAD + max(MAX_BODY_SIZES.values())


def compute_expiry(
    timestamp_s: int, *, epoch_length: int, block_time_ms: int, life_epochs: int
) -> int:
    """Return when the records of an epoch expire, in whole seconds since 1970.

    ``timestamp_s`` is that of the epoch's first block. One value per epoch, the same on
    every node, because a store that keeps the later expiry would otherwise replace records.
    """
    return timestamp_s + -(-life_epochs * epoch_length * block_time_ms // 1000)


def compute_vector_sizes(shape: ModelShape, params: ConsensusParams) -> tuple[int, ...]:
    """Return how many bytes the vector of each challenged layer has, the head's last."""
    return tuple(
        FLOAT_SIZE * compute_vector_length(layer, shape, params)
        for layer in shape.challenged_layers
    )


@dataclass(frozen=True, slots=True)
class EpochEntry:
    """What admission needs to know of one epoch."""

    expires_at: int
    authors: Mapping[PeerId, SubnetNodeId]


@dataclass(frozen=True, slots=True)
class EpochTable:
    """The epochs that this node knows, of one network. ``add`` returns a larger table.

    ``vector_sizes`` are those of the model, one per challenged layer; None on a node that does
    not know the model, which keeps reveals of any shape up to the limit of their kind.
    """

    network_id: bytes
    entries: Mapping[Epoch, EpochEntry] = field(default_factory=dict)
    vector_sizes: tuple[int, ...] | None = None

    def add(self, roster: Roster, *, expires_at: int) -> EpochTable:
        """Return a table that knows ``roster``'s epoch too; what it knew does not change."""
        if roster.epoch in self.entries:
            return self
        authors: dict[PeerId, SubnetNodeId] = {}
        for node in sorted(roster.with_class(NodeClass.INCLUDED), key=lambda node: node.node_id):
            if node.peer_id is not None:
                # If a chain names a key twice, the older node keeps it.
                authors.setdefault(node.peer_id, node.node_id)
        entries = {**self.entries, roster.epoch: EpochEntry(expires_at, authors)}
        kept = sorted(entries)[-MAX_KNOWN_EPOCHS:]
        return replace(self, entries={epoch: entries[epoch] for epoch in kept})


def admit(value: bytes, expires_at: float | None, table: EpochTable) -> Envelope:
    """Return the envelope in ``value`` if every replica may keep it until ``expires_at``.

    None: it did not come from a replica, and only the expiry that its author signed is checked.
    Cheap checks come first, the signature last. Raises InvalidRecord, and nothing else
    whatever the bytes are.
    """
    envelope = _decode(value)
    if envelope.network_id != table.network_id:
        raise InvalidRecord(Reason.WRONG_NETWORK)
    kind = _check_kind(envelope)
    entry = table.entries.get(Epoch(envelope.epoch))
    if entry is None:
        raise InvalidRecord(Reason.UNKNOWN_EPOCH, str(envelope.epoch))
    _check_expiry(envelope, expires_at, entry)
    _check_author(envelope, entry)
    body = decode_body(kind, envelope.body)
    if isinstance(body, OutputReveal) and table.vector_sizes is not None:
        _check_shape(body, table.vector_sizes)
    try:
        envelope.check_signature()
    except BadSignature as error:
        raise InvalidRecord(Reason.BAD_SIGNATURE) from error
    return envelope


def _decode(value: bytes) -> Envelope:
    if not _SMALLEST <= len(value) <= _LARGEST:
        raise InvalidRecord(Reason.WRONG_SIZE, f"{len(value)} bytes")
    try:
        return decode_envelope(value)
    except BadEnvelope as error:
        raise InvalidRecord(Reason.MALFORMED, str(error)) from error


def _check_kind(envelope: Envelope) -> RecordKind:
    if envelope.kind not in EPOCH_KINDS:
        raise InvalidRecord(Reason.WRONG_KIND, str(envelope.kind))
    kind = RecordKind(envelope.kind)
    if len(envelope.body) > MAX_BODY_SIZES[kind]:
        raise InvalidRecord(Reason.WRONG_SIZE, f"a {kind.name} of {len(envelope.body)} bytes")
    return kind


def _check_expiry(envelope: Envelope, expires_at: float | None, entry: EpochEntry) -> None:
    # NaN and the infinities equal no integer, so they are refused here too.
    if expires_at is not None and expires_at != entry.expires_at:
        raise InvalidRecord(Reason.WRONG_EXPIRY, f"stored until {expires_at}")
    if envelope.expires_at != entry.expires_at:
        raise InvalidRecord(Reason.WRONG_EXPIRY, f"signed until {envelope.expires_at}")


def _check_author(envelope: Envelope, entry: EpochEntry) -> None:
    node_id = entry.authors.get(envelope.author)
    if node_id is None:
        raise InvalidRecord(Reason.NOT_IN_ROSTER, str(envelope.author))
    if node_id != envelope.node_id:
        raise InvalidRecord(Reason.WRONG_AUTHOR, f"the author is node {node_id}")


def _check_shape(reveal: OutputReveal, vector_sizes: tuple[int, ...]) -> None:
    """Refuse vectors that the model cannot have: no node keeps a megabyte for a small model."""
    num_layers = len(vector_sizes) - 1
    if reveal.layers.end > num_layers:
        raise InvalidRecord(Reason.WRONG_RANGE, f"{reveal.layers} of {num_layers} layers")
    owed = compute_owed_layers(reveal.layers, num_layers)
    sizes = tuple(len(vector) for vector in reveal.vectors)
    if sizes != tuple(vector_sizes[layer] for layer in owed):
        raise InvalidRecord(Reason.WRONG_SIZE, "the vectors are not those of the model")
