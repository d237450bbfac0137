"""What a chain's metadata says about its pace."""

from __future__ import annotations

from subnet.chain.substrate import SubstrateChain

DEFAULT_BLOCK_TIME_MS = 6_000


async def fetch_block_time_ms(chain: SubstrateChain) -> int:
    """Return the target time between blocks: twice Timestamp.MinimumPeriod.

    A chain that names none is taken to have Hypertensor's six seconds.
    """
    minimum = await chain.query(lambda session: session.read_constant("Timestamp.MinimumPeriod"))
    return 2 * int(minimum) if minimum else DEFAULT_BLOCK_TIME_MS
