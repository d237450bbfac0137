"""A second implementation of the rules: plain Python integers, no numpy, no shortcuts.

It is written from the protocol's text and shares no code with ``consensus``, so that what both
agree on is the rule and not a slip.
"""

import hashlib
import math
import struct
from fractions import Fraction

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
    judged = judge_block(answers, length, scale)
    return judged["verdict"], judged["results"]


def measure(vectors, votes):
    """Return {node: residual from the lower median of the votes, in units of its norm}."""
    median = [lower_median(column) for column in zip(*(vectors[n] for n in votes), strict=True)]
    norm = max(1, math.isqrt(sum(value * value for value in median)))
    return {
        n: [(value - middle) * 2**28 // norm for value, middle in zip(row, median, strict=True)]
        for n, row in vectors.items()
    }


def is_near(left, right):
    return sum((a - b) ** 2 for a, b in zip(left, right, strict=True)) <= 2 ** (2 * (28 - 12))


def find_agreed(residual, voters):
    """Return the nodes whose row is near more than half of the voters' rows."""
    return {
        n
        for n, row in residual.items()
        if 2 * sum(is_near(row, residual[voter]) for voter in voters) > len(voters)
    }


def judge_block(answers, length, scale=0, references=(), voiceless=()):
    """Judge one block. ``references`` are validators' answers; ``voiceless`` nodes have no vote."""

    def quantise(rows):
        decoded = {
            node_id: decode(raw, length, scale) for node_id, _, raw in rows if raw is not None
        }
        # round() of a Fraction breaks ties to even.
        return {
            node_id: [round(value * 2**20) for value in values]
            for node_id, values in decoded.items()
            if values is not None
        }

    own, theirs = quantise(answers), quantise(references)
    auditors = {}
    for node_id, coldkey, _ in sorted(references, key=lambda answer: answer[0]):
        if node_id in theirs and node_id not in voiceless:
            auditors.setdefault(coldkey, node_id)
    voters = dict(auditors)
    for node_id, coldkey, _ in sorted(answers, key=lambda answer: answer[0]):
        if node_id in own and node_id not in voiceless:
            voters.setdefault(coldkey, node_id)
    judged = {
        "verdict": "abstain" if own or voters else "empty",
        "sound": set(own),
        "num_votes": len(voters),
        "results": {node_id: (0, None) for node_id, _, _ in answers},
        "backed": set(),
        "refuted": set(),
    }
    if not voters:
        return judged
    residual = measure(own | theirs, voters.values())
    valid = find_agreed(residual, voters.values())
    judged["backed"] = valid & set(theirs)
    if len(auditors) >= 2:
        truth = valid & find_agreed(residual, auditors.values())
        for node_id, _, _ in answers:
            near = [n for n in truth if node_id in own and is_near(residual[node_id], residual[n])]
            if truth and not near:
                judged["refuted"].add(node_id)
    centre = [residual[n] for n in voters.values() if n in valid]
    if not centre:
        return judged
    judged["verdict"] = "ok"
    count = len(centre)
    mean = [(2 * sum(column) + count) // (2 * count) for column in zip(*centre, strict=True)]
    for n in valid & set(own):
        squared = sum((a - b) ** 2 for a, b in zip(residual[n], mean, strict=True))
        distance = math.isqrt(squared * 10**24 // 2**56)
        half = 10**12 // 2**12
        judged["results"][n] = (ONE * half // (half + distance), distance)
    return judged


def owe(hoster, count):
    start, end = hoster["blocks"]
    return range(start, end + (end == count)) if end <= count else range(0)


def score_hosters(shape, hosters, references=None, probation=(), unpaid=()):
    """``hosters``: dicts of the vectors' JSON; ``references``: {block: answers}.

    Returns {node: {score, total, penalty}}, and who is refuted, withheld a reveal, has reference
    rows that agree with those of the others.
    """
    count = shape["num_blocks"]
    scales = shape.get("scales", [0] * (count + 1))
    references = references or {}

    def judge(block, voiceless):
        length = min(256, shape["hidden_size"] if block < count else shape["vocab_size"])
        answers = []
        for hoster in hosters:
            if block in owe(hoster, count):
                vectors, raw = hoster.get("vectors"), None
                if vectors is not None:
                    raw = bytes.fromhex(vectors[block - hoster["blocks"][0]])
                answers.append((hoster["node_id"], hoster["coldkey"], raw))
        return judge_block(answers, length, scales[block], references.get(block, ()), voiceless)

    first = {block: judge(block, probation) for block in references}
    withheld = {
        hoster["node_id"]
        for hoster in hosters
        if "refusal" in hoster and set(owe(hoster, count)) & set(references)
    }
    refuted = {n for judged in first.values() for n in judged["refuted"]} - withheld
    penalties = {}
    for name, nodes in (
        ("on_probation", probation),
        ("refuted", refuted),
        ("withheld", withheld),
        ("not_serving", unpaid),
    ):
        for node_id in nodes:
            penalties.setdefault(node_id, name)
    result = {
        hoster["node_id"]: {"score": 0, "total": 0, "penalty": penalties.get(hoster["node_id"])}
        for hoster in hosters
    }
    pool = 4 * 10**17 // (count + 1)
    for block in range(count + 1):
        judged = judge(block, {*probation, *refuted})["results"]
        sharing = {n for n, (_, d) in judged.items() if d is not None and n not in penalties}
        for node_id, (score, _) in judged.items():
            result[node_id]["total"] += score
            if node_id in sharing:
                result[node_id]["score"] += pool * score // (len(sharing) * ONE)
    backed = [judged["backed"] for judged in first.values()]
    return result, refuted, withheld, set.intersection(*backed) if backed else set()


def compute_tag(validator, record_hash):
    return sha256(u32(validator), record_hash)[:8]


def compute_accuracies(ballots, hashes):
    """``ballots``: (node_id, coldkey, [(id, total, tag)] or None); ``hashes``: {id: hash}.

    Returns {node: (accuracy, {id: is right})}.
    """
    first = {}
    for node_id, coldkey, rows in sorted(ballots, key=lambda ballot: ballot[0]):
        if rows is not None:
            first.setdefault(coldkey, (node_id, rows))
    expected = {}
    for hoster, record_hash in hashes.items():
        votes = [
            total
            for node_id, rows in first.values()
            for of, total, tag in rows
            if of == hoster and tag == compute_tag(node_id, record_hash)
        ]
        if len(votes) < 3:
            expected[hoster] = None
        elif lower_median(votes) > 0:
            expected[hoster] = lower_median(votes)
    result = {}
    for node_id, _, rows in ballots:
        own = {of: (total, tag) for of, total, tag in rows or ()}
        right = {of: False for of, (total, _) in own.items() if total > 0 and of in hashes}
        for hoster, median in expected.items():
            total, tag = own.get(hoster, (None, None))
            right[hoster] = tag == compute_tag(node_id, hashes[hoster]) and (
                median is None or 256 * abs(total - median) <= median
            )
        accuracy = ONE * sum(right.values()) // len(right) if expected and rows is not None else 0
        result[node_id] = (accuracy, right)
    return result


def pay_validators(accuracies, coldkeys, audits, paid):
    """Return {node: (score share, audit share)}; ``audits``: {node: None or refusal}."""
    pool = paid // 4
    opened = {
        coldkeys[n] for n, refusal in audits.items() if refusal in (None, "outside_tolerance")
    }
    for_audits = pool // 2 if len(opened) >= 2 else 0

    def find_first(nodes):
        return first_per_coldkey((n, coldkeys[n]) for n in nodes)

    scorers = find_first(n for n, accuracy in accuracies.items() if accuracy)
    auditors = find_first(n for n, refusal in audits.items() if refusal is None)
    return {
        n: (
            (pool - for_audits) * accuracies[n] // (len(scorers) * ONE) if n in scorers else 0,
            for_audits // len(auditors) if n in auditors else 0,
        )
        for n in sorted({*accuracies, *audits})
    }


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


def encode_rows(rows):
    """``rows``: [id, total, hex tag]."""
    return b"".join(
        u32(node) + int(total).to_bytes(16, "little") + bytes.fromhex(tag)
        for node, total, tag in rows
    )


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


def score_commitment(context, salt, rows):
    digest = sha256(encode_rows(rows))
    return sha256(b"mesh/score-commit", context_bytes(**context), bytes.fromhex(salt), digest).hex()


def audit_commitment(context, draw, salt, blocks, vectors):
    leaves = [
        sha256(b"mesh/leaf", u32(block), bytes.fromhex(raw))
        for block, raw in zip(blocks, vectors, strict=True)
    ]
    fixed = bytes.fromhex(draw) + bytes.fromhex(salt)
    return sha256(b"mesh/audit-commit", context_bytes(**context), fixed, *leaves).hex()


def draw_blocks(draw_hash, count, wanted=1):
    return sorted(draw_distinct(b"mesh/draw" + bytes.fromhex(draw_hash), count, min(wanted, count)))


def encode_header(key_seed, kind, network_id, epoch, expires_at, node_id, content):
    return (
        b"MESH"
        + bytes([1, kind])
        + bytes.fromhex(network_id)
        + struct.pack("<IQI", epoch, expires_at, node_id)
        + public_key(key_seed)
        + u32(len(content))
    )


def hash_record(body, **fields):
    content = bytes.fromhex(body)
    return sha256(b"mesh/record", encode_header(**fields, content=content), content)


def sealed(key_seed, body, **fields):
    content = bytes.fromhex(body)
    header = encode_header(key_seed, content=content, **fields)
    private = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(key_seed))
    signature = private.sign(b"mesh/envelope/1" + header + sha256(content))
    return {
        "bytes": (header + content + signature).hex(),
        "record_hash": hash_record(body, key_seed=key_seed, **fields).hex(),
    }


def schedule(length):
    def boundary(percent):
        return math.ceil(Fraction(percent * length, 100))

    g = 1 if length == 20 else math.ceil(Fraction(length, 50))
    starts = {"p": 0, "c": boundary(15), "a": boundary(40), "r": boundary(60), "s": boundary(70)}
    commit, audit, reveal, score = (starts[name] for name in "cars")
    opening = [reveal + g, score + 1, score + g, reveal + g, score + 2 * g]
    return {
        "grace": g,
        "challenge_fallback": boundary(10),
        "finality_deadline": boundary(30),
        "attestation_deadline": boundary(80),
        "commit_start": commit,
        "audit_start": audit,
        "reveal_start": reveal,
        "score_start": score,
        # leaves from, until, counts until, is read from, until
        "windows": {
            "CHALLENGE": [0, audit - g, audit, 0, audit],
            "OUTPUT_COMMIT": [commit, audit - g, audit, commit, audit + g],
            "OUTPUT_REVEAL": opening,
            "SCORE_REVEAL": opening,
            "SIGHTING": [score + g, length - g, score + 3 * g, score + g, length],
            "AUDIT_COMMIT": [audit + 1, reveal - g, reveal, audit + 1, reveal + g],
            "AUDIT_REVEAL": opening,
            "NAMED_LIST": [0, length, length, length, length],
        },
        "phases": "".join(
            max((start, name) for name, start in starts.items() if start <= offset)[1]
            for offset in range(length)
        ),
    }


COMMIT, REVEAL, SCORES, SIGHTING, AUDIT, AUDIT_REVEAL = 3, 4, 6, 7, 8, 9
SEEN = [(COMMIT, 0), (REVEAL, 0), (AUDIT, 0), (AUDIT_REVEAL, 0)]
SEEN += [(SIGHTING, 1), (SCORES, 1), (REVEAL, 1)]
"""What a row of a sighting names: kind, age in epochs; its code is the place from 1 on."""


def read_values(raw, width):
    """Return {position: value} of the values of ``width`` bits that are not 0."""
    number = int.from_bytes(raw, "little")
    values = {p: number >> width * p & (2**width - 1) for p in range(8 * len(raw) // width)}
    return {position: value for position, value in values.items() if value}


def read_sighting(raw):
    """Return {(kind, age, position): name} and the positions of failed probes."""
    (count,) = struct.unpack_from("<I", raw, 34)
    seen = {}
    for row in range(38, 38 + 19 * count, 19):
        code, position = struct.unpack_from("<BH", raw, row)
        seen[(*SEEN[code - 1], position)] = raw[row + 3 : row + 19]
    return seen, set(read_values(raw[38 + 19 * count :], 1))


def find_accepted(sightings, node_ids):
    """Return [((kind, age, node id), name)] in the order of codes and positions."""
    accepted = []
    for kind, age in SEEN:
        for position, node_id in enumerate(node_ids):
            names = [seen.get((kind, age, position)) for seen, _ in sightings]
            half = {n for n in names if n is not None and 2 * names.count(n) >= len(sightings)}
            if len(half) == 1:
                accepted.append(((kind, age, node_id), half.pop()))
    return accepted


def find_unpaid(sightings, node_ids):
    return {
        node_id
        for position, node_id in enumerate(node_ids)
        if 2 * sum(position in failed for _, failed in sightings) > len(sightings)
    }


def encode_args(list_hash, accepted_hash, node_ids, unpaid, probation):
    size = len(node_ids)
    bits = sum(2**position for position, n in enumerate(node_ids) if n in unpaid)
    nibbles = sum(16**position * probation.get(n, 0) for position, n in enumerate(node_ids))
    return (
        bytes([2])
        + list_hash
        + accepted_hash
        + struct.pack("<H", size)
        + bits.to_bytes(math.ceil(size / 8), "little")
        + nibbles.to_bytes(math.ceil(size / 2), "little")
    )


def decode_args(raw, node_ids):
    middle = 67 + math.ceil(len(node_ids) / 8)
    bits, nibbles = read_values(raw[67:middle], 1), read_values(raw[middle:], 4)
    return {
        "list_hash": raw[1:33].hex(),
        "accepted_hash": raw[33:65].hex(),
        "unpaid": [node_ids[position] for position in bits],
        "probation": [[node_ids[position], left] for position, left in nibbles.items()],
    }


def continue_probation(before, node_ids, refuted, withheld):
    left = {n: epochs - 1 for n, epochs in before.items() if epochs > 1 and n in node_ids}
    left |= {n: max(2, left.get(n, 0)) for n in withheld}
    return left | dict.fromkeys(refuted, 8)


def compute_rows(before, after, present, left_out, scores):
    """``before`` and ``after``: {node id: class} of the scored epoch and of the proposal's."""
    rows = []
    for node, name in sorted(after.items()):
        is_silent = before.get(node) == name == "VALIDATOR" and node not in present
        if name in ("INCLUDED", "VALIDATOR") and node not in left_out and not is_silent:
            rows.append([node, str(scores.get(node, 0))])
    return rows


def list_workers(epoch):
    """Return {node id: (key seed, coldkey)} of the nodes of class Included or Validator."""
    return {
        node: (seed, coldkey)
        for node, seed, coldkey, name in sorted(epoch["nodes"])
        if name in ("INCLUDED", "VALIDATOR")
    }


def describe_author(network_id, epoch, node, key_seed):
    return {
        "network_id": network_id,
        "epoch": epoch["epoch"],
        "node_id": node,
        "key_seed": key_seed,
    }


def open_hosters(network_id, shape, epoch, bodies):
    """Return the hosters whose commit counts, as dicts for score_hosters, and refusals."""
    seed = sha256(
        b"mesh/seed",
        bytes.fromhex(network_id),
        u32(epoch["epoch"], epoch["first_block"]),
        bytes.fromhex(epoch["block_hash"]),
    )
    hosters, refusals = [], []
    for node, (key_seed, coldkey) in list_workers(epoch).items():
        commit, reveal = bodies.get((COMMIT, 0, node)), bodies.get((REVEAL, 0, node))
        if commit is None:
            if reveal is not None:
                refusals.append(["OUTPUT_REVEAL", node, "no_commit"])
            continue
        start, end = struct.unpack_from("<II", commit, 32)
        if commit[:32] != seed:
            refusals.append(["OUTPUT_COMMIT", node, "wrong_seed"])
        elif end > shape["num_blocks"]:
            refusals.append(["OUTPUT_COMMIT", node, "wrong_range"])
        else:
            hoster = {"node_id": node, "coldkey": coldkey, "blocks": [start, end]}
            context = describe_author(network_id, epoch, node, key_seed)
            if reveal is None:
                hoster["refusal"] = "not_revealed"
            else:
                open_outputs(hoster, context, seed, commit[40:], reveal, shape)
            hosters.append(hoster)
    return hosters, refusals


def read_vectors(raw, position, count):
    vectors = []
    for _ in range(count):
        (size,) = struct.unpack_from("<I", raw, position)
        vectors.append(raw[position + 4 : position + 4 + size].hex())
        position += 4 + size
    return vectors


def open_outputs(hoster, context, seed, commitment, reveal, shape):
    start, end, count = struct.unpack_from("<III", reveal, 32)
    vectors = read_vectors(reveal, 44, count)
    made = output_commitment(context, seed.hex(), [start, end], reveal[:32].hex(), vectors)
    num_owed = end - start + (end == shape["num_blocks"])
    if [start, end] != hoster["blocks"]:
        hoster["refusal"] = "wrong_range"
    elif count != num_owed or made["commitment"] != commitment.hex():
        hoster["refusal"] = "commitment_mismatch"
    else:
        hoster["vectors"] = vectors


def open_audits(network_id, shape, epoch, bodies, draw_hash, excluded):
    """Return {block: answers} and {node: None or refusal}."""
    if draw_hash is None:
        return {}, {}
    blocks = draw_blocks(draw_hash, shape["num_blocks"] + 1)
    answers, audits = {block: [] for block in blocks}, {}
    for node, (key_seed, coldkey) in list_workers(epoch).items():
        commit, reveal = bodies.get((AUDIT, 0, node)), bodies.get((AUDIT_REVEAL, 0, node))
        if commit is None or node in excluded:
            continue
        context = describe_author(network_id, epoch, node, key_seed)
        audits[node] = None
        if commit[:32].hex() != draw_hash:
            audits[node] = "wrong_draw"
        elif reveal is None:
            audits[node] = "not_revealed"
        else:
            vectors = read_vectors(reveal, 36, *struct.unpack_from("<I", reveal, 32))
            if len(vectors) != len(blocks) or commit[32:].hex() != audit_commitment(
                context, draw_hash, reveal[:32].hex(), blocks, vectors
            ):
                audits[node] = "commitment_mismatch"
                continue
            decoded = [
                decode_answer(shape, block, bytes.fromhex(raw))
                for block, raw in zip(blocks, vectors, strict=True)
            ]
            if None in decoded:
                audits[node] = "invalid_vector"
                continue
            for block, raw in zip(blocks, vectors, strict=True):
                answers[block].append((node, coldkey, bytes.fromhex(raw)))
    return answers, audits


def decode_answer(shape, block, raw):
    length = shape["hidden_size"] if block < shape["num_blocks"] else shape["vocab_size"]
    scales = shape.get("scales", [0] * (block + 1))
    return decode(raw, min(256, length), scales[block])


def open_ballots(network_id, previous, bodies, excluded):
    """Return [(node, coldkey, rows or None)] and {node: refusal} of who committed to scores."""
    ballots, refusals = [], {}
    for node, (key_seed, coldkey) in list_workers(previous).items():
        sighting, reveal = bodies.get((SIGHTING, 1, node)), bodies.get((SCORES, 1, node))
        if sighting is None or node in excluded:
            continue
        rows = None
        if sighting[:32] == bytes(32):
            refusals[node] = "no_commit"
        elif reveal is None:
            refusals[node] = "not_revealed"
        else:
            raw = [reveal[row : row + 28] for row in range(36, len(reveal), 28)]
            rows = [
                (*struct.unpack_from("<I", row), int.from_bytes(row[4:20], "little"), row[20:])
                for row in raw
            ]
            context = describe_author(network_id, previous, node, key_seed)
            written = [(of, total, tag.hex()) for of, total, tag in rows]
            if score_commitment(context, reveal[:32].hex(), written) != sighting[:32].hex():
                refusals[node], rows = "commitment_mismatch", None
        ballots.append((node, coldkey, rows))
    return ballots, refusals


def find_bodies(network_id, epochs, records, accepted):
    """Return {(kind, age, node id): hash} and the same with bodies, of the accepted records."""
    by_name = {}
    for kind, age, node, body in records:
        keys = {n: seed for n, seed, _, _ in epochs[age]["nodes"]}
        author = describe_author(network_id, epochs[age], node, keys[node])
        made = hash_record(body, kind=kind, expires_at=epochs[age]["expires_at"], **author)
        by_name[made[:16]] = (made, bytes.fromhex(body))
    hashes = {slot: by_name[name][0] for slot, name in accepted}
    return hashes, {slot: by_name[name][1] for slot, name in accepted}


def score_epoch(network_id, shape, draw, epoch, previous, following, records, named, probation):
    """Score an epoch as the vectors have it."""
    probation, node_ids = dict(probation), [node for node, _, _, _ in epoch["nodes"]]
    sightings = [read_sighting(bytes.fromhex(raw)) for nodes, raw in named for _ in nodes]
    accepted = find_accepted(sightings, node_ids)
    hashes, bodies = find_bodies(network_id, (epoch, previous), records, accepted)
    unpaid = find_unpaid(sightings, node_ids)
    hosters, refusals = open_hosters(network_id, shape, epoch, bodies)
    hosting = {hoster["node_id"] for hoster in hosters}
    excluded = {*hosting, *probation}
    answers, audits = open_audits(network_id, shape, epoch, bodies, draw, excluded)
    scored, refuted, withheld, backed = score_hosters(shape, hosters, answers, probation, unpaid)
    for node, refusal in audits.items():
        if refusal is None and node not in backed:
            audits[node] = "outside_tolerance"
    ballots, closed, revealed = [], {}, {}
    if previous is not None:
        ballots, closed = open_ballots(network_id, previous, bodies, excluded)
        slots = {node: (REVEAL, 1, node) for node in list_workers(previous)}
        revealed = {node: hashes[slot] for node, slot in slots.items() if slot in hashes}
    judged = compute_accuracies(ballots, revealed)
    accuracies = {node: accuracy for node, (accuracy, _) in judged.items()}
    before = [] if previous is None else previous["nodes"]
    coldkeys = {node: coldkey for node, _, coldkey, _ in (*before, *epoch["nodes"])}
    paid = sum(one["score"] for one in scored.values())
    shares = pay_validators(accuracies, coldkeys, audits, paid)
    present = {node for nodes, _ in named for node in nodes} | hosting
    present |= {node for kind, age, node in bodies if (kind, age) == (AUDIT, 0)}
    present |= {node for node, _, rows in ballots if rows is not None}
    scores = {node: sum(parts) for node, parts in shares.items()}
    scores |= {node: one["score"] for node, one in scored.items()}
    classes = {node: name for node, _, _, name in epoch["nodes"]}
    left = continue_probation(probation, node_ids, refuted, withheld)
    accepted_hash = sha256(*[hashes[slot] for slot, _ in accepted])
    return {
        "rows": compute_rows(classes, dict(following), present, {*probation, *refuted}, scores),
        "hosters": [
            [
                hoster["node_id"],
                str(scored[hoster["node_id"]]["score"]),
                str(scored[hoster["node_id"]]["total"]),
                hoster.get("refusal"),
                scored[hoster["node_id"]]["penalty"],
            ]
            for hoster in hosters
        ],
        "validators": [
            [
                node,
                str(accuracies.get(node, 0)),
                str(score_share),
                str(audit_share),
                closed.get(node) if node in accuracies else "no_commit",
                audits.get(node),
            ]
            for node, (score_share, audit_share) in shares.items()
        ],
        "refusals": refusals,
        "args": encode_args(b"l" * 32, accepted_hash, node_ids, unpaid, left).hex(),
    }
