"""Commitments: one author, one epoch, one challenge, one range, one opening."""

import dataclasses
import hashlib
import hmac
import struct

import pytest

from consensus.commitment import (
    CommitContext,
    check_audit_reveal,
    check_output_reveal,
    check_score_reveal,
    compute_audit_commitment,
    compute_leaf,
    compute_output_commitment,
    compute_root,
    compute_score_commitment,
    compute_tag,
    compute_vectors_root,
    derive_salt,
    make_commit_context,
)
from consensus.errors import CommitmentMismatch, Reason
from consensus.records import MAX_TOTAL, ScoreRow, encode_score_rows
from consensus.types import LayerRange
from keys.envelope import seal
from keys.peer import PeerKey

KEY = PeerKey(bytes(range(32)))
OTHER_KEY = PeerKey(bytes(range(1, 33)))
CONTEXT = CommitContext(b"\x01" * 32, 7, 5, KEY.peer_id)
SEED = b"\x02" * 32
SALT = b"\x03" * 32
BLOCKS = LayerRange(1, 3)
NUM_BLOCKS = 4
VECTORS = (b"\x00\x00\x80\x3f", b"\x00\x00\x00\x40")
ROWS = (ScoreRow(2, 5, b"tag of 2"), ScoreRow(9, 10**18, b"tag of 9"))
DRAW = b"\x04" * 32


def commit(context=CONTEXT, seed=SEED, layers=BLOCKS, salt=SALT, vectors=VECTORS):
    root = compute_vectors_root(layers, vectors, NUM_BLOCKS)
    return compute_output_commitment(context, seed=seed, layers=layers, salt=salt, root=root)


def open_output(commitment, context=CONTEXT, **changes):
    fields = {
        "seed": SEED,
        "layers": BLOCKS,
        "salt": SALT,
        "vectors": VECTORS,
        "num_layers": NUM_BLOCKS,
    }
    check_output_reveal(commitment, context, **(fields | changes))


def refuse_output(commitment, context=CONTEXT, **changes):
    with pytest.raises(CommitmentMismatch) as caught:
        open_output(commitment, context, **changes)
    assert caught.value.reason is Reason.COMMITMENT_MISMATCH


def commit_audit(context=CONTEXT, **changes):
    fields = {"draw": DRAW, "salt": SALT, "layers": (0, 4), "vectors": VECTORS}
    return compute_audit_commitment(context, **(fields | changes))


def open_audit(commitment, context=CONTEXT, **changes):
    fields = {"draw": DRAW, "salt": SALT, "layers": (0, 4), "vectors": VECTORS}
    check_audit_reveal(commitment, context, **(fields | changes))


def test_output_commitment_written_out():
    leaves = [
        hashlib.sha256(b"mesh/leaf" + struct.pack("<I", layer) + raw).digest()
        for layer, raw in zip((1, 2), VECTORS, strict=True)
    ]
    root = hashlib.sha256(
        b"mesh/root" + struct.pack("<II", 1, 3) + b"".join(leaves) + bytes(32)
    ).digest()
    expected = hashlib.sha256(
        b"mesh/commit"
        + b"\x01" * 32
        + struct.pack("<II", 7, 5)
        + KEY.peer_id.public_key
        + SEED
        + struct.pack("<II", 1, 3)
        + SALT
        + root
    ).digest()
    assert compute_leaf(1, VECTORS[0]) == leaves[0]
    assert compute_root(BLOCKS, leaves) == root
    assert commit() == expected


def test_score_commitment_written_out():
    rows = struct.pack("<IQQ8s", 2, 5, 0, b"tag of 2")
    rows += struct.pack("<IQQ8s", 9, 10**18, 0, b"tag of 9")
    expected = hashlib.sha256(
        b"mesh/score-commit"
        + b"\x01" * 32
        + struct.pack("<II", 7, 5)
        + KEY.peer_id.public_key
        + SALT
        + hashlib.sha256(rows).digest()
    ).digest()
    assert encode_score_rows(ROWS) == rows
    assert compute_score_commitment(CONTEXT, salt=SALT, rows=ROWS) == expected


def test_audit_commitment_written_out():
    leaves = [
        hashlib.sha256(b"mesh/leaf" + struct.pack("<I", layer) + raw).digest()
        for layer, raw in zip((0, 4), VECTORS, strict=True)
    ]
    expected = hashlib.sha256(
        b"mesh/audit-commit"
        + b"\x01" * 32
        + struct.pack("<II", 7, 5)
        + KEY.peer_id.public_key
        + DRAW
        + SALT
        + b"".join(leaves)
    ).digest()
    assert commit_audit() == expected


