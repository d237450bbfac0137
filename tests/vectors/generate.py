"""Writes the golden vectors: ``python -m tests.vectors.generate``.

Inputs are chosen here, answers come from the implementation, and test_vectors.py checks them
against independent code as well. A change of an answer is a change of the protocol.
"""

import json
import struct
from pathlib import Path

from consensus.commitment import compute_tag
from consensus.errors import ConsensusError
from keys.errors import KeysError
from tests.vectors.epochs import epochs
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
    tag = "0102030405060708"
    scored = {"context": context, "salt": SALT, "rows": [[2, "5", tag], [9, str(ONE), tag]]}
    yield case("score commitment", "score_commitment", **scored)
    for name, change in {
        "of nothing": [],
        "unsorted": scored["rows"][::-1],
        "node twice": [scored["rows"][0]] * 2,
        "total above the limit": [[2, str(1026 * ONE), tag]],
        "total below 0": [[2, "-1", tag]],
        "tag too short": [[2, "5", tag[2:]]],
        "tag too long": [[2, "5", tag + "00"]],
    }.items():
        yield case(f"score commitment {name}", "score_commitment", **(scored | {"rows": change}))
    made = run(case("", "score_commitment", **scored))
    for name, change in {
        "honest reveal": {},
        "copied": {"context": context | {"node_id": 6, "key_seed": OTHER_KEY}},
        "from another epoch": {"context": context | {"epoch": 6}},
        "with another salt": {"salt": SEED},
        "with a changed total": {"rows": [[2, "6", tag], [9, str(ONE), tag]]},
        "with a changed tag": {"rows": [[2, "5", tag[::-1]], [9, str(ONE), tag]]},
        "with a missing row": {"rows": [[2, "5", tag]]},
    }.items():
        yield case(f"open scores: {name}", "open_scores", commitment=made, **(scored | change))
    audit = {
        "context": context,
        "draw": BLOCK_HASH,
        "salt": SALT,
        "blocks": [1, 4],
        "vectors": [floats(1.0, 2.0), floats(3.0, 4.0)],
    }
    yield case("audit commitment", "audit_commitment", **audit)
    yield case("audit of no block", "audit_commitment", **(audit | {"blocks": [], "vectors": []}))
    yield case("audit with a vector too few", "audit_commitment", **(audit | {"blocks": [1, 2, 3]}))
    yield case("audit with a short draw", "audit_commitment", **(audit | {"draw": "00"}))
    yield case("audit with a short salt", "audit_commitment", **(audit | {"salt": "00"}))
    made = run(case("", "audit_commitment", **audit))
    for name, change in {
        "honest reveal": {},
        "copied": {"context": context | {"node_id": 6, "key_seed": OTHER_KEY}},
        "of another draw": {"draw": SEED},
        "of other blocks": {"blocks": [0, 4]},
        "with another salt": {"salt": SEED},
        "with swapped vectors": {"vectors": audit["vectors"][::-1]},
        "with a vector too many": {"vectors": [*audit["vectors"], floats(0.0)]},
    }.items():
        yield case(f"open audit: {name}", "open_audit", commitment=made, **(audit | change))
    yield case("tag", "tag", validator=4, record_hash=BLOCK_HASH)
    yield case("tag of another validator", "tag", validator=5, record_hash=BLOCK_HASH)
    yield case("tag of another record", "tag", validator=4, record_hash=SEED)
    yield case("tag of a name alone", "tag", validator=4, record_hash=BLOCK_HASH[:32])


def draw_cases():
    for number, shape in enumerate((TINY, SMALL)):
        for wanted in (1, 2, 3):
            for draw in (BLOCK_HASH, SEED):
                yield case(
                    f"draw {wanted} of {shape['num_blocks']} blocks, {number}, {draw[:4]}",
                    "draw",
                    draw=draw,
                    shape=shape,
                    audit_blocks=wanted,
                )
    yield case("draw more blocks than there are", "draw", draw=SEED, shape=TINY, audit_blocks=9)
    yield case("draw with a short hash", "draw", draw="00", shape=TINY, audit_blocks=1)


