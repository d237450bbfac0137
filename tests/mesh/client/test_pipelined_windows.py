"""Several windows under way over two and three ranges: the same answers, nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import aclosing
from dataclasses import replace

import pytest

from mesh.inference import drafting, first_range
from mesh.inference.engine import Engine, EngineLimits
from mesh.inference.flight import Flight
from mesh.inference.flight_wire import PIPELINED_METHOD
from mesh.inference.pages import compute_page_keys
from mesh.inference.sampling import Sampling
from mesh.inference.session_table import SessionTable
from mesh.model.capacity import PAGE_TOKENS
from tests.mesh.client.conftest import Swarm
from tests.mesh.client.test_windows import (
    FEW,
    NO_END,
    PROMPT,
    SAMPLINGS,
    SPLITS,
    ask,
    facts,
    open_swarm,
)
from tests.support.memory_network import LinkConditions

AGAIN = Sampling(logit_bias=((70, 100.0),), stop_token_ids=NO_END)
"""An answer of one token again and again."""
CHANGING = Sampling(
    logit_bias=((70, 100.0), (71, 97.0)), frequency_penalty=0.05, stop_token_ids=NO_END
)
"""One token for a while, then another: drafts are right for long, and then are not."""
BREAKING = Sampling(
    logit_bias=((70, 100.0), (71, 99.0), (72, 97.5)),
    frequency_penalty=0.05,
    stop_token_ids=NO_END,
)
"""Tokens whose order changes now and then."""
TRIES = 5
FAR = LinkConditions(0.02, 0.02)
"""Far enough that windows are under way also where computing them is slow."""


@pytest.fixture
def flights(monkeypatch):
    """All flights of first ranges, and how many windows each had under way at most."""
    found = []

    class Watched(Flight):
        def __init__(self):
            super().__init__()
            self.most = self.windows = 0
            found.append(self)

        def add(self, window):
            super().add(window)
            self.windows += 1
            self.most = max(self.most, len(self))

    monkeypatch.setattr(first_range, "Flight", Watched)
    return found


@pytest.fixture
def drafts(monkeypatch):
    """Drafts are made as if they always paid: a busy machine's clock decides nothing."""
    monkeypatch.setattr(drafting, "COMPARED", 10**6)
    monkeypatch.setattr(drafting, "MAX_MISSES", 10**6)


@pytest.fixture
def eager(monkeypatch, drafts):
    """Nor does it matter whether another session waits for its turn."""
    monkeypatch.setattr(Engine, "is_pressed", False)


async def wait_until_empty(swarm):
    async with asyncio.timeout(10):
        while any(hoster.engine.session_count for hoster in swarm.hosters):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def ask_plainly(folder, *samplings, count):
    async with open_swarm(folder, 1, speculates=False) as (_, client):
        return [facts(await ask(client, sampling, count=count)) for sampling in samplings]


@pytest.mark.parametrize("ranges", [2, 3])
async def test_the_next_windows_are_sent_before_the_first_is_verified(
    chat_checkpoint, flights, ranges
):
    (expected,) = await ask_plainly(chat_checkpoint, AGAIN, count=160)
    async with open_swarm(chat_checkpoint, ranges) as (swarm, client):
        swarm.network.conditions = FAR
        pieces = await ask(client, AGAIN, count=160)
        assert facts(pieces) == expected
        # As many as there are ranges, and one.
        assert flights[0].most == ranges + 1
        measures, trace = swarm.hosters[0].engine.measures, pieces[-1].trace
        assert trace.dropped_windows == measures.spec_dropped_windows == 0
        assert sum(trace.step_tokens) == 160 and len(trace.step_tokens) == flights[0].windows + 1
        assert max(trace.step_tokens) == 16
        assert all(len(times) == ranges + 1 for times in trace.hop_times_us)
        await wait_until_empty(swarm)


@pytest.mark.parametrize("ranges", [2, 3])
async def test_windows_that_were_sent_in_vain_are_dropped_and_change_nothing(
    chat_checkpoint, flights, ranges
):
    samplings = {"changing": CHANGING, **SAMPLINGS}
    expected = await ask_plainly(chat_checkpoint, *samplings.values(), count=96)
    async with open_swarm(chat_checkpoint, ranges) as (swarm, client):
        swarm.network.conditions = LinkConditions(0.005, 0.005)
        measures = swarm.hosters[0].engine.measures
        for sampling, facts_before in zip(samplings.values(), expected, strict=True):
            dropped = measures.spec_dropped_windows
            pieces = await ask(client, sampling, count=96)
            assert facts(pieces) == facts_before
            told = pieces[-1].trace.dropped_windows
            assert told == measures.spec_dropped_windows - dropped
        assert measures.spec_dropped_windows > 0
        assert any(flight.round and flight.most > 1 for flight in flights)
        await wait_until_empty(swarm)


