"""Each kind of fault really happens where it is asked for, and the invariants hold beside it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random

import pytest

from consensus.phases import Phase
from consensus.records import RecordKind
from consensus.types import Epoch, SubnetNodeId
from subnet.journal.log import Event, EventType, Log
from subnet.simulation.byzantine import Behaviour
from subnet.simulation.chain import BLOCK_TIME_S, EndpointFaults
from subnet.simulation.crash import Killed, Switch
from subnet.simulation.disk import MAX_STATEMENTS, SimDisk
from subnet.simulation.network import MAX_QUEUE_BYTES, Link
from subnet.simulation.scenario import QUIET_EPOCHS, FaultFamily, draw_scenario
from subnet.simulation.windows import EPOCH_LENGTH
from subnet.simulation.world import World, run_scenario
from tests.simulation.test_attacks import EPOCHS, make_scenario


def count_split_epochs(world: World, kind: RecordKind, author: int) -> int:
    """Return in how many epochs honest nodes first saw a record at different blocks."""
    count = 0
    for epoch in range(1, EPOCHS + 1):
        seen = set()
        for node_id in sorted(world.scenario.honest):
            journal = world.nodes[node_id].journal
            assert journal is not None
            record = journal.get_timed_records(Epoch(epoch)).get((kind, SubnetNodeId(author)))
            seen.add(None if record is None else record.seen_at)
        count += len(seen) > 1
    return count


@pytest.mark.parametrize(
    ("liar", "behaviour", "kind"),
    [
        (4, Behaviour.EDGE_COMMIT, RecordKind.OUTPUT_COMMIT),
        (7, Behaviour.EDGE_COMMIT, RecordKind.AUDIT_COMMIT),
        (4, Behaviour.EDGE, RecordKind.OUTPUT_REVEAL),
        (4, Behaviour.EDGE_SIGHTING, RecordKind.SIGHTING),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_record_that_some_see_in_time_and_others_do_not_is_its_authors_risk_only(
    liar: int, behaviour: Behaviour, kind: RecordKind
) -> None:
    num_split = 0
    for seed in range(3):
        worlds: list[World] = []
        scenario = make_scenario({liar: {behaviour}}, seed=seed, faults={FaultFamily.EDGE})
        result = run_scenario(scenario, prepare=worlds.append)
        assert result.effects["edge"] >= EPOCHS
        assert result.num_attested == EPOCHS
        num_split += count_split_epochs(worlds[0], kind, liar)
    assert num_split > 0


def test_a_named_list_that_some_have_at_the_deadline_is_attested_by_all_or_less_than_a_third() -> (
    None
):
    lies = {4: {Behaviour.EDGE_LIST}, 7: {Behaviour.EDGE_LIST}}
    followed, alone = set(), set()
    for seed in (9, 19, 20, 34):
        lines: list[str] = []
        scenario = make_scenario(lies, seed=seed, faults={FaultFamily.EDGE})
        result = run_scenario(scenario, show=lines.append)
        assert result.num_attested >= EPOCHS - result.effects["edge"]
        for epoch in range(1, EPOCHS + 1):
            is_refused = any(f"refuses the proposal of {epoch}:" in line for line in lines)
            blocks = [line.split()[-1] for line in lines if f"attest of {epoch} landed in" in line]
            if is_refused:
                # The proposer is the first that attests.
                assert 3 * (1 + len(blocks)) <= len(scenario.nodes)
                alone |= {(seed, epoch)} if blocks else set()
            elif len(set(blocks)) > 1:
                followed.add((seed, epoch))
    assert followed and alone


@pytest.mark.parametrize("behaviour", [Behaviour.SELECT_READERS, Behaviour.SELECT_AUTHOR])
def test_replicas_that_answer_selectively_hide_nothing(behaviour: Behaviour) -> None:
    lies = {4: {behaviour}, 7: {behaviour}}
    result = run_scenario(make_scenario(lies, faults={FaultFamily.SELECT}))
    assert result.effects["replica-lies"] > 20
    assert result.num_attested == EPOCHS


@pytest.mark.parametrize("seed", range(3))
def test_blocks_that_a_fork_replaces_cost_no_node_anything(seed: int) -> None:
    result = run_scenario(make_scenario({}, seed=seed, faults={FaultFamily.FORK}))
    assert result.effects["forks"] > 3
    assert result.num_attested == EPOCHS


def test_a_draw_that_a_fork_replaces_is_never_used() -> None:
    results = [
        run_scenario(make_scenario({}, seed=3 + n, faults={FaultFamily.FORK})) for n in range(2)
    ]
    assert sum(result.effects["draws-replaced"] for result in results) > 0


@pytest.mark.parametrize("offset", [1, 4, 9, 13, 15], ids=[phase.value for phase in Phase])
def test_a_chain_that_is_down_for_a_block_of_any_phase_costs_no_node_anything(offset: int) -> None:
    """All nodes miss a block of every epoch, and all that they ask in it fails."""
    worlds: list[World] = []

    def watch(world: World) -> None:
        worlds.append(world)
        step, loop = world.faults.step, asyncio.get_running_loop()

        def step_and_cut(block: int, *, is_quiet: bool) -> None:
            step(block, is_quiet=is_quiet)
            if (block - world.slot) % EPOCH_LENGTH == offset:
                set_down(is_down=True)
                loop.call_later(BLOCK_TIME_S - 0.5, partial(set_down, is_down=False))

        def set_down(*, is_down: bool) -> None:
            for node in world.nodes.values():
                node.endpoint.faults = EndpointFaults(is_down=is_down)

        world.faults.step = step_and_cut  # type: ignore[method-assign]

    result = run_scenario(make_scenario({}), prepare=watch)
    assert result.num_attested == EPOCHS
    for epoch in range(2, EPOCHS + 1):
        submission = worlds[0].chain.read_submission(Epoch(epoch))
        assert submission is not None
        assert len(submission.scores) == 7
        assert min(score for _, score in submission.scores) > 0


@pytest.mark.parametrize("seed", range(2))
def test_late_blocks_and_empty_slots_cost_no_node_anything(seed: int) -> None:
    result = run_scenario(make_scenario({}, seed=seed, faults={FaultFamily.LATE_BLOCKS}))
    assert result.effects["late-blocks"] > 3
    assert result.num_attested == EPOCHS


@pytest.mark.parametrize("seed", range(2))
def test_torn_writes_and_full_disks_lose_no_record_and_no_node(seed: int) -> None:
    result = run_scenario(make_scenario({}, seed=seed, faults={FaultFamily.DISK}))
    assert result.effects["torn-writes"] > 0
    assert result.effects["disk-errors"] > 0
    assert result.num_deaths == result.effects["torn-writes"] + result.effects["disk-errors"]


def test_a_node_that_rests_for_minutes_is_back_when_faults_end() -> None:
    rests_s: list[float] = []

    def watch(world: World) -> None:
        step = world.faults.step

        def step_and_look(block: int, *, is_quiet: bool) -> None:
            step(block, is_quiet=is_quiet)
            rests_s.extend(node.next_rest_s for node in world.nodes.values())

        world.faults.step = step_and_look  # type: ignore[method-assign]

    scenario = replace(make_scenario({}, seed=1, faults={FaultFamily.CRASH}), epochs=8)
    result = run_scenario(scenario, prepare=watch)
    assert max(rests_s) > 120
    assert result.num_deaths > 2


def test_a_node_that_dies_long_after_its_rest_was_drawn_is_back_when_faults_end() -> None:
    faults = [FaultFamily.DISK, FaultFamily.EDGE, FaultFamily.LOSS, FaultFamily.NARROW]
    run_scenario(draw_scenario(270, epochs=20, nodes=7, faults=faults))


def test_a_torn_write_is_there_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    kept = set()
    for seed in range(80):
        disk = SimDisk(tmp_path / f"{seed}.db", random=Random(seed), note=lambda _effect: None)
        with disk.open(Switch()) as (_, faulty):
            log = Log(faulty, b"owner")
            assert log.load() == []
            log.append([Event(1, EventType.STALE, b"")], is_signing=False)
            disk.arm("torn")
            with pytest.raises(Killed):
                for number in range(MAX_STATEMENTS):
                    rows = [Event(2 + number, EventType.DRAW, bytes(500)) for _ in range(3)]
                    log.append(rows, is_signing=bool(number % 2))
        with disk.open(Switch()) as (_, faulty):
            events = Log(faulty, b"owner").load()
        # Everything before the last write, and all of that or nothing.
        assert len(events) % 3 == 1
        kept.add((number, len(events) - 1 - 3 * number))
    assert {(0, 0), (0, 3), (1, 0), (1, 3)} <= kept


@pytest.mark.parametrize("seed", range(3))
def test_narrow_links_with_full_queues_harm_no_epoch_after_them(seed: int) -> None:
    result = run_scenario(make_scenario({}, seed=seed, faults={FaultFamily.NARROW}))
    assert result.effects["queued-bytes"] > 100_000
    assert result.num_attested >= QUIET_EPOCHS


def test_messages_pass_a_link_one_after_the_other_until_its_queue_is_full() -> None:
    link = Link(bytes_per_s=1000)
    assert link.pass_message(500, at_s=10.0) == 10.5
    assert link.pass_message(500, at_s=10.1) == 11.0
    assert link.pass_message(500, at_s=12.0) == 12.5
    assert link.queued_bytes == 500
    assert link.pass_message(MAX_QUEUE_BYTES, at_s=13.0) is not None
    assert link.pass_message(1, at_s=13.0) is None
    assert link.num_dropped == 1
