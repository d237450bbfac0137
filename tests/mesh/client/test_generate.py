"""Answers over one, two and three hosters: right, streamed, cancelled, and carried on."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import aclosing

import pytest
import torch

from keys.peer import PeerKey
from mesh.client.route_search import RoutingOptions
from mesh.client.route_session import ClientTimeouts
from mesh.errors import (
    InvalidRequest,
    NoRoute,
    PeerRefusal,
    PeerTimeout,
    SessionLost,
    SessionTooLong,
)
from mesh.inference.accounts import OWN_ACCOUNT
from mesh.inference.engine import EngineLimits
from mesh.inference.hops import SessionTimeouts
from mesh.inference.refusals import RefusalReason, find_loss_reason, read_reason
from mesh.inference.sampling import Sampling
from mesh.model.config import LayerSpan
from mesh.p2p.rpc_guard import RpcReason
from mesh.routing.heartbeat import ServerState

PROMPT = "How does one epoch work?"
# A random model soon says its end token: only the length ends these answers.
ENDLESS = Sampling(stop_token_ids=(258,))


async def collect(client, prompt=PROMPT, *, count=24, sampling=ENDLESS, **options):
    pieces = []
    answer = client.generate(prompt, max_new_tokens=count, sampling=sampling, **options)
    async with aclosing(answer):
        async for piece in answer:
            pieces.append(piece)
    return pieces


def tokens_of(pieces):
    return [piece.token_id for piece in pieces]


async def wait_until(condition):
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - nothing tells us
            await asyncio.sleep(0.005)


def all_free(swarm, hosters=None):
    return all(
        h.engine.free_cache_tokens == h.engine.limits.cache_tokens and not h.engine.session_count
        for h in hosters or swarm.hosters
    )


@pytest.fixture
def reference(chat_checkpoint, load_reference):
    """What transformers answers, greedily."""

    def answer(token_ids, count):
        with torch.inference_mode():
            found = load_reference(chat_checkpoint).generate(
                torch.tensor([token_ids]), max_new_tokens=count, do_sample=False, eos_token_id=258
            )
        return found[0, len(token_ids) :].tolist()

    return answer


@pytest.mark.parametrize(
    "splits", [[(0, 6)], [(0, 2), (2, 6)], [(0, 2), (2, 3), (3, 6)]], ids=["one", "two", "three"]
)
async def test_answer_equals_transformers_over_one_two_and_three_ranges(swarm, reference, splits):
    for start, end in splits:
        await swarm.add_hoster(start, end)
    async with contextlib.AsyncExitStack() as stack:
        client = await swarm.open_client(stack)
        pieces = await collect(client)
        assert tokens_of(pieces) == reference(client.encode(PROMPT), 24)
        assert [piece.index for piece in pieces] == list(range(24))
        assert pieces[-1].finish_reason == "length"
        assert all(piece.finish_reason is None for piece in pieces[:-1])
        trace = pieces[-1].trace
        assert [hop.end - hop.start for hop in trace.route] == [e - s for s, e in splits]
        # One time for each range, and the whole step.
        assert {len(times) for times in trace.hop_times_us} == {len(splits) + 1}
        assert trace.tokens_per_second > 0
        await wait_until(lambda: all_free(swarm))


@pytest.mark.parametrize("splits", [[(0, 6)], [(0, 3), (3, 6)], [(0, 2), (2, 4), (4, 6)]])
async def test_sampled_tokens_depend_on_the_seed_and_not_on_the_split(swarm, splits):
    for start, end in splits:
        await swarm.add_hoster(start, end)
    sampling = Sampling(
        temperature=1.0, top_p=0.95, repetition_penalty=1.2, seed=5, stop_token_ids=(258,)
    )
    async with contextlib.AsyncExitStack() as stack:
        client = await swarm.open_client(stack)
        first = tokens_of(await collect(client, sampling=sampling))
        again = tokens_of(await collect(client, sampling=sampling))
    assert first == again
    SEEN.setdefault("sampled", first)
    assert first == SEEN["sampled"]


SEEN: dict[str, list[int]] = {}


async def test_batched_equals_alone_over_two_hosters(swarm):
    await swarm.add_hoster(0, 3)
    await swarm.add_hoster(3, 6)
    prompts = [PROMPT[: 5 + i] for i in range(8)]
    async with contextlib.AsyncExitStack() as stack:
        client = await swarm.open_client(stack)
        alone = [tokens_of(await collect(client, prompt)) for prompt in prompts]
        crowd = await asyncio.gather(*(collect(client, prompt) for prompt in prompts))
    assert [tokens_of(pieces) for pieces in crowd] == alone


async def test_layers_per_hop_forces_two_hosters(swarm, reference):
    for start, end in ((0, 6), (0, 6), (0, 3)):
        await swarm.add_hoster(start, end)
    async with contextlib.AsyncExitStack() as stack:
        client = await swarm.open_client(stack)
        pieces = await collect(client, routing=RoutingOptions(max_layers_per_hop=3))
        assert tokens_of(pieces) == reference(client.encode(PROMPT), 24)
        assert len(pieces[-1].trace.route) == 2


@pytest.mark.parametrize("dying", [0, 1, 2])
async def test_dead_hop_re_routes_with_the_exact_same_text(swarm, dying):
    splits = [(0, 2), (2, 4), (4, 6)]
    for start, end in splits:
        await swarm.add_hoster(start, end)
    sampling = Sampling(temperature=0.9, seed=3, stop_token_ids=(258,))
    async with contextlib.AsyncExitStack() as stack:
        client = await swarm.open_client(stack)
        expected = await collect(client, sampling=sampling, count=40)
        await swarm.add_hoster(*splits[dying], throughput=1)
        client = await swarm.open_client(stack)
        pieces = []
        answer = client.generate(PROMPT, max_new_tokens=40, sampling=sampling)
        async with aclosing(answer):
            async for piece in answer:
                pieces.append(piece)
                if piece.index == 11:
                    await swarm.hosters[dying].stop()
    assert tokens_of(pieces) == tokens_of(expected)
    assert "".join(p.text for p in pieces) == "".join(p.text for p in expected)
    trace = pieces[-1].trace
    assert trace.reroutes >= 1
    assert trace.route[dying].peer_id == str(swarm.hosters[3].key.peer_id)
    assert swarm.hosters[dying].key.peer_id in [peer for peer, _ in trace.failures]


async def test_stalled_hop_is_found_out_and_left_out(swarm):
    swarm.timeouts = SessionTimeouts(step_s=0.5, open_s=0.5, prompt_token_s=0.0)
    await swarm.add_hoster(0, 3)
    stalled = await swarm.add_hoster(3, 6)
    async with contextlib.AsyncExitStack() as stack:
        client = await swarm.open_client(stack)
        expected = tokens_of(await collect(client))
        await swarm.add_hoster(3, 6, throughput=1)
        client = await swarm.open_client(stack, timeouts=ClientTimeouts(probe_s=0.2))
        pieces = []
        answer = client.generate(PROMPT, max_new_tokens=24, sampling=ENDLESS)
        async with aclosing(answer):
            async for piece in answer:
                pieces.append(piece)
                if piece.index == 5:
                    # It keeps its streams open and neither computes nor answers.
                    others = [h.key.peer_id for h in swarm.hosters if h is not stalled]
                    stalled.engine._scheduler.take_batch = lambda: ()
                    swarm.network.partition([*others, client.host.peer_id])
    assert tokens_of(pieces) == expected
    assert pieces[-1].trace.route[1].peer_id == str(swarm.hosters[2].key.peer_id)


async def test_cancel_frees_the_cache_on_every_hop(swarm):
    for start, end in ((0, 2), (2, 4), (4, 6)):
        await swarm.add_hoster(start, end)
    async with contextlib.AsyncExitStack() as stack:
        client = await swarm.open_client(stack)
        answer = client.generate(PROMPT, max_new_tokens=150, sampling=ENDLESS)
        async with aclosing(answer):
            async for piece in answer:
                if piece.index == 3:
                    assert not all_free(swarm, swarm.hosters[:1])
                    assert not all_free(swarm, swarm.hosters[2:])
                    break
        await wait_until(lambda: all_free(swarm))


async def test_busy_hoster_is_left_for_another(swarm):
    tiny = EngineLimits(cache_tokens=20)
    await swarm.add_hoster(0, 6, limits=tiny, throughput=10**6)
    await swarm.add_hoster(0, 6)
    # It is so fast that the planner takes it all the same, and must learn from the refusal.
    async with contextlib.AsyncExitStack() as stack:
        client = await swarm.open_client(stack)
        pieces = await collect(client)
        assert pieces[-1].trace.route[0].peer_id == str(swarm.hosters[1].key.peer_id)


async def test_draining_hoster_finishes_its_answers_and_takes_no_new_ones(swarm):
    old = await swarm.add_hoster(0, 6, throughput=10**6)
    await swarm.add_hoster(0, 6)
    async with contextlib.AsyncExitStack() as stack:
        client = await swarm.open_client(stack)
        answer = client.generate(PROMPT, max_new_tokens=12, sampling=ENDLESS)
        routes = []
        async with aclosing(answer):
            async for piece in answer:
                routes.append(piece.trace.route[0].peer_id)
                old.server.drain()
        assert routes == [str(old.key.peer_id)] * 12
        pieces = await collect(client)
        assert pieces[-1].trace.route[0].peer_id != str(old.key.peer_id)


async def test_uncovered_layers_are_named(swarm):
    await swarm.add_hoster(0, 2)
    await swarm.add_hoster(4, 5)
    async with contextlib.AsyncExitStack() as stack:
        client = await swarm.open_client(stack)
        with pytest.raises(NoRoute, match="2:4, 5:6"):
            await collect(client)


async def test_offline_servers_are_not_planned_with(swarm):
    hoster = await swarm.add_hoster(0, 6)
    hoster.state = ServerState.OFFLINE
    hoster.announcer.notify()
    await hoster.announcer.announce()
    async with contextlib.AsyncExitStack() as stack:
        client = await swarm.open_client(stack)
        with pytest.raises(NoRoute, match="0:6"):
            await collect(client)


async def test_retries_are_bounded(swarm):
    hoster = await swarm.add_hoster(0, 6, limits=EngineLimits(max_sessions=1))
    async with contextlib.AsyncExitStack() as stack:
        client = await swarm.open_client(stack)
        stack.enter_context(hoster.engine.admit(LayerSpan(0, 6), capacity=8, account=OWN_ACCOUNT))
        with pytest.raises(SessionLost, match="gave up after 3"):
            await collect(client, routing=RoutingOptions(max_reroutes=3, busy_wait_s=0))


async def test_a_busy_hoster_is_waited_for_within_a_bound(swarm, monkeypatch):
    """Being busy counts as no failure for a while, and as one after that."""
    monkeypatch.setattr("mesh.client.route_search.MAX_BACKOFF_S", 0.0)
    monkeypatch.setattr("mesh.client.route_search.FIRST_BACKOFF_S", 0.0)
    clock = [0.0]
    monkeypatch.setattr("mesh.client.route_search.time.monotonic", lambda: clock[0])
    hoster = await swarm.add_hoster(0, 6, limits=EngineLimits(max_sessions=1))
    async with contextlib.AsyncExitStack() as stack:
        client = await swarm.open_client(stack)
        asked = []
        admit = hoster.engine.admit

        def count(*arguments, **options):
            asked.append(clock[0])
            clock[0] += 1.0
            return admit(*arguments, **options)

        hoster.engine.admit = count
        with admit(LayerSpan(0, 6), capacity=8, account=OWN_ACCOUNT):
            with pytest.raises(SessionLost, match="gave up after 2"):
                await collect(client, routing=RoutingOptions(max_reroutes=2, busy_wait_s=10))
        assert 10 < len(asked) <= 12


async def test_a_session_too_long_for_every_cache_is_refused_with_the_limit(swarm):
    await swarm.add_hoster(0, 6, limits=EngineLimits(cache_tokens=8))
    async with contextlib.AsyncExitStack() as stack:
        client = await swarm.open_client(stack)
        with pytest.raises(SessionTooLong, match="room for 16"):
            await collect(client)


async def test_a_hoster_with_a_larger_cache_takes_the_longer_session(swarm):
    await swarm.add_hoster(0, 6, limits=EngineLimits(cache_tokens=8), throughput=5000)
    large = await swarm.add_hoster(0, 6)
    async with contextlib.AsyncExitStack() as stack:
        client = await swarm.open_client(stack)
        pieces = await collect(client)
        assert pieces[-1].trace.route[0].peer_id == str(large.key.peer_id)


@pytest.mark.parametrize("max_reroutes", [2, 3])
async def test_a_lost_session_carries_its_typed_reason(swarm, max_reroutes):
    """Whether the last thing that was counted is the refusal, or that no other route is left."""
    hoster = await swarm.add_hoster(0, 6, limits=EngineLimits(max_sessions=1))
    async with contextlib.AsyncExitStack() as stack:
        client = await swarm.open_client(stack)
        stack.enter_context(hoster.engine.admit(LayerSpan(0, 6), capacity=8, account=OWN_ACCOUNT))
        routing = RoutingOptions(max_reroutes=max_reroutes, busy_wait_s=0)
        with pytest.raises(SessionLost) as lost:
            await collect(client, routing=routing)
        assert lost.value.reason is RefusalReason.BUSY
        await hoster.stop()
        swarm.hosters.clear()
        with pytest.raises(SessionLost) as lost:
            await collect(client, routing=routing)
        assert lost.value.reason is RefusalReason.HOP_LOST


def test_a_peers_full_limits_are_busy_and_words_of_another_version_are_a_failure():
    peer = PeerKey(b"\1" * 32).peer_id
    assert find_loss_reason(PeerRefusal(peer, RpcReason.BUSY)) is RefusalReason.BUSY
    assert find_loss_reason(PeerRefusal(peer, RpcReason.RATE, "busy")) is RefusalReason.HOP_LOST
    assert find_loss_reason(PeerTimeout(peer, "busy")) is RefusalReason.HOP_LOST
    assert read_reason("wrong_range") is RefusalReason.WRONG_RANGE
    assert read_reason("tired") is RefusalReason.FAILED


@pytest.mark.parametrize(
    ("prompt", "count", "message"),
    [
        ([1] * 250, 7, "context of 256"),
        ([1, 259], 4, "outside the vocabulary"),
        ([1, -1], 4, "outside the vocabulary"),
        ([], 4, "is empty"),
        ([1], 0, "max_new_tokens"),
    ],
    ids=["longer than the context", "token out of range", "negative token", "empty", "none wanted"],
)
async def test_impossible_requests_name_what_is_wrong(swarm, prompt, count, message):
    await swarm.add_hoster(0, 6)
    async with contextlib.AsyncExitStack() as stack:
        client = await swarm.open_client(stack)
        with pytest.raises(InvalidRequest, match=message):
            await collect(client, prompt, count=count)


async def test_stop_strings_end_the_answer_and_are_not_shown(swarm):
    await swarm.add_hoster(0, 6)
    async with contextlib.AsyncExitStack() as stack:
        client = await swarm.open_client(stack)
        text = "".join(piece.text for piece in await collect(client))
        stop = text[6:9]
        pieces = await collect(client, stop=[stop])
        assert pieces[-1].finish_reason == "stop"
        assert "".join(piece.text for piece in pieces) == text[: text.find(stop)]
        with pytest.raises(InvalidRequest, match="stop"):
            await collect(client, stop=["x" * 10_000])
        await wait_until(lambda: all_free(swarm))


async def test_logprobs_travel_with_the_tokens(swarm):
    await swarm.add_hoster(0, 3)
    await swarm.add_hoster(3, 6)
    sampling = Sampling(stop_token_ids=(258,), top_logprobs=3)
    async with contextlib.AsyncExitStack() as stack:
        client = await swarm.open_client(stack)
        for piece in await collect(client, sampling=sampling, count=5):
            assert len(piece.top_logprobs) == 3
            assert piece.top_logprobs[0][:2] == (
                piece.token_id,
                pytest.approx(piece.logprob, abs=1e-4),
            )


@pytest.mark.parametrize("splits", [[(0, 6)], [(0, 3), (3, 6)], [(0, 2), (2, 4), (4, 6)]])
async def test_prompt_scores_equal_transformers(swarm, load_reference, chat_checkpoint, splits):
    for start, end in splits:
        await swarm.add_hoster(start, end)
    async with contextlib.AsyncExitStack() as stack:
        client = await swarm.open_client(stack)
        token_ids = client.encode("a prompt of several chunks, to be scored")
        scores = await client.score(token_ids, top_logprobs=2)
        assert await client.score([5]) == ()
        await wait_until(lambda: all_free(swarm))
    with torch.inference_mode():
        logits = load_reference(chat_checkpoint)(torch.tensor([token_ids])).logits[0]
    expected = torch.log_softmax(logits, dim=-1)
    assert len(scores) == len(token_ids) - 1
    for place, score in enumerate(scores):
        assert score.logprob == pytest.approx(
            float(expected[place, token_ids[place + 1]]), abs=1e-4
        )
        assert score.token_id == token_ids[place + 1]
        assert score.top_logprobs[0].token_id == int(expected[place].argmax())
        assert len(score.top_logprobs) == 2


async def test_slow_reader_holds_up_only_its_own_answer(swarm):
    await swarm.add_hoster(0, 6)
    async with contextlib.AsyncExitStack() as stack:
        client = await swarm.open_client(stack)
        slow = client.generate(PROMPT, max_new_tokens=24, sampling=ENDLESS)
        async with aclosing(slow):
            await anext(slow)
            pieces = await collect(client)
        assert len(pieces) == 24