async def test_a_crowd_with_windows_under_way_gets_the_same_bits(chat_checkpoint, flights, eager):
    samplings = [CHANGING, AGAIN, *(SAMPLINGS[name] for name in ("counts", "grammar", "greedy"))]
    expected = await ask_plainly(chat_checkpoint, *samplings, count=96)
    async with open_swarm(chat_checkpoint, 3) as (swarm, client):
        swarm.network.conditions = LinkConditions(0.02, 0.03)

        async def ask_all(places):
            flights.clear()
            answers = await asyncio.gather(*(ask(client, samplings[i], count=96) for i in places))
            assert [facts(pieces) for pieces in answers] == [expected[i] for i in places]
            assert len(flights) == len(places)
            return max(flight.most for flight in flights)

        # Two sessions share the four windows of one, unless computing is slower than the links.
        most = [await ask_all((0, 1))]
        while max(most) == 1 and len(most) < TRIES:
            most.append(await ask_all((0, 1)))
        assert max(most) == 2
        # Five have one each.
        await ask_all(range(5))


async def test_answers_that_lose_their_pages_with_windows_under_way_have_the_same_bits(
    chat_checkpoint, flights, eager, caplog
):
    """The younger one's text is computed again at the first range, drafts and all, or without."""
    expected = await ask_plainly(chat_checkpoint, CHANGING, AGAIN, count=150)
    caplog.set_level("INFO")
    swarm = Swarm(chat_checkpoint)
    async with contextlib.AsyncExitStack() as stack:
        small = EngineLimits(cache_tokens=15 * PAGE_TOKENS, prefill_chunk=8)
        for (start, end), limits in zip(SPLITS[3], (small, None, None), strict=True):
            hoster = await swarm.add_hoster(start, end, limits=limits)
            stack.push_async_callback(hoster.stop)
        client = await swarm.open_client(stack)
        swarm.network.conditions = FAR
        asked = (ask(client, sampling, count=150) for sampling in (CHANGING, AGAIN))
        answers = await asyncio.gather(*asked)
        assert [facts(pieces) for pieces in answers] == expected
        assert not any(pieces[-1].trace.reroutes for pieces in answers)
    assert "gave its pages" in caplog.text
    assert max(flight.most for flight in flights) > 1


async def test_where_drafts_are_seldom_right_no_window_is_sent_ahead(chat_checkpoint, flights):
    sampling = SAMPLINGS["temperature 1"]
    async with open_swarm(chat_checkpoint, 2) as (swarm, client):
        swarm.network.conditions = FAR
        await ask(client, sampling, count=48)
    assert [flight.most for flight in flights] == [1]


@pytest.mark.parametrize("stop", [False, True], ids=["leaves", "stop text"])
async def test_a_client_that_leaves_with_three_windows_under_way_leaves_nothing_behind(
    chat_checkpoint, flights, stop
):
    async with open_swarm(chat_checkpoint, 2, deterministic=False) as (swarm, client):
        free = [hoster.engine.free_cache_tokens for hoster in swarm.hosters]
        swarm.network.conditions = LinkConditions(0.05, 0.05)
        text = "".join(piece.text for piece in await ask(client, AGAIN, count=64))
        await wait_until_empty(swarm)
        answer = client.generate(
            PROMPT, max_new_tokens=190, sampling=AGAIN, stop=[text[:60]] if stop else ()
        )
        count = 0
        async with aclosing(answer):
            async for _ in answer:
                count += 1
                if not stop and count > 60 and len(flights[-1]) == 3:
                    break
        assert flights[-1].most == 3
        await wait_until_empty(swarm)
        assert [hoster.engine.free_cache_tokens for hoster in swarm.hosters] == free
        for hoster in swarm.hosters:
            engine = hoster.engine
            assert not engine._table._starved and not engine._scheduler.waiting_count
            assert not engine._cohorts._rhythms
            assert not hoster.server._ports


