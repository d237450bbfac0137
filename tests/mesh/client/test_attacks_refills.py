"""Attacks on sessions that go on over a changed route: strangers, former hops, a stand-by."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from mesh.client.driven_text import DrivenText
from mesh.inference import compute_thread, refills, tickets
from mesh.inference.accounts import OWN_ACCOUNT, Account
from mesh.inference.drive_wire import (
    DriveSession,
    FeedFrame,
    decode_logits,
    encode_feed,
)
from mesh.inference.engine import EngineLimits
from mesh.inference.refill_wire import (
    RESUMABLE_DRIVE_METHOD,
    RESUMABLE_METHOD,
    encode_resumable,
    encode_resumable_drive,
)
from mesh.inference.refusals import RefusalReason, Refused
from mesh.inference.sampling import Sampling
from mesh.inference.steps import StepInput
from mesh.inference.tickets import Ticket
from mesh.inference.wire import (
    HiddenRows,
    OpenSession,
    StepFrame,
    decode_error,
    decode_ready,
    decode_token,
    encode_ready,
    encode_step,
    make_session_id,
)
from mesh.model.capacity import PAGE_TOKENS
from mesh.model.config import LayerSpan
from mesh.routing.hop import Hop
from tests.mesh.client.test_driven_refills import AT, TEXT, drive, open_texts
from tests.mesh.client.test_refills import PROMPT, SPLITS, Rows, ask, get_bits, open_three


def find_ticket(hoster):
    (answer_id,) = hoster.server._refills._answers
    return hoster.server._refills._answers[answer_id].ticket


def make_request(route, hop_index, ticket):
    return OpenSession(
        make_session_id(),
        route,
        Sampling(),
        tuple(PROMPT),
        max_new_tokens=40,
        hop_index=hop_index,
        ticket=ticket,
    )


async def say_nothing(stream):
    while True:
        await stream.receive()


def forge(kind, seen):
    return {
        "the link of the opening": Ticket(seen.answer_id, seen.index, seen.link),
        "the same link as a later one": Ticket(seen.answer_id, seen.index + 1, seen.link),
        "a guess": Ticket(seen.answer_id, seen.index + 1, bytes(32)),
        "the link after it": Ticket(seen.answer_id, seen.index + 1, tickets._hash(seen.link, 1)),
    }[kind]


@pytest.mark.parametrize("place", [1, 2])
@pytest.mark.parametrize(
    "kind",
    ["the link of the opening", "the same link as a later one", "a guess", "the link after it"],
)
async def test_a_hop_that_knows_an_earlier_link_ends_no_session(swarm, kind, place):
    async with open_three(swarm) as client, contextlib.AsyncExitStack() as stack:
        expected = await ask(client)
        await forget_all(swarm)
        key = swarm.next_key()
        host = await swarm.open_host(stack, key)
        victim = swarm.hosters[place]
        start, end = SPLITS[place]
        route = [
            Hop(key.peer_id, LayerSpan(0, start)),
            Hop(victim.key.peer_id, LayerSpan(start, end)),
        ]
        if end < 6:
            later = await swarm.open_host(stack, swarm.next_key())
            later.serve_stream(RESUMABLE_METHOD, say_nothing)
            route.append(Hop(later.peer_id, LayerSpan(end, 6)))

        async def strike():
            stream = await host.open_stream(victim.key.peer_id, RESUMABLE_METHOD, timeout_s=5)
            request = make_request(tuple(route), 1, forge(kind, find_ticket(victim)))
            await stream.send(encode_resumable(request))
            stack.push_async_callback(stream.abort)
            async with asyncio.timeout(10):
                while victim.engine.session_count < 2:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)

        tokens = await ask(client, then={10: strike})
        assert get_bits(tokens) == get_bits(expected)
        assert tokens[-1].trace.reroutes == 0
        await stack.aclose()


async def forget_all(swarm):
    """The sessions before have ended everywhere."""
    for hoster in swarm.hosters:
        async with asyncio.timeout(10):
            while hoster.engine.session_count:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        hoster.server._refills.close()


async def test_another_client_takes_no_answer_over_with_a_stolen_link(swarm, monkeypatch):
    chains = []
    make = tickets.TicketChain.__init__

    def note(chain):
        make(chain)
        chains.append(chain)

    monkeypatch.setattr(tickets.TicketChain, "__init__", note)
    async with open_three(swarm) as client, contextlib.AsyncExitStack() as stack:
        expected = await ask(client)
        await forget_all(swarm)
        host = await swarm.open_host(stack, swarm.next_key())
        first = swarm.hosters[0]
        route = tuple(
            Hop(hoster.key.peer_id, LayerSpan(*span))
            for hoster, span in zip(swarm.hosters, SPLITS, strict=True)
        )

        async def strike():
            request = make_request(route, 0, chains[-1].make_next())
            stream = await host.open_stream(first.key.peer_id, RESUMABLE_METHOD, timeout_s=5)
            stack.push_async_callback(stream.abort)
            await stream.send(encode_resumable(request))
            async with asyncio.timeout(10):
                refusal = decode_error(await stream.receive())
            assert refusal.reason == RefusalReason.UNKNOWN_SESSION

        tokens = await ask(client, then={10: strike})
        assert get_bits(tokens) == get_bits(expected)
        assert tokens[-1].trace.reroutes == 0
        await stack.aclose()


@pytest.mark.parametrize("position", [10**6, len(PROMPT) + 15])
async def test_a_stand_by_that_claims_to_have_everything_is_left(swarm, position):
    async with open_three(swarm, standby=[SPLITS[1], SPLITS[1]]) as client:
        expected = await ask(client)
        lost, liar = swarm.hosters[1], swarm.hosters[3]
        liar.throughput = 500
        await liar.announcer.announce()
        await client.refresh()

        async def lie(stream):
            await stream.receive()
            await stream.send(encode_ready(position))
            await say_nothing(stream)

        swarm.network._hosts[liar.key.peer_id].serve_stream(RESUMABLE_METHOD, lie)
        rows = Rows([swarm.hosters[0], swarm.hosters[2]])
        tokens = await ask(client, then={10: lost.stop})
        counts = rows.count()
    assert get_bits(tokens) == get_bits(expected)
    assert all(prompt_rows == len(PROMPT) % 16 for prompt_rows, _ in counts)


async def test_wrong_layers_another_text_and_another_size_take_no_cache_over(swarm):
    hoster = await swarm.add_hoster(0, 6)
    desk = hoster.server._refills
    caller = swarm.next_key().peer_id
    route = (Hop(hoster.key.peer_id, LayerSpan(0, 6)),)

    async def open_once(request, *, fail=True):
        with contextlib.suppress(Refused):
            async with desk.open(request, caller, OWN_ACCOUNT, admit(request)) as (session, _):
                length = session.length
                if fail:
                    session.length = session.kept = len(request.token_ids)
                    session.token_ids[:] = request.token_ids
                    raise Refused(RefusalReason.HOP_LOST)
        return length

    def admit(request):
        return lambda: hoster.engine.admit(
            request.hop.span, capacity=request.capacity, account=OWN_ACCOUNT
        )

    for change in ("text", "size", "layers", "nothing"):
        chain = tickets.TicketChain()
        request = make_request(route, 0, chain.make_next())
        assert await open_once(request) == 0
        assert len(hoster.engine._table._parked) == 1
        text = (*PROMPT, 7, 8)
        wanted = 38
        span = LayerSpan(0, 6)
        if change == "text":
            text = (*PROMPT[:-1], 9, 7, 8)
        if change == "size":
            wanted = 39
        if change == "layers":
            span = LayerSpan(0, 5)
        changed = OpenSession(
            make_session_id(),
            (Hop(hoster.key.peer_id, span),),
            Sampling(),
            text,
            max_new_tokens=wanted,
            ticket=chain.make_next(),
        )
        expected = len(PROMPT) if change == "nothing" else 0
        assert await open_once(changed, fail=False) == expected
        assert not hoster.engine._table._parked and not desk._answers


async def test_a_session_counts_against_the_peer_that_goes_on_with_it(swarm):
    """Else a client opens sessions through a member's hop, and goes on with them by itself."""
    limits = EngineLimits(prefill_chunk=8, max_sessions_per_peer=2)
    hoster = await swarm.add_hoster(3, 6, limits=limits)
    engine, desk = hoster.engine, hoster.server._refills
    stranger = swarm.next_key().peer_id
    account = Account(stranger, is_member=False)
    route = (
        Hop(swarm.next_key().peer_id, LayerSpan(0, 3)),
        Hop(hoster.key.peer_id, LayerSpan(3, 6)),
    )

    def open_one(ticket, account):
        request = make_request(route, 1, ticket)
        admit = partial(engine.admit, LayerSpan(3, 6), capacity=request.capacity, account=account)
        return desk.open(request, stranger, account, admit)

    chains = [tickets.TicketChain() for _ in range(3)]
    for chain in chains:
        with contextlib.suppress(Refused):
            async with open_one(chain.make_next(), Account(None)) as (session, _):
                session.length = session.kept = len(PROMPT)
                raise Refused(RefusalReason.HOP_LOST)
    assert len(engine._table._parked) == 3
    async with contextlib.AsyncExitStack() as stack:
        for chain in chains[:2]:
            opened = open_one(chain.make_next(), account)
            session, refill = await stack.enter_async_context(opened)
            assert refill.is_refill and session.length and session.account == account
            assert not engine._book._holders[session.serial].rank.is_member
        with pytest.raises(Refused, match="too many sessions"):
            await stack.enter_async_context(open_one(chains[2].make_next(), account))
    assert not engine._table._parked and not engine.session_count


