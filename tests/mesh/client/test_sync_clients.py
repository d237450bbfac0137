"""The clients for programs without an event loop: the same words and the same answers."""

from __future__ import annotations

import asyncio
import inspect
import threading

import pytest

from mesh.api.server import ServeConfig, open_gateway
from mesh.client import HttpMeshClient, MeshClient, SyncHttpMeshClient, SyncMeshClient
from mesh.client.bridge import LoopClosed
from mesh.client.http import GatewayUnreachable
from mesh.errors import InvalidRequest
from tests.support.gateways import QUICK
from tests.support.local_backend import ANSWER, MODEL, LocalBackend
from tests.support.real_swarm import open_real_swarm


def list_words(method):
    """Return what a method takes, and what each is without being named."""
    told = inspect.signature(method).parameters.values()
    return [(word.name, word.kind, word.default) for word in told]


@pytest.mark.parametrize(
    ("own", "other", "names"),
    [
        (SyncHttpMeshClient, HttpMeshClient, ["generate", "list_models", "close"]),
        (SyncMeshClient, MeshClient, ["generate", "score", "encode"]),
    ],
)
def test_the_words_are_those_of_the_client_with_an_event_loop(own, other, names):
    for name in names:
        assert list_words(getattr(own, name)) == list_words(getattr(other, name))


@pytest.fixture
async def url():
    async with open_gateway(ServeConfig(port=0, limits=QUICK), LocalBackend()) as gateway:
        yield gateway.url


async def test_an_answer_over_http_is_a_plain_loop(url):
    def ask():
        with SyncHttpMeshClient(url) as client:
            assert client.list_models() == (MODEL,)
            return [*client.generate("Hello", max_new_tokens=200)]

    tokens = await asyncio.to_thread(ask)
    assert "".join(token.text for token in tokens) == ANSWER
    assert tokens[-1].finish_reason == "stop"


async def test_what_is_refused_is_raised_as_with_an_event_loop(url):
    def ask():
        with SyncHttpMeshClient(url) as client:
            for options in ({"max_new_tokens": 0}, {"max_new_tokens": 10**6}):
                with pytest.raises(InvalidRequest):
                    next(client.generate("Hello", **options))

    await asyncio.to_thread(ask)


def test_a_gateway_that_is_not_there_is_told():
    with SyncHttpMeshClient("http://127.0.0.1:1") as client, pytest.raises(GatewayUnreachable):
        client.list_models()


async def test_a_loop_that_is_left_frees_the_backend():
    backend = LocalBackend(is_endless=True, delay_s=0.001)
    async with open_gateway(ServeConfig(port=0, limits=QUICK), backend) as gateway:

        def ask():
            with SyncHttpMeshClient(gateway.url) as client:
                tokens = client.generate("Hello", max_new_tokens=400)
                assert next(tokens).text
                tokens.close()

        await asyncio.to_thread(ask)
        async with asyncio.timeout(20):
            while backend.running:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


def test_a_closed_client_has_no_thread_and_says_so():
    client = SyncHttpMeshClient("http://127.0.0.1:1")
    client.close()
    client.close()
    assert not any(thread.name == "mesh client" for thread in threading.enumerate())
    with pytest.raises(LoopClosed):
        client.list_models()


async def test_a_loop_that_outlives_its_client_ends_in_silence(url):
    def ask():
        with SyncHttpMeshClient(url) as client:
            tokens = client.generate("Hello", max_new_tokens=200)
            next(tokens)
        tokens.close()

    await asyncio.to_thread(ask)


async def test_an_answer_over_libp2p_is_a_plain_loop():
    async with open_real_swarm([(0, 4), (4, 8)]) as (address, _):

        def ask():
            with SyncMeshClient([address]) as client:
                chat = [{"role": "user", "content": "What is a hoster?"}]
                tokens = [*client.generate(chat, max_new_tokens=8)]
                return tokens, client.encode("Hello"), client.score("Hello")

        tokens, encoded, scored = await asyncio.to_thread(ask)
    assert len(tokens) == 8 and tokens[-1].finish_reason == "length"
    assert "".join(token.text for token in tokens).startswith("A hoster")
    assert [token.token_id for token in scored] == [*encoded[1:]]
