"""One account's calls that move stake, and how soon one may follow another."""

from __future__ import annotations

from devchain import storage
from devchain.errors import ensure
from devchain.runtime import Runtime


def check_rate(runtime: Runtime, account: bytes) -> None:
    """Raise TxRateLimitExceeded within TxRateLimit blocks of the last call; 0 is no limit."""
    limit = runtime.state.get(storage.TX_RATE_LIMIT)
    last = runtime.state.get(storage.LAST_TX_BLOCK, account)
    ensure(not limit or not last or runtime.block - last > limit, "TxRateLimitExceeded")


def note_call(runtime: Runtime, account: bytes) -> None:
    """Remember that the account made a call that counts. Swaps are checked, but do not count."""
    runtime.state.put(storage.LAST_TX_BLOCK, account, value=runtime.block)