def test_tag_written_out():
    expected = hashlib.sha256(struct.pack("<I", 5) + b"h" * 32).digest()[:8]
    assert compute_tag(5, b"h" * 32) == expected


def test_a_tag_is_of_one_validator_and_one_reveal():
    tags = {compute_tag(node, bytes([byte]) * 32) for node in (5, 6) for byte in (1, 2)}
    assert len(tags) == 4


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_the_name_in_a_sighting_is_not_enough_for_a_tag(size):
    with pytest.raises(ValueError):
        compute_tag(5, bytes(size))


def test_salt_written_out():
    purpose = b"mesh/salt" + b"\x01" * 32 + b"\x03" + struct.pack("<II", 7, 5)
    expected = hmac.new(bytes(range(32)), purpose, hashlib.sha256).digest()
    salt = derive_salt(KEY, network_id=b"\x01" * 32, kind=3, epoch=7, node_id=5)
    assert salt == expected


def test_salt_differs_by_network_kind_epoch_node_and_key():
    fields = {"network_id": b"\x01" * 32, "kind": 3, "epoch": 7, "node_id": 5}
    changes = [{}, {"network_id": b"\x02" * 32}, {"kind": 5}, {"epoch": 8}, {"node_id": 6}]
    salts = {derive_salt(KEY, **(fields | change)) for change in changes}
    assert len(salts | {derive_salt(OTHER_KEY, **fields)}) == 6


def test_honest_reveal_opens_its_commitment():
    open_output(commit())
    check_score_reveal(
        compute_score_commitment(CONTEXT, salt=SALT, rows=ROWS), CONTEXT, salt=SALT, rows=ROWS
    )
    open_audit(commit_audit())


def test_what_a_record_opens_is_bound_to_its_envelope():
    envelope = seal(
        KEY, kind=4, network_id=b"\x01" * 32, epoch=7, expires_at=9, node_id=5, body=b""
    )
    assert make_commit_context(envelope) == CONTEXT


def test_copied_digest_opens_for_nobody_else():
    copycat = dataclasses.replace(CONTEXT, node_id=6, author=OTHER_KEY.peer_id)
    refuse_output(commit(), copycat)


def test_copied_digest_of_a_twin_with_the_same_key_does_not_open():
    refuse_output(commit(), dataclasses.replace(CONTEXT, node_id=6))


def test_stolen_node_id_does_not_open():
    refuse_output(commit(), dataclasses.replace(CONTEXT, author=OTHER_KEY.peer_id))


def test_commit_from_another_epoch_does_not_open():
    refuse_output(commit(), dataclasses.replace(CONTEXT, epoch=8))


def test_commit_from_another_network_does_not_open():
    refuse_output(commit(), dataclasses.replace(CONTEXT, network_id=b"\x09" * 32))


def test_commit_to_another_challenge_does_not_open():
    refuse_output(commit(seed=b"\x09" * 32))


def test_commit_of_another_range_does_not_open():
    refuse_output(commit(layers=LayerRange(0, 2)))
    refuse_output(commit(), layers=LayerRange(0, 2))


def test_other_salt_does_not_open():
    refuse_output(commit(), salt=b"\x04" * 32)


@pytest.mark.parametrize("position", [0, 3, 4, 7])
def test_every_changed_vector_byte_is_seen(position):
    joined = bytearray(b"".join(VECTORS))
    joined[position] ^= 1
    refuse_output(commit(), vectors=(bytes(joined[:4]), bytes(joined[4:])))


def test_swapped_vectors_do_not_open():
    refuse_output(commit(), vectors=VECTORS[::-1])


def test_salt_boundary_cannot_be_moved():
    root = compute_vectors_root(BLOCKS, VECTORS, NUM_BLOCKS)
    joined = SALT + root
    for size in (0, 31, 33, 64):
        refuse_output(commit(), salt=joined[:size])
        with pytest.raises(ValueError):
            compute_output_commitment(
                CONTEXT, seed=SEED, layers=BLOCKS, salt=joined[:size], root=joined[size:]
            )


def test_vector_boundary_cannot_be_moved():
    joined = b"".join(VECTORS)
    for cut in (0, 1, 3, 5, 8):
        refuse_output(commit(), vectors=(joined[:cut], joined[cut:]))


