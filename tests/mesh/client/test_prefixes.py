"""A prompt's beginning that was computed before is not computed again, on any route, to the bit."""

from __future__ import annotations

import contextlib
from contextlib import aclosing

import pytest

from mesh.client.receipts import AnswerReceipt
from mesh.inference.engine import EngineLimits
from mesh.inference.pipeline import GenerationRange
from mesh.inference.prefixes import mix_salt
from mesh.inference.sampling import Sampling
from mesh.inference.wire import encode_ready
from mesh.model.capacity import PAGE_TOKENS
from tests.mesh.client.conftest import Swarm
from tests.mesh.client.test_generate import all_free, wait_until

PROMPT = "You are kind. How does one epoch work, step by step?"
NEXT_TURN = f"{PROMPT} It has five phases. And which is the last of them?"
NEW_TOKENS = 6
SEEDED = Sampling(stop_token_ids=(258,), temperature=1.0, seed=20)
ROUTES = {1: ((0, 6),), 2: ((0, 3), (3, 6)), 3: ((0, 2), (2, 3), (3, 6))}


@contextlib.asynccontextmanager
async def open_swarm(folder, ranges, **options):
    swarm = Swarm(folder)
    async with contextlib.AsyncExitStack() as stack:
        for start, end in ROUTES[ranges]:
            hoster = await swarm.add_hoster(start, end, **options)
            stack.push_async_callback(hoster.stop)
        yield swarm, stack


def count_rows(swarm):
    """Note the rows of every step that each hoster computes from now on."""
    rows = [[] for _ in swarm.hosters]
    for hoster, noted in zip(swarm.hosters, rows, strict=True):

        def submit(session, step, submit=hoster.engine.submit, noted=noted):
            noted.append((session.length, step.rows))
            return submit(session, step)

        hoster.engine.submit = submit
    return rows


async def ask(client, prompt, *, new_tokens=NEW_TOKENS, **options):
    tokens = []
    answer = client.generate(prompt, max_new_tokens=new_tokens, sampling=SEEDED, **options)
    async with aclosing(answer):
        async for token in answer:
            tokens.append((token.token_id, token.logprob))
    return tokens


async def find_cached(client, prompt, *, user="alice", **options):
    """Return how much of a prompt the client is told was kept from before."""
    answer = client.generate(prompt, max_new_tokens=2, sampling=SEEDED, user=user, **options)
    async with aclosing(answer):
        return [token.trace.cached_tokens async for token in answer][0]


def find_starts(rows):
    """Return where each hoster began, and forget what was noted."""
    starts = [noted[0][0] for noted in rows]
    for noted in rows:
        noted.clear()
    return starts


@pytest.mark.parametrize("ranges", [1, 2, 3])
async def test_an_equal_beginning_is_computed_once_and_gives_the_same_bits(chat_checkpoint, ranges):
    expected = []
    for prompt in (PROMPT, NEXT_TURN):
        async with open_swarm(chat_checkpoint, ranges) as (swarm, stack):
            expected.append(await ask(await swarm.open_client(stack), prompt))
    async with open_swarm(chat_checkpoint, ranges) as (swarm, stack):
        client, rows = await swarm.open_client(stack), count_rows(swarm)
        assert await ask(client, PROMPT) == expected[0]
        assert find_starts(rows) == [0] * ranges
        known = len(client.encode(PROMPT)) // PAGE_TOKENS * PAGE_TOKENS
        assert await ask(client, NEXT_TURN) == expected[1]
        assert find_starts(rows) == [known] * ranges
        assert await ask(client, PROMPT) == expected[0]
        assert find_starts(rows) == [known] * ranges
        # Nothing is shared with another user, with another client, or with a text that is scored.
        assert await ask(client, PROMPT, user="other") == expected[0]
        assert find_starts(rows) == [0] * ranges
        assert await ask(await swarm.open_client(stack), PROMPT) == expected[0]
        assert find_starts(rows) == [0] * ranges
        await client.score(PROMPT)
        assert find_starts(rows) == [0] * ranges
        await wait_until(lambda: all_free(swarm))
        looked_up = 4 * len(client.encode(PROMPT)) + len(client.encode(NEXT_TURN))
        for hoster in swarm.hosters:
            measures = hoster.engine.measures
            assert (measures.prefix_queries, measures.prefix_hits) == (looked_up, 2 * known)


@pytest.mark.parametrize("ranges", [1, 2, 3])
async def test_a_client_is_told_how_much_of_its_prompt_was_kept(chat_checkpoint, ranges):
    async with open_swarm(chat_checkpoint, ranges) as (swarm, stack):
        client = await swarm.open_client(stack)
        known = len(client.encode(PROMPT)) // PAGE_TOKENS * PAGE_TOKENS
        shaped = {"sampling": Sampling(stop_token_ids=(258,), presence_penalty=0.5)}
        assert [await find_cached(client, PROMPT) for _ in range(2)] == [0, known]
        assert await find_cached(client, NEXT_TURN) == known
        assert await find_cached(client, PROMPT, user="bob") == 0
        answer = client.generate(PROMPT, max_new_tokens=2, user="alice", **shaped)
        assert [token.trace.cached_tokens async for token in answer] == [known] * 2
        receipt = AnswerReceipt()
        assert await find_cached(client, PROMPT, receipt=receipt) == known
        (part,) = receipt.to_dict()["parts"]
        assert {hop["receipt"]["reused"] for hop in part["hops"]} == {known}


