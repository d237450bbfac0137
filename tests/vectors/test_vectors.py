"""The golden vectors pin the protocol: the implementation and independent code both match."""

import hashlib
import hmac
import json
import random
import struct

import pytest

from consensus.errors import ConsensusError
from keys.errors import KeysError
from tests.vectors import generate, reference
from tests.vectors.runner import run

VECTORS = [
    pytest.param(vector, id=f"{name}: {vector['name']}")
    for name in generate.FILES
    for vector in json.loads((generate.DIRECTORY / f"{name}.json").read_text(encoding="ascii"))
]


@pytest.mark.parametrize("vector", VECTORS)
def test_implementation_matches_the_vector(vector):
    if "error" not in vector:
        assert run(vector) == vector["expected"]
        return
    with pytest.raises((ValueError, ConsensusError, KeysError)) as caught:
        run(vector)
    assert type(caught.value).__name__ == vector["error"]


@pytest.mark.parametrize("name", generate.FILES)
def test_files_are_what_the_generator_writes(name):
    stored = (generate.DIRECTORY / f"{name}.json").read_text(encoding="ascii")
    assert generate.render(generate.build(generate.FILES[name])) == stored


def test_there_are_enough_vectors_and_enough_of_them_are_invalid():
    vectors = [param.values[0] for param in VECTORS]
    assert len(vectors) >= 300
    assert sum("error" in vector for vector in vectors) >= 0.12 * len(vectors)


unhex = bytes.fromhex


def derive_seed(network_id, epoch, seed_height, block_hash):
    numbers = struct.pack("<II", epoch, seed_height)
    return hashlib.sha256(
        b"mesh/seed" + unhex(network_id) + numbers + unhex(block_hash)
    ).hexdigest()


def derive_block_input(seed, block, shape, preset):
    positions = {"mainnet": 16, "minimal": 4}[preset]
    hidden = shape["hidden_size"]
    message = b"mesh/chal" + unhex(seed) + struct.pack("<I", block)
    stream = hashlib.shake_256(message).digest(positions * hidden)
    values = [max(-127, value) / 64 for value in struct.unpack(f"<{len(stream)}b", stream)]
    return {
        "shape": [positions, hidden],
        "first": values[:8],
        "sha256": hashlib.sha256(struct.pack(f"<{len(values)}f", *values)).hexdigest(),
    }


def derive_token_ids(seed, shape, preset):
    count = {"mainnet": 16, "minimal": 4}[preset]
    drawn = reference.draw(b"mesh/tokens" + unhex(seed), count)
    return [value % shape["vocab_size"] for value in drawn]


def derive_head_rows(seed, shape, preset):
    vocab = shape["vocab_size"]
    wanted = min({"mainnet": 256, "minimal": 32}[preset], vocab)
    return reference.draw_distinct(b"mesh/rows" + unhex(seed), vocab, wanted)


def derive_coordinates(seed, block, length, preset):
    wanted = {"mainnet": 256, "minimal": 64}[preset]
    if length <= wanted:
        return None
    message = b"mesh/coords" + unhex(seed) + struct.pack("<I", block)
    return reference.draw_distinct(message, length, wanted)


def derive_salt(key_seed, network_id, kind, epoch, node_id):
    purpose = b"mesh/salt" + unhex(network_id) + struct.pack("<BII", kind, epoch, node_id)
    return hmac.new(unhex(key_seed), purpose, hashlib.sha256).hexdigest()


def derive_output_commitment(num_blocks, **fields):
    return reference.output_commitment(**fields)


def derive_opened_output(commitment, num_blocks, **fields):
    assert reference.output_commitment(**fields)["commitment"] == commitment
    return "opens"


def derive_opened_scores(commitment, **fields):
    assert reference.score_commitment(**fields) == commitment
    return "opens"


def derive_opened_audit(commitment, **fields):
    assert reference.audit_commitment(**fields) == commitment
    return "opens"


def derive_draw(draw, shape, audit_blocks):
    return list(reference.draw_blocks(draw, shape["num_blocks"] + 1, audit_blocks))


def derive_tag(validator, record_hash):
    return reference.compute_tag(validator, unhex(record_hash)).hex()


DERIVATIONS = {
    "seed": derive_seed,
    "block_input": derive_block_input,
    "token_ids": derive_token_ids,
    "head_rows": derive_head_rows,
    "coordinates": derive_coordinates,
    "salt": derive_salt,
    "output_commitment": derive_output_commitment,
    "open_output": derive_opened_output,
    "score_commitment": reference.score_commitment,
    "open_scores": derive_opened_scores,
    "audit_commitment": reference.audit_commitment,
    "open_audit": derive_opened_audit,
    "draw": derive_draw,
    "tag": derive_tag,
    "seal": reference.sealed,
    "schedule": reference.schedule,
    "score_epoch": reference.score_epoch,
}

DERIVABLE = [
    param
    for param in VECTORS
    if param.values[0]["operation"] in DERIVATIONS and "error" not in param.values[0]
]


@pytest.mark.parametrize("vector", DERIVABLE)
def test_independent_code_matches_the_vector(vector):
    expected = vector["expected"]
    assert DERIVATIONS[vector["operation"]](**vector["input"]) == expected


@pytest.mark.parametrize("seed", range(3))
def test_the_order_in_which_records_were_seen_changes_nothing(seed):
    rng = random.Random(seed)
    for vector in json.loads((generate.DIRECTORY / "epoch.json").read_text(encoding="ascii")):
        if "records" in vector["input"]:
            rng.shuffle(vector["input"]["records"])
            rng.shuffle(vector["input"]["named"])
        assert run(vector) == vector["expected"], vector["name"]
