"""What the benchmark of scoring measures, at a size that tests have time for."""

from benchmarks.consensus import LIAR_EVERY, VALIDATORS, measure

BLOCK_S = 6.0


def test_64_hosters_of_22_layers_are_scored_within_a_block():
    row = measure(64)
    # Processor time, so that other work on the machine does not count.
    assert row.naming_s + row.scoring_s < BLOCK_S
    assert row.hosters == 64
    assert row.accepted > 3 * 64 + VALIDATORS
    assert 0 < row.refuted <= 64 // LIAR_EVERY + 1
