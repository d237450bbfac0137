"""Windows in the engine: a token and a draft of what follows it, computed in one step."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from mesh.inference.accounts import Account
from mesh.inference.engine import EngineLimits, Prefix
from mesh.inference.pages import compute_page_keys
from mesh.inference.sampler import SampleRequest
from mesh.inference.sampling import Sampling
from mesh.inference.steps import StepInput
from mesh.model.capacity import PAGE_TOKENS
from mesh.model.config import LayerSpan
from tests.mesh.inference.test_engine import ALL, PEER, Serving, loader

PROMPT = list(range(3, 20))
SEEDED = Sampling(temperature=1.0, seed=4, top_p=0.95)
NEW_TOKENS = 24
LIMITS = EngineLimits(prefill_chunk=8)


def open_session(engine, **options):
    options = {"span": ALL, "capacity": 60, "account": Account(PEER), "promised": 1} | options
    return engine.admit(options.pop("span"), **options)


async def begin(engine, session, sampling):
    """Compute the prompt; return the first token of the answer with its log probability."""
    chunk = engine.limits.prefill_chunk
    for start in range(0, len(PROMPT), chunk):
        ids = PROMPT[start : start + chunk]
        step = StepInput(len(ids), token_ids=ids, sample=SampleRequest(sampling, 0))
        output = await engine.submit(session, step)
    return [(output.sampled.token_id, output.sampled.logprob)]


async def answer(engine, sampling):
    """Return the answer, token by token."""
    with open_session(engine) as session:
        tokens = await begin(engine, session, sampling)
        while len(tokens) < NEW_TOKENS:
            request = SampleRequest(sampling, len(tokens))
            step = StepInput(1, token_ids=[tokens[-1][0]], sample=request)
            sampled = (await engine.submit(session, step)).sampled
            tokens.append((sampled.token_id, sampled.logprob))
    return tokens


async def answer_in_windows(engine, sampling, expected, sizes):
    """Return the answer, in windows of ``sizes`` whose drafts are right up to their last token."""
    with open_session(engine) as session:
        tokens = await begin(engine, session, sampling)
        while len(tokens) < NEW_TOKENS:
            size, position = sizes[len(tokens) % len(sizes)], session.length
            draft = [token_id for token_id, _ in expected[len(tokens) : len(tokens) + size]]
            draft[-1:] = [(draft[-1] + 1) % 256] if draft else []
            samples = [SampleRequest(sampling, len(tokens) + row) for row in range(len(draft) + 1)]
            rows = [tokens[-1][0], *draft]
            step = StepInput(len(rows), token_ids=rows, window=samples)
            chosen = (await engine.submit(session, step)).window
            right = len(draft) or 1
            tokens += [(token.token_id, token.logprob) for token in chosen[:right]]
            session.rewind(position + right)
    return tokens[:NEW_TOKENS]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("sampling", [Sampling(), SEEDED], ids=["greedy", "seeded"])
async def test_a_windows_rows_have_the_bits_of_rows_that_come_one_by_one(
    make_checkpoint, sampling, dtype
):
    folder = make_checkpoint(seed=5)
    load = loader(folder, dtype=dtype)
    async with Serving(load, limits=LIMITS, deterministic=True) as engine:
        expected = await answer(engine, sampling)
        for sizes in ([1], [3], [7, 2, 15]):
            assert await answer_in_windows(engine, sampling, expected, sizes) == expected


async def test_windows_and_decode_rows_of_a_crowd_share_batches_and_keep_their_bits(
    make_checkpoint,
):
    limits = replace(LIMITS, max_batch_rows=12)
    async with Serving(
        loader(make_checkpoint(seed=5)), limits=limits, deterministic=True
    ) as engine:
        expected = await answer(engine, SEEDED)
        crowd = [answer(engine, SEEDED), answer(engine, SEEDED)]
        crowd += [answer_in_windows(engine, SEEDED, expected, [size]) for size in (2, 5, 9)]
        assert await asyncio.gather(*crowd) == [expected] * 5


async def test_windows_that_lost_their_pages_have_the_same_bits(make_checkpoint, caplog):
    limits = EngineLimits(cache_tokens=4 * PAGE_TOKENS, prefill_chunk=8)
    async with Serving(
        loader(make_checkpoint(seed=5)), limits=limits, deterministic=True
    ) as engine:
        expected = await answer(engine, SEEDED)
        caplog.set_level("INFO")
        crowd = [answer_in_windows(engine, SEEDED, expected, [size, 3]) for size in (4, 6, 2)]
        assert await asyncio.gather(*crowd) == [expected] * 3
    assert "gave its pages" in caplog.text


async def test_the_default_engine_gives_the_same_tokens_in_windows(make_checkpoint):
    async with Serving(loader(make_checkpoint(seed=5)), limits=LIMITS) as engine:
        expected = await answer(engine, SEEDED)
        found = await answer_in_windows(engine, SEEDED, expected, [7])
    assert [token for token, _ in found] == [token for token, _ in expected]
    assert [logprob for _, logprob in found] == pytest.approx(
        [logprob for _, logprob in expected], abs=1e-4
    )


@pytest.mark.parametrize("span", [ALL, LayerSpan(0, 3)], ids=["alone", "first"])
async def test_no_rejected_row_is_published(make_checkpoint, span):
    """A session that ends after a wrong draft offers its text, and not the draft."""
    prompt = PROMPT[:5]
    draft = [9] * (2 * PAGE_TOKENS)
    prefix = Prefix(b"salt", prompt, len(prompt))
    async with Serving(loader(make_checkpoint(), span.start, span.end)) as engine:
        with open_session(engine, span=span, capacity=200, prefix=prefix) as session:
            await engine.submit(session, StepInput(5, token_ids=prompt))
            step = StepInput(1 + len(draft), token_ids=[8, *draft], window=())
            await engine.submit(session, step)
            session.rewind(6)
            right = [11] * (2 * PAGE_TOKENS)
            await engine.submit(session, StepInput(len(right), token_ids=right, window=()))
            salt = session.salt
        wrong = compute_page_keys(salt, [*prompt, 8, *draft])
        assert engine._book.count_published(wrong) == 0
        assert engine._book.count_published(compute_page_keys(salt, [*prompt, 8, *right])) == 2


async def test_a_windows_rows_are_counted_as_decode_rows(make_checkpoint):
    async with Serving(loader(make_checkpoint())) as engine:
        with open_session(engine) as session:
            await engine.submit(session, StepInput(5, token_ids=PROMPT[:5]))
            await engine.submit(session, StepInput(4, token_ids=[1, 2, 3, 4], window=()))
        assert (engine.measures.prompt_rows, engine.measures.decode_rows) == (5, 4)


async def test_a_draft_that_is_not_verified_is_not_published(make_checkpoint):
    """A session that ends with windows under way offers the text up to the right tokens."""
    prompt, prefix = PROMPT[:5], Prefix(b"salt", PROMPT[:5], 5)
    right, draft = [11] * PAGE_TOKENS, [9] * (2 * PAGE_TOKENS)
    async with Serving(loader(make_checkpoint())) as engine:
        with open_session(engine, capacity=200, prefix=prefix) as session:
            await engine.submit(session, StepInput(5, token_ids=prompt))
            await engine.submit(session, StepInput(len(right), token_ids=right, window=()))
            session.verified = session.length
            step = StepInput(len(draft), token_ids=draft, window=(), is_ahead=True)
            await engine.submit(session, step)
            salt = session.salt
        keys = compute_page_keys(salt, [*prompt, *right, *draft])
        assert len(keys) == 3 and engine._book.count_published(keys) == 1


async def test_a_step_that_is_sent_ahead_sets_no_rhythm(make_checkpoint):
    async with Serving(loader(make_checkpoint())) as engine:
        with open_session(engine) as session:
            await engine.submit(session, StepInput(5, token_ids=PROMPT[:5]))
            await engine.submit(session, StepInput(2, token_ids=[1, 2], window=(), is_ahead=True))
            assert session.serial not in engine._cohorts._rhythms
            await engine.submit(session, StepInput(2, token_ids=[1, 2], window=()))
            assert session.serial in engine._cohorts._rhythms
