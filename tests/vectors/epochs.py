"""Whole epochs for the golden vectors: the records that honest nodes and cheats would sign.

Nodes 1 to 3 host both layers of a model of two, 4 to 6 are validators, 7 is Included and silent,
8 is Idle. An epoch is JSON: the rosters of three epochs, the draw, the records as (kind, age in
epochs, node id, body), the named sightings, each with the nodes that publish it, and who is on
probation.
"""

import struct

from consensus.audit import draw_layers
from consensus.challenge import compute_seed
from consensus.commitment import (
    CommitContext,
    compute_audit_commitment,
    compute_output_commitment,
    compute_score_commitment,
    compute_tag,
    compute_vectors_root,
)
from consensus.naming import list_seen
from consensus.protocol_params import MAINNET
from consensus.records import (
    AuditCommit,
    AuditReveal,
    OutputCommit,
    OutputReveal,
    RecordKind,
    ScoreReveal,
    ScoreRow,
    Sighting,
    encode_audit_commit,
    encode_audit_reveal,
    encode_output_commit,
    encode_output_reveal,
    encode_score_reveal,
    encode_sighting,
)
from consensus.types import LayerRange
from keys.peer import PeerKey
from tests.vectors.runner import read_epoch, read_records, read_shape

NUM_BLOCKS = 2
NETWORK = bytes(range(32))
SHAPE = {"num_blocks": NUM_BLOCKS, "hidden_size": 4, "vocab_size": 4}
EPOCH = 9
CLASSES = {7: "INCLUDED", 8: "IDLE"}
HOSTERS, VALIDATORS = (1, 2, 3), (4, 5, 6)
ONE = 10**18


def floats(*values):
    return struct.pack(f"<{len(values)}f", *values)


TRUTH = (floats(1.0, 0.5, -0.25, 0.125), floats(0.5, 1.0, 2.0, -1.0), floats(3.0, 0.0, 1.0, 2.0))
NEAR = (floats(1.0 + 2**-19, 0.5, -0.25, 0.125), *TRUTH[1:])
WRONG = (floats(9.0, 9.0, 9.0, 9.0), floats(-3.0, 7.0, 0.0, 1.0), floats(5.0, 5.0, 0.0, 0.0))
DRAW = bytes(range(100, 132))


def make_key(node_id):
    return PeerKey(bytes([node_id]) * 32)


def make_roster(number, *, node_ids=range(1, 9), coldkeys=None):
    """Return the nodes of one epoch as JSON."""
    owners = {node_id: node_id for node_id in node_ids} | (coldkeys or {})
    return {
        "epoch": number,
        "first_block": 20 * number + 3,
        "block_hash": (bytes([number]) * 32).hex(),
        "expires_at": 1_700_000_000 + number,
        "nodes": [
            [
                node_id,
                (bytes([node_id]) * 32).hex(),
                (bytes([owners[node_id]]) * 20).hex(),
                CLASSES.get(node_id, "VALIDATOR"),
            ]
            for node_id in node_ids
        ],
    }


