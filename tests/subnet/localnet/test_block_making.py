"""Who makes the blocks is chosen by what the chain serves, and a clock that ran ahead is set."""

from __future__ import annotations

import time
from typing import Any

import pytest

from consensus.types import BlockNumber
from subnet.errors import ConfigError
from subnet.localnet import block_making
from subnet.localnet.block_making import (
    ChopsticksBlockMaker,
    DevChainBlockMaker,
    FollowedChain,
    choose_block_maker,
)

CHOPSTICKS = ("dev_newBlock", "dev_setBlockBuildMode", "dev_timeTravel")
STEP_MS = 6000


class EnoughError(Exception):
    """Ends a run that would go on for ever."""


class FakeRuntime:
    """Chopsticks as far as it matters: a block takes the time one step on, when it is told."""

    def __init__(self, *methods: str, time_ms: int = 0) -> None:
        self.methods = methods
        self.number = 0
        self.last: int | None = None
        self.time_ms = time_ms
        self.modes: list[str] = []

    async def query(self, work: Any) -> Any:
        return work(self)

    def rpc(self, method: str, *params: Any) -> Any:
        match method:
            case "rpc_methods":
                return {"methods": list(self.methods)}
            case "dev_newBlock":
                self.number += params[0]["count"]
                self.time_ms += STEP_MS * params[0]["count"]
                if self.number == self.last:
                    raise EnoughError
            case "dev_timeTravel":
                self.time_ms = params[0]
            case "dev_setBlockBuildMode":
                self.modes.append(params[0])
        return None

    def read(self, item: str, *, at: str, default: bool) -> int:
        return self.time_ms

    def read_constant(self, name: str) -> int:
        return STEP_MS // 2

    def read_head_hash(self) -> str:
        return "0x"

    def read_header(self, block_hash: str) -> Any:
        return self

    @property
    def lag_s(self) -> float:
        return time.time() - self.time_ms / 1000


async def choose(*methods: str, is_driven: bool = True) -> object:
    chain: Any = FakeRuntime(*methods)
    return await choose_block_maker(chain, block_seconds=6.0, is_driven=is_driven, url="ws://x")


async def test_blocks_are_made_in_the_way_that_the_chain_serves() -> None:
    assert isinstance(await choose("dev_newBlock", "dev_setBlockMode"), DevChainBlockMaker)
    assert isinstance(await choose(*CHOPSTICKS), ChopsticksBlockMaker)
    assert isinstance(await choose("system_chain"), FollowedChain)
    assert isinstance(await choose(*CHOPSTICKS, is_driven=False), FollowedChain)
    with pytest.raises(ConfigError, match="makes blocks on demand"):
        await choose("dev_newBlock")


@pytest.mark.parametrize("ahead_s", [-3600, 0, 600])
async def test_after_the_set_up_the_chains_clock_is_the_wall_clock(ahead_s: int) -> None:
    runtime = FakeRuntime(*CHOPSTICKS, time_ms=int((time.time() + ahead_s) * 1000))
    made = ChopsticksBlockMaker(runtime, block_seconds=6.0)  # type: ignore[arg-type]
    await made.begin_setup()
    await made.skip_to(BlockNumber(30))
    assert (runtime.number, runtime.modes) == (30, ["Instant", "Manual"])
    assert abs(runtime.lag_s) <= block_making.MAX_DRIFT_S
    await made.skip_to(BlockNumber(10))
    assert runtime.number == 30
    await made.aclose()
    assert runtime.modes[-1] == "Instant"


async def test_blocks_come_at_their_pace_until_the_end() -> None:
    runtime = FakeRuntime(*CHOPSTICKS, time_ms=int(time.time() * 1000))
    made = ChopsticksBlockMaker(runtime, block_seconds=0.01)  # type: ignore[arg-type]
    runtime.last = 5
    began_at = time.monotonic()
    with pytest.raises(EnoughError):
        await made.run()
    assert time.monotonic() - began_at >= 0.04
    assert abs(runtime.lag_s) <= 2 * block_making.MAX_DRIFT_S
