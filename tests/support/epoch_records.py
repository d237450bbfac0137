"""The records of two small epochs, as honest nodes and cheats would sign them.

``World`` holds the records of an epoch and of the one before. ``name`` decides by sightings which
of them are accepted, as a proposal does, and ``score`` scores the epoch from those.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from consensus import records
from consensus.audit import draw_layers
from consensus.challenge import ModelShape, compute_seed
from consensus.commitment import (
    CommitContext,
    compute_audit_commitment,
    compute_output_commitment,
    compute_score_commitment,
    compute_vectors_root,
)
from consensus.epoch import compute_score_rows, score_epoch
from consensus.evidence import EpochFacts
from consensus.naming import Slot, find_accepted, get_name, list_seen
from consensus.protocol_params import MAINNET, ConsensusParams
from consensus.records import (
    NO_SCORES,
    AuditCommit,
    AuditReveal,
    OutputCommit,
    OutputReveal,
    RecordKind,
    ScoreReveal,
    ScoreRow,
    SeenRecord,
    Sighting,
)
from consensus.report import EpochReport
from consensus.roster import Roster, RosterNode
from consensus.types import BlockNumber, Epoch, LayerRange, NodeClass, SubnetNodeId
from keys.envelope import Envelope, seal
from keys.peer import PeerKey

NETWORK = bytes(range(32))
EPOCH = 9
LENGTH = 20
SHAPE = ModelShape(num_layers=2, hidden_size=4, vocab_size=4)
WHOLE = LayerRange(0, SHAPE.num_layers)


def floats(*values: float) -> bytes:
    """Return little-endian float32."""
    return struct.pack(f"<{len(values)}f", *values)


TRUTH = (floats(1.0, 0.5, -0.25, 0.125), floats(0.5, 1.0, 2.0, -1.0), floats(3.0, 0.0, 1.0, 2.0))
WRONG = (floats(-3.0, 7.0, 0.0, 1.0), floats(9.0, -1.0, 0.0, 0.0), floats(0.0, 5.0, -5.0, 1.0))
OTHER_WRONG = (floats(5.0, 0, 0, 0), floats(0, 5.0, 0, 0), floats(0, 0, 5.0, 0))


def get_key(node_id: int) -> PeerKey:
    return PeerKey(node_id.to_bytes(32, "little"))


def get_coldkey(owner: int) -> bytes:
    return owner.to_bytes(20, "little")


def make_node(
    node_id: int,
    *,
    owner: int | None = None,
    node_class: NodeClass = NodeClass.VALIDATOR,
    start_epoch: int = 0,
) -> RosterNode:
    """Return a node; nodes of one ``owner`` share a coldkey."""
    account = get_coldkey(node_id if owner is None else owner)
    return RosterNode(
        SubnetNodeId(node_id),
        get_key(node_id).peer_id,
        account,
        account,
        node_class,
        Epoch(start_epoch),
    )


def make_roster(
    node_ids: Iterable[int] = range(1, 8),
    *,
    epoch: int = EPOCH,
    owners: Mapping[int, int] | None = None,
    classes: Mapping[int, NodeClass] | None = None,
) -> Roster:
    """Return a roster of nodes of class Validator, but for ``classes``."""
    nodes = tuple(
        make_node(
            node_id,
            owner=(owners or {}).get(node_id),
            node_class=(classes or {}).get(node_id, NodeClass.VALIDATOR),
        )
        for node_id in sorted(node_ids)
    )
    first_block = BlockNumber(LENGTH * epoch + 3)
    return Roster(Epoch(epoch), first_block, bytes([epoch]) * 32, 1000 + epoch, nodes)


def find_draw(*layers: int, params: ConsensusParams = MAINNET, shape: ModelShape = SHAPE) -> bytes:
    """Return a block hash that draws these layers."""
    for number in range(10_000):
        draw = hashlib.sha256(number.to_bytes(4)).digest()
        if draw_layers(draw, shape, params) == tuple(sorted(layers)):
            return draw
    raise ValueError(f"no draw of {layers}")


def sign(kind: RecordKind, epoch: int, node_id: int, body: bytes) -> Envelope:
    return seal(
        get_key(node_id),
        kind=kind,
        network_id=NETWORK,
        epoch=epoch,
        expires_at=get_expiry(epoch),
        node_id=node_id,
        body=body,
    )


def get_salt(node_id: int) -> bytes:
    return bytes([node_id % 256]) * 32


def get_expiry(epoch: int) -> int:
    return 1_700_000_000 + epoch


def get_seed(epoch: int) -> bytes:
    """Return the seed of the challenge of ``make_roster``'s epoch."""
    first_block = BlockNumber(LENGTH * epoch + 3)
    return compute_seed(NETWORK, Epoch(epoch), first_block, bytes([epoch]) * 32)


