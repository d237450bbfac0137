"""The faults: each scenario disturbs a running network during one epoch."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from random import Random

import psutil

from benchmarks.chaos_grounds import NamespaceGround, SlowGround
from benchmarks.chaos_journals import copy_files, list_signed
from benchmarks.chaos_network import (
    DATA,
    SCHEDULE,
    ChaosNetwork,
    Member,
    describe_place,
    wait_until,
)
from benchmarks.chaos_node import run_chaos_node
from consensus.phases import Phase
from consensus.types import Epoch
from mesh.routing.heartbeat import MAX_AHEAD_S

FAULT_BLOCKS = SCHEDULE.grace
"""How long a fault stops a node's work. Records leave a grace before they are due, so a node that
is back by then loses nothing."""
CHAIN_PAUSE_S = 3.0
DELAY_S = (0.02, 0.15)
LOSS = (0.005, 0.02)
TWIN_TIMEOUT_S = 30.0 + MAX_AHEAD_S
"""A start, and a heartbeat's life."""
STORM_KILLS = 4
"""Kills of one node in a row, each as soon as it has come back."""
STORM_PHASES = 2
"""In how many phases every node is killed."""

PHASE_STARTS = {
    Phase.PROPOSE: 0,
    Phase.COMMIT: SCHEDULE.commit_start,
    Phase.AUDIT: SCHEDULE.audit_start,
    Phase.REVEAL: SCHEDULE.reveal_start,
    Phase.SCORE: SCHEDULE.score_start,
}
_ENDS = (*list(PHASE_STARTS.values())[1:], SCHEDULE.length)

Disturb = Callable[[ChaosNetwork, Epoch, Random], Awaitable[None]]


class Terrain(Enum):
    """What a network stands on; scenarios on the same terrain share a network."""

    LOOPBACK = "loopback"
    PROXIES = "proxies"
    NAMESPACES = "namespaces"


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of fault. ``disturb`` returns within the epoch that it is given."""

    name: str
    summary: str
    disturb: Disturb
    terrain: Terrain = Terrain.LOOPBACK
    needs_root: bool = False


def draw_moments(draw: Random) -> Iterator[tuple[Phase, int]]:
    """Yield a drawn offset in each phase, in order."""
    for (phase, start), end in zip(PHASE_STARTS.items(), _ENDS, strict=True):
        yield phase, draw.randrange(start, end)


async def reach(network: ChaosNetwork, epoch: Epoch, offset: int, draw: Random) -> None:
    """Return at a drawn moment while this block is the newest."""
    await network.wait_for(epoch, offset)
    await asyncio.sleep(draw.random() * network.block_seconds)


async def wait_blocks(network: ChaosNetwork, count: int) -> None:
    """Return once the chain has made so many more blocks."""
    position = network.position
    await network.wait_for(position.epoch, position.offset + count)


async def kill_nodes(network: ChaosNetwork, epoch: Epoch, draw: Random) -> None:
    """Kill a drawn node in each phase."""
    for phase, offset in draw_moments(draw):
        member = draw.choice(network.members)
        await reach(network, epoch, offset, draw)
        network.say(f"epoch {epoch}, {phase.value}, block {offset}: kill -9 of {member.name}")
        await network.kill(member)


async def kill_daemons(network: ChaosNetwork, epoch: Epoch, draw: Random) -> None:
    """Kill the p2pd of a drawn node in each phase."""
    for phase, offset in draw_moments(draw):
        member = draw.choice(network.members)
        await reach(network, epoch, offset, draw)
        network.say(
            f"epoch {epoch}, {phase.value}, block {offset}: kill -9 of {member.name}'s p2pd"
        )
        await network.kill_daemon(member)


async def pause(network: ChaosNetwork, epoch: Epoch, draw: Random) -> None:
    """Stop a drawn node, its p2pd or both until the next block, in each phase."""
    for phase, offset in draw_moments(draw):
        member = draw.choice(network.members)
        await reach(network, epoch, offset, draw)
        what, processes = await _choose_processes(member, draw)
        network.say(f"epoch {epoch}, {phase.value}, block {offset}: SIGSTOP of {what}")
        member.is_held = True
        for process in processes:
            process.send_signal(signal.SIGSTOP)
        try:
            await wait_blocks(network, FAULT_BLOCKS)
        finally:
            member.is_held = False
            for process in processes:
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGCONT)


async def _choose_processes(member: Member, draw: Random) -> tuple[str, list[psutil.Process]]:
    await wait_until(lambda: member.find_daemon() is not None, "p2pd")
    node, daemon = psutil.Process(member.pid), member.find_daemon()
    assert daemon is not None
    return draw.choice(
        [
            (member.name, [node]),
            (f"{member.name}'s p2pd", [daemon]),
            (f"{member.name} and its p2pd", [node, daemon]),
        ]
    )


async def storm(network: ChaosNetwork, epoch: Epoch, draw: Random) -> None:
    """Kill one node as soon as it is back, several times, then all nodes at once, twice."""
    (_, first), *others = draw_moments(draw)
    member = draw.choice(network.members)
    await reach(network, epoch, first, draw)
    for number in range(STORM_KILLS):
        network.say(f"epoch {epoch}: kill {number + 1} of {STORM_KILLS} of {member.name}")
        await network.kill(member)
        await network.wait_ready([member])
    for number in sorted(draw.sample(range(len(others)), STORM_PHASES)):
        phase, offset = others[number]
        await reach(network, epoch, offset, draw)
        network.say(f"epoch {epoch}, {phase.value}, block {offset}: kill -9 of every node")
        await asyncio.gather(*(network.kill(one) for one in network.members))
        await network.wait_ready(network.members)


async def restart_chain(network: ChaosNetwork, epoch: Epoch, draw: Random) -> None:
    """End the chain's process in a drawn phase, and start it again a while later."""
    phase, offset = draw.choice(list(draw_moments(draw)))
    number = draw.choice([signal.SIGTERM, signal.SIGKILL])
    await reach(network, epoch, offset, draw)
    network.say(f"epoch {epoch}, {phase.value}, block {offset}: {number.name} of the chain")
    await network.chain_process.end(number)
    await asyncio.sleep(CHAIN_PAUSE_S)
    await network.chain_process.start("manual")


