"""Make the blocks of a local network: its own chain, this process, or the chain by itself does."""

from __future__ import annotations

import asyncio
import contextlib
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Protocol

from consensus.types import BlockNumber
from subnet.chain.substrate import SubstrateChain
from subnet.errors import ChainUnavailable, ConfigError

if TYPE_CHECKING:
    from subnet.chain.chain_session import ChainSession

DEVCHAIN_METHOD = "dev_setBlockMode"
CHOPSTICKS_METHOD = "dev_setBlockBuildMode"
BUILD_METHOD = "dev_newBlock"
TIME_METHOD = "dev_timeTravel"

BUILD_TIMEOUT_S = 60.0
"""The real runtime takes a second for a block, and several on a busy machine."""
MAX_DRIFT_S = 3.0
"""Half of the runtime's time step: blocks in step with the wall clock stay well below."""
MILLISECONDS = 1000


class BlockMaker(Protocol):
    """Controls when blocks are made, during the set-up and while the network runs."""

    async def begin_setup(self) -> None:
        """Let each extrinsic of the set-up find its block."""
        ...

    async def skip_to(self, number: BlockNumber) -> None:
        """Return once the head is ``number`` or later."""
        ...

    async def run(self) -> None:
        """Make a block every so often, until cancelled; may return if the chain does it."""
        ...

    async def aclose(self) -> None:
        """Leave a chain that takes extrinsics without us."""
        ...


class DevChainBlockMaker:
    """The development chain: instant during the set-up, then by its own clock."""

    def __init__(self, chain: SubstrateChain, *, block_seconds: float) -> None:
        self._chain = chain
        self._block_seconds = block_seconds

    async def begin_setup(self) -> None:
        await self._chain.query(lambda session: session.rpc(DEVCHAIN_METHOD, "instant"))

    async def skip_to(self, number: BlockNumber) -> None:
        missing = number - await fetch_head_number(self._chain)
        if missing > 0:
            await self._chain.query(lambda session: session.rpc(BUILD_METHOD, {"count": missing}))

    async def run(self) -> None:
        await self._chain.query(
            lambda session: session.rpc(DEVCHAIN_METHOD, "interval", self._block_seconds)
        )

    async def aclose(self) -> None:
        """It goes on by its own clock."""


class ChopsticksBlockMaker:
    """The real runtime in chopsticks, which makes a block when it is told to.

    Its clock goes one step a block, whenever that block is made, so a set-up of many blocks
    leaves it ahead. Before a block its clock is put right; blocks at the runtime's own pace
    keep it right by themselves.
    """

    def __init__(self, chain: SubstrateChain, *, block_seconds: float) -> None:
        self._chain = chain
        self._block_seconds = block_seconds

    async def begin_setup(self) -> None:
        await self._set_mode("Instant")

    async def skip_to(self, number: BlockNumber) -> None:
        # From now on an extrinsic waits for the next block instead of making one.
        await self._set_mode("Manual")
        while await fetch_head_number(self._chain) < number:
            await self._build()

    async def run(self) -> None:
        await self._set_mode("Manual")
        due_at = time.monotonic()
        while True:
            await self._build()
            due_at += self._block_seconds
            await asyncio.sleep(max(0.0, due_at - time.monotonic()))

    async def aclose(self) -> None:
        with contextlib.suppress(ChainUnavailable):
            await self._set_mode("Instant")

    async def _set_mode(self, mode: str) -> None:
        await self._chain.query(lambda session: session.rpc(CHOPSTICKS_METHOD, mode))

    async def _build(self) -> None:
        step_ms = await self._chain.query(_read_time_step)
        chain_ms = await self._chain.query(_read_time)
        wanted_ms = int(time.time() * MILLISECONDS) - step_ms
        if abs(wanted_ms - chain_ms) > MAX_DRIFT_S * MILLISECONDS:
            await self._chain.query(lambda session: session.rpc(TIME_METHOD, wanted_ms))
        await self._chain.query(lambda session: session.rpc(BUILD_METHOD, {"count": 1}))


class FollowedChain:
    """A chain that makes its blocks by itself."""

    def __init__(self, chain: SubstrateChain) -> None:
        self._chain = chain

    async def begin_setup(self) -> None:
        """Its blocks come anyway."""

    async def skip_to(self, number: BlockNumber) -> None:
        async with aclosing(self._chain.heads()) as heads:
            async for head in heads:
                if head.number >= number:
                    return

    async def run(self) -> None:
        """Its blocks come anyway."""

    async def aclose(self) -> None:
        """Its blocks come anyway."""


async def choose_block_maker(
    chain: SubstrateChain, *, block_seconds: float, is_driven: bool, url: str
) -> BlockMaker:
    """Return how blocks come to be on this chain, by the methods that it serves."""
    answer = await chain.query(lambda session: session.rpc("rpc_methods"))
    methods = set(answer["methods"])
    if not is_driven:
        return FollowedChain(chain)
    if DEVCHAIN_METHOD in methods:
        return DevChainBlockMaker(chain, block_seconds=block_seconds)
    if {CHOPSTICKS_METHOD, BUILD_METHOD, TIME_METHOD} <= methods:
        return ChopsticksBlockMaker(chain, block_seconds=block_seconds)
    if BUILD_METHOD in methods:
        raise ConfigError(
            f"{url} makes blocks on demand in a way that is not known here",
            "let it make its blocks by itself and give --no-drive",
        )
    return FollowedChain(chain)


async def fetch_head_number(chain: SubstrateChain) -> BlockNumber:
    """Return the number of the best block."""
    header = await chain.query(lambda session: session.read_header(session.read_head_hash()))
    return BlockNumber(header.number)


def _read_time(session: ChainSession) -> int:
    """Return the head's time in ms."""
    return int(session.read("Timestamp.Now", at=session.read_head_hash(), default=True))


def _read_time_step(session: ChainSession) -> int:
    """Return the time from block to block in ms: twice Timestamp.MinimumPeriod under Aura."""
    return 2 * int(session.read_constant("Timestamp.MinimumPeriod"))
