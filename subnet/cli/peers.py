"""Whom a client dials: the peers on its command line, or those that the chain names in a subnet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from subnet.errors import ConfigError, UsageError

MAX_NAMED = 2


@dataclass(frozen=True, slots=True)
class FoundPeers:
    """Addresses to dial. ``network_id`` is what the chain says of the network, else None."""

    addresses: tuple[str, ...]
    network_id: bytes | None = None

    def describe(self) -> str:
        """Return the addresses as part of a sentence, the first of many."""
        named = list(self.addresses[:MAX_NAMED])
        if len(self.addresses) > MAX_NAMED:
            named.append(f"{len(self.addresses) - MAX_NAMED} more")
        return " or ".join(named)


def find_peers(
    initial_peers: Sequence[str] | None, *, subnet: str | None, chain: str
) -> FoundPeers:
    """Return the peers that are named, else those of the subnet on the chain.

    A peer of the chain has to be of the subnet's network, since strangers registered it; who is
    named is believed. Raises UsageError, UnknownSubnet, ChainUnavailable or ConfigError.
    """
    if initial_peers:
        return FoundPeers(tuple(initial_peers))
    if subnet is None:
        raise UsageError(
            "a client needs a peer to dial, or a subnet whose peers the chain names",
            "give --initial-peers ADDR, or --subnet NAME and --chain URL",
        )
    import asyncio

    return asyncio.run(_ask_chain(subnet, chain))


async def _ask_chain(subnet: str, url: str) -> FoundPeers:
    from subnet.cli.chain.options import open_chain, require_subnet
    from subnet.known_peers import fetch_bootnode_addresses
    from subnet.network import fetch_subnet_on_chain

    async with open_chain(url) as chain:
        subnet_id = await require_subnet(chain, subnet)
        found = await fetch_subnet_on_chain(chain, subnet_id)
        addresses = await fetch_bootnode_addresses(chain, subnet_id)
    if not addresses:
        raise ConfigError(
            f"the chain names no peer of subnet {subnet} to dial", "give --initial-peers ADDR"
        )
    return FoundPeers(addresses, found.terms.network_id)
