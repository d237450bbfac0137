"""Runs one golden vector against the implementation: JSON values in, JSON values out.

A vector is ``{"name", "operation", "input"}`` and either ``expected`` or ``error``, the name of
the error class. Bytes are hex, scores are decimal text (they pass 2**53). ``blocks`` are the
model's layers.
"""

import hashlib

from consensus import records
from consensus.agreement import Answer, compute_layer_scores
from consensus.attestation import check_naming, check_proposal
from consensus.audit import draw_layers
from consensus.challenge import (
    ModelShape,
    compute_head_rows,
    compute_layer_input,
    compute_sampled_coordinates,
    compute_seed,
    compute_token_ids,
    compute_vector_length,
    decode_vector,
)
from consensus.commitment import (
    CommitContext,
    check_audit_reveal,
    check_output_reveal,
    check_score_reveal,
    compute_audit_commitment,
    compute_output_commitment,
    compute_score_commitment,
    compute_tag,
    compute_vectors_root,
    derive_salt,
)
from consensus.epoch import score_epoch, score_nothing
from consensus.errors import InvalidVector, Reason
from consensus.evidence import EpochFacts
from consensus.naming import (
    Naming,
    carry_probation,
    check_named_list,
    continue_probation,
    decode_args,
    encode_args,
    find_accepted,
    find_unpaid,
    get_name,
    hash_accepted,
    open_sighting,
)
from consensus.phases import compute_schedule, phase_at
from consensus.protocol_params import MAINNET, MINIMAL, ConsensusParams
from consensus.records import RecordKind, ScoreRow, decode_named_list
from consensus.report import EpochReport
from consensus.roster import Roster, RosterNode
from consensus.rows import compute_rows
from consensus.scoring import (
    HosterEvidence,
    ValidatorEvidence,
    compute_accuracies,
    compute_hoster_scores,
    pay_validators,
)
from consensus.types import EpochPosition, LayerRange, NodeClass
from keys.envelope import decode_envelope, seal
from keys.peer import PeerKey

PRESETS = {"mainnet": MAINNET, "minimal": MINIMAL}
LIST_HASH = b"l" * 32
LIST_HASH_HEX = LIST_HASH.hex()
unhex = bytes.fromhex


def run(vector):
    """Return what the vector's operation gives for its input."""
    return OPERATIONS[vector["operation"]](**vector["input"])


def read_shape(num_blocks, hidden_size, vocab_size, scales=()):
    return ModelShape(num_blocks, hidden_size, vocab_size, tuple(scales))


def run_seed(network_id, epoch, seed_height, block_hash):
    return compute_seed(unhex(network_id), epoch, seed_height, unhex(block_hash)).hex()


def run_block_input(seed, block, shape, preset):
    values = compute_layer_input(unhex(seed), block, read_shape(**shape), PRESETS[preset])
    return {
        "shape": list(values.shape),
        "first": values.ravel()[:8].tolist(),
        "sha256": hashlib.sha256(values.astype("<f4").tobytes()).hexdigest(),
    }


def run_token_ids(seed, shape, preset):
    return compute_token_ids(unhex(seed), read_shape(**shape), PRESETS[preset]).tolist()


def run_head_rows(seed, shape, preset):
    return compute_head_rows(unhex(seed), read_shape(**shape), PRESETS[preset]).tolist()


def run_coordinates(seed, block, length, preset):
    drawn = compute_sampled_coordinates(unhex(seed), block, length, PRESETS[preset])
    return None if drawn is None else drawn.tolist()


def run_vector_length(block, shape, preset):
    return compute_vector_length(block, read_shape(**shape), PRESETS[preset])


def run_decode_vector(raw, length, scale=0):
    return decode_vector(unhex(raw), length, MAINNET, scale).tolist()


def read_context(network_id, epoch, node_id, key_seed):
    return CommitContext(unhex(network_id), epoch, node_id, PeerKey(unhex(key_seed)).peer_id)


def read_scores(rows):
    return tuple((node_id, int(score)) for node_id, score in rows)


def write_scores(rows):
    return [[node_id, str(score)] for node_id, score in rows]


def run_salt(key_seed, network_id, kind, epoch, node_id):
    key = PeerKey(unhex(key_seed))
    return derive_salt(
        key, network_id=unhex(network_id), kind=kind, epoch=epoch, node_id=node_id
    ).hex()