def test_a_personal_lane_own_or_copied_opens_nothing():
    """Lanes are not built: nothing but zeros may stand in their place."""
    leaves = [compute_leaf(layer, raw) for layer, raw in zip((1, 2), VECTORS, strict=True)]
    lane = hashlib.sha256(b"an answer to an input of one's own key").digest()
    message = b"mesh/root" + struct.pack("<II", 1, 3) + b"".join(leaves)
    without, with_lane = (
        compute_output_commitment(
            CONTEXT,
            seed=SEED,
            layers=BLOCKS,
            salt=SALT,
            root=hashlib.sha256(message + place).digest(),
        )
        for place in (bytes(32), lane)
    )
    open_output(without)
    refuse_output(with_lane)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_reveal_with_another_number_of_vectors_does_not_open(count):
    refuse_output(commit(), vectors=(VECTORS * 2)[:count])


def test_range_that_ends_past_the_model_does_not_open():
    refuse_output(commit(), layers=LayerRange(1, 5))


def test_last_range_owes_the_head_too():
    last = LayerRange(2, 4)
    vectors = (*VECTORS, b"\x00\x00\x40\x40")
    commitment = commit(layers=last, vectors=vectors)
    open_output(commitment, layers=last, vectors=vectors)
    refuse_output(commitment, layers=last, vectors=vectors[:2])
    leaves = [compute_leaf(layer, raw) for layer, raw in zip((2, 3, 4), vectors, strict=True)]
    assert compute_vectors_root(last, vectors, NUM_BLOCKS) == compute_root(last, leaves)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_commitment_of_another_size_does_not_open(size):
    refuse_output((commit() + bytes(1))[:size])


@pytest.mark.parametrize(
    "change",
    [
        {"epoch": 8},
        {"node_id": 6},
        {"network_id": b"\x09" * 32},
        {"author": OTHER_KEY.peer_id},
    ],
    ids=lambda change: next(iter(change)),
)
def test_copied_score_and_audit_commitments_open_for_their_author_alone(change):
    commitment = compute_score_commitment(CONTEXT, salt=SALT, rows=ROWS)
    other = dataclasses.replace(CONTEXT, **change)
    with pytest.raises(CommitmentMismatch):
        check_score_reveal(commitment, other, salt=SALT, rows=ROWS)
    with pytest.raises(CommitmentMismatch):
        open_audit(commit_audit(), other)


@pytest.mark.parametrize(
    "rows",
    [
        (),
        ROWS[:1],
        ROWS[::-1],
        ROWS + ROWS[1:],
        (ROWS[0]._replace(total=6), ROWS[1]),
        (ROWS[0]._replace(node_id=3), ROWS[1]),
        (ROWS[0]._replace(tag=b"tag of 3"), ROWS[1]),
        (ROWS[0]._replace(tag=b"short"), ROWS[1]),
        (ROWS[0]._replace(total=-1),),
        (ROWS[0]._replace(total=MAX_TOTAL + 1),),
        (ROWS[0]._replace(total=2**128),),
        (ROWS[0]._replace(node_id=2**32),),
        (ROWS[0]._replace(node_id=-1),),
    ],
)
def test_other_or_unsorted_scores_do_not_open(rows):
    commitment = compute_score_commitment(CONTEXT, salt=SALT, rows=ROWS)
    with pytest.raises(CommitmentMismatch):
        check_score_reveal(commitment, CONTEXT, salt=SALT, rows=rows)


@pytest.mark.parametrize(
    "change",
    [
        {"draw": b"\x05" * 32},
        {"draw": b"short"},
        {"salt": b"\x05" * 32},
        {"salt": SALT + b"\x00"},
        {"layers": (0, 3)},
        {"layers": (4, 0)},
        {"layers": (0,)},
        {"layers": (0, 4, 5)},
        {"vectors": VECTORS[::-1]},
        {"vectors": (VECTORS[0],)},
        {"vectors": (VECTORS[0] + VECTORS[1][:1], VECTORS[1][1:])},
        {"layers": (), "vectors": ()},
    ],
)
def test_other_reference_rows_do_not_open(change):
    with pytest.raises(CommitmentMismatch):
        open_audit(commit_audit(), **change)


def test_score_commitment_is_no_output_commitment():
    root = hashlib.sha256(encode_score_rows(ROWS)).digest()
    output = compute_output_commitment(CONTEXT, seed=SEED, layers=BLOCKS, salt=SALT, root=root)
    assert output != compute_score_commitment(CONTEXT, salt=SALT, rows=ROWS)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_network_id_of_another_size_is_our_own_mistake(size):
    with pytest.raises(ValueError):
        CommitContext(bytes(size), 7, 5, KEY.peer_id)
    with pytest.raises(ValueError):
        derive_salt(KEY, network_id=bytes(size), kind=3, epoch=7, node_id=5)
