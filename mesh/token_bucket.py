"""A token bucket: so many requests a second on average, with a burst. Time is an argument."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class TokenBucket:
    """One caller's allowance, full at first. A clock that steps back grants nothing."""

    per_second: float
    burst: int
    updated_s: float
    _filled: float = field(init=False)

    def __post_init__(self) -> None:
        self._filled = float(self.burst)

    @property
    def remaining(self) -> int:
        """How many requests are allowed at once now, as of the last one."""
        return int(self._filled)

    @property
    def full_after_s(self) -> float:
        """In how many seconds after the last request the burst is whole again."""
        return (self.burst - self._filled) / self.per_second

    def take(self, *, now_s: float) -> float:
        """Draw one request. Returns 0 if it is allowed, else the seconds until the next one is."""
        elapsed_s = max(0.0, now_s - self.updated_s)
        self._filled = min(float(self.burst), self._filled + elapsed_s * self.per_second)
        self.updated_s = now_s
        if self._filled >= 1.0:
            self._filled -= 1.0
            return 0.0
        return (1.0 - self._filled) / self.per_second
