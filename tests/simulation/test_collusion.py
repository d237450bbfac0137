"""What colluders can do below a third of the Validator-class nodes, and from there to a half."""

from __future__ import annotations

from dataclasses import replace

import pytest

from consensus.types import Epoch
from subnet.simulation.byzantine import Behaviour
from subnet.simulation.scenario import PLANS, FaultFamily, draw_scenario
from subnet.simulation.world import World, run_scenario
from tests.simulation.test_attacks import EPOCHS, make_scenario

Plan = frozenset[Behaviour]


def name_plan(plan: Plan) -> str:
    return "+".join(sorted(behaviour.value for behaviour in plan))


@pytest.mark.parametrize("plan", PLANS, ids=name_plan)
def test_two_colluders_of_seven_change_no_score_and_stop_no_honest_epoch(plan: Plan) -> None:
    scenario = make_scenario({5: plan, 7: plan}, faults={FaultFamily.COLLUSION})
    assert scenario.is_tolerable
    worlds: list[World] = []
    result = run_scenario(scenario, prepare=worlds.append)
    elected = [worlds[0].chain.read_elected(Epoch(epoch)) for epoch in range(1, EPOCHS + 1)]
    lost = sum(node in (5, 7) for node in elected) if Behaviour.BAD_PROPOSAL in plan else 0
    assert result.num_attested == EPOCHS - lost


@pytest.mark.parametrize("plan", PLANS, ids=name_plan)
def test_three_colluders_of_seven_bring_no_honest_node_to_attest_another_result(plan: Plan) -> None:
    scenario = make_scenario({4: plan, 5: plan, 7: plan}, faults={FaultFamily.COLLUSION})
    assert not scenario.is_tolerable
    run_scenario(scenario)


def test_three_colluders_of_seven_that_name_each_other_pay_nobody_else() -> None:
    """Why the invariants ask for pay below a third only."""
    plan = frozenset({Behaviour.SEE_ALLIES, Behaviour.NAME_ALLIES})
    robbed = 0
    for seed in range(1, 4):
        worlds: list[World] = []
        scenario = make_scenario(
            {4: plan, 5: plan, 7: plan}, seed=seed, faults={FaultFamily.COLLUSION}
        )
        run_scenario(scenario, prepare=worlds.append)
        for epoch in range(2, EPOCHS + 1):
            submission = worlds[0].chain.read_submission(Epoch(epoch))
            assert submission is not None
            scores: dict[int, int] = dict(submission.scores)
            is_robbed = not any(scores.get(node_id, 0) for node_id in scenario.honest)
            assert not is_robbed or submission.proposer in (4, 5, 7)
            robbed += is_robbed
    assert robbed > 0


def test_three_colluders_of_seven_that_attest_nothing_stop_every_epoch_but_their_own() -> None:
    """Why the invariants ask for agreement below a third only."""
    plan = frozenset({Behaviour.REFUSE})
    scenario = make_scenario({4: plan, 5: plan, 7: plan}, faults={FaultFamily.COLLUSION})
    worlds: list[World] = []
    result = run_scenario(scenario, prepare=worlds.append)
    elected = [worlds[0].chain.read_elected(Epoch(epoch)) for epoch in range(1, EPOCHS + 1)]
    own = sum(node in (4, 5, 7) for node in elected)
    assert result.num_attested == own < EPOCHS


def test_seeds_draw_colluders_below_a_third_and_from_there_to_just_under_half() -> None:
    drawn = [draw_scenario(seed, faults=[FaultFamily.COLLUSION]) for seed in range(100)]
    shares = {len(s.nodes) - len(s.honest) for s in drawn}
    assert shares == {2, 3}
    plans = {node.behaviours for s in drawn for node in s.nodes if not node.is_honest}
    assert plans == set(PLANS)
    assert 10 < sum(s.is_tolerable for s in drawn) < 90
    larger = [draw_scenario(seed, nodes=20, faults=[FaultFamily.COLLUSION]) for seed in range(100)]
    assert all(2 * len(s.honest) > 20 for s in larger)
    assert {len(s.honest) for s in larger} >= {11, 12, 13, 15, 18}


def test_a_node_that_leaves_or_stops_makes_the_hostile_no_third() -> None:
    for seed in range(200):
        scenario = draw_scenario(seed, faults=[FaultFamily.BYZANTINE, FaultFamily.ROSTER])
        assert scenario.is_tolerable
        unchanged = [
            replace(node, joins=None, leaves=None, stops=None) for node in scenario.founders
        ]
        assert unchanged == list(draw_scenario(seed, faults=[FaultFamily.BYZANTINE]).nodes)
