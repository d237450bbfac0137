"""An account's stake, unbonding or not, its delegated shares, and whether it can pay fees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from consensus.types import BlockNumber, SubnetId
from subnet.account.registration import TENSOR, hex_account, read_at_head
from subnet.chain.substrate import SubstrateChain

if TYPE_CHECKING:
    from subnet.chain.chain_session import ChainSession

MIN_HOTKEY_BALANCE = TENSOR // 10**9
"""Units. The fee of a proposal is withheld before it is given back, so a hotkey needs one."""


@dataclass(frozen=True, slots=True)
class Unbonding:
    """Units of stake that can be claimed from ``block`` on."""

    block: BlockNumber
    amount: int
    claimable: bool


async def fetch_unbondings(chain: SubstrateChain, account_id: bytes) -> tuple[Unbonding, ...]:
    """Return the account's unbonding ledger, the earliest first."""

    def work(session: ChainSession) -> tuple[Unbonding, ...]:
        header, at = session.read_head()
        ledger = session.read("Network.StakeUnbondingLedger", f"0x{account_id.hex()}", at=at) or []
        return tuple(
            Unbonding(BlockNumber(block), amount, claimable=header.number >= block)
            for block, amount in sorted(ledger)
        )

    return await chain.query(work)


async def fetch_delegated_shares(
    chain: SubstrateChain, account_id: bytes, subnet_id: SubnetId, node_id: int | None = None
) -> int:
    """Return the account's shares of the subnet's delegate stake, or of the node's if one is named.

    ``undelegate`` takes shares.
    """
    account = hex_account(account_id)
    if node_id is None:
        item = "Network.AccountSubnetDelegateStakeShares"
        return int(await read_at_head(chain, item, account, subnet_id, default=True))
    item = "Network.AccountNodeDelegateStakeShares"
    return int(await read_at_head(chain, item, account, subnet_id, node_id, default=True))


async def fetch_stake(chain: SubstrateChain, account_id: bytes, subnet_id: SubnetId) -> int:
    """Return the hotkey's stake in the subnet, in units of 10^-18 TENSOR."""
    item = "Network.AccountSubnetStake"
    return int(await read_at_head(chain, item, hex_account(account_id), subnet_id, default=True))


async def is_hotkey_funded(chain: SubstrateChain, hotkey: bytes) -> bool:
    """Whether the hotkey can be charged the fee of a proposal or attestation.

    A successful one costs nothing in the end, but the pool refuses an account that could not pay.
    """
    return await chain.fetch_balance(hotkey) >= MIN_HOTKEY_BALANCE
