"""Writes the golden vectors: ``python -m tests.vectors.generate``.

Inputs are chosen here, answers come from the implementation, and test_vectors.py checks them
against independent code as well. A change of an answer is a change of the protocol.
"""

import json
import struct
from pathlib import Path

from consensus.errors import ConsensusError
from keys.errors import KeysError
from tests.vectors.epochs import SUBNET, epochs, make_epoch
from tests.vectors.runner import run

DIRECTORY = Path(__file__).parent
NETWORK = bytes(range(32)).hex()
OTHER_NETWORK = bytes(range(1, 33)).hex()
BLOCK_HASH = bytes(range(32, 64)).hex()
SEED = bytes(range(64, 96)).hex()
KEY = bytes(range(32)).hex()
OTHER_KEY = bytes(range(100, 132)).hex()
SALT = bytes(range(128, 160)).hex()
TINY = {"num_blocks": 2, "hidden_size": 8, "vocab_size": 50}
SMALL = {"num_blocks": 6, "hidden_size": 100, "vocab_size": 256}
TAU = 2.0**-12
ONE = 10**18


def case(name, operation, **fields):
    return {"name": name, "operation": operation, "input": fields}


def floats(*values):
    return struct.pack(f"<{len(values)}f", *values).hex()


def challenge_cases():
    seed = {"network_id": NETWORK, "epoch": 7, "seed_height": 140, "block_hash": BLOCK_HASH}
    yield case("seed", "seed", **seed)
    yield case("seed of epoch 0", "seed", **(seed | {"epoch": 0, "seed_height": 0}))
    yield case("seed of the last epoch", "seed", **(seed | {"epoch": 2**32 - 1}))
    yield case("seed of another network", "seed", **(seed | {"network_id": OTHER_NETWORK}))
    yield case("network id too short", "seed", **(seed | {"network_id": NETWORK[2:]}))
    yield case("block hash too long", "seed", **(seed | {"block_hash": BLOCK_HASH + "00"}))
    for block in (0, 1, 2):
        yield case(
            f"input of block {block}",
            "block_input",
            seed=SEED,
            block=block,
            shape=TINY,
            preset="mainnet",
        )
    drawn = {"seed": SEED, "shape": SMALL, "preset": "minimal"}
    yield case("input of the head", "block_input", block=6, **drawn)
    yield case("input of no block", "block_input", block=7, **drawn)
    yield case("token ids", "token_ids", **drawn)
    yield case("token ids of one token", "token_ids", **(drawn | {"shape": TINY}))
    yield case("head rows", "head_rows", **drawn)
    yield case("head rows, whole vocabulary", "head_rows", **(drawn | {"shape": TINY}))
    yield case("coordinates", "coordinates", seed=SEED, block=3, length=100, preset="minimal")
    yield case(
        "coordinates not needed", "coordinates", seed=SEED, block=3, length=64, preset="minimal"
    )
    yield case("seed too short", "coordinates", seed="00", block=3, length=100, preset="minimal")
    yield case("length of a block", "vector_length", block=0, shape=SMALL, preset="minimal")
    yield case("length of the head", "vector_length", block=6, shape=SMALL, preset="minimal")
    yield case("length of no block", "vector_length", block=-1, shape=SMALL, preset="minimal")
    vectors = {
        "ordinary": floats(1.5, -2.25),
        "minus zero and denormal": floats(-0.0, 1e-45),
        "just below the bound": floats(2047.9998779296875, -2047.9998779296875),
        "at the bound": floats(2048.0, 0.0),
        "at the negative bound": floats(0.0, -2048.0),
        "huge": floats(1e38, 0.0),
        "infinite": floats(0.0, float("inf")),
        "not a number": floats(float("nan"), 0.0),
        "signalling not a number": "010080ff00000000",
        "empty": "",
        "one byte short": floats(0.0, 0.0)[2:],
        "one value long": floats(0.0, 0.0, 0.0),
    }
    for name, raw in vectors.items():
        yield case(f"vector: {name}", "decode_vector", raw=raw, length=2)
    for name, value, scale in (
        ("just below the bound", 255.99998474121094, 3),
        ("at the bound", 256.0, 3),
        ("above the bound of other layers", 4095.999755859375, -1),
        ("at a larger bound", -4096.0, -1),
    ):
        yield case(
            f"scaled vector: {name}", "decode_vector", raw=floats(0.0, value), length=2, scale=scale
        )
    wide = {"num_blocks": 2, "hidden_size": 257, "vocab_size": 300}
    for block, name in ((1, "a wide block"), (2, "a wide head")):
        yield case(f"length of {name}", "vector_length", block=block, shape=wide, preset="mainnet")
    for length in (256, 257):
        yield case(
            f"coordinates of {length} values",
            "coordinates",
            seed=SEED,
            block=1,
            length=length,
            preset="mainnet",
        )
    for name, scales in {"too few": [0, 1], "past the limit": [0, 65, 0]}.items():
        yield case(
            f"{name} scales",
            "vector_length",
            block=0,
            shape=TINY | {"scales": scales},
            preset="minimal",
        )


