"""Which sessions a batch of decode rows is held for, and how long.

Sessions over several ranges come back from the others one after the other. A batch that starts with
the first of them computes one row and makes the others wait, here and at every later range, and so
they stay apart. A batch that is held for a moment has all of them, and then they stay together.

A session's *interval* is what usually passes between two of its decode steps. A session is awaited
if it is due before the first of those that wait has waited ``WAIT_SHARE`` of its interval. So a
session that is alone waits for none, and one whose companions are always in time waits for a moment
once. A session that is awaited in vain is not awaited for its next ``MISSED_STEPS`` steps: neither
an irregular session nor one whose hoster is late on purpose slows others for long.

No tensors and no clock are here.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

WAIT_SHARE = 0.25
MISSED_STEPS = 32
NEWEST_SHARE = 0.5
"""What the newest interval counts in the average."""


@dataclass(slots=True)
class _Rhythm:
    last_s: float
    interval_s: float | None = None
    ignored_steps: int = 0


class Cohorts:
    """Knows the rhythm of each session that decodes; the sessions of the engine bound it."""

    def __init__(self) -> None:
        self._rhythms: dict[int, _Rhythm] = {}
        self._awaited: set[int] = set()

    def note_step(self, session: int, now_s: float) -> None:
        """Note that a session's next decode row arrived."""
        self._awaited.discard(session)
        rhythm = self._rhythms.get(session)
        if rhythm is None:
            self._rhythms[session] = _Rhythm(now_s)
            return
        elapsed_s = now_s - rhythm.last_s
        before_s = elapsed_s if rhythm.interval_s is None else rhythm.interval_s
        rhythm.interval_s = before_s + NEWEST_SHARE * (elapsed_s - before_s)
        rhythm.last_s = now_s
        rhythm.ignored_steps = max(0, rhythm.ignored_steps - 1)

    def forget(self, session: int) -> None:
        """Forget a session that ends."""
        self._rhythms.pop(session, None)
        self._awaited.discard(session)

    def hold_until(self, waiting: Collection[int], now_s: float) -> float:
        """Return until when a batch of the ``waiting`` sessions is held; ``now_s``: it starts.

        None are waiting where other work goes first: then none were awaited in vain either.
        """
        if not waiting:
            self._awaited.clear()
            return now_s
        deadline_s = min(self._get_limit_s(session) for session in waiting)
        if deadline_s > now_s:
            awaited = {
                session
                for session, rhythm in self._rhythms.items()
                if session not in waiting and _is_due(rhythm, now_s, deadline_s)
            }
            self._awaited |= awaited
            if awaited:
                return deadline_s
        for session in self._awaited:
            self._rhythms[session].ignored_steps = MISSED_STEPS
        self._awaited.clear()
        return now_s

    def _get_limit_s(self, session: int) -> float:
        rhythm = self._rhythms.get(session)
        if rhythm is None or rhythm.interval_s is None:
            return 0.0
        return rhythm.last_s + WAIT_SHARE * rhythm.interval_s


def _is_due(rhythm: _Rhythm, now_s: float, deadline_s: float) -> bool:
    """Whether a session may come before the deadline: not after it, and not long overdue."""
    if rhythm.interval_s is None or rhythm.ignored_steps:
        return False
    due_s = rhythm.last_s + rhythm.interval_s
    return due_s <= deadline_s and now_s <= due_s + WAIT_SHARE * rhythm.interval_s
