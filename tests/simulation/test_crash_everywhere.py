"""A node dies at every await of one epoch, and starts again at once: it loses nothing.

The same run is repeated, once for each point that the node passes in the epoch; there it is
killed before or after a call to chain, store, journal or model.
"""

from __future__ import annotations

import pytest

from consensus.types import Epoch
from subnet.simulation.scenario import FaultFamily
from subnet.simulation.windows import EPOCH_LENGTH
from subnet.simulation.world import World, run_scenario
from tests.simulation.test_attacks import make_small_scenario

# Everything else has precedence over these processes, so a clock says little.
pytestmark = pytest.mark.timeout(3600)

EPOCHS = 3
CRASH_EPOCH = 2
HOSTER, VALIDATOR = 1, 4
SEED_ELECTING_HOSTER = 4
SEED_ELECTING_VALIDATOR = 8


class Watch:
    """Counts the points of one node at the edges of the epoch in which it will die."""

    def __init__(self, node_id: int) -> None:
        self.node_id = node_id
        self.passed: dict[int, int] = {}
        self.elected: int | None = None

    def __call__(self, world: World) -> None:
        def step(block: int, *, is_quiet: bool) -> None:
            self._look(world, block)

        world.faults.step = step  # type: ignore[method-assign]

    def _look(self, world: World, block: int) -> None:
        epoch, offset = divmod(block - world.slot, EPOCH_LENGTH)
        if offset == 0:
            self.passed[epoch] = world.nodes[self.node_id].switch.passed
            if epoch == CRASH_EPOCH:
                self.elected = world.chain.read_elected(Epoch(epoch))


class Kill:
    """Kills one node at one point of its first life, and looks at what it earned all the same."""

    def __init__(self, node_id: int, point: int) -> None:
        self.node_id = node_id
        self.point = point
        self.world: World | None = None

    def __call__(self, world: World) -> None:
        self.world = world
        world.nodes[self.node_id].next_fire_at = self.point
        world.faults.step = lambda block, *, is_quiet: None  # type: ignore[method-assign]

    def check(self) -> None:
        assert self.world is not None
        chain, node = self.world.chain, self.world.nodes[self.node_id]
        assert node.lives == 2, "the node was not killed"
        for epoch in range(1, EPOCHS + 1):
            submission = chain.read_submission(Epoch(epoch))
            where = f"killed {node.last_words}, epoch {epoch}: {submission}"
            assert submission is not None, where
            assert submission.attested == {1, 2, 3, 4}, where
        # The scores of the epoch in which it died, proposed in the next one.
        assert submission is not None
        rows: dict[int, int] = dict(submission.scores)
        assert rows[self.node_id] > 0, where


def walk(node_id: int, seed: int, *, step: int) -> Watch:
    scenario, watch = (
        make_small_scenario(EPOCHS, seed=seed, faults={FaultFamily.CRASH}),
        Watch(node_id),
    )
    run_scenario(scenario, prepare=watch)
    for point in range(watch.passed[CRASH_EPOCH], watch.passed[CRASH_EPOCH + 1], step):
        kill = Kill(node_id, point)
        run_scenario(scenario, prepare=kill)
        kill.check()
    return watch


def test_a_hoster_killed_at_any_await_of_an_epoch_loses_nothing() -> None:
    watch = walk(HOSTER, SEED_ELECTING_VALIDATOR, step=1)
    assert watch.elected != HOSTER


def test_an_elected_hoster_killed_while_it_proposes_loses_nothing() -> None:
    watch = walk(HOSTER, SEED_ELECTING_HOSTER, step=4)
    assert watch.elected == HOSTER


def test_a_validator_killed_in_any_phase_loses_nothing() -> None:
    watch = walk(VALIDATOR, SEED_ELECTING_HOSTER, step=4)
    assert watch.elected != VALIDATOR
