"""The rules of this subnet."""

import random
from types import SimpleNamespace

import fewer_hops
import pytest

ONE = 10**18


def make_hoster(layers, pay):
    return SimpleNamespace(start=0, end=layers, built_in=pay)


def test_a_long_range_earns_more_than_two_halves_of_it():
    whole, first, last = fewer_hops.score(
        [make_hoster(8, 8 * ONE // 100), make_hoster(4, 4 * ONE // 100), make_hoster(4, ONE // 25)]
    )
    assert whole > first + last


def test_no_more_is_paid_than_by_the_built_in_rule():
    dice = random.Random(1)
    hosters = [make_hoster(dice.randint(1, 80), dice.randrange(ONE // 300)) for _ in range(256)]
    paid = fewer_hops.score(hosters)
    assert min(paid) >= 0 and sum(paid) <= sum(hoster.built_in for hoster in hosters)
    assert all(type(pay) is int for pay in paid)


def test_splitting_a_node_in_two_never_pays():
    one = fewer_hops.score([make_hoster(8, ONE // 10), make_hoster(8, ONE // 10)])[0]
    halves = [make_hoster(4, ONE // 20), make_hoster(4, ONE // 20), make_hoster(8, ONE // 10)]
    assert sum(fewer_hops.score(halves)[:2]) < one


def test_an_epoch_without_work_pays_nothing():
    assert fewer_hops.score([make_hoster(8, 0)]) == [0]
    assert fewer_hops.score([]) == []


@pytest.mark.parametrize("distance, wrong", [(50_000, False), (50_001, True)])
def test_a_probe_allows_five_percent(distance, wrong):
    assert fewer_hops.probe.is_wrong((1, 2), (3,), distance) is wrong


def test_a_probe_that_gets_no_answer_fails():
    assert fewer_hops.probe.is_wrong((1, 2), (), 0) is True


def test_a_prompt_is_the_same_for_one_draw_and_within_the_model():
    prompt = fewer_hops.probe.make_prompt(7, 100, 128)
    assert prompt == fewer_hops.probe.make_prompt(7, 100, 128)
    assert prompt != fewer_hops.probe.make_prompt(8, 100, 128)
    assert 0 < len(prompt) <= 128 and 0 <= min(prompt) <= max(prompt) < 100
