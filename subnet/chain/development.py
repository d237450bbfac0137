"""The check that a chain is a development chain, before a development account signs on it."""

from __future__ import annotations

from subnet.chain.chain_session import DEVELOPMENT_CHAIN_TYPE
from subnet.chain.substrate import SubstrateChain
from subnet.errors import ChainMismatch


async def check_development_chain(chain: SubstrateChain, url: str) -> None:
    """Raise ChainMismatch unless the chain calls itself a development chain."""
    chain_type = await chain.query(lambda session: session.read_chain_type())
    if chain_type != DEVELOPMENT_CHAIN_TYPE:
        raise ChainMismatch(
            f"{url} is not a development chain, and anyone can sign as a development account"
        )
