"""Agreement by naming: the sightings that a proposal names decide which records count.

Honest nodes see different records near the edge of a window, so no node decides by its own view.
In the SCORE phase each Validator-class node publishes a SIGHTING: the records that it saw in time,
each by the first bytes of its hash. The proposer of the next epoch names at least two thirds of
the sightings, as a NAMED_LIST whose hash stands in the proposal's ``args``. A record is *accepted*
if at least half of the named sightings list it. Both thresholds hold against fewer than a third of
liars: they alone are neither two thirds of the sightings nor half of the named ones.

Everything that is named is signed and can be fetched by its hash, so a node that was down for the
whole epoch proposes and attests like one that was up.
"""

from __future__ import annotations

import hashlib
import struct
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from consensus.errors import InvalidRecord, ProposalMismatch, Reason
from consensus.protocol_params import ConsensusParams
from consensus.records import (
    NAME_SIZE,
    SEEN_SLOTS,
    NamedList,
    RecordKind,
    SeenRecord,
    Sighting,
    compute_bitmap_size,
    decode_bitmap,
    decode_sighting,
    encode_bitmap,
)
from consensus.roster import Roster
from consensus.types import Epoch, NodeClass, SubnetNodeId
from keys.envelope import HASH_SIZE, Envelope

Slot = tuple[RecordKind, Epoch, SubnetNodeId]
"""The place of one record: an author signs one record for it."""

ARGS_VERSION = 2
NOTHING_NAMED = bytes(HASH_SIZE)
"""Stands for both hashes in a proposal that names no sightings; every row of it is 0."""
MAX_PROBATION = 15
"""What four bits hold."""
_ARGS_HEADER = struct.Struct("<B32s32sH")


@dataclass(frozen=True, slots=True)
class Naming:
    """What a proposal says beside its rows: the ``args`` of propose_attestation.

    ``list_hash`` is the hash of the NAMED_LIST record, ``accepted_hash`` SHA-256 of the hashes of
    all accepted records. ``unpaid`` hosters failed the probes. ``probation`` holds how many epochs
    after the scored one a node stays unpaid.
    """

    list_hash: bytes = NOTHING_NAMED
    accepted_hash: bytes = NOTHING_NAMED
    unpaid: frozenset[SubnetNodeId] = frozenset()
    probation: Mapping[SubnetNodeId, int] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """Whether the proposal names nothing: too few sightings could be had."""
        return self.list_hash == NOTHING_NAMED


def encode_args(naming: Naming, roster: Roster) -> bytes:
    """Return the canonical ``args``; ``roster`` is that of the scored epoch.

    The version, the two hashes, the size of the roster (u16), a bit of each node for ``unpaid``,
    and four bits of each node for ``probation``, by position in the roster. Raises ValueError for
    a node beyond the roster, or for more epochs than four bits hold: ours, never a peer's.
    """
    places = _list_positions(roster)
    size = len(places)
    if not naming.unpaid | naming.probation.keys() <= places.keys():
        raise ValueError("unpaid hosters and nodes on probation are in the roster")
    if not all(1 <= left <= MAX_PROBATION for left in naming.probation.values()):
        raise ValueError(f"probation lasts 1 to {MAX_PROBATION} epochs")
    unpaid = encode_bitmap({places[node_id] for node_id in naming.unpaid}, size)
    nibbles = sum(left << 4 * places[node_id] for node_id, left in naming.probation.items())
    header = _ARGS_HEADER.pack(ARGS_VERSION, naming.list_hash, naming.accepted_hash, size)
    return header + unpaid + nibbles.to_bytes(compute_bitmap_size(4 * size), "little")


def decode_args(raw: bytes | None, roster: Roster) -> Naming:
    """Parse the ``args`` of a proposal about the roster's epoch. Raises ProposalMismatch."""
    if raw is None:
        raise ProposalMismatch("args: the proposal has none")
    size = len(roster.nodes)
    bits, nibbles = compute_bitmap_size(size), compute_bitmap_size(4 * size)
    if len(raw) < _ARGS_HEADER.size or raw[0] != ARGS_VERSION:
        raise ProposalMismatch(f"args: not of version {ARGS_VERSION}")
    _, list_hash, accepted_hash, named_size = _ARGS_HEADER.unpack_from(raw)
    if (list_hash == NOTHING_NAMED) != (accepted_hash == NOTHING_NAMED):
        raise ProposalMismatch("args: one of the two hashes is missing")
    if named_size != size:
        raise ProposalMismatch(f"args: a roster of {named_size} nodes, not {size}")
    if len(raw) != _ARGS_HEADER.size + bits + nibbles:
        raise ProposalMismatch(f"args: {len(raw)} bytes for a roster of {size} nodes")
    end = _ARGS_HEADER.size + bits
    try:
        unpaid = decode_bitmap(raw[_ARGS_HEADER.size : end], size)
    except InvalidRecord as error:
        raise ProposalMismatch(f"args: unpaid hosters: {error.detail}") from error
    packed = int.from_bytes(raw[end:], "little")
    if packed >> 4 * size:
        raise ProposalMismatch("args: probation of a node beyond the roster")
    left = {
        node.node_id: packed >> 4 * place & MAX_PROBATION for place, node in enumerate(roster.nodes)
    }
    return Naming(
        list_hash,
        accepted_hash,
        frozenset(roster.nodes[place].node_id for place in unpaid),
        {node_id: epochs for node_id, epochs in left.items() if epochs},
    )


