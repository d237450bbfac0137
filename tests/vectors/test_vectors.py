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
    assert len(vectors) >= 100
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


def derive_block_scores(length, answers, scale=0):
    raw = {
        answer["node_id"]: unhex(answer["vector"]) if "vector" in answer else None
        for answer in answers
    }
    rows = [(answer["node_id"], answer["coldkey"], raw[answer["node_id"]]) for answer in answers]
    verdict, results = reference.score_block(rows, length, scale)
    refusals = {answer["node_id"]: answer.get("refusal") for answer in answers}
    valid = [row for row in rows if row[2] is not None and reference.decode(row[2], length, scale)]

    def refusal_of(node_id, distance):
        if distance is not None:
            return None
        if refusals[node_id] is not None:
            return refusals[node_id]
        if node_id not in [row[0] for row in valid]:
            return "invalid_vector"
        return "no_majority" if verdict == "abstain" else "outside_tolerance"

    return {
        "verdict": verdict,
        "num_votes": len({coldkey for _, coldkey, _ in valid}),
        "answers": [
            {
                "node_id": node_id,
                "refusal": refusal_of(node_id, distance),
                "distance": distance,
                "score": str(score),
            }
            for node_id, (score, distance) in sorted(results.items())
        ],
    }


def derive_hoster_scores(shape, hosters):
    totals, verdicts = reference.score_hosters(shape, hosters)
    rows = [[node_id, str(score)] for node_id, score in sorted(totals.items())]
    return {"scores": rows, "verdicts": verdicts}


def derive_validator_scores(node_ids, ballots, attested):
    rows = [
        (ballot["node_id"], ballot["coldkey"], [(node, int(s)) for node, s in ballot["scores"]])
        for ballot in ballots
        if "scores" in ballot
    ]
    centre = None if attested is None else {node: int(score) for node, score in attested}
    scores = reference.score_validators(rows, node_ids, centre)
    return [[ballot["node_id"], str(scores.get(ballot["node_id"], 0))] for ballot in ballots]


def derive_proposal_rows(
    classes, present, hosters, hoster_scores, validator_scores, is_first_elected
):
    rows = []
    for node_id, name in sorted(classes):
        if name not in ("INCLUDED", "VALIDATOR"):
            continue
        if is_first_elected:
            rows.append([node_id, "0"])
        elif node_id in present:
            paid = dict(hoster_scores if node_id in hosters else validator_scores)
            rows.append([node_id, paid.get(node_id, "0")])
    name = hashlib.sha256(b"mesh/proposal" + reference.encode_scores(rows)).hexdigest()
    return {"rows": rows, "hash": name}


def derive_first_rows(nodes):
    return [[node, "0"] for node, _, _, name in nodes if name in ("INCLUDED", "VALIDATOR")]


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
    "seal": reference.sealed,
    "schedule": reference.schedule,
    "block_scores": derive_block_scores,
    "hoster_scores": derive_hoster_scores,
    "validator_scores": derive_validator_scores,
    "proposal_rows": derive_proposal_rows,
    "score_epoch": reference.score_epoch,
    "first_rows": derive_first_rows,
}

DERIVABLE = [
    param
    for param in VECTORS
    if param.values[0]["operation"] in DERIVATIONS and "error" not in param.values[0]
]


@pytest.mark.parametrize("vector", DERIVABLE)
def test_independent_code_matches_the_vector(vector):
    expected = vector["expected"]
    if vector["operation"] == "validator_scores":
        expected = [[node_id, score] for node_id, score, _ in expected]
    if vector["operation"] == "score_epoch":
        validators = [[node_id, score] for node_id, score, _ in expected["validators"]]
        expected = expected | {"validators": validators}
    assert DERIVATIONS[vector["operation"]](**vector["input"]) == expected


@pytest.mark.parametrize("seed", range(3))
def test_the_order_in_which_records_were_seen_changes_nothing(seed):
    rng = random.Random(seed)
    for vector in json.loads((generate.DIRECTORY / "epoch.json").read_text(encoding="ascii")):
        for epoch in (vector["input"].get("facts"), vector["input"].get("previous")):
            if epoch is not None:
                rng.shuffle(epoch["records"])
        assert run(vector) == vector["expected"], vector["name"]
