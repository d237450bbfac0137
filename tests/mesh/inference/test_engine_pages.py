"""What the engine does when pages of the cache, or memory, run out."""

from __future__ import annotations

import asyncio
import threading
from contextlib import ExitStack

import numpy as np
import pytest
import torch

from mesh.inference.accounts import OWN_ACCOUNT, Account
from mesh.inference.engine import EngineLimits
from mesh.inference.refusals import Refused
from mesh.inference.sampler import SampleRequest
from mesh.inference.sampling import Sampling
from mesh.inference.steps import StepInput
from mesh.inference.wire import HiddenRows
from mesh.model.capacity import PAGE_TOKENS
from mesh.model.config import LayerSpan
from mesh.model.llama import ShardRunner
from tests.mesh.inference.test_engine import ALL, PEER, Serving, loader

PROMPTS = [list(range(3 + i, 12 + 4 * i)) for i in range(4)]
NEW_TOKENS = 20
SMALL = EngineLimits(cache_tokens=7 * PAGE_TOKENS, prefill_chunk=8)
TIGHT = EngineLimits(cache_tokens=4 * PAGE_TOKENS, prefill_chunk=8)
"""Prompts of four answers fit, the answers do not."""


def open_session(engine, capacity=100, promised=1, span=ALL, account=OWN_ACCOUNT):
    return engine.admit(span, capacity=capacity, account=account, promised=promised)


async def answer(engine, prompt, *, sampling=None, runs_ahead=False):
    """Return the tokens with their log probabilities; the prompt is computed in chunks."""
    sampling = sampling or Sampling()
    tokens = []

    def follow(output):
        tokens.append((output.sampled.token_id, output.sampled.logprob))
        return make_next() if runs_ahead and len(tokens) < NEW_TOKENS else None

    def make_next():
        request = SampleRequest(sampling, len(tokens))
        return StepInput(1, token_ids=[tokens[-1][0]], sample=request, follow=follow)

    with open_session(engine, len(prompt) + NEW_TOKENS, account=Account(PEER)) as session:
        chunk = engine.limits.prefill_chunk
        first = SampleRequest(sampling, 0)
        for start in range(0, len(prompt), chunk):
            ids = prompt[start : start + chunk]
            is_last = start + chunk >= len(prompt)
            options = {"sample": first, "follow": follow} if is_last else {}
            await engine.submit(session, StepInput(len(ids), token_ids=ids, **options))
        while len(tokens) < NEW_TOKENS:
            await engine.submit(session, make_next())
    return tokens


@pytest.mark.parametrize("runs_ahead", [False, True])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1.0, seed=4, top_p=0.95)])
async def test_answers_that_lost_their_pages_have_the_same_bits(
    make_checkpoint, caplog, sampling, runs_ahead
):
    options = {"sampling": sampling, "runs_ahead": runs_ahead}
    async with Serving(loader(make_checkpoint()), limits=TIGHT, deterministic=True) as engine:
        alone = [await answer(engine, prompt, **options) for prompt in PROMPTS]
        caplog.set_level("INFO")
        crowd = await asyncio.gather(*(answer(engine, prompt, **options) for prompt in PROMPTS))
        assert engine.free_cache_tokens == TIGHT.cache_tokens
    assert crowd == alone
    assert "gave its pages" in caplog.text


async def test_the_default_engine_computes_lost_text_in_chunks_and_gives_the_same_tokens(
    make_checkpoint,
):
    limits = EngineLimits(cache_tokens=TIGHT.cache_tokens)
    async with Serving(loader(make_checkpoint()), limits=limits) as engine:
        alone = [await answer(engine, prompt) for prompt in PROMPTS]
        crowd = await asyncio.gather(*(answer(engine, prompt) for prompt in PROMPTS))
    for one, other in zip(alone, crowd, strict=True):
        assert [token for token, _ in one] == [token for token, _ in other]
        assert [logprob for _, logprob in one] == pytest.approx(
            [logprob for _, logprob in other], abs=1e-4
        )


async def test_a_driven_text_that_lost_its_pages_goes_back_and_on(make_checkpoint):
    found = []
    async with Serving(loader(make_checkpoint()), limits=SMALL) as engine:
        for rows in (1, 100):
            with ExitStack() as older:
                old = older.enter_context(open_session(engine))
                with open_session(engine) as session:
                    await engine.submit(session, StepInput(20, token_ids=list(range(3, 23))))
                    await engine.submit(old, StepInput(rows, token_ids=[5] * rows))
                    assert session.kept == (20 if rows == 1 else 0)
                    session.rewind(10)
                    coming = engine.submit(session, StepInput(1, token_ids=[7], logit_rows=1))
                    older.close()
                    found.append((await coming).logits)
    assert torch.allclose(*found, atol=1e-5)


def make_rows(rows):
    return HiddenRows(rows, "float32", np.ones((rows, 48), np.float32).tobytes())


async def test_a_later_range_refuses_the_youngest_whose_text_it_does_not_know(make_checkpoint):
    span = LayerSpan(2, 6)
    async with Serving(loader(make_checkpoint(), 2, 6), limits=SMALL) as engine:
        with open_session(engine, span=span) as old, open_session(engine, span=span) as young:
            for session in (old, young):
                await engine.submit(session, StepInput(40, hidden=make_rows(40)))
            await engine.submit(old, StepInput(30, hidden=make_rows(30)))
            with pytest.raises(Refused, match="busy: its pages"):
                engine.submit(young, StepInput(1, hidden=make_rows(1)))
            await engine.submit(old, StepInput(1, hidden=make_rows(1)))


