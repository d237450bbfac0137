"""The pallet's fixed-point arithmetic and its reward curves.

Percentages are integers with 10**18 as 1.0; products and quotients round down.
Curves are evaluated in double precision, as the runtime does with libm.
"""

from __future__ import annotations

import math

from devchain.chain_types import ONE

MAX_U128 = (1 << 128) - 1


def percent_mul(value: int, percent: int) -> int:
    """``value * percent`` in fixed point."""
    return min(value * percent // ONE, MAX_U128)


def percent_div(value: int, divisor: int) -> int:
    """``value / divisor`` as fixed point; 0 for a zero divisor."""
    return 0 if divisor == 0 else min(value * ONE // divisor, MAX_U128)


def to_float(value: int) -> float:
    """Fixed point as a double."""
    return float(value) / 1e18


def to_fixed(value: float) -> int:
    """A double in [0, 1] as fixed point."""
    return min(max(int(value * 1e18), 0), ONE)


def sigmoid_decreasing(x: float, *, midpoint: float, steepness: float) -> float:
    """1 / (1 + exp(steepness * (x - midpoint))), arranged so that exp never overflows early."""
    growth = math.exp(steepness * abs(x - midpoint))
    return 1.0 / (1.0 + growth) if x > midpoint else growth / (1.0 + growth)


def concave_decreasing(x: float, *, minimum: float, power: float) -> float:
    """Fall from 1 at x = 0 to ``minimum`` at x = 1, slowly at first: 1 - x**power."""
    return min(max(minimum + (1.0 - minimum) * (1.0 - math.pow(x, power)), minimum), 1.0)


def increase_reputation(reputation: int, factor: int) -> int:
    """Move ``reputation`` towards 1 by ``factor`` of what is missing, rounded down."""
    return min(reputation + percent_mul(max(0, ONE - reputation), min(factor, ONE)), ONE)


def decrease_reputation(reputation: int, factor: int) -> int:
    """Take ``factor`` of ``reputation`` away."""
    return max(0, reputation - percent_mul(reputation, min(factor, ONE)))
