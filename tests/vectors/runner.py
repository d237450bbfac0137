"""Runs one golden vector against the implementation: JSON values in, JSON values out.

A vector is ``{"name", "operation", "input"}`` and either ``expected`` or ``error``, the name of
the error class. Bytes are hex, scores are decimal text (they pass 2**53).
"""

import hashlib

from consensus.agreement import Answer, compute_layer_scores
from consensus.attestation import check_proposal
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
    check_output_reveal,
    check_score_reveal,
    compute_output_commitment,
    compute_score_commitment,
    compute_vectors_root,
    derive_salt,
    encode_scores,
)
from consensus.epoch import compute_first_rows, score_epoch
from consensus.errors import InvalidVector, Reason
from consensus.evidence import EpochFacts, TimedRecord
from consensus.phases import compute_schedule, phase_at
from consensus.protocol_params import MAINNET, MINIMAL
from consensus.records import RecordKind
from consensus.roster import Roster, RosterNode
from consensus.scoring import (
    HosterEvidence,
    ValidatorEvidence,
    compute_hoster_scores,
    compute_proposal_rows,
    compute_validator_scores,
)
from consensus.submission import Submission
from consensus.types import EpochPosition, LayerRange, NodeClass
from keys.envelope import decode_envelope, seal
from keys.peer import PeerKey

PRESETS = {"mainnet": MAINNET, "minimal": MINIMAL}
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


def run_score_commitment(context, salt, scores):
    return compute_score_commitment(
        read_context(**context), salt=unhex(salt), scores=read_scores(scores)
    ).hex()


def run_open_scores(commitment, context, salt, scores):
    check_score_reveal(
        unhex(commitment), read_context(**context), salt=unhex(salt), scores=read_scores(scores)
    )
    return "opens"


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
        "commit_start": schedule.commit_start,
        "reveal_start": schedule.reveal_start,
        "score_start": schedule.score_start,
        "scoring_start": schedule.windows[RecordKind.OUTPUT_REVEAL].counts_until,
        "score_commit_end": schedule.windows[RecordKind.SCORE_COMMIT].counts_until,
        "phases": "".join(phase.value[0] for phase in phases),
    }


def run_block_scores(length, answers, scale=0):
    result = compute_layer_scores(
        [_read_answer(length, scale, **answer) for answer in answers],
        length=length,
        params=MAINNET,
        scale=scale,
    )
    return {
        "verdict": result.verdict.value,
        "num_votes": result.num_votes,
        "answers": [
            {
                "node_id": answer.node_id,
                "refusal": answer.refusal and str(answer.refusal),
                "distance": answer.distance,
                "score": str(answer.score),
            }
            for answer in result.answers
        ],
    }


def _read_answer(length, scale, node_id, coldkey, vector=None, refusal=None):
    if refusal is not None:
        return Answer(node_id, unhex(coldkey), refusal=Reason(refusal))
    try:
        return Answer(node_id, unhex(coldkey), decode_vector(unhex(vector), length, MAINNET, scale))
    except InvalidVector as error:
        return Answer(node_id, unhex(coldkey), refusal=error.reason)


def run_hoster_scores(shape, hosters):
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
    result = compute_hoster_scores(evidence, shape=read_shape(**shape), params=MAINNET)
    return {
        "scores": write_scores(result.scores.items()),
        "verdicts": [verdict.value for _, verdict in sorted(result.verdicts.items())],
    }


def run_validator_scores(node_ids, ballots, attested):
    evidence = [
        ValidatorEvidence(
            node_id=ballot["node_id"],
            coldkey=unhex(ballot["coldkey"]),
            scores=read_scores(ballot.get("scores", ())),
            refusal=Reason(ballot["refusal"]) if "refusal" in ballot else None,
        )
        for ballot in ballots
    ]
    result = compute_validator_scores(
        evidence,
        node_ids=node_ids,
        attested=None if attested is None else dict(read_scores(attested)),
        params=MAINNET,
    )
    return [
        [report.node_id, str(report.score), report.refusal and str(report.refusal)]
        for report in result.reports
    ]


