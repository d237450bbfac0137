"""Epochs of other lengths, and coldkeys that own several nodes."""

from __future__ import annotations

from collections.abc import Set

import pytest

from consensus.types import LayerRange, Role
from subnet.simulation.byzantine import Behaviour
from subnet.simulation.inference import SHAPE
from subnet.simulation.scenario import FaultFamily, NodeSpec, Scenario, draw_scenario
from subnet.simulation.windows import WINDOWS
from subnet.simulation.world import run_scenario

WHOLE = LayerRange(0, SHAPE.num_layers)
HONEST: frozenset[Behaviour] = frozenset()


def make_node(
    node_id: int, role: Role, does: Set[Behaviour] = HONEST, *, owner: int | None = None
) -> NodeSpec:
    return NodeSpec(node_id, role, WHOLE, frozenset(does), owner)


def make_sybils() -> Scenario:
    """Two honest hosters beside three colluding ones of one coldkey, and five validators."""
    hosters = [make_node(node_id, Role.HOSTER) for node_id in (1, 2)]
    validators = [make_node(node_id, Role.VALIDATOR) for node_id in range(3, 8)]
    sybils = [
        make_node(node_id, Role.HOSTER, {Behaviour.COLLUDE}, owner=8) for node_id in (8, 9, 10)
    ]
    nodes = (*hosters, *validators, *sybils)
    return Scenario(1, 3, nodes, frozenset({FaultFamily.BYZANTINE}), "this test")


@pytest.mark.parametrize("length", sorted(WINDOWS.keys() - {20}))
def test_longer_epochs_keep_every_invariant_beside_liars_and_deaths(length: int) -> None:
    nodes = [
        make_node(node_id, Role.HOSTER if node_id <= 5 else Role.VALIDATOR)
        for node_id in range(1, 8)
    ]
    nodes[3] = make_node(4, Role.HOSTER, {Behaviour.LATE})
    nodes[4] = make_node(5, Role.HOSTER, {Behaviour.LATE_REVEAL})
    faults = frozenset({FaultFamily.BYZANTINE})
    connected = run_scenario(Scenario(1, 3, tuple(nodes), faults, "this test", epoch_length=length))
    assert connected.num_attested == 3
    killed = Scenario(
        1, 4, tuple(nodes), faults | {FaultFamily.CRASH}, "this test", epoch_length=length
    )
    assert run_scenario(killed).num_deaths > 0


def test_colluders_of_one_coldkey_have_one_vote_and_score_zero() -> None:
    assert run_scenario(make_sybils()).num_attested == 3


def test_colluders_of_just_under_half_of_the_coldkeys_score_zero() -> None:
    nodes = (
        *(make_node(node_id, Role.HOSTER) for node_id in (1, 2, 3)),
        *(make_node(node_id, Role.HOSTER, {Behaviour.COLLUDE}) for node_id in (4, 5)),
        *(make_node(node_id, Role.VALIDATOR, owner=node_id - 5) for node_id in (6, 7)),
    )
    assert len({node.coldkey for node in nodes}) == 5
    result = run_scenario(Scenario(1, 3, nodes, frozenset({FaultFamily.BYZANTINE}), "this test"))
    assert result.num_attested == 3


def test_an_honest_coldkey_that_owns_two_validators_is_paid_once_and_keeps_both() -> None:
    nodes = (
        *(make_node(node_id, Role.HOSTER) for node_id in (1, 2, 3, 4)),
        *(make_node(node_id, Role.VALIDATOR, owner=2) for node_id in (5, 6)),
        make_node(7, Role.VALIDATOR),
    )
    result = run_scenario(Scenario(1, 3, nodes, frozenset(), "this test"))
    assert result.num_attested == 3


def test_seeds_draw_every_length_of_an_epoch_and_owners_of_several_nodes() -> None:
    scenarios = [draw_scenario(seed) for seed in range(100)]
    assert {scenario.epoch_length for scenario in scenarios} == WINDOWS.keys()
    shared = [s for s in scenarios if len({node.coldkey for node in s.nodes}) < len(s.nodes)]
    assert len(shared) > 20
    for scenario in shared:
        for node in scenario.nodes:
            owner = next(spec for spec in scenario.nodes if spec.node_id == node.coldkey)
            assert owner.is_honest == node.is_honest, "nobody honest shares a key with a liar"
