"""An answer goes on when a hoster dies, freezes or is cut off; a slow one is waited for."""

from __future__ import annotations

import asyncio
import contextlib
import time
from contextlib import aclosing

import pytest

from mesh.api.mesh_backend import MeshBackend
from mesh.client.route_session import ClientTimeouts, HopFailed, stream_tokens
from mesh.errors import PeerUnreachable
from mesh.inference.refusals import RefusalReason
from mesh.inference.sampling import Sampling
from mesh.inference.tokens import Token
from mesh.inference.wire import SESSION_METHOD, OpenSession, encode_token
from mesh.model.config import LayerSpan
from mesh.routing.hop import Hop
from mesh.routing.peer_watch import PeerWatch

PROMPT = [5 + (i * 37) % 200 for i in range(21)]
HOT = Sampling(temperature=1.6, seed=5, top_logprobs=2)
PAUSE_S = 5.0


async def collect(client, *, count=24, sampling=HOT, at=None, then=None):
    """Return the answer's tokens and the longest pause; call ``then`` after token ``at``."""
    tokens, longest_s, last_s = [], 0.0, time.monotonic()
    answer = client.generate(PROMPT, max_new_tokens=count, sampling=sampling, ignore_eos=True)
    async with aclosing(answer):
        async for token in answer:
            now_s = time.monotonic()
            longest_s, last_s = max(longest_s, now_s - last_s), now_s
            tokens.append(token)
            if token.index == at:
                result = then()
                if asyncio.iscoroutine(result):
                    await result
    return tokens, longest_s


def get_bits(tokens):
    return [(t.index, t.token_id, t.logprob, t.top_logprobs) for t in tokens]


def freeze(swarm, hoster):
    """The hoster's streams stay open; it neither computes nor answers, as if its cable were cut."""
    hoster.engine._scheduler.take_batch = lambda: ()
    swarm.network.partition([hoster.key.peer_id])


@pytest.mark.parametrize("dying", [0, 1, 2])
@pytest.mark.parametrize("count", [3, 20])
async def test_a_seeded_answer_has_the_same_bits_over_a_failure(swarm, dying, count):
    splits = [(0, 2), (2, 4), (4, 6)]
    for start, end in splits:
        await swarm.add_hoster(start, end)
    async with contextlib.AsyncExitStack() as stack:
        client = await swarm.open_client(stack)
        expected, _ = await collect(client, count=40)
        await swarm.add_hoster(*splits[dying], throughput=1)
        client = await swarm.open_client(stack)
        tokens, _ = await collect(client, count=40, at=count, then=swarm.hosters[dying].stop)
        # The next turn reuses no page that was cut in another way.
        again, _ = await collect(client, count=40)
    assert tokens[-1].trace.reroutes >= 1
    assert get_bits(tokens) == get_bits(expected) == get_bits(again)


@pytest.mark.parametrize("frozen", [0, 1])
async def test_a_frozen_hop_is_noticed_in_seconds_and_left_out_of_later_answers(swarm, frozen):
    spans = [(0, 3), (3, 6)]
    for span in spans:
        await swarm.add_hoster(*span)
    async with contextlib.AsyncExitStack() as stack:
        client = await swarm.open_client(stack)
        expected, _ = await collect(client)
        await swarm.add_hoster(*spans[frozen], throughput=1)
        client = await swarm.open_client(stack)
        lost = swarm.hosters[frozen]
        tokens, pause_s = await collect(client, at=5, then=lambda: freeze(swarm, lost))
        assert get_bits(tokens) == get_bits(expected)
        assert tokens[-1].trace.failures[0] == (lost.key.peer_id, RefusalReason.HOP_LOST)
        assert pause_s < PAUSE_S
        after, pause_s = await collect(client)
        assert get_bits(after) == get_bits(expected)
        assert after[-1].trace.reroutes == 0
        assert pause_s < 1.0


@pytest.mark.parametrize("jump_s", [-3600.0, 3600.0])
async def test_a_clock_that_jumps_ends_no_answer_and_makes_no_hop_silent(swarm, jump_s):
    for span in [(0, 3), (3, 6)]:
        await swarm.add_hoster(*span)
    async with contextlib.AsyncExitStack() as stack:
        client = await swarm.open_client(stack)
        expected, _ = await collect(client)

        def jump():
            clock = swarm.network.clock
            swarm.network.clock = lambda: clock() + jump_s
            client.directory._clock = client.host._context.clock = swarm.network.clock

        tokens, _ = await collect(client, at=5, then=jump)
        assert get_bits(tokens) == get_bits(expected)
        assert tokens[-1].trace.reroutes == 0
        assert client.watch.list_silent() == set()


