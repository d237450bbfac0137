"""The limit on how soon an account may move stake again."""

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
    """Store the block of the account's call. Swaps are checked but not stored."""
    runtime.state.put(storage.LAST_TX_BLOCK, account, value=runtime.block)
