"""Tickets: who may go on with a session that lost a hop, and how often.

A ticket names an answer and shows a link of a chain of hashes. The client draws the end of the
chain and hashes it ``MAX_REFILLS`` times: that is the link of the first opening. Each later opening
of the same answer shows the link before, which only the client knows until then. A hoster that
keeps a link takes a later one if hashing it leads to its own, so a hoster that missed an opening
follows too, and a hop that was replaced can open nothing with what it saw. No torch here.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field

ANSWER_ID_SIZE = 16
LINK_SIZE = 32
MAX_REFILLS = 8
"""How often one answer may go on over a changed route without a whole replay."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """``index`` counts the openings of the answer from 0; ``link`` is the chain's of that index."""

    answer_id: bytes
    index: int
    link: bytes = field(repr=False)

    @property
    def is_refill(self) -> bool:
        """Whether the session goes on with what its hosters keep of an earlier one."""
        return self.index > 0

    def follows(self, earlier: Ticket) -> bool:
        """Whether the one who made ``earlier`` made this ticket after it."""
        steps = self.index - earlier.index
        if self.answer_id != earlier.answer_id or not 0 < steps <= MAX_REFILLS:
            return False
        return _hash(self.link, steps) == earlier.link


class TicketChain:
    """The tickets of one answer, at its client."""

    def __init__(self) -> None:
        self._answer_id = os.urandom(ANSWER_ID_SIZE)
        self._end = os.urandom(LINK_SIZE)
        self._next = 0

    @property
    def left(self) -> int:
        """How many tickets may still be made."""
        return MAX_REFILLS + 1 - self._next

    def make_next(self) -> Ticket:
        """Return the next ticket. Raises ValueError after the last one."""
        if not self.left:
            raise ValueError("the chain has no further link")
        index, self._next = self._next, self._next + 1
        return Ticket(self._answer_id, index, _hash(self._end, MAX_REFILLS - index))


def _hash(link: bytes, times: int) -> bytes:
    for _ in range(times):
        link = hashlib.blake2b(link, digest_size=LINK_SIZE).digest()
    return link