async def test_a_hop_that_is_new_in_the_route_gives_no_shared_page_again(swarm):
    """Pages are named after the peers that a session came through before."""
    hoster = await swarm.add_hoster(3, 6)
    text = tuple(5 + i % 200 for i in range(2 * PAGE_TOKENS + 1))
    chains = [tickets.TicketChain() for _ in range(2)]
    async with contextlib.AsyncExitStack() as stack:
        key = swarm.next_key()
        host = await swarm.open_host(stack, key)
        route = (Hop(key.peer_id, LayerSpan(0, 3)), Hop(hoster.key.peer_id, LayerSpan(3, 6)))

        async def open_one(chain, reused):
            request = OpenSession(
                make_session_id(),
                route,
                Sampling(),
                text,
                max_new_tokens=20,
                hop_index=1,
                reused=reused,
                salt=bytes(32),
                ticket=chain.make_next(),
            )
            stream = await host.open_stream(hoster.key.peer_id, RESUMABLE_METHOD, timeout_s=5)
            await stream.send(encode_resumable(request))
            return stream

        async def answer(stream, first):
            await stream.send(encode_step(StepFrame(first, make_zeros(len(text) - first))))
            async with asyncio.timeout(10):
                return await stream.receive()

        async def leave(stream):
            await stream.abort()
            async with asyncio.timeout(10):
                while hoster.engine.session_count:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)

        opening = await open_one(chains[0], 0)
        decode_token(await answer(opening, 0))
        await leave(opening)
        second = await open_one(chains[1], 2 * PAGE_TOKENS)
        assert decode_ready(await second.receive()) == 2 * PAGE_TOKENS
        decode_token(await answer(second, 2 * PAGE_TOKENS))
        await leave(second)
        refilled = await open_one(chains[1], 0)
        assert decode_ready(await refilled.receive()) == 2 * PAGE_TOKENS
        error = decode_error(await answer(refilled, 0))
        assert error.reason == RefusalReason.WRONG_POSITION
        await leave(refilled)


