"""Whole epochs for the golden vectors: the records that honest nodes and cheats would sign.

Nodes 1 to 3 host both layers of a model of two, 4 to 6 are validators, 7 is Included and silent,
8 is Idle. An epoch is JSON: its anchor, its nodes, its records as (kind, node id, offset at which
they were first seen, body), and the proposal that the chain held at its end.
"""

import struct
from dataclasses import replace

from consensus.equivocation import list_seen_records

from consensus.commitment import (
    CommitContext,
    compute_output_commitment,
    compute_score_commitment,
    compute_vectors_root,
)
from consensus.epoch import compute_committed_scores
from consensus.protocol_params import MAINNET
from consensus.records import (
    OutputCommit,
    OutputReveal,
    RecordKind,
    ScoreCommit,
    ScoreReveal,
    SeenRecords,
    encode_output_commit,
    encode_output_reveal,
    encode_score_commit,
    encode_score_reveal,
    encode_seen_records,
)
from consensus.types import LayerRange
from keys.peer import PeerKey
from tests.vectors.runner import read_facts

LENGTH = 20
NUM_BLOCKS = 2
SUBNET = {
    "network_id": bytes(range(32)).hex(),
    "length": LENGTH,
    "shape": {"num_blocks": NUM_BLOCKS, "hidden_size": 4, "vocab_size": 4},
}
COMMITTED, REVEALED, SIGHTED, SCORED = 5, 11, 14, 16
REVEALED_NEXT = LENGTH + REVEALED
CLASSES = {7: "INCLUDED", 8: "IDLE"}
EPOCH = 9


def floats(*values):
    return struct.pack(f"<{len(values)}f", *values)


TRUTH = (floats(1.0, 0.5, -0.25, 0.125), floats(0.5, 1.0, 2.0, -1.0), floats(3.0, 0.0, 1.0, 2.0))
NEAR = (floats(1.0 + 2**-19, 0.5, -0.25, 0.125), *TRUTH[1:])
WRONG = (TRUTH[0], floats(-3.0, 7.0, 0.0, 1.0), TRUTH[2])


def make_key(node_id):
    return PeerKey(bytes([node_id]) * 32)


def make_epoch(epoch=EPOCH, *, node_ids=range(1, 9), coldkeys=None):
    """Return an epoch without records and without a proposal."""
    owners = {node_id: node_id for node_id in node_ids} | (coldkeys or {})
    nodes = [
        [
            node_id,
            (bytes([node_id]) * 32).hex(),
            (bytes([owners[node_id]]) * 20).hex(),
            CLASSES.get(node_id, "VALIDATOR"),
        ]
        for node_id in node_ids
    ]
    return {
        "epoch": epoch,
        "first_block": LENGTH * epoch + 3,
        "block_hash": (bytes([epoch]) * 32).hex(),
        "expires_at": 1_700_000_000 + epoch,
        "nodes": nodes,
        "records": [],
        "submission": None,
    }


def make_context(epoch, node_id):
    network_id = bytes.fromhex(SUBNET["network_id"])
    return CommitContext(network_id, epoch["epoch"], node_id, make_key(node_id).peer_id)


def add(epoch, kind, node_id, offset, body):
    epoch["records"].append([int(kind), node_id, offset, body.hex()])


def make_commit(epoch, node_id, vectors=TRUTH, *, seed=None, blocks=(0, 2), as_node=None):
    """Return the body of an output commit; ``as_node`` is who computed the commitment."""
    layers = LayerRange(*blocks)
    seed = seed or read_facts(**SUBNET, **epoch).seed
    commitment = compute_output_commitment(
        make_context(epoch, as_node or node_id),
        seed=seed,
        layers=layers,
        salt=bytes([node_id]) * 32,
        root=compute_vectors_root(layers, vectors, max(NUM_BLOCKS, layers.end)),
    )
    return encode_output_commit(OutputCommit(seed, layers, commitment))


def commit_output(epoch, node_id, vectors=TRUTH, *, offset=COMMITTED, **changes):
    body = make_commit(epoch, node_id, vectors, **changes)
    add(epoch, RecordKind.OUTPUT_COMMIT, node_id, offset, body)


def reveal_output(epoch, node_id, vectors=TRUTH, *, offset=REVEALED, salt=None, blocks=(0, 2)):
    reveal = OutputReveal(salt or bytes([node_id]) * 32, LayerRange(*blocks), vectors)
    add(epoch, RecordKind.OUTPUT_REVEAL, node_id, offset, encode_output_reveal(reveal))


def host(epoch, node_ids=(1, 2, 3), vectors=TRUTH):
    for node_id in node_ids:
        commit_output(epoch, node_id, vectors)
        reveal_output(epoch, node_id, vectors)


def commit_scores(epoch, node_id, scores, *, offset=SCORED):
    commitment = compute_score_commitment(
        make_context(epoch, node_id), salt=bytes([node_id]) * 32, scores=scores
    )
    body = encode_score_commit(ScoreCommit(commitment))
    add(epoch, RecordKind.SCORE_COMMIT, node_id, offset, body)