@pytest.mark.parametrize("ranges", [1, 2])
async def test_a_hoster_of_an_earlier_version_tells_nothing_and_answers(
    chat_checkpoint, monkeypatch, ranges
):
    tell = GenerationRange._tell_ready

    async def tell_ranges_only(role):
        if not role.request.is_first:
            await tell(role)

    monkeypatch.setattr(GenerationRange, "_tell_ready", tell_ranges_only)
    async with open_swarm(chat_checkpoint, ranges) as (swarm, stack):
        client = await swarm.open_client(stack)
        assert [await find_cached(client, PROMPT) for _ in range(2)] == [None, None]


async def test_the_next_turn_of_a_chat_begins_after_the_answer(chat_checkpoint):
    """Where bits need not be equal, an answer's own pages are used too; the tokens are the same."""
    found = []
    for has_asked in (True, False):
        async with open_swarm(chat_checkpoint, 1, deterministic=False) as (swarm, stack):
            client, rows = await swarm.open_client(stack), count_rows(swarm)
            prompt = client.encode(PROMPT)
            if has_asked:
                answer = await ask(client, prompt, new_tokens=30)
                await wait_until(lambda: all_free(swarm))
                find_starts(rows)
                next_turn = (*prompt, *(token for token, _ in answer), 5, 6, 7)
            found.append(await ask(client, next_turn))
            starts = find_starts(rows)
            known = (len(prompt) + len(answer) - 1) // PAGE_TOKENS * PAGE_TOKENS
            assert starts == [known if has_asked else 0]
    assert known > len(prompt)
    assert [token for token, _ in found[0]] == [token for token, _ in found[1]]


@pytest.mark.parametrize("place", [0, 1, 2])
async def test_ranges_begin_where_the_one_that_knows_least_begins(chat_checkpoint, place):
    """One hoster has forgotten, by a smaller cache, what the others still have."""
    async with open_swarm(chat_checkpoint, 3) as (swarm, stack):
        client, rows = await swarm.open_client(stack), count_rows(swarm)
        expected = await ask(client, PROMPT)
        await wait_until(lambda: all_free(swarm))
        # The answer's sessions may be parked for a while.
        swarm.hosters[place].server._refills.close()
        book = swarm.hosters[place].engine._book
        for page in list(book._idle)[: len(book._idle) - 1]:
            book._idle.pop(page)
            book._forget_key(page)
            book._free.put(page)
        find_starts(rows)
        assert await ask(client, PROMPT) == expected
        assert find_starts(rows) == [PAGE_TOKENS] * 3


@pytest.mark.parametrize("place", [0, 1, 2])
async def test_a_client_is_told_what_no_range_computed_again(chat_checkpoint, place):
    async with open_swarm(chat_checkpoint, 3) as (swarm, stack):
        client = await swarm.open_client(stack)
        await find_cached(client, PROMPT)
        await wait_until(lambda: all_free(swarm))
        book = swarm.hosters[place].engine._book
        for page in list(book._idle)[: len(book._idle) - 1]:
            book._idle.pop(page)
            book._forget_key(page)
            book._free.put(page)
        assert await find_cached(client, PROMPT) == PAGE_TOKENS


async def test_the_first_range_cuts_what_is_left_as_if_it_had_nothing(chat_checkpoint):
    """A deterministic engine reuses whole chunks, whatever the others have."""
    limits = EngineLimits(prefill_chunk=24)
    async with open_swarm(chat_checkpoint, 2, limits=limits) as (swarm, stack):
        client, rows = await swarm.open_client(stack), count_rows(swarm)
        expected = await ask(client, PROMPT)
        find_starts(rows)
        assert await ask(client, PROMPT) == expected
        assert find_starts(rows) == [48, 48]


@pytest.mark.parametrize("position", [8, 64, 2**32 - 1])
async def test_a_range_that_claims_what_it_cannot_have_is_blamed(
    chat_checkpoint, monkeypatch, position
):
    monkeypatch.setattr(
        "mesh.inference.pipeline.encode_ready", lambda reused: encode_ready(position)
    )
    async with open_swarm(chat_checkpoint, 2) as (swarm, stack):
        client = await swarm.open_client(stack)
        await ask(client, PROMPT)
        liar = swarm.hosters[1].key.peer_id
        blamed = []
        find_blamed = client.directory.forget_connection
        client.directory.forget_connection = lambda peer: (blamed.append(peer), find_blamed(peer))
        monkeypatch.setattr("mesh.client.route_search.FIRST_BACKOFF_S", 0.0)
        monkeypatch.setattr("mesh.client.route_search.MAX_BACKOFF_S", 0.0)
        with pytest.raises(Exception, match="gave up"):
            await ask(client, PROMPT)
        assert set(blamed) == {liar}


async def test_a_salt_depends_on_every_peer_on_the_way(swarm):
    first, second = swarm.next_key().peer_id, swarm.next_key().peer_id
    salts = {mix_salt(b"s", first), mix_salt(b"s", second), mix_salt(b"t", first)}
    salts.add(mix_salt(mix_salt(b"s", first), second))
    assert len(salts) == 4
