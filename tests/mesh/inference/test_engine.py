"""One compute thread: batches, cache accounting, challenges."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from keys.peer import PeerKey
from mesh.inference import batches
from mesh.inference.accounts import OWN_ACCOUNT, Account, Accounts
from mesh.inference.decoder import Decoder
from mesh.inference.engine import Engine, EngineLimits
from mesh.inference.refusals import Refused
from mesh.inference.sampler import SampleRequest
from mesh.inference.sampling import Sampling
from mesh.inference.steps import StepInput
from mesh.model.challenge import run_challenge_head, run_challenge_layer
from mesh.model.config import LayerSpan, load_config
from mesh.model.files import resolve_model_folder
from mesh.model.llama import ShardRunner
from mesh.model.weights import load_shard

PEER = PeerKey(b"\1" * 32).peer_id
ALL = LayerSpan(0, 6)


@dataclass(frozen=True)
class Task:
    layer: int
    hidden: np.ndarray
    token_ids: np.ndarray | None = None
    head_rows: np.ndarray | None = None


def loader(folder, start=0, end=6, **options):
    config = load_config(folder)
    located = resolve_model_folder(str(folder))
    return lambda: load_shard(located, config, start=start, end=end, **options)


class Serving:
    """An engine with its serve task."""

    def __init__(self, load, **options):
        self._opened = Engine.open(load, **options)

    async def __aenter__(self):
        self.engine = await self._opened.__aenter__()
        self._tasks = asyncio.TaskGroup()
        await self._tasks.__aenter__()
        self._task = self._tasks.create_task(self.engine.serve())
        return self.engine

    async def __aexit__(self, *error):
        self._task.cancel()
        await self._tasks.__aexit__(None, None, None)
        await self._opened.__aexit__(None, None, None)


async def answer(engine, prompt, sampling, count):
    with engine.admit(ALL, capacity=len(prompt) + count, account=Account(PEER)) as session:
        step = StepInput(len(prompt), token_ids=prompt, sample=SampleRequest(sampling, 0))
        tokens = []
        while True:
            output = await engine.submit(session, step)
            tokens.append(output.sampled.token_id)
            if len(tokens) == count:
                return tokens
            request = SampleRequest(sampling, len(tokens))
            step = StepInput(1, token_ids=tokens[-1:], sample=request)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1.0, seed=4, top_p=0.95)])
async def test_batched_equals_alone(make_checkpoint, sampling):
    prompts = [list(range(3 + i, 12 + 3 * i)) for i in range(8)]
    async with Serving(loader(make_checkpoint()), deterministic=True) as engine:
        alone = [await answer(engine, prompt, sampling, 20) for prompt in prompts]
        crowd = await asyncio.gather(*(answer(engine, p, sampling, 20) for p in prompts))
    assert crowd == alone
    assert engine.free_cache_tokens == engine.limits.cache_tokens
    measures = engine.measures
    assert measures.prompt_rows == 2 * sum(map(len, prompts))
    assert measures.decode_rows == 2 * len(prompts) * 19
    assert sum(measures.step.read().counts) == 2 * len(prompts) * 20


async def test_limits_refuse_as_busy_and_cache_comes_back(make_checkpoint):
    limits = EngineLimits(cache_tokens=96, max_sessions=3, max_sessions_per_peer=2)
    async with Serving(loader(make_checkpoint()), limits=limits) as engine:
        with engine.admit(ALL, capacity=60, account=Account(PEER)):
            with (
                pytest.raises(Refused, match="busy"),
                engine.admit(ALL, capacity=50, account=OWN_ACCOUNT),
            ):
                pass
            with engine.admit(ALL, capacity=10, account=Account(PEER)):
                with pytest.raises(Refused, match="too many"):
                    with engine.admit(ALL, capacity=1, account=Account(PEER)):
                        pass
                with engine.admit(ALL, capacity=1, account=OWN_ACCOUNT):
                    with pytest.raises(Refused, match="3 sessions"):
                        with engine.admit(ALL, capacity=1, account=OWN_ACCOUNT):
                            pass
        assert engine.free_cache_tokens == 96
        assert engine.session_count == 0
        with pytest.raises(Refused, match="context_overflow"):
            with engine.admit(ALL, capacity=257, account=OWN_ACCOUNT):
                pass


async def test_strangers_leave_cache_and_sessions_to_members(make_checkpoint):
    stranger = Account(PEER, is_member=False)
    limits = EngineLimits(cache_tokens=800, max_sessions=4, max_sessions_per_peer=9)
    async with Serving(loader(make_checkpoint()), limits=limits) as engine:
        stack = ExitStack()
        stack.enter_context(engine.admit(ALL, capacity=250, account=stranger))
        stack.enter_context(engine.admit(ALL, capacity=250, account=stranger))
        with pytest.raises(Refused, match="kept for"):
            stack.enter_context(engine.admit(ALL, capacity=101, account=stranger))
        with engine.admit(ALL, capacity=256, account=OWN_ACCOUNT):
            pass
        stack.enter_context(engine.admit(ALL, capacity=1, account=stranger))
        with pytest.raises(Refused, match="kept for"):
            stack.enter_context(engine.admit(ALL, capacity=1, account=stranger))
        with engine.admit(ALL, capacity=256, account=Account(PEER)):
            pass
        stack.close()
        # What strangers gave back is theirs again.
        with engine.admit(ALL, capacity=256, account=stranger):
            pass


async def test_a_stranger_may_fill_a_context_of_a_small_cache(make_checkpoint):
    limits = EngineLimits(cache_tokens=256)
    async with Serving(loader(make_checkpoint()), limits=limits) as engine:
        with engine.admit(ALL, capacity=256, account=Account(PEER, is_member=False)):
            pass


def test_who_claims_to_be_the_hop_before_is_counted_unless_it_is_a_member():
    member = PeerKey(b"\2" * 32).peer_id
    accounts = Accounts(rank=lambda peer: 7, is_member=lambda peer: peer == member)
    assert accounts.find(PEER, is_first=True) == Account(PEER, is_member=False, priority=7)
    assert accounts.find(PEER, is_first=False) == Account(PEER, is_member=False)
    assert accounts.find(member, is_first=True) == Account(member, priority=7)
    assert accounts.find(member, is_first=False) == Account(None)


async def test_wrong_range_is_refused(make_checkpoint):
    async with Serving(loader(make_checkpoint(), 2, 4)) as engine:
        with pytest.raises(Refused, match="wrong_range"):
            with engine.admit(ALL, capacity=4, account=OWN_ACCOUNT):
                pass


async def test_more_rows_than_reserved_are_refused(make_checkpoint):
    async with Serving(loader(make_checkpoint())) as engine:
        with engine.admit(ALL, capacity=4, account=OWN_ACCOUNT) as session:
            with pytest.raises(Refused, match="context_overflow"):
                engine.submit(session, StepInput(5, token_ids=[1] * 5))


async def test_run_tasks_answers_every_layer_and_the_head(make_checkpoint):
    folder = make_checkpoint()
    rng = np.random.default_rng(2)
    hidden = (rng.integers(-127, 128, (16, 48)) / 64).astype(np.float32)
    ids, rows = np.arange(16, dtype=np.int64), np.array([5, 1, 130], dtype=np.int64)
    tasks = [Task(0, hidden, token_ids=ids), Task(3, hidden), Task(6, hidden, head_rows=rows)]
    weights = loader(folder)()
    x = torch.from_numpy(hidden)
    expected = [
        run_challenge_layer(weights, 0, x, token_ids=torch.from_numpy(ids)),
        run_challenge_layer(weights, 3, x),
        run_challenge_head(weights, x, torch.from_numpy(rows)),
    ]
    async with Serving(loader(folder)) as engine:
        crowd = [answer(engine, list(range(3, 40)), Sampling(), 30) for _ in range(4)]
        vectors, *_ = await asyncio.gather(engine.run_tasks(tasks), *crowd)
    assert [v.shape for v in vectors] == [(48,), (48,), (3,)]
    for vector, reference in zip(vectors, expected, strict=True):
        assert vector.dtype == np.float32
        assert np.allclose(vector, reference.numpy(), atol=1e-5)


async def test_challenges_go_before_user_traffic(make_checkpoint):
    """Sessions that are already waiting do not delay a challenge by more than one step."""
    hidden = np.ones((16, 48), dtype=np.float32)
    order = []
    async with Serving(loader(make_checkpoint())) as engine:

        async def note(what, awaitable):
            await awaitable
            order.append(what)

        async with asyncio.TaskGroup() as tasks:
            for i in range(6):
                tasks.create_task(note(i, answer(engine, list(range(3, 30)), Sampling(), 3)))
            await asyncio.sleep(0)
            tasks.create_task(note("challenge", engine.run_tasks([Task(1, hidden)])))
    assert order[0] == "challenge"


async def test_unserved_layer_and_wrong_shape_are_refused(make_checkpoint):
    hidden = np.ones((16, 48), dtype=np.float32)
    async with Serving(loader(make_checkpoint(), 2, 4)) as engine:
        for layer in (0, 1, 4, 6, 7):
            with pytest.raises(Refused, match="wrong_range"):
                await engine.run_tasks([Task(layer, hidden)])
        with pytest.raises(Refused, match="wrong_shape"):
            await engine.run_tasks([Task(2, hidden[:, :40])])
        assert len(await engine.run_tasks([Task(2, hidden)])) == 1


async def test_released_session_is_forgotten_while_it_waits(make_checkpoint):
    async with Serving(loader(make_checkpoint())) as engine:
        with engine.admit(ALL, capacity=64, account=OWN_ACCOUNT) as busy:
            # An idle engine would start at once.
            engine.submit(busy, StepInput(64, token_ids=[9] * 64))
            with engine.admit(ALL, capacity=8, account=OWN_ACCOUNT) as session:
                abandoned = engine.submit(session, StepInput(2, token_ids=[1, 2]))
        tokens = await answer(engine, [3, 4, 5], Sampling(), 4)
        assert len(tokens) == 4
        assert not abandoned.done()


async def test_a_step_that_cannot_be_computed_fails_alone(make_checkpoint, caplog):
    """Others in the same batch get what they would have got without it."""
    prompts = [list(range(3 + i, 12 + 3 * i)) for i in range(4)]

    def stumble(output):
        raise ZeroDivisionError

    async def fail(engine):
        with engine.admit(ALL, capacity=9, account=Account(PEER)) as session:
            await engine.submit(session, StepInput(1, token_ids=[3]))
            for step in (
                StepInput(1, token_ids=[1 << 40]),
                StepInput(1, token_ids=[3], follow=stumble),
            ):
                with pytest.raises(Refused, match="failed"):
                    await engine.submit(session, step)

    async with Serving(loader(make_checkpoint()), deterministic=True) as engine:
        alone = [await answer(engine, prompt, Sampling(), 20) for prompt in prompts]
        crowd = await asyncio.gather(
            *(answer(engine, prompt, Sampling(), 20) for prompt in prompts),
            *(fail(engine) for _ in range(3)),
        )
    assert crowd[:4] == alone
    assert "a batch of" in caplog.text


@pytest.mark.parametrize("span", [(0, 6), (2, 4), (4, 6)])
async def test_warm_up_measures_every_range_and_leaves_nothing(make_checkpoint, span):
    async with Serving(loader(make_checkpoint(), *span)) as engine:
        assert await engine.measure_throughput() > 0
        assert engine.free_cache_tokens == engine.limits.cache_tokens


def follow_until(tokens, count):
    """A follow function that notes tokens until there are ``count`` of them."""

    def follow(output):
        tokens.append(output.sampled.token_id)
        if len(tokens) == count:
            return None
        request = SampleRequest(Sampling(), len(tokens))
        return StepInput(1, token_ids=tokens[-1:], sample=request, follow=follow)

    return follow


async def test_a_session_that_runs_ahead_chooses_the_same_tokens(make_checkpoint):
    prompt, tokens = list(range(3, 20)), []
    async with Serving(loader(make_checkpoint())) as engine:
        expected = await answer(engine, prompt, Sampling(), 30)
        with engine.admit(ALL, capacity=len(prompt) + 30, account=Account(PEER)) as session:
            request = SampleRequest(Sampling(), 0)
            follow = follow_until(tokens, 30)
            step = StepInput(len(prompt), token_ids=prompt, sample=request, follow=follow)
            last = await engine.submit(session, step)
    assert tokens == expected
    assert last.sampled.token_id == expected[-1]


async def test_nobody_waits_for_the_end_of_a_session_that_runs_ahead(make_checkpoint):
    """A newcomer and a challenge are served between two of its steps."""
    tokens = []
    async with Serving(loader(make_checkpoint())) as engine:
        with engine.admit(ALL, capacity=240, account=Account(PEER)) as session:
            follow = follow_until(tokens, 240)
            step = StepInput(1, token_ids=[3], sample=SampleRequest(Sampling(), 0), follow=follow)
            chain = engine.submit(session, step)
            newcomer = await answer(engine, [5, 6, 7], Sampling(), 2)
            await engine.run_tasks([Task(2, np.ones((4, 48), dtype=np.float32))])
            assert not chain.done()
            assert len(newcomer) == 2
            await chain
    assert len(tokens) == 240


async def test_a_released_session_does_not_run_ahead(make_checkpoint):
    tokens = []
    async with Serving(loader(make_checkpoint())) as engine:
        with engine.admit(ALL, capacity=250, account=Account(PEER)) as session:
            follow = follow_until(tokens, 250)
            step = StepInput(1, token_ids=[3], sample=SampleRequest(Sampling(), 0), follow=follow)
            engine.submit(session, step)
            await answer(engine, [5, 6, 7], Sampling(), 2)
        await answer(engine, [5, 6, 7], Sampling(), 2)
        told = len(tokens)
        await answer(engine, [5, 6, 7], Sampling(), 2)
        assert len(tokens) == told < 250


async def test_a_step_that_cannot_be_computed_ends_its_session_only(make_checkpoint):
    def follow(output):
        return StepInput(1, token_ids=(), sample=SampleRequest(Sampling(), 1))

    async with Serving(loader(make_checkpoint())) as engine:
        with engine.admit(ALL, capacity=8, account=Account(PEER)) as session:
            step = StepInput(1, token_ids=[3], sample=SampleRequest(Sampling(), 0), follow=follow)
            with pytest.raises(Refused, match="failed"):
                await engine.submit(session, step)
        assert len(await answer(engine, [5, 6, 7], Sampling(), 2)) == 2


@pytest.mark.parametrize("deterministic", [False, True])
async def test_prompts_that_share_steps_are_answered_as_alone(
    make_checkpoint, monkeypatch, deterministic
):
    steps = []
    forward = ShardRunner.forward

    def note(self, x, segments, **options):
        steps.append([segment.rows for segment in segments])
        return forward(self, x, segments, **options)

    monkeypatch.setattr(ShardRunner, "forward", note)
    limits = EngineLimits(prefill_tokens=64)
    prompts = [list(range(3 + i, 23 + 3 * i)) for i in range(6)]
    async with Serving(
        loader(make_checkpoint()), limits=limits, deterministic=deterministic
    ) as engine:
        alone = [await answer(engine, prompt, Sampling(), 8) for prompt in prompts]
        steps.clear()
        crowd = await asyncio.gather(*(answer(engine, p, Sampling(), 8) for p in prompts))
    assert crowd == alone
    shared = [rows for rows in steps if len(rows) > 1 and max(rows) > 1]
    assert all(sum(rows) <= 64 for rows in shared)
    assert bool(shared) != deterministic


@pytest.mark.parametrize("use_graphs", [False, True])
async def test_a_prompt_of_a_whole_context_delays_no_token_by_three_steps(
    make_checkpoint, monkeypatch, use_graphs
):
    """Counted in steps: 32 sessions decode while a prompt that fills a context is computed."""
    steps, marks = [], {}
    compute, read = batches.run_batch, Decoder.read

    def count_batch(*arguments, **options):
        steps.append(None)
        return compute(*arguments, **options)

    def count_read(*arguments):
        steps.append(None)
        return read(*arguments)

    monkeypatch.setattr(batches, "run_batch", count_batch)
    monkeypatch.setattr(Decoder, "read", count_read)
    limits = EngineLimits(prefill_chunk=16, prefill_tokens=32, cache_tokens=4096)

    async def decode(engine, place):
        marks[place] = []

        def follow(output):
            marks[place].append(len(steps))
            if len(marks[place]) == 60:
                return None
            request = SampleRequest(Sampling(), len(marks[place]))
            ids = (output.sampled.token_id,)
            return StepInput(1, token_ids=ids, sample=request, follow=follow, goes_on=True)

        with engine.admit(ALL, capacity=70, account=OWN_ACCOUNT) as session:
            step = StepInput(1, token_ids=(3,), sample=SampleRequest(Sampling(), 0), follow=follow)
            await engine.submit(session, step)

    async def fill_context(engine):
        with engine.admit(ALL, capacity=256, account=Account(PEER)) as session:
            for _ in range(16):
                await engine.submit(session, StepInput(16, token_ids=[5] * 16))
            return len(steps)

    async with Serving(loader(make_checkpoint()), limits=limits, use_graphs=use_graphs) as engine:
        async with asyncio.TaskGroup() as tasks:
            for place in range(32):
                tasks.create_task(decode(engine, place))
            await asyncio.sleep(0)
            filling = tasks.create_task(fill_context(engine))
    gaps = sorted(b - a for told in marks.values() for a, b in itertools.pairwise(told))
    assert len(gaps) == 32 * 59
    assert gaps[len(gaps) * 99 // 100] < 3
    # The prompt is not starved either: it takes every other step.
    assert filling.result() < 2 * 16 + 8


async def test_an_engine_keeps_float32_exact_whatever_was_set_before(make_checkpoint):
    torch.set_float32_matmul_precision("medium")
    torch.backends.cuda.matmul.allow_tf32 = True
    async with Serving(loader(make_checkpoint())) as engine:
        await engine.run_tasks([Task(2, np.ones((4, 48), dtype=np.float32))])
        assert torch.get_float32_matmul_precision() == "highest"
        assert not torch.backends.cuda.matmul.allow_tf32
        assert not torch.backends.cudnn.allow_tf32


async def test_rows_that_run_one_by_one_have_the_bits_of_a_row_alone(make_checkpoint):
    """What a deterministic engine does on a GPU with a batch that no graph computes."""
    prompts = [list(range(3 + i, 12 + 3 * i)) for i in range(6)]
    rows = []

    async def answer_with_logits(engine, prompt):
        with engine.admit(ALL, capacity=len(prompt) + 8, account=Account(PEER)) as session:
            step, found = StepInput(len(prompt), token_ids=prompt, logit_rows=1), []
            for _ in range(8):
                found.append((await engine.submit(session, step)).logits)
                step = StepInput(1, token_ids=[int(found[-1].argmax())], logit_rows=1)
            return torch.cat(found)

    forward = ShardRunner.forward

    def note(self, x, segments, **options):
        rows.append(len(segments))
        return forward(self, x, segments, **options)

    async with Serving(loader(make_checkpoint())) as engine:
        engine._batches._one_by_one = True
        engine._batches.runner.forward = note.__get__(engine._batches.runner)
        alone = [await answer_with_logits(engine, prompt) for prompt in prompts]
        crowd = await asyncio.gather(*(answer_with_logits(engine, p) for p in prompts))
    assert set(rows) == {1}
    assert all(torch.equal(one, other) for one, other in zip(alone, crowd, strict=True))