def commitment_cases():
    context = {"network_id": NETWORK, "epoch": 7, "node_id": 5, "key_seed": KEY}
    commit = {
        "context": context,
        "seed": SEED,
        "blocks": [1, 3],
        "salt": SALT,
        "vectors": [floats(1.0, 2.0), floats(3.0, 4.0)],
        "num_blocks": 4,
    }
    with_head = commit | {"blocks": [2, 4], "vectors": [*commit["vectors"], floats(5.0)]}
    salt = {"key_seed": KEY, "network_id": NETWORK, "kind": 3, "epoch": 7, "node_id": 5}
    yield case("salt", "salt", **salt)
    yield case("salt of a score commit", "salt", **(salt | {"kind": 5}))
    yield case("salt with a short network id", "salt", **(salt | {"network_id": "00"}))
    yield case("commitment", "output_commitment", **commit)
    yield case("commitment with the head", "output_commitment", **with_head)
    yield case(
        "commitment of one block",
        "output_commitment",
        **(commit | {"blocks": [0, 1], "vectors": commit["vectors"][:1]}),
    )
    yield case(
        "commitment with a vector too few",
        "output_commitment",
        **(commit | {"vectors": commit["vectors"][:1]}),
    )
    yield case("commitment past the model", "output_commitment", **(commit | {"blocks": [3, 5]}))
    yield case("commitment with a short salt", "output_commitment", **(commit | {"salt": "00"}))
    made = run(case("", "output_commitment", **commit))["commitment"]
    changes = {
        "honest reveal": {},
        "copied by another node": {"context": context | {"node_id": 6, "key_seed": OTHER_KEY}},
        "copied under its node id": {"context": context | {"key_seed": OTHER_KEY}},
        "from another epoch": {"context": context | {"epoch": 8}},
        "from another network": {"context": context | {"network_id": OTHER_NETWORK}},
        "to another challenge": {"seed": BLOCK_HASH},
        "of another range": {"blocks": [0, 2]},
        "with another salt": {"salt": SEED},
        "with the salt boundary moved": {"salt": SALT + "00"},
        "with swapped vectors": {"vectors": commit["vectors"][::-1]},
        "with the vector boundary moved": {
            "vectors": [floats(1.0), floats(2.0, 3.0, 4.0)],
        },
        "with a changed bit": {"vectors": [floats(1.0, 2.0), floats(3.0, -4.0)]},
        "with a vector too many": {"vectors": [*commit["vectors"], ""]},
    }
    for name, change in changes.items():
        yield case(f"open: {name}", "open_output", commitment=made, **(commit | change))
    scored = {"context": context, "salt": SALT, "scores": [[2, "5"], [9, str(ONE)]]}
    yield case("score commitment", "score_commitment", **scored)
    yield case("score commitment of nothing", "score_commitment", **(scored | {"scores": []}))
    yield case(
        "score commitment, unsorted",
        "score_commitment",
        **(scored | {"scores": scored["scores"][::-1]}),
    )
    yield case(
        "score commitment, node twice",
        "score_commitment",
        **(scored | {"scores": [[2, "5"], [2, "5"]]}),
    )
    yield case(
        "score commitment, score above u128",
        "score_commitment",
        **(scored | {"scores": [[2, str(2**128)]]}),
    )
    made = run(case("", "score_commitment", **scored))
    for name, change in {
        "honest reveal": {},
        "copied": {"context": context | {"node_id": 6, "key_seed": OTHER_KEY}},
        "from another epoch": {"context": context | {"epoch": 6}},
        "with a changed score": {"scores": [[2, "6"], [9, str(ONE)]]},
        "with a missing score": {"scores": [[2, "5"]]},
    }.items():
        yield case(f"open scores: {name}", "open_scores", commitment=made, **(scored | change))