async def test_a_hop_that_the_client_cannot_dial_is_missed_by_the_hop_before_it(swarm):
    for span in [(0, 3), (3, 6)]:
        await swarm.add_hoster(*span)
    async with contextlib.AsyncExitStack() as stack:
        client = await swarm.open_client(stack)
        expected, _ = await collect(client)
        await swarm.add_hoster(3, 6, throughput=1)
        client = await swarm.open_client(stack)
        lost = swarm.hosters[1]

        async def dial(peer):
            if peer == lost.key.peer_id:
                raise PeerUnreachable(peer, "behind a router")

        client.watch = PeerWatch(client.host, dial)
        tokens, _ = await collect(client, at=5, then=lambda: freeze(swarm, lost))
    assert get_bits(tokens) == get_bits(expected)
    assert tokens[-1].trace.failures[0] == (lost.key.peer_id, RefusalReason.HOP_LOST)


async def test_a_hop_that_computes_for_long_is_not_taken_for_a_frozen_one(swarm):
    await swarm.add_hoster(0, 3)
    slow = await swarm.add_hoster(3, 6)
    compute = slow.engine._batches.start

    def crawl(batch):
        slow.engine._batches.start = compute
        time.sleep(PAUSE_S)
        return compute(batch)

    async with contextlib.AsyncExitStack() as stack:
        client = await swarm.open_client(stack)
        slow.engine._batches.start = crawl
        tokens, pause_s = await collect(client)
    assert pause_s >= PAUSE_S
    assert tokens[-1].trace.reroutes == 0


async def test_a_hop_that_answers_pings_and_never_computes_is_left_after_token_s(swarm):
    await swarm.add_hoster(0, 3)
    idle = await swarm.add_hoster(3, 6)
    timeouts = ClientTimeouts(token_s=4.0)
    async with contextlib.AsyncExitStack() as stack:
        client = await swarm.open_client(stack)
        expected, _ = await collect(client)
        for span in [(0, 3), (3, 6)]:
            await swarm.add_hoster(*span, throughput=1)
        client = await swarm.open_client(stack, timeouts=timeouts)

        def stall():
            idle.engine._scheduler.take_batch = lambda: ()

        tokens, pause_s = await collect(client, at=5, then=stall)
    assert get_bits(tokens) == get_bits(expected)
    assert tokens[-1].trace.failures[0] == (None, RefusalReason.TIMEOUT)
    assert pause_s >= timeouts.token_s
    left = {str(hoster.key.peer_id) for hoster in swarm.hosters[:2]}
    assert left.isdisjoint(hop.peer_id for hop in tokens[-1].trace.route)


@pytest.mark.parametrize("is_frozen", [True, False])
async def test_a_hop_that_stalls_in_the_middle_of_a_frame_is_left(swarm, is_frozen):
    """Frozen, it is missed by pings; else it is only late, and no hop is named."""
    async with contextlib.AsyncExitStack() as stack:
        staller = await swarm.open_host(stack, swarm.next_key())
        host = await swarm.open_host(stack, swarm.next_key())
        watch = PeerWatch(host, dial_at_once)
        await watch.check([staller.peer_id])

        async def answer(stream):
            await stream.receive()
            sealed = stream._seal(encode_token(Token(5, -1.0, index=0)))
            await stream._channel.write(sealed[: len(sealed) // 2])
            if is_frozen:
                swarm.network.partition([staller.peer_id])
            await asyncio.sleep(3600)

        staller.serve_stream(SESSION_METHOD, answer)
        route = (Hop(staller.peer_id, LayerSpan(0, 6)),)
        request = OpenSession(b"s" * 16, route, Sampling(), (1, 2), max_new_tokens=2)
        timeouts = ClientTimeouts(token_s=30.0 if is_frozen else 3.0, prompt_token_s=0.0)
        began_s = time.monotonic()
        tokens = stream_tokens(host, request, vocab_size=259, timeouts=timeouts, watch=watch)
        with pytest.raises(HopFailed) as caught:
            await anext(tokens)
        await tokens.aclose()
        assert time.monotonic() - began_s < PAUSE_S
        expected = (staller.peer_id, RefusalReason.HOP_LOST)
        if not is_frozen:
            expected = (None, RefusalReason.TIMEOUT)
        assert (caught.value.peer_id, caught.value.reason) == expected


async def dial_at_once(peer):
    """Every peer of the memory network can be dialled."""


async def test_a_gateway_is_not_ready_while_the_only_hoster_of_a_block_is_frozen(swarm):
    await swarm.add_hoster(0, 3)
    only = await swarm.add_hoster(3, 6)
    async with contextlib.AsyncExitStack() as stack:
        client = await swarm.open_client(stack)
        backend = MeshBackend(client, model_id="tiny", created_s=0)
        following = asyncio.get_running_loop().create_task(backend.keep_fresh())
        try:
            await wait_until(lambda: client.watch._peers[only.key.peer_id].has_answered)
            assert backend.find_uncovered() == ()
            swarm.network.partition([only.key.peer_id])
            await wait_until(lambda: backend.find_uncovered() == ((3, 6),))
            swarm.network.heal()
            await wait_until(lambda: backend.find_uncovered() == ())
        finally:
            following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await following


async def wait_until(condition, *, seconds=10.0):
    async with asyncio.timeout(seconds):
        while True:
            with contextlib.suppress(KeyError):
                if condition():
                    return
            await asyncio.sleep(0.05)