def reveal_scores(epoch, node_id, scores, *, offset=REVEALED_NEXT, salt=None):
    body = encode_score_reveal(ScoreReveal(salt or bytes([node_id]) * 32, scores))
    add(epoch, RecordKind.SCORE_REVEAL, node_id, offset, body)


def validate(epoch, node_ids=(4, 5, 6), *, scores=None):
    """Let validators commit to the scores of the epoch, and reveal them in the next one."""
    for node_id in node_ids:
        commit_scores(epoch, node_id, compute_scores(epoch) if scores is None else scores)
        reveal_scores(epoch, node_id, compute_scores(epoch) if scores is None else scores)


def compute_scores(epoch):
    return compute_committed_scores(read_facts(**SUBNET, **epoch), MAINNET)


def sight(epoch, witness, of=None, *, previous=None, offset=SIGHTED, own=None, is_forged=False):
    """Let a validator publish what it saw: the records of ``of``, or of the epoch itself.

    ``own`` is the node of which it says nothing: itself, if it is honest. ``is_forged``: it
    claims other records than it saw, and cannot sign for their authors.
    """
    seen = read_facts(**SUBNET, **(of or epoch)).sightings
    before = {} if previous is None else read_facts(**SUBNET, **previous).sightings
    digests = list_seen_records(seen, before, own=witness if own is None else own).digests
    if is_forged:
        digests = tuple(replace(digest, body_hash=bytes(32)) for digest in digests)
    body = encode_seen_records(SeenRecords(digests))
    add(epoch, RecordKind.SIGHTING, witness, offset, body)


def attest(epoch, scores, attested=(1, 2, 3, 4, 5, 6)):
    epoch["submission"] = {
        "proposer": attested[0],
        "scores": [[node_id, str(score)] for node_id, score in scores],
        "attested": list(attested),
    }


def make_pair(**changes):
    """Return two honest epochs: the hosters' work, the validators' scores, a proposal."""
    previous, facts = make_epoch(EPOCH - 1, **changes), make_epoch(**changes)
    host(previous)
    validate(previous)
    host(facts)
    commit_scores(facts, 4, compute_scores(facts))
    attest(facts, compute_scores(previous))
    return previous, facts


def drop(epoch, kind, node_id):
    """Remove a node's record of one kind."""
    epoch["records"] = [record for record in epoch["records"] if record[:2] != [kind, node_id]]


def epochs():
    """Yield (name, previous epoch or None, epoch)."""
    yield "honest", *make_pair()
    yield "honest, the epoch before not scored", None, make_pair()[1]
    yield "empty", make_epoch(EPOCH - 1), make_epoch()
    yield "no nodes", None, make_epoch(node_ids=())
    yield from late_epochs()
    yield from cheating_hosters()
    yield from equivocating_nodes()
    yield from validators_of_the_epoch_before()


def late_epochs():
    for kind, name, offsets in (
        (RecordKind.OUTPUT_COMMIT, "commit", (9, 10)),
        (RecordKind.OUTPUT_REVEAL, "reveal", (12, 13)),
    ):
        for offset in offsets:
            previous, facts = make_pair()
            for record in facts["records"]:
                if record[:2] == [kind, 3]:
                    record[2] = offset
            yield f"{name} first seen at offset {offset}", previous, facts
    for offset in (18, 19):
        previous, facts = make_pair()
        commit_scores(facts, 7, (), offset=offset)
        yield f"score commit first seen at offset {offset}", previous, facts


def cheating_hosters():
    def change(*kinds):
        previous, facts = make_pair()
        for kind in kinds:
            drop(facts, kind, 3)
        return previous, facts

    commit, reveal = RecordKind.OUTPUT_COMMIT, RecordKind.OUTPUT_REVEAL
    yield "withheld reveal", *change(reveal)
    yield "reveal without commit", *change(commit)
    previous, facts = change(reveal)
    reveal_output(facts, 3, salt=bytes(32))
    yield "wrong salt", previous, facts
    previous, facts = change(reveal)
    reveal_output(facts, 3, WRONG)
    yield "another output than committed to", previous, facts
    previous, facts = change(reveal)
    reveal_output(facts, 3, TRUTH[:1], blocks=(0, 1))
    yield "reveal of another range", previous, facts
    previous, facts = change(reveal)
    reveal_output(facts, 3, TRUTH[:2])
    yield "reveal without the head", previous, facts
    previous, facts = change(commit)
    commit_output(facts, 3, as_node=1)
    yield "copied commitment", previous, facts
    previous, facts = change(commit)
    commit_output(facts, 3, seed=bytes(32))
    yield "commit to another challenge", previous, facts
    previous, facts = change(commit)
    commit_output(facts, 3, (*TRUTH, TRUTH[0]), blocks=(0, 3))
    yield "commit past the model", previous, facts
    for name, vectors in {
        "liar among three": WRONG,
        "noise among three": NEAR,
        "a value that is not a number": (floats(float("nan"), 0, 0, 0), *TRUTH[1:]),
        "a vector of another length": (TRUTH[0] + b"\0\0\0\0", *TRUTH[1:]),
    }.items():
        previous, facts = change(commit, reveal)
        host(facts, (3,), vectors)
        yield name, previous, facts
    facts = make_epoch()
    host(facts, (1,))
    host(facts, (2,), WRONG)
    yield "two that disagree", None, facts
    facts = make_epoch()
    commit_output(facts, 1, TRUTH[:1], blocks=(0, 1))
    reveal_output(facts, 1, TRUTH[:1], blocks=(0, 1))
    commit_output(facts, 2, TRUTH[1:], blocks=(1, 2))
    reveal_output(facts, 2, TRUTH[1:], blocks=(1, 2))
    yield "one hoster a layer", None, facts
    for name, coldkeys in (("one coldkey", {2: 1, 3: 1}), ("four coldkeys", {})):
        facts = make_epoch(coldkeys=coldkeys)
        host(facts, (1, 2, 3), WRONG)
        host(facts, (4, 5), TRUTH)
        yield f"three liars of {name} against two", None, facts


