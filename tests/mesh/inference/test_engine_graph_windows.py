"""Windows go through steps of fixed shapes like any decode rows, and give the same tokens.

On a CPU a graph's replay is the same step, kernel by kernel: only the capture is left out.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
import torch

from mesh.inference.accounts import Account
from mesh.inference.engine import EngineLimits
from mesh.inference.refusals import Refused
from mesh.inference.sampler import SampleRequest
from mesh.inference.sampling import Sampling
from mesh.inference.steps import StepInput
from mesh.inference.window_wire import MAX_WINDOW_ROWS
from mesh.model import step_graphs
from mesh.model.config import LayerSpan
from tests.mesh.inference.test_challenge_guard import (
    LAYER,
    WIDE,
    make_input,
    open_guard,
    submit_rows,
)
from tests.mesh.inference.test_engine import PEER, Serving, loader
from tests.mesh.inference.test_engine_graphs import graphs
from tests.mesh.inference.test_engine_windows import (
    LIMITS,
    PROMPT,
    SEEDED,
    answer,
    answer_in_windows,
    begin,
    open_session,
    test_a_windows_rows_are_counted_as_decode_rows,
    test_a_windows_rows_have_the_bits_of_rows_that_come_one_by_one,
    test_no_rejected_row_is_published,
    test_the_default_engine_gives_the_same_tokens_in_windows,
    test_windows_and_decode_rows_of_a_crowd_share_batches_and_keep_their_bits,
    test_windows_that_lost_their_pages_have_the_same_bits,
)

# Collected here once more, with graphs.
__all__ = [
    "graphs",
    "test_a_windows_rows_are_counted_as_decode_rows",
    "test_a_windows_rows_have_the_bits_of_rows_that_come_one_by_one",
    "test_no_rejected_row_is_published",
    "test_the_default_engine_gives_the_same_tokens_in_windows",
    "test_windows_and_decode_rows_of_a_crowd_share_batches_and_keep_their_bits",
    "test_windows_that_lost_their_pages_have_the_same_bits",
]

SIZES = (2, 5, 9)


async def ask_all(engine, expected):
    """Return answers of a crowd, with and without windows."""
    crowd = [answer(engine, SEEDED), answer(engine, SEEDED)]
    crowd += [answer_in_windows(engine, SEEDED, expected, [size]) for size in SIZES]
    return await asyncio.gather(*crowd)


def list_ids(answers):
    return [[token_id for token_id, _ in tokens] for tokens in answers]


@pytest.mark.parametrize("deterministic", [False, True])
async def test_windows_alone_and_in_a_crowd_choose_the_tokens_of_the_other_path(
    make_checkpoint, monkeypatch, deterministic
):
    load = loader(make_checkpoint(seed=5))
    options = {"limits": LIMITS, "deterministic": deterministic}
    async with Serving(load, **options) as engine:
        assert engine._batches.has_graphs
        expected = await answer(engine, SEEDED)
        alone = [await answer_in_windows(engine, SEEDED, expected, [size]) for size in SIZES]
        crowd = await ask_all(engine, expected)
    # Nothing is captured: the same engine without steps of fixed shapes.
    monkeypatch.setattr(step_graphs, "capture", _fail)
    async with Serving(load, **options) as engine:
        assert not engine._batches.has_graphs
        other = await answer(engine, SEEDED)
        other_crowd = await ask_all(engine, other)
    assert list_ids([expected, *alone, *crowd]) == list_ids([other] * (4 + 5))
    assert list_ids(other_crowd) == list_ids([other] * 5)


def _fail(step, pool):
    raise RuntimeError("no capture")


async def test_a_windows_rows_stand_side_by_side_in_one_step(make_checkpoint, graphs):
    async with Serving(loader(make_checkpoint(seed=5)), limits=LIMITS) as engine:
        with open_session(engine) as one, open_session(engine) as other:
            for session in (one, other):
                await begin(engine, session, SEEDED)
            graphs.clear()
            start, samples = len(PROMPT), [SampleRequest(SEEDED, 1 + row) for row in range(5)]
            window = StepInput(5, token_ids=[4, 8, 15, 16, 23], window=samples)
            single = StepInput(1, token_ids=[42], sample=samples[0])
            # Both are queued before the thread is told of the first.
            engine._running = asyncio.get_running_loop().create_future()
            futures = [engine.submit(one, window), engine.submit(other, single)]
            engine._running = None
            outputs = await asyncio.gather(*futures)
            engine._wake.set()
        assert graphs == [((4, 8, 15, 16, 23, 42), (*range(start, start + 5), start))]
    assert [len(output.window) for output in outputs] == [5, 0]
    assert outputs[0].sampled is None and outputs[1].sampled is not None


async def test_a_middle_range_passes_a_windows_rows_on(make_checkpoint, graphs):
    """Three ranges give a window's rows as one does, and each range's rows leave in order."""
    folder = make_checkpoint(seed=5)
    samples = [SampleRequest(Sampling(), row) for row in range(4)]
    ids = [4, 8, 15, 16]
    async with Serving(loader(folder), deterministic=True) as engine:
        with open_session(engine) as session:
            await engine.submit(session, StepInput(9, token_ids=PROMPT[:9]))
            expected = await engine.submit(session, StepInput(4, token_ids=ids, window=samples))
    prompt, window = {"token_ids": PROMPT[:9]}, {"token_ids": ids}
    for start, end in ((0, 2), (2, 4), (4, 6)):
        graphs.clear()
        async with Serving(loader(folder, start, end), deterministic=True) as engine:
            with open_session(engine, span=LayerSpan(start, end)) as session:
                first = await engine.submit(session, StepInput(9, **prompt))
                asked = samples if end == 6 else ()
                output = await engine.submit(session, StepInput(4, **window, window=asked))
        assert [positions for _, positions in graphs] == [(9, 10, 11, 12)]
        prompt, window = {"hidden": first.hidden}, {"hidden": output.hidden}
    assert output.window == expected.window


async def test_a_window_that_is_longer_than_the_largest_step_is_computed(make_checkpoint, graphs):
    limits = replace(LIMITS, max_batch_rows=4)
    async with Serving(loader(make_checkpoint(seed=5)), limits=limits) as engine:
        expected = await answer(engine, SEEDED)
        graphs.clear()
        found = await answer_in_windows(engine, SEEDED, expected, [7])
        assert max(len(token_ids) for token_ids, _ in graphs) <= 4
        assert engine.takes_windows
    assert list_ids([found]) == list_ids([expected])


@pytest.mark.parametrize("rows", [MAX_WINDOW_ROWS - 1, MAX_WINDOW_ROWS])
async def test_a_deterministic_engine_takes_windows_that_fit_into_its_steps(make_checkpoint, rows):
    limits = EngineLimits(max_batch_rows=rows)
    async with Serving(loader(make_checkpoint()), limits=limits, deterministic=True) as engine:
        assert engine.takes_windows == (rows == MAX_WINDOW_ROWS)


async def test_a_token_outside_the_vocabulary_within_a_window_fails_alone(make_checkpoint):
    async with Serving(loader(make_checkpoint(seed=5)), limits=LIMITS) as engine:
        expected = await answer(engine, SEEDED)

        async def send_bad_window():
            with open_session(engine) as session:
                await engine.submit(session, StepInput(3, token_ids=PROMPT[:3]))
                with pytest.raises(Refused, match="failed"):
                    step = StepInput(3, token_ids=[1, 1 << 40, 2], window=())
                    await engine.submit(session, step)

        found, *_ = await asyncio.gather(answer(engine, SEEDED), send_bad_window())
    assert found == expected


async def test_a_relay_within_a_window_is_refused(make_checkpoint, graphs):
    span = LayerSpan(LAYER, 6)
    folder = make_checkpoint(hidden_size=WIDE)
    rows = torch.cat((torch.randn(3, WIDE), torch.from_numpy(make_input(LAYER)[:1]))).numpy()
    async with Serving(loader(folder, LAYER, 6), guard=open_guard()) as engine:
        with engine.admit(span, capacity=16, account=Account(PEER)) as session:
            with pytest.raises(Refused, match="challenge_relayed"):
                await submit_rows(engine, session, rows, window=())
            assert session.length == 0
    assert graphs


async def test_where_rows_are_computed_apart_those_of_a_window_are_too(
    make_checkpoint, monkeypatch
):
    """A GPU's product of several rows may have other bits than one row's."""
    from mesh.model.llama import ShardRunner

    forward, rows = ShardRunner.forward, []

    def note(self, x, *arguments, **options):
        rows.append(x.shape[0])
        return forward(self, x, *arguments, **options)

    monkeypatch.setattr(step_graphs, "capture", _fail)
    folder = make_checkpoint(seed=5)
    async with Serving(loader(folder), limits=LIMITS, deterministic=True) as engine:
        expected = await answer(engine, SEEDED)
        engine._batches._one_by_one = True
        monkeypatch.setattr(ShardRunner, "forward", note)
        assert await answer_in_windows(engine, SEEDED, expected, [7]) == expected
        assert set(rows[-20:]) == {1}
    first = LayerSpan(0, 3)
    async with Serving(loader(folder, 0, 3), deterministic=True) as engine:
        found = []
        for is_apart in (False, True):
            engine._batches._one_by_one = is_apart
            with engine.admit(first, capacity=16, account=Account(PEER)) as session:
                step = StepInput(3, token_ids=PROMPT[:3], window=())
                found.append((await engine.submit(session, step)).hidden)
    assert found[0] == found[1] and found[0].rows == 3
