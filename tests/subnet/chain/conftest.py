"""A development chain for the client's tests; every extrinsic builds a block."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from devchain.config import BlockMode, DevChainConfig
from devchain.server import DevChain


@pytest.fixture
async def devchain() -> AsyncIterator[DevChain]:
    config = DevChainConfig(mode=BlockMode.INSTANT, seed=b"chain client")
    async with DevChain.open(config) as running:
        yield running