async def test_a_session_waits_for_pages_within_a_bound_and_none_is_admitted_after_it(
    make_checkpoint,
):
    limits = EngineLimits(cache_tokens=4 * PAGE_TOKENS, page_wait_s=0.05)
    async with Serving(loader(make_checkpoint()), limits=limits) as engine:
        with open_session(engine, 64) as old, open_session(engine, 64) as young:
            await engine.submit(old, StepInput(40, token_ids=[5] * 40))
            waiting = engine.submit(young, StepInput(20, token_ids=[6] * 20))
            for _ in range(20):
                await asyncio.sleep(0)
            with pytest.raises(Refused, match="wait for pages"), open_session(engine, 8):
                pass
            with pytest.raises(Refused, match="busy: no page"):
                await waiting
            # The older one did not notice.
            await engine.submit(old, StepInput(24, token_ids=[7] * 24))
        assert engine.free_cache_tokens == limits.cache_tokens


async def test_a_session_that_waits_goes_on_when_an_older_one_ends(make_checkpoint):
    limits = EngineLimits(cache_tokens=4 * PAGE_TOKENS)
    async with Serving(loader(make_checkpoint()), limits=limits) as engine:
        older = ExitStack()
        old = older.enter_context(open_session(engine, 64))
        with open_session(engine, 64) as session:
            await engine.submit(old, StepInput(60, token_ids=[5] * 60))
            waiting = engine.submit(session, StepInput(20, token_ids=[6] * 20))
            await engine.submit(old, StepInput(1, token_ids=[5]))
            assert not waiting.done()
            older.close()
            await waiting
            assert session.kept == session.length == 20


async def test_a_wait_that_ended_in_the_queue_is_bounded_when_it_begins_again(
    make_checkpoint, monkeypatch
):
    limits = EngineLimits(cache_tokens=4 * PAGE_TOKENS, page_wait_s=0.05)
    forward, may_go_on = ShardRunner.forward, threading.Event()

    def forward_late(self, *arguments, **options):
        may_go_on.wait()
        return forward(self, *arguments, **options)

    async with Serving(loader(make_checkpoint()), limits=limits) as engine:
        older = ExitStack()
        oldest = older.enter_context(open_session(engine, 64))
        first = Account(PEER, priority=1)
        with (
            open_session(engine, 64) as old,
            open_session(engine, 64, account=first) as preferred,
            open_session(engine, 64) as young,
        ):
            await engine.submit(oldest, StepInput(60, token_ids=[5] * 60))
            for _ in range(20):
                await asyncio.sleep(0)
            monkeypatch.setattr(ShardRunner, "forward", forward_late)
            waiting = engine.submit(young, StepInput(20, token_ids=[6] * 20))
            assert young.serial in engine._table._starved
            older.close()
            # There are pages now: the young one is queued, behind a step that takes its time.
            running = [engine.submit(old, StepInput(20, token_ids=[7] * 20))]
            await asyncio.sleep(2 * limits.page_wait_s)
            running.append(engine.submit(preferred, StepInput(20, token_ids=[8] * 20)))
            may_go_on.set()
            await asyncio.gather(*running)
            with pytest.raises(Refused, match="busy: no page"):
                await asyncio.wait_for(waiting, 10.0)


async def test_a_table_that_points_outside_fails_its_own_session(make_checkpoint):
    async with Serving(loader(make_checkpoint()), limits=SMALL) as engine:
        with open_session(engine) as session, open_session(engine) as other:
            session.pages = (99,)
            with pytest.raises(Refused, match="failed"):
                await engine.submit(session, StepInput(3, token_ids=[3, 4, 5]))
            await engine.submit(other, StepInput(3, token_ids=[3, 4, 5]))


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
async def test_without_memory_for_a_batch_its_youngest_session_goes(
    make_checkpoint, monkeypatch, error
):
    forward = ShardRunner.forward
    refused = []

    def forward_few(self, x, segments, **options):
        if len(segments) > 2:
            raise error
        return forward(self, x, segments, **options)

    async def try_answer(engine, place):
        try:
            return await answer(engine, PROMPTS[place])
        except Refused as refusal:
            assert refusal.reason == "busy" and "memory" in refusal.detail
            refused.append(place)

    async with Serving(loader(make_checkpoint()), deterministic=True) as engine:
        alone = [await answer(engine, prompt) for prompt in PROMPTS[:2]]
        monkeypatch.setattr(ShardRunner, "forward", forward_few)
        crowd = await asyncio.gather(*(try_answer(engine, place) for place in range(4)))
    assert crowd[:2] == alone
    assert sorted(refused) == [2, 3]


async def test_hidden_states_that_are_not_numbers_stay_in_their_session(make_checkpoint):
    span = LayerSpan(2, 6)
    ask = {"sample": SampleRequest(Sampling(), 0)}
    async with Serving(loader(make_checkpoint(), 2, 6), limits=SMALL) as engine:
        found = []
        for _ in range(2):
            with open_session(engine, span=span) as session:
                output = await engine.submit(session, StepInput(3, hidden=make_rows(3), **ask))
                found.append(output.sampled)
            # Then every page holds what is not a number.
            with open_session(engine, span=span) as session:
                bad = HiddenRows(100, "float32", np.full((100, 48), np.nan, np.float32).tobytes())
                await engine.submit(session, StepInput(100, hidden=bad))
    assert found[0] == found[1]
