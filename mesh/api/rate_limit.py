"""How often one API key may ask."""

from __future__ import annotations

from dataclasses import dataclass

from mesh.token_bucket import TokenBucket

SECONDS_PER_MINUTE = 60.0


@dataclass(frozen=True, slots=True)
class Rate:
    """``per_minute`` requests on average, ``burst`` of them at once."""

    per_minute: int
    burst: int

    def make_bucket(self, *, now_s: float) -> TokenBucket:
        """Return a full allowance."""
        return TokenBucket(self.per_minute / SECONDS_PER_MINUTE, self.burst, now_s)
