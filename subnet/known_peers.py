"""The peers that the chain names in the subnet, and the addresses that it gives to dial.

A known peer may hold a place in the DHT and send heartbeats. The list is wider than an epoch's
roster: it has queued nodes, bootnodes and client identities too. Consensus records need the
roster. Both are read from the state of one block, so that they never disagree about a peer. The
list is also the proof of stake: the chain registers no node without the subnet's minimum stake.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from consensus.roster import Roster
from consensus.types import BlockNumber, SubnetId
from keys.errors import BadPeerId
from keys.peer import PeerId
from subnet.chain import parsing
from subnet.chain.multiaddr import decode_multiaddr
from subnet.chain.substrate import SubstrateChain

if TYPE_CHECKING:
    from subnet.chain.chain_session import ChainSession
    from subnet.epoch.rosters import Rosters

MAX_BOOTNODES = 64
_PEER_FIELDS = ("peer_info", "bootnode_peer_info", "client_peer_info")


@dataclass(frozen=True, slots=True)
class PeerLists:
    """``nodes`` serve under their main peer id; ``others`` are bootnodes and clients."""

    nodes: frozenset[PeerId] = frozenset()
    others: frozenset[PeerId] = frozenset()


@dataclass(frozen=True, slots=True)
class _State:
    """The peers in the state of one block."""

    block: BlockNumber = BlockNumber(0)
    block_hash: bytes = b""
    peers: PeerLists = PeerLists()


class KnownPeers:
    """The peers in the newest state that was read. They stay while the chain does not answer."""

    def __init__(self, chain: SubstrateChain, subnet_id: SubnetId) -> None:
        self._chain = chain
        self._subnet_id = subnet_id
        self._state = _State()

    @property
    def block_hash(self) -> bytes:
        """The block whose state was read; empty before the first reading."""
        return self._state.block_hash

    async def follow(self, roster: Roster | None) -> None:
        """Read the peers from the state of ``roster``'s block. Raises ChainUnavailable.

        The first call uses the head's state if the peers changed since the roster's block, so a
        node that just registered can connect at once. Later calls use the newest roster's state.
        """
        if roster is None or not self._state.block_hash:
            self._state = await self._chain.query(lambda session: self._read_start(session, roster))
        elif roster.first_block > self._state.block:
            self._state = await self._chain.query(lambda session: self._read(session, roster))

    def _read_start(self, session: ChainSession, roster: Roster | None) -> _State:
        header, at = session.read_head()
        peers = _read(session, self._subnet_id, at=at)
        if roster is not None:
            state = self._read(session, roster)
            if state.peers == peers:
                return state
        return _State(BlockNumber(header.number), bytes.fromhex(at[2:]), peers)

    def _read(self, session: ChainSession, roster: Roster) -> _State:
        peers = _read(session, self._subnet_id, at=f"0x{roster.block_hash.hex()}")
        return _State(roster.first_block, roster.block_hash, peers)

    def list_nodes(self) -> tuple[PeerId, ...]:
        """Return the main peer ids, sorted."""
        return tuple(sorted(self._state.peers.nodes))

    def is_node(self, peer: PeerId) -> bool:
        """Return whether a registered node, queued or active, serves under this key."""
        return peer in self._state.peers.nodes

    def is_known(self, peer: PeerId) -> bool:
        """Return whether the chain names this key anywhere in the subnet."""
        return peer in self._state.peers.nodes or peer in self._state.peers.others


async def read_known_peers(
    chain: SubstrateChain, rosters: Rosters, known_peers: KnownPeers
) -> None:
    """Read the epoch's roster, and the peers from the same block. Raises ChainUnavailable."""
    position = await rosters.locate(await chain.fetch_head())
    if position is not None:
        await rosters.refresh(position)
    await known_peers.follow(rosters.get_newest_roster())


async def fetch_bootnode_addresses(chain: SubstrateChain, subnet_id: SubnetId) -> tuple[str, ...]:
    """Return the addresses, each with its peer id, that the chain gives to dial.

    The subnet's bootnodes come first, then the addresses that nodes registered for themselves.
    Strangers wrote them: what is not an address of an Ed25519 peer is left out.
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


def _read(session: ChainSession, subnet_id: SubnetId, *, at: str) -> PeerLists:
    nodes: set[PeerId] = set()
    others: set[PeerId] = set()
    for item in ("SubnetNodesData", "RegisteredSubnetNodesData"):
        for _, node in session.read_map(f"Network.{item}", subnet_id, at=at):
            for place, name in enumerate(_PEER_FIELDS):
                info = node[name]
                peer = None if info is None else parsing.parse_peer_id(info["peer_id"])
                if peer is not None:
                    (others if place else nodes).add(peer)
    bootnodes = session.read("Network.SubnetBootnodes", subnet_id, at=at, default=True)
    others.update(filter(None, (parsing.parse_peer_id(text) for text, _ in bootnodes or ())))
    return PeerLists(frozenset(nodes), frozenset(others - nodes))
