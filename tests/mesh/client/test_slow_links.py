"""What distance costs: how many ways over a link an answer takes until its first token."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import replace

import pytest

from mesh.client.route_search import RoutingOptions
from mesh.errors import SessionLost
from mesh.inference import first_range
from mesh.inference.flight import Flight
from mesh.inference.refusals import RefusalReason
from mesh.inference.sampling import Sampling
from tests.mesh.client.conftest import Swarm
from tests.support.memory_network import LinkConditions

ONE_WAY_S = 0.2
COMPUTING_S = 2 * ONE_WAY_S
"""What a busy machine may take for the tiny model, and less than one more round trip."""
ROUTES = {1: ((0, 6),), 2: ((0, 3), (3, 6)), 3: ((0, 2), (2, 4), (4, 6))}
NEEDED = {1: 2, 2: 4, 3: 5}
"""There and back; over several ranges to each of them, back to the first, and to the client."""


@contextlib.asynccontextmanager
async def open_slow_swarm(folder, ranges, **options):
    swarm = Swarm(folder)
    async with contextlib.AsyncExitStack() as stack:
        for start, end in ROUTES[ranges]:
            hoster = await swarm.add_hoster(start, end, **options)
            stack.push_async_callback(hoster.stop)
        client = await swarm.open_client(stack)
        # The first answer compiles and warms up what later ones find ready.
        await measure_first_s(client)
        swarm.network.conditions = LinkConditions(ONE_WAY_S, ONE_WAY_S)
        yield swarm, client


async def measure_first_s(client):
    started = time.monotonic()
    tokens = client.generate("Far away", max_new_tokens=2, sampling=Sampling(stop_token_ids=(258,)))
    async with contextlib.aclosing(tokens):
        async for _ in tokens:
            return time.monotonic() - started


@pytest.mark.parametrize("ranges", ROUTES)
async def test_the_first_token_waits_for_no_handshake(chat_checkpoint, ranges):
    async with open_slow_swarm(chat_checkpoint, ranges) as (_, client):
        first_s = min([await measure_first_s(client) for _ in range(3)])
        assert NEEDED[ranges] * ONE_WAY_S <= first_s < NEEDED[ranges] * ONE_WAY_S + COMPUTING_S


async def test_a_full_hoster_far_away_is_busy_and_not_lost(chat_checkpoint):
    async with open_slow_swarm(chat_checkpoint, 2) as (swarm, client):
        full = swarm.hosters[1].engine
        full.limits = replace(full.limits, max_sessions=0)
        tokens = client.generate(
            "Far away", max_new_tokens=2, routing=RoutingOptions(max_reroutes=0, busy_wait_s=0)
        )
        with pytest.raises(SessionLost) as caught:
            await anext(tokens)
        assert caught.value.reason == RefusalReason.BUSY


CLIENTS = 8
ATTEMPTS = 5
"""Other processes may hold a step up for longer than the others of its cohort are awaited."""
STEPS = 24


def count_batches(hoster):
    """Note from now on how many sessions each decode batch of a hoster has."""
    sizes = []
    batches = hoster.engine._batches
    run = batches.run

    def note(batch):
        if all(job.step.is_decode for job in batch):
            sizes.append(len(batch))
        return run(batch)

    batches.run = note
    return sizes


async def test_sessions_of_a_crowd_have_one_window_under_way_each(chat_checkpoint, monkeypatch):
    """What is sent ahead is computed apart from the others, who would be apart then too."""
    most = []

    class Watched(Flight):
        def add(self, window):
            super().add(window)
            most.append(len(self))

    monkeypatch.setattr(first_range, "Flight", Watched)
    again = Sampling(logit_bias=((70, 100.0),), stop_token_ids=(258,))
    async with open_slow_swarm(chat_checkpoint, 2) as (swarm, client):
        swarm.network.conditions = LinkConditions(0.02, 0.02)

        async def ask(count):
            tokens = client.generate("Again", max_new_tokens=count, sampling=again)
            return [token.token_id async for token in tokens]

        async with asyncio.TaskGroup() as tasks:
            asked = [tasks.create_task(ask(100)) for _ in range(CLIENTS)]
            engine = swarm.hosters[0].engine
            while engine.session_count < CLIENTS:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            del most[:]
            while not any(task.done() for task in asked):
                assert max(most, default=1) == 1
                await asyncio.sleep(0.001)
        most.clear()
        assert len(await ask(100)) == 100
        assert max(most) == 3


@pytest.mark.parametrize("speculates", [False, True], ids=["rows", "windows"])
async def test_eight_clients_on_two_ranges_make_batches_of_eight(chat_checkpoint, speculates):
    async with open_slow_swarm(chat_checkpoint, 2, speculates=speculates) as (swarm, client):
        swarm.network.conditions = LinkConditions(0.05, 0.05)
        sizes = [count_batches(hoster) for hoster in swarm.hosters]

        async def ask(number):
            tokens = client.generate(f"No. {number}", max_new_tokens=STEPS, ignore_eos=True)
            return [token.token_id async for token in tokens]

        for _ in range(ATTEMPTS):
            answers = await asyncio.gather(*(ask(number) for number in range(CLIENTS)))
            assert all(len(answer) == STEPS for answer in answers)
            # They find each other within a few steps and then stay together.
            if all(noted.count(CLIENTS) * CLIENTS >= sum(noted) // 2 for noted in sizes):
                return
            seen = [[*noted] for noted in sizes]
            for noted in sizes:
                noted.clear()
        pytest.fail(f"batches of {seen}")
