"""What a hoster has served since it started: plain numbers, read from outside.

One :class:`ServingMeasures` outlives the engines of a node that moves to other layers.
"""

from __future__ import annotations

import time
from collections import Counter
from enum import StrEnum

from mesh.histogram import SECONDS_OF_A_REQUEST, SECONDS_OF_A_STEP, Histogram
from mesh.inference.refusals import read_reason


class RefillResult(StrEnum):
    """What a session that goes on over a changed route found at this hoster."""

    KEPT = "kept"
    """Its cache."""
    FILLED = "filled"
    """Nothing: this range is filled again."""
    GIVEN_UP = "given_up"
    """A cache that it gave up, since the states that the next range needs were not kept."""


class ServingMeasures:
    """Counts that only grow.

    The compute thread adds to ``prompt_rows``, ``decode_rows`` and ``challenges``, the event loop
    to the sessions and the prefixes, both to the histograms, which are in seconds. A row is one
    token at this node's layers.
    """

    __slots__ = (
        "between_tokens",
        "challenges",
        "decode_rows",
        "first_token",
        "prefix_hits",
        "prefix_queries",
        "prompt_rows",
        "refilled_rows",
        "refills",
        "sessions_failed",
        "sessions_opened",
        "spec_accepted_tokens",
        "spec_draft_tokens",
        "spec_drafts",
        "spec_dropped_windows",
        "step",
    )

    def __init__(self) -> None:
        self.sessions_opened = 0
        self.sessions_failed: Counter[str] = Counter()
        self.prompt_rows = 0
        self.decode_rows = 0
        self.challenges = 0
        self.prefix_queries = 0
        self.prefix_hits = 0
        self.refills: Counter[RefillResult] = Counter()
        self.refilled_rows = 0
        self.spec_drafts = 0
        self.spec_draft_tokens = 0
        self.spec_accepted_tokens = 0
        self.spec_dropped_windows = 0
        self.step = Histogram(SECONDS_OF_A_STEP)
        self.first_token = Histogram(SECONDS_OF_A_REQUEST)
        self.between_tokens = Histogram(SECONDS_OF_A_STEP)

    def note_step(self, rows: int, elapsed_us: int, *, is_decode: bool) -> None:
        """Count a computed step; ``elapsed_us`` includes its wait for the compute thread."""
        if is_decode:
            self.decode_rows += rows
        else:
            self.prompt_rows += rows
        self.step.add(elapsed_us / 1e6)

    def note_prefix(self, tokens: int, reused: int) -> None:
        """Count a prompt of a session that ends, and how many of its tokens were in the cache."""
        self.prefix_queries += tokens
        self.prefix_hits += reused

    def note_draft(self, drafted: int, accepted: int) -> None:
        """Count a verified draft, at the first range."""
        self.spec_drafts += 1
        self.spec_draft_tokens += drafted
        self.spec_accepted_tokens += accepted

    def note_dropped(self, windows: int) -> None:
        """Count windows that were sent ahead in vain, at the first range."""
        self.spec_dropped_windows += windows

    def note_failure(self, reason: str) -> None:
        """Count a session that was refused or ended early.

        A word that this version does not know comes from a peer, and is counted as a failure.
        """
        self.sessions_failed[read_reason(reason).value] += 1


class TokenClock:
    """Measures one answer where its tokens leave for the client: at the first range."""

    __slots__ = ("_last_s", "_measures", "_spans")

    def __init__(self, measures: ServingMeasures) -> None:
        self._measures = measures
        self._spans = measures.first_token
        self._last_s = time.perf_counter()

    def read(self) -> float:
        """Return the seconds since the last token, or since the session began."""
        return time.perf_counter() - self._last_s

    def note_token(self) -> float:
        """Count a token; return the seconds since the one before, or since the session began."""
        now_s = time.perf_counter()
        elapsed_s, self._last_s = now_s - self._last_s, now_s
        self._spans.add(elapsed_s)
        self._spans = self._measures.between_tokens
        return elapsed_s
