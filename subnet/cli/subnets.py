"""From what a person calls a subnet to its id."""

from __future__ import annotations

from typing import TYPE_CHECKING

from subnet.chain.endpoints import DEFAULT_CHAIN_URL
from subnet.cli.console import say
from subnet.errors import ChainUnavailable

if TYPE_CHECKING:
    from pathlib import Path

    from consensus.types import SubnetId


def find_subnet_id(subnet: str | None, chain: str | None) -> SubnetId | None:
    """Return the id of the subnet that is named; None if none is.

    An id needs no chain; a name and a friendly id are looked up. Raises UnknownSubnet or
    ChainUnavailable.
    """
    import asyncio

    from consensus.types import SubnetId
    from subnet.account.registration import is_subnet_id
    from subnet.cli.chain.options import open_chain, require_subnet

    if subnet is None or is_subnet_id(subnet):
        return None if subnet is None else SubnetId(int(subnet))

    async def work() -> SubnetId:
        async with open_chain(chain or DEFAULT_CHAIN_URL) as opened:
            return await require_subnet(opened, subnet)

    return asyncio.run(work())


def find_own_subnet_id(
    subnet: str | None, chain: str | None, data_dir: Path | None
) -> SubnetId | None:
    """Return the id as find_subnet_id does, and None, with a notice, while the chain is away.

    For commands that also work without a chain, on what nodes keep in ``data_dir``: a number that
    such a node's folder bears is the subnet's id. Raises UnknownSubnet.
    """
    from platformdirs import user_data_path

    from consensus.types import SubnetId

    kept = data_dir or user_data_path("mesh")
    if subnet is not None and subnet.isdecimal() and any(kept.glob(f"{int(subnet)}-*")):
        return SubnetId(int(subnet))
    try:
        return find_subnet_id(subnet, chain)
    except ChainUnavailable:
        say(f"the chain does not answer, so the subnet {subnet!r} is not looked up there")
        return None
