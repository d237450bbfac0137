"""Killed between any two steps and started again, a node loses nothing and signs nothing twice.

A step is a write to the journal, a publication, an extrinsic, or a run of the model. The
node is killed once before and once after each of them, over one whole epoch.
"""

import pytest

from consensus.types import Role
from subnet.epoch.observer import DutyFailed, EpochScored
from tests.support.fakes import FakeChain, FakeNetwork
from tests.support.node import (
    FakeNode,
    advance_to,
    let_settle,
    make_roster_node,
    run_nodes,
)

HOSTERS, VALIDATORS = (1, 2, 3), (4,)
ELECTED = 1
EXPECTED_SENT = {1: "propose", 4: "attest"}
MAX_STEPS = 400


class Killed(Exception):
    """The process is gone."""


class Gate:
    """Counts steps while armed, and kills before or after the chosen one."""

    def __init__(self, victim_step):
        self.victim_step = victim_step
        self.count = 0
        self.is_armed = False

    async def pass_through(self, act):
        """Perform one step. Steps are numbered in halves: before it, after it."""
        self._tick()
        result = await act()
        self._tick()
        return result

    def _tick(self):
        if self.is_armed:
            self.count += 1
            if self.count == self.victim_step:
                raise Killed


class GatedStore:
    def __init__(self, store, gate):
        self._store, self._gate = store, gate

    async def publish(self, key, value, expires_at):
        return await self._gate.pass_through(lambda: self._store.publish(key, value, expires_at))

    async def fetch(self, keys, *, timeout_s):
        return await self._store.fetch(keys, timeout_s=timeout_s)


class GatedWriter:
    def __init__(self, writer, gate):
        self._writer, self._gate = writer, gate

    @property
    def sent(self):
        return self._writer.sent

    async def propose(self, subnet_id, scores, args):
        return await self._gate.pass_through(lambda: self._writer.propose(subnet_id, scores, args))

    async def attest(self, subnet_id):
        return await self._gate.pass_through(lambda: self._writer.attest(subnet_id))


class GatedInference:
    def __init__(self, inference, gate):
        self._inference, self._gate = inference, gate
        self.layers = inference.layers

    async def run_tasks(self, tasks):
        return await self._gate.pass_through(lambda: self._inference.run_tasks(tasks))


class Supervised:
    """A node that is started again whenever it is killed."""

    def __init__(self, node, gate):
        self._node = node
        self.restarts = 0
        node.writer = GatedWriter(node.writer, gate)
        node.inference = GatedInference(node.inference, gate)
        node.wrap_store = lambda store: GatedStore(store, gate)

        async def run_journal(function, *args, **kwargs):
            async def act():
                return function(*args, **kwargs)

            return await gate.pass_through(act)

        node.run_journal = run_journal

    def build(self):
        return self

    async def run(self):
        while True:
            try:
                await self._node.build().run()
            except BaseExceptionGroup as group:
                # A dying process may fail in other tasks too; those failures die with it.
                if group.subgroup(Killed) is None:
                    raise
                self.restarts += 1


async def run_epochs(victim, step):
    """Run two epochs, killing the victim at ``step`` of the second; return who to ask."""
    chain = FakeChain(
        tuple(make_roster_node(node_id) for node_id in HOSTERS + VALIDATORS),
        elect=lambda epoch: ELECTED,
    )
    network = FakeNetwork()
    nodes = {
        node_id: FakeNode(
            node_id,
            chain,
            network,
            role=Role.HOSTER if node_id in HOSTERS else Role.VALIDATOR,
        )
        for node_id in HOSTERS + VALIDATORS
    }
    gate = Gate(step)
    supervised = Supervised(nodes[victim], gate)
    runners = [supervised if node is nodes[victim] else node for node in nodes.values()]
    async with run_nodes(*runners):
        await advance_to(chain, 0, 19)
        gate.is_armed = True
        await advance_to(chain, 1, 19)
        gate.is_armed = False
        await advance_to(chain, 2, 19)
        await let_settle()
    return chain, network, nodes, supervised, gate


def check_world(chain, network, nodes, victim):
    values = {}
    for key, value in network.published:
        assert values.setdefault(key, value) == value, "two records for one slot"
    assert {epoch: len(s.attested) for epoch, s in chain.submissions.items()} == {0: 4, 1: 4, 2: 4}
    rows = dict(chain.submissions[2].scores)
    assert rows[victim] > 0
    assert all(rows[node_id] > 0 for node_id in HOSTERS)
    reports = nodes[1 if victim != 1 else 2].list_events(EpochScored)
    assert reports[-1].report.epoch == 1


def check_extrinsics(node):
    """What landed is not sent again; what never left may be, once."""
    expected = {(EXPECTED_SENT[node.node_id], epoch) for epoch in range(3)}
    assert set(node.writer.sent) == expected
    assert not [event for event in node.list_events(DutyFailed) if "Already" in event.reason]


@pytest.mark.parametrize("victim", [1, 4], ids=["elected hoster", "validator"])
async def test_killed_anywhere_in_an_epoch_loses_nothing_and_signs_nothing_twice(victim):
    *_, gate = await run_epochs(victim, None)
    steps = gate.count
    assert 30 < steps < MAX_STEPS
    for step in range(1, steps + 1):
        chain, network, nodes, supervised, _ = await run_epochs(victim, step)
        try:
            assert supervised.restarts == 1
            check_world(chain, network, nodes, victim)
            check_extrinsics(nodes[victim])
        except AssertionError as error:
            raise AssertionError(f"killed at step {step} of node {victim}: {error}") from error
