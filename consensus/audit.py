"""Audits: each epoch draws layers that validators compute too, from the model's files.

The draw is the hash of AUDIT's first block, when no commit can change any more. All validators
compute the same layers, commit to their outputs, and reveal them with the hosters'. On a drawn
layer these *reference rows* are votes like the hosters'; a hoster that is outside the tolerance of
what more than half of all votes and more than half of the reference rows agree on is *refuted*. So
a majority of hosters alone, or of validators alone, refutes no hoster.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from consensus.agreement import Answer
from consensus.challenge import ModelShape, compute_vector_length, decode_vector, draw_distinct
from consensus.commitment import check_audit_reveal, make_commit_context
from consensus.errors import InvalidRecord, Reason
from consensus.naming import Slot
from consensus.protocol_params import ConsensusParams
from consensus.records import RecordKind, decode_audit_commit, decode_audit_reveal
from consensus.roster import Roster, RosterNode
from consensus.types import NodeClass, SubnetNodeId
from keys.envelope import Envelope

_DRAW_TAG = b"mesh/draw"


@dataclass(frozen=True, slots=True)
class Reference:
    """One validator's reference rows: an answer for each drawn layer, or why there are none."""

    node_id: SubnetNodeId
    coldkey: bytes
    answers: Mapping[int, Answer]
    refusal: Reason | None = None


def draw_layers(draw: bytes, shape: ModelShape, params: ConsensusParams) -> tuple[int, ...]:
    """Return the layers that the block of hash ``draw`` selects, ascending; the head is one."""
    count = len(shape.challenged_layers)
    wanted = min(params.audit_layers, count)
    return tuple(sorted(draw_distinct(_DRAW_TAG, draw, modulus=count, wanted=wanted).tolist()))


def collect_references(
    records: Mapping[Slot, Envelope],
    roster: Roster,
    *,
    draw: bytes,
    hosters: Collection[SubnetNodeId],
    shape: ModelShape,
    params: ConsensusParams,
) -> tuple[Reference, ...]:
    """Open the audit reveals of the validators with an audit commit, sorted by node id.

    ``hosters`` committed to outputs; they are paid for that and have no reference rows.
    """
    references = []
    for node in roster.with_class(NodeClass.INCLUDED):
        commit = records.get((RecordKind.AUDIT_COMMIT, roster.epoch, node.node_id))
        if commit is None or node.node_id in hosters:
            continue
        reveal = records.get((RecordKind.AUDIT_REVEAL, roster.epoch, node.node_id))
        none = Reference(node.node_id, node.coldkey, {})
        try:
            answers = _open(node, commit, reveal, draw=draw, shape=shape, params=params)
        except InvalidRecord as error:
            references.append(replace(none, refusal=error.reason))
        else:
            references.append(replace(none, answers=answers))
    return tuple(sorted(references, key=lambda reference: reference.node_id))


def _open(
    node: RosterNode,
    commit: Envelope,
    reveal: Envelope | None,
    *,
    draw: bytes,
    shape: ModelShape,
    params: ConsensusParams,
) -> dict[int, Answer]:
    promise = decode_audit_commit(commit.body)
    if promise.draw != draw:
        raise InvalidRecord(Reason.WRONG_DRAW)
    if reveal is None:
        raise InvalidRecord(Reason.NOT_REVEALED)
    layers, opened = draw_layers(draw, shape, params), decode_audit_reveal(reveal.body)
    check_audit_reveal(
        promise.commitment,
        make_commit_context(reveal),
        draw=draw,
        salt=opened.salt,
        layers=layers,
        vectors=opened.vectors,
    )
    answers = {}
    for layer, raw in zip(layers, opened.vectors, strict=True):
        length, scale = compute_vector_length(layer, shape, params), shape.scale_of(layer)
        vector = decode_vector(raw, length, params, scale)
        answers[layer] = Answer(node.node_id, node.coldkey, vector)
    return answers
