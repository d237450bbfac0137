"""The faults: each scenario disturbs a running network during one epoch."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

from benchmarks.chaos_network import SCHEDULE, ChaosNetwork
from consensus.phases import Phase
from consensus.types import Epoch

PHASE_STARTS = {
    Phase.PROPOSE: 0,
    Phase.COMMIT: SCHEDULE.commit_start,
    Phase.AUDIT: SCHEDULE.audit_start,
    Phase.REVEAL: SCHEDULE.reveal_start,
    Phase.SCORE: SCHEDULE.score_start,
}
_ENDS = (*list(PHASE_STARTS.values())[1:], SCHEDULE.length)

Disturb = Callable[[ChaosNetwork, Epoch, Random], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of fault. ``disturb`` returns within the epoch that it is given."""

    name: str
    summary: str
    disturb: Disturb


def draw_moments(draw: Random) -> Iterator[tuple[Phase, int]]:
    """Yield a drawn offset in each phase, in order."""
    for (phase, start), end in zip(PHASE_STARTS.items(), _ENDS, strict=True):
        yield phase, draw.randrange(start, end)


async def reach(network: ChaosNetwork, epoch: Epoch, offset: int, draw: Random) -> None:
    """Return at a drawn moment while this block is the newest."""
    await network.wait_for(epoch, offset)
    await asyncio.sleep(draw.random() * network.block_seconds)


async def kill_nodes(network: ChaosNetwork, epoch: Epoch, draw: Random) -> None:
    """Kill a drawn node in each phase."""
    for phase, offset in draw_moments(draw):
        member = draw.choice(network.members)
        await reach(network, epoch, offset, draw)
        network.say(f"epoch {epoch}, {phase.value}, block {offset}: kill -9 of {member.name}")
        await network.kill(member)


SCENARIOS = (Scenario("kill-nodes", "kill -9 of a node in each phase", kill_nodes),)


def choose_scenarios(names: Sequence[str] | None) -> list[Scenario]:
    """Return those of these names, all without any, in the order of the list. Raises SystemExit."""
    known = {scenario.name: scenario for scenario in SCENARIOS}
    for name in names or ():
        if name not in known:
            raise SystemExit(f"error: there is no scenario {name!r}; there are {', '.join(known)}")
    return [scenario for scenario in SCENARIOS if names is None or scenario.name in names]
