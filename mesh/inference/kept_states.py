"""The hidden states that a range has sent in one session, kept in host memory.

If the range after it is lost, another hoster fills its cache from them, and nothing before it is
computed again (mesh/inference/refills.py). They are dropped when the session ends, and when a bound
is reached; the session then goes on and cannot be refilled from here.

The cache keeps the pages of prompts for later sessions (mesh/inference/pages.py), which send
nothing of them. So the states of such pages are kept under the same keys.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from keys.peer import PeerId
from mesh.inference.wire import HiddenRows
from mesh.model.capacity import PAGE_TOKENS

MAX_SESSION_BYTES = 64 << 20
"""8,192 tokens of a model with 4,096 values of 16 bits."""
MAX_TOTAL_BYTES = 256 << 20
MAX_PAGE_BYTES = 128 << 20
CLIENT_DIVISOR = 4
"""One part in so many of all bytes is a client's share, as of the sessions."""
HOP_DIVISOR = 2
"""The same for a hop before, which passes on the sessions of many clients."""
RESERVED_DIVISOR = 4
"""One part in so many is kept for members."""


@dataclass(frozen=True, slots=True)
class Payer:
    """Whose share a session's bytes are of: the peer that opened it.

    ``passes_on`` says that it is the hop before, and a node that the chain knows.
    """

    peer: PeerId
    is_member: bool = True
    passes_on: bool = False


class KeptBudget:
    """Bytes that all sessions of a hoster may keep together. Used from any thread.

    No peer may use more than its share, and those that are no members leave a part to members.
    """

    def __init__(
        self, limit: int = MAX_TOTAL_BYTES, *, session_limit: int = MAX_SESSION_BYTES
    ) -> None:
        self.limit = limit
        self.session_limit = session_limit
        self._used = 0
        self._used_by: Counter[PeerId] = Counter()
        self._used_by_strangers = 0
        self._lock = threading.Lock()

    @property
    def used(self) -> int:
        return self._used

    def get_used_by(self, peer: PeerId) -> int:
        """Return the bytes of one peer's sessions."""
        return self._used_by[peer]

    def get_share(self, payer: Payer) -> int:
        """Return the bytes that the sessions of one peer may keep together."""
        return self.limit // (HOP_DIVISOR if payer.passes_on else CLIENT_DIVISOR)

    def take(self, size: int, payer: Payer | None = None) -> bool:
        """Count ``size`` bytes, less than 0 if they are given back; False if there is no room.

        Bytes without a ``payer`` are this hoster's own.
        """
        with self._lock:
            if size > 0 and not self._has_room(size, payer):
                return False
            self._used += size
            if payer is not None:
                self._used_by[payer.peer] += size
                if not self._used_by[payer.peer]:
                    del self._used_by[payer.peer]
                self._used_by_strangers += 0 if payer.is_member else size
            return True

    def _has_room(self, size: int, payer: Payer | None) -> bool:
        if self._used + size > self.limit:
            return False
        if payer is None:
            return True
        if self._used_by[payer.peer] + size > self.get_share(payer):
            return False
        open_to_all = self.limit - self.limit // RESERVED_DIVISOR
        return payer.is_member or self._used_by_strangers + size <= open_to_all


class PageStates:
    """The states of pages that were published, those used last; each page has whole rows.

    Where they run short, the peer with the most bytes loses the page that was not used for longest.
    """

    def __init__(self, limit: int = MAX_PAGE_BYTES) -> None:
        self._limit = limit
        self._used = 0
        self._used_by: Counter[PeerId] = Counter()
        self._pages: OrderedDict[bytes, tuple[PeerId, HiddenRows]] = OrderedDict()

    @property
    def used(self) -> int:
        return self._used

    def put(self, key: bytes, page: HiddenRows, owner: PeerId) -> None:
        """Keep a page of a session that ``owner`` opened; others may have to go."""
        if key in self._pages or len(page.data) > self._limit:
            return
        self._pages[key] = owner, page
        self._count(owner, len(page.data))
        while self._used > self._limit:
            greediest = max(self._used_by, key=self._used_by.__getitem__)
            oldest = next(key for key, (peer, _) in self._pages.items() if peer == greediest)
            _, dropped = self._pages.pop(oldest)
            self._count(greediest, -len(dropped.data))

    def _count(self, owner: PeerId, size: int) -> None:
        self._used += size
        self._used_by[owner] += size
        if not self._used_by[owner]:
            del self._used_by[owner]

    def find(self, keys: Sequence[bytes]) -> tuple[HiddenRows, ...] | None:
        """Return the pages of all keys, None if one of them is not here."""
        if any(key not in self._pages for key in keys):
            return None
        for key in keys:
            self._pages.move_to_end(key)
        return tuple(self._pages[key][1] for key in keys)

    def __contains__(self, key: bytes) -> bool:
        return key in self._pages

    def clear(self) -> None:
        self._pages.clear()
        self._used_by.clear()
        self._used = 0


