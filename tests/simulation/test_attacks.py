"""Each way to be dishonest, by name: it earns nothing and costs no honest node anything.

The invariants are checked in every run: what is worthless earns nothing, honest answers are worth
what they were, and honest nodes attest what they computed. These scenarios make sure that each
attack happens, and look at what the chain holds afterwards.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Set

import pytest

from consensus.submission import Submission
from consensus.types import Epoch, LayerRange, Role, SubnetNodeId
from subnet.simulation.byzantine import Behaviour
from subnet.simulation.inference import SHAPE
from subnet.simulation.scenario import FaultFamily, NodeSpec, Scenario
from subnet.simulation.world import RunResult, World, run_scenario

EPOCHS = 5
Lies = Mapping[int, Set[Behaviour]]
WHOLE = LayerRange(0, SHAPE.num_layers)


def make_scenario(lies: Lies, *, seed: int = 1, faults: Collection[FaultFamily] = ()) -> Scenario:
    """Five hosters of everything, two validators; ``lies`` says who is dishonest."""
    nodes = tuple(
        NodeSpec(
            node_id,
            Role.HOSTER if node_id <= 5 else Role.VALIDATOR,
            WHOLE,
            frozenset(lies.get(node_id, ())),
        )
        for node_id in range(1, 8)
    )
    origin = f"this test with seed {seed}"
    return Scenario(seed, EPOCHS, nodes, frozenset(faults), origin)


def make_small_scenario(
    epochs: int, *, seed: int = 1, faults: Collection[FaultFamily] = ()
) -> Scenario:
    """Two hosters of everything, two validators, all honest."""
    nodes = tuple(
        NodeSpec(node_id, Role.HOSTER if node_id <= 2 else Role.VALIDATOR, WHOLE)
        for node_id in range(1, 5)
    )
    return Scenario(seed, epochs, nodes, frozenset(faults), "this test")


def run_with(lies: Lies, *, seed: int = 1, worlds: list[World] | None = None) -> RunResult:
    scenario = make_scenario(lies, seed=seed, faults={FaultFamily.BYZANTINE})
    print(scenario.seed, *map(str, scenario.nodes), sep="\n")
    return run_scenario(scenario, prepare=None if worlds is None else worlds.append)


def read_submissions(lies: Lies, *, seed: int = 1) -> dict[int, Submission]:
    """Return the proposals of a run, by the epoch in which they were made."""
    worlds: list[World] = []
    run_with(lies, seed=seed, worlds=worlds)
    found = {epoch: worlds[0].chain.read_submission(Epoch(epoch)) for epoch in range(EPOCHS + 1)}
    return {epoch: submission for epoch, submission in found.items() if submission is not None}


def test_all_honest_and_connected_nodes_attest_every_epoch() -> None:
    result = run_scenario(make_scenario({}))
    assert result.num_attested == EPOCHS


def test_copied_commitment_scores_zero() -> None:
    worlds: list[World] = []
    result = run_with({4: {Behaviour.COPY}}, worlds=worlds)
    assert result.num_attested == EPOCHS
    assert worlds[0].invariants.list_copied() == [(4, epoch) for epoch in range(1, EPOCHS + 1)]


def test_two_garbage_hosters_of_five_take_nothing_from_the_honest() -> None:
    run_with({4: {Behaviour.GARBAGE}, 5: {Behaviour.GARBAGE}})


def test_not_a_number_poisons_nobody() -> None:
    run_with({4: {Behaviour.NAN}, 5: {Behaviour.HUGE}})


def test_int8_weights_score_zero() -> None:
    run_with({5: {Behaviour.INT8}})


def test_two_colluders_of_five_score_zero() -> None:
    run_with({4: {Behaviour.COLLUDE}, 5: {Behaviour.COLLUDE}})


def test_late_records_score_zero() -> None:
    result = run_with({4: {Behaviour.LATE}, 5: {Behaviour.LATE_REVEAL}})
    assert result.num_attested == EPOCHS


def test_a_commit_without_reveal_scores_zero() -> None:
    run_with({4: {Behaviour.NO_REVEAL}, 5: {Behaviour.SILENT}})


def test_an_early_reveal_helps_no_copier() -> None:
    worlds: list[World] = []
    run_with({4: {Behaviour.EARLY}, 5: {Behaviour.COPY}}, worlds=worlds)
    assert worlds[0].invariants.list_copied() == [(5, epoch) for epoch in range(1, EPOCHS + 1)]


def test_a_validator_that_names_nobody_is_paid_for_its_audits_alone() -> None:
    submissions = read_submissions({7: {Behaviour.LIE_SCORES}})
    for epoch in range(3, EPOCHS + 1):
        scores: dict[int, int] = dict(submissions[epoch].scores)
        hosters = sum(scores[node] for node in range(1, 6))
        # Of what hosters are paid an eighth is for scores, and an eighth for the audits of both.
        assert abs(16 * scores[7] - hosters) <= 16
        assert abs(16 * scores[6] - 3 * hosters) <= 48


@pytest.mark.parametrize(("seed", "bent"), [(2, {2: 1, 3: 7}), (3, {1: 7})])
def test_a_bent_proposal_is_attested_by_no_honest_node(seed: int, bent: dict[int, int]) -> None:
    lies = {1: {Behaviour.BAD_PROPOSAL}, 7: {Behaviour.BAD_PROPOSAL}}
    for epoch, submission in read_submissions(lies, seed=seed).items():
        assert (submission.proposer in lies) == (epoch in bent)
        everybody = frozenset(range(1, 8))
        assert submission.attested == ({bent[epoch]} if epoch in bent else everybody)


def test_forged_records_are_kept_by_no_replica() -> None:
    result = run_with({4: {Behaviour.FORGE}, 7: {Behaviour.FORGE}})
    assert result.num_attested == EPOCHS


def test_lying_replicas_hide_nothing() -> None:
    result = run_with({4: {Behaviour.WITHHOLD}, 7: {Behaviour.TAMPER}})
    assert result.num_attested == EPOCHS


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("liar", "behaviour"),
    [
        (4, Behaviour.EQUIVOCATE),
        (4, Behaviour.EQUIVOCATE_REVEAL),
        (7, Behaviour.EQUIVOCATE_SCORES),
        (7, Behaviour.EQUIVOCATE_SIGHTING),
        (4, Behaviour.EDGE),
    ],
    ids=lambda value: getattr(value, "value", None),
)
def test_who_shows_nodes_different_things_gambles_with_its_own_score_only(
    liar: int, behaviour: Behaviour, seed: int
) -> None:
    scenario = make_scenario({liar: {behaviour}}, seed=seed, faults={FaultFamily.SPLIT})
    assert run_scenario(scenario).num_attested == EPOCHS


def test_a_reveal_withheld_after_the_draw_costs_the_epoch_and_two_more() -> None:
    submissions = read_submissions({4: {Behaviour.WITHHOLD_DRAWN}})
    assert [dict(submissions[epoch].scores).get(SubnetNodeId(4)) for epoch in range(1, 6)] == [
        0,
        0,
        *[None] * 3,
    ]
    assert all(len(submission.attested) == 7 for submission in submissions.values())


@pytest.mark.parametrize(
    "behaviour", [Behaviour.SEE_NOTHING, Behaviour.SEE_WRONG, Behaviour.ACCUSE]
)
def test_lying_sightings_of_under_a_third_change_no_score(behaviour: Behaviour) -> None:
    result = run_with({4: {behaviour}, 7: {behaviour}})
    assert result.num_attested == EPOCHS


def test_a_censoring_proposer_keeps_no_record_out() -> None:
    submissions = read_submissions({4: {Behaviour.CENSOR}, 7: {Behaviour.CENSOR}})
    assert submissions[3].proposer == 4
    for epoch in range(2, EPOCHS + 1):
        assert len(submissions[epoch].attested) == 7
        assert min(score for _, score in submissions[epoch].scores) > 0


def test_a_named_list_that_is_hidden_is_not_attested_and_harms_only_its_epoch() -> None:
    submissions = read_submissions({4: {Behaviour.HIDE_LIST}, 7: {Behaviour.HIDE_LIST}}, seed=3)
    assert submissions[4].proposer == 4
    attested = {epoch: len(submission.attested) for epoch, submission in submissions.items()}
    assert attested == {1: 7, 2: 7, 3: 7, 4: 1, 5: 7}
