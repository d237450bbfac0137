"""Speculation over one, two and three ranges: the same answers, in fewer passes over them."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import aclosing

import pytest

from mesh.inference.flight_wire import PIPELINED_METHOD
from mesh.inference.grammar import Grammar, GrammarKind
from mesh.inference.sampling import Sampling
from mesh.inference.window_wire import WINDOWED_METHOD
from tests.mesh.client.conftest import Swarm

SPLITS = {1: [(0, 6)], 2: [(0, 2), (2, 6)], 3: [(0, 2), (2, 3), (3, 6)]}
PROMPT = "abcabcabcabc says the text, and abcabc says it again: abc"
NO_END = (258,)
FEW = tuple((token_id, 100.0) for token_id in (70, 71, 72))
"""Biases that leave three tokens, so that what comes has often come before."""
WORDS = Grammar(GrammarKind.REGEX, "(red|green|blue)( (red|green|blue)){9}")
SAMPLINGS = {
    "greedy": Sampling(stop_token_ids=NO_END),
    "temperature 1": Sampling(temperature=1.0, seed=3, stop_token_ids=NO_END),
    "few tokens": Sampling(temperature=1.0, seed=4, logit_bias=FEW, stop_token_ids=NO_END),
    "logprobs": Sampling(logit_bias=FEW, top_logprobs=3, stop_token_ids=NO_END),
    "repetition": Sampling(repetition_penalty=1.02, logit_bias=FEW, stop_token_ids=NO_END),
    "counts": Sampling(
        temperature=1.0,
        seed=5,
        logit_bias=FEW,
        frequency_penalty=0.1,
        presence_penalty=0.5,
        stop_token_ids=NO_END,
    ),
    "top_k": Sampling(temperature=1.0, seed=6, top_k=2, min_p=0.01, stop_token_ids=NO_END),
    "stop token": Sampling(
        temperature=1.0, seed=17, logit_bias=FEW, stop_token_ids=(71,), min_tokens=30
    ),
    "grammar": Sampling(temperature=1.0, seed=8, grammar=WORDS),
}


async def ask(client, sampling, *, count=48, stop=()):
    pieces = []
    answer = client.generate(PROMPT, max_new_tokens=count, sampling=sampling, stop=stop)
    async with aclosing(answer):
        async for piece in answer:
            pieces.append(piece)
    return pieces


@contextlib.asynccontextmanager
async def open_swarm(folder, ranges, **options):
    swarm = Swarm(folder)
    async with contextlib.AsyncExitStack() as stack:
        for start, end in SPLITS[ranges]:
            hoster = await swarm.add_hoster(start, end, **options)
            stack.push_async_callback(hoster.stop)
        yield swarm, await swarm.open_client(stack)


def facts(pieces):
    return [(p.token_id, p.logprob, p.top_logprobs, p.text, p.index, p.finish) for p in pieces]


def count_steps(hoster):
    return sum(hoster.engine.measures.step.read().counts)


@pytest.fixture(scope="module")
def expected(chat_checkpoint):
    """Answers without drafts, by the name of their sampling."""

    async def ask_all():
        async with open_swarm(chat_checkpoint, 1, speculates=False) as (_, client):
            return {name: facts(await ask(client, one)) for name, one in SAMPLINGS.items()}

    return asyncio.run(ask_all())


@pytest.mark.parametrize("ranges", [1, 2, 3])
async def test_answers_have_the_same_tokens_and_bits_as_without_drafts(
    chat_checkpoint, expected, ranges
):
    async with open_swarm(chat_checkpoint, ranges) as (swarm, client):
        measures, last = swarm.hosters[0].engine.measures, swarm.hosters[-1]
        for name, sampling in SAMPLINGS.items():
            accepted, steps = measures.spec_accepted_tokens, count_steps(last)
            pieces = await ask(client, sampling)
            assert facts(pieces) == expected[name], name
            saved = measures.spec_accepted_tokens - accepted
            prompt_steps = count_steps(last) - steps - (len(pieces) - 1 - saved)
            assert 0 <= prompt_steps <= 8
        assert measures.spec_accepted_tokens > 30 or ranges == 1


async def test_a_text_that_repeats_itself_takes_few_passes_over_the_ranges(chat_checkpoint):
    sampling = Sampling(logit_bias=((70, 100.0),), stop_token_ids=NO_END)
    passes = []
    for speculates in (False, True):
        async with open_swarm(chat_checkpoint, 2, speculates=speculates) as (swarm, client):
            pieces = await ask(client, sampling, count=64)
            passes.append(sum(bool(piece.times_us) for piece in pieces))
            measures = swarm.hosters[0].engine.measures
            assert len(pieces) == 64 and measures.spec_accepted_tokens == 64 - passes[-1]
            trace = pieces[-1].trace
            assert sum(trace.step_tokens) == 64 and len(trace.step_tokens) == passes[-1]
            assert trace.tokens_per_step == 64 / passes[-1]
    assert passes[0] == 64 and passes[1] < 10


async def test_a_stop_text_within_a_window_ends_the_answer_there(chat_checkpoint):
    sampling = Sampling(logit_bias=((70, 100.0),), stop_token_ids=NO_END)
    async with open_swarm(chat_checkpoint, 2) as (swarm, client):
        text = "".join(piece.text for piece in await ask(client, sampling))
        cut = "".join(piece.text for piece in await ask(client, sampling, stop=[text[:21]]))
        assert text and cut == ""
        letters = await ask(client, sampling, stop=[text[20:41]], count=41)
        assert "".join(piece.text for piece in letters) == ""
        async with asyncio.timeout(10):
            while any(hoster.engine.session_count for hoster in swarm.hosters):  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def test_the_default_engine_gives_the_same_tokens_with_drafts(chat_checkpoint, expected):
    for ranges in (1, 2):
        async with open_swarm(chat_checkpoint, ranges, deterministic=False) as (swarm, client):
            for name in ("greedy", "few tokens", "grammar", "counts"):
                pieces = await ask(client, SAMPLINGS[name])
                assert [p.token_id for p in pieces] == [fact[0] for fact in expected[name]]
            assert swarm.hosters[0].engine.measures.spec_accepted_tokens > 0


async def test_a_crowd_with_drafts_gets_the_same_bits(chat_checkpoint, expected):
    names = ["few tokens", "repetition", "counts", "grammar", "greedy"]
    async with open_swarm(chat_checkpoint, 2) as (_, client):
        answers = await asyncio.gather(*(ask(client, SAMPLINGS[name]) for name in names))
    assert [facts(pieces) for pieces in answers] == [expected[name] for name in names]


@pytest.mark.parametrize("place", [0, 1, 2])
async def test_a_hoster_of_an_earlier_version_goes_on_serving_without_drafts(
    chat_checkpoint, expected, place
):
    async with open_swarm(chat_checkpoint, 3, features="grs") as (swarm, client):
        old = swarm.hosters[place]
        if place:
            streams = swarm.network._hosts[old.key.peer_id]._server._streams
            del streams[WINDOWED_METHOD], streams[PIPELINED_METHOD]
        else:
            old.server._window = 0
        pieces = await ask(client, SAMPLINGS["few tokens"])
        assert facts(pieces) == expected["few tokens"]
        assert pieces[-1].trace.reroutes == 0
        assert swarm.hosters[0].engine.measures.spec_drafts == 0


async def test_an_answer_that_loses_a_hoster_within_a_window_goes_on_alike(
    chat_checkpoint, expected
):
    for name in ("few tokens", "grammar"):
        async with contextlib.AsyncExitStack() as stack:
            swarm = Swarm(chat_checkpoint)
            for start, end in ((0, 3), (3, 6), (3, 6)):
                hoster = await swarm.add_hoster(start, end)
                stack.push_async_callback(hoster.stop)
            client = await swarm.open_client(stack)
            found = []
            answer = client.generate(PROMPT, max_new_tokens=48, sampling=SAMPLINGS[name])
            async with aclosing(answer):
                async for piece in answer:
                    found.append(piece)
                    is_first_of_several = piece.times_us and len(found) > 12
                    if is_first_of_several and not piece.trace.reroutes:
                        used = piece.trace.route[1].peer_id
                        for hoster in swarm.hosters[1:]:
                            if str(hoster.key.peer_id) == used:
                                await hoster.stop()
            assert piece.trace.reroutes >= 1
            assert swarm.hosters[0].engine.measures.spec_accepted_tokens > 0
            tokens = [fact[0] for fact in expected[name]]
            assert [piece.token_id for piece in found] == tokens
