"""A second implementation of the rules: plain Python integers, no numpy, no shortcuts.

It is written from the protocol's text and shares no code with ``consensus``, so that what both
agree on is the rule and not a slip.
"""

import hashlib
import math
import struct
from fractions import Fraction

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

ONE = 10**18


def decode(raw, length, scale=0):
    """Return exact Fractions, times two to the power of the block's scale, or None."""
    if len(raw) != 4 * length:
        return None
    values = struct.unpack(f"<{length}f", raw)
    if not all(map(math.isfinite, values)):
        return None
    scaled = [Fraction(value) * Fraction(2) ** scale for value in values]
    return scaled if all(abs(value) < 2**11 for value in scaled) else None


def lower_median(values):
    return sorted(values)[(len(values) - 1) // 2]


def first_per_coldkey(rows):
    seen = {}
    for node_id, coldkey in sorted(rows):
        seen.setdefault(coldkey, node_id)
    return sorted(seen.values())


def score_block(answers, length, scale=0):
    """``answers``: (node_id, coldkey, raw bytes or None). Returns verdict, {node: (score, d)}.

    d is None for an answer that is not valid.
    """
    quantised = {}
    for node_id, _, raw in answers:
        values = None if raw is None else decode(raw, length, scale)
        if values is not None:
            # round() of a Fraction breaks ties to even.
            quantised[node_id] = [round(value * 2**20) for value in values]
    results = {node_id: (0, None) for node_id, _, _ in answers}
    if not quantised:
        return "empty", results
    votes = first_per_coldkey((n, coldkey) for n, coldkey, _ in answers if n in quantised)
    median = [lower_median(column) for column in zip(*(quantised[n] for n in votes), strict=True)]
    norm = max(1, math.isqrt(sum(value * value for value in median)))
    residual = {
        n: [(value - middle) * 2**28 // norm for value, middle in zip(row, median, strict=True)]
        for n, row in quantised.items()
    }

    def is_near(left, right):
        pairs = zip(residual[left], residual[right], strict=True)
        return sum((a - b) ** 2 for a, b in pairs) <= 2 ** (2 * (28 - 12))

    valid = [n for n in residual if 2 * sum(is_near(n, vote) for vote in votes) > len(votes)]
    centre = [residual[n] for n in votes if n in valid]
    if not centre:
        return "abstain", results
    count = len(centre)
    mean = [(2 * sum(column) + count) // (2 * count) for column in zip(*centre, strict=True)]
    for n in valid:
        squared = sum((a - b) ** 2 for a, b in zip(residual[n], mean, strict=True))
        distance = math.isqrt(squared * 10**24 // 2**56)
        half = 10**12 // 2**12
        results[n] = (ONE * half // (half + distance), distance)
    return ("low_redundancy" if len(votes) < 3 else "ok"), results


def score_validators(ballots, ids, attested):
    """``ballots``: (node_id, coldkey, [(id, score)]). Returns {node: score}."""
    pool, gate = 4 * ONE // 10, 4 * ONE // 100
    vectors, coldkeys = {}, {}
    for node_id, coldkey, scores in ballots:
        named = [n for n, _ in scores]
        known = all(n in ids for n in named) and len(set(named)) == len(named)
        if known and sum(score for _, score in scores) <= pool:
            vectors[node_id] = [dict(scores).get(n, 0) for n in sorted(ids)]
            coldkeys[node_id] = coldkey
    result = {node_id: 0 for node_id, _, _ in ballots}
    votes = first_per_coldkey(coldkeys.items())
    if len(votes) > 2:
        centre = [lower_median(column) for column in zip(*(vectors[n] for n in votes), strict=True)]
    elif attested is not None:
        centre = [attested.get(n, 0) for n in sorted(ids)]
    else:
        return result

    def distance(vector, weight, total):
        return math.isqrt(sum((weight * a - b) ** 2 for a, b in zip(vector, total, strict=True)))

    accepted = [n for n in vectors if distance(vectors[n], 1, centre) <= gate]
    if len(votes) > 2:
        near = [vectors[n] for n in votes if n in accepted]
        weight, total = len(near), [sum(column) for column in zip(*near, strict=True)]
    else:
        weight, total = 1, centre
    if weight == 0:
        return result
    base = 3 * 10**17
    for n in accepted:
        raw = base * max(0, weight * gate - distance(vectors[n], weight, total)) // (weight * gate)
        result[n] = 6 * 10**17 * raw // (len(accepted) * base)
    return result


def score_hosters(shape, hosters):
    """``hosters``: dicts of the vectors' JSON. Returns {node: score}, [verdict of each block]."""
    count = shape["num_blocks"]
    pool = 4 * 10**17 // (count + 1)
    totals = {hoster["node_id"]: 0 for hoster in hosters}
    verdicts = []
    scales = shape.get("scales", [0] * (count + 1))
    for block in range(count + 1):
        length = min(256, shape["hidden_size"] if block < count else shape["vocab_size"])
        answers = []
        for hoster in hosters:
            start, end = hoster["blocks"]
            if end <= count and start <= block < end + (end == count):
                vectors = hoster.get("vectors")
                raw = None if vectors is None else bytes.fromhex(vectors[block - start])
                answers.append((hoster["node_id"], hoster["coldkey"], raw))
        verdict, results = score_block(answers, length, scales[block])
        verdicts.append(verdict)
        num_valid = sum(distance is not None for _, distance in results.values())
        for node_id, (score, _) in results.items():
            if num_valid:
                share = pool * score // (num_valid * ONE)
                totals[node_id] += share // 2 if verdict == "low_redundancy" else share
    return totals, verdicts


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def u32(*numbers):
    return struct.pack(f"<{len(numbers)}I", *numbers)


def draw(message, count):
    return struct.unpack(f"<{count}I", hashlib.shake_256(message).digest(4 * count))


def draw_distinct(message, modulus, wanted):
    values = []
    for value in draw(message, 100 * wanted):
        if value % modulus not in values:
            values.append(value % modulus)
    return values[:wanted]


def public_key(key_seed):
    private = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(key_seed))
    return private.public_key().public_bytes_raw()


def context_bytes(network_id, epoch, node_id, key_seed):
    return bytes.fromhex(network_id) + u32(epoch, node_id) + public_key(key_seed)


def encode_scores(rows):
    return b"".join(u32(node) + int(score).to_bytes(16, "little") for node, score in rows)


def output_commitment(context, seed, blocks, salt, vectors):
    start, end = blocks
    leaves = [
        sha256(b"mesh/leaf", u32(start + row), bytes.fromhex(raw))
        for row, raw in enumerate(vectors)
    ]
    root = sha256(b"mesh/root", u32(start, end), *leaves, bytes(32))
    commitment = sha256(
        b"mesh/commit",
        context_bytes(**context),
        bytes.fromhex(seed),
        u32(start, end),
        bytes.fromhex(salt),
        root,
    )
    return {"root": root.hex(), "commitment": commitment.hex()}


def score_commitment(context, salt, scores):
    digest = sha256(encode_scores(scores))
    return sha256(b"mesh/score-commit", context_bytes(**context), bytes.fromhex(salt), digest).hex()


def sealed(key_seed, kind, network_id, epoch, expires_at, node_id, body):
    content = bytes.fromhex(body)
    header = (
        b"MESH"
        + bytes([1, kind])
        + bytes.fromhex(network_id)
        + struct.pack("<IQI", epoch, expires_at, node_id)
        + public_key(key_seed)
        + u32(len(content))
    )
    unsigned = header + content
    private = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(key_seed))
    signature = private.sign(b"mesh/envelope/1" + header + sha256(content))
    return {
        "bytes": (unsigned + signature).hex(),
        "record_hash": sha256(b"mesh/record", unsigned).hex(),
    }


def schedule(length):
    def boundary(percent):
        return math.ceil(Fraction(percent * length, 100))

    grace = 1 if length == 20 else math.ceil(Fraction(length, 50))
    starts = {"p": 0, "c": boundary(15), "r": boundary(50), "s": boundary(60)}
    return {
        "grace": grace,
        "challenge_fallback": boundary(10),
        "finality_deadline": boundary(30),
        "commit_start": starts["c"],
        "reveal_start": starts["r"],
        "score_start": starts["s"],
        "scoring_start": starts["s"] + grace,
        "score_commit_end": length - 1,
        "phases": "".join(
            max((start, name) for name, start in starts.items() if start <= offset)[1]
            for offset in range(length)
        ),
    }


COMMIT, REVEAL, SCORE_COMMIT, SCORE_REVEAL, SIGHTING = 3, 4, 5, 6, 7
KIND_NAMES = {COMMIT: "OUTPUT_COMMIT", REVEAL: "OUTPUT_REVEAL"}


def is_seen_in_time(kind, offset, length):
    times = schedule(length)
    limits = {
        COMMIT: times["reveal_start"],
        REVEAL: times["scoring_start"],
        SCORE_COMMIT: times["score_commit_end"],
        SCORE_REVEAL: times["scoring_start"],
        SIGHTING: times["score_commit_end"],
    }
    return offset < limits[kind]


def list_records(epoch):
    return {
        (kind, node): (offset, bytes.fromhex(raw)) for kind, node, offset, raw in epoch["records"]
    }


def list_nodes(epoch, *classes):
    """Return {node id: (key seed, coldkey)} of the nodes of these classes."""
    nodes = sorted(epoch["nodes"])
    return {node: (seed, coldkey) for node, seed, coldkey, name in nodes if name in classes}


def find_equivocators(network_id, length, seen, signed, kinds):
    """``seen`` is the epoch of the sightings, ``signed`` that of the records."""
    authors = {node: seed for node, seed, _, _ in signed["nodes"]}
    versions = {}
    for (kind, witness), (offset, raw) in list_records(seen).items():
        is_witness = kind == SIGHTING and witness in list_nodes(seen, "VALIDATOR")
        if not is_witness or not is_seen_in_time(kind, offset, length):
            continue
        for row in range(4, len(raw), 105):
            of, node, size = struct.unpack_from("<BII", raw, row)
            body_hash, signature = raw[row + 9 : row + 41], raw[row + 41 : row + 105]
            if node == witness or of not in kinds or node not in authors:
                continue
            header = b"MESH" + bytes([1, of]) + bytes.fromhex(network_id)
            header += struct.pack("<IQI", signed["epoch"], signed["expires_at"], node)
            header += public_key(authors[node]) + u32(size)
            message = b"mesh/envelope/1" + header + body_hash
            if is_signed(authors[node], message, signature):
                versions.setdefault((of, node), set()).add((size, body_hash))
    return {node for (_, node), found in versions.items() if len(found) > 1}


def is_signed(key_seed, message, signature):
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(key_seed)).public_key()
    try:
        key.verify(signature, message)
    except InvalidSignature:
        return False
    return True


def open_hosters(network_id, length, shape, epoch, equivocators):
    """Return the hosters with an accepted commit, as dicts for score_hosters, and refusals."""
    seed = sha256(
        b"mesh/seed",
        bytes.fromhex(network_id),
        u32(epoch["epoch"], epoch["first_block"]),
        bytes.fromhex(epoch["block_hash"]),
    )
    records, hosters, refusals = list_records(epoch), [], []
    for node, (key_seed, coldkey) in list_nodes(epoch, "INCLUDED", "VALIDATOR").items():
        offset, commit = records.get((COMMIT, node), (None, None))
        revealed_at, reveal = records.get((REVEAL, node), (None, None))
        if node in equivocators:
            refusals.append([KIND_NAMES[COMMIT], node, "equivocation"])
            continue
        if commit is None:
            if reveal is not None:
                refusals.append([KIND_NAMES[REVEAL], node, "no_commit"])
            continue
        start, end = struct.unpack_from("<II", commit, 32)
        if not is_seen_in_time(COMMIT, offset, length):
            refusals.append([KIND_NAMES[COMMIT], node, "late"])
        elif commit[:32] != seed:
            refusals.append([KIND_NAMES[COMMIT], node, "wrong_seed"])
        elif end > shape["num_blocks"]:
            refusals.append([KIND_NAMES[COMMIT], node, "wrong_range"])
        else:
            hoster = {"node_id": node, "coldkey": coldkey, "blocks": [start, end]}
            context = {
                "network_id": network_id,
                "epoch": epoch["epoch"],
                "node_id": node,
                "key_seed": key_seed,
            }
            if reveal is None:
                hoster["refusal"] = "not_revealed"
            elif not is_seen_in_time(REVEAL, revealed_at, length):
                hoster["refusal"] = "late"
            else:
                open_outputs(hoster, context, seed, commit[40:], reveal, shape)
            hosters.append(hoster)
    return hosters, refusals


def open_outputs(hoster, context, seed, commitment, reveal, shape):
    start, end, count = struct.unpack_from("<III", reveal, 32)
    vectors, position = [], 44
    for _ in range(count):
        (size,) = struct.unpack_from("<I", reveal, position)
        vectors.append(reveal[position + 4 : position + 4 + size].hex())
        position += 4 + size
    made = output_commitment(context, seed.hex(), [start, end], reveal[:32].hex(), vectors)
    num_owed = end - start + (end == shape["num_blocks"])
    if [start, end] != hoster["blocks"]:
        hoster["refusal"] = "wrong_range"
    elif count != num_owed or made["commitment"] != commitment.hex():
        hoster["refusal"] = "commitment_mismatch"
    else:
        hoster["vectors"] = vectors


def open_ballots(network_id, length, scored, revealing, hosted, equivocators):
    """Return {node: (coldkey, scores or None)} of the validators that committed in time."""
    records, ballots = list_records(scored), {}
    delay = revealing["first_block"] - scored["first_block"]
    for node, (key_seed, coldkey) in list_nodes(scored, "INCLUDED", "VALIDATOR").items():
        offset, commit = records.get((SCORE_COMMIT, node), (None, None))
        if commit is None or node in hosted or not is_seen_in_time(SCORE_COMMIT, offset, length):
            continue
        ballots[node] = (coldkey, None)
        offset, reveal = records.get((SCORE_REVEAL, node), (None, None))
        if reveal is None or node in equivocators:
            continue
        rows = [
            (
                struct.unpack_from("<I", reveal, row)[0],
                int.from_bytes(reveal[row + 4 : row + 20], "little"),
            )
            for row in range(36, len(reveal), 20)
        ]
        context = {
            "network_id": network_id,
            "epoch": scored["epoch"],
            "node_id": node,
            "key_seed": key_seed,
        }
        opens = score_commitment(context, reveal[:32].hex(), rows) == commit.hex()
        if opens and is_seen_in_time(SCORE_REVEAL, offset - delay, length):
            ballots[node] = (coldkey, rows)
    return ballots


def score_epoch(network_id, length, shape, facts, previous):
    """Return rows, hosters, validators and refusals of an epoch, as the vectors have them."""
    cheats = find_equivocators(network_id, length, facts, facts, {COMMIT, REVEAL})
    hosters, refusals = open_hosters(network_id, length, shape, facts, cheats)
    totals, _ = score_hosters(shape, hosters)
    ballots, scores = {}, {}
    if previous is not None:
        before = find_equivocators(network_id, length, previous, previous, {COMMIT, REVEAL})
        accepted, _ = open_hosters(network_id, length, shape, previous, before)
        hosted = {hoster["node_id"] for hoster in accepted}
        cheats |= find_equivocators(
            network_id, length, facts, previous, {SCORE_COMMIT, SCORE_REVEAL}
        )
        ballots = open_ballots(network_id, length, previous, facts, hosted, before | cheats)
        opened = [(node, key, rows) for node, (key, rows) in ballots.items() if rows is not None]
        ids = list(list_nodes(previous, "INCLUDED", "VALIDATOR"))
        scores = score_validators(opened, ids, find_centre(facts, hosted))
    present = (
        set(totals) | cheats | {node for node, (_, rows) in ballots.items() if rows is not None}
    )
    for (kind, node), (offset, _) in list_records(facts).items():
        if kind == SCORE_COMMIT and is_seen_in_time(kind, offset, length):
            present.add(node)
    rows = []
    for node in list_nodes(facts, "INCLUDED", "VALIDATOR"):
        if node in present:
            paid = totals if node in totals else scores
            rows.append([node, "0" if node in cheats else str(paid.get(node, 0))])
    return {
        "rows": rows,
        "hosters": [
            [hoster["node_id"], str(totals[hoster["node_id"]]), hoster.get("refusal")]
            for hoster in hosters
        ],
        "validators": [[node, str(scores.get(node, 0))] for node in ballots],
        "refusals": refusals,
    }


def find_centre(facts, hosted):
    """Return the hosters' rows of the proposal if 66 % of the validators attested it."""
    voters = set(list_nodes(facts, "VALIDATOR"))
    submission = facts["submission"]
    if submission is None:
        return None
    if Fraction(len(voters & set(submission["attested"])), max(1, len(voters))) < Fraction(66, 100):
        return None
    return {node: int(score) for node, score in submission["scores"] if node in hosted}
