"""What a client measured of hosters itself: distance, speed and failures.

A hoster's own words plan a route where nothing was measured. What was measured corrects them, so a
hoster that says it is fast, or answers questions fast and computes slowly, gains one answer.

- A **round trip** is that of a short question. Half of it stands for a hop to the hoster.
- The **surplus** of a hop is what a token took there beyond the computing that was announced. The
  client sees the time between tokens only, so the hops of a route share it equally. It replaces the
  round trip, and fades: a hoster that was slow once gets another chance.
- **Bandwidth** is that of long answers to the client.
- A **failure** makes a hoster a last resort for a while, twice as long each time until it serves.

Distances are rounded, so that hosters at about the same distance are a tie, which is drawn.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from keys.peer import PeerId

MAX_MEASURED = 1024
"""Hosters of which measures are kept; the one that was met longest ago is forgotten first."""
NEWEST_SHARE = 0.3
"""What the newest measure counts in the average."""
SURPLUS_HALF_LIFE_S = 60.0
FIRST_PAUSE_S = 1.0
MAX_PAUSE_S = 60.0
MAX_FAILURES = 16
"""Failures that are counted: the pause is at its longest well before, and 2**n stays a float."""
FAILED_HOP_S = 30.0
"""What a hop to a hoster that failed lately seems to cost: others are taken while there are any."""
MIN_TRANSFER = 32 << 10
"""Bytes of an answer from which on its bandwidth is measured."""
ROWS_PER_TOKEN = 4
"""Rows that cross a hop for one token of an answer, its share of the prompt included."""
STEP = 1.25
"""Distances whose ratio is less than about this are equal."""
MIN_HOP_S = 0.001
MAX_SURPLUS_S = 10.0


@dataclass(slots=True)
class _Measured:
    round_trip_s: float | None = None
    asked_at_s: float = -math.inf
    surplus_s: float | None = None
    surplus_at_s: float = 0.0
    bandwidth: float | None = None
    failures: int = 0
    shunned_until_s: float = 0.0


class HopMeasures:
    """Measures by hoster. ``clock`` is monotonic, so a clock that jumps changes nothing."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._peers: OrderedDict[PeerId, _Measured] = OrderedDict()

    def note_round_trip(self, peer: PeerId, seconds: float) -> None:
        """Count a short question that was answered after ``seconds``."""
        known = self._get(peer)
        known.round_trip_s = _average(known.round_trip_s, seconds)

    def choose_oldest(self, peers: Sequence[PeerId], count: int) -> list[PeerId]:
        """Return those of ``peers`` that were chosen longest ago, and note that they are now."""

        def age(peer: PeerId) -> float:
            known = self._peers.get(peer)
            return -math.inf if known is None else known.asked_at_s

        chosen = sorted(peers, key=age)[:count]
        for peer in chosen:
            self._get(peer).asked_at_s = self._clock()
        return chosen

    def note_transfer(self, peer: PeerId, size: int, seconds: float) -> None:
        """Count a question whose answer of ``size`` bytes was there after ``seconds``."""
        known = self._get(peer)
        if size < MIN_TRANSFER:
            self.note_round_trip(peer, seconds)
        elif known.round_trip_s is not None and seconds > known.round_trip_s:
            bandwidth = size / (seconds - known.round_trip_s)
            known.bandwidth = _average(known.bandwidth, bandwidth)

    def note_answer(self, announced: Sequence[tuple[PeerId, float]], token_s: float | None) -> None:
        """Count an answer that ended well. ``announced`` has the hops of its route, each with the
        seconds that it announced for a token; ``token_s`` is what a token took, None if unknown.
        """
        computing_s = sum(seconds for _, seconds in announced)
        for peer, _ in announced:
            known = self._get(peer)
            known.failures, known.shunned_until_s = 0, 0.0
            if token_s is not None:
                surplus_s = min(max(0.0, token_s - computing_s) / len(announced), MAX_SURPLUS_S)
                known.surplus_s = _average(known.surplus_s, surplus_s)
                known.surplus_at_s = self._clock()

    def note_failure(self, peer: PeerId) -> None:
        """Make a hoster a last resort for a while."""
        known = self._get(peer)
        pause_s = min(FIRST_PAUSE_S * 2**known.failures, MAX_PAUSE_S)
        known.failures = min(known.failures + 1, MAX_FAILURES)
        known.shunned_until_s = self._clock() + pause_s

    def estimate_hops(self, peers: Sequence[PeerId], *, row_size: int = 0) -> list[float]:
        """Return the seconds of a hop to each of ``peers``, where a row has ``row_size`` bytes.

        A hoster that was not measured is as far as half of the others.
        """
        trips = [m.round_trip_s / 2 for m in self._peers.values() if m.round_trip_s is not None]
        usual_s = statistics.median(trips) if trips else MIN_HOP_S
        return [self._estimate(peer, usual_s, row_size) for peer in peers]

    def _estimate(self, peer: PeerId, usual_s: float, row_size: int) -> float:
        known = self._peers.get(peer)
        if known is None:
            return _round(usual_s)
        hop_s = usual_s if known.round_trip_s is None else known.round_trip_s / 2
        if known.surplus_s is not None:
            age_s = self._clock() - known.surplus_at_s
            weight = 0.5 ** (age_s / SURPLUS_HALF_LIFE_S)
            hop_s = weight * known.surplus_s + (1 - weight) * hop_s
        if known.bandwidth is not None:
            hop_s += ROWS_PER_TOKEN * row_size / known.bandwidth
        penalty_s = FAILED_HOP_S if known.shunned_until_s > self._clock() else 0.0
        return _round(hop_s) + penalty_s

    def _get(self, peer: PeerId) -> _Measured:
        known = self._peers.setdefault(peer, _Measured())
        self._peers.move_to_end(peer)
        if len(self._peers) > MAX_MEASURED:
            self._peers.popitem(last=False)
        return known


class TokenPace:
    """The time between two tokens as a client waits for them, without what its reader takes."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._arrived_s: float | None = None
        self._waiting_since_s = 0.0
        self._intervals: list[float] = []

    def note_arrival(self) -> None:
        """A token has arrived."""
        now_s, before_s = self._clock(), self._arrived_s
        self._arrived_s = now_s
        if before_s is None or len(self._intervals) >= MAX_INTERVALS:
            return
        # A token that lay there already says how slow the reader is.
        if now_s - self._waiting_since_s >= (now_s - before_s) / 2:
            self._intervals.append(now_s - before_s)

    def note_wait(self) -> None:
        """The next token is waited for from now on."""
        self._waiting_since_s = self._clock()

    @property
    def token_s(self) -> float | None:
        """The usual time; None before there are ``MIN_INTERVALS``."""
        if len(self._intervals) < MIN_INTERVALS:
            return None
        return statistics.median(self._intervals)


MIN_INTERVALS, MAX_INTERVALS = 4, 256


def _average(before: float | None, newest: float) -> float:
    return newest if before is None else before + NEWEST_SHARE * (newest - before)


def _round(seconds: float) -> float:
    """Return the nearest power of ``STEP``, in seconds; at least ``MIN_HOP_S``."""
    exponent = round(math.log(max(seconds, MIN_HOP_S) / MIN_HOP_S, STEP))
    return float(MIN_HOP_S * STEP**exponent)
