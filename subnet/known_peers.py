"""Every peer that the chain knows in the subnet: who may hold a place in the DHT and heartbeat.

Wider than an epoch's roster: queued nodes, bootnodes and client identities count too. It
decides about connections and heartbeats only; consensus records need the roster. Both are read
from the state of one block, the epoch's first, so that a peer is never known to one policy and
strange to the other. The lists are the proof of stake as well: the chain admits nobody to them
without the subnet's minimum stake.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from consensus.roster import Roster
from consensus.types import BlockNumber, SubnetId
from keys.errors import BadPeerId
from keys.peer import PeerId
from subnet.chain import parsing
from subnet.chain.multiaddr import decode_multiaddr
from subnet.chain.substrate import SubstrateChain

if TYPE_CHECKING:
    from subnet.chain.chain_session import ChainSession
    from subnet.epoch.rosters import Membership

MAX_BOOTNODES = 64
_PEER_FIELDS = ("peer_info", "bootnode_peer_info", "client_peer_info")


@dataclass(frozen=True, slots=True)
class KnownPeers:
    """``nodes`` serve under their main peer id; ``others`` are bootnodes and clients."""

    nodes: frozenset[PeerId]
    others: frozenset[PeerId]


@dataclass(frozen=True, slots=True)
class _State:
    """The peers in the state of one block."""

    block: BlockNumber
    block_hash: bytes
    known: KnownPeers


class Members:
    """The latest word of the chain. An outage keeps the last one; it never opens the door."""

    def __init__(self, chain: SubstrateChain, subnet_id: SubnetId) -> None:
        self._chain = chain
        self._subnet_id = subnet_id
        self._state = _State(BlockNumber(0), b"", KnownPeers(frozenset(), frozenset()))

    @property
    def block_hash(self) -> bytes:
        """The block whose state is known here; empty before the first reading."""
        return self._state.block_hash

    async def follow(self, roster: Roster | None) -> None:
        """Read the peers from the state that ``roster`` was read from. Raises ChainUnavailable.

        A process begins with the head's state if others joined or left since that block, and
        goes on with the next roster's: whoever registers and starts at once finds the others who
        did so, and nobody waits for an epoch to begin.
        """
        if roster is None or not self._state.block_hash:
            self._state = await self._chain.query(lambda session: self._read_start(session, roster))
        elif roster.first_block > self._state.block:
            self._state = await self._chain.query(lambda session: self._read(session, roster))

    def _read_start(self, session: ChainSession, roster: Roster | None) -> _State:
        header, at = session.read_head()
        known = _read(session, self._subnet_id, at=at)
        if roster is not None:
            state = self._read(session, roster)
            if state.known == known:
                return state
        return _State(BlockNumber(header.number), bytes.fromhex(at[2:]), known)

    def _read(self, session: ChainSession, roster: Roster) -> _State:
        known = _read(session, self._subnet_id, at=f"0x{roster.block_hash.hex()}")
        return _State(roster.first_block, roster.block_hash, known)

    def list_nodes(self) -> tuple[PeerId, ...]:
        """Return the main peer ids, sorted."""
        return tuple(sorted(self._state.known.nodes))

    def is_node(self, peer: PeerId) -> bool:
        """Whether a registered node, queued or active, serves under this key."""
        return peer in self._state.known.nodes

    def is_known(self, peer: PeerId) -> bool:
        """Whether the chain names this key in any place of the subnet."""
        return peer in self._state.known.nodes or peer in self._state.known.others


async def read_membership(chain: SubstrateChain, membership: Membership, members: Members) -> None:
    """Read the epoch's roster and, from the same block, who is known. Raises ChainUnavailable."""
    position = await membership.locate(await chain.fetch_head())
    if position is not None:
        await membership.refresh(position)
    await members.follow(membership.get_newest_roster())


async def fetch_bootnode_addresses(chain: SubstrateChain, subnet_id: SubnetId) -> tuple[str, ...]:
    """Return the addresses, each with its peer id, that the chain gives a newcomer to dial.

    First the subnet's own bootnodes, then those that nodes registered for themselves. What is
    not an address of an Ed25519 peer is left out: strangers wrote it.
    """
    return await chain.query(lambda session: _read_addresses(session, subnet_id))


def _read_addresses(session: ChainSession, subnet_id: SubnetId) -> tuple[str, ...]:
    at = session.read_head_hash()
    bootnodes = session.read("Network.SubnetBootnodes", subnet_id, at=at, default=True)
    raw = [parsing.parse_bytes(address) for _, address in bootnodes or ()]
    for _, node in session.read_map("Network.SubnetNodesData", subnet_id, at=at):
        for name in ("bootnode_peer_info", "peer_info"):
            info = node[name]
            if info is not None and info["multiaddr"] is not None:
                raw.append(parsing.parse_bytes(info["multiaddr"]))
    addresses = (_parse_address(address) for address in raw)
    return tuple(dict.fromkeys(text for text in addresses if text is not None))[:MAX_BOOTNODES]


def _parse_address(raw: bytes) -> str | None:
    try:
        text = decode_multiaddr(raw)
        PeerId.from_base58(text.rpartition("/p2p/")[2])
    except (ValueError, BadPeerId):
        return None
    return text


async def find_subnet_of_bootnode(chain: SubstrateChain, peer: PeerId) -> SubnetId | None:
    """Return the first subnet that names ``peer`` as a bootnode, of the subnet or of a node."""

    def work(session: ChainSession) -> SubnetId | None:
        at = session.read_head_hash()
        subnets = session.read_map("Network.SubnetsData", at=at)
        for subnet_id in sorted(int(key) for key, _ in subnets):
            if peer in _read(session, SubnetId(subnet_id), at=at).others:
                return SubnetId(subnet_id)
        return None

    return await chain.query(work)


def _read(session: ChainSession, subnet_id: SubnetId, *, at: str) -> KnownPeers:
    nodes: set[PeerId] = set()
    others: set[PeerId] = set()
    for item in ("SubnetNodesData", "RegisteredSubnetNodesData"):
        for _, node in session.read_map(f"Network.{item}", subnet_id, at=at):
            for place, name in enumerate(_PEER_FIELDS):
                peer = _parse_peer(node[name])
                if peer is not None:
                    (others if place else nodes).add(peer)
    bootnodes = session.read("Network.SubnetBootnodes", subnet_id, at=at, default=True)
    for text, _ in bootnodes or ():
        others.update(_parse_text(parsing.parse_text(text)))
    return KnownPeers(frozenset(nodes), frozenset(others - nodes))


def _parse_peer(info: Mapping[str, Any] | None) -> PeerId | None:
    return None if info is None else parsing.parse_peer_id(info["peer_id"])


def _parse_text(text: str) -> tuple[PeerId, ...]:
    try:
        return (PeerId.from_base58(text),)
    except BadPeerId:
        return ()
