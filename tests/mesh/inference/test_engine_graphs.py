"""The engine keeps its promises where decode steps go through fixed shapes, and runs ahead there.

On a CPU a graph's replay is the same step, kernel by kernel: only the capture is left out.
"""

from __future__ import annotations

import asyncio

import pytest
import torch

from mesh.inference import draws
from mesh.inference import engine as engine_module
from mesh.inference.accounts import Account
from mesh.inference.refusals import Refused
from mesh.inference.sampler import SampleRequest
from mesh.inference.sampling import Sampling
from mesh.inference.steps import StepInput
from mesh.model import step_graphs
from mesh.model.config import LayerSpan
from mesh.model.step_graphs import StepGraphs
from tests.mesh.inference.test_challenge_guard import (
    LAYER,
    WIDE,
    make_input,
    open_guard,
    submit_rows,
)
from tests.mesh.inference.test_engine import (
    ALL,
    PEER,
    Serving,
    answer,
    loader,
    test_a_released_session_does_not_run_ahead,
    test_a_session_that_runs_ahead_chooses_the_same_tokens,
    test_a_step_that_cannot_be_computed_ends_its_session_only,
    test_a_step_that_cannot_be_computed_fails_alone,
    test_batched_equals_alone,
    test_nobody_waits_for_the_end_of_a_session_that_runs_ahead,
    test_warm_up_measures_every_range_and_leaves_nothing,
)
from tests.mesh.inference.test_engine_pages import (
    test_a_driven_text_that_lost_its_pages_goes_back_and_on,
    test_a_later_range_refuses_the_youngest_whose_text_it_does_not_know,
    test_a_table_that_points_outside_fails_its_own_session,
    test_answers_that_lost_their_pages_have_the_same_bits,
    test_hidden_states_that_are_not_numbers_stay_in_their_session,
    test_the_default_engine_computes_lost_text_in_chunks_and_gives_the_same_tokens,
)

# Collected here once more, with graphs.
__all__ = [
    "test_a_driven_text_that_lost_its_pages_goes_back_and_on",
    "test_a_later_range_refuses_the_youngest_whose_text_it_does_not_know",
    "test_a_released_session_does_not_run_ahead",
    "test_a_session_that_runs_ahead_chooses_the_same_tokens",
    "test_a_step_that_cannot_be_computed_ends_its_session_only",
    "test_a_step_that_cannot_be_computed_fails_alone",
    "test_a_table_that_points_outside_fails_its_own_session",
    "test_answers_that_lost_their_pages_have_the_same_bits",
    "test_batched_equals_alone",
    "test_hidden_states_that_are_not_numbers_stay_in_their_session",
    "test_nobody_waits_for_the_end_of_a_session_that_runs_ahead",
    "test_the_default_engine_computes_lost_text_in_chunks_and_gives_the_same_tokens",
    "test_warm_up_measures_every_range_and_leaves_nothing",
]

SAMPLINGS = [
    Sampling(),
    Sampling(temperature=1.0, seed=4),
    Sampling(temperature=1.5, seed=4, top_p=0.9, top_logprobs=3),
    Sampling(temperature=1.0, seed=9, top_k=7, repetition_penalty=1.2),
]
PROMPTS = [list(range(3 + i, 12 + 3 * i)) for i in range(6)]


@pytest.fixture(autouse=True)
def graphs(monkeypatch):
    """Let every engine compute decode steps over fixed shapes; count the steps."""
    open_runner, launch = engine_module.open_runner, StepGraphs.launch
    launched = []

    def note(self, token_ids, positions, tables, hidden=None):
        launched.append((tuple(token_ids), tuple(positions)))
        return launch(self, token_ids, positions, tables, hidden)

    def open_with_graphs(*arguments, **options):
        return open_runner(*arguments, **{**options, "use_graphs": True})

    monkeypatch.setattr(engine_module, "open_runner", open_with_graphs)
    monkeypatch.setattr(StepGraphs, "launch", note)
    return launched