def run_output_commitment(context, seed, blocks, salt, vectors, num_blocks):
    span = LayerRange(*blocks)
    root = compute_vectors_root(span, [unhex(raw) for raw in vectors], num_blocks)
    commitment = compute_output_commitment(
        read_context(**context), seed=unhex(seed), layers=span, salt=unhex(salt), root=root
    )
    return {"root": root.hex(), "commitment": commitment.hex()}


def run_open_output(commitment, context, seed, blocks, salt, vectors, num_blocks):
    check_output_reveal(
        unhex(commitment),
        read_context(**context),
        seed=unhex(seed),
        layers=LayerRange(*blocks),
        salt=unhex(salt),
        vectors=[unhex(raw) for raw in vectors],
        num_layers=num_blocks,
    )
    return "opens"


def read_rows(rows):
    return tuple(ScoreRow(node_id, int(total), unhex(tag)) for node_id, total, tag in rows)


def run_score_commitment(context, salt, rows):
    return compute_score_commitment(
        read_context(**context), salt=unhex(salt), rows=read_rows(rows)
    ).hex()


def run_open_scores(commitment, context, salt, rows):
    check_score_reveal(
        unhex(commitment), read_context(**context), salt=unhex(salt), rows=read_rows(rows)
    )
    return "opens"


def run_audit_commitment(context, draw, salt, blocks, vectors):
    return compute_audit_commitment(
        read_context(**context),
        draw=unhex(draw),
        salt=unhex(salt),
        layers=blocks,
        vectors=[unhex(raw) for raw in vectors],
    ).hex()


def run_open_audit(commitment, context, draw, salt, blocks, vectors):
    check_audit_reveal(
        unhex(commitment),
        read_context(**context),
        draw=unhex(draw),
        salt=unhex(salt),
        layers=blocks,
        vectors=[unhex(raw) for raw in vectors],
    )
    return "opens"


def run_tag(validator, record_hash):
    return compute_tag(validator, unhex(record_hash)).hex()


def run_draw(draw, shape, audit_blocks):
    params = ConsensusParams(audit_layers=audit_blocks)
    return list(draw_layers(unhex(draw), read_shape(**shape), params))


def run_decode_body(kind, body):
    """Decode a record's body and encode it again: a value has one encoding."""
    kind = RecordKind[kind]
    decoded = records.decode_body(kind, unhex(body))
    encode = getattr(records, f"encode_{kind.name.lower()}")
    return hashlib.sha256(encode(decoded)).hexdigest()


def run_seal(key_seed, kind, network_id, epoch, expires_at, node_id, body):
    envelope = seal(
        PeerKey(unhex(key_seed)),
        kind=kind,
        network_id=unhex(network_id),
        epoch=epoch,
        expires_at=expires_at,
        node_id=node_id,
        body=unhex(body),
    )
    return {"bytes": envelope.to_bytes().hex(), "record_hash": envelope.record_hash.hex()}


def run_open_envelope(raw, max_body_size):
    envelope = decode_envelope(unhex(raw), max_body_size=max_body_size)
    envelope.check_signature()
    return envelope.record_hash.hex()


def run_schedule(length):
    schedule = compute_schedule(length, MAINNET)
    phases = [phase_at(EpochPosition(0, offset, length, 0), schedule) for offset in range(length)]
    return {
        "grace": schedule.grace,
        "challenge_fallback": schedule.challenge_fallback,
        "finality_deadline": schedule.finality_deadline,
        "attestation_deadline": schedule.attestation_deadline,
        "commit_start": schedule.commit_start,
        "audit_start": schedule.audit_start,
        "reveal_start": schedule.reveal_start,
        "score_start": schedule.score_start,
        "windows": {
            kind.name: [
                window.leaves_from,
                window.leaves_until,
                window.counts_until,
                window.read_from,
                window.read_until,
            ]
            for kind, window in schedule.windows.items()
        },
        "phases": "".join(phase.value[0] for phase in phases),
    }


def run_block_scores(length, answers, scale=0, references=(), voiceless=()):
    result = compute_layer_scores(
        [_read_answer(length, scale, **answer) for answer in answers],
        length=length,
        params=MAINNET,
        scale=scale,
        references=[_read_answer(length, scale, **answer) for answer in references],
        voiceless=voiceless,
    )
    return {
        "verdict": result.verdict.value,
        "num_votes": result.num_votes,
        "answers": [
            {
                "node_id": answer.node_id,
                "refusal": write_reason(answer.refusal),
                "distance": answer.distance,
                "score": str(answer.score),
            }
            for answer in result.answers
        ],
        "backed": sorted(result.backed),
        "refuted": sorted(result.refuted),
    }


