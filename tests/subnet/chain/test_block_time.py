"""The pace of a chain is what it says, or what is seen where it runs faster."""

from __future__ import annotations

import pytest

from subnet.chain.block_time import GAPS_SEEN, MIN_PACE_S, Pace


def follow(block_s: float, *, target_s: float = 6.0) -> Pace:
    pace = Pace(target_s)
    for number in range(GAPS_SEEN + 1):
        pace.note_head(number * block_s)
    return pace


@pytest.mark.parametrize("block_s", [0.25, 1.0, 2.0, 6.0])
def test_a_chain_that_runs_faster_than_it_says_is_followed_at_its_own_pace(
    block_s: float,
) -> None:
    assert follow(block_s).block_s == pytest.approx(block_s)


def test_a_chain_that_is_late_is_not_waited_for_any_longer() -> None:
    assert follow(60.0).block_s == 6.0
    assert Pace(6.0).block_s == 6.0


def test_blocks_at_once_do_not_make_a_client_ask_without_a_pause() -> None:
    assert follow(0.0).block_s == MIN_PACE_S


def test_one_late_block_counts() -> None:
    pace = follow(1.0)
    pace.note_head(GAPS_SEEN * 1.0 + 3.0)
    assert pace.block_s == pytest.approx(3.0)
