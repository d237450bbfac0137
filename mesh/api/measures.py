"""What a gateway has answered since it started: plain numbers, read from outside."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum

from mesh.api.disconnect import CallerGone
from mesh.histogram import SECONDS_OF_A_REQUEST, SECONDS_OF_A_STEP, Histogram


class RequestOutcome(StrEnum):
    """How a request for answers ended."""

    FINISHED = "finished"
    FAILED = "failed"
    LEFT = "left"
    """The caller went away first."""
    REFUSED = "refused"
    """No place was free in time, or the caller has too many answers under way."""


class GatewayMeasures:
    """Belongs to the event loop. Histograms are in seconds."""

    def __init__(self) -> None:
        self.running = 0
        self.waiting = 0
        self.prompt_tokens = 0
        self.generated_tokens = 0
        self.reroutes = 0
        self.refills = 0
        self.replays = 0
        self.results: Counter[RequestOutcome] = Counter()
        self.first_token = Histogram(SECONDS_OF_A_REQUEST)
        self.between_tokens = Histogram(SECONDS_OF_A_STEP)
        self.request = Histogram(SECONDS_OF_A_REQUEST)

    @contextmanager
    def wait(self) -> Iterator[None]:
        """Count a request that waits for a place while the block runs."""
        self.waiting += 1
        try:
            yield
        except Exception:
            self.results[RequestOutcome.REFUSED] += 1
            raise
        except BaseException:
            self.results[RequestOutcome.LEFT] += 1
            raise
        finally:
            self.waiting -= 1

    @contextmanager
    def run(self, *, started_s: float, is_finished: Callable[[], bool]) -> Iterator[None]:
        """Count a request whose answers are generated while the block runs.

        What a caller does with a finished answer is its own affair.
        """
        self.running += 1
        result = RequestOutcome.LEFT
        try:
            yield
        except CallerGone:
            raise
        except Exception:
            result = RequestOutcome.FAILED
            raise
        finally:
            self.running -= 1
            if is_finished():
                result = RequestOutcome.FINISHED
                self.request.add(time.monotonic() - started_s)
            self.results[result] += 1

    def start_choice(self, *, started_s: float) -> Callable[[int], None]:
        """Return what counts the tokens of one answer as they come."""
        spans, last_s = self.first_token, started_s

        def note_tokens(tokens: int) -> None:
            nonlocal spans, last_s
            now_s = time.monotonic()
            spans.add(now_s - last_s)
            spans, last_s = self.between_tokens, now_s
            self.generated_tokens += tokens

        return note_tokens
