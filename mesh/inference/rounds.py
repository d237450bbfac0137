"""Several windows under way: which of them a later range computes, and where it goes back to.

Theory of operation
===================

Windows (mesh/inference/windows.py) are *pipelined*: while one is verified, the first range sends
the next, drafted as if all of the one before were right. Such a window begins with a guess, not
with a chosen token.

1. Each window says its round, its first token, its draft, and how many windows of the same round
   are under way before it: fewer than were agreed when the session was opened.
2. Windows of one round follow each other without a gap. The last range verifies a window if it
   begins where the text ends, with the token chosen last. It answers each with its round.
3. A window fails if fewer tokens come of it than it has rows, or if the next one that is under way
   begins with another token than its last. Then the last range drops all later windows of the round
   unanswered, since none begins where the text ends.
4. The first range sees the same in the answer: it forgets the windows under way, goes back to the
   end of the right tokens, and sends the next window there, in a new round, with none before it.
5. A range between learns of it from that window: a new round begins within the windows that may
   have been under way, and the cache is cut to its position. It does not compute windows of the old
   round that still wait behind it, and they never leave.
6. Sessions share what one alone may have under way: several of them keep the ranges busy anyway,
   and rows that were sent ahead set no rhythm for those of others (mesh/inference/cohorts.py).
7. So rounds grow by one, a chosen token is sent once for each, and no range goes back farther than
   ``in_flight`` windows or into the prompt. Anything else is refused.
"""

from __future__ import annotations

from collections import deque

from mesh.inference.flight_wire import read_round
from mesh.inference.refusals import RefusalReason, Refused
from mesh.inference.steps import EngineSession
from mesh.inference.wire import Lead, StepFrame, make_malformed


class Rounds:
    """The windows of one session at a later range: their round, and where the next one begins."""

    def __init__(self, in_flight: int, prompt_tokens: int) -> None:
        self._in_flight = in_flight
        self._round = 0
        self._end = prompt_tokens
        self._starts: deque[int] = deque(maxlen=in_flight)
        """Where the windows of the round begin that may still be under way."""
        self._dropped = 0

    def enter(self, step: StepFrame, session: EngineSession, last_token: int | None) -> bool:
        """Say whether a window is to be computed; go back first if it begins a round.

        ``last_token`` is the token that was chosen last, None at a range that chooses none. Raises
        Refused for a window that no honest range sends.
        """
        lead = step.lead
        if lead is None:
            raise make_malformed("a window without a round")
        if lead.before >= self._in_flight:
            raise make_malformed(f"{lead.before + 1} windows in flight, more than agreed")
        is_new = lead.round == self._round + 1 and not lead.before
        if not is_new and lead.round != self._round:
            raise make_malformed(f"round {lead.round} after round {self._round}")
        if is_new:
            self._begin(step.position, session, last_token)
        elif step.position != self._end:
            raise _make_position_refusal(step.position, self._end)
        self._starts.append(step.position)
        self._end = step.position + step.hidden.rows
        if step.position == session.length and last_token in (None, lead.token_id):
            return True
        self._drop(lead, step.position, session, is_last=last_token is not None)
        return False

    def _begin(self, position: int, session: EngineSession, last_token: int | None) -> None:
        """Begin the next round where the right tokens end."""
        is_within = bool(self._starts) and self._starts[0] < position <= session.length
        if not is_within or (last_token is not None and position != session.length):
            raise _make_position_refusal(position, session.length)
        session.rewind(position)
        self._round += 1
        self._starts.clear()
        self._dropped = 0

    def _drop(self, lead: Lead, position: int, session: EngineSession, *, is_last: bool) -> None:
        """Count a window that follows one that failed."""
        self._dropped += 1
        is_late = lead.before > 0 and is_last
        if not is_late and position != session.length:
            raise _make_position_refusal(position, session.length)
        if not lead.before:
            raise make_malformed("a window begins with another token than the chosen one")
        if self._dropped >= self._in_flight:
            raise make_malformed("more windows in flight than agreed")


def drop_stale(waiting: deque[bytes]) -> None:
    """Forget the windows that wait before one of a later round."""
    rounds = [number for frame in waiting if (number := read_round(frame)) is not None]
    if len(rounds) < len(waiting):
        return
    while rounds and rounds[0] < max(rounds):
        del rounds[0]
        waiting.popleft()


def _make_position_refusal(position: int, expected: int) -> Refused:
    return Refused(RefusalReason.WRONG_POSITION, f"position {position} does not follow {expected}")
