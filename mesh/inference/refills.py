"""Sessions that go on over a changed route: only the lost range is filled again.

Theory of operation
===================

**Parts.** A client opens a *resumable* session with a ticket (mesh/inference/tickets.py). Each
hoster of its route has a :class:`Refills`, which knows the sessions of answers that run here or are
*parked*: a session that lost a hop keeps its pages of the cache for ``PARK_S``. In each session a
range keeps the hidden states that it sends to the next one (mesh/inference/kept_states.py).

**Order of events** when a hop dies:

1. The session ends at every range, as any session that lost a hop. Its pages are parked, and what
   was sent is kept. A range behind a frozen hop may notice nothing yet.
2. The client plans a hoster for the lost layers, or several, and keeps the other hops. It opens the
   answer again over that route: the prompt and the tokens so far, and the next ticket.
3. Each range that knows the answer ends the session that may still run, and goes on with its cache.
   A range that does not know it begins with an empty one, as the new hoster does.
4. Each range but the first tells the one before with READY from which position it needs hidden
   states: it has those before. The answers come from the last range to the first.
5. A range that has what the next one lacks sends what it kept, and a range that is new computes
   what arrives as a prompt and sends on what the next one lacks. Then the session goes on as any
   other.

::

    first (has 40)  <--READY 0-- new (has 0)  <--READY 40-- last (has 40)
    first --STEP 0 ... 39, kept--> new: computes 0 ... 39
    first --STEP 40--------------> new --STEP 40----------> last: chooses the next token

**The common position.** The ranges may have gone on by different amounts, and rows of a draft may
be wrong. The client says which tokens it has, n of them; each range keeps the rows of the first
n - 1 at most, so all compute the last token's row again, and the last range chooses what follows. A
token that the client did not get is chosen again, with the same draw.

**What can fail.** A range that did not keep what the next one lacks (a bound was reached, or the
beginning is that of a prompt whose states are gone) gives up its own cache and asks the range
before for everything, down to the first, which has the tokens: that is a whole replay. So is what
the client does if the ranges did not compute the whole prompt, if a hop does not announce
``Feature.REFILL``, with a receipt, and after ``MAX_REFILLS``.

**Driven texts.** A text that its client drives (mesh/inference/driven_range.py) goes on in the same
way. Its client sends token ids only, hidden states go from range to range, so the ranges keep them
here too. The request has no text: it says how many tokens at the beginning stay, and the first
range answers READY to the client, which feeds the tokens from there on. A step that goes back
replaces what every range has beyond it, and then the next range is sent all that follows. A client
takes no hop again that it left: that one may hold another text.

**Who may do this.** The one who has the next link of the ticket's chain; at the first range it must
be the client that opened the session. One with another link gets a session of its own, and disturbs
none. What a range computed of a replaced hop's hidden states stays in its cache: so the client
replaces hops that died or fell silent in this way, and not those that sent something impossible.

**Limits.** One opened or parked session of an answer at a hoster; ``MAX_PARKED`` parked ones, of
which the oldest of the caller with the most give way; a parked session gives its pages to others
before an open one does; bytes of hidden states of a session, of a caller's sessions, of all of them
and of pages. An answer that ends well may be parked too, where a range sees no more of it than that
its stream was dropped.

**Parked sessions are no open ones.** They do not count against ``max_sessions``: that bounds what
is computed beside each other and what may be promised, and they compute nothing and promise no
page. If they counted, a caller that leaves sessions again and again would keep all others out. To
go on is to open a session: it must find a place within all quotas of the peer that asks.

**A hoster that drains** takes no new session, but lets those go on whose cache is here: they would
cost other hosters the whole text, and it waits for open sessions for a bounded time only. Where the
cache is of no use any more, the request is refused like a new one.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass, field

from keys.peer import PeerId
from mesh.errors import PeerError
from mesh.inference.accounts import Account
from mesh.inference.drive_wire import (
    DriveSession,
)
from mesh.inference.engine import Engine
from mesh.inference.hops import NextHop, SessionTimeouts
from mesh.inference.kept_states import KeptBudget, KeptStates, PageStates, Payer
from mesh.inference.measures import RefillResult
from mesh.inference.prefixes import receive_ready
from mesh.inference.refusals import RefusalReason, Refused
from mesh.inference.steps import EngineSession
from mesh.inference.tickets import Ticket
from mesh.inference.wire import (
    HiddenRows,
    OpenSession,
    StepFrame,
)
from mesh.model.capacity import PAGE_TOKENS

PARK_S = 15.0
"""A client notices a frozen hop within about 3 s."""
MAX_PARKED = 64
LOSSES = frozenset(
    (
        RefusalReason.HOP_LOST,
        RefusalReason.BUSY,
        RefusalReason.DRAINING,
        RefusalReason.TIMEOUT,
    )
)
"""Why a session may end and go on elsewhere; others say that something in it was wrong."""

Admit = Callable[[], AbstractContextManager[EngineSession]]
Resumable = OpenSession | DriveSession


class RangeRefill:
    """What one session keeps at a range, and from where on the next range needs hidden states."""

    def __init__(self, kept: KeptStates, *, is_refill: bool) -> None:
        self.kept = kept
        self.is_refill = is_refill
        self.is_over = False
        """Whether the answer is known to have its last token."""
        self.send_from = 0
        self._superseded: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def supersede(self) -> None:
        """The client has opened the answer anew: :meth:`watch` ends this session."""
        if not self._superseded.done():
            self._superseded.set_result(None)

    async def watch(self) -> None:
        """Wait until the session goes on in another one, then raise Refused: a guard."""
        await self._superseded
        raise Refused(RefusalReason.HOP_LOST, "it goes on over another route")

    def lower(self, position: int) -> None:
        """Send the next range the rows from ``position`` on, though it may have them."""
        self.send_from = min(self.send_from, position)

    def pick(self, frame: StepFrame) -> StepFrame | None:
        """Keep the rows of a step; return those that the next range needs, if any."""
        position, (rows, dtype, data) = frame.position, frame.hidden
        self.kept.note(position, frame.hidden)
        skipped = self.send_from - position
        if skipped <= 0:
            return frame
        if skipped >= rows:
            return None
        rest = data[skipped * (len(data) // rows) :]
        hidden = HiddenRows(rows - skipped, dtype, rest)
        return frame._replace(position=self.send_from, hidden=hidden)


@dataclass(eq=False, slots=True)
class _Answer:
    """An answer that is known here: its newest ticket, and its session, running or parked."""

    ticket: Ticket
    caller: PeerId
    request: Resumable
    session: EngineSession
    refill: RangeRefill
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    timer: asyncio.TimerHandle | None = None


class Refills:
    """The answers of one engine that may go on."""

    def __init__(
        self, engine: Engine, timeouts: SessionTimeouts, *, budget: KeptBudget | None = None
    ) -> None:
        self._engine = engine
        self._timeouts = timeouts
        self.budget = budget or KeptBudget()
        self.pages = PageStates()
        self._answers: dict[bytes, _Answer] = {}

    def knows(self, request: Resumable) -> bool:
        """Whether a request goes on with a session that is here."""
        ticket = request.ticket
        known = None if ticket is None else self._answers.get(ticket.answer_id)
        return known is not None and ticket is not None and ticket.follows(known.ticket)

    @asynccontextmanager
    async def open(
        self, request: Resumable, caller: PeerId, account: Account, admit: Admit
    ) -> AsyncIterator[tuple[EngineSession, RangeRefill]]:
        """Open a session that ``admit`` opens, or go on with the one that is here.

        Raises Refused.
        """
        ticket = request.ticket
        if ticket is None:
            raise ValueError("only a session with a ticket can go on")
        known = await self._take(request, ticket, caller)
        payer = Payer(caller, account.is_member, passes_on=account.client is None)
        self._make_room(payer)
        if known is None:
            opened, kept = admit(), KeptStates(self.budget, payer)
        else:
            session = known.session
            opened = self._engine.resume(session, account=account, promised=request.promised)
            kept = known.refill.kept
            kept.charge(payer)
        refill = RangeRefill(kept, is_refill=ticket.is_refill)
        answer: _Answer | None = None
        try:
            with opened as session:
                if ticket.is_refill:
                    result = RefillResult.FILLED if known is None else RefillResult.KEPT
                    self._engine.measures.refills[result] += 1
                if known is None and session.reused:
                    kept.begin(self._find_pages(session))
                answer = _Answer(ticket, caller, request, session, refill)
                # An answer of another client, if it has this id, is not disturbed.
                self._answers.setdefault(ticket.answer_id, answer)
                try:
                    yield session, refill
                except (Refused, PeerError) as error:
                    session.stays = self._is_worth_keeping(answer, error)
                    raise
        finally:
            if answer is not None:
                self._note_end(answer)
            else:
                kept.drop()
                if known is not None:
                    self._engine.forget(known.session)

    def _is_worth_keeping(self, answer: _Answer, error: Refused | PeerError) -> bool:
        request, session = answer.request, answer.session
        is_known = self._answers.get(answer.ticket.answer_id) is answer
        # The last token of an answer is computed by no range.
        is_over = answer.refill.is_over or session.length >= session.capacity - 1
        # The last row of a refill is computed once all ranges are there.
        is_computed = session.length >= request.least_kept
        is_loss = isinstance(error, PeerError) or error.reason in LOSSES
        return is_known and is_computed and is_loss and not is_over

    def _note_end(self, answer: _Answer) -> None:
        answer_id = answer.ticket.answer_id
        self._keep_pages(answer)
        if self._engine.is_parked(answer.session):
            answer.timer = asyncio.get_running_loop().call_later(PARK_S, self._forget, answer)
            while len(self._list_parked()) > MAX_PARKED:
                self._forget(self._choose_parked())
        else:
            answer.refill.kept.drop()
            if self._answers.get(answer_id) is answer:
                del self._answers[answer_id]
        answer.ended.set()

    def _make_room(self, payer: Payer) -> None:
        """Forget parked sessions where the states of open ones need the bytes: all callers' where
        all bytes run short, and a caller's own where its share does.
        """
        budget = self.budget
        while budget.used > budget.limit // 2 and self._list_parked():
            self._forget(self._choose_parked())
        for answer in self._list_parked():
            if budget.get_used_by(payer.peer) <= budget.get_share(payer) // 2:
                return
            if answer.caller == payer.peer:
                self._forget(answer)

    def _list_parked(self) -> list[_Answer]:
        return [answer for answer in self._answers.values() if answer.timer is not None]

    def _choose_parked(self) -> _Answer:
        """Return the parked session that gives way: the oldest of the caller with most of them."""
        parked = self._list_parked()
        counts = Counter(answer.caller for answer in parked)
        return max(parked, key=lambda answer: counts[answer.caller])

    def _find_pages(self, session: EngineSession) -> Sequence[HiddenRows]:
        """Return the states of the pages that a session begins with; none if one is missing."""
        keys = session.keys[: session.published]
        if (found := self.pages.find(keys)) is not None:
            return found
        # The sessions that computed them may run still.
        for answer in self._answers.values():
            self._keep_pages(answer, wanted=frozenset(keys))
        return self.pages.find(keys) or ()

    def _keep_pages(self, answer: _Answer, *, wanted: frozenset[bytes] | None = None) -> None:
        """Keep the states of the pages that later sessions may begin with: all, or some."""
        session, kept = answer.session, answer.refill.kept
        for page, key in enumerate(session.keys[: session.published]):
            begin, end = page * PAGE_TOKENS, (page + 1) * PAGE_TOKENS
            is_wanted = wanted is None or key in wanted
            if is_wanted and key not in self.pages and kept.covers(begin, end):
                # The compute thread may drop them at this moment, where a bound is reached.
                with contextlib.suppress(ValueError):
                    self.pages.put(key, kept.read(begin, end), answer.caller)

    def _forget(self, answer: _Answer) -> None:
        """Free what a parked session holds."""
        if answer.timer is not None:
            answer.timer.cancel()
            answer.timer = None
        answer.refill.kept.drop()
        self._engine.forget(answer.session)
        if self._answers.get(answer.ticket.answer_id) is answer:
            del self._answers[answer.ticket.answer_id]

    async def _take(self, request: Resumable, ticket: Ticket, caller: PeerId) -> _Answer | None:
        """Return the answer's parked session, gone back to what it shares with the request.

        None where it is not here, or of no use. Raises Refused(BUSY), or Refused(UNKNOWN_SESSION)
        where another client asks.
        """
        known = self._answers.get(ticket.answer_id)
        if known is None or not ticket.follows(known.ticket):
            return None
        if request.is_first and known.caller != caller:
            raise Refused(RefusalReason.UNKNOWN_SESSION, "the answer is another client's")
        # From now on an earlier ticket opens nothing.
        known.ticket = ticket
        known.refill.supersede()
        try:
            async with asyncio.timeout(self._timeouts.open_s):
                await known.ended.wait()
                await self._engine.settle(known.session)
        except TimeoutError as error:
            raise Refused(RefusalReason.BUSY, "the session before has not ended") from error
        if self._answers.get(ticket.answer_id) is not known or known.ticket is not ticket:
            return None
        if not (self._engine.is_parked(known.session) and _is_same_text(known, request)):
            self._forget(known)
            return None
        if known.timer is not None:
            known.timer.cancel()
        del self._answers[ticket.answer_id]
        self._go_back(known, request)
        return known

    def _go_back(self, known: _Answer, request: Resumable) -> None:
        """Keep what is certain."""
        session, kept = known.session, known.refill.kept
        self._engine.go_back(session, min(session.length, request.most_kept))
        kept.cut(session.length)

    def close(self) -> None:
        """Forget all parked sessions and pages; the sessions that run must have ended."""
        self.pages.clear()
        for answer in [*self._answers.values()]:
            self._forget(answer)


def _is_same_text(known: _Answer, request: Resumable) -> bool:
    """Whether a request goes on with the text of a session, at the same layers."""
    session, before = known.session, known.request
    is_alike = session.span == request.hop.span and session.capacity == request.capacity
    if isinstance(request, DriveSession) or isinstance(before, DriveSession):
        # Which tokens a driven text begins with, its client says by what it feeds.
        return is_alike and type(request) is type(before)
    text = request.token_ids
    begins_alike = text[: len(before.token_ids)] == before.token_ids
    # The first range knows the answer's tokens too; a draft at the end may have been wrong.
    shared = min(len(session.token_ids), len(text) - 1)
    return is_alike and begins_alike and tuple(session.token_ids[:shared]) == text[:shared]


async def agree_on_refill(
    engine: Engine,
    session: EngineSession,
    refill: RangeRefill,
    next_hop: NextHop,
    request: Resumable,
    *,
    timeout_s: float,
) -> None:
    """Wait until the next range says what it needs; give up what cannot be sent to it.

    Raises Refused that blames the next hop.
    """

    def take(needed: int) -> None:
        if needed > request.most_kept:
            raise Refused(RefusalReason.WRONG_POSITION, "it has more than there is")
        refill.send_from = needed

    await receive_ready(next_hop, take, timeout_s=timeout_s)
    needed = refill.send_from
    if needed < session.length and not refill.kept.covers(needed, session.length):
        engine.go_back(session, 0)
        refill.kept.clear()
        engine.measures.refills[RefillResult.GIVEN_UP] += 1


def list_kept_steps(
    session: EngineSession, refill: RangeRefill, *, chunk: int, deterministic: bool
) -> list[tuple[int, int]]:
    """Return where the kept rows that the next range needs are cut: half-open ranges of positions.

    Where bits are to be equal they are cut as they were computed.
    """
    first, end = refill.send_from, session.length
    if first >= end:
        return []
    inner = session.ends if deterministic else range(first + chunk, end, chunk)
    # A session that went back to the end of a step names it twice.
    cuts = sorted({first, end, *(place for place in inner if first < place < end)})
    return [*itertools.pairwise(cuts)]
