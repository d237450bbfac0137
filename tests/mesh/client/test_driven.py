"""Sessions that a client drives: what hosters refuse, and what a lost hop costs."""

from __future__ import annotations

import asyncio
import contextlib

import numpy as np
import pytest

from mesh.client.driven_text import DrivenText
from mesh.client.texts import TextBatch
from mesh.errors import InvalidRequest, StreamBroken
from mesh.inference.accounts import OWN_ACCOUNT
from mesh.inference.drive_wire import (
    DRIVE_METHOD,
    DriveSession,
    FeedFrame,
    decode_logits,
    encode_drive,
    encode_driven_step,
    encode_feed,
)
from mesh.inference.engine import EngineLimits
from mesh.inference.hops import SessionTimeouts
from mesh.inference.wire import HiddenRows, StepFrame, decode_error
from mesh.model.config import LayerSpan
from mesh.routing.hop import Hop

TEXT = [1, 17, 90, 4, 201, 33, 8, 64, 250, 12, 77]
SPANS = {1: [(0, 6)], 2: [(0, 3), (3, 6)], 3: [(0, 2), (2, 4), (4, 6)]}


def request_for(hosters, capacity=40):
    spans = SPANS[len(hosters)]
    route = tuple(
        Hop(h.key.peer_id, LayerSpan(*span)) for h, span in zip(hosters, spans, strict=True)
    )
    return DriveSession(b"s" * 16, route, capacity)


def assert_same(found, wanted):
    """Up to the last bits of float32: attention over other chunks adds in another order."""
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


async def wait_until_free(swarm):
    async with asyncio.timeout(5):
        while any(hoster.engine.session_count for hoster in swarm.hosters):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def open_raw(swarm, hoster):
    """A stream of a caller that says what it likes."""
    async with contextlib.AsyncExitStack() as stack:
        host = await swarm.open_host(stack, swarm.next_key())
        stream = await host.open_stream(hoster.key.peer_id, DRIVE_METHOD, timeout_s=5)
        yield stream
        await stream.abort()


async def refusal_of(swarm, hoster, *frames):
    async with open_raw(swarm, hoster) as stream:
        for frame in frames:
            await stream.send(frame)
        async with asyncio.timeout(5):
            return decode_error(await stream.receive())


@contextlib.asynccontextmanager
async def open_texts(swarm, count=1):
    async with contextlib.AsyncExitStack() as stack:
        client = await swarm.open_client(stack)
        yield [DrivenText(client) for _ in range(count)]


@pytest.mark.parametrize("ranges", [1, 2, 3])
async def test_logits_do_not_depend_on_how_the_text_was_fed(swarm, ranges):
    for span in SPANS[ranges]:
        await swarm.add_hoster(*span)
    async with open_texts(swarm, 2) as (whole, parts):
        wanted = await whole.compute_logits(TEXT, wanted=len(TEXT))
        assert wanted.shape == (len(TEXT), 259)
        found = [await parts.compute_logits(TEXT[:stop], capacity=40) for stop in (4, 5, 9, 11)]
        for stop, row in zip((4, 5, 9, 11), found, strict=True):
            assert_same(row[0], wanted[stop - 1])
        # Another ending, and back: what followed the common beginning is forgotten.
        await parts.compute_logits([*TEXT[:6], 99, 98, 97])
        again = await parts.compute_logits(TEXT, wanted=2)
        assert_same(again, wanted[-2:])
        assert parts.reroutes == 0
        assert len(parts.route) == ranges
        await whole.close()
        await parts.close()


async def test_closed_text_replays_itself(swarm):
    await swarm.add_hoster(0, 6)
    async with open_texts(swarm) as (text,):
        first = await text.compute_logits(TEXT)
        await text.close()
        await text.close()
        await wait_until_free(swarm)
        assert_same(await text.compute_logits(TEXT), first)
        await text.close()


async def test_text_that_outgrows_its_room_moves(swarm):
    await swarm.add_hoster(0, 6)
    async with open_texts(swarm, 2) as (text, other):
        await text.compute_logits(TEXT[:4], capacity=5)
        grown = await text.compute_logits(TEXT)
        assert_same(grown, await other.compute_logits(TEXT))
        assert text.reroutes == 0


async def test_stalled_hop_is_left_out_and_the_text_replayed(swarm, monkeypatch):
    """The second range is gone; another one covers its layers."""
    await swarm.add_hoster(0, 3)
    victim = await swarm.add_hoster(3, 6)
    async with open_texts(swarm, 2) as (text, other):
        await text.compute_logits(TEXT[:5], capacity=40)
        await swarm.add_hoster(3, 6, throughput=1)
        swarm.hosters.remove(victim)
        await victim.stop()
        found = await text.compute_logits(TEXT)
        assert text.reroutes >= 1
        assert victim.key.peer_id not in [hop.peer_id for hop in text.route]
        assert_same(found, await other.compute_logits(TEXT))


async def test_cancelled_question_leaves_no_session(swarm):
    hoster = await swarm.add_hoster(0, 6)
    async with open_texts(swarm) as (text,):
        asking = asyncio.get_running_loop().create_task(text.compute_logits(TEXT * 20, wanted=200))
        async with asyncio.timeout(5):
            while not hoster.engine.session_count:  # noqa: ASYNC110
                await asyncio.sleep(0)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
        await wait_until_free(swarm)
        assert len(text.tokens) == 0