async def go_on(engine, prompt, sampling, count, *, stop=None, goes_on=True, told=None):
    """Answer on the compute thread, as an answer at a single range does."""
    tokens = []

    def make_next(token_ids):
        request = SampleRequest(sampling, len(tokens), [*prompt, *tokens])
        is_free = sampling.repetition_penalty == 1.0
        return StepInput(
            len(token_ids),
            token_ids=token_ids,
            sample=request,
            follow=follow,
            goes_on=goes_on and is_free and len(tokens) < count - 1,
        )

    def follow(output):
        tokens.append(output.sampled.token_id)
        if told is not None:
            told(tokens[-1])
        if len(tokens) == count or tokens[-1] == stop:
            return None
        return make_next(tokens[-1:])

    account = Account(PEER)
    with engine.admit(ALL, capacity=len(prompt) + count, account=account) as session:
        await engine.submit(session, make_next(prompt))
    return tokens


async def test_the_next_step_is_started_before_the_last_ones_token_is_told(make_checkpoint, graphs):
    async with Serving(loader(make_checkpoint())) as engine:
        order = []
        await go_on(engine, PROMPTS[0], Sampling(), 5, told=lambda token: order.append(len(graphs)))
    # The prompt's token; then two steps are under way when the first one's token is told.
    assert order == [0, 2, 3, 4, 4]
    assert graphs[0][0] != (-1,) and [ids for ids, _ in graphs[1:]] == [(-1,)] * 3
    assert [positions[0] for _, positions in graphs] == [9, 10, 11, 12]


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("candidates", [1, 256])
async def test_going_on_before_the_token_is_known_chooses_the_same_tokens(
    make_checkpoint, monkeypatch, candidates, deterministic
):
    """With one candidate almost every draw from a top_p is changed when it is read."""
    monkeypatch.setattr(draws, "CANDIDATES", candidates)
    folder = make_checkpoint()
    async with Serving(loader(folder), deterministic=deterministic) as engine:
        for sampling in SAMPLINGS:
            expected = await answer_penalised(engine, PROMPTS[1], sampling, 30)
            assert await go_on(engine, PROMPTS[1], sampling, 30) == expected


async def answer_penalised(engine, prompt, sampling, count):
    return await go_on(engine, prompt, sampling, count, goes_on=False)


async def test_sessions_that_stop_early_leave_the_others_as_they_are(make_checkpoint):
    """The row of a step that was started for an answer that is over is thrown away."""
    async with Serving(loader(make_checkpoint()), deterministic=True) as engine:
        alone = [await go_on(engine, prompt, Sampling(), 24) for prompt in PROMPTS]
        stops = [tokens[4 * i + 3] for i, tokens in enumerate(alone)]
        crowd = await asyncio.gather(
            *(
                go_on(engine, prompt, Sampling(), 24, stop=stop)
                for prompt, stop in zip(PROMPTS, stops, strict=True)
            )
        )
        again = [await go_on(engine, prompt, Sampling(), 24) for prompt in PROMPTS]
        assert engine.free_cache_tokens == engine.limits.cache_tokens
    for tokens, stop, found in zip(alone, stops, crowd, strict=True):
        assert found == tokens[: tokens.index(stop) + 1]
    assert again == alone


async def test_sessions_that_promise_and_others_share_a_batch(make_checkpoint):
    async with Serving(loader(make_checkpoint()), deterministic=True) as engine:
        chosen = [SAMPLINGS[i % len(SAMPLINGS)] for i in range(len(PROMPTS))]
        pairs = list(zip(PROMPTS, chosen, strict=True))
        alone = [await go_on(engine, prompt, sampling, 20) for prompt, sampling in pairs]
        crowd = await asyncio.gather(
            *(
                go_on(engine, prompt, sampling, 20, goes_on=i % 2 == 0)
                for i, (prompt, sampling) in enumerate(pairs)
            )
        )
    assert crowd == alone