def envelope_cases():
    fields = {
        "key_seed": KEY,
        "kind": 3,
        "network_id": NETWORK,
        "epoch": 7,
        "expires_at": 1_700_000_000,
        "node_id": 5,
        "body": "00ff10",
    }
    yield case("envelope", "seal", **fields)
    yield case("empty body", "seal", **(fields | {"body": ""}))
    largest = {"kind": 255, "epoch": 2**32 - 1, "expires_at": 2**64 - 1, "node_id": 2**32 - 1}
    yield case("largest fields", "seal", **(fields | largest))
    yield case("kind out of range", "seal", **(fields | {"kind": 256}))
    yield case("epoch out of range", "seal", **(fields | {"epoch": -1}))
    yield case("network id too short", "seal", **(fields | {"network_id": NETWORK[2:]}))
    raw = bytes.fromhex(run(case("", "seal", **fields))["bytes"])

    def changed(position, value):
        return raw[:position] + bytes([value]) + raw[position + 1 :]

    order = 2**252 + 27742317777372353535851937790883648493
    scalar = int.from_bytes(raw[-32:], "little") + order
    author = len(raw) - 64 - 3 - 4 - 32
    small_order = raw[:author] + bytes(32) + raw[author + 32 : -64] + bytes(64)
    for name, content in {
        "as sealed": raw,
        "other magic": changed(0, 0),
        "other version": changed(4, 2),
        "other kind": changed(5, 4),
        "other epoch": changed(38, 8),
        "other author": changed(author, 0),
        "other body": changed(len(raw) - 65, 0),
        "other signature": changed(len(raw) - 1, 0),
        "longer body length": changed(author + 32, 4),
        "one byte short": raw[:-1],
        "one byte long": raw + b"\0",
        "nothing": b"",
        "non-canonical scalar": raw[:-32] + scalar.to_bytes(32, "little"),
        "small-order key": small_order,
    }.items():
        yield case(f"open: {name}", "open_envelope", raw=content.hex(), max_body_size=3)
    yield case("open: above the size cap", "open_envelope", raw=raw.hex(), max_body_size=2)


def phase_cases():
    for length in (0, 1, 19, 20, 21, 33, 50, 51, 100, 101, 300):
        yield case(f"epoch of {length} blocks", "schedule", length=length)


def block_answers(*vectors, coldkeys=None):
    keys = coldkeys or range(len(vectors))
    return [
        {"node_id": node_id, "coldkey": bytes([key] * 20).hex(), "vector": vector}
        for node_id, (key, vector) in enumerate(zip(keys, vectors, strict=True))
    ]


