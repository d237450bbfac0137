"""The scheduler chooses which work computes next.

Three kinds of work wait for the one compute thread. Challenges go first: they have a deadline on
chain. Then prompt chunks and decode batches take turns, so that a long prompt does not stall the
other sessions, and many sessions do not stall a new one. No tensors and no clock are here.

Prompts of several sessions may go through one step, up to a number of rows. Within a priority the
peer goes first whose last turn is longest ago, so many prompts of one peer do not keep another
one waiting.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Generic, TypeVar

from mesh.inference.refusals import RefusalReason, Refused
from mesh.model.config import LayerSpan

MAX_PENDING_CHALLENGES = 4096
MAX_REMEMBERED_PEERS = 1024
"""Peers whose last turn is known; one that was forgotten counts as new."""

T = TypeVar("T")
C = TypeVar("C")


@dataclass(frozen=True, slots=True)
class QueuedStep(Generic[T]):
    """One session's next rows: several of a prompt, or one to decode, or a few of a window.

    A higher ``priority`` goes first; within one priority, first come, first served, but prompts of
    different peers take turns. A session without a ``peer`` is one of its own.
    """

    session: int
    span: LayerSpan
    rows: int
    priority: int
    payload: T
    peer: Hashable | None = None
    is_window: bool = False
    is_ahead: bool = False
    """Whether it was sent before the session's step before it was answered."""

    @property
    def is_decode(self) -> bool:
        """Whether the rows are decode rows."""
        return self.rows == 1 or self.is_window

    @property
    def owner(self) -> Hashable:
        """Whose turn it is when this goes."""
        return ("session", self.session) if self.peer is None else self.peer


@dataclass
class Scheduler(Generic[T, C]):
    """Chooses batches. A session has at most one piece of work waiting, so the number of
    sessions bounds its queues; ``C`` is what a challenge's payload is. Prompts share a step of at
    most ``max_prompt_rows``; a longer one goes alone, and so does every one if that is 0.
    """

    max_batch_rows: int
    max_prompt_rows: int = 0
    _challenges: deque[C] = field(default_factory=deque)
    _prompts: list[QueuedStep[T]] = field(default_factory=list)
    _decodes: list[QueuedStep[T]] = field(default_factory=list)
    _prompt_was_last: bool = False
    _turns: OrderedDict[Hashable, int] = field(default_factory=OrderedDict)
    _turn: int = 0

    def add(self, work: QueuedStep[T]) -> None:
        """Queue a session's rows. Raises ValueError if it already has some waiting."""
        if any(other.session == work.session for other in (*self._prompts, *self._decodes)):
            raise ValueError("a session computes one step after the other")
        queue = self._decodes if work.is_decode else self._prompts
        place = sum(other.priority >= work.priority for other in queue)
        queue.insert(place, work)

    @property
    def is_anything_waiting(self) -> bool:
        """Whether there is work for the thread. It may be read from any thread."""
        return bool(self._challenges or self._prompts or self._decodes)

    @property
    def waiting_count(self) -> int:
        """How many sessions have rows waiting."""
        return len(self._prompts) + len(self._decodes)

    @property
    def is_turn_waiting(self) -> bool:
        """Whether rows wait that were not sent ahead."""
        return any(not work.is_ahead for work in (*self._prompts, *self._decodes))

    @property
    def waiting_decodes(self) -> tuple[int, ...]:
        """The sessions that wait with one row, if that is all that waits and a batch has room for
        more; else none. Without those whose rows were sent ahead: they hold no batch, and start
        none early.
        """
        if self._prompts or self._challenges or len(self._decodes) >= self.max_batch_rows:
            return ()
        return tuple(work.session for work in self._decodes if not work.is_ahead)

    @property
    def has_challenge(self) -> bool:
        """Whether a challenge waits."""
        return bool(self._challenges)

    def add_challenge(self, payload: C) -> None:
        """Queue a challenged layer. Raises Refused when too many wait."""
        if len(self._challenges) >= MAX_PENDING_CHALLENGES:
            raise Refused(RefusalReason.BUSY, "too many challenges wait")
        self._challenges.append(payload)

    def discard(self, session: int) -> tuple[T, ...]:
        """Return what a session was still waiting for, and forget it."""
        waiting = [w.payload for w in (*self._prompts, *self._decodes) if w.session == session]
        self._prompts = [work for work in self._prompts if work.session != session]
        self._decodes = [work for work in self._decodes if work.session != session]
        return tuple(waiting)

    def take_challenge(self) -> C | None:
        """Return the next challenge; it goes before everything else."""
        return self._challenges.popleft() if self._challenges else None

    def take_batch(self) -> tuple[QueuedStep[T], ...]:
        """Return what computes in one step: prompt chunks, or decode rows of many sessions.

        Empty when nothing waits. Rows of a batch run through the same layers.
        """
        prompt_turn = bool(self._prompts) and not (self._prompt_was_last and self._decodes)
        self._prompt_was_last = prompt_turn
        if prompt_turn:
            return self._take_prompts()
        if not self._decodes:
            return ()
        span = self._decodes[0].span
        batch = self._fit([work for work in self._decodes if work.span == span])
        chosen = {work.session for work in batch}
        self._decodes = [work for work in self._decodes if work.session not in chosen]
        return tuple(batch)

    def _fit(self, works: Sequence[QueuedStep[T]]) -> list[QueuedStep[T]]:
        """Return the first of ``works``, at least one, whose rows fit into a batch."""
        ends = accumulate(work.rows for work in works)
        count = sum(end <= self.max_batch_rows for end in ends)
        return [*works[: max(1, count)]]

    def _take_prompts(self) -> tuple[QueuedStep[T], ...]:
        """Return the next prompt chunk, and those that fit into the same step."""
        batch = [self._take_prompt(self._prompts)]
        left = self.max_prompt_rows - batch[0].rows
        while len(batch) < self.max_batch_rows:
            fitting = [w for w in self._prompts if w.span == batch[0].span and w.rows <= left]
            if not fitting:
                break
            batch.append(self._take_prompt(fitting))
            left -= batch[-1].rows
        return tuple(batch)

    def _take_prompt(self, candidates: Sequence[QueuedStep[T]]) -> QueuedStep[T]:
        """Take the prompt of the highest priority whose peer has waited longest for a turn."""
        # The first of equals: the queue is in the order of arrival.
        chosen = min(candidates, key=lambda w: (-w.priority, self._turns.get(w.owner, 0)))
        self._prompts.remove(chosen)
        self._turn += 1
        self._turns[chosen.owner] = self._turn
        self._turns.move_to_end(chosen.owner)
        if len(self._turns) > MAX_REMEMBERED_PEERS:
            self._turns.popitem(last=False)
        return chosen