class Story:
    """One epoch in the making."""

    def __init__(self, *, has_previous=True, **roster):
        self.epoch = make_roster(EPOCH, **roster)
        self.previous = make_roster(EPOCH - 1, **roster) if has_previous else None
        self.following = [[n, CLASSES.get(n, "VALIDATOR")] for n, *_ in self.epoch["nodes"]]
        self.records = []
        self.unseen = {}
        self.failed = {}
        self.sighters = (1, 2, 3, 4, 5, 6)
        self.probation = []
        self.draw = DRAW

    def add(self, kind, node_id, body, *, age=0, unseen_by=()):
        self.records.append([int(kind), age, node_id, body.hex()])
        self.unseen[len(self.records) - 1] = set(unseen_by)

    def get_context(self, node_id, age=0):
        return CommitContext(NETWORK, EPOCH - age, node_id, make_key(node_id).peer_id)

    def get_seed(self, age=0):
        roster = (self.epoch, self.previous)[age]
        block_hash = bytes.fromhex(roster["block_hash"])
        return compute_seed(NETWORK, roster["epoch"], roster["first_block"], block_hash)

    def commit(self, node_id, vectors=TRUTH, *, seed=None, as_node=None, unseen_by=()):
        layers, seed = LayerRange(0, NUM_BLOCKS), seed or self.get_seed()
        commitment = compute_output_commitment(
            self.get_context(as_node or node_id),
            seed=seed,
            layers=layers,
            salt=bytes([node_id]) * 32,
            root=compute_vectors_root(layers, vectors, NUM_BLOCKS),
        )
        body = encode_output_commit(OutputCommit(seed, layers, commitment))
        self.add(RecordKind.OUTPUT_COMMIT, node_id, body, unseen_by=unseen_by)

    def reveal(self, node_id, vectors=TRUTH, *, salt=None, age=0, unseen_by=()):
        reveal = OutputReveal(salt or bytes([node_id]) * 32, LayerRange(0, NUM_BLOCKS), vectors)
        body = encode_output_reveal(reveal)
        self.add(RecordKind.OUTPUT_REVEAL, node_id, body, age=age, unseen_by=unseen_by)

    def host(self, node_ids=HOSTERS, vectors=TRUTH, **seen):
        for node_id in node_ids:
            self.commit(node_id, vectors, **seen)
            self.reveal(node_id, vectors, **seen)
        return self

    def audit(self, node_ids=VALIDATORS, vectors=TRUTH, *, draw=None, salt=None):
        layers = draw_layers(self.draw, read_shape(**SHAPE), MAINNET)
        for node_id in node_ids:
            answers = tuple(vectors[layer] for layer in layers)
            commitment = compute_audit_commitment(
                self.get_context(node_id),
                draw=draw or self.draw,
                salt=bytes(32),
                layers=layers,
                vectors=answers,
            )
            commit = AuditCommit(draw or self.draw, commitment)
            self.add(RecordKind.AUDIT_COMMIT, node_id, encode_audit_commit(commit))
            reveal = AuditReveal(salt or bytes(32), answers)
            self.add(RecordKind.AUDIT_REVEAL, node_id, encode_audit_reveal(reveal))
        return self

    def validate(self, node_ids=VALIDATORS, *, totals=None, reveals=None, salt=None):
        """Commit to scores of the epoch before and reveal them in this one."""
        if not any(age and kind == RecordKind.OUTPUT_REVEAL for kind, age, *_ in self.records):
            for node_id in HOSTERS:
                self.reveal(node_id, age=1)
        hashes = {
            slot[2]: envelope.record_hash
            for slot, envelope in self.list_envelopes()
            if slot[:2] == (RecordKind.OUTPUT_REVEAL, EPOCH - 1)
        }
        for node_id in node_ids:
            rows = tuple(
                ScoreRow(hoster, total, compute_tag(node_id, (reveals or hashes)[hoster]))
                for hoster, total in sorted((totals or dict.fromkeys(hashes, 3 * ONE)).items())
            )
            commitment = compute_score_commitment(
                self.get_context(node_id, 1), salt=bytes([node_id]) * 32, rows=rows
            )
            sighting = encode_sighting(Sighting(commitment, len(self.previous["nodes"]), ()))
            self.add(RecordKind.SIGHTING, node_id, sighting, age=1)
            reveal = encode_score_reveal(ScoreReveal(salt or bytes([node_id]) * 32, rows))
            self.add(RecordKind.SCORE_REVEAL, node_id, reveal, age=1)
        return self

    def list_envelopes(self):
        return list(read_records(NETWORK.hex(), (self.epoch, self.previous), self.records))

    def tell(self):
        """Return the inputs of the vector."""
        roster, envelopes = read_epoch(**self.epoch), self.list_envelopes()
        places = {node.node_id: place for place, node in enumerate(roster.nodes)}
        bodies = {}
        for witness in self.sighters:
            seen = {
                slot: envelope
                for number, (slot, envelope) in enumerate(envelopes)
                if witness not in self.unseen[number]
            }
            failed = frozenset(places[node] for node in self.failed.get(witness, ()))
            sighting = Sighting(bytes(32), len(places), list_seen(seen, roster), failed)
            bodies.setdefault(encode_sighting(sighting).hex(), []).append(witness)
        return {
            "network_id": NETWORK.hex(),
            "shape": SHAPE,
            "draw": None if self.draw is None else self.draw.hex(),
            "epoch": self.epoch,
            "previous": self.previous,
            "following": self.following,
            "records": self.records,
            "named": [[nodes, body] for body, nodes in bodies.items()],
            "probation": self.probation,
        }


def epochs():
    """Yield the name and the inputs of each epoch."""
    honest = Story().host().audit().validate()
    yield "all honest", honest.tell()
    yield "no records", Story().tell()
    yield "no epoch before", Story(has_previous=False).host().audit().tell()
    for name, make in _STORIES.items():
        story = Story()
        make(story)
        yield name, story.tell()
    few = Story().host().audit().validate()
    few.sighters = (4, 5, 6)
    yield "three sightings are named", few.tell()
    shared = Story(coldkeys={5: 4, 2: 1}).host().audit().validate()
    yield "two coldkeys have two nodes each", shared.tell()
    left = Story().host().audit().validate()
    left.following = left.following[1:]
    yield "a hoster has left the next roster", left.tell()
    new = Story().host().audit().validate()
    new.following = [*new.following, [9, "INCLUDED"], [10, "IDLE"]]
    yield "a node has joined the next roster", new.tell()


def _with_others(change, *, hosters=HOSTERS, auditors=VALIDATORS, validators=VALIDATORS):
    def make(story):
        change(story)
        story.host(hosters).audit(auditors).validate(validators)

    return make


