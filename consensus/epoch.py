"""Scoring one epoch: the first page of the protocol.

At the end of an epoch every node scores it, alone, from the records that it saw. The elected
validator proposes its rows on chain in the next epoch; the other nodes attest them if theirs are
equal. So this is one pure function: the same facts give the same bytes on every node.

What goes in
    ``facts`` of the epoch: its roster (the chain's nodes at its first block), the seed of its
    challenge, its schedule, the first record of each slot with the block at which this node first
    saw it, and the proposal that the chain held at its end, with its attestations.
    ``previous``: the facts of the epoch before it; None if the chain elected no validator in that
    one, so no work was scored in it.

The steps, in order
    1. Equivocators of outputs: nodes that signed two commits or two reveals (equivocation.py).
       Their outputs count for nothing.
    2. Output evidence: commits and reveals in time; the reveals that open their commits
       (evidence.py, phases.py, commitment.py).
    3. Hoster scores: for each layer, the distance of each answer to the mean of the valid ones
       (agreement.py); the layer's pool is divided among them (scoring.py).
    4. Score evidence: the validators' scores of the previous epoch, committed in it and revealed
       in this one. Nodes that hosted in the previous epoch have none that count, and nodes
       that equivocated in either score 0.
    5. Attested rows: the hosters' rows of this epoch's proposal, which scores the previous one, if
       two thirds of the nodes of class Validator attested it. They are the centre where too few
       validators reveal.
    6. Validator scores: the distance of each one's scores to those of all (scoring.py).
    7. Rows: one for each node with an accepted record. A node is paid as a hoster if it committed
       to outputs, else as a validator; an equivocator keeps its row, with 0. Nodes without a row
       are absent for the chain.

What comes out
    An ``EpochReport``: the rows, sorted by node id, and the reason of every number.

What is exact
    Everything. Scores are integers at 10**18; outputs are rounded to integers before they are
    compared; the order of records does not matter. tests/vectors/epoch.json holds whole epochs
    with their answers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from consensus.attestation import is_attested
from consensus.equivocation import find_equivocators
from consensus.evidence import (
    EpochFacts,
    OutputEvidence,
    collect_output_evidence,
    collect_score_evidence,
    find_present,
)
from consensus.protocol_params import ConsensusParams
from consensus.records import OUTPUT_KINDS, SCORE_KINDS
from consensus.report import EpochReport
from consensus.roster import Roster
from consensus.scoring import (
    ScoreRows,
    ValidatorEvidence,
    ValidatorScores,
    compute_hoster_scores,
    compute_proposal_rows,
    compute_validator_scores,
)
from consensus.types import NodeClass, Score, SubnetNodeId


def score_epoch(
    facts: EpochFacts, previous: EpochFacts | None, params: ConsensusParams
) -> EpochReport:
    """Score the epoch of ``facts``; ``previous`` is the epoch before it, None if not scored."""
    # Steps 1 to 3: this epoch's outputs.
    outputs = open_outputs(facts)
    hosters = compute_hoster_scores(outputs.hosters, shape=facts.shape, params=params)
    # Steps 4 to 6: the scores of the epoch before.
    equivocators = outputs.equivocators
    evidence: tuple[ValidatorEvidence, ...] = ()
    validators = ValidatorScores(())
    if previous is not None:
        hosted = open_outputs(previous)
        equivocators |= find_equivocators(facts, SCORE_KINDS, signed_in=previous)
        evidence = collect_score_evidence(
            previous,
            revealing=facts,
            hosters=hosted.accepted,
            equivocators=hosted.equivocators | equivocators,
        )
        validators = compute_validator_scores(
            evidence,
            node_ids=[node.node_id for node in previous.roster.with_class(NodeClass.INCLUDED)],
            attested=find_attested_rows(facts, hosters=hosted.accepted, params=params),
            params=params,
        )
    # Step 7.
    rows = compute_proposal_rows(
        facts.roster,
        present=find_present(facts, outputs, evidence) | equivocators,
        hosters=outputs.accepted,
        hoster_scores=hosters.scores | dict.fromkeys(equivocators, Score(0)),
        validator_scores=validators.scores,
    )
    return EpochReport(
        epoch=facts.roster.epoch,
        seed=facts.seed,
        hosters=hosters.reports,
        validators=validators.reports,
        refusals=outputs.refusals,
        rows=rows,
    )


def compute_first_rows(roster: Roster) -> ScoreRows:
    """Return the rows after an epoch that was not scored: every node of the roster, with 0.

    The chain elected no validator in that epoch, so no work was asked for.
    """
    nodes = sorted(node.node_id for node in roster.with_class(NodeClass.INCLUDED))
    return tuple((node_id, Score(0)) for node_id in nodes)


def compute_committed_scores(facts: EpochFacts, params: ConsensusParams) -> ScoreRows:
    """Return the hosters' scores that a validator commits to before the epoch ends."""
    hosters = open_outputs(facts).hosters
    scores = compute_hoster_scores(hosters, shape=facts.shape, params=params).scores
    return tuple(sorted(scores.items()))


def open_outputs(facts: EpochFacts) -> OutputEvidence:
    """Return what counts of the hosters' work, without that of equivocators."""
    equivocators = find_equivocators(facts, OUTPUT_KINDS, signed_in=facts)
    return collect_output_evidence(facts, equivocators=equivocators)


def find_attested_rows(
    facts: EpochFacts, *, hosters: Collection[SubnetNodeId], params: ConsensusParams
) -> Mapping[SubnetNodeId, Score] | None:
    """Return the hosters' rows of the epoch's proposal, None unless enough nodes attested it."""
    submission = facts.submission
    if submission is None or not is_attested(submission, facts.roster, params):
        return None
    return {node_id: score for node_id, score in submission.scores if node_id in hosters}
