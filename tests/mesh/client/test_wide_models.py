"""Hidden states of a model as wide as one of 405 billion parameters fit into frames."""

from __future__ import annotations

import contextlib

import pytest

from mesh.client.driven_text import DrivenText
from mesh.inference.engine import EngineLimits
from mesh.inference.sampling import Sampling
from tests.mesh.client.conftest import Swarm, add_chat

WIDE = {
    "hidden_size": 16_384,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "vocab_size": 259,
}
PROMPT = list(range(3, 203))
GREEDY = Sampling(stop_token_ids=(258,))


@pytest.fixture(scope="module")
def wide_checkpoint(make_checkpoint):
    return add_chat(make_checkpoint(seed=5, dtype="bfloat16", **WIDE))


@contextlib.asynccontextmanager
async def open_swarm(folder, dtypes):
    """One hoster for each dtype, with equal parts of the three layers."""
    swarm, ends = Swarm(folder), {1: (0, 3), 2: (0, 1, 3), 3: (0, 1, 2, 3)}[len(dtypes)]
    async with contextlib.AsyncExitStack() as stack:
        for start, end, dtype in zip(ends, ends[1:], dtypes, strict=False):
            hoster = await swarm.add_hoster(
                start, end, dtype=dtype, limits=EngineLimits(), deterministic=False
            )
            stack.push_async_callback(hoster.stop)
        yield swarm, await swarm.open_client(stack)


async def answer(client, new_tokens=3):
    tokens = client.generate(PROMPT, max_new_tokens=new_tokens, sampling=GREEDY)
    return [token.token_id async for token in tokens]


@pytest.mark.parametrize(
    "dtypes",
    [
        ("bfloat16", "bfloat16"),
        ("float32", "float32"),
        ("bfloat16", "float32", "bfloat16"),
    ],
    ids=["16 bits", "32 bits", "a wider type in the middle"],
)
async def test_a_long_prompt_of_the_widest_models_is_answered(wide_checkpoint, dtypes):
    async with open_swarm(wide_checkpoint, dtypes) as (_, client):
        assert len(await answer(client)) == 3


async def test_a_chunk_has_the_rows_that_fit_and_no_sliver_follows_it(wide_checkpoint):
    async with open_swarm(wide_checkpoint, ("bfloat16", "bfloat16")) as (swarm, client):
        rows = []
        engine = swarm.hosters[1].engine
        submit = engine.submit

        def note(session, step):
            rows.append(step.rows)
            return submit(session, step)

        engine.submit = note
        await answer(client, new_tokens=1)
        assert rows == [112, 88]


async def test_a_driven_session_of_the_widest_models_is_split_too(wide_checkpoint):
    async with open_swarm(wide_checkpoint, ("bfloat16", "float32", "bfloat16")) as (_, client):
        text = DrivenText(client)
        logits = await text.compute_logits(PROMPT, wanted=100)
        await text.close()
        assert logits.shape[0] == 100 and text.reroutes == 0