def body_cases():
    def body(name, kind, *parts):
        return case(name, "decode_body", kind=kind, body=b"".join(parts).hex())

    salt, u32 = bytes(range(32)), struct.Struct("<I").pack
    row = struct.Struct("<I16s8s").pack
    one, tag = (10**18).to_bytes(16, "little"), bytes(8)
    rows = (row(2, one, tag), row(5, bytes(16), tag))
    for name, parts in {
        "score reveal": (salt, u32(2), *rows),
        "score reveal of nothing": (salt, u32(0)),
        "score reveal, unsorted": (salt, u32(2), *rows[::-1]),
        "score reveal, node twice": (salt, u32(2), rows[0], rows[0]),
        "score reveal, a row too few": (salt, u32(2), rows[0]),
        "score reveal, a byte too many": (salt, u32(2), *rows, b"\0"),
        "score reveal, total above the limit": (salt, u32(1), row(2, b"\xff" * 16, tag)),
        "score reveal, count beyond its bytes": (salt, u32(2**32 - 1)),
    }.items():
        yield body(name, "SCORE_REVEAL", *parts)
    yield body("audit commit", "AUDIT_COMMIT", salt, salt)
    yield body("audit commit, too short", "AUDIT_COMMIT", salt)
    yield body("audit commit, too long", "AUDIT_COMMIT", salt, salt, b"\0")
    vector = u32(8) + bytes(8)
    for name, parts in {
        "audit reveal": (salt, u32(1), vector),
        "audit reveal of nothing": (salt, u32(0)),
        "audit reveal of two": (salt, u32(2), vector, vector),
        "audit reveal, a vector too few": (salt, u32(2), vector),
        "audit reveal, a vector of 3 bytes": (salt, u32(1), u32(3), bytes(3)),
        "audit reveal, a vector beyond its bytes": (salt, u32(1), u32(2**31), bytes(8)),
        "audit reveal of 17": (salt, u32(17), *[vector] * 17),
        "audit reveal, trailing bytes": (salt, u32(1), vector, b"\0\0\0\0"),
    }.items():
        yield body(name, "AUDIT_REVEAL", *parts)
    header, seen = struct.Struct("<32sHI").pack, struct.Struct("<BH16s").pack
    name16 = bytes(range(16))
    lines = (seen(1, 0, name16), seen(1, 2, name16), seen(7, 1, name16))
    for name, parts in {
        "sighting": (header(salt, 3, 3), *lines, b"\x05"),
        "sighting of nothing": (header(salt, 0, 0),),
        "sighting of 9 nodes": (header(salt, 9, 1), lines[0], b"\x01\x01"),
        "sighting, unsorted": (header(salt, 3, 2), lines[1], lines[0], b"\0"),
        "sighting, slot twice": (header(salt, 3, 2), lines[0], lines[0], b"\0"),
        "sighting, code 0": (header(salt, 3, 1), seen(0, 0, name16), b"\0"),
        "sighting, code 8": (header(salt, 3, 1), seen(8, 0, name16), b"\0"),
        "sighting, position beyond the roster": (header(salt, 2, 1), lines[1], b"\0"),
        "sighting, probe beyond the roster": (header(salt, 3, 1), lines[0], b"\x08"),
        "sighting without its bitmap": (header(salt, 3, 1), lines[0]),
        "sighting, a bitmap too long": (header(salt, 3, 1), lines[0], b"\0\0"),
        "sighting of 1,025 nodes": (header(salt, 1025, 0), bytes(129)),
        "sighting, count beyond its bytes": (header(salt, 3, 2**32 - 1), b"\0"),
    }.items():
        yield body(name, "SIGHTING", *parts)
    named = struct.Struct("<H32s").pack
    for name, parts in {
        "named list": (u32(2), named(0, salt), named(4, salt)),
        "named list of nothing": (u32(0),),
        "named list, unsorted": (u32(2), named(4, salt), named(0, salt)),
        "named list, position twice": (u32(2), named(4, salt), named(4, salt)),
        "named list, a row too few": (u32(2), named(4, salt)),
        "named list, too short for its count": (b"\1",),
    }.items():
        yield body(name, "NAMED_LIST", *parts)


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
    three = sets["three of everything"]
    drawn = {"1": [{"node_id": n, "coldkey": f"{n:02x}", "vector": good} for n in (21, 22)]}
    withheld = {"node_id": 4, "coldkey": "04", "blocks": [0, 2], "refusal": "not_revealed"}
    for name, change in {
        "one on probation": {"probation": [2]},
        "one unpaid": {"unpaid": [2]},
        "all unpaid": {"unpaid": [1, 2, 3]},
        "a drawn block": {"references": drawn},
        "one refuted": {"references": drawn, "hosters": sets["one wrong block"]},
        "one withheld": {"references": drawn, "hosters": [*three, withheld]},
        "one withheld elsewhere": {"references": {"2": drawn["1"]}, "hosters": [*three, withheld]},
        "an invalid vector drawn": {"references": drawn, "hosters": sets["one invalid vector"]},
        "refuted and unpaid": {
            "references": drawn,
            "hosters": sets["one wrong block"],
            "unpaid": [3],
        },
        "a drawn block without references": {"references": {"1": []}},
    }.items():
        fields = {"shape": shape, "hosters": three} | change
        yield case(f"hosters: {name}", "hoster_scores", **fields)
    scaled = shape | {"scales": [0, 11, 9, -2]}
    noise = floats(*(value + 2**-19 for value in struct.unpack("<2f", bytes.fromhex(good))))
    yield case(
        "hosters: each block has its scale",
        "hoster_scores",
        shape=scaled,
        hosters=[hoster(n, 0, 3, [noise] * 4 if n == 3 else None) for n in (1, 2, 3)],
    )


