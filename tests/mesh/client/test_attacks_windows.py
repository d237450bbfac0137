"""Windows that no honest range sends, and answers to them that none gives."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from mesh.inference.flight_wire import (
    PIPELINED_METHOD,
    decode_ahead,
    decode_pipelined,
    decode_verified,
    encode_ahead,
    encode_pipelined,
    encode_verified,
)
from mesh.inference.refusals import RefusalReason
from mesh.inference.sampling import Sampling
from mesh.inference.tokens import Finish, Token
from mesh.inference.window_wire import (
    WINDOWED_METHOD,
    decode_tokens,
    decode_window,
    decode_windowed,
    encode_tokens,
    encode_window,
    encode_windowed,
)
from mesh.inference.wire import (
    SESSION_METHOD,
    FrameType,
    HiddenRows,
    Lead,
    OpenSession,
    StepFrame,
    decode_error,
    decode_step,
    decode_token,
    encode_open,
    encode_step,
    encode_token,
)
from mesh.model.config import LayerSpan
from mesh.routing.hop import Hop

HIDDEN = 48
VOCABULARY = 259
PROMPT = (5, 6, 7, 5, 6, 7, 5, 6)
WINDOW = 4


@contextlib.asynccontextmanager
async def come_before(swarm, hoster, method, encode, *, end, **fields):
    """A stranger that is the range before a hoster; the prompt has been sent."""
    async with contextlib.AsyncExitStack() as stack:
        key = swarm.next_key()
        host = await swarm.open_host(stack, key)
        route = [Hop(key.peer_id, LayerSpan(0, 3)), Hop(hoster.key.peer_id, LayerSpan(3, end))]
        if end < 6:
            later = await swarm.open_host(stack, swarm.next_key())
            later.serve_stream(method, say_nothing)
            route.append(Hop(later.peer_id, LayerSpan(end, 6)))
        request = OpenSession(
            key.peer_id.public_key[:16],
            tuple(route),
            Sampling(),
            PROMPT,
            max_new_tokens=40,
            hop_index=1,
            window=WINDOW,
            **fields,
        )
        stream = await host.open_stream(hoster.key.peer_id, method, timeout_s=5)
        await stream.send(encode(request))
        await stream.send(encode_step(make_step(0, len(PROMPT))))
        yield stream
        await stream.abort()


@contextlib.asynccontextmanager
async def attack(swarm, hoster, *, end=6):
    """A stranger before a hoster, in a session with one window under way."""
    async with come_before(swarm, hoster, WINDOWED_METHOD, encode_windowed, end=end) as stream:
        if end == 6:
            assert len(decode_tokens(await receive(stream))) == 1
        yield stream


async def say_nothing(stream):
    while True:
        await stream.receive()


async def receive(stream):
    async with asyncio.timeout(10):
        return await stream.receive()


def make_step(position, rows, draft=()):
    hidden = HiddenRows(rows, "float32", bytes(4 * HIDDEN * rows))
    return StepFrame(position, hidden, draft=draft)


def make_window(position, draft):
    return encode_window(make_step(position, 1 + len(draft), draft))


@pytest.mark.parametrize(
    ("window", "reason"),
    [
        (make_window(8, (VOCABULARY,)), RefusalReason.TOKEN_OUT_OF_RANGE),
        (make_window(8, (2**32 - 1, 5)), RefusalReason.TOKEN_OUT_OF_RANGE),
        (make_window(8, (5,) * WINDOW), RefusalReason.MALFORMED),
        (make_window(9, (5,)), RefusalReason.WRONG_POSITION),
        (make_window(7, (5,)), RefusalReason.WRONG_POSITION),
        (make_window(0, (5,)), RefusalReason.WRONG_POSITION),
    ],
    ids=["vocabulary", "largest id", "too long", "gap", "within the prompt", "at the start"],
)
@pytest.mark.parametrize("end", [6, 5], ids=["last", "middle"])
async def test_a_window_that_makes_no_sense_ends_its_own_session_only(swarm, window, reason, end):
    hoster = await swarm.add_hoster(3, 6)
    async with attack(swarm, hoster, end=end) as stream:
        await stream.send(window)
        assert decode_error(await receive(stream)).reason == reason
    async with attack(swarm, hoster) as stream:
        await stream.send(make_window(8, (5, 6)))
        assert decode_tokens(await receive(stream))


async def test_a_middle_range_goes_back_within_the_last_window_and_no_farther(swarm):
    hoster = await swarm.add_hoster(3, 6)
    async with attack(swarm, hoster, end=5) as stream:
        for position in (8, 9, 12, 13):
            await stream.send(make_window(position, (5, 6, 7)))
        await stream.send(make_window(13, (5,)))
        assert decode_error(await receive(stream)).reason == RefusalReason.WRONG_POSITION


async def test_a_last_range_goes_back_only_where_it_did_itself(swarm):
    hoster = await swarm.add_hoster(3, 6)
    async with attack(swarm, hoster) as stream:
        await stream.send(make_window(8, (5, 6, 7)))
        count = len(decode_tokens(await receive(stream)))
        await stream.send(make_window(8 + count - 1, (5,)))
        assert decode_error(await receive(stream)).reason == RefusalReason.WRONG_POSITION


@pytest.mark.parametrize("window", [1, 17])
async def test_a_session_with_windows_of_impossible_length_is_refused(swarm, window):
    hoster = await swarm.add_hoster(0, 6)
    async with contextlib.AsyncExitStack() as stack:
        host = await swarm.open_host(stack, swarm.next_key())
        route = (Hop(hoster.key.peer_id, LayerSpan(0, 6)),)
        request = OpenSession(bytes(16), route, Sampling(), PROMPT, max_new_tokens=2, window=2)
        frame = encode_windowed(request)
        stream = await host.open_stream(hoster.key.peer_id, WINDOWED_METHOD, timeout_s=5)
        await stream.send(frame[:1] + bytes([window]) + frame[2:])
        assert decode_error(await receive(stream)).reason == RefusalReason.MALFORMED


async def test_a_peer_that_leaves_with_windows_under_way_leaves_nothing_behind(swarm):
    hoster = await swarm.add_hoster(3, 6)
    free = hoster.engine.free_cache_tokens
    for _ in range(3):
        async with attack(swarm, hoster) as stream:
            for _ in range(3):
                await stream.send(make_window(8, (5, 6, 7)))
    async with asyncio.timeout(10):
        while hoster.engine.session_count:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert hoster.engine.free_cache_tokens == free


@contextlib.asynccontextmanager
async def betray(swarm, hoster, reply, *, method=WINDOWED_METHOD):
    """An answer over an honest first range and a last one that answers windows by ``reply``.

    Yields the client's stream behind the first tokens, which let the first range draft.
    """
    async with contextlib.AsyncExitStack() as stack:
        key = swarm.next_key()
        stranger = await swarm.open_host(stack, key)

        async def serve(stream):
            assert decode_windowed(await stream.receive()).window
            await stream.receive()
            # The prompt's own beginning: what follows it there is drafted.
            await stream.send(encode_tokens((make_token(0, 7),)))
            frame = await stream.receive()
            assert frame[0] == FrameType.WINDOW
            step = decode_window(frame, hidden_size=HIDDEN, most=16)
            assert (step.position, step.draft) == (8, (5, 6, 7))
            await stream.send(reply(step.draft))
            await say_nothing(stream)

        stranger.serve_stream(method, serve)
        client = await swarm.open_host(stack, swarm.next_key())
        request = OpenSession(
            session_id=bytes(16),
            route=(Hop(hoster.key.peer_id, LayerSpan(0, 3)), Hop(key.peer_id, LayerSpan(3, 6))),
            sampling=Sampling(),
            token_ids=PROMPT,
            max_new_tokens=5,
        )
        stream = await client.open_stream(hoster.key.peer_id, SESSION_METHOD, timeout_s=5)
        await stream.send(encode_open(request))
        assert decode_token(await receive(stream)).token_id == 7
        yield stream
        await stream.abort()


def make_token(index, token_id, finish=Finish.NOT_YET):
    return Token(token_id, -1.0, index=index, finish=finish)


def say(*token_ids, finish=Finish.NOT_YET):
    return encode_tokens([make_token(1 + i, t, finish) for i, t in enumerate(token_ids)])


@pytest.mark.parametrize(
    "reply",
    [
        say(6, 6),
        say(5, 6, 7, 8, 9),
        say(5, VOCABULARY),
        say(5, 6, finish=Finish.STOP),
        encode_tokens((make_token(2, 5),)),
        encode_tokens((make_token(1, 5), make_token(3, 6))),
        say(5)[:-1],
        encode_token(make_token(1, 5)),
    ],
    ids=[
        "not drafted",
        "too many",
        "impossible",
        "after the end",
        "skipped",
        "gap",
        "cut",
        "alone",
    ],
)
async def test_tokens_that_no_window_gives_are_blamed_on_the_last_range(swarm, reply):
    hoster = await swarm.add_hoster(0, 3)
    async with betray(swarm, hoster, lambda draft: reply) as stream:
        error = decode_error(await receive(stream))
    assert (error.hop_index, error.reason) == (1, "hop_lost")


async def test_tokens_that_a_window_gives_are_passed_on(swarm):
    hoster = await swarm.add_hoster(0, 3)
    async with betray(swarm, hoster, lambda draft: say(5, 6, 9)) as stream:
        tokens = [decode_token(await receive(stream)) for _ in range(3)]
        assert [token.token_id for token in tokens] == [5, 6, 9]
        assert [bool(token.times_us) for token in tokens] == [True, False, False]


async def test_a_session_that_was_opened_without_windows_takes_none(swarm):
    """Neither a window, nor several tokens at once."""
    hoster = await swarm.add_hoster(0, 3)
    async with contextlib.AsyncExitStack() as stack:
        key = swarm.next_key()
        stranger = await swarm.open_host(stack, key)

        async def serve(stream):
            await stream.receive()
            decode_step(await stream.receive(), hidden_size=HIDDEN)
            await stream.send(encode_tokens((make_token(0, 7),)))
            await say_nothing(stream)

        stranger.serve_stream(SESSION_METHOD, serve)
        client = await swarm.open_host(stack, swarm.next_key())
        route = (Hop(hoster.key.peer_id, LayerSpan(0, 3)), Hop(key.peer_id, LayerSpan(3, 6)))
        request = OpenSession(bytes(16), route, Sampling(), PROMPT, max_new_tokens=5)
        stream = await client.open_stream(hoster.key.peer_id, SESSION_METHOD, timeout_s=5)
        await stream.send(encode_open(request))
        error = decode_error(await receive(stream))
    assert (error.hop_index, error.reason) == (1, "hop_lost")


@contextlib.asynccontextmanager
async def attack_flight(swarm, hoster, *, end=6):
    """A stranger before a hoster, in a session with three windows under way at most."""
    opened = come_before(swarm, hoster, PIPELINED_METHOD, encode_pipelined, end=end, in_flight=3)
    async with opened as stream:
        chosen = 0
        if end == 6:
            number, (token,) = decode_verified(await receive(stream))
            assert number == 0
            chosen = token.token_id
        yield stream, chosen


def make_ahead(position, draft, number=0, *, before=0, first=5):
    step = make_step(position, 1 + len(draft), draft)
    return encode_ahead(step, Lead(number, first, before))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda t: make_ahead(8, (VOCABULARY,), first=t), RefusalReason.TOKEN_OUT_OF_RANGE),
        (lambda t: make_ahead(8, (5,), first=2**32 - 1), RefusalReason.TOKEN_OUT_OF_RANGE),
        (lambda t: make_ahead(8, (5,) * WINDOW, first=t), RefusalReason.MALFORMED),
        (lambda t: make_ahead(9, (5,), first=t), RefusalReason.WRONG_POSITION),
        (lambda t: make_ahead(7, (5,), first=t), RefusalReason.WRONG_POSITION),
        (lambda t: make_ahead(0, (5,), 1, first=t), RefusalReason.WRONG_POSITION),
        (lambda t: make_ahead(8, (5,), 2, first=t), RefusalReason.MALFORMED),
        (lambda t: make_ahead(8, (5,), before=3, first=t), RefusalReason.MALFORMED),
        (lambda t: make_window(8, (5,)), RefusalReason.MALFORMED),
        (lambda t: encode_step(make_step(8, 1)), RefusalReason.MALFORMED),
    ],
    ids=[
        "vocabulary",
        "first token",
        "too long",
        "gap",
        "within the prompt",
        "at the start",
        "round",
        "too many",
        "no round",
        "step",
    ],
)
@pytest.mark.parametrize("end", [6, 5], ids=["last", "middle"])
async def test_a_window_under_way_that_makes_no_sense_ends_its_own_session_only(
    swarm, make, reason, end
):
    hoster = await swarm.add_hoster(3, 6)
    async with attack_flight(swarm, hoster, end=end) as (stream, chosen):
        await stream.send(make(chosen))
        assert decode_error(await receive(stream)).reason == reason
    async with attack_flight(swarm, hoster) as (stream, chosen):
        await stream.send(make_ahead(8, (5, 6), first=chosen))
        assert decode_verified(await receive(stream))


async def test_the_last_range_verifies_no_window_that_begins_with_another_token(swarm):
    hoster = await swarm.add_hoster(3, 6)
    async with attack_flight(swarm, hoster) as (stream, chosen):
        await stream.send(make_ahead(8, (5,), first=(chosen + 1) % VOCABULARY))
        assert decode_error(await receive(stream)).reason == RefusalReason.MALFORMED


async def test_more_windows_than_agreed_end_the_session(swarm):
    hoster = await swarm.add_hoster(3, 6)
    async with attack_flight(swarm, hoster) as (stream, chosen):
        position = 8
        for place in range(4):
            wrong = (chosen + 1) % VOCABULARY
            first = wrong if place else chosen
            await stream.send(make_ahead(position, (wrong,), before=min(place, 2), first=first))
            position += 2
        decode_verified(await receive(stream))
        assert decode_error(await receive(stream)).reason == RefusalReason.MALFORMED


async def test_a_peer_that_leaves_with_three_windows_under_way_leaves_nothing_behind(swarm):
    hoster = await swarm.add_hoster(3, 6)
    free = hoster.engine.free_cache_tokens
    for end in (6, 5):
        async with attack_flight(swarm, hoster, end=end) as (stream, chosen):
            for place in range(3):
                await stream.send(make_ahead(8 + 3 * place, (5, 6), before=place, first=chosen))
    async with asyncio.timeout(10):
        while hoster.engine.session_count:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert hoster.engine.free_cache_tokens == free


@pytest.mark.parametrize(
    "reply",
    [
        encode_verified(1, (make_token(1, 5),)),
        encode_verified(0, (make_token(1, 6), make_token(2, 6))),
        encode_verified(0, (make_token(1, VOCABULARY),)),
        encode_verified(0, (make_token(1, 5),))[:-1],
        say(5),
        encode_token(make_token(1, 5)),
    ],
    ids=["round", "not drafted", "impossible", "cut", "without a round", "alone"],
)
async def test_answers_that_no_round_gives_are_blamed_on_the_last_range(swarm, reply):
    hoster = await swarm.add_hoster(0, 3)
    async with contextlib.AsyncExitStack() as stack:
        key = swarm.next_key()
        stranger = await swarm.open_host(stack, key)

        async def serve(stream):
            assert decode_pipelined(await stream.receive()).in_flight == 3
            await stream.receive()
            await stream.send(encode_verified(0, (make_token(0, 7),)))
            step = decode_ahead(await stream.receive(), hidden_size=HIDDEN, most=16)
            assert (step.position, step.draft) == (8, (5, 6, 7))
            assert step.lead == Lead(0, 7, 0)
            await stream.send(reply)
            await say_nothing(stream)

        stranger.serve_stream(PIPELINED_METHOD, serve)
        client = await swarm.open_host(stack, swarm.next_key())
        route = (Hop(hoster.key.peer_id, LayerSpan(0, 3)), Hop(key.peer_id, LayerSpan(3, 6)))
        request = OpenSession(bytes(16), route, Sampling(), PROMPT, max_new_tokens=5)
        stream = await client.open_stream(hoster.key.peer_id, SESSION_METHOD, timeout_s=5)
        await stream.send(encode_open(request))
        assert decode_token(await receive(stream)).token_id == 7
        error = decode_error(await receive(stream))
        await stream.abort()
    assert (error.hop_index, error.reason) == (1, "hop_lost")
