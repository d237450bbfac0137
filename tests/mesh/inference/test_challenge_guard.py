"""The relay guard: a challenge's hidden states are computed for no peer while it is open."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
import torch

from mesh.inference.accounts import Account
from mesh.inference.challenge_guard import MAX_OPEN, ChallengeGuard, compute_limit
from mesh.inference.refusals import Refused
from mesh.inference.sampler import SampleRequest
from mesh.inference.sampling import Sampling
from mesh.inference.steps import StepInput
from mesh.inference.wire import HiddenRows
from mesh.model.config import LayerSpan
from tests.mesh.inference.test_engine import PEER, Serving, Task, answer, loader

WIDE = 192
LAYER = 2
SPAN = LayerSpan(LAYER, 4)


def make_input(layer, width=WIDE, positions=16):
    rng = np.random.default_rng(100 + layer)
    return (rng.integers(-127, 128, (positions, width)) / 64).astype(np.float32)


def make_noise(like, share, seed=5):
    """Noise of a share of each row's length."""
    noise = np.random.default_rng(seed).standard_normal(like.shape).astype(np.float32)
    lengths = np.linalg.norm(like, axis=1, keepdims=True)
    return share * noise * lengths / np.linalg.norm(noise, axis=1, keepdims=True)


def hide(rows, *, at, among):
    """Random rows with one row of the challenge at one position."""
    text = make_noise(np.ones((among, rows.shape[1]), np.float32), 20.0)
    text[at] = rows[3]
    return text


def make_relays():
    rows = make_input(LAYER)
    offset = make_noise(rows, 1.0)
    yield "exact", rows
    for share in (1e-3, 1e-2, 0.1, 0.3):
        yield f"perturbed by {share}", rows + make_noise(rows, share)
    for scale in (1e-6, 1e-2, 300.0, 1e6):
        yield f"scaled by {scale}", rows * np.float32(scale)
    yield "one half of a symmetric pair", rows + offset
    yield "the other half", rows - offset
    yield "sign flip", -rows
    yield "one row alone", rows[:1]
    yield "in another order", rows[::-1].copy()
    yield "at position 7 of 32", hide(rows, at=7, among=32)
    yield "in the last position", hide(rows, at=31, among=32)


def open_guard(width=WIDE):
    guard = ChallengeGuard()
    guard.open(b"one", lambda layer: make_input(layer, width))
    return guard


def submit_rows(engine, session, rows, *, dtype="float32", **ask):
    tensor = torch.from_numpy(np.array(rows)).to(getattr(torch, dtype))
    data = tensor.view(torch.uint8).numpy().tobytes()
    return engine.submit(
        session, StepInput(len(rows), hidden=HiddenRows(len(rows), dtype, data), **ask)
    )


async def run_rows(engine, rows, *, span=SPAN, dtype="float32"):
    with engine.admit(span, capacity=len(rows), account=Account(PEER)) as session:
        return await submit_rows(engine, session, rows, dtype=dtype)


@pytest.fixture
def wide(make_checkpoint):
    return make_checkpoint(hidden_size=WIDE)


@pytest.mark.parametrize(("rows",), [[rows] for _, rows in make_relays()], ids=dict(make_relays()))
async def test_a_relayed_challenge_is_refused_by_name(wide, rows):
    guard = open_guard()
    async with Serving(loader(wide, LAYER, 6), guard=guard) as engine:
        with pytest.raises(Refused, match="challenge_relayed: hidden states at block 2"):
            await run_rows(engine, rows)
        assert engine.session_count == 0
    assert guard.refused == 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("served", ["float32", "bfloat16"])
async def test_no_type_of_numbers_hides_a_relay(wide, dtype, served):
    from mesh.model.config import load_config
    from mesh.model.files import resolve_model_folder
    from mesh.model.weights import load_shard

    def load():
        folder = resolve_model_folder(str(wide))
        return load_shard(folder, load_config(wide), start=LAYER, end=6, dtype=served)

    async with Serving(load, guard=open_guard()) as engine:
        with pytest.raises(Refused, match="challenge_relayed"):
            await run_rows(engine, make_input(LAYER), dtype=dtype)


async def test_the_last_range_names_no_token_of_a_relay(wide):
    async with Serving(loader(wide, LAYER, 6), guard=open_guard()) as engine:
        with engine.admit(LayerSpan(LAYER, 6), capacity=16, account=Account(PEER)) as session:
            with pytest.raises(Refused, match="challenge_relayed"):
                await submit_rows(
                    engine, session, make_input(LAYER), sample=SampleRequest(Sampling(), 0)
                )