def _unpaid(*witnesses):
    def make(story):
        story.failed = dict.fromkeys(witnesses, (1,))
        story.host().audit().validate()

    return make


def _on_probation(probation):
    def make(story):
        story.probation = probation
        story.host().audit().validate()

    return make


def _undrawn(story):
    story.host().validate()
    story.draw = None


_STORIES = {
    "one wrong hoster": _with_others(lambda s: s.host((3,), WRONG), hosters=(1, 2)),
    "one hoster within noise": _with_others(lambda s: s.host((3,), NEAR), hosters=(1, 2)),
    "three liars beside two honest and two references": lambda s: (
        s.host((1, 7)).host((2, 3, 6), WRONG).audit((4, 5)).validate((4, 5))
    ),
    "wrong hosters beside no reference": lambda s: s.host((1,)).host((2, 3), WRONG).validate(),
    "wrong references alone refute nobody": lambda s: s.host().audit(vectors=WRONG).validate(),
    "one wrong reference": _with_others(lambda s: s.audit((6,), WRONG), auditors=(4, 5)),
    "one auditor": _with_others(lambda s: None, auditors=(4,)),
    "no auditors": _with_others(lambda s: None, auditors=()),
    "an audit of another draw": _with_others(
        lambda s: s.audit((6,), draw=bytes(32)), auditors=(4, 5)
    ),
    "an audit that does not open": _with_others(
        lambda s: s.audit((6,), salt=bytes([1]) * 32), auditors=(4, 5)
    ),
    "the draw is not known": _undrawn,
    "a hoster audits": lambda s: s.host().audit((1, 4, 5)).validate((4, 5)),
    "a reveal withheld": _with_others(lambda s: s.commit(3), hosters=(1, 2)),
    "a reveal without commit": _with_others(lambda s: s.reveal(3), hosters=(1, 2)),
    "a reveal with another salt": _with_others(
        lambda s: (s.commit(3), s.reveal(3, salt=bytes(32))), hosters=(1, 2)
    ),
    "a reveal of other vectors": _with_others(
        lambda s: (s.commit(3), s.reveal(3, NEAR)), hosters=(1, 2)
    ),
    "a copied commitment": _with_others(
        lambda s: (s.commit(3, as_node=1), s.reveal(3, salt=bytes([1]) * 32)), hosters=(1, 2)
    ),
    "a commit to another challenge": _with_others(
        lambda s: (s.commit(3, seed=bytes(32)), s.reveal(3)), hosters=(1, 2)
    ),
    "a commit that half have seen": _with_others(
        lambda s: s.host((3,), unseen_by=(1, 2, 3)), hosters=(1, 2)
    ),
    "a commit that fewer than half have seen": _with_others(
        lambda s: s.host((3,), unseen_by=(1, 2, 3, 4)), hosters=(1, 2)
    ),
    "two versions of a reveal, half each": _with_others(
        lambda s: (
            s.commit(3),
            s.reveal(3, unseen_by=(1, 2, 3)),
            s.reveal(3, NEAR, unseen_by=(4, 5, 6)),
        ),
        hosters=(1, 2),
    ),
    "two versions of a reveal, one by most": _with_others(
        lambda s: (
            s.commit(3),
            s.reveal(3, unseen_by=(1, 2)),
            s.reveal(3, NEAR, unseen_by=(3, 4, 5, 6)),
        ),
        hosters=(1, 2),
    ),
    "unpaid by two of six": _unpaid(4, 5),
    "unpaid by half": _unpaid(4, 5, 6),
    "unpaid by four of six": _unpaid(3, 4, 5, 6),
    "a hoster on probation": _on_probation([[2, 3]]),
    "a validator on probation": _on_probation([[5, 1]]),
    "all hosters on probation": _on_probation([[1, 8], [2, 8], [3, 8]]),
    "a validator names nobody": _with_others(
        lambda s: None if s.validate((4, 5)) else None, validators=()
    ),
    "a lazy validator with last epoch's tags": lambda s: (
        s.host().audit().validate((4, 5)).validate((6,), reveals=dict.fromkeys(HOSTERS, bytes(32)))
    ),
    "a validator with other totals": lambda s: (
        s.host().audit().validate((4, 5)).validate((6,), totals={1: ONE, 2: 3 * ONE, 3: 3 * ONE})
    ),
    "scores that do not open": lambda s: (
        s.host().audit().validate((4, 5)).validate((6,), salt=bytes(32))
    ),
    "two validators": lambda s: s.host().audit((4, 5)).validate((4, 5)),
    "one validator": lambda s: s.host().audit((4,)).validate((4,)),
    "no hosters": lambda s: s.audit().validate(),
    "nobody validates": lambda s: s.host(),
    "a validator hosts": lambda s: s.host((1, 2, 3, 6)).audit((4, 5)).validate(),
}