def compute_quorum(roster: Roster) -> int:
    """Return how many sightings a proposal names at least: two thirds of the validators'."""
    return -(-2 * len(roster.with_class(NodeClass.VALIDATOR)) // 3)


def check_named_list(named: NamedList, roster: Roster) -> dict[SubnetNodeId, bytes]:
    """Return node id -> hash of each named sighting. Raises ProposalMismatch.

    The list names enough sightings, each once, and only those of Validator-class nodes of the
    roster. Else a proposer could name its own sighting for every other node, and decide alone.
    """
    rows: dict[SubnetNodeId, bytes] = {}
    for row in named.rows:
        node = roster.nodes[row.position] if row.position < len(roster.nodes) else None
        if node is None or not node.has_class(NodeClass.VALIDATOR, roster.epoch):
            raise ProposalMismatch(f"named list: position {row.position} is no validator's")
        rows[node.node_id] = row.record_hash
    if len(set(rows.values())) < len(rows):
        raise ProposalMismatch("named list: one sighting stands for several nodes")
    if len(rows) < compute_quorum(roster):
        raise ProposalMismatch(f"named list: {len(rows)} of {compute_quorum(roster)} sightings")
    return rows


def open_sighting(envelope: Envelope, roster: Roster) -> Sighting:
    """Return the body of a sighting of the roster's epoch. Raises InvalidRecord.

    Its positions are those of this roster, so it must be of the roster's size.
    """
    sighting = decode_sighting(envelope.body)
    if sighting.num_nodes != len(roster.nodes):
        raise InvalidRecord(Reason.MALFORMED, f"a sighting of {sighting.num_nodes} nodes")
    return sighting


def list_seen(records: Mapping[Slot, Envelope], roster: Roster) -> tuple[SeenRecord, ...]:
    """Return what a node says that it saw: the records of the roster's epoch and the one before.

    Records of nodes that have left the roster are not listed.
    """
    places = _list_positions(roster)
    rows = []
    for kind, age in SEEN_SLOTS:
        for node_id, position in places.items():
            envelope = records.get((kind, Epoch(roster.epoch - age), node_id))
            if envelope is not None:
                rows.append(SeenRecord(kind, age, position, get_name(envelope)))
    return tuple(rows)


def get_name(envelope: Envelope) -> bytes:
    """Return the bytes by which sightings name a record."""
    return envelope.record_hash[:NAME_SIZE]


def find_accepted(sightings: Collection[Sighting], roster: Roster) -> dict[Slot, bytes]:
    """Return slot -> name of each accepted record, in the order of codes and positions.

    At least half of the named sightings list it. If that holds for two versions of a record,
    neither is accepted.
    """
    counts = Counter(row for sighting in sightings for row in sighting.seen)
    accepted: dict[Slot, list[bytes]] = {}
    order = {slot: code for code, slot in enumerate(SEEN_SLOTS)}
    for row in sorted(counts, key=lambda row: (order[row.kind, row.age], row.position, row.name)):
        if 2 * counts[row] >= len(sightings):
            node_id = roster.nodes[row.position].node_id
            slot = (row.kind, Epoch(roster.epoch - row.age), node_id)
            accepted.setdefault(slot, []).append(row.name)
    return {slot: names[0] for slot, names in accepted.items() if len(names) == 1}


def hash_accepted(records: Mapping[Slot, Envelope], accepted: Mapping[Slot, bytes]) -> bytes:
    """Return SHA-256 over the whole hashes of the accepted records, in the order of the slots."""
    return hashlib.sha256(b"".join(records[slot].record_hash for slot in accepted)).digest()


def find_unpaid(sightings: Collection[Sighting], roster: Roster) -> frozenset[SubnetNodeId]:
    """Return the hosters whose probes failed by more than half of the named sightings."""
    counts = count_failed_probes(sightings, roster)
    return frozenset(node_id for node_id, count in counts.items() if 2 * count > len(sightings))


def count_failed_probes(sightings: Collection[Sighting], roster: Roster) -> dict[SubnetNodeId, int]:
    """Return how many of the sightings say that a hoster does not serve, of those with any."""
    counts = Counter(place for sighting in sightings for place in sighting.failed_probes)
    return {roster.nodes[place].node_id: count for place, count in sorted(counts.items())}


def carry_probation(
    probation: Mapping[SubnetNodeId, int], roster: Roster | None = None, *, epochs: int
) -> dict[SubnetNodeId, int]:
    """Return the epochs left after ``epochs`` further ones, of the nodes that have any left.

    With a ``roster``, nodes that have left it are forgotten: they have no place in ``args``.
    """
    return {
        node_id: left - epochs
        for node_id, left in probation.items()
        if left > epochs and (roster is None or roster.get_by_id(node_id) is not None)
    }


def continue_probation(
    before: Mapping[SubnetNodeId, int],
    roster: Roster,
    *,
    refuted: Collection[SubnetNodeId],
    withheld: Collection[SubnetNodeId],
    params: ConsensusParams,
) -> dict[SubnetNodeId, int]:
    """Return the epochs left after the roster's epoch; ``before`` are those left before it."""
    left = carry_probation(before, roster, epochs=1)
    for node_id in withheld:
        left[node_id] = max(left.get(node_id, 0), params.withheld_epochs)
    return left | dict.fromkeys(refuted, params.probation_epochs)


def _list_positions(roster: Roster) -> dict[SubnetNodeId, int]:
    return {node.node_id: place for place, node in enumerate(roster.nodes)}