async def test_a_relay_row_by_row_is_refused_at_its_first_row(wide):
    async with Serving(loader(wide, LAYER, 6), guard=open_guard()) as engine:
        with engine.admit(SPAN, capacity=16, account=Account(PEER)) as session:
            with pytest.raises(Refused, match="challenge_relayed"):
                await submit_rows(engine, session, make_input(LAYER)[:1])
            assert session.length == 0


async def test_others_in_the_batch_of_a_relay_get_what_they_would_have_got(wide):
    text = hide(make_input(LAYER), at=0, among=4)[1:2]
    async with Serving(loader(wide, LAYER, 6), guard=open_guard(), deterministic=True) as engine:
        alone = (await run_rows(engine, text)).hidden.data

        async def relay():
            with pytest.raises(Refused, match="challenge_relayed"):
                await run_rows(engine, make_input(LAYER)[4:5])

        *crowd, _ = await asyncio.gather(*(run_rows(engine, text) for _ in range(3)), relay())
    assert [output.hidden.data for output in crowd] == [alone] * 3


async def test_the_challenge_of_another_layer_is_no_relay(wide):
    """Each layer has its own input; computing another layer from it answers nothing."""
    async with Serving(loader(wide, LAYER, 6), guard=open_guard()) as engine:
        await run_rows(engine, make_input(LAYER + 1))


async def test_the_nodes_own_challenge_is_computed(wide):
    guard = open_guard()
    async with Serving(loader(wide), guard=guard) as engine:
        tasks = [Task(layer, make_input(layer)) for layer in range(6)]
        tasks[0] = Task(0, make_input(0), token_ids=np.arange(16, dtype=np.int64))
        assert len(await engine.run_tasks(tasks)) == 6
        assert await engine.measure_throughput()
    assert guard.refused == 0


async def test_a_closed_challenge_is_ordinary_hidden_states(wide):
    guard = open_guard()
    async with Serving(loader(wide, LAYER, 6), guard=guard) as engine:
        guard.close()
        assert (await run_rows(engine, make_input(LAYER))).hidden.rows == 16
        guard.open(b"two", make_input)
        with pytest.raises(Refused, match="challenge_relayed"):
            await run_rows(engine, make_input(LAYER))


async def test_honest_traffic_passes_while_a_challenge_is_open(wide):
    """Hidden states of text at every layer, and rows that are zero or not finite."""
    guard = open_guard()
    rng = np.random.default_rng(3)
    async with Serving(loader(wide), guard=guard) as engine:
        await answer(engine, list(range(3, 40)), Sampling(), 10)
        for start in range(1, 6):
            ids = [int(i) for i in rng.integers(3, 131, 32)]
            with engine.admit(LayerSpan(0, start), capacity=32, account=Account(PEER)) as session:
                text = (await engine.submit(session, StepInput(32, token_ids=ids))).hidden
            with engine.admit(LayerSpan(start, 6), capacity=40, account=Account(PEER)) as session:
                await engine.submit(session, StepInput(32, hidden=text))
                await submit_rows(engine, session, np.zeros((1, WIDE), np.float32))
                await submit_rows(engine, session, np.full((1, WIDE), np.nan, np.float32))
    assert guard.refused == 0


def test_every_branch_of_the_chain_is_guarded_and_their_number_is_bounded():
    guard = ChallengeGuard()
    asked = []

    def make(branch):
        def compute_input(layer):
            asked.append((branch, layer))
            return make_input(1000 * branch + layer)

        return compute_input

    def is_refused(branch):
        found = guard.suspect(1, torch.from_numpy(make_input(1000 * branch + 1)))
        return bool(found)

    for branch in range(MAX_OPEN + 1):
        guard.open(bytes([branch]), make(branch))
        guard.open(bytes([branch]), make(branch))
    assert [is_refused(branch) for branch in range(MAX_OPEN + 1)] == [False] + [True] * MAX_OPEN
    # Inputs are derived once for each layer at which hidden states enter.
    assert sorted(asked) == [(branch, 1) for branch in range(1, MAX_OPEN + 1)]


def test_a_narrow_model_refuses_no_text_by_chance():
    """At 48 channels one pair of random vectors in 2,000 has a cosine above 0.5."""
    guard = open_guard(48)
    rows = torch.from_numpy(make_noise(np.ones((20_000, 48), np.float32), 1.0))
    assert not guard.suspect(1, rows)
    assert compute_limit(48) > 0.8
    assert compute_limit(144) == compute_limit(8192) == 0.5
    assert guard.suspect(
        1, torch.from_numpy(make_input(1, 48) + make_noise(make_input(1, 48), 0.3))
    )
