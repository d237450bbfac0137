"""Take a node out of its subnet and bring its stake home. Safe to re-run.

The steps: remove the node, wait for the pay of the running epoch, unbond the whole stake, wait
until that can be claimed, claim it. Each looks at the chain first, so what is done is not done
twice.

Once all stake of a hotkey is unbonded the chain forgets the hotkey, which can then be registered
anew. But it settles an epoch with the nodes that a proposal found, and adds the pay to their
hotkeys' stake, also if they are removed by then: pay for a forgotten hotkey has no owner. So the
stake is unbonded after the running epoch has been settled.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from consensus.types import Epoch, SubnetId, SubnetNodeId
from keys.account import AccountKey
from subnet.account.money import Unbonding, fetch_unbondings
from subnet.account.registration import TENSOR, hex_account
from subnet.chain.parsing import parse_bytes
from subnet.chain.substrate import SubstrateChain, read_position

if TYPE_CHECKING:
    from subnet.chain.chain_session import ChainSession

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class LeavingNode:
    """The hotkey of the node that leaves, and the coldkey that owns it and signs."""

    subnet_id: SubnetId
    hotkey: bytes
    coldkey: AccountKey


@dataclass(frozen=True, slots=True)
class _Holdings:
    """What the chain still holds of the node. ``stake`` is in units of 10^-18 TENSOR.

    ``owed_in`` is the running epoch if it may still pay the hotkey. ``is_owned`` says that the
    coldkey owns the hotkey.
    """

    node_id: SubnetNodeId | None
    is_elected: bool
    stake: int
    owed_in: Epoch | None
    is_owned: bool


async def leave(
    chain: SubstrateChain, leaver: LeavingNode, *, say: Say, is_waiting: bool = True
) -> tuple[Unbonding, ...]:
    """Remove the node, unbond and claim its stake; return what is left to be claimed.

    ``say`` gets a line for each step and each block of a wait. Without ``is_waiting`` it ends
    where only time is missing. Raises ExtrinsicFailed, ChainUnavailable.
    """
    subnet_id, hotkey = leaver.subnet_id, hex_account(leaver.hotkey)
    async with aclosing(chain.heads()) as heads:
        async for head in heads:
            holdings = await _fetch_holdings(chain, leaver)
            left = await fetch_unbondings(chain, leaver.coldkey.account_id)
            if holdings.node_id is not None and holdings.is_elected:
                say(f"node {holdings.node_id} is elected: it may leave when the epoch is over")
            elif holdings.node_id is not None:
                say(f"removing node {holdings.node_id}")
                arguments = {"subnet_id": subnet_id, "subnet_node_id": holdings.node_id}
                await chain.submit("Network", "remove_subnet_node", arguments, key=leaver.coldkey)
                continue
            elif holdings.owed_in is not None:
                say(f"waiting for the end of epoch {holdings.owed_in}: its pay goes to the stake")
            elif holdings.stake and holdings.is_owned:
                say("unbonding its stake")
                staked = {
                    "subnet_id": subnet_id,
                    "hotkey": hotkey,
                    "stake_to_be_removed": holdings.stake,
                }
                await chain.submit("Network", "remove_stake", staked, key=leaver.coldkey)
                continue
            elif any(unbonding.claimable for unbonding in left):
                say("claiming what is unbonded")
                await chain.submit("Network", "claim_unbondings", {}, key=leaver.coldkey)
                continue
            elif not left:
                if holdings.stake:
                    say(
                        f"{holdings.stake / TENSOR:g} TENSOR came to the hotkey after the chain "
                        "had forgotten it: register a node with this hotkey to have them"
                    )
                return ()
            else:
                say(f"the stake can be claimed in {left[-1].block - head.number} blocks")
            if not is_waiting:
                return left
    raise AssertionError("the chain's heads never end")


async def _fetch_holdings(chain: SubstrateChain, leaver: LeavingNode) -> _Holdings:
    subnet_id, hotkey = leaver.subnet_id, hex_account(leaver.hotkey)
    length = (await chain.fetch_info()).epoch_length

    def work(session: ChainSession) -> _Holdings:
        position, at = read_position(session, subnet_id, epoch_length=length)
        node_id = session.read("Network.HotkeySubnetNodeId", subnet_id, hotkey, at=at)
        elected = session.read("Network.SubnetElectedValidator", subnet_id, position.epoch, at=at)
        stake = session.read("Network.AccountSubnetStake", hotkey, subnet_id, at=at) or 0
        owner = session.read("Network.HotkeyOwner", hotkey, at=at)
        proposed = session.read(
            "Network.SubnetConsensusSubmission", subnet_id, position.epoch, at=at
        )
        snapshot = () if proposed is None else proposed["subnet_nodes"]
        is_owed = any(parse_bytes(node["hotkey"]) == leaver.hotkey for node in snapshot)
        return _Holdings(
            node_id=SubnetNodeId(node_id) if node_id else None,
            is_elected=bool(node_id) and elected == node_id,
            stake=int(stake),
            owed_in=position.epoch if is_owed else None,
            is_owned=owner is not None and parse_bytes(owner) == leaver.coldkey.account_id,
        )

    return await chain.query(work)