async def test_a_peer_that_leaves_sessions_again_and_again_ends_its_own_parked_ones(
    swarm, monkeypatch
):
    """The answers of other callers stay parked, however many one caller parks."""
    monkeypatch.setattr(refills, "MAX_PARKED", 3)
    hoster = await swarm.add_hoster(0, 6)
    desk = hoster.server._refills
    route = (Hop(hoster.key.peer_id, LayerSpan(0, 6)),)
    victim, stranger = (swarm.next_key().peer_id for _ in range(2))

    async def park(caller):
        request = make_request(route, 0, tickets.TicketChain().make_next())
        admit = partial(
            hoster.engine.admit, LayerSpan(0, 6), capacity=request.capacity, account=OWN_ACCOUNT
        )
        with contextlib.suppress(Refused):
            async with desk.open(request, caller, OWN_ACCOUNT, admit) as (session, refill):
                session.length = session.kept = len(PROMPT)
                refill.kept.note(0, make_zeros(len(PROMPT)))
                raise Refused(RefusalReason.HOP_LOST)

    await park(victim)
    for _ in range(5):
        await park(stranger)
    callers = [answer.caller for answer in desk._answers.values()]
    assert callers == [victim, stranger, stranger]
    # The bytes of states run short.
    desk.budget.limit = 2 * desk.budget.used - 1
    await park(stranger)
    callers = [answer.caller for answer in desk._answers.values()]
    assert callers == [victim, stranger, stranger]
    desk.close()
    assert not hoster.engine._table._parked and not desk.budget.used


