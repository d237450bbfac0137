"""Scoring one epoch: the first page of the protocol.

The elected validator of epoch e+1 proposes the scores of epoch e; the other nodes recompute them
and attest the proposal if theirs are equal. What an honest node saw itself plays no part: the
proposal names sightings, the sightings decide which records are accepted, and from there on this
is one pure function. The same facts give the same bytes on every node.

What goes in
    ``facts`` of epoch e: its roster (the chain's nodes at its first block) and that of the epoch
    before, the seed of its challenge, the block that drew the audited layers, the named sightings,
    the accepted records (naming.py), and who is on probation.
    ``next_roster``: the roster of epoch e+1, whose nodes get rows.

The steps, in order
    1. Unpaid: hosters whose probes failed by more than half of the named sightings (naming.py).
    2. Output evidence: accepted commits, and the accepted reveals that open them (evidence.py,
       commitment.py).
    3. References: the validators' own answers to the drawn layers (audit.py).
    4. Hoster scores: for each layer, the distance of each answer to the mean of the valid ones
       (agreement.py); the layer's pool is divided among those that are paid (scoring.py). Drawn
       layers come first: who contradicts them is refuted and has no vote on any layer. A subnet
       may divide the pay among those that are left by a rule of its own (scorer.py).
    5. Validator accuracies: the share of each one's score rows of epoch e-1 that are right. The
       rows were committed to in the accepted sightings of e-1 and revealed in e.
    6. Validators' pay: a quarter of what hosters are paid, half for scores, half for audits.
    7. Probation: what was left, one epoch less, and who was refuted or withheld a drawn layer.
    8. Rows (rows.py): one for each Included or Validator node of e+1, but for silent validators
       and those on probation. A node is paid as a hoster if it committed to outputs, else as a
       validator.

What comes out
    An ``EpochReport``: rows, unpaid hosters and probation, which the proposal carries, and the
    reason of every number.

What is exact
    Everything. Scores are integers at 10**18; outputs are rounded to integers before they are
    compared; the order of records does not matter. tests/vectors/epoch.json holds whole epochs
    with their answers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from consensus.agreement import Answer
from consensus.audit import Reference, collect_references, draw_layers
from consensus.commitment import compute_tag
from consensus.errors import Reason
from consensus.evidence import (
    EpochFacts,
    OutputEvidence,
    collect_output_evidence,
    collect_score_evidence,
    find_present,
    find_reveal_hashes,
)
from consensus.naming import (
    carry_probation,
    continue_probation,
    count_failed_probes,
    find_unpaid,
)
from consensus.protocol_params import ConsensusParams
from consensus.records import RecordKind, ScoreRow
from consensus.report import EpochReport
from consensus.roster import Roster
from consensus.rows import compute_rows
from consensus.scorer import Scorer, apply_scorer
from consensus.scoring import (
    HosterScores,
    compute_accuracies,
    compute_hoster_scores,
    pay_validators,
)
from consensus.types import NodeClass, Score, SubnetNodeId


def score_epoch(
    facts: EpochFacts,
    next_roster: Roster,
    params: ConsensusParams,
    scorer: Scorer | None = None,
) -> EpochReport:
    """Score the epoch of ``facts`` for the proposal of the next one.

    ``scorer`` is the subnet's own rule of what hosters are paid. Raises ScorerFailed if it fails.
    """
    unpaid = find_unpaid(facts.named.values(), facts.roster)
    outputs = collect_output_evidence(facts)
    references = _collect_references(facts, outputs.accepted, params)
    hosters = _score_hosters(facts, outputs, references, params, unpaid=unpaid)
    if scorer is not None:
        hosters = apply_scorer(hosters, scorer)
    evidence = collect_score_evidence(facts, hosters=outputs.accepted | facts.probation.keys())
    validators = pay_validators(
        compute_accuracies(evidence, reveal_hashes=find_reveal_hashes(facts), params=params),
        coldkeys=_map_coldkeys(facts),
        audits=_judge_audits(references, hosters.backed),
        paid_to_hosters=Score(sum(hosters.scores.values())),
        params=params,
    )
    probation = continue_probation(
        facts.probation,
        facts.roster,
        refuted=hosters.refuted,
        withheld=hosters.withheld,
        params=params,
    )
    rows = compute_rows(
        facts.roster,
        next_roster,
        present=find_present(facts, outputs, evidence),
        left_out=facts.probation.keys() | hosters.refuted,
        scores={report.node_id: report.score for report in validators} | hosters.scores,
    )
    return EpochReport(
        epoch=facts.epoch,
        seed=facts.seed,
        hosters=hosters.reports,
        validators=validators,
        refusals=outputs.refusals,
        failed_probes=count_failed_probes(facts.named.values(), facts.roster),
        num_named=len(facts.named),
        unpaid=unpaid,
        probation=probation,
        rows=rows,
    )


def score_nothing(
    roster: Roster,
    next_roster: Roster,
    *,
    probation: Mapping[SubnetNodeId, int],
    seed: bytes,
) -> EpochReport:
    """Return the report of an epoch of which no work can be scored: every row is 0.

    The chain elected no validator in it, or too few of its sightings can be had. No node counts as
    silent, and ``probation`` goes on: the epochs left before the roster's epoch, by node.
    """
    all_nodes = {node.node_id for node in next_roster.nodes}
    return EpochReport(
        epoch=roster.epoch,
        seed=seed,
        probation=carry_probation(probation, roster, epochs=1),
        rows=compute_rows(
            roster, next_roster, present=all_nodes, left_out=probation.keys(), scores={}
        ),
    )


def compute_score_rows(
    facts: EpochFacts, *, validator: SubnetNodeId, params: ConsensusParams
) -> tuple[ScoreRow, ...]:
    """Return what a validator commits to in its sighting: its scores of the epoch's hosters.

    ``facts`` are what it saw itself. There is a row for each reveal, sorted by node id, with 0 for
    one that nothing was committed to. The totals are those before shares are divided, because they
    move little when validators saw different records.
    """
    outputs = collect_output_evidence(facts)
    references = _collect_references(facts, outputs.accepted, params)
    hosters = _score_hosters(facts, outputs, references, params)
    totals = {report.node_id: report.total for report in hosters.reports}
    rows = []
    for node in facts.roster.with_class(NodeClass.INCLUDED):
        reveal = facts.records.get((RecordKind.OUTPUT_REVEAL, facts.epoch, node.node_id))
        if reveal is not None:
            tag = compute_tag(validator, reveal.record_hash)
            rows.append(ScoreRow(node.node_id, totals.get(node.node_id, Score(0)), tag))
    return tuple(sorted(rows))


def _score_hosters(
    facts: EpochFacts,
    outputs: OutputEvidence,
    references: Sequence[Reference],
    params: ConsensusParams,
    *,
    unpaid: Collection[SubnetNodeId] = (),
) -> HosterScores:
    return compute_hoster_scores(
        outputs.hosters,
        shape=facts.shape,
        params=params,
        references=_group_by_layer(references, facts, params),
        probation=facts.probation,
        unpaid=unpaid,
    )


def _collect_references(
    facts: EpochFacts, hosters: frozenset[SubnetNodeId], params: ConsensusParams
) -> tuple[Reference, ...]:
    """Return the reference rows of the validators that are not on probation."""
    if facts.draw is None:
        return ()
    return collect_references(
        facts.records,
        facts.roster,
        draw=facts.draw,
        hosters=hosters | facts.probation.keys(),
        shape=facts.shape,
        params=params,
    )


def _group_by_layer(
    references: Sequence[Reference], facts: EpochFacts, params: ConsensusParams
) -> dict[int, list[Answer]]:
    """Return the answers to each drawn layer, also to one that no validator answered."""
    if facts.draw is None:
        return {}
    return {
        layer: [reference.answers[layer] for reference in references if layer in reference.answers]
        for layer in draw_layers(facts.draw, facts.shape, params)
    }


def _judge_audits(
    references: Sequence[Reference], backed: frozenset[SubnetNodeId]
) -> dict[SubnetNodeId, Reason | None]:
    """Return why each validator's reference rows are not paid, None where they are."""
    judged: dict[SubnetNodeId, Reason | None] = {}
    for reference in references:
        is_wrong = reference.refusal is None and reference.node_id not in backed
        judged[reference.node_id] = Reason.OUTSIDE_TOLERANCE if is_wrong else reference.refusal
    return judged


def _map_coldkeys(facts: EpochFacts) -> dict[SubnetNodeId, bytes]:
    rosters = (facts.roster,) if facts.previous is None else (facts.previous, facts.roster)
    return {node.node_id: node.coldkey for roster in rosters for node in roster.nodes}
