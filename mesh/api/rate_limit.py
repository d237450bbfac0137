"""Token buckets: so many requests a minute, with a burst. Time is an argument."""

from __future__ import annotations

import math
from dataclasses import dataclass

SECONDS_PER_MINUTE = 60.0


@dataclass(frozen=True, slots=True)
class Rate:
    """``per_minute`` requests on average, ``burst`` of them at once."""

    per_minute: int
    burst: int


@dataclass(slots=True)
class Bucket:
    """One caller's allowance."""

    rate: Rate
    filled: float
    updated_s: float

    @classmethod
    def full(cls, rate: Rate, *, now_s: float) -> Bucket:
        """Return a full bucket."""
        return cls(rate, float(rate.burst), now_s)

    def take(self, *, now_s: float) -> int:
        """Draw one request. Returns 0 if it is allowed, else the whole seconds to wait."""
        per_second = self.rate.per_minute / SECONDS_PER_MINUTE
        elapsed_s = max(0.0, now_s - self.updated_s)
        self.filled = min(self.rate.burst, self.filled + elapsed_s * per_second)
        self.updated_s = now_s
        if self.filled >= 1.0:
            self.filled -= 1.0
            return 0
        return max(1, math.ceil((1.0 - self.filled) / per_second))