@pytest.mark.parametrize("token_ids", [[], [1, -1], [1, 259], [1] * 257])
async def test_impossible_texts_are_refused_here(swarm, token_ids):
    await swarm.add_hoster(0, 6)
    async with open_texts(swarm) as (text,):
        with pytest.raises(InvalidRequest):
            await text.compute_logits(token_ids)
    assert swarm.hosters[0].engine.session_count == 0


async def test_rows_beyond_a_hosters_limit_are_refused_here(swarm):
    await swarm.add_hoster(0, 6)
    async with open_texts(swarm) as (text,):
        batch = TextBatch(lambda: text)
        with pytest.raises(InvalidRequest, match="at most 16"):
            await batch.compute_logits([TEXT] * 17, [1] * 17)


@pytest.mark.parametrize(
    ("feed", "reason"),
    [
        (FeedFrame(0, (1,) * 41, 1), "context_overflow"),
        (FeedFrame(2**32 - 1, (1,), 1), "context_overflow"),
        (FeedFrame(1, (1,), 1), "wrong_position"),
        (FeedFrame(0, (1, 259), 1), "token_out_of_range"),
    ],
    ids=["beyond the room", "far beyond it", "a gap", "no such token"],
)
async def test_impossible_feeds_are_refused_and_the_cache_is_freed(swarm, feed, reason):
    hoster = await swarm.add_hoster(0, 6)
    error = await refusal_of(swarm, hoster, encode_drive(request_for([hoster])), encode_feed(feed))
    assert error.reason == reason
    assert hoster.engine.session_count == 0


async def test_garbage_wrong_routes_and_wrong_callers_are_refused(swarm):
    first = await swarm.add_hoster(0, 3)
    last = await swarm.add_hoster(3, 6)
    request = request_for([first, last])
    for frame in (b"", b"\xff" * 50, encode_feed(FeedFrame(0, (1,), 1))):
        assert (await refusal_of(swarm, first, frame)).reason == "malformed"
    assert (await refusal_of(swarm, last, encode_drive(request))).reason == "malformed"
    second = encode_drive(request.for_next_hop())
    assert (await refusal_of(swarm, last, second)).reason == "malformed"
    short = DriveSession(b"s" * 16, request.route[:1], 40)
    assert (await refusal_of(swarm, first, encode_drive(short))).reason == "wrong_range"
    for capacity in (0, 257, 2**32 - 1):
        huge = DriveSession(b"s" * 16, request.route, capacity)
        assert (await refusal_of(swarm, first, encode_drive(huge))).reason == "context_overflow"
    first.server.drain()
    assert (await refusal_of(swarm, first, encode_drive(request))).reason == "draining"
    first.server.close()
    refusal = await refusal_of(swarm, first, encode_drive(request))
    assert (refusal.reason, refusal.hop_index) == ("draining", 0)


def driven_step(position, rows, data, *, wanted):
    return encode_driven_step(StepFrame(position, HiddenRows(rows, "float32", data)), wanted)


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (
            driven_step(1, 1, bytes(192), wanted=1),
            "wrong_pos",
        ),
        (driven_step(0, 2, bytes(192), wanted=1), "wrong_sh"),
        (
            driven_step(0, 1, bytes(192), wanted=2),
            "malformed",
        ),
        (
            driven_step(0, 99, bytes(99 * 192), wanted=1),
            "context_overflow",
        ),
        (b"nonsense", "malformed"),
    ],
)
async def test_wrong_hidden_states_end_a_driven_session(swarm, frame, reason):
    hoster = await swarm.add_hoster(3, 6)
    async with contextlib.AsyncExitStack() as stack:
        key = swarm.next_key()
        host = await swarm.open_host(stack, key)
        stream = await host.open_stream(hoster.key.peer_id, DRIVE_METHOD, timeout_s=5)
        route = (Hop(key.peer_id, LayerSpan(0, 3)), Hop(hoster.key.peer_id, LayerSpan(3, 6)))
        await stream.send(encode_drive(DriveSession(b"s" * 16, route, 40, hop_index=1)))
        await stream.send(frame)
        async with asyncio.timeout(5):
            assert decode_error(await stream.receive()).reason.startswith(reason)
            with pytest.raises(StreamBroken):
                await stream.receive()
    assert hoster.engine.session_count == 0


async def test_idle_session_is_dropped_with_its_reason(swarm):
    swarm.timeouts = SessionTimeouts(idle_s=0.05)
    hoster = await swarm.add_hoster(0, 6)
    error = await refusal_of(swarm, hoster, encode_drive(request_for([hoster])))
    assert error.reason == "timeout"
    assert hoster.engine.session_count == 0


async def test_client_that_feeds_without_reading_gets_every_answer(swarm):
    """Several feeds in flight: answered in their order, each from where it stands."""
    hosters = [await swarm.add_hoster(*span) for span in SPANS[2]]
    async with open_raw(swarm, hosters[0]) as stream:
        await stream.send(encode_drive(request_for(hosters)))
        for position in range(6):
            await stream.send(encode_feed(FeedFrame(position, (5,), 1)))
        async with asyncio.timeout(5):
            for position in range(6):
                assert decode_logits(await stream.receive(), vocab_size=259).position == position


async def test_full_hoster_is_busy_for_driven_sessions_too(swarm):
    hoster = await swarm.add_hoster(0, 6, limits=EngineLimits(max_sessions=1))
    with hoster.engine.admit(LayerSpan(0, 6), capacity=8, account=OWN_ACCOUNT):
        error = await refusal_of(swarm, hoster, encode_drive(request_for([hoster])))
    assert error.reason == "busy"
