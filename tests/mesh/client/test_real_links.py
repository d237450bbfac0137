"""Real p2pds behind slow links: handshakes cost no ways, and a stall is waited out."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest

from benchmarks.slow_links import Link, LinkProxy
from mesh.client.connection import connect
from mesh.client.route_session import ClientTimeouts
from mesh.inference import first_range
from mesh.inference.flight import Flight
from mesh.inference.sampling import Sampling
from mesh.inference.session_server import SessionServer
from tests.support.real_swarm import open_real_swarm

ONE_WAY_S = 0.25
ROUTES = {2: [(0, 4), (4, 8)], 3: [(0, 3), (3, 6), (6, 8)]}
NEEDED = {2: 4, 3: 5}
TOKENS = 6


async def answer(client):
    """Return the tokens, and the seconds until each came."""
    started, tokens, times = time.monotonic(), [], []
    stream = client.generate([5, 17, 90], max_new_tokens=TOKENS, ignore_eos=True)
    async with contextlib.aclosing(stream):
        async for token in stream:
            tokens.append(token.token_id)
            times.append(time.monotonic() - started)
    return tokens, times


async def collect(stream):
    return [token.token_id async for token in stream]


async def answer_again(client, count):
    """Return the tokens of an answer that repeats one token, and the last with its trace."""
    sampling = Sampling(logit_bias=((70, 100.0), (71, 50.0)), frequency_penalty=0.5)
    stream = client.generate([5, 17, 90], max_new_tokens=count, sampling=sampling, ignore_eos=True)
    found = [token async for token in stream]
    return [token.token_id for token in found], found[-1]


@pytest.mark.parametrize("ranges", ROUTES)
async def test_over_real_connections_several_windows_are_under_way(ranges, monkeypatch):
    most = []

    class Watched(Flight):
        def add(self, window):
            super().add(window)
            most.append(len(self))

    count = 150
    async with open_far_swarm(ranges) as (link, client, _):
        with monkeypatch.context() as patch:
            patch.setattr(SessionServer, "_get_in_flight", lambda self, request: 0)
            expected, _ = await answer_again(client, count)
        monkeypatch.setattr(first_range, "Flight", Watched)
        link.delay_s = 0.05
        tokens, last = await answer_again(client, count)
        assert tokens == expected
        assert max(most) == ranges + 1
        # One token for long, and then another, where windows were sent in vain.
        assert {*tokens[:90]} == {70} and 71 in tokens and last.trace.dropped_windows > 0
        assert sum(last.trace.step_tokens) == count


@contextlib.asynccontextmanager
async def open_far_swarm(ranges, **timeouts):
    """A client and hosters that have met, and the link between all of them."""
    link = Link()
    async with open_real_swarm(ROUTES[ranges], proxy=LinkProxy(link)) as (address, _):
        async with connect([address], timeouts=ClientTimeouts(**timeouts)) as client:
            tokens, _ = await answer(client)
            yield link, client, tokens


@pytest.mark.parametrize("ranges", ROUTES)
async def test_over_real_connections_the_first_token_waits_for_no_handshake(ranges):
    async with open_far_swarm(ranges) as (link, client, expected):
        link.delay_s = ONE_WAY_S
        first_s = []
        for _ in range(3):
            tokens, times = await answer(client)
            assert tokens == expected
            first_s.append(times[0])
        # Less than one more round trip, of which a part is computing.
        assert min(first_s) < (NEEDED[ranges] + 2) * ONE_WAY_S


async def test_a_hop_that_stalls_in_the_middle_of_a_frame_loses_nothing():
    async with open_far_swarm(2) as (link, client, expected):
        stream = client.generate([5, 17, 90], max_new_tokens=TOKENS, ignore_eos=True)
        async with contextlib.aclosing(stream), asyncio.timeout(60):
            found = [(await anext(stream)).token_id]
            link.stall(after=150)
            async with asyncio.TaskGroup() as tasks:
                rest = tasks.create_task(collect(stream))
                await link.stalled.wait()
                assert not rest.done()
                link.resume()
        assert found + rest.result() == expected
