"""Attacks on sessions that go on over a changed route: strangers, former hops, a stand-by."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from mesh.inference import tickets
from mesh.inference.accounts import OWN_ACCOUNT
from mesh.inference.refill_wire import RESUMABLE_METHOD, encode_resumable
from mesh.inference.refusals import RefusalReason, Refused
from mesh.inference.sampling import Sampling
from mesh.inference.tickets import Ticket
from mesh.inference.wire import OpenSession, decode_error, encode_ready, make_session_id
from mesh.model.config import LayerSpan
from mesh.routing.hop import Hop
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


@pytest.mark.parametrize("position", [10**6, len(PROMPT) + 11])
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
        assert len(hoster.engine._parked) == 1
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
        assert not hoster.engine._parked and not desk._answers