async def test_what_follows_a_step_of_a_session_that_was_left_is_not_computed_in_its_next_one(
    swarm, monkeypatch
):
    """A client opens its answer at a single range anew just when the step is computed."""
    hoster = await swarm.add_hoster(0, 6)
    engine, hand_over = hoster.engine, compute_thread.hand_over
    is_left, was_settled = threading.Event(), asyncio.get_running_loop().create_future()

    def follow(output):
        is_left.wait(timeout=10)
        return StepInput(1, token_ids=(8,))

    def hand_over_and_ask(*told):
        hand_over(*told)
        settling = engine.settle(session)
        try:
            settling.send(None)
            was_settled.set_result(False)
        except StopIteration:
            was_settled.set_result(True)
        settling.close()

    monkeypatch.setattr(compute_thread, "hand_over", hand_over_and_ask)
    with engine.admit(engine.layers, capacity=20, account=OWN_ACCOUNT) as session:
        session.stays = True
        engine.submit(session, StepInput(3, token_ids=(5, 6, 7), follow=follow))
    is_left.set()
    async with asyncio.timeout(10):
        # The engine has not passed over the step that follows by then.
        assert not await was_settled
        await engine.settle(session)
    assert engine.is_parked(session) and session.length == 3
    engine.forget(session)


def make_zeros(rows):
    return HiddenRows(rows, "float32", bytes(4 * 48 * rows))


@contextlib.asynccontextmanager
async def open_driven(swarm, hoster, stack, *, route, ticket, kept=0, hop_index=0, host=None):
    """A raw driven session at one hoster; yields its stream."""
    host = host or await swarm.open_host(stack, swarm.next_key())
    stream = await host.open_stream(hoster.key.peer_id, RESUMABLE_DRIVE_METHOD, timeout_s=5)
    await stream.send(
        encode_resumable_drive(
            DriveSession(
                make_session_id(), route, 80, kept=kept, hop_index=hop_index, ticket=ticket
            )
        )
    )
    try:
        async with asyncio.timeout(20):
            yield stream
    finally:
        await stream.abort()


def make_whole_route(swarm):
    return tuple(
        Hop(hoster.key.peer_id, LayerSpan(*span))
        for hoster, span in zip(swarm.hosters, SPLITS, strict=True)
    )


async def test_another_client_takes_no_driven_text_over_with_a_stolen_link(swarm):
    async with (
        open_three(swarm) as client,
        contextlib.AsyncExitStack() as stack,
        open_texts(client) as (text,),
    ):
        expected = await drive(text, then={})
        stolen = text._tickets._chain.make_next()
        first, route = swarm.hosters[0], make_whole_route(swarm)
        async with open_driven(swarm, first, stack, route=route, ticket=stolen, kept=10) as stream:
            refusal = decode_error(await stream.receive())
        assert refusal.reason == RefusalReason.UNKNOWN_SESSION
        again = await text.compute_logits(TEXT, capacity=80)
        np.testing.assert_allclose(again[0], expected[-1], rtol=1e-4, atol=1e-5)
        assert text.reroutes == 0


@pytest.mark.parametrize("position", [10**6, AT])
@pytest.mark.parametrize("place", [0, 1])
async def test_a_stand_by_that_claims_to_have_a_driven_text_is_left(swarm, place, position):
    """In place of the first range or of the middle one; ``AT`` is a token more than there is."""
    async with (
        open_three(swarm, standby=[SPLITS[place]]) as client,
        open_texts(client, 2) as (whole, text),
    ):
        expected = await drive(whole)
        liar = await swarm.add_hoster(*SPLITS[place], throughput=500)

        async def lie(stream):
            await stream.receive()
            await stream.send(encode_ready(position))
            await say_nothing(stream)

        swarm.network._hosts[liar.key.peer_id].serve_stream(RESUMABLE_DRIVE_METHOD, lie)
        await client.refresh()
        found = await drive(text, then={AT: swarm.hosters[place].stop})
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        assert liar.key.peer_id not in [hop.peer_id for hop in text.route]
        assert text.reroutes == 2


