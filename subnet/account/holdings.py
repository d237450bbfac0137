"""What one coldkey has on the chain: nodes and stake in every subnet, what unbonds, its balance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from consensus.types import SubnetId, SubnetNodeId
from subnet.account.money import Unbonding, fetch_unbondings
from subnet.account.registration import hex_account, parse_registered_node
from subnet.chain import parsing
from subnet.chain.substrate import SubstrateChain

if TYPE_CHECKING:
    from consensus.types import NodeClass
    from subnet.chain.chain_session import ChainSession


@dataclass(frozen=True, slots=True)
class HotkeyHolding:
    """A hotkey of the coldkey, and its stake in units of 10^-18 TENSOR.

    ``node_id`` is None where the node has left and its stake has not; ``node_class`` is None for
    a queued node.
    """

    hotkey: bytes
    subnet_id: SubnetId
    node_id: SubnetNodeId | None
    node_class: NodeClass | None
    stake: int


@dataclass(frozen=True, slots=True)
class Holdings:
    """All of one coldkey."""

    hotkeys: tuple[HotkeyHolding, ...]
    unbondings: tuple[Unbonding, ...]
    free: int


async def fetch_holdings(chain: SubstrateChain, coldkey: bytes) -> Holdings:
    """Return what the coldkey has, hotkeys by subnet and node."""

    def work(session: ChainSession) -> tuple[HotkeyHolding, ...]:
        at = session.read_head_hash()
        hotkeys = session.read("Network.ColdkeyHotkeys", hex_account(coldkey), at=at) or []
        found = [
            _read_hotkey(session, parsing.parse_bytes(hotkey), at=at) for hotkey in sorted(hotkeys)
        ]
        held = [holding for holding in found if holding is not None]
        return tuple(sorted(held, key=lambda held: (held.subnet_id, held.node_id or 0)))

    return Holdings(
        hotkeys=await chain.query(work),
        unbondings=await fetch_unbondings(chain, coldkey),
        free=await chain.fetch_balance(coldkey),
    )


def _read_hotkey(session: ChainSession, hotkey: bytes, *, at: str) -> HotkeyHolding | None:
    """Return what a hotkey holds; None for one that is in no subnet."""
    account = hex_account(hotkey)
    subnet_id = session.read("Network.HotkeySubnetId", account, at=at)
    if subnet_id is None:
        return None
    node_id = session.read("Network.HotkeySubnetNodeId", subnet_id, account, at=at)
    record = None
    if node_id is not None:
        record = session.read("Network.SubnetNodesData", subnet_id, node_id, at=at)
    node_class = None
    if record is not None and record["id"]:
        node_class = parse_registered_node(record, is_queued=False).node_class
    return HotkeyHolding(
        hotkey=hotkey,
        subnet_id=SubnetId(subnet_id),
        node_id=None if node_id is None else SubnetNodeId(node_id),
        node_class=node_class,
        stake=int(session.read("Network.AccountSubnetStake", account, subnet_id, at=at) or 0),
    )
