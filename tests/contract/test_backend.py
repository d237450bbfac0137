"""What the gateway relies on, asked of the swarm's client and of the tests' own backend."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import aclosing
from dataclasses import replace

import pytest

from mesh.api.backend import (
    ChatMessage,
    ChatPrompt,
    Finished,
    Generated,
    GenerateRequest,
    PromptScored,
    Routed,
)
from mesh.api.mesh_backend import MeshBackend
from mesh.assets import shipped_model_path
from mesh.errors import InvalidRequest, NoRoute
from mesh.inference.sampling import Sampling
from mesh.inference.tokens import Finish
from tests.mesh.client.conftest import Swarm
from tests.support.local_backend import LocalBackend

MODEL = "model/name"
GREEDY = Sampling(temperature=0.0)


class LocalWorld:
    """The tests' backend."""

    def __init__(self, is_complete: bool) -> None:
        self.backend = LocalBackend(uncovered=() if is_complete else ((3, 6),))

    def count_running(self) -> int:
        return self.backend.running


class SwarmWorld:
    """Hosters in memory, and the client behind the production adapter."""

    def __init__(self, swarm, backend) -> None:
        self.swarm = swarm
        self.backend = backend

    def count_running(self) -> int:
        return sum(hoster.engine.session_count for hoster in self.swarm.hosters)


@pytest.fixture(params=["local", "swarm"])
async def open_world(request):
    async with contextlib.AsyncExitStack() as stack:

        async def start(*, is_complete=True):
            if request.param == "local":
                return LocalWorld(is_complete)
            swarm = Swarm(shipped_model_path())
            for first, end in [(0, 3), (3, 8)][: 2 if is_complete else 1]:
                hoster = await swarm.add_hoster(first, end)
                stack.push_async_callback(hoster.stop)
            client = await swarm.open_client(stack)
            return SwarmWorld(swarm, MeshBackend(client, model_id=MODEL, created_s=1))

        yield start


async def make_request(backend, **options):
    (model,) = await backend.list_models()
    prompt_ids = await backend.encode_chat(
        model.model_id, ChatPrompt((ChatMessage("user", "What is it?"),))
    )
    options = {"max_new_tokens": 12, "sampling": GREEDY, **options}
    return GenerateRequest(model.model_id, prompt_ids, **options)


async def collect(backend, request):
    async with aclosing(backend.generate(request)) as pieces:
        return [piece async for piece in pieces]


def tokens_of(pieces):
    """The tokens without what was measured of them."""
    return [
        replace(token, times_us=())
        for piece in pieces
        if isinstance(piece, Generated)
        for token in piece.tokens
    ]


async def test_an_answer_is_routed_generated_finished(open_world):
    world = await open_world()
    pieces = await collect(world.backend, await make_request(world.backend))
    assert isinstance(pieces[0], Routed) and isinstance(pieces[-1], Finished)
    assert all(isinstance(piece, Generated) for piece in pieces[1:-1])
    assert pieces[-1].reason is Finish.LENGTH and len(tokens_of(pieces)) == 12
    (model,) = await world.backend.list_models()
    for route in (pieces[0].route, pieces[-1].route):
        assert route[0].start == 0 and route[-1].end == model.num_layers
        assert all(a.end == b.start for a, b in zip(route, route[1:], strict=False))


async def test_the_end_token_is_marked_scored_and_without_text(open_world):
    world = await open_world()
    request = await make_request(world.backend, alternatives=1, max_new_tokens=400)
    pieces = await collect(world.backend, request)
    *before, end = tokens_of(pieces)
    assert pieces[-1].reason is Finish.STOP
    assert end.finish is Finish.STOP and end.text == "" and end.raw and end.logprob is not None
    assert not any(token.finish is Finish.STOP for token in before)


async def test_the_texts_and_the_bytes_of_all_tokens_agree(open_world):
    world = await open_world()
    request = await make_request(world.backend, max_new_tokens=60)
    tokens = tokens_of(await collect(world.backend, request))
    text = "".join(token.text for token in tokens)
    raw = b"".join(token.raw for token in tokens if token.finish is not Finish.STOP)
    assert text and raw.decode("utf-8", "ignore") == text


async def test_greedy_and_seeded_answers_repeat(open_world):
    world = await open_world()
    for sampling in (GREEDY, Sampling(temperature=1.2, seed=3)):
        request = await make_request(world.backend, sampling=sampling)
        first, second = [tokens_of(await collect(world.backend, request)) for _ in range(2)]
        assert first == second


@pytest.mark.parametrize("wanted", [None, 0, 3])
async def test_scores_come_as_asked_the_likeliest_first(open_world, wanted):
    world = await open_world()
    request = await make_request(world.backend, alternatives=wanted, max_new_tokens=4)
    for token in tokens_of(await collect(world.backend, request)):
        assert (token.logprob is None) == (wanted is None)
        assert len(token.top_logprobs) == (wanted or 0)
        scores = [alternative.logprob for alternative in token.top_logprobs]
        assert scores == sorted(scores, reverse=True)
        assert not scores or token.top_logprobs[0].name == token.name


async def test_a_prompt_can_be_scored_with_and_without_an_answer(open_world):
    world = await open_world()
    for new_tokens in (0, 1):
        request = await make_request(
            world.backend, score_prompt=True, alternatives=2, max_new_tokens=new_tokens
        )
        pieces = await collect(world.backend, request)
        (scored,) = [piece for piece in pieces if isinstance(piece, PromptScored)]
        assert tuple(token.token_id for token in scored.tokens) == request.prompt_ids
        assert scored.tokens[0].logprob is None
        assert all(token.logprob <= 0 for token in scored.tokens[1:])
        assert all(len(token.top_logprobs) == 2 for token in scored.tokens[1:])
        assert len(tokens_of(pieces)) == new_tokens
        assert pieces[-1].reason is Finish.LENGTH


async def test_closing_frees_everything(open_world):
    world = await open_world()
    request = await make_request(world.backend, max_new_tokens=50)
    async with aclosing(world.backend.generate(request)) as pieces:
        async for piece in pieces:
            if isinstance(piece, Generated):
                break
        assert world.count_running() > 0
    async with asyncio.timeout(5):
        while world.count_running():  # noqa: ASYNC110 - nothing tells us
            await asyncio.sleep(0.005)


async def test_missing_layers_are_named_by_the_list_and_by_the_attempt(open_world):
    world = await open_world(is_complete=False)
    (model,) = await world.backend.list_models()
    assert model.uncovered and not model.is_complete
    request = await make_request(world.backend)
    with pytest.raises(NoRoute) as caught:
        await collect(world.backend, request)
    assert caught.value.uncovered == model.uncovered


async def test_descriptions_join_to_the_text_and_unknown_ids_are_refused(open_world):
    world = await open_world()
    (model,) = await world.backend.list_models()
    ids = await world.backend.encode(model.model_id, "One epoch, then another.")
    tokens = await world.backend.describe(model.model_id, ids)
    assert "".join(token.text for token in tokens) == "One epoch, then another."
    for unknown in (1 << 20, (1 << 31) - 1):
        with pytest.raises(InvalidRequest) as caught:
            await world.backend.describe(model.model_id, [unknown])
        assert caught.value.field == "prompt"