async def test_a_raw_client_gets_the_rows_that_it_wants_whatever_the_next_range_has(swarm):
    """It asks for logits of rows that it said to keep, and goes back behind them."""
    async with open_three(swarm) as client, contextlib.AsyncExitStack() as stack:
        text = DrivenText(client)
        expected = await text.compute_logits(TEXT, wanted=len(TEXT), capacity=80)
        await text.close()
        host = await swarm.open_host(stack, swarm.next_key())
        chain, first, route = tickets.TicketChain(), swarm.hosters[0], make_whole_route(swarm)
        opened = partial(open_driven, swarm, first, stack, route=route, host=host)
        async with opened(ticket=chain.make_next()) as stream:
            await stream.send(encode_feed(FeedFrame(0, tuple(TEXT[:50]), 1)))
            decode_logits(await stream.receive(), vocab_size=259)
        # The first range loses its cache, and asks for the text again.
        async with asyncio.timeout(10):
            while first.engine.session_count:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        first.server._refills.close()
        async with opened(ticket=chain.make_next(), kept=50) as stream:
            assert decode_ready(await stream.receive()) == 0
            for position, end, wanted in ((0, 50, 20), (10, 40, 15), (40, 60, 20)):
                feed = FeedFrame(position, tuple(TEXT[position:end]), wanted)
                await stream.send(encode_feed(feed))
                at = end - wanted
                while at < end:
                    frame = decode_logits(await stream.receive(), vocab_size=259)
                    assert frame.position == at
                    rows = np.frombuffer(frame.data, dtype="<f4").reshape(frame.rows, 259)
                    at += frame.rows
                    np.testing.assert_allclose(
                        rows, expected[frame.position : at], rtol=1e-4, atol=1e-5
                    )


async def test_a_ticket_of_an_answer_opens_no_driven_text_with_its_cache(swarm):
    """Nor the other way: what a range may keep of the one is no promise about the other."""
    hoster = await swarm.add_hoster(0, 6)
    desk, caller = hoster.server._refills, swarm.next_key().peer_id
    route = (Hop(hoster.key.peer_id, LayerSpan(0, 6)),)

    def make_driven(ticket):
        capacity = len(PROMPT) + 40
        kept = 10 if ticket.is_refill else 0
        return DriveSession(make_session_id(), route, capacity, kept=kept, ticket=ticket)

    def make_answer(ticket):
        return make_request(route, 0, ticket)

    async def open_once(request):
        def admit():
            return hoster.engine.admit(
                request.hop.span, capacity=request.capacity, account=OWN_ACCOUNT
            )

        with contextlib.suppress(Refused):
            async with desk.open(request, caller, OWN_ACCOUNT, admit) as (session, _):
                length = session.length
                session.length = session.kept = len(PROMPT)
                session.token_ids[:] = PROMPT
                raise Refused(RefusalReason.HOP_LOST)
        return length

    for one, other in ((make_driven, make_answer), (make_answer, make_driven)):
        chain = tickets.TicketChain()
        assert await open_once(one(chain.make_next())) == 0
        assert await open_once(other(chain.make_next())) == 0
        assert await open_once(other(chain.make_next())) > 0
        desk.close()


async def park_one(desk, engine, request, caller, account=OWN_ACCOUNT):
    admit = partial(engine.admit, request.hop.span, capacity=request.capacity, account=account)
    with contextlib.suppress(Refused):
        async with desk.open(request, caller, account, admit) as (session, refill):
            session.length = session.kept = len(request.token_ids)
            session.token_ids[:] = request.token_ids
            refill.kept.note(0, make_zeros(len(request.token_ids)))
            raise Refused(RefusalReason.HOP_LOST)