async def fill_disk(network: ChaosNetwork, epoch: Epoch, draw: Random) -> None:
    """Fill the disk of the node that has a small one until it ends; it says so and comes back."""
    member, disk = network.members[-1], network.ground.small_disk
    assert disk is not None
    phase, offset = draw.choice(list(draw_moments(draw)))
    await reach(network, epoch, offset, draw)
    network.say(f"epoch {epoch}, {phase.value}, block {offset}: the disk of {member.name} is full")
    log = network.get_log(member)
    read_before, ends_before = log.stat().st_size, len(member.ends)
    member.may_end = member.is_held = True
    disk.fill()
    try:
        await wait_until(lambda: len(member.ends) > ends_before, "end of the node on a full disk")
    finally:
        disk.free()
        member.is_held = False
    if "the disk is full" not in log.read_text()[read_before:]:
        network.faults.append(f"{member.name} does not say that its disk is full")


async def delay(network: ChaosNetwork, epoch: Epoch, draw: Random) -> None:
    """Delay and lose what nodes say to each other and to the chain; cut all connections once."""
    ground = network.ground
    assert isinstance(ground, SlowGround)
    link = ground.link
    link.delay_s, link.loss = draw.uniform(*DELAY_S), draw.uniform(*LOSS)
    network.say(
        f"epoch {epoch}: {1000 * link.delay_s:.0f} ms and {100 * link.loss:.1f} % loss each way"
    )
    phase, offset = draw.choice(list(draw_moments(draw)))
    await reach(network, epoch, offset, draw)
    network.say(f"epoch {epoch}, {phase.value}, block {offset}: every connection is cut")
    ground.cut_all()
    await network.wait_for(epoch, SCHEDULE.length - 1)
    link.delay_s, link.loss = 0.0, 0.0


