"""What is final is asked for only when the answer may have changed."""

from __future__ import annotations

import pytest

from consensus.types import BlockNumber
from subnet.epoch.finality import MAX_LAG, Finality
from tests.support.fakes import FakeChain


class CountingChain(FakeChain):
    """Says that ``final`` is final, and counts how often it is asked."""

    final = 0
    asked = 0

    async def fetch_finalised_number(self) -> BlockNumber:
        self.asked += 1
        return BlockNumber(self.final)


async def is_final(finality: Finality, block: int, *, head: int) -> bool:
    return await finality.fetch_is_final(BlockNumber(block), head=BlockNumber(head))


async def test_the_lag_that_was_seen_once_saves_the_questions_in_between() -> None:
    chain = CountingChain(nodes=())
    finality = Finality(chain)
    chain.final = 98
    assert not await is_final(finality, 100, head=100)
    assert not await is_final(finality, 100, head=101)
    assert chain.asked == 1
    chain.final = 100
    assert await is_final(finality, 100, head=102)
    assert await is_final(finality, 90, head=102)
    assert chain.asked == 2


@pytest.mark.parametrize("stall", [MAX_LAG + 1, 50, 1000])
async def test_after_a_stall_the_next_final_block_is_seen_within_a_few_heads(stall: int) -> None:
    chain = CountingChain(nodes=())
    finality = Finality(chain)
    assert not await is_final(finality, stall, head=stall)
    chain.final = stall
    assert await is_final(finality, stall, head=stall + MAX_LAG)


async def test_finality_that_is_ahead_of_what_was_believed_is_no_negative_lag() -> None:
    chain = CountingChain(nodes=())
    finality = Finality(chain)
    chain.final = 12
    assert await is_final(finality, 10, head=10)
    assert not await is_final(finality, 20, head=11)