@pytest.mark.parametrize(
    "change",
    [
        {"token_ids": (7,)},
        {"sample": SampleRequest(Sampling(temperature=2.0, seed=3), 2)},
        {"sample": SampleRequest(Sampling(), 9)},
        {"logit_rows": 1},
    ],
    ids=["another token", "another sampling", "another index", "logits"],
)
async def test_a_session_that_breaks_its_promise_gets_what_it_asks_for(make_checkpoint, change):
    found = []
    async with Serving(loader(make_checkpoint())) as engine:
        for goes_on in (False, True):
            tokens, logits = [], []

            def follow(output, tokens=tokens, logits=logits, goes_on=goes_on):
                tokens.append(output.sampled)
                logits.append(output.logits)
                if len(tokens) == 6:
                    return None
                request = SampleRequest(Sampling(), len(tokens))
                options = {"token_ids": (output.sampled.token_id,), "sample": request}
                options |= change if len(tokens) == 2 else {}
                return StepInput(1, **options, follow=follow, goes_on=goes_on)

            with engine.admit(ALL, capacity=40, account=Account(PEER)) as session:
                step = StepInput(1, token_ids=(3,), sample=SampleRequest(Sampling(), 0))
                step = StepInput(1, token_ids=(3,), sample=step.sample, follow=follow)
                await engine.submit(session, step)
            found.append((tokens, [None if part is None else part.tolist() for part in logits]))
    assert found[0] == found[1]


async def test_a_capture_that_fails_leaves_an_engine_that_serves(
    make_checkpoint, monkeypatch, caplog
):
    def fail(step, pool):
        raise RuntimeError("no capture")

    monkeypatch.setattr(step_graphs, "capture", fail)
    async with Serving(loader(make_checkpoint())) as engine:
        tokens = await answer(engine, PROMPTS[0], Sampling(), 8)
    monkeypatch.undo()
    async with Serving(loader(make_checkpoint())) as engine:
        assert await answer(engine, PROMPTS[0], Sampling(), 8) == tokens
    assert caplog.text.count("are not captured") == 1


@pytest.mark.parametrize("goes_on", [False, True])
async def test_without_memory_for_a_step_its_youngest_session_goes(
    make_checkpoint, monkeypatch, goes_on
):
    launch = StepGraphs.launch
    refused = []

    def launch_few(self, token_ids, positions, tables, hidden=None):
        if len(positions) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return launch(self, token_ids, positions, tables, hidden)

    async def try_answer(engine, place):
        try:
            return await go_on(engine, PROMPTS[place], Sampling(), 20, goes_on=goes_on)
        except Refused as refusal:
            assert refusal.reason == "busy" and "memory" in refusal.detail
            refused.append(place)

    async with Serving(loader(make_checkpoint()), deterministic=True) as engine:
        alone = [await go_on(engine, prompt, Sampling(), 20) for prompt in PROMPTS[:2]]
        monkeypatch.setattr(StepGraphs, "launch", launch_few)
        crowd = await asyncio.gather(*(try_answer(engine, place) for place in range(4)))
        assert engine.session_count == 0
    assert crowd[:2] == alone
    assert sorted(refused) == [2, 3]


async def test_a_step_that_fails_while_it_is_read_is_computed_again(make_checkpoint, monkeypatch):
    from mesh.inference.decoder import Decoder

    read, reads = Decoder.read, []

    def read_badly(self, pending):
        reads.append(None)
        if len(reads) == 5:
            raise RuntimeError("the copy failed")
        return read(self, pending)

    async with Serving(loader(make_checkpoint())) as engine:
        expected = await go_on(engine, PROMPTS[2], Sampling(), 12)
        monkeypatch.setattr(Decoder, "read", read_badly)
        assert await go_on(engine, PROMPTS[2], Sampling(), 12) == expected
    assert len(reads) > 11


@pytest.mark.parametrize("sampled", [False, True])
async def test_a_relay_row_by_row_is_refused_at_its_first_row(make_checkpoint, graphs, sampled):
    span = LayerSpan(LAYER, 6)
    ask = {"sample": SampleRequest(Sampling(), 0)} if sampled else {}
    folder = make_checkpoint(hidden_size=WIDE)
    async with Serving(loader(folder, LAYER, 6), guard=open_guard()) as engine:
        with engine.admit(span, capacity=16, account=Account(PEER)) as session:
            with pytest.raises(Refused, match="challenge_relayed"):
                await submit_rows(engine, session, make_input(LAYER)[:1], **ask)
            assert session.length == 0
    assert graphs
