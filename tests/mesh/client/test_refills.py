"""An answer that lost a hop goes on with the other hops' caches: only the lost range is filled."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import aclosing
from functools import partial

import pytest

from mesh.client.receipts import AnswerReceipt
from mesh.client.route_search import RoutingOptions
from mesh.inference import refills
from mesh.inference.accounts import OWN_ACCOUNT
from mesh.inference.engine import EngineLimits
from mesh.inference.grammar import Grammar, GrammarKind
from mesh.inference.kept_states import KeptBudget, KeptStates
from mesh.inference.refill_wire import RESUMABLE_METHOD
from mesh.inference.refills import RangeRefill, list_kept_steps
from mesh.inference.sampling import Sampling
from mesh.inference.steps import EngineSession, StepInput
from mesh.inference.wire import HiddenRows
from mesh.model.capacity import PAGE_TOKENS
from mesh.model.config import LayerSpan

SPLITS = [(0, 2), (2, 4), (4, 6)]
PROMPT = [5 + (i * 37) % 200 for i in range(43)]
HOT = Sampling(temperature=1.6, seed=5, top_logprobs=2)
FEW = tuple((token_id, 100.0) for token_id in (70, 71, 72))
WORDS = Grammar(GrammarKind.REGEX, "(red|green|blue)( (red|green|blue)){9}")


def get_bits(tokens):
    return [(t.index, t.token_id, t.logprob, t.top_logprobs) for t in tokens]


async def ask(client, *, prompt=PROMPT, count=40, sampling=HOT, then=None, user="", **routing):
    """Return the answer's tokens; ``then`` says what to call after which token."""
    tokens = []
    answer = client.generate(
        prompt,
        max_new_tokens=count,
        sampling=sampling,
        ignore_eos=sampling.grammar is None,
        routing=RoutingOptions(**routing),
        user=user,
    )
    async with aclosing(answer):
        async for token in answer:
            tokens.append(token)
            if then and token.index in then:
                result = then[token.index]()
                if asyncio.iscoroutine(result):
                    await result
    return tokens


def freeze(swarm, hoster):
    hoster.engine._scheduler.take_batch = lambda: ()
    swarm.network.partition([hoster.key.peer_id])


def is_frozen(hoster):
    return "take_batch" in vars(hoster.engine._scheduler)


class Rows:
    """The rows that hosters computed since this was made."""

    def __init__(self, hosters):
        self._hosters = hosters
        self._before = [self._read(hoster) for hoster in hosters]

    @staticmethod
    def _read(hoster):
        measures = hoster.engine.measures
        return measures.prompt_rows, measures.decode_rows

    def count(self):
        now = [self._read(hoster) for hoster in self._hosters]
        return [(a - c, b - d) for (a, b), (c, d) in zip(now, self._before, strict=True)]


@contextlib.asynccontextmanager
async def open_three(swarm, *, standby=(), **options):
    """Three ranges and stand-bys that no route takes first; yields a client and what to expect."""
    for span in SPLITS:
        await swarm.add_hoster(*span, **options)
    async with contextlib.AsyncExitStack() as stack:
        client = await swarm.open_client(stack)
        for span in standby:
            await swarm.add_hoster(*span, **{"throughput": 1, **options})
        yield await swarm.open_client(stack) if standby else client
        await settle(swarm)


async def settle(swarm):
    """Parked sessions are forgotten, and nothing is left."""
    for hoster in swarm.hosters:
        server = hoster.server
        if hoster.key.peer_id not in swarm.network._hosts or is_frozen(hoster):
            continue
        async with asyncio.timeout(10):
            while hoster.engine.session_count:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        server._refills.close()
        assert server._refills.budget.used == 0
        assert not server._refills._answers and not hoster.engine._table._parked


@pytest.mark.parametrize("fault", ["killed", "frozen"])
@pytest.mark.parametrize("dying", [0, 1, 2])
async def test_the_hops_that_are_left_compute_no_prompt_again(swarm, dying, fault):
    async with open_three(swarm, standby=[SPLITS[dying]]) as client:
        expected = await ask(client)
        lost = swarm.hosters[dying]
        left = [hoster for hoster in swarm.hosters[:3] if hoster is not lost]
        rows = Rows([*left, swarm.hosters[3]])

        def strike():
            rows.__init__([*left, swarm.hosters[3]])
            return lost.stop() if fault == "killed" else freeze(swarm, lost)

        tokens = await ask(client, then={20: strike})
        *others, new = rows.count()
    trace = tokens[-1].trace
    assert get_bits(tokens) == get_bits(expected)
    assert (trace.reroutes, trace.refills) == (1, 1)
    # The prompt is 43 tokens and 21 of the answer; the rest comes one by one.
    assert new == (len(PROMPT), 39)
    for prompt_rows, decode_rows in others:
        assert prompt_rows == 0
        assert decode_rows <= 39 - 20 + 2


