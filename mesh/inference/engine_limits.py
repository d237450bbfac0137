"""What an engine takes on: its limits, what an account may use, a prompt that may be known."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from mesh.inference.accounts import Account
from mesh.inference.pages import PageBook
from mesh.inference.refusals import RefusalReason, Refused
from mesh.model.capacity import PAGE_TOKENS, count_pages


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """What one engine takes on. ``cache_tokens`` are slots for one token in every served layer; the
    cache has whole pages, so it may hold a few more.
    """

    cache_tokens: int = 8192
    max_sessions: int = 64
    max_sessions_per_peer: int = 16
    reserved_divisor: int = 4
    """One part in so many of the cache and the sessions is kept for members."""
    max_batch_rows: int = 32
    prefill_chunk: int = 128
    prefill_tokens: int = 0
    """Prompts of several sessions share a step of so many rows at most; 0: each goes alone. A
    deterministic engine lets each go alone."""
    page_wait_s: float = 20.0
    """A session whose pages went to another one waits so long for pages, and is refused then."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """A prompt whose beginning may be computed already.

    ``salt`` says whose: sessions of different salts share nothing, since a first token that comes
    early tells that someone else sent the same text. At most ``limit`` tokens are reused.
    """

    salt: bytes
    token_ids: Sequence[int]
    limit: int


def check_quota(account: Account, others: Collection[Account], limits: EngineLimits) -> None:
    """Raise Refused(BUSY) where another session would exceed what the account may use.

    ``others`` are the accounts of the sessions that are open.
    """
    if len(others) >= limits.max_sessions:
        raise Refused(RefusalReason.BUSY, f"{limits.max_sessions} sessions are open")
    if account.client is not None:
        own = sum(other.client == account.client for other in others)
        if own >= limits.max_sessions_per_peer:
            raise Refused(RefusalReason.BUSY, "this peer has too many sessions open")
    if account.is_member:
        return
    sessions = limits.max_sessions - limits.max_sessions // limits.reserved_divisor
    if sum(not other.is_member for other in others) >= sessions:
        raise Refused(RefusalReason.BUSY, "the rest is kept for the nodes of the subnet")


def fit_chunk(limits: EngineLimits, max_rows: int) -> EngineLimits:
    """Return the limits with chunks of a prompt that fit into one frame to the next range.

    A shorter chunk than asked is a multiple of a page, where it can be: a deterministic engine
    reuses multiples of both.
    """
    if limits.prefill_chunk <= max_rows:
        return limits
    return replace(limits, prefill_chunk=max_rows // PAGE_TOKENS * PAGE_TOKENS or max_rows)


def open_book(limits: EngineLimits, *, max_context: int) -> PageBook:
    """Return the book of the cache's pages."""
    pages = count_pages(limits.cache_tokens)
    strangers = pages - pages // limits.reserved_divisor
    # One stranger may always fill a context, however small the cache is.
    return PageBook(pages, stranger_pages=max(strangers, count_pages(max_context)))
