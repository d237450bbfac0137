"""Which faults a seed meets: every pair of families, about equally often."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import pytest

from subnet.simulation.scenario import NETWORK_FAULTS, FaultFamily, draw_faults, draw_scenario

NUM_SEEDS = 200
MIN_MEETINGS = 3


@pytest.mark.parametrize("first", [0, 200, 1000])
def test_each_pair_of_families_occurs_several_times_in_200_seeds(first: int) -> None:
    sets = [draw_faults(seed) for seed in range(first, first + NUM_SEEDS)]
    met = Counter(frozenset(pair) for drawn in sets for pair in combinations(drawn, 2))
    rare = [pair for pair in combinations(FaultFamily, 2) if met[frozenset(pair)] < MIN_MEETINGS]
    assert not rare
    assert sum(not drawn for drawn in sets) >= 10, "some seeds have no faults"
    assert sum(not drawn & NETWORK_FAULTS for drawn in sets) >= 60, "where more is asked"


def test_the_faults_of_a_seed_are_the_same_whichever_seeds_were_drawn_before() -> None:
    drawn = [draw_faults(seed) for seed in range(250)]
    assert [draw_faults(seed) for seed in reversed(range(250))] == drawn[::-1]


def test_faults_that_are_given_change_no_other_draw_of_a_seed() -> None:
    drawn, given = draw_scenario(5), draw_scenario(5, faults=draw_faults(5))
    assert drawn == given