async def test_two_hops_that_die_one_after_the_other_are_each_filled_again(swarm):
    async with open_three(swarm, standby=SPLITS[1:]) as client:
        expected = await ask(client)
        first, middle, last, *_ = swarm.hosters
        rows = Rows([first])
        tokens = await ask(client, then={10: middle.stop, 20: last.stop})
    assert get_bits(tokens) == get_bits(expected)
    assert (tokens[-1].trace.reroutes, tokens[-1].trace.refills) == (2, 2)
    # The prompt's beginning is that of the first answer; the rest is computed once.
    assert rows.count()[0][0] == len(PROMPT) % 16


async def test_two_hops_that_die_at_once_are_filled_one_after_the_other(swarm):
    async with open_three(swarm, standby=SPLITS[1:]) as client:
        expected = await ask(client)
        first, middle, last, *_ = swarm.hosters
        rows = Rows([first])

        async def strike():
            await asyncio.gather(middle.stop(), last.stop())

        tokens = await ask(client, then={10: strike})
    assert get_bits(tokens) == get_bits(expected)
    assert tokens[-1].trace.refills == tokens[-1].trace.reroutes
    assert rows.count()[0][0] == len(PROMPT) % 16


async def test_a_lost_range_is_filled_by_several_hosters(swarm):
    async with open_three(swarm, standby=[(2, 3), (3, 5)]) as client:
        expected = await ask(client)
        tokens = await ask(client, then={10: swarm.hosters[1].stop})
    assert get_bits(tokens) == get_bits(expected)
    assert tokens[-1].trace.refills == 1
    spans = [(hop.start, hop.end) for hop in tokens[-1].trace.route]
    assert spans == [(0, 2), (2, 3), (3, 4), (4, 6)]


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=1.0, seed=4, logit_bias=FEW, stop_token_ids=(258,)),
        Sampling(temperature=1.0, seed=5, logit_bias=FEW, presence_penalty=0.5),
        Sampling(temperature=1.0, seed=8, grammar=WORDS),
    ],
    ids=["drafts", "penalties", "grammar"],
)
@pytest.mark.parametrize("dying", [1, 2])
async def test_drafts_penalties_and_grammars_go_on_alike(swarm, sampling, dying):
    async with open_three(swarm, standby=[SPLITS[dying]]) as client:
        expected = await ask(client, sampling=sampling)
        tokens = await ask(client, sampling=sampling, then={17: swarm.hosters[dying].stop})
        drafts = swarm.hosters[0].engine.measures.spec_accepted_tokens
    assert get_bits(tokens) == get_bits(expected)
    assert tokens[-1].trace.refills == 1
    assert drafts or sampling.grammar is not None


@pytest.mark.parametrize("dying", [0, 1, 2])
async def test_the_default_engine_goes_on_with_the_same_tokens(swarm, dying):
    greedy = Sampling()
    async with open_three(swarm, standby=[SPLITS[dying]], deterministic=False) as client:
        expected = await ask(client, sampling=greedy)
        lost = swarm.hosters[dying]
        left = [hoster for hoster in swarm.hosters[:3] if hoster is not lost]
        rows = Rows(left)

        def strike():
            rows.__init__(left)
            return lost.stop()

        tokens = await ask(client, sampling=greedy, then={20: strike})
        counts = rows.count()
        again = await ask(client, sampling=greedy)
    assert [t.token_id for t in tokens] == [t.token_id for t in expected]
    assert [t.token_id for t in again] == [t.token_id for t in expected]
    assert tokens[-1].trace.refills == 1
    # The first range goes back to the end of a page that later sessions may share.
    assert all(prompt_rows <= PAGE_TOKENS for prompt_rows, _ in counts)


async def test_kept_rows_are_cut_where_they_were_computed_and_no_step_is_empty():
    session = EngineSession(0, LayerSpan(0, 2), 64, OWN_ACCOUNT, [])
    for rows in (8, 8, 5, 1, 1, 1):
        session.count(StepInput(rows, token_ids=(5,) * rows))
    session.rewind(22)
    refill = RangeRefill(KeptStates(KeptBudget()), is_refill=True)
    refill.send_from = 4
    cuts = partial(list_kept_steps, session, refill, chunk=10)
    assert cuts(deterministic=True) == [(4, 8), (8, 16), (16, 21), (21, 22)]
    session.count(StepInput(1, token_ids=(5,)))
    assert cuts(deterministic=True)[-2:] == [(21, 22), (22, 23)]
    assert cuts(deterministic=False) == [(4, 14), (14, 23)]
    refill.send_from = 23
    assert cuts(deterministic=True) == []


@pytest.mark.parametrize("is_kept", [True, False])
async def test_hosters_count_what_they_kept_filled_and_gave_up(swarm, is_kept):
    async with open_three(swarm, standby=[SPLITS[1]]) as client:
        first, _, last, new = swarm.hosters
        if not is_kept:
            first.server._refills.budget.limit = 0
        tokens = await ask(client, then={20: swarm.hosters[1].stop})
        counts = [hoster.engine.measures for hoster in (first, new, last)]
    trace = tokens[-1].trace
    assert (trace.refills, trace.replays) == (1, 0)
    assert [dict(count.refills) for count in counts] == [
        {"kept": 1} if is_kept else {"kept": 1, "given_up": 1},
        {"filled": 1},
        {"kept": 1},
    ]
    rows = [count.refilled_rows for count in counts]
    # The prompt and the answer so far, less the last token's row; one more may be under way.
    assert rows[1:] == [0, 0] and rows[0] in (
        (len(PROMPT) + 20, len(PROMPT) + 21) if is_kept else (0,)
    )


