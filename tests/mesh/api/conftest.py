"""A real uvicorn server on loopback for every test, in front of a deterministic backend."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import httpx
import pytest

from tests.support.gateways import open_client
from tests.support.local_backend import LocalBackend


@pytest.fixture(scope="session")
def tokenizer():
    return LocalBackend().tokenizer


@pytest.fixture
def make_backend(tokenizer) -> Callable[..., LocalBackend]:
    return lambda **options: LocalBackend(tokenizer=tokenizer, **options)


@pytest.fixture
async def open_api() -> AsyncIterator[Callable[..., Awaitable[httpx.AsyncClient]]]:
    """Return a function that starts a gateway and returns a client of it."""
    async with AsyncExitStack() as stack:

        async def open_it(backend, **options) -> httpx.AsyncClient:
            return await stack.enter_async_context(open_client(backend, **options))

        yield open_it


@pytest.fixture
def backend(make_backend) -> LocalBackend:
    return make_backend()


@pytest.fixture
async def api(open_api, backend) -> httpx.AsyncClient:
    return await open_api(backend)
