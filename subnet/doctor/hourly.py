"""The node's own hourly examination: what the cheap checks found, kept for readers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from subnet.doctor.checks import CHECKS, Check, run_checks
from subnet.doctor.finding import CheckStatus, Outcome
from subnet.doctor.subject import Subject

FIRST_AFTER_S = 120.0
"""A node that has just started has no peers and no score yet."""
PERIOD_S = 3600.0
HOURLY_CHECKS = tuple(check for check in CHECKS if check.is_hourly)

logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Health:
    """The outcomes of the last examination, which ended at ``examined_at``, seconds since 1970."""

    examined_at: float
    outcomes: tuple[Outcome, ...]

    def list_with(self, status: CheckStatus) -> tuple[Outcome, ...]:
        return tuple(one for one in self.outcomes if one.finding.status is status)


class HourlyExam:
    """Examines the node every hour. ``health`` is None before the first examination has ended.

    ``get_subject`` returns the node as it is now.
    """

    def __init__(
        self,
        get_subject: Callable[[], Subject],
        *,
        checks: tuple[Check, ...] = HOURLY_CHECKS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._get_subject = get_subject
        self._checks = checks
        self._clock = clock
        self.health: Health | None = None

    async def run(self, *, first_after_s: float = FIRST_AFTER_S) -> None:
        """Examine until cancelled: a task of the node's group."""
        await asyncio.sleep(first_after_s)
        while True:
            await self.examine()
            await asyncio.sleep(PERIOD_S)

    async def examine(self) -> Health:
        """Make the checks, and say what became better or worse since the last time."""
        outcomes = [outcome async for outcome in run_checks(self._get_subject(), self._checks)]
        before = {} if self.health is None else _index(self.health)
        self.health = Health(self._clock(), tuple(outcomes))
        for name, outcome in _index(self.health).items():
            _tell(outcome, before.get(name))
        return self.health


def _index(health: Health) -> dict[str, Outcome]:
    return {outcome.name: outcome for outcome in health.outcomes}


def _tell(outcome: Outcome, before: Outcome | None) -> None:
    """Log a check that began or ceased to fail; one that goes on failing is not repeated."""
    finding = outcome.finding
    was_bad = before is not None and before.finding.status is CheckStatus.FAIL
    if finding.status is CheckStatus.FAIL and not was_bad:
        logger.warning("a check fails", check=outcome.name, detail=finding.detail, fix=finding.fix)
    elif was_bad and finding.status is not CheckStatus.FAIL:
        logger.info("a check no longer fails", check=outcome.name, detail=finding.detail)