def write_reason(reason):
    return reason and str(reason)


def _read_answer(length, scale, node_id, coldkey, vector=None, refusal=None):
    if refusal is not None:
        return Answer(node_id, unhex(coldkey), refusal=Reason(refusal))
    try:
        return Answer(node_id, unhex(coldkey), decode_vector(unhex(vector), length, MAINNET, scale))
    except InvalidVector as error:
        return Answer(node_id, unhex(coldkey), refusal=error.reason)


def run_hoster_scores(shape, hosters, references=None, probation=(), unpaid=()):
    evidence = [
        HosterEvidence(
            node_id=hoster["node_id"],
            coldkey=unhex(hoster["coldkey"]),
            layers=LayerRange(*hoster["blocks"]),
            vectors=tuple(unhex(raw) for raw in hoster.get("vectors", ())),
            refusal=Reason(hoster["refusal"]) if "refusal" in hoster else None,
        )
        for hoster in hosters
    ]
    shape = read_shape(**shape)
    drawn = {
        int(block): [
            _read_answer(
                compute_vector_length(int(block), shape, MAINNET),
                shape.scale_of(int(block)),
                **answer,
            )
            for answer in answers
        ]
        for block, answers in (references or {}).items()
    }
    result = compute_hoster_scores(
        evidence,
        shape=shape,
        params=MAINNET,
        references=drawn,
        probation=probation,
        unpaid=unpaid,
    )
    return {
        "hosters": [
            [one.node_id, str(one.score), str(one.total), write_reason(one.penalty)]
            for one in result.reports
        ],
        "refuted": sorted(result.refuted),
        "withheld": sorted(result.withheld),
        "backed": sorted(result.backed),
    }


def run_validator_pay(validators, reveal_hashes, audits, paid):
    evidence = [
        ValidatorEvidence(
            node_id=one["node_id"],
            coldkey=unhex(one["coldkey"]),
            rows=read_rows(one.get("rows", ())),
            refusal=Reason(one["refusal"]) if "refusal" in one else None,
        )
        for one in validators
        if "rows" in one or "refusal" in one
    ]
    hashes = {node_id: unhex(record_hash) for node_id, record_hash in reveal_hashes}
    reports = pay_validators(
        compute_accuracies(evidence, reveal_hashes=hashes, params=MAINNET),
        coldkeys={one["node_id"]: unhex(one["coldkey"]) for one in validators},
        audits={node_id: reason and Reason(reason) for node_id, reason in audits},
        paid_to_hosters=int(paid),
        params=MAINNET,
    )
    return [
        {
            "node_id": one.node_id,
            "accuracy": str(one.accuracy),
            "score_share": str(one.score_share),
            "audit_share": str(one.audit_share),
            "rows": [[row.hoster, write_reason(row.refusal)] for row in one.rows],
        }
        for one in reports
    ]


def make_small_roster(nodes, epoch=9):
    """Return a roster of (node id, class name), with no keys."""
    found = (RosterNode(node_id, None, b"", b"", NodeClass[name], 0) for node_id, name in nodes)
    return Roster(epoch, 20 * epoch, bytes(32), 0, tuple(found))


def run_rows(before, after, present, left_out, scores):
    rows = compute_rows(
        make_small_roster(before),
        make_small_roster(after, 10),
        present=present,
        left_out=left_out,
        scores=dict(read_scores(scores)),
    )
    return write_scores(rows)


def run_check_proposal(own, proposed):
    check_proposal(read_scores(own), read_scores(proposed))
    return "equal"


def run_check_naming(own, proposed):
    report = EpochReport(
        9, bytes(32), unpaid=frozenset(own["unpaid"]), probation=dict(own["probation"])
    )
    check_naming(report, read_naming(**proposed))
    return "equal"


def read_naming(unpaid, probation, list_hash=LIST_HASH_HEX, accepted_hash=LIST_HASH_HEX):
    return Naming(unhex(list_hash), unhex(accepted_hash), frozenset(unpaid), dict(probation))


def run_encode_args(nodes, **naming):
    return encode_args(read_naming(**naming), make_small_roster(nodes)).hex()


def run_decode_args(nodes, args):
    named = decode_args(None if args is None else unhex(args), make_small_roster(nodes))
    return {
        "list_hash": named.list_hash.hex(),
        "accepted_hash": named.accepted_hash.hex(),
        "unpaid": sorted(named.unpaid),
        "probation": [[node_id, left] for node_id, left in sorted(named.probation.items())],
    }


