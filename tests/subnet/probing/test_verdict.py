"""What attempts prove, and that nobody pays for what another hop spoilt."""

from __future__ import annotations

import math

import pytest

from consensus.protocol_params import MAINNET
from keys.peer import PeerKey
from subnet.probing.verdict import (
    Failed,
    Passed,
    Unclear,
    compute_distance,
    is_too_far,
    judge_attempts,
)

A, B = (PeerKey(bytes([number]) * 32).peer_id for number in (1, 2))
REFUSED = Failed("busy")


def blame(*peers):
    return Failed("hop_lost", frozenset(peers))


@pytest.mark.parametrize(
    ("attempts", "expected"),
    [
        ([Passed()], True),
        ([REFUSED, REFUSED, Passed()], True),
        ([REFUSED] * 3, False),
        ([blame(A), blame(B), blame(A)], False),
        ([blame(A, B), blame(A), REFUSED], False),
        ([], None),
        ([REFUSED, REFUSED], None),
        ([REFUSED, REFUSED, Unclear("offline")], None),
        ([blame(A), blame(A, B), blame(A)], None),
    ],
    ids=[
        "answered",
        "answered at last",
        "refused three times",
        "no hop stood in all of them",
        "one of them was its own",
        "never asked",
        "asked twice",
        "this node was offline once",
        "one hop stood in all of them",
    ],
)
def test_a_probe_failed_only_if_nobody_else_can_have_spoilt_it(attempts, expected):
    assert judge_attempts(attempts, MAINNET) is expected


def test_distance_is_relative_to_what_the_model_says():
    vocab = 1024
    ignorant = -math.log(vocab)
    assert compute_distance([-1.0, -2.0], [-1.0, -2.0], vocab_size=vocab) == 0
    near = compute_distance([-1.01, -2.0], [-1.0, -2.0], vocab_size=vocab)
    assert near == pytest.approx(0.01 / math.hypot(ignorant + 1, ignorant + 2))
    # A token that the hoster calls certain and the model calls as likely as any other.
    assert compute_distance([0.0], [ignorant], vocab_size=vocab) > 1
    # Noise of a model that says nothing is not divided by nothing.
    assert compute_distance([ignorant + 0.01] * 4, [ignorant] * 4, vocab_size=vocab) < 0.02


def test_a_wrong_answer_is_one_twentieth_away_or_no_number():
    assert not is_too_far(0.05, MAINNET)
    assert is_too_far(0.0501, MAINNET)
    assert is_too_far(math.nan, MAINNET)
    assert is_too_far(math.inf, MAINNET)


@pytest.mark.parametrize("expected", [[], [-1.0, -2.0]])
def test_answers_of_different_lengths_are_our_mistake(expected):
    with pytest.raises(ValueError, match="log probabilities"):
        compute_distance([-1.0] if expected else [], expected, vocab_size=9)