class KeptStates:
    """Rows of one session from ``start`` to ``end``; a later row at a position replaces the rest.

    Used from any thread: the compute thread may send a last step while the session ends, and
    another session may read the states of pages.
    """

    def __init__(self, budget: KeptBudget, payer: Payer | None = None) -> None:
        self._budget = budget
        self._payer = payer
        self._lock = threading.RLock()
        self._pages: list[bytes | memoryview] = []
        """Whole pages from position 0 on, shared with other sessions; rows follow them."""
        self._rows = bytearray()
        self._row_size = 0
        self._dtype = ""
        self._is_dropped = False
        self.start = 0
        self.end = 0

    def begin(self, pages: Sequence[HiddenRows]) -> None:
        """Begin with the states of pages that the session begins with."""
        with self._lock:
            sizes = {(len(page.data), page.rows, page.dtype) for page in pages}
            total = sum(len(page.data) for page in pages)
            is_alike = len(sizes) == 1 and pages[0].rows == PAGE_TOKENS
            if not is_alike or total > self._budget.session_limit:
                return
            if not self._budget.take(total, self._payer):
                return
            self._row_size, self._dtype = len(pages[0].data) // PAGE_TOKENS, pages[0].dtype
            self._pages = [page.data for page in pages]
            self.end = len(pages) * PAGE_TOKENS

    def note(self, position: int, hidden: HiddenRows) -> None:
        """Keep rows that are sent from ``position`` on; drop all where they do not fit."""
        with self._lock:
            if self._is_dropped:
                return
            size = len(hidden.data)
            if self.start == self.end:
                self.start = self.end = position
                self._row_size, self._dtype = size // hidden.rows, hidden.dtype
            is_like = (size, hidden.dtype) == (hidden.rows * self._row_size, self._dtype)
            if not (is_like and self.start <= position <= self.end):
                self.drop()
                return
            self.cut(position)
            is_small = (self.end - self.start) * self._row_size + size <= self._budget.session_limit
            if not (is_small and self._budget.take(size, self._payer)):
                self.drop()
                return
            self._rows += hidden.data
            self.end += hidden.rows

    def cut(self, end: int) -> None:
        """Forget the rows from ``end`` on."""
        with self._lock:
            if not self.start <= end < self.end:
                return
            self._budget.take((end - self.end) * self._row_size, self._payer)
            self.end = end
            whole = end // PAGE_TOKENS
            if whole < len(self._pages):
                split = self._pages[whole]
                del self._pages[whole:]
                self._rows = bytearray(split)
            del self._rows[(end - self._tail) * self._row_size :]

    @property
    def _tail(self) -> int:
        """The position of the first row that is in no page."""
        return max(self.start, len(self._pages) * PAGE_TOKENS)

    def covers(self, first: int, end: int) -> bool:
        """Whether all rows from ``first`` to ``end`` are kept."""
        with self._lock:
            return not self._is_dropped and self.start <= first <= end <= self.end

    def read(self, first: int, end: int) -> HiddenRows:
        """Return a copy of kept rows. Raises ValueError for rows that are not kept."""
        with self._lock:
            if not self.covers(first, end):
                raise ValueError(f"rows {first}:{end} are not kept")
            parts, size = [], self._row_size
            for page in range(first // PAGE_TOKENS, min(len(self._pages), -(-end // PAGE_TOKENS))):
                begin = page * PAGE_TOKENS
                low, high = max(first, begin) - begin, min(end, begin + PAGE_TOKENS) - begin
                parts.append(self._pages[page][low * size : high * size])
            tail = self._tail
            if end > tail:
                parts.append(
                    bytes(self._rows[(max(first, tail) - tail) * size : (end - tail) * size])
                )
            return HiddenRows(end - first, self._dtype, b"".join(parts))

    def charge(self, payer: Payer) -> None:
        """Count the rows as another peer's from now on; drop them where they exceed its share."""
        with self._lock:
            size = (self.end - self.start) * self._row_size
            self._budget.take(-size, self._payer)
            self._payer = payer
            if not self._budget.take(size, payer):
                self._forget()
                self._is_dropped = True

    def clear(self) -> None:
        """Forget all rows; later ones are kept again."""
        with self._lock:
            self._budget.take((self.start - self.end) * self._row_size, self._payer)
            self._forget()
            self._is_dropped = False

    def _forget(self) -> None:
        self._pages, self._rows = [], bytearray()
        self.start = self.end = 0

    def drop(self) -> None:
        """Forget all rows, and keep none from now on."""
        with self._lock:
            self.clear()
            self._is_dropped = True
