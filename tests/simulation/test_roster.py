"""Nodes that join, leave, stop or are removed in a running network cost no other node anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from consensus.types import Epoch, LayerRange, NodeClass, Role, SubnetNodeId
from subnet.simulation.inference import SHAPE
from subnet.simulation.scenario import FaultFamily, NodeSpec, Scenario
from subnet.simulation.world import World, run_scenario
from tests.simulation.test_attacks import make_scenario

WHOLE = LayerRange(0, SHAPE.num_layers)


def make_changing(
    *joining: NodeSpec,
    epochs: int,
    leaves: Mapping[int, int] = MappingProxyType({}),
    stops: Mapping[int, int] = MappingProxyType({}),
) -> Scenario:
    """Seven honest nodes, of which some leave or stop, each in an epoch, and some more later."""
    scenario = make_scenario({}, faults={FaultFamily.ROSTER})
    nodes = list(scenario.nodes)
    for node_id, epoch in leaves.items():
        nodes[node_id - 1] = replace(nodes[node_id - 1], leaves=epoch)
    for node_id, epoch in stops.items():
        nodes[node_id - 1] = replace(nodes[node_id - 1], stops=epoch)
    return replace(scenario, nodes=(*nodes, *joining), epochs=epochs)


def test_a_hoster_and_a_validator_that_join_become_validators_and_are_paid() -> None:
    worlds: list[World] = []
    hoster = NodeSpec(8, Role.HOSTER, WHOLE, joins=1)
    validator = NodeSpec(9, Role.VALIDATOR, WHOLE, joins=2)
    scenario = make_changing(hoster, validator, epochs=15)
    result = run_scenario(scenario, prepare=worlds.append)
    assert result.effects["joined"] == 2
    assert result.effects["promoted"] == 4, "from Idle to Included, and from there to Validator"
    assert result.num_attested == 15
    chain = worlds[0].chain
    submission = chain.read_submission(Epoch(15))
    assert submission is not None
    assert submission.attested == set(range(1, 10))
    scores = dict(submission.scores)
    assert scores[SubnetNodeId(8)] > 0 and scores[SubnetNodeId(9)] > 0
    classes = {node.node_id: node.node_class for node in chain.read_nodes(chain.best.number)}
    assert classes == dict.fromkeys(range(1, 10), NodeClass.VALIDATOR)


def test_nodes_that_leave_cost_no_other_node_anything() -> None:
    scenario = make_changing(epochs=7, leaves={4: 3, 7: 4})
    result = run_scenario(scenario)
    assert result.effects["left"] == 2
    assert result.num_attested == 7


def test_a_node_that_stops_is_removed_by_the_chain_and_only_its_own_epochs_are_lost() -> None:
    worlds: list[World] = []
    scenario = make_changing(epochs=14, stops={7: 2})
    result = run_scenario(scenario, prepare=worlds.append)
    assert result.effects["removed"] == 1
    chain = worlds[0].chain
    elected = [chain.read_elected(Epoch(epoch)) for epoch in range(1, 15)]
    assert result.num_attested >= 14 - elected.count(SubnetNodeId(7))
    assert 7 not in {node.node_id for node in chain.read_nodes(chain.best.number)}
