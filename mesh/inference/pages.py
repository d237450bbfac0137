"""Which session holds which pages of the cache, and which gives way when they run out.

Theory of operation
===================

The cache of an engine is a number of *pages* of ``PAGE_TOKENS`` tokens each. A session has a
*table*: the numbers of its pages, in the order of its text. It takes pages as its text grows and
reserves none. No tensors and no clock are here.

**Ranks.** Sessions are ordered: members of the subnet before others, a higher priority before a
lower one, and an older session before a younger one. A session that needs a page and finds none
free takes those of the session of the lowest rank, never those of a session that ranks before it.
So the first session of the order always goes on, and every session ends.

**Parked sessions** have lost a hop and may go on for a while (mesh/inference/refills.py). Their
pages are the first to be taken, by any session, and they promise none.

**Admission.** A session promises how many pages it takes soon: those of its prompt. A session is
admitted while the promises and the pages beyond them fit. What answers grow by is not promised.

**Pages of equal text.** A full page may be *published* under a key that names its text and all the
text before it. A later session with the same keys shares the page instead of computing it. A
published page that is in no table is *idle*: it stays until the page is needed, the least recently
used one goes first. Only full pages are published and no session writes into a full page, so a
shared page never changes.
"""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_left
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from mesh.inference.refusals import RefusalReason, Refused
from mesh.model.capacity import PAGE_TOKENS

KEY_SIZE = 32


class Rank(NamedTuple):
    """A session's place in the order; a larger one goes before a smaller one."""

    is_member: bool
    priority: int
    age: int
    """Minus the session's serial number."""


class NoPages(Exception):
    """The pages that a session needs are held by sessions that rank before it."""


def compute_page_keys(salt: bytes, token_ids: Sequence[int]) -> tuple[bytes, ...]:
    """Return the key of every full page of a text; sessions of another ``salt`` have others."""
    keys, key = [], hashlib.blake2b(salt, digest_size=KEY_SIZE).digest()
    for end in range(PAGE_TOKENS, len(token_ids) + 1, PAGE_TOKENS):
        page = array("I", token_ids[end - PAGE_TOKENS : end]).tobytes()
        key = hashlib.blake2b(key + page, digest_size=KEY_SIZE).digest()
        keys.append(key)
    return tuple(keys)


class FreePages:
    """The free pages, as runs of neighbours.

    A table whose pages are neighbours is read without copying, so a growing table gets the page
    after its last one where that is free, and a new table starts in the middle of the longest run.
    """

    def __init__(self, pages: int) -> None:
        self._starts = [0]
        self._ends = [pages]
        self.count = pages

    def take(self, *, after: int | None) -> int:
        """Return a free page, the neighbour of ``after`` if possible. There must be one."""
        place = -1 if after is None else self._find_run(after + 1)
        if place >= 0:
            page = self._starts[place]
        else:
            lengths = [end - start for start, end in zip(self._starts, self._ends, strict=True)]
            place = max(range(len(lengths)), key=lengths.__getitem__)
            start = self._starts[place]
            # No table stands before page 0 and grows into this run.
            page = start if start == 0 else start + lengths[place] // 2
        self._cut(place, page)
        self.count -= 1
        return page

    def _find_run(self, start: int) -> int:
        """Return the place of the run that starts at a page; -1 if none does."""
        place = bisect_left(self._starts, start)
        is_there = place < len(self._starts) and self._starts[place] == start
        return place if is_there else -1

    def _cut(self, place: int, page: int) -> None:
        start, end = self._starts[place], self._ends[place]
        left = [(a, b) for a, b in ((start, page), (page + 1, end)) if a < b]
        self._starts[place : place + 1] = [a for a, _ in left]
        self._ends[place : place + 1] = [b for _, b in left]

    def put(self, page: int) -> None:
        """Give a page back; neighbours become one run."""
        place = bisect_left(self._starts, page)
        start, end, last = page, page + 1, place
        if place < len(self._starts) and self._starts[place] == end:
            end, last = self._ends[place], place + 1
        if place and self._ends[place - 1] == page:
            start, place = self._starts[place - 1], place - 1
        self._starts[place:last] = [start]
        self._ends[place:last] = [end]
        self.count += 1

    def __iter__(self) -> Iterator[int]:
        for start, end in zip(self._starts, self._ends, strict=True):
            yield from range(start, end)


@dataclass(slots=True)
class _Holder:
    """A session: its rank, the pages it promised to take at least, and its table."""

    rank: Rank
    promised: int
    table: list[int] = field(default_factory=list)
    is_parked: bool = False

    @property
    def demand(self) -> int:
        return 0 if self.is_parked else max(self.promised, len(self.table))