def scoring_cases():
    a = floats(1.0, 0.5, -0.25, 0.125)
    b = floats(1.0 + 2**-19, 0.5, -0.25, 0.125)
    c = floats(1.0, 0.5 - 2**-19, -0.25, 0.125 + 2**-20)
    int8 = floats(1.003, 0.501, -0.249, 0.1255)
    wrong = floats(-3.0, 7.0, 0.0, 1.0)
    nan = floats(1.0, float("nan"), 0.0, 0.0)
    bound = floats(2047.9998779296875, -2047.9998779296875, 0.0, 0.0)
    zero, minus_zero = floats(0.0, 0.0, 0.0, 0.0), floats(-0.0, -0.0, -0.0, -0.0)
    quantum = floats(2**-20, 0.0, 0.0, 0.0)
    half_quantum = floats(1.0 + 2**-21, 1.0 + 3 * 2**-21, -1.0 - 2**-21, 0.0)
    ones = floats(1.0, 1.0, -1.0, 0.0)
    denormal = floats(1e-45, -1e-45, 0.0, 0.0)

    def near(fraction, sign=1.0):
        return floats(1.0, sign * fraction * TAU, 0.0, 0.0)

    steered = floats(5 * -3.0 - 3 * 1.0 + 3.0, 5 * 7.0 - 1.5 - 7.0, 0.75, 5 - 0.375 - 1.0)
    blocks = {
        "nobody": block_answers(),
        "one alone": block_answers(a),
        "one alone, wrong": block_answers(wrong),
        "two agree": block_answers(a, b),
        "one garbage of 2": block_answers(a, wrong),
        "three agree to the bit": block_answers(a, a, a),
        "three agree within noise": block_answers(a, b, c),
        "one garbage of 3": block_answers(a, b, wrong),
        "one garbage of 6": block_answers(a, b, c, wrong, a, b),
        "int8 weights": block_answers(a, b, c, int8),
        "half collude": block_answers(a, b, wrong, wrong),
        "3 colluders of 5": block_answers(a, b, wrong, wrong, wrong),
        "3 colluders of one coldkey": block_answers(
            a, b, wrong, wrong, wrong, coldkeys=[0, 1, 2, 2, 2]
        ),
        "mean steering by 2 of 5": block_answers(a, b, c, wrong, steered),
        "a coldkey votes with its first node": block_answers(wrong, a, b, c, coldkeys=[0, 0, 1, 2]),
        "a coldkey votes with its first valid node": block_answers(
            nan, a, b, c, coldkeys=[0, 0, 1, 2]
        ),
        "not a number": block_answers(a, b, c, nan),
        "only invalid vectors": block_answers(nan, a[:-8], ""),
        "wrong length": block_answers(a, b, c, a + "00000000"),
        "at the bound": block_answers(bound, bound, bound, a),
        "above the bound": block_answers(a, b, c, floats(2048.0, 0.0, 0.0, 0.0)),
        "zeros of both signs": block_answers(zero, minus_zero, zero),
        "denormals are zero": block_answers(zero, denormal, zero),
        "ties round to even": block_answers(ones, half_quantum, ones),
        "a quantum from a zero median": block_answers(zero, zero, zero, quantum),
        "far from a zero median": block_answers(zero, zero, zero, bound),
        "just inside the tolerance": block_answers(near(0), near(0), near(0.99)),
        "at the tolerance": block_answers(near(0), near(0), near(1)),
        "just outside the tolerance": block_answers(near(0), near(0), near(1.01)),
        "two camps and one between them": block_answers(
            near(0.75), near(0.75, -1.0), near(0), coldkeys=[0, 1, 1]
        ),
        "a chain of near neighbours": block_answers(
            near(0), near(0.9), near(1.8), near(2.7), near(3.6)
        ),
    }
    for name, answers in blocks.items():
        yield case(name, "block_scores", length=4, answers=answers)
    small = block_answers(
        *(floats(*(2.0**-12 * value for value in (1.0, 0.5 + n, -0.25))) for n in (0, 2e-6, 1e-3))
    )
    for scale in (0, 12, 24):
        yield case(
            f"a block that adds little, scale {scale}",
            "block_scores",
            length=3,
            answers=small,
            scale=scale,
        )
    large = block_answers(*(floats(3000.0 + n, 1.0, 0.0) for n in (0.0, 2**-10, 9000.0)))
    for scale in (0, -2, -4):
        yield case(
            f"a block that adds much, scale {scale}",
            "block_scores",
            length=3,
            answers=large,
            scale=scale,
        )
    late = block_answers(a, b, c)
    for refusal in ("late", "not_revealed", "commitment_mismatch"):
        silent = {"node_id": 9, "coldkey": "09", "refusal": refusal}
        yield case(f"one {refusal}", "block_scores", length=4, answers=[silent, *late])
    yield case("one node twice", "block_scores", length=4, answers=[late[0], late[0]])
    yield from hoster_cases(a[:16], wrong[:16])