def equivocating_nodes():
    other = make_epoch()
    host(other, (3,), WRONG)
    for name, witness, told in (
        ("proven", 5, {}),
        ("claimed without a signature", 5, {"is_forged": True}),
        ("told too late", 5, {"offset": 19}),
        ("told by itself", 3, {"own": 0}),
    ):
        previous, facts = make_pair()
        sight(facts, 4)
        sight(facts, witness, other, **told)
        yield f"equivocating hoster: {name}", previous, facts
    previous, facts = make_pair()
    sight(facts, 4)
    sight(facts, 5)
    yield "two sightings that agree", previous, facts
    previous, facts = make_pair()
    other = make_epoch(EPOCH - 1)
    validate(other, (6,), scores=((1, 5),))
    sight(facts, 4, previous=previous)
    sight(facts, 5, previous=other)
    yield "equivocating validator", previous, facts
    previous, facts = make_pair()
    validate(other, (3,), scores=((1, 5),))
    validate(previous, (3,))
    sight(facts, 4, previous=previous)
    sight(facts, 5, previous=other)
    yield "hoster that equivocates about scores", previous, facts
    previous, facts = make_pair()
    other = make_epoch(EPOCH - 1)
    host(other, (3,), WRONG)
    validate(previous, (3,))
    sight(previous, 4)
    sight(previous, 5, other)
    yield "equivocating hoster of the epoch before", previous, facts


def validators_of_the_epoch_before():
    def make(committed=None, revealed=None, **changes):
        """Return a pair of which validator 6 is told what to do."""
        previous, facts = make_pair()
        scores = compute_scores(previous)
        drop(previous, RecordKind.SCORE_COMMIT, 6)
        drop(previous, RecordKind.SCORE_REVEAL, 6)
        commit_scores(previous, 6, committed or scores, offset=changes.pop("offset", SCORED))
        if revealed is not None:
            reveal_scores(previous, 6, revealed or scores, **changes)
        return previous, facts

    scores = compute_scores(make_pair()[0])
    off = ((1, scores[0][1] - 10**16), *scores[1:])
    far = ((1, scores[0][1] - 10**17), *scores[1:])
    yield "validator: a quarter of a gate off", *make(off, off)
    yield "validator: beyond the gate", *make(far, far)
    yield "validator: an unknown node", *make((*scores, (77, 0)), (*scores, (77, 0)))
    yield "validator: nothing revealed", *make()
    yield "validator: other scores than committed to", *make(scores, off)
    yield "validator: wrong salt", *make(scores, scores, salt=bytes(32))
    yield "validator: late commit", *make(scores, scores, offset=19)
    previous, facts = make()
    reveal_scores(previous, 6, scores, offset=LENGTH + 13)
    yield "validator: late reveal", previous, facts
    previous, facts = make_pair()
    validate(previous, (3,))
    yield "validator: a hoster is not paid twice", previous, facts
    previous, facts = make_pair(coldkeys={5: 4, 6: 4})
    yield "validator: three nodes of one coldkey", previous, facts
    for name, attested in {
        "two thirds": (4, 5, 6, 1),
        "too few": (4, 5, 6),
        "strangers": (4, 7, 8),
    }.items():
        previous, facts = make_pair()
        drop(previous, RecordKind.SCORE_COMMIT, 6)
        drop(previous, RecordKind.SCORE_REVEAL, 6)
        attest(facts, [*off, (4, 10**17)], attested)
        yield f"validators: two, a proposal attested by {name}", previous, facts
    previous, facts = make_pair()
    facts["submission"] = None
    drop(previous, RecordKind.SCORE_REVEAL, 6)
    yield "validators: two, no proposal", previous, facts
    previous, facts = make_pair()
    facts["nodes"] = [node for node in facts["nodes"] if node[0] != 5]
    yield "a validator that has left", previous, facts
