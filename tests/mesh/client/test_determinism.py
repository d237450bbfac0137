"""The same weights, prompt and seed give the same tokens, however the work is laid out.

docs/determinism.md says where the bits are equal too; the log probabilities show them.
"""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import aclosing
from dataclasses import dataclass

import pytest

from mesh.inference.sampling import Sampling
from tests.mesh.client.conftest import Swarm, add_chat
from tests.support.families import FAMILIES

PROMPT = "How does one epoch work?"
CROWD = [f"{PROMPT} {'And then? ' * number}" for number in range(5)]
NEW_TOKENS = 16
# A random model soon says its end token: only the length ends these answers.
GREEDY = Sampling(stop_token_ids=(258,))
SEEDED = Sampling(stop_token_ids=(258,), temperature=1.0, top_p=0.95, top_k=50, seed=20)
RANGES = {1: ((0, 6),), 3: ((0, 2), (2, 3), (3, 6))}
KINDS = [("float32", "none"), ("bfloat16", "none"), ("bfloat16", "int8"), ("bfloat16", "int4")]


@dataclass(frozen=True)
class Answer:
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]


async def ask(client, prompt, sampling) -> Answer:
    pieces = []
    async with aclosing(
        client.generate(prompt, max_new_tokens=NEW_TOKENS, sampling=sampling)
    ) as answer:
        async for piece in answer:
            pieces.append(piece)
    return Answer(
        tuple(piece.token_id for piece in pieces), tuple(piece.logprob for piece in pieces)
    )


@contextlib.asynccontextmanager
async def open_client(folder, *, ranges=1, **options):
    """A client in front of one hoster or of three."""
    swarm = Swarm(folder)
    async with contextlib.AsyncExitStack() as stack:
        for start, end in RANGES[ranges]:
            hoster = await swarm.add_hoster(start, end, **options)
            stack.push_async_callback(hoster.stop)
        yield await swarm.open_client(stack)


async def check_same_bits(folder, sampling, **options):
    """Ask one range and three, alone and in a crowd."""
    answers = []
    for ranges in (1, 3):
        async with open_client(folder, ranges=ranges, **options) as client:
            answers.append(await ask(client, PROMPT, sampling))
            async with asyncio.TaskGroup() as tasks:
                mine = tasks.create_task(ask(client, PROMPT, sampling))
                for prompt in CROWD:
                    tasks.create_task(ask(client, prompt, sampling))
            answers.append(mine.result())
    # A drawn answer may meet the stop token.
    assert len(answers[0].tokens) > 10
    assert [answer == answers[0] for answer in answers] == [True] * 4


@pytest.mark.parametrize("sampling", [GREEDY, SEEDED], ids=["greedy", "seeded"])
@pytest.mark.parametrize(("dtype", "quant_type"), KINDS)
async def test_one_range_and_three_alone_and_in_a_crowd_give_the_same_bits(
    chat_checkpoint, dtype, quant_type, sampling
):
    await check_same_bits(chat_checkpoint, sampling, dtype=dtype, quant_type=quant_type)


@pytest.mark.parametrize("architecture", ["Qwen3MoeForCausalLM", "Phi3ForCausalLM"])
async def test_other_families_give_the_same_bits_in_a_crowd(make_checkpoint, architecture):
    folder = make_checkpoint(architecture, vocab_size=259, seed=11, **FAMILIES[architecture])
    await check_same_bits(add_chat(folder), SEEDED, dtype="float32")


@pytest.mark.parametrize("sampling", [GREEDY, SEEDED], ids=["greedy", "seeded"])
@pytest.mark.parametrize("ranges", [1, 3])
async def test_one_thread_and_two_give_the_same_tokens(chat_checkpoint, ranges, sampling):
    """Threads cut sums elsewhere: the bits may differ, by 1e-6, the tokens do not."""
    answers = []
    for threads in (1, 2):
        async with open_client(chat_checkpoint, ranges=ranges, threads=threads) as client:
            answers.append(await ask(client, PROMPT, sampling))
    assert answers[1].tokens == answers[0].tokens
    assert answers[1].logprobs == pytest.approx(answers[0].logprobs, abs=1e-4)


@pytest.mark.parametrize("sampling", [GREEDY, SEEDED], ids=["greedy", "seeded"])
async def test_the_default_engine_gives_the_same_tokens_in_a_crowd(chat_checkpoint, sampling):
    """Without the deterministic option rows share products: other bits, the same tokens."""
    answers = []
    for ranges in (1, 3):
        async with open_client(chat_checkpoint, ranges=ranges, deterministic=False) as client:
            answers.append(await ask(client, PROMPT, sampling))
            async with asyncio.TaskGroup() as tasks:
                mine = tasks.create_task(ask(client, PROMPT, sampling))
                for prompt in CROWD:
                    tasks.create_task(ask(client, prompt, sampling))
            answers.append(mine.result())
    assert {answer.tokens for answer in answers} == {answers[0].tokens}
    for answer in answers:
        assert answer.logprobs == pytest.approx(answers[0].logprobs, abs=1e-4)


async def test_another_seed_gives_another_answer(chat_checkpoint):
    """Or nothing above would mean anything."""
    async with open_client(chat_checkpoint) as client:
        first = await ask(client, PROMPT, SEEDED)
        other = await ask(client, PROMPT, Sampling(stop_token_ids=(258,), temperature=1.0, seed=21))
    assert first.tokens != other.tokens