async def test_no_page_of_a_draft_is_published_when_a_client_leaves(chat_checkpoint, flights):
    """What the first range offers later turns of a chat is the text, and no guess of it."""
    async with open_swarm(chat_checkpoint, 2, deterministic=False) as (swarm, client):
        engine, tokens = swarm.hosters[0].engine, []
        swarm.network.conditions = LinkConditions(0.05, 0.05)
        answer = client.generate(PROMPT, max_new_tokens=190, sampling=AGAIN)
        async with aclosing(answer):
            async for piece in answer:
                tokens.append(piece.token_id)
                if len(tokens) > 80 and len(flights[0]) == 3:
                    (session,) = engine._table._sessions.values()
                    break
        drafted, text = len(session.token_ids), list(session.token_ids)
        await wait_until_empty(swarm)
        verified = session.verified
        keys = compute_page_keys(session.salt, text)
        assert verified < drafted
        assert engine._book.count_published(keys) == min(len(keys), verified // PAGE_TOKENS)


async def test_an_answer_at_one_range_that_ends_within_a_window_keeps_its_text_only(
    chat_checkpoint, drafts, monkeypatch
):
    closed = []
    close = SessionTable._close

    def note(table, session):
        closed.append(session)
        close(table, session)

    monkeypatch.setattr(SessionTable, "_close", note)
    sampling = Sampling(
        temperature=1.0, seed=17, logit_bias=FEW, stop_token_ids=(71,), min_tokens=20
    )
    async with open_swarm(chat_checkpoint, 1, deterministic=False) as (swarm, client):
        (engine,) = (hoster.engine for hoster in swarm.hosters)
        for seed in range(12):
            pieces = await ask(client, replace(sampling, seed=seed), count=80)
            text = [piece.token_id for piece in pieces]
            await wait_until_empty(swarm)
            session = closed[-1]
            # The last token of an answer is not computed.
            assert session.token_ids == [*client.encode(PROMPT), *text[:-1]]
        assert engine.measures.spec_draft_tokens > engine.measures.spec_accepted_tokens


@pytest.mark.parametrize("place", [0, 1, 2])
async def test_a_hoster_that_takes_one_window_at_a_time_goes_on_serving(
    chat_checkpoint, flights, place
):
    (expected,) = await ask_plainly(chat_checkpoint, CHANGING, count=64)
    # Hosters of that version take no refills: sessions that do are pipelined all the way.
    async with open_swarm(chat_checkpoint, 3, features="grs") as (swarm, client):
        swarm.network.conditions = LinkConditions(0.005, 0.005)
        old = swarm.hosters[place]
        if place:
            del swarm.network._hosts[old.key.peer_id]._server._streams[PIPELINED_METHOD]
        else:
            old.server.max_in_flight = 1
        for _ in range(2):
            pieces = await ask(client, CHANGING, count=64)
            assert facts(pieces) == expected
            assert pieces[-1].trace.reroutes == 0
        assert swarm.hosters[0].engine.measures.spec_drafts > 0
        assert [flight.most for flight in flights] == [1, 1]


async def test_an_answer_that_loses_a_hoster_with_windows_under_way_goes_on_alike(
    chat_checkpoint, flights
):
    (expected,) = await ask_plainly(chat_checkpoint, AGAIN, count=160)
    async with open_swarm(chat_checkpoint, 3) as (swarm, client):
        for start, end in ((2, 3), (3, 6)):
            await swarm.add_hoster(start, end)
        async with contextlib.AsyncExitStack() as stack:
            for hoster in swarm.hosters[3:]:
                stack.push_async_callback(hoster.stop)
            await client.refresh()
            swarm.network.conditions = FAR
            found = []
            answer = client.generate(PROMPT, max_new_tokens=160, sampling=AGAIN)
            async with aclosing(answer):
                async for piece in answer:
                    found.append(piece)
                    if len(flights[-1]) > 2 and not piece.trace.reroutes:
                        used = piece.trace.route[1].peer_id
                        for hoster in swarm.hosters[1:]:
                            if str(hoster.key.peer_id) == used:
                                await hoster.stop()
            assert piece.trace.reroutes >= 1
            assert [piece.token_id for piece in found] == [fact[0] for fact in expected]


async def test_an_answer_whose_rounds_begin_anew_is_refilled_twice_with_windows_under_way(
    chat_checkpoint, flights, drafts
):
    """It loses its middle hop, then its last one, both with drafts that turn out wrong."""
    (expected,) = await ask_plainly(chat_checkpoint, BREAKING, count=180)
    async with open_swarm(chat_checkpoint, 3) as (swarm, _), contextlib.AsyncExitStack() as stack:
        for span in SPLITS[3][1:]:
            hoster = await swarm.add_hoster(*span, throughput=1)
            stack.push_async_callback(hoster.stop)
        client = await swarm.open_client(stack)
        swarm.network.conditions = FAR
        found, rounds, doomed = [], [], [*swarm.hosters[1:3]]
        answer = client.generate(PROMPT, max_new_tokens=180, sampling=BREAKING)
        async with aclosing(answer):
            async for piece in answer:
                found.append(piece)
                trace, flight = piece.trace, flights[-1]
                is_due = len(found) >= 50 * (1 + trace.reroutes) and trace.refills == len(rounds)
                if doomed and is_due and len(flight) > 1:
                    rounds.append(flight.round)
                    await doomed.pop(0).stop()
        assert facts(found) == expected
        assert (trace.reroutes, trace.refills, len(rounds)) == (2, 2, 2)
        # The stand-bys did their part, and windows were under way over them too.
        assert len(flights) == 3 and all(flight.most > 1 for flight in flights)
        assert rounds[0] and sum(flight.round for flight in flights) > rounds[0]
        await wait_until_empty(swarm)


async def test_a_session_beside_one_with_windows_under_way_gets_its_turns(
    chat_checkpoint, flights, drafts
):
    """Rows that are sent ahead take no step from a session that is answered token by token."""
    async with open_swarm(chat_checkpoint, 3, deterministic=False) as (swarm, client):
        swarm.network.conditions = FAR
        plain = SAMPLINGS["temperature 1"]
        async with asyncio.TaskGroup() as tasks:
            other = tasks.create_task(ask(client, plain, count=24))
            while not other.done():
                assert len(await ask(client, AGAIN, count=190)) == 190
        assert len(other.result()) == 24 and not other.result()[-1].trace.reroutes
    assert max(flight.most for flight in flights) > 1