class PageBook:
    """The tables of all sessions. ``stranger_pages`` is what non-members may hold together."""

    def __init__(self, pages: int, *, stranger_pages: int) -> None:
        self.pages = pages
        self._stranger_pages = min(stranger_pages, pages)
        self._free = FreePages(pages)
        self._holders: dict[int, _Holder] = {}
        self._references: Counter[int] = Counter()
        self._page_of: dict[bytes, int] = {}
        self._key_of: dict[int, bytes] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()

    @property
    def free_pages(self) -> int:
        """Pages in no table: free, or published and idle."""
        return self._free.count + len(self._idle)

    @property
    def unpromised_pages(self) -> int:
        """What a session may promise beside the others, whatever their tables are now."""
        return max(0, self.pages - _sum_demand(self._holders.values()))

    def open(self, serial: int, rank: Rank, *, promised: int) -> Sequence[int]:
        """Add a session; return its table, which follows every change.

        Raises Refused(BUSY) where ``promised`` pages do not fit beside what others promised.
        """
        self._check_promise(rank, promised)
        holder = _Holder(rank, promised)
        self._holders[serial] = holder
        return holder.table

    def _check_promise(self, rank: Rank, promised: int) -> None:
        strangers = [holder for holder in self._holders.values() if not holder.rank.is_member]
        if not rank.is_member and _sum_demand(strangers) + promised > self._stranger_pages:
            raise Refused(RefusalReason.BUSY, "the rest is kept for the nodes of the subnet")
        if promised > self.unpromised_pages:
            raise Refused(RefusalReason.BUSY, f"no {promised} free pages of the cache")

    def park(self, serial: int) -> None:
        """Let any session take the pages of this one from now on."""
        self._holders[serial].is_parked = True

    def resume(self, serial: int, rank: Rank, *, promised: int) -> None:
        """Let a parked session go on with its pages. Raises Refused(BUSY) as :meth:`open` does."""
        holder = self._holders[serial]
        self._check_promise(rank, max(promised, len(holder.table)))
        holder.rank, holder.promised, holder.is_parked = rank, promised, False

    def close(self, serial: int) -> None:
        """Forget a session; its pages are free, or idle if they are published."""
        self._drop_table(serial)
        del self._holders[serial]

    def grow(self, serial: int, pages: int) -> tuple[int, ...]:
        """Make a session's table ``pages`` long; return the sessions whose tables were emptied.

        Raises NoPages, with nothing changed, if sessions that rank before it hold too many.
        """
        table = self._holders[serial].table
        wanted = pages - len(table)
        if wanted <= 0:
            return ()
        victims = self._choose_victims(serial, wanted)
        for victim in victims:
            self._drop_table(victim)
        for _ in range(wanted):
            page = self._take_page(after=table[-1] if table else None)
            self._references[page] = 1
            table.append(page)
        return victims

    def can_grow(self, serial: int, pages: int) -> bool:
        """Whether :meth:`grow` would succeed."""
        try:
            self._choose_victims(serial, pages - len(self._holders[serial].table))
        except NoPages:
            return False
        return True

    def _choose_victims(self, serial: int, wanted: int) -> tuple[int, ...]:
        """Return the sessions of the lowest ranks without whose pages there are enough."""
        rank = self._holders[serial].rank
        free, spare = self.free_pages, self._count_spare(rank)
        if wanted <= min(free, spare):
            return ()
        victims: list[int] = []
        dropped = Counter[int]()
        below = [
            (not h.is_parked, h.rank, s)
            for s, h in self._holders.items()
            if (h.is_parked or h.rank < rank) and h.table
        ]
        for _, _, victim in sorted(below):
            victims.append(victim)
            table = self._holders[victim].table
            dropped.update(table)
            free += sum(self._references[page] == dropped[page] for page in table)
            spare += 0 if self._holders[victim].rank.is_member else len(table)
            if wanted <= min(free, spare):
                return tuple(victims)
        raise NoPages

    def _count_spare(self, rank: Rank) -> int:
        """Return how many more pages the sessions of this kind may hold together."""
        if rank.is_member:
            return self.pages
        held = sum(len(h.table) for h in self._holders.values() if not h.rank.is_member)
        return self._stranger_pages - held

    def _take_page(self, *, after: int | None) -> int:
        if not self._free.count:
            oldest, _ = self._idle.popitem(last=False)
            self._forget_key(oldest)
            self._free.put(oldest)
        return self._free.take(after=after)

    def _drop_table(self, serial: int) -> None:
        self._release(self._holders[serial].table, keep=0)

    def _release(self, table: list[int], *, keep: int) -> None:
        # The end of a text first: its beginning is more likely to come again.
        for page in reversed(table[keep:]):
            self._references[page] -= 1
            if self._references[page]:
                continue
            del self._references[page]
            if page in self._key_of:
                self._idle[page] = None
            else:
                self._free.put(page)
        del table[keep:]

    def publish(self, serial: int, keys: Sequence[bytes]) -> None:
        """Offer a session's first pages, which are full, under ``keys``.

        A page whose text is published already, or that has a key, stays as it is.
        """
        for page, key in zip(self._holders[serial].table, keys, strict=False):
            if key not in self._page_of and page not in self._key_of:
                self._page_of[key] = page
                self._key_of[page] = key

    def count_published(self, keys: Sequence[bytes]) -> int:
        """Return how many of a text's first pages are published."""
        for count, key in enumerate(keys):
            if key not in self._page_of:
                return count
        return len(keys)

    def share(self, serial: int, keys: Sequence[bytes]) -> None:
        """Let a session's empty table begin with the published pages of all ``keys``."""
        table = self._holders[serial].table
        for key in keys:
            page = self._page_of[key]
            self._idle.pop(page, None)
            self._references[page] += 1
            table.append(page)

    def cut(self, serial: int, pages: int) -> None:
        """Take all but the first ``pages`` from a session's table."""
        self._release(self._holders[serial].table, keep=pages)

    def _forget_key(self, page: int) -> None:
        del self._page_of[self._key_of.pop(page)]


def _sum_demand(holders: Iterable[_Holder]) -> int:
    return sum(holder.demand for holder in holders)