def hoster_cases(good, wrong):
    shape = {"num_blocks": 3, "hidden_size": 2, "vocab_size": 2}

    def hoster(node_id, start, end, vectors=None, **changes):
        owed = end - start + (end == 3)
        fields = {"node_id": node_id, "coldkey": f"{node_id:02x}", "blocks": [start, end]}
        return fields | {"vectors": vectors or [good] * owed} | changes

    sets = {
        "no hosters": [],
        "three of everything": [hoster(n, 0, 3) for n in (1, 2, 3)],
        "one of everything": [hoster(1, 0, 3)],
        "overlapping ranges": [hoster(1, 0, 2), hoster(2, 1, 3), hoster(3, 0, 3), hoster(4, 0, 1)],
        "one wrong block": [
            hoster(1, 0, 3),
            hoster(2, 0, 3),
            hoster(3, 0, 3, [good, wrong, good, good]),
        ],
        "one invalid vector": [
            hoster(1, 0, 3),
            hoster(2, 0, 3),
            hoster(3, 0, 3, [good, good, "00", good]),
        ],
        "one not revealed": [
            hoster(1, 0, 3),
            hoster(2, 0, 3),
            {"node_id": 3, "coldkey": "03", "blocks": [0, 3], "refusal": "not_revealed"},
        ],
        "one past the model": [
            hoster(1, 0, 3),
            {"node_id": 3, "coldkey": "03", "blocks": [2, 9], "refusal": "wrong_range"},
        ],
        "a vector too few": [hoster(1, 0, 3, [good])],
        "one hoster twice": [hoster(1, 0, 3), hoster(1, 0, 3)],
    }
    for name, hosters in sets.items():
        yield case(f"hosters: {name}", "hoster_scores", shape=shape, hosters=hosters)
    scaled = shape | {"scales": [0, 11, 9, -2]}
    noise = floats(*(value + 2**-19 for value in struct.unpack("<2f", bytes.fromhex(good))))
    yield case(
        "hosters: each block has its scale",
        "hoster_scores",
        shape=scaled,
        hosters=[hoster(n, 0, 3, [noise] * 4 if n == 3 else None) for n in (1, 2, 3)],
    )


