"""In a simulated network every node's receipts equal the chain, and name what each cheat did."""

from __future__ import annotations

from collections import Counter

from consensus.types import LayerRange, Role
from subnet.receipts.reasons import Why
from subnet.receipts.receipt import Comparison
from subnet.receipts.recompute import check_records, recompute
from subnet.simulation.byzantine import Behaviour
from subnet.simulation.inference import SHAPE
from subnet.simulation.scenario import FaultFamily, NodeSpec, Scenario
from subnet.simulation.world import World, run_scenario
from tests.support.receipts import MemoryReceipts, explain, list_reasons

EPOCHS = 4
LIES = {4: Behaviour.GARBAGE, 5: Behaviour.LATE_REVEAL}
WHOLE = LayerRange(0, SHAPE.num_layers)


def test_every_cheat_is_named_by_every_honest_node() -> None:
    nodes = tuple(
        NodeSpec(
            node_id,
            Role.HOSTER if node_id <= 5 else Role.VALIDATOR,
            WHOLE,
            frozenset({LIES[node_id]} if node_id in LIES else ()),
        )
        for node_id in range(1, 8)
    )
    scenario = Scenario(1, EPOCHS, nodes, frozenset({FaultFamily.BYZANTINE}), "this test")
    receipts = {node_id: MemoryReceipts() for node_id in range(1, 8) if node_id not in LIES}

    def keep(world: World) -> None:
        for node_id, kept in receipts.items():
            world.nodes[node_id].receipts = kept

    assert run_scenario(scenario, prepare=keep).num_attested == EPOCHS
    found: dict[int, Counter[Why]] = {node_id: Counter() for node_id in range(1, 8)}
    for kept in receipts.values():
        for evidence in kept.kept.values():
            check_records(evidence)
            again = recompute(evidence)
            for node_id in found:
                receipt = explain(evidence, node_id)
                assert receipt.comparison is Comparison.EQUAL
                assert receipt.score == receipt.proposed
                found[node_id].update(list_reasons(receipt))
            assert not again.missing
    assert found[4][Why.REFUTED] and found[4][Why.ON_PROBATION]
    assert found[5][Why.WITHHELD] and found[5][Why.RECORD_LATE]
    for honest in (1, 2, 3):
        assert found[honest].keys() <= {Why.NOTHING_SCORED}