@pytest.mark.parametrize("limit", ["no bytes", "no session"])
async def test_what_is_not_kept_is_computed_again(swarm, limit):
    """Without the states the hop before gives its cache up, and the first has the tokens."""
    async with open_three(swarm, standby=[SPLITS[2]]) as client:
        for hoster in swarm.hosters:
            budget = hoster.server._refills.budget
            if limit == "no bytes":
                budget.limit = 0
            else:
                budget.session_limit = 1000
        expected = await ask(client)
        rows = Rows(swarm.hosters[:2])
        tokens = await ask(client, then={20: swarm.hosters[2].stop})
        counts = rows.count()
    assert get_bits(tokens) == get_bits(expected)
    assert tokens[-1].trace.refills == 1
    assert all(prompt_rows >= len(PROMPT) for prompt_rows, _ in counts)


async def test_pages_of_a_parked_session_are_the_first_to_be_taken(swarm):
    """The middle range loses what it had, and is filled again like the last one."""
    limits = EngineLimits(prefill_chunk=8, cache_tokens=192)
    async with open_three(swarm, standby=[SPLITS[2]], limits=limits) as client:
        expected = await ask(client, count=20)
        other = [9 + i % 200 for i in range(120)]

        async def strike():
            await swarm.hosters[2].stop()
            middle = swarm.hosters[1]
            async with asyncio.timeout(10):
                while middle.engine.session_count:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            with middle.engine.admit(
                middle.engine.layers, capacity=160, account=OWN_ACCOUNT
            ) as session:
                hidden = HiddenRows(1, "float32", bytes(4 * middle.engine.config.hidden_size))
                for _ in other:
                    await middle.engine.submit(session, StepInput(1, hidden=hidden))

        tokens = await ask(client, count=20, then={10: strike})
    assert get_bits(tokens) == get_bits(expected)
    assert tokens[-1].trace.refills == 1


@pytest.mark.parametrize("which", ["hop", "stand-by", "setting"])
async def test_hosters_of_earlier_versions_get_a_whole_replay(swarm, which):
    for place, span in enumerate(SPLITS):
        await swarm.add_hoster(*span, features="grs" if (which, place) == ("hop", 0) else "fgrs")
    async with contextlib.AsyncExitStack() as stack:
        client = await swarm.open_client(stack)
        expected = await ask(client)
        features = "grs" if which == "stand-by" else "fgrs"
        await swarm.add_hoster(*SPLITS[1], features=features, throughput=1)
        client = await swarm.open_client(stack)
        is_wanted = which != "setting"
        tokens = await ask(client, then={9: swarm.hosters[1].stop}, refills=is_wanted)
    assert get_bits(tokens) == get_bits(expected)
    trace = tokens[-1].trace
    assert (trace.refills, trace.replays, trace.reroutes) == (0, 1, 1)


async def test_a_hop_that_announces_refills_and_knows_none_is_left(swarm):
    async with open_three(swarm, standby=[SPLITS[1], SPLITS[1]]) as client:
        expected = await ask(client)
        lost, liar = swarm.hosters[1], swarm.hosters[3]
        liar.throughput = 500
        await liar.announcer.announce()
        del swarm.network._hosts[liar.key.peer_id]._server._streams[RESUMABLE_METHOD]
        await client.refresh()
        tokens = await ask(client, then={9: lost.stop})
    assert get_bits(tokens) == get_bits(expected)
    assert tokens[-1].trace.refills >= 1


async def test_a_parked_session_is_forgotten_after_a_while(swarm, monkeypatch):
    monkeypatch.setattr(refills, "PARK_S", 0.2)
    async with open_three(swarm) as client:
        answer = client.generate(PROMPT, max_new_tokens=40, sampling=HOT)
        async for token in answer:
            if token.index == 5:
                break
        await answer.aclose()
        async with asyncio.timeout(10):
            while any(h.engine.session_count or h.engine._table._parked for h in swarm.hosters):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert not any(h.server._refills._answers for h in swarm.hosters)


async def test_answers_with_a_receipt_are_replayed_whole(swarm):
    async with open_three(swarm, standby=[SPLITS[1]]) as client:
        receipt = AnswerReceipt()
        tokens = []
        answer = client.generate(PROMPT, max_new_tokens=30, sampling=HOT, receipt=receipt)
        async with aclosing(answer):
            async for token in answer:
                tokens.append(token)
                if token.index == 9:
                    await swarm.hosters[1].stop()
    assert (tokens[-1].trace.refills, tokens[-1].trace.reroutes) == (0, 1)