def validator_cases():
    truth = [[1, str(10**17)], [2, str(10**17)], [3, str(5 * 10**16)]]
    noisy = [[1, str(10**17 + 7)], *truth[1:]]
    off = [[1, str(10**17 + 2 * 10**16)], *truth[1:]]
    pool = 4 * 10**17

    def ballots(*lists, coldkeys=None):
        keys = coldkeys or range(len(lists))
        return [
            {"node_id": 5 + row, "coldkey": f"{key:02x}", "scores": scores}
            for row, (key, scores) in enumerate(zip(keys, lists, strict=True))
        ]

    silent = {"node_id": 9, "coldkey": "09", "refusal": "not_revealed"}
    sets = {
        "nobody": ([], truth),
        "three equal": (ballots(truth, truth, truth), None),
        "three with noise": (ballots(truth, truth, noisy), None),
        "one half a gate off": (ballots(truth, truth, off), None),
        "an empty list": (ballots(truth, truth, truth, []), None),
        "an invented peer": (ballots(truth, truth, truth, [*truth, [77, "0"]]), None),
        "a sum above the pool": (ballots(truth, truth, truth, [[1, str(pool + 1)]]), None),
        "a huge liar": (ballots(truth, truth, truth, [[1, str(2**128 - 1)]]), None),
        "the whole pool to one": (ballots(truth, truth, truth, [[4, str(pool)]]), None),
        "one node twice in a list": (ballots(truth, truth, truth, [truth[0], truth[0]]), None),
        "liars of one coldkey": (
            ballots([[4, "9"]], [[4, "9"]], [[4, "9"]], truth, truth, coldkeys=[1, 1, 1, 2, 3]),
            None,
        ),
        "one with an attested proposal": (ballots(truth), truth),
        "two with an attested proposal": (ballots(truth, off), truth),
        "two liars against the proposal": (ballots([[4, str(pool)]], [[4, str(pool)]]), truth),
        "two without a proposal": (ballots(truth, truth), None),
        "all far apart": (
            ballots([[1, str(pool)]], [[2, str(pool)]], [[3, str(pool)]]),
            None,
        ),
        "one not revealed": ([*ballots(truth, truth, truth), silent], None),
        "one validator twice": ([silent, silent], None),
    }
    for name, (entries, attested) in sets.items():
        yield case(
            name, "validator_scores", node_ids=[1, 2, 3, 4], ballots=entries, attested=attested
        )


def proposal_cases():
    fields = {
        "classes": [[1, "VALIDATOR"], [2, "INCLUDED"], [3, "IDLE"], [4, "VALIDATOR"]],
        "present": [1, 2, 3, 4],
        "hosters": [1, 2],
        "hoster_scores": [[1, str(10**17)], [2, "12"], [3, "13"], [4, "14"]],
        "validator_scores": [[1, "21"], [2, "22"], [3, "23"], [4, str(6 * 10**17)]],
        "is_first_elected": False,
    }
    yield case("paid in one role", "proposal_rows", **fields)
    yield case("silent nodes left out", "proposal_rows", **(fields | {"present": [4]}))
    yield case("nobody present", "proposal_rows", **(fields | {"present": []}))
    yield case(
        "nobody scored", "proposal_rows", **(fields | {"hoster_scores": [], "validator_scores": []})
    )
    yield case(
        "first elected epoch",
        "proposal_rows",
        **(fields | {"present": [], "is_first_elected": True}),
    )
    own = [[1, "10"], [2, "0"], [5, str(ONE)]]
    for name, proposed in {
        "equal": own,
        "other order": own[::-1],
        "other score": [[1, "11"], *own[1:]],
        "node missing": own[:2],
        "node added": [*own, [6, "0"]],
        "node twice": [*own, own[0]],
        "empty": [],
    }.items():
        yield case(f"attest: {name}", "check_proposal", own=own, proposed=proposed)


def epoch_cases():
    for name, previous, facts in epochs():
        yield case(name, "score_epoch", **SUBNET, facts=facts, previous=previous)
    yield case("first elected epoch", "first_rows", nodes=make_epoch()["nodes"])


FILES = {
    "challenge": challenge_cases,
    "commitment": commitment_cases,
    "envelope": envelope_cases,
    "phases": phase_cases,
    "scoring": scoring_cases,
    "validator_scoring": validator_cases,
    "proposal": proposal_cases,
    "epoch": epoch_cases,
}


def build(cases):
    """Return the finished vectors: each case with its answer or its error."""
    vectors = []
    for vector in cases():
        try:
            vectors.append(vector | {"expected": run(vector)})
        except (ValueError, ConsensusError, KeysError) as error:
            vectors.append(vector | {"error": type(error).__name__})
    return vectors


def render(vectors):
    """Return the file's text: one vector a line, so that a change of one shows as one."""
    lines = ",\n".join(json.dumps(vector, separators=(",", ":")) for vector in vectors)
    return f"[\n{lines}\n]\n"


def main():
    for name, cases in FILES.items():
        (DIRECTORY / f"{name}.json").write_text(render(build(cases)), encoding="ascii")


if __name__ == "__main__":
    main()
