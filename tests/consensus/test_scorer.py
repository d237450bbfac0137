"""A subnet's own rule of pay: what it is told, what it may give, and what it cannot change."""

import pytest

from consensus.epoch import score_epoch
from consensus.errors import Reason, ScorerFailed
from consensus.protocol_params import MAINNET
from consensus.types import SCORE_ONE, Epoch
from tests.consensus.test_epoch import HOSTERS, VALIDATORS, make_world, rows


def score(world, scorer):
    from dataclasses import replace

    following = replace(world.roster, epoch=Epoch(world.epoch + 1))
    return score_epoch(world.name(), following, MAINNET, scorer)


def pay_built_in(works):
    return [work.built_in for work in works]


def test_the_built_in_rule_as_a_scorer_changes_nothing():
    world = make_world()
    assert score(world, pay_built_in) == score(world, None)


def test_a_scorer_divides_the_hosters_pay_and_validators_share_a_quarter_of_it():
    paid = rows(score(make_world(), lambda works: [1000 * work.node_id for work in works]))
    assert {node: paid[node] for node in HOSTERS} == {1: 1000, 2: 2000, 3: 3000}
    assert 6000 // 4 - 6 <= sum(paid[node] for node in VALIDATORS) <= 6000 // 4


def test_a_hoster_with_a_penalty_is_not_shown_to_the_scorer_and_stays_unpaid():
    world, seen = make_world(), []
    world.probation = {2: 3}

    def note(works):
        seen.extend(work.node_id for work in works)
        return [10] * len(works)

    report = score(world, note)
    assert 2 not in seen and seen
    (two,) = [one for one in report.hosters if one.node_id == 2]
    assert two.score == 0 and two.penalty is Reason.ON_PROBATION


def test_a_scorer_is_told_the_score_and_share_of_each_layer():
    told = []
    score(make_world(), lambda works: told.extend(works) or pay_built_in(works))
    for work in told:
        assert len(work.scores) == len(work.shares) >= work.end - work.start
        assert work.built_in == sum(work.shares) > 0


@pytest.mark.parametrize(
    "give, reason",
    [
        (lambda works: [1.0] * len(works), "a float, not an integer"),
        (lambda works: [True] * len(works), "a bool, not an integer"),
        (lambda works: [-1] * len(works), "pay is not negative"),
        (lambda works: [SCORE_ONE] * len(works), "more than"),
        (lambda works: [1], "did not give 3 integers"),
        (lambda works: None, "did not give 3 integers"),
    ],
)
def test_a_scorer_that_gives_anything_else_fails_with_its_reason(give, reason):
    with pytest.raises(ScorerFailed, match=reason):
        score(make_world(), give)
