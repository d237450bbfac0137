"""One head far from the present does not carry the node away, and no mistake is for ever."""

from __future__ import annotations

import pytest

from consensus.types import BlockNumber
from subnet.epoch.heads import CONFIRMATIONS, MAX_BLOCKS_AHEAD, MAX_BLOCKS_BACK, HeadFilter
from subnet.epoch.interfaces import BlockInfo

START_S = 1_700_000_000
BLOCK_S = 6


def block(number: int, *, timestamp_s: int | None = None) -> BlockInfo:
    at_s = START_S + number * BLOCK_S if timestamp_s is None else timestamp_s
    return BlockInfo(BlockNumber(number), number.to_bytes(32), at_s)


def now(number: int) -> int:
    """Return the wall clock at the time of an honest block."""
    return START_S + number * BLOCK_S


def follow(heads: HeadFilter, *numbers: int, at: int | None = None) -> list[bool]:
    return [heads.take(block(n), now_s=now(n if at is None else at)) for n in numbers]


@pytest.fixture
def heads() -> HeadFilter:
    found = HeadFilter(block_time_s=BLOCK_S)
    assert follow(found, 100, 101) == [True, True]
    return found


@pytest.mark.parametrize("inflated", [102 + MAX_BLOCKS_AHEAD, 1000, 2**32 - 1])
@pytest.mark.parametrize("is_timestamp_inflated", [False, True])
def test_an_inflated_head_is_refused_and_the_next_true_one_taken(
    heads: HeadFilter, inflated: int, is_timestamp_inflated: bool
) -> None:
    lie = block(inflated, timestamp_s=None if is_timestamp_inflated else now(101))
    assert not heads.take(lie, now_s=now(101))
    assert heads.is_doubting
    assert follow(heads, 102) == [True]
    assert not heads.is_doubting


def test_inflated_heads_between_true_ones_never_add_up(heads: HeadFilter) -> None:
    for number in range(102, 102 + 4 * CONFIRMATIONS):
        assert not heads.take(block(number + 1000), now_s=now(number))
        assert follow(heads, number) == [True]


def test_inflated_heads_that_do_not_agree_never_add_up(heads: HeadFilter) -> None:
    for number in (10_000, 9_000, 20_000, 5_000, 40_000, 30_000):
        assert not heads.take(block(number), now_s=now(102))


def test_an_inflated_first_head_is_left_behind_after_a_few_true_ones() -> None:
    heads = HeadFilter(block_time_s=BLOCK_S)
    assert heads.take(block(5000, timestamp_s=now(100)), now_s=now(100))
    assert follow(heads, *range(101, 101 + CONFIRMATIONS)) == [False] * (CONFIRMATIONS - 1) + [True]
    assert heads.head == block(100 + CONFIRMATIONS)
    assert follow(heads, 101 + CONFIRMATIONS) == [True]


def test_an_inflated_first_head_is_refused_when_the_journal_knows_better() -> None:
    heads = HeadFilter(block_time_s=BLOCK_S, known=block(80), known_ahead=40)
    assert heads.head is None
    assert not heads.take(block(5000), now_s=now(100))
    assert follow(heads, 101) == [True]


def test_a_reorganisation_of_a_few_blocks_waits_until_the_new_chain_is_longer(
    heads: HeadFilter,
) -> None:
    assert follow(heads, 101 - MAX_BLOCKS_BACK, 100, 101, at=102) == [False] * 3
    assert not heads.is_doubting
    assert heads.head == block(101)
    assert follow(heads, 102) == [True]


def test_a_chain_that_was_reset_far_back_is_followed_after_a_few_heads(heads: HeadFilter) -> None:
    assert follow(heads, 50, 51, 52, at=102) == [False, False, True]
    assert heads.head == block(52)


def test_an_outage_as_long_as_the_leap_explains_it(heads: HeadFilter) -> None:
    assert follow(heads, 2000) == [True]


def test_an_endpoint_that_was_behind_catches_up_in_a_leap() -> None:
    heads = HeadFilter(block_time_s=BLOCK_S)
    assert follow(heads, 100, at=2000) == [True]
    assert follow(heads, 1999, at=2000) == [True]


def test_a_wrong_clock_of_this_machine_does_not_stop_the_node() -> None:
    heads = HeadFilter(block_time_s=BLOCK_S)
    slow_s = 3600
    for number in (100, 101, 102, 300, 301):
        assert heads.take(block(number), now_s=now(number) - slow_s)
    # The clock is set back by another hour while the node runs.
    taken = [
        heads.take(block(number), now_s=now(number) - 2 * slow_s) for number in (400, 401, 402)
    ]
    assert taken == [False, False, True]


def test_a_leap_of_a_chain_that_then_stands_still_is_believed_when_asked_again(
    heads: HeadFilter,
) -> None:
    assert follow(heads, *[500] * CONFIRMATIONS, at=102) == [False] * (CONFIRMATIONS - 1) + [True]


def test_a_chain_faster_than_it_says_is_followed_from_the_journals_last_roster() -> None:
    heads = HeadFilter(block_time_s=BLOCK_S, known=block(80), known_ahead=40)
    assert follow(heads, 100, at=81) == [True]