def validator_cases():
    hashes = {node: bytes([node]) * 32 for node in (1, 2, 3)}

    def rows(validator, totals, known=hashes):
        return [
            [node, str(total), compute_tag(validator, known.get(node, bytes(32))).hex()]
            for node, total in totals.items()
        ]

    def entry(node_id, totals=None, coldkey=None, known=hashes, **changes):
        fields = {"node_id": node_id, "coldkey": f"{coldkey or node_id:02x}"}
        if totals is not None:
            fields["rows"] = rows(node_id, totals, known)
        return fields | changes

    truth = {1: 3 * ONE, 2: 3 * ONE, 3: ONE}
    noisy = truth | {1: 3 * ONE - ONE // 1000}
    off = truth | {1: 3 * ONE - ONE // 10}
    stale = {node: bytes([99]) * 32 for node in hashes}
    silent = {"node_id": 9, "coldkey": "09", "refusal": "not_revealed"}
    three = [entry(n, truth) for n in (5, 6, 7)]
    sets = {
        "nobody": ([], []),
        "three equal": (three, []),
        "three with noise": ([*three[:2], entry(7, noisy)], []),
        "one total off": ([*three, entry(8, off)], []),
        "an empty list": ([*three, entry(8, {})], []),
        "an invented hoster": ([*three, entry(8, truth | {77: ONE})], []),
        "a zero for nobody": ([*three, entry(8, truth | {77: 0})], []),
        "a missed record": ([*three, entry(8, {1: 3 * ONE, 2: 3 * ONE})], []),
        "last epoch's tags": ([*three, entry(8, truth, known=stale)], []),
        "all perfect without tags": (
            [*three, entry(8, dict.fromkeys(truth, 4 * ONE), known=stale)],
            [],
        ),
        "tags of another validator": (
            [*three, {"node_id": 8, "coldkey": "08", "rows": rows(5, truth)}],
            [],
        ),
        "liars of one coldkey": (
            [*(entry(n, {1: ONE}, coldkey=1) for n in (4, 5, 6)), *three[2:], entry(8, truth)],
            [],
        ),
        "a coldkey's first node is paid": ([*three, entry(8, truth, coldkey=5)], []),
        "two count tags only": ([entry(5, truth), entry(6, off)], []),
        "one alone counts tags only": ([entry(5, off)], []),
        "one alone without tags": ([entry(5, truth, known=stale)], []),
        "two, one missed a record": ([entry(5, truth), entry(6, {1: ONE})], []),
        "all far apart": ([entry(5, {1: ONE}), entry(6, {2: ONE}), entry(7, {3: ONE})], []),
        "one not revealed": ([*three, silent], []),
        "only one not revealed": ([silent], []),
        "two audits": (three, [[5, None], [6, None]]),
        "three audits, one wrong": (
            three,
            [[5, None], [6, None], [7, "outside_tolerance"]],
        ),
        "one audit is none": (three, [[5, None]]),
        "one audit, one not revealed": (three, [[5, None], [6, "not_revealed"]]),
        "two audits of one coldkey": (
            [entry(5, truth), entry(6, truth, coldkey=5), entry(7, truth), entry(8, truth)],
            [[5, None], [6, None]],
        ),
        "an auditor without scores": (
            [*three, entry(8, None)],
            [[5, None], [8, None]],
        ),
        "two wrong audits": (three, [[5, "outside_tolerance"], [6, "outside_tolerance"]]),
        "one validator twice": ([silent, silent], []),
    }
    for name, (validators, audits) in sets.items():
        for paid in ("0", "399999999999999999"):
            yield case(
                f"{name}, hosters paid {paid}",
                "validator_pay",
                validators=validators,
                reveal_hashes=[[node, value.hex()] for node, value in hashes.items()],
                audits=audits,
                paid=paid,
            )


def audited_cases():
    a, b, wrong = (floats(1.0, 0.5, -0.25, 0.125 + x) for x in (0.0, 2**-21, 3.0))
    other = floats(-2.0, 0.5, 4.0, 1.0)

    def references(*vectors, coldkeys=None, first=50):
        keys = coldkeys or range(first, first + len(vectors))
        return [
            {"node_id": first + n, "coldkey": bytes([key] * 20).hex(), "vector": vector}
            for n, (key, vector) in enumerate(zip(keys, vectors, strict=True))
        ]

    three, two = block_answers(a, b, a), block_answers(a, b)
    liars = block_answers(a, b, a, wrong, wrong, wrong, wrong)
    sets = {
        "no reference": (three, []),
        "one reference refutes nobody": (block_answers(a, b, wrong), references(a)),
        "two references": (three, references(a, b)),
        "one liar is refuted": (block_answers(a, b, wrong), references(a, b)),
        "4 liars beside 3 honest, 2 references": (liars, references(a, b)),
        "4 liars beside 3 honest, 1 reference": (liars, references(a)),
        "4 liars of one coldkey": (
            block_answers(a, b, a, wrong, wrong, wrong, wrong, coldkeys=[0, 1, 2, 3, 3, 3, 3]),
            references(a, b),
        ),
        "sybil hosters alone refute nobody": (
            block_answers(wrong, wrong, wrong, wrong, a),
            references(a, b),
        ),
        "sybil validators alone refute nobody": (
            block_answers(a, b, a, a, a),
            references(wrong, wrong, wrong),
        ),
        "references disagree": (three, references(a, wrong)),
        "one wrong reference of 3": (three, references(a, b, wrong)),
        "two references of one coldkey": (
            block_answers(a, wrong),
            references(a, a, coldkeys=[9, 9]),
        ),
        "a reference votes for its coldkey": (
            block_answers(wrong, a, b, coldkeys=[50, 1, 2]),
            references(a, b),
        ),
        "an invalid vector is refuted": (
            [*two, {"node_id": 7, "coldkey": "07", "vector": floats(float("nan"), 0.0)}],
            references(a, b),
        ),
        "an unopened reveal is for the caller": (
            [*two, {"node_id": 7, "coldkey": "07", "refusal": "not_revealed"}],
            references(a, b),
        ),
        "an invalid reference": (three, references(a, b, floats(float("inf"), 0.0, 0.0, 0.0))),
        "only references": ([], references(a, b)),
        "three camps": (block_answers(a, wrong, other), references(a, wrong, other)),
    }
    for name, (answers, drawn) in sets.items():
        yield case(f"audited: {name}", "block_scores", length=4, answers=answers, references=drawn)
    yield case(
        "a voiceless liar", "block_scores", length=4, answers=block_answers(a, wrong), voiceless=[1]
    )
    yield case(
        "a voiceless node of a coldkey",
        "block_scores",
        length=4,
        answers=block_answers(wrong, a, b, coldkeys=[0, 0, 1]),
        voiceless=[0],
    )
    yield case("only voiceless nodes", "block_scores", length=4, answers=three, voiceless=[0, 1, 2])
    yield case(
        "a reference answers twice",
        "block_scores",
        length=4,
        answers=three,
        references=references(a, first=0),
    )


def rows_cases():
    before = [[1, "VALIDATOR"], [2, "INCLUDED"], [3, "IDLE"], [4, "VALIDATOR"], [6, "REGISTERED"]]
    after = [[1, "VALIDATOR"], [2, "VALIDATOR"], [3, "INCLUDED"], [4, "VALIDATOR"], [5, "INCLUDED"]]
    fields = {
        "before": before,
        "after": after,
        "present": [1, 2, 4],
        "left_out": [],
        "scores": [[1, str(10**17)], [2, "12"], [3, "13"], [4, "14"], [5, "15"]],
    }
    for name, change in {
        "everybody present": {},
        "a silent validator is left out": {"present": [1, 2]},
        "who was no validator is listed": {"present": []},
        "a refuted node is left out": {"left_out": [4]},
        "an included node on probation is left out": {"left_out": [3]},
        "who left is not listed": {"after": after[:2]},
        "who became idle is not listed": {"after": [[1, "IDLE"], *after[1:]]},
        "nothing was scored": {"scores": [], "present": [1, 2, 3, 4, 5]},
        "nobody": {"before": [], "after": []},
        "a roster that is all new": {"before": []},
    }.items():
        yield case(f"rows: {name}", "rows", **(fields | change))
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
    said = {"unpaid": [2], "probation": [[3, 8], [4, 2]]}
    for name, proposed in {
        "equal": said,
        "one unpaid more": said | {"unpaid": [2, 5]},
        "one unpaid less": said | {"unpaid": []},
        "probation forgets somebody": said | {"probation": [[3, 8]]},
        "probation invents somebody": said | {"probation": [[3, 8], [4, 2], [5, 1]]},
        "probation is shorter": said | {"probation": [[3, 7], [4, 2]]},
    }.items():
        yield case(f"attest: {name}", "check_naming", own=said, proposed=proposed)


def naming_cases():
    nodes = [[n, "VALIDATOR"] for n in (1, 2, 3, 4, 7, 8, 9)] + [[12, "INCLUDED"], [13, "IDLE"]]
    base = {"nodes": nodes, "unpaid": [], "probation": []}
    for name, change in {
        "nothing": {},
        "unpaid": {"unpaid": [1, 9, 13]},
        "probation": {"probation": [[2, 8], [13, 1]]},
        "all": {"unpaid": [n for n, _ in nodes], "probation": [[n, 15] for n, _ in nodes]},
        "one node": {"nodes": nodes[:1], "unpaid": [1], "probation": [[1, 3]]},
        "no node": {"nodes": []},
        "an unknown unpaid node": {"unpaid": [5]},
        "an unknown node on probation": {"probation": [[5, 1]]},
        "16 epochs": {"probation": [[1, 16]]},
        "0 epochs": {"probation": [[1, 0]]},
    }.items():
        yield case(f"args of {name}", "encode_args", **(base | change))
    made = run(case("", "encode_args", **(base | {"unpaid": [1, 13], "probation": [[2, 8]]})))
    raw = bytes.fromhex(made)
    for name, args in {
        "as encoded": raw,
        "none": None,
        "empty": b"",
        "of version 1": b"\1" + raw[1:],
        "of version 3": b"\3" + raw[1:],
        "a byte short": raw[:-1],
        "a byte long": raw + b"\0",
        "of another roster": raw[:65] + b"\x08" + raw[66:],
        "an unpaid bit beyond the roster": raw[:68] + b"\x02" + raw[69:],
        "probation beyond the roster": raw[:-1] + b"\x10",
        "without a list": raw[:1] + bytes(32) + raw[33:],
        "without accepted records": raw[:33] + bytes(32) + raw[65:],
        "of a zero proposal": raw[:1] + bytes(64) + raw[65:],
        "of 4,096 bytes": raw + bytes(4096 - len(raw)),
    }.items():
        text = None if args is None else args.hex()
        yield case(f"args, {name}", "decode_args", nodes=nodes, args=text)

    def listed(*positions):
        rows = b"".join(struct.pack("<H32s", p, bytes([p]) * 32) for p in positions)
        return (struct.pack("<I", len(positions)) + rows).hex()

    for name, positions in {
        "all": range(7),
        "two thirds": range(5),
        "one too few": range(4),
        "an Included node": (0, 1, 2, 3, 4, 7),
        "an Idle node": (0, 1, 2, 3, 4, 8),
        "a position beyond the roster": (0, 1, 2, 3, 4, 9),
        "a sighter twice": (0, 1, 1, 2, 3),
        "nobody": (),
    }.items():
        yield case(f"named list of {name}", "named_list", nodes=nodes, body=listed(*positions))
    one = struct.pack("<I", 7) + b"".join(struct.pack("<H32s", p, bytes(32)) for p in range(7))
    yield case("named list of one sighting for all", "named_list", nodes=nodes, body=one.hex())

    def sighting(*rows, size=9, failed=0):
        lines = b"".join(struct.pack("<BH16s", *row) for row in sorted(rows))
        bits = failed.to_bytes(-(-size // 8), "little")
        return (struct.pack("<32sHI", bytes(32), size, len(rows)) + lines + bits).hex()

    x, y = bytes(16), bytes(range(16))
    for name, sightings in {
        "by all": [sighting((1, 0, x), (2, 0, y))] * 3,
        "by half": [sighting((1, 0, x)), sighting()],
        "by less than half": [sighting((1, 0, x)), sighting(), sighting()],
        "two versions, one by half": [sighting((1, 0, x))] * 2 + [sighting((1, 0, y)), sighting()],
        "two versions, each by half": [sighting((1, 0, x)), sighting((1, 0, y))],
        "of every kind": [sighting(*((code, code, x) for code in range(1, 8)))],
        "unpaid by more than half": [sighting(failed=4)] * 2 + [sighting()],
        "unpaid by half": [sighting(failed=4), sighting()],
        "nothing": [],
        "another roster's size": [sighting(size=8)],
    }.items():
        yield case(f"accepted: {name}", "accepted", nodes=nodes, sightings=sightings)
    fields = {"before": [[1, 3], [2, 1], [99, 4]], "nodes": nodes, "refuted": [], "withheld": []}
    for name, change in {
        "goes on": {},
        "of a refuted node": {"refuted": [1, 4]},
        "of a withheld reveal": {"withheld": [1, 2, 4]},
        "of one that is both": {"refuted": [4], "withheld": [4]},
        "of nobody": {"before": []},
    }.items():
        yield case(f"probation {name}", "probation", **(fields | change))
    for passed in (0, 1, 2, 4):
        yield case(
            f"probation after {passed} epochs without a proposal",
            "carried_probation",
            before=fields["before"],
            epochs=passed,
        )


def epoch_cases():
    for name, fields in epochs():
        yield case(name, "score_epoch", **fields)
    nodes = [[1, "VALIDATOR"], [2, "INCLUDED"], [3, "IDLE"]]
    for name, following, probation in (
        ("first elected epoch", nodes, []),
        ("too few sightings", [*nodes, [4, "INCLUDED"]], [[1, 3], [2, 1]]),
        ("too few sightings, a node left", nodes[1:], [[1, 3]]),
    ):
        yield case(name, "score_nothing", nodes=nodes, following=following, probation=probation)


FILES = {
    "challenge": challenge_cases,
    "commitment": commitment_cases,
    "draw": draw_cases,
    "body": body_cases,
    "envelope": envelope_cases,
    "phases": phase_cases,
    "scoring": scoring_cases,
    "audit": audited_cases,
    "validator_pay": validator_cases,
    "rows": rows_cases,
    "naming": naming_cases,
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
