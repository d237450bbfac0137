"""Answers that no honest hoster gives: the client leaves it, and shows nobody its numbers."""

from __future__ import annotations

import contextlib
import math

import pytest

from mesh.client.route_session import ClientTimeouts, HopFailed, fetch_scores, stream_tokens
from mesh.inference.refusals import RefusalReason
from mesh.inference.sampling import Sampling
from mesh.inference.tokens import Alternative, Finish, Token
from mesh.inference.wire import (
    SESSION_METHOD,
    OpenSession,
    ScoresFrame,
    decode_open,
    encode_ready,
    encode_scores,
    encode_token,
)
from mesh.model.config import LayerSpan
from mesh.routing.hop import Hop

VOCABULARY = 259
STOP = 2


@contextlib.asynccontextmanager
async def lying_hoster(swarm, frames, **changes):
    """A client host, and a request to a hoster that answers with ``frames`` whatever is asked."""
    async with contextlib.AsyncExitStack() as stack:
        liar = await swarm.open_host(stack, swarm.next_key())
        client = await swarm.open_host(stack, swarm.next_key())

        async def answer(stream):
            decode_open(await stream.receive())
            for frame in frames:
                await stream.send(frame)

        liar.serve_stream(SESSION_METHOD, answer)
        request = OpenSession(
            session_id=b"s" * 16,
            route=(Hop(liar.peer_id, LayerSpan(0, 6)),),
            sampling=Sampling(stop_token_ids=(STOP,)),
            token_ids=(1, 7, 8),
            **{"max_new_tokens": 3, **changes},
        )
        yield client, request


async def collect(swarm, *tokens):
    frames = [encode_token(token) for token in tokens]
    async with lying_hoster(swarm, frames) as (host, request):
        answer = stream_tokens(host, request, vocab_size=VOCABULARY, timeouts=ClientTimeouts())
        async with contextlib.aclosing(answer):
            return [token.token_id async for token in answer]


def say(index, token_id=5, *, finish=Finish.NOT_YET, logprob=-1.0, top=()):
    return Token(
        token_id, logprob, tuple(Alternative(*pair) for pair in top), index=index, finish=finish
    )


async def test_honest_answers_pass(swarm):
    full = (say(0), say(1), say(2, finish=Finish.LENGTH))
    assert await collect(swarm, *full) == [5, 5, 5]
    assert await collect(swarm, say(0), say(1, STOP, finish=Finish.STOP)) == [5, STOP]


@pytest.mark.parametrize(
    "tokens",
    [
        [say(0), say(1), say(2), say(3)],
        [say(0, finish=Finish.LENGTH)],
        [say(0, finish=Finish.STOP)],
        [say(0, STOP)],
        [say(1)],
        [say(0), say(0)],
        [say(0, VOCABULARY)],
        [say(0, top=((VOCABULARY, -1.0),))],
        [say(0, logprob=math.nan)],
        [say(0, logprob=-math.inf)],
        [say(0, top=((5, math.nan),))],
    ],
    ids=[
        "more tokens than were asked for",
        "cut short",
        "stopped at no stop token",
        "went on behind a stop token",
        "left one out",
        "said one twice",
        "token id out of range",
        "alternative out of range",
        "nan",
        "infinite",
        "alternative is nan",
    ],
)
async def test_impossible_answer_fails_the_hop(swarm, tokens):
    with pytest.raises(HopFailed):
        await collect(swarm, *tokens)


SALT = b"s" * 32


async def collect_told(swarm, *frames, asks=True):
    """Return the tokens of an answer, and what its hoster said of the prompt's beginning."""
    told = []
    asked = {"reused": 3, "salt": SALT} if asks else {}
    async with lying_hoster(swarm, frames, **asked) as (host, request):
        answer = stream_tokens(
            host,
            request,
            vocab_size=VOCABULARY,
            timeouts=ClientTimeouts(),
            note_cached=told.append,
        )
        async with contextlib.aclosing(answer):
            return [token.token_id async for token in answer], told


FULL = tuple(encode_token(say(place)) for place in range(2)) + (
    encode_token(say(2, finish=Finish.LENGTH)),
)


async def test_what_was_kept_of_a_prompt_is_told_once_before_its_answer(swarm):
    assert await collect_told(swarm, encode_ready(2), *FULL) == ([5, 5, 5], [2])
    assert await collect_told(swarm, *FULL) == ([5, 5, 5], [])


@pytest.mark.parametrize(
    ("frames", "asks"),
    [
        ((encode_ready(3), *FULL), True),
        ((encode_ready(2**32 - 1), *FULL), True),
        ((encode_ready(1), encode_ready(1), *FULL), True),
        ((FULL[0], encode_ready(1), *FULL[1:]), True),
        ((encode_ready(1), *FULL), False),
        ((encode_ready(1)[:-1], *FULL), True),
    ],
    ids=["all of it", "more than there is", "twice", "later", "unasked", "cut"],
)
async def test_a_hoster_that_tells_wrongly_what_it_kept_fails_the_hop(swarm, frames, asks):
    with pytest.raises(HopFailed, match=str(RefusalReason.MALFORMED)):
        await collect_told(swarm, *frames, asks=asks)


@pytest.mark.parametrize(
    "score",
    [Token(7, math.nan), Token(7, -1.0, (Alternative(1, math.inf),))],
    ids=["nan", "alternative"],
)
async def test_scores_that_are_no_numbers_fail_the_hop(swarm, score):
    frames = [encode_scores(ScoresFrame(1, (score, score)))]
    async with lying_hoster(swarm, frames, max_new_tokens=0) as (host, request):
        with pytest.raises(HopFailed):
            await fetch_scores(host, request, timeouts=ClientTimeouts())
