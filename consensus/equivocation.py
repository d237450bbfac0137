"""Two signed records for one slot: who said different things to different nodes.

A store keeps the first record of a slot, so no node alone notices that others keep another
one. Therefore validators publish what they saw, as digests with the authors' signatures
(SIGHTING records), and two of them that differ about a slot are a proof that needs nobody's
word: both signatures verify. An honest node's journal signs a slot once, so nobody can prove
anything against it.

A sighting says nothing of its own author, and honest ones leave long before the last block
that counts. So an equivocator alone cannot show its second record to some nodes in the last
moment: which proofs there are is settled by the honest nodes' sightings.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from consensus.evidence import EpochContext, Sightings
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
    sightings: Sightings, previous_sightings: Sightings, *, own: SubnetNodeId
) -> SeenRecords:
    """Return what a node says that it saw: outputs of this epoch, scores of the one before."""
    digests = _list_digests(sightings, OUTPUT_KINDS)
    digests += _list_digests(previous_sightings, SCORE_KINDS)
    others = (digest for digest in digests if digest.node_id != own)
    return SeenRecords(tuple(sorted(others, key=_get_slot)[:MAX_DIGESTS]))


def find_equivocators(
    sightings: Sightings,
    kinds: Collection[RecordKind],
    *,
    seen_in: EpochContext,
    signed_in: EpochContext,
) -> frozenset[SubnetNodeId]:
    """Return who signed two records for one slot of ``kinds``, as ``sightings`` prove it.

    ``seen_in`` is the epoch of the sightings, ``signed_in`` that of the records: the same one
    for outputs, the one before for scores.
    """
    claims: dict[_Slot, dict[tuple[int, bytes], list[RecordDigest]]] = {}
    for digest in _list_claims(sightings, seen_in):
        if digest.kind in kinds:
            versions = claims.setdefault(_get_slot(digest), {})
            versions.setdefault((digest.body_size, digest.body_hash), []).append(digest)
    return frozenset(
        node_id
        for (_, node_id), versions in claims.items()
        if _has_two_signed(versions.values(), signed_in)
    )


def _list_digests(sightings: Sightings, kinds: Collection[RecordKind]) -> list[RecordDigest]:
    digests = []
    for (kind, node_id), sighting in sightings.items():
        if kind in kinds:
            header = sighting.envelope.header
            digests.append(
                RecordDigest(kind, node_id, header.body_size, header.body_hash, header.signature)
            )
    return digests


def _list_claims(sightings: Sightings, context: EpochContext) -> Iterable[RecordDigest]:
    """Yield what validators say, in time, of others."""
    for node in context.roster.with_class(NodeClass.VALIDATOR):
        sighting = sightings.get((RecordKind.SIGHTING, node.node_id))
        if sighting is None or not context.is_sighting_on_time(sighting):
            continue
        for digest in decode_seen_records(sighting.envelope.body).digests:
            if digest.node_id != node.node_id:
                yield digest


def _has_two_signed(versions: Collection[list[RecordDigest]], context: EpochContext) -> bool:
    """Whether at least two versions of a slot bear the author's signature."""
    if len(versions) < 2:
        return False
    # A liar's version with a wrong signature must not hide a right one of the same body.
    signed = (any(_is_signed(digest, context) for digest in version) for version in versions)
    return sum(signed) >= 2


def _is_signed(digest: RecordDigest, context: EpochContext) -> bool:
    node = context.roster.get_by_id(digest.node_id)
    if node is None or node.peer_id is None:
        return False
    header = SignedHeader(
        kind=digest.kind,
        network_id=context.network_id,
        epoch=context.roster.epoch,
        expires_at=context.expires_at,
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