def run_proposal_rows(classes, present, hosters, hoster_scores, validator_scores, is_first_elected):
    nodes = tuple(
        RosterNode(node_id, None, b"", b"", NodeClass[name], 0) for node_id, name in classes
    )
    roster = Roster(1, 0, bytes(32), 0, nodes)
    rows = compute_proposal_rows(
        roster,
        present=present,
        hosters=hosters,
        hoster_scores=dict(read_scores(hoster_scores)),
        validator_scores=dict(read_scores(validator_scores)),
    )
    rows = compute_first_rows(roster) if is_first_elected else rows
    name = hashlib.sha256(b"mesh/proposal" + encode_scores(rows)).hexdigest()
    return {"rows": write_scores(rows), "hash": name}


def run_check_proposal(own, proposed):
    check_proposal(read_scores(own), read_scores(proposed))
    return "equal"


def run_score_epoch(facts, previous, **subnet):
    report = score_epoch(
        read_facts(**subnet, **facts),
        None if previous is None else read_facts(**subnet, **previous),
        MAINNET,
    )
    return {
        "rows": write_scores(report.rows),
        "hosters": [
            [hoster.node_id, str(hoster.score), hoster.refusal and str(hoster.refusal)]
            for hoster in report.hosters
        ],
        "validators": [
            [validator.node_id, str(validator.score), validator.refusal and str(validator.refusal)]
            for validator in report.validators
        ],
        "refusals": [
            [refusal.kind.name, refusal.node_id, str(refusal.reason)] for refusal in report.refusals
        ],
    }


def read_facts(
    network_id,
    length,
    shape,
    epoch,
    first_block,
    block_hash,
    expires_at,
    nodes,
    records,
    submission,
):
    """Return what a node that saw these records knows of an epoch."""
    keys = {node_id: PeerKey(unhex(seed)) for node_id, seed, _, _ in nodes}
    sightings = {}
    for kind, node_id, offset, body in records:
        envelope = seal(
            keys[node_id],
            kind=kind,
            network_id=unhex(network_id),
            epoch=epoch,
            expires_at=expires_at,
            node_id=node_id,
            body=unhex(body),
        )
        sightings[RecordKind(kind), node_id] = TimedRecord(envelope, first_block + offset)
    return EpochFacts(
        network_id=unhex(network_id),
        roster=Roster(epoch, first_block, unhex(block_hash), 0, read_nodes(nodes)),
        schedule=compute_schedule(length, MAINNET),
        seed=compute_seed(unhex(network_id), epoch, first_block, unhex(block_hash)),
        shape=read_shape(**shape),
        expires_at=expires_at,
        sightings=sightings,
        submission=None if submission is None else read_submission(first_block, **submission),
    )


def read_nodes(nodes):
    return tuple(
        RosterNode(node_id, PeerKey(unhex(seed)).peer_id, unhex(coldkey), b"", NodeClass[name], 0)
        for node_id, seed, coldkey, name in nodes
    )


def read_submission(first_block, proposer, scores, attested):
    rows = read_scores(scores)
    return Submission(proposer, first_block + 1, rows, frozenset(attested), None)


def run_first_rows(nodes):
    return write_scores(compute_first_rows(Roster(9, 183, bytes(32), 0, read_nodes(nodes))))


OPERATIONS = {
    "seed": run_seed,
    "block_input": run_block_input,
    "token_ids": run_token_ids,
    "head_rows": run_head_rows,
    "coordinates": run_coordinates,
    "vector_length": run_vector_length,
    "decode_vector": run_decode_vector,
    "salt": run_salt,
    "output_commitment": run_output_commitment,
    "open_output": run_open_output,
    "score_commitment": run_score_commitment,
    "open_scores": run_open_scores,
    "seal": run_seal,
    "open_envelope": run_open_envelope,
    "schedule": run_schedule,
    "block_scores": run_block_scores,
    "hoster_scores": run_hoster_scores,
    "validator_scores": run_validator_scores,
    "proposal_rows": run_proposal_rows,
    "check_proposal": run_check_proposal,
    "score_epoch": run_score_epoch,
    "first_rows": run_first_rows,
}