async def partition(network: ChaosNetwork, epoch: Epoch, draw: Random) -> None:
    """Part up to half of the nodes from the others until the next block, in each phase."""
    ground = network.ground
    assert isinstance(ground, NamespaceGround)
    count = len(network.members)
    for phase, offset in draw_moments(draw):
        await reach(network, epoch, offset, draw)
        island = draw.sample(range(count), draw.randint(1, count // 2))
        names = ", ".join(network.members[index].name for index in island)
        network.say(f"epoch {epoch}, {phase.value}, block {offset}: {names} are cut off")
        ground.cut_off(island)
        await wait_blocks(network, FAULT_BLOCKS)
        ground.heal(island)


async def run_twin(network: ChaosNetwork, epoch: Epoch, draw: Random) -> None:
    """Start a second process with a node's identity and data, in a namespace of its own."""
    ground = network.ground
    assert isinstance(ground, NamespaceGround)
    member = draw.choice(network.members)
    await reach(network, epoch, 0, draw)
    data_dir = network.directory / f"twin-{epoch}" / DATA
    await asyncio.to_thread(copy_files, member.data_dir, data_dir)
    before = await asyncio.to_thread(list_signed, data_dir)
    config = {
        **member.config,
        "data_dir": str(data_dir),
        "new_swarm": False,
        "initial_peers": list(member.others),
    }
    twin = await network.group.start(
        f"twin-{epoch}", run_chaos_node, config | describe_place(ground.add_place())
    )
    network.say(f"epoch {epoch}: a second process runs as {member.name}")
    started_at = time.monotonic()
    try:
        await asyncio.to_thread(twin.process.join, TWIN_TIMEOUT_S)
    finally:
        still_runs = twin.is_alive
        twin.process.kill()
        await asyncio.to_thread(twin.process.join)
    network.say(f"the second {member.name} ended after {time.monotonic() - started_at:.1f} s")
    signed = await asyncio.to_thread(list_signed, data_dir)
    if still_runs:
        network.faults.append(f"the second {member.name} still ran after {TWIN_TIMEOUT_S:.0f} s")
    if "another process runs as" not in twin.log_path.read_text():
        network.faults.append(f"the second {member.name} does not say that there is a first")
    network.faults += [
        f"the second {member.name} signed its {kind.name} of epoch {of_epoch}"
        for kind, of_epoch in sorted(signed - before)
    ]


async def hide(network: ChaosNetwork, epoch: Epoch, draw: Random) -> None:
    """Let a drawn node's replica hide half of all records during the epoch."""
    member = draw.choice(network.members)
    await reach(network, epoch, 0, draw)
    network.say(f"epoch {epoch}: the replica of {member.name} hides every other record")
    member.config["hides_records"] = True
    await network.kill(member)
    await network.wait_ready([member])
    await network.wait_for(epoch, SCHEDULE.length - 1)
    member.config["hides_records"] = False
    await network.kill(member)


SCENARIOS = (
    Scenario("kill-nodes", "kill -9 of a node in each phase", kill_nodes),
    Scenario("kill-p2pd", "kill -9 of a node's p2pd in each phase", kill_daemons),
    Scenario("pause", "SIGSTOP of a node, its p2pd or both in each phase", pause),
    Scenario("storm", "one node killed again and again, then all at once, twice", storm),
    Scenario("chain", "the chain's process ends and comes back", restart_chain),
    Scenario("selective", "a replica that hides half of all records", hide),
    Scenario("full-disk", "a node's disk is full, a tmpfs", fill_disk, needs_root=True),
    Scenario("delay", "delay, loss and cut connections by proxies", delay, Terrain.PROXIES),
    Scenario(
        "partition",
        "nodes part until the next block in each phase",
        partition,
        Terrain.NAMESPACES,
        True,
    ),
    Scenario("twin", "one identity in two network namespaces", run_twin, Terrain.NAMESPACES, True),
)


def choose_scenarios(names: Sequence[str] | None) -> list[Scenario]:
    """Return those of these names, all without any, in the order of the list. Raises SystemExit."""
    known = {scenario.name: scenario for scenario in SCENARIOS}
    for name in names or ():
        if name not in known:
            raise SystemExit(f"error: there is no scenario {name!r}; there are {', '.join(known)}")
    return [scenario for scenario in SCENARIOS if names is None or scenario.name in names]