async def test_parked_sessions_keep_no_one_out_and_to_go_on_takes_a_place(swarm):
    limits = EngineLimits(prefill_chunk=8, max_sessions=2)
    hoster = await swarm.add_hoster(0, 6, limits=limits)
    engine, desk = hoster.engine, hoster.server._refills
    route = (Hop(hoster.key.peer_id, LayerSpan(0, 6)),)
    caller, chain = swarm.next_key().peer_id, tickets.TicketChain()
    for ticket in [tickets.TicketChain().make_next() for _ in range(3)]:
        await park_one(desk, engine, make_request(route, 0, ticket), caller)
    await park_one(desk, engine, make_request(route, 0, chain.make_next()), caller)
    assert len(engine._table._parked) == 4
    admit = partial(engine.admit, LayerSpan(0, 6), capacity=40, account=OWN_ACCOUNT)
    with admit(), admit():
        request = replace(make_request(route, 0, chain.make_next()), token_ids=(*PROMPT, 7))
        request = replace(request, max_new_tokens=request.max_new_tokens - 1)
        with pytest.raises(Refused, match="sessions are open"):
            async with desk.open(request, caller, OWN_ACCOUNT, admit):
                pytest.fail("a third session is open")


async def test_one_client_that_keeps_all_it_can_leaves_the_states_of_others(swarm):
    """It opens sessions and leaves them, again and again; what is parked is its own loss."""
    hoster = await swarm.add_hoster(0, 6)
    engine, desk = hoster.engine, hoster.server._refills
    desk.budget.limit = 8 * len(PROMPT) * 4 * 48
    route = (Hop(hoster.key.peer_id, LayerSpan(0, 6)),)
    stranger, victim = (swarm.next_key().peer_id for _ in range(2))

    async def open_one(stack, caller):
        request = make_request(route, 0, tickets.TicketChain().make_next())
        account = Account(caller, is_member=False)
        admit = partial(engine.admit, LayerSpan(0, 6), capacity=83, account=account)
        opened = desk.open(request, caller, account, admit)
        _, refill = await stack.enter_async_context(opened)
        refill.kept.note(0, make_zeros(len(PROMPT)))
        return refill.kept.covers(0, len(PROMPT))

    async with contextlib.AsyncExitStack() as stack:
        kept = [await open_one(stack, stranger) for _ in range(5)]
        assert kept == [True, True, False, False, False]
        assert await open_one(stack, victim)
    assert desk.budget.used == 0
    for _ in range(3):
        ticket = tickets.TicketChain().make_next()
        account = Account(stranger, is_member=False)
        await park_one(desk, engine, make_request(route, 0, ticket), stranger, account)
    async with contextlib.AsyncExitStack() as stack:
        # Its parked sessions give way to its open one.
        assert await open_one(stack, stranger)
        assert len(engine._table._parked) == 1


@pytest.mark.parametrize("is_useful", [True, False])
async def test_a_hoster_that_drains_goes_on_with_what_it_has_and_takes_nothing_new(
    swarm, is_useful
):
    """A ticket lets a session go on; where its cache is of no use, it would be a new one."""
    hoster = await swarm.add_hoster(0, 6)
    engine, desk = hoster.engine, hoster.server._refills
    route = (Hop(hoster.key.peer_id, LayerSpan(0, 6)),)
    async with contextlib.AsyncExitStack() as stack:
        host = await swarm.open_host(stack, swarm.next_key())
        chain = tickets.TicketChain()
        await park_one(desk, engine, make_request(route, 0, chain.make_next()), host.peer_id)
        hoster.server.drain()
        text = (*PROMPT, 7) if is_useful else (*PROMPT[:-1], 9, 7)
        request = replace(make_request(route, 0, chain.make_next()), token_ids=text)
        request = replace(request, max_new_tokens=39, session_id=make_session_id())
        stream = await host.open_stream(hoster.key.peer_id, RESUMABLE_METHOD, timeout_s=5)
        stack.push_async_callback(stream.abort)
        await stream.send(encode_resumable(request))
        async with asyncio.timeout(20):
            frame = await stream.receive()
            if is_useful:
                assert decode_ready(frame) == len(PROMPT)
                decode_token(await stream.receive())
            else:
                assert decode_error(frame).reason == RefusalReason.DRAINING