def run_named_list(nodes, body):
    named = check_named_list(decode_named_list(unhex(body)), make_small_roster(nodes))
    return [[node_id, record_hash.hex()] for node_id, record_hash in named.items()]


def run_accepted(nodes, sightings):
    roster = make_small_roster(nodes)
    opened = [_open_sighting(body, roster) for body in sightings]
    return {
        "accepted": [
            [kind.name, epoch - roster.epoch, node_id, name.hex()]
            for (kind, epoch, node_id), name in find_accepted(opened, roster).items()
        ],
        "unpaid": sorted(find_unpaid(opened, roster)),
    }


def _open_sighting(body, roster):
    envelope = seal(
        PeerKey(bytes(32)),
        kind=RecordKind.SIGHTING,
        network_id=bytes(32),
        epoch=roster.epoch,
        expires_at=0,
        node_id=1,
        body=unhex(body),
    )
    return open_sighting(envelope, roster)


def run_probation(before, nodes, refuted, withheld):
    left = continue_probation(
        dict(before), make_small_roster(nodes), refuted=refuted, withheld=withheld, params=MAINNET
    )
    return [[node_id, epochs] for node_id, epochs in sorted(left.items())]


def run_carried_probation(before, epochs):
    return [
        [node_id, left] for node_id, left in carry_probation(dict(before), epochs=epochs).items()
    ]


def read_epoch(epoch, first_block, block_hash, expires_at, nodes):
    del expires_at
    found = (
        RosterNode(node_id, PeerKey(unhex(seed)).peer_id, unhex(coldkey), b"", NodeClass[name], 0)
        for node_id, seed, coldkey, name in nodes
    )
    return Roster(epoch, first_block, unhex(block_hash), 0, tuple(found))


def read_records(network_id, epochs, records):
    """Return slot and envelope of each record; ``epochs`` are by age."""
    for kind, age, node_id, body in records:
        epoch = epochs[age]
        seeds = {node: seed for node, seed, _, _ in epoch["nodes"]}
        envelope = seal(
            PeerKey(unhex(seeds[node_id])),
            kind=kind,
            network_id=unhex(network_id),
            epoch=epoch["epoch"],
            expires_at=epoch["expires_at"],
            node_id=node_id,
            body=unhex(body),
        )
        yield (RecordKind(kind), epoch["epoch"], node_id), envelope


def run_score_epoch(network_id, shape, draw, epoch, previous, following, records, named, probation):
    roster = read_epoch(**epoch)
    sightings = {
        node_id: _open_sighting(body, roster) for node_ids, body in named for node_id in node_ids
    }
    accepted = find_accepted(sightings.values(), roster)
    by_name = {
        (slot, get_name(envelope)): envelope
        for slot, envelope in read_records(network_id, (epoch, previous), records)
    }
    kept = {slot: by_name[slot, name] for slot, name in accepted.items()}
    facts = EpochFacts(
        roster=roster,
        previous=None if previous is None else read_epoch(**previous),
        seed=compute_seed(unhex(network_id), roster.epoch, roster.first_block, roster.block_hash),
        draw=None if draw is None else unhex(draw),
        shape=read_shape(**shape),
        records=kept,
        named=sightings,
        probation=dict(probation),
    )
    report = score_epoch(facts, make_small_roster(following, roster.epoch + 1), MAINNET)
    naming = Naming(LIST_HASH, hash_accepted(kept, accepted), report.unpaid, report.probation)
    return {
        "rows": write_scores(report.rows),
        "hosters": [
            [
                one.node_id,
                str(one.score),
                str(one.total),
                write_reason(one.refusal),
                write_reason(one.penalty),
            ]
            for one in report.hosters
        ],
        "validators": [
            [
                one.node_id,
                str(one.accuracy),
                str(one.score_share),
                str(one.audit_share),
                write_reason(one.refusal),
                write_reason(one.audit_refusal),
            ]
            for one in report.validators
        ],
        "refusals": [
            [refusal.kind.name, refusal.node_id, str(refusal.reason)] for refusal in report.refusals
        ],
        "args": encode_args(naming, roster).hex(),
    }


def run_score_nothing(nodes, following, probation):
    roster = make_small_roster(nodes)
    report = score_nothing(
        roster, make_small_roster(following, 10), probation=dict(probation), seed=bytes(32)
    )
    return {
        "rows": write_scores(report.rows),
        "args": encode_args(Naming(probation=report.probation), roster).hex(),
    }


OPERATIONS = {
    name.removeprefix("run_"): run_operation
    for name, run_operation in list(globals().items())
    if name.startswith("run_")
}