def make_context(epoch: int, node_id: int) -> CommitContext:
    return CommitContext(NETWORK, Epoch(epoch), SubnetNodeId(node_id), get_key(node_id).peer_id)


@dataclass
class World:
    """An epoch and the one before; ``records`` are all that anybody published."""

    roster: Roster = field(default_factory=make_roster)
    previous: Roster | None = None
    next_roster: Roster | None = None
    draw: bytes | None = None
    shape: ModelShape = SHAPE
    params: ConsensusParams = MAINNET
    probation: Mapping[SubnetNodeId, int] = field(default_factory=dict)
    records: dict[Slot, Envelope] = field(default_factory=dict)

    @property
    def epoch(self) -> int:
        return self.roster.epoch

    def put(self, kind: RecordKind, node_id: int, body: bytes, *, age: int = 0) -> Envelope:
        """Publish a record; ``age`` 1 is the epoch before."""
        epoch = self.epoch - age
        envelope = sign(kind, epoch, node_id, body)
        self.records[kind, Epoch(epoch), SubnetNodeId(node_id)] = envelope
        return envelope

    def drop(self, kind: RecordKind, *node_ids: int, age: int = 0) -> None:
        for node_id in node_ids:
            del self.records[kind, Epoch(self.epoch - age), SubnetNodeId(node_id)]

    def host(
        self,
        *node_ids: int,
        vectors: Sequence[bytes] = TRUTH,
        layers: LayerRange = WHOLE,
        age: int = 0,
        is_revealed: bool = True,
    ) -> None:
        """Let nodes commit to outputs and reveal them."""
        for node_id in node_ids:
            self.commit(node_id, vectors=vectors, layers=layers, age=age)
            if is_revealed:
                self.reveal(node_id, vectors=vectors, layers=layers, age=age)

    def commit(
        self,
        node_id: int,
        *,
        vectors: Sequence[bytes] = TRUTH,
        layers: LayerRange = WHOLE,
        age: int = 0,
        seed: bytes | None = None,
        author: int | None = None,
    ) -> None:
        """Publish an output commit; ``author`` is who computed the commitment."""
        epoch = self.epoch - age
        seed = seed or get_seed(epoch)
        commitment = compute_output_commitment(
            make_context(epoch, author or node_id),
            seed=seed,
            layers=layers,
            salt=get_salt(node_id),
            root=compute_vectors_root(layers, vectors, max(self.shape.num_layers, layers.end)),
        )
        body = records.encode_output_commit(OutputCommit(seed, layers, commitment))
        self.put(RecordKind.OUTPUT_COMMIT, node_id, body, age=age)

    def reveal(
        self,
        node_id: int,
        *,
        vectors: Sequence[bytes] = TRUTH,
        layers: LayerRange = WHOLE,
        age: int = 0,
        salt: bytes | None = None,
    ) -> None:
        reveal = OutputReveal(salt or get_salt(node_id), layers, tuple(vectors))
        body = records.encode_output_reveal(reveal)
        self.put(RecordKind.OUTPUT_REVEAL, node_id, body, age=age)

    def audit(
        self,
        *node_ids: int,
        vectors: Sequence[bytes] = TRUTH,
        draw: bytes | None = None,
        is_revealed: bool = True,
    ) -> None:
        """Let validators commit to reference rows of the drawn layers and reveal them."""
        draw = draw or self.draw
        assert draw is not None
        layers = draw_layers(draw, self.shape, self.params)
        drawn = tuple(vectors[layer] for layer in layers)
        for node_id in node_ids:
            salt = get_salt(node_id)
            commitment = compute_audit_commitment(
                make_context(self.epoch, node_id),
                draw=draw,
                salt=salt,
                layers=layers,
                vectors=drawn,
            )
            body = records.encode_audit_commit(AuditCommit(draw, commitment))
            self.put(RecordKind.AUDIT_COMMIT, node_id, body)
            if is_revealed:
                body = records.encode_audit_reveal(AuditReveal(salt, drawn))
                self.put(RecordKind.AUDIT_REVEAL, node_id, body)

    def score_before(
        self, *node_ids: int, rows: Sequence[ScoreRow] | None = None, is_revealed: bool = True
    ) -> None:
        """Let validators commit to scores of the epoch before, and reveal them in this one."""
        for node_id in node_ids:
            own = self.compute_rows_before(node_id) if rows is None else tuple(rows)
            self.commit_scores(node_id, own)
            if is_revealed:
                self.reveal_scores(node_id, own)

    def commit_scores(self, node_id: int, rows: Sequence[ScoreRow] | None) -> None:
        """Publish a sighting of the epoch before; ``rows`` None: it has no scores."""
        assert self.previous is not None
        commitment = NO_SCORES
        if rows is not None:
            context = make_context(self.previous.epoch, node_id)
            commitment = compute_score_commitment(context, salt=get_salt(node_id), rows=rows)
        sighting = Sighting(commitment, len(self.previous.nodes), ())
        self.put(RecordKind.SIGHTING, node_id, records.encode_sighting(sighting), age=1)

    def reveal_scores(self, node_id: int, rows: Sequence[ScoreRow], *, salt: bytes = b"") -> None:
        body = records.encode_score_reveal(ScoreReveal(salt or get_salt(node_id), tuple(rows)))
        self.put(RecordKind.SCORE_REVEAL, node_id, body, age=1)

    def compute_rows_before(
        self, validator: int, *, hidden: Collection[int] = ()
    ) -> tuple[ScoreRow, ...]:
        """Return an honest validator's rows; it did not see the reveals of ``hidden``."""
        assert self.previous is not None
        before = self.previous.epoch
        seen = {
            slot: envelope
            for slot, envelope in self.records.items()
            if slot[1] == before and not (slot[0] is RecordKind.OUTPUT_REVEAL and slot[2] in hidden)
        }
        facts = EpochFacts(
            self.previous, None, get_seed(before), None, self.shape, seen, probation={}
        )
        return compute_score_rows(facts, validator=SubnetNodeId(validator), params=self.params)

    def sight(
        self,
        node_id: int,
        *,
        hidden: Collection[Slot] = (),
        failed_probes: Collection[int] = (),
    ) -> Sighting:
        """Return what a node says that it saw: everything but ``hidden``."""
        del node_id
        seen = {slot: record for slot, record in self.records.items() if slot not in hidden}
        places = {node.node_id: place for place, node in enumerate(self.roster.nodes)}
        return Sighting(
            NO_SCORES,
            len(self.roster.nodes),
            list_seen(seen, self.roster),
            frozenset(places[SubnetNodeId(failed)] for failed in failed_probes),
        )

    def name(
        self,
        named: Mapping[int, Sighting] | None = None,
        *,
        sighters: Iterable[int] | None = None,
    ) -> EpochFacts:
        """Return the facts that a proposal with these sightings decides on."""
        if named is None:
            if sighters is None:
                sighters = [node.node_id for node in self.roster.with_class(NodeClass.VALIDATOR)]
            named = {node_id: self.sight(node_id) for node_id in sighters}
        accepted = find_accepted(named.values(), self.roster)
        kept = {slot: self.records[slot] for slot in accepted}
        assert all(get_name(kept[slot]) == name for slot, name in accepted.items())
        return EpochFacts(
            self.roster,
            self.previous,
            get_seed(self.epoch),
            self.draw,
            self.shape,
            kept,
            {SubnetNodeId(node_id): sighting for node_id, sighting in named.items()},
            self.probation,
        )

    def score(self, facts: EpochFacts | None = None) -> EpochReport:
        following = self.next_roster or replace(self.roster, epoch=Epoch(self.epoch + 1))
        return score_epoch(facts or self.name(), following, self.params)


def rename(row: SeenRecord, name: bytes) -> SeenRecord:
    """Return a row that names another version of the record."""
    return row._replace(name=name)
