"""Equivocators: nodes that signed two records for one slot and sent them to different nodes.

A store keeps the first record of a slot, so no node alone notices that others keep another
one. Therefore validators publish what they saw, as digests with the authors' signatures
(SIGHTING records). Two digests that differ about a slot, both correctly signed, prove the
equivocation without trust in the validators. An honest node's journal signs a slot once, so
no such proof against it can exist.

A sighting says nothing of its own author, and honest ones leave long before the last block
that counts. So an equivocator alone cannot show its second record to some nodes in the last
moment: the honest nodes' sightings decide which proofs there are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from consensus.evidence import EpochFacts, TimedRecords
from consensus.records import (
    MAX_DIGESTS,
    OUTPUT_KINDS,
    SCORE_KINDS,
    RecordDigest,
    RecordKind,
    SeenRecords,
    decode_seen_records,
)
from consensus.types import NodeClass, SubnetNodeId
from keys.envelope import SignedHeader
from keys.errors import BadSignature

_Slot = tuple[RecordKind, SubnetNodeId]


def list_seen_records(
    sightings: TimedRecords, previous_sightings: TimedRecords, *, own: SubnetNodeId
) -> SeenRecords:
    """Return what a node says that it saw: outputs of this epoch, scores of the one before."""
    digests = _list_digests(sightings, OUTPUT_KINDS)
    digests += _list_digests(previous_sightings, SCORE_KINDS)
    others = (digest for digest in digests if digest.node_id != own)
    return SeenRecords(tuple(sorted(others, key=_get_slot)[:MAX_DIGESTS]))


def find_equivocators(
    facts: EpochFacts, kinds: Collection[RecordKind], *, signed_in: EpochFacts
) -> frozenset[SubnetNodeId]:
    """Return the nodes that signed two records for one slot of ``kinds``, as sightings prove it.

    ``facts`` are of the epoch of the sightings, ``signed_in`` of that of the records: the same
    one for outputs, the one before for scores.
    """
    claims: dict[_Slot, dict[tuple[int, bytes], list[RecordDigest]]] = {}
    for digest in _list_claims(facts):
        if digest.kind in kinds:
            versions = claims.setdefault(_get_slot(digest), {})
            versions.setdefault((digest.body_size, digest.body_hash), []).append(digest)
    return frozenset(
        node_id
        for (_, node_id), versions in claims.items()
        if _has_two_signed(versions.values(), signed_in)
    )


def _list_digests(sightings: TimedRecords, kinds: Collection[RecordKind]) -> list[RecordDigest]:
    digests = []
    for (kind, node_id), sighting in sightings.items():
        if kind in kinds:
            header = sighting.envelope.header
            digests.append(
                RecordDigest(kind, node_id, header.body_size, header.body_hash, header.signature)
            )
    return digests


def _list_claims(facts: EpochFacts) -> Iterable[RecordDigest]:
    """Yield what validators say, in time, of others."""
    for node in facts.roster.with_class(NodeClass.VALIDATOR):
        sighting = facts.sightings.get((RecordKind.SIGHTING, node.node_id))
        if sighting is None or not facts.is_on_time(sighting):
            continue
        for digest in decode_seen_records(sighting.envelope.body).digests:
            if digest.node_id != node.node_id:
                yield digest


def _has_two_signed(versions: Collection[list[RecordDigest]], facts: EpochFacts) -> bool:
    """Whether at least two versions of a slot bear the author's signature."""
    if len(versions) < 2:
        return False
    # A liar's version with a wrong signature must not hide a right one of the same body.
    signed = (any(_is_signed(digest, facts) for digest in version) for version in versions)
    return sum(signed) >= 2


def _is_signed(digest: RecordDigest, facts: EpochFacts) -> bool:
    node = facts.roster.get_by_id(digest.node_id)
    if node is None or node.peer_id is None:
        return False
    header = SignedHeader(
        kind=digest.kind,
        network_id=facts.network_id,
        epoch=facts.roster.epoch,
        expires_at=facts.expires_at,
        node_id=digest.node_id,
        author=node.peer_id,
        body_size=digest.body_size,
        body_hash=digest.body_hash,
        signature=digest.signature,
    )
    try:
        header.check_signature()
    except BadSignature:
        return False
    return True


def _get_slot(digest: RecordDigest) -> _Slot:
    return digest.kind, digest.node_id
