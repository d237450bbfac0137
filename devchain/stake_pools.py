"""Pools of delegated stake: accounts hold shares, rewards raise what a share is worth."""

from __future__ import annotations

from dataclasses import dataclass

from devchain import storage
from devchain.errors import ensure
from devchain.fixed_point import MAX_U128
from devchain.rate_limit import check_rate
from devchain.runtime import Runtime
from devchain.state import Item

DEAD_SHARES = 1000
"""Shares without an owner, minted when a pool opens: they make rounding attacks expensive."""
_VIRTUAL_SHARES = 10
_VIRTUAL_BALANCE = 1


@dataclass(frozen=True)
class StakePool:
    """One pool. ``key`` names it in its items; account shares have the account before it."""

    key: tuple[int, ...]
    account_shares: Item[int]
    shares: Item[int]
    balance: Item[int]
    network_total: Item[int]
    flow: Item[int] | None = None
    """Where deposits less withdrawals are counted, for the subnet's weight."""


def subnet_pool(subnet_id: int) -> StakePool:
    """Return the pool of stake that is delegated to a whole subnet."""
    return StakePool(
        (subnet_id,),
        storage.ACCOUNT_SUBNET_DELEGATE_STAKE_SHARES,
        storage.TOTAL_SUBNET_DELEGATE_STAKE_SHARES,
        storage.TOTAL_SUBNET_DELEGATE_STAKE_BALANCE,
        storage.TOTAL_DELEGATE_STAKE,
        storage.SUBNET_NET_FLOW,
    )


def node_pool(subnet_id: int, node_id: int) -> StakePool:
    """Return the pool of stake that is delegated to one node."""
    return StakePool(
        (subnet_id, node_id),
        storage.ACCOUNT_NODE_DELEGATE_STAKE_SHARES,
        storage.TOTAL_NODE_DELEGATE_STAKE_SHARES,
        storage.TOTAL_NODE_DELEGATE_STAKE_BALANCE,
        storage.TOTAL_NODE_DELEGATE_STAKE,
    )


def to_shares(balance: int, *, total_shares: int, total_balance: int) -> int:
    """Return what a deposit is worth in shares: one to one into an empty pool."""
    if not total_shares:
        return balance
    shares = balance * (total_shares + _VIRTUAL_SHARES) // (total_balance + _VIRTUAL_BALANCE)
    return min(shares, MAX_U128)


def to_balance(shares: int, *, total_shares: int, total_balance: int) -> int:
    """Return what shares are worth in units."""
    if not total_shares:
        return shares
    balance = shares * (total_balance + _VIRTUAL_BALANCE) // (total_shares + _VIRTUAL_SHARES)
    return min(balance, MAX_U128)


def count_shares(runtime: Runtime, pool: StakePool, account: bytes) -> int:
    """Return the shares that an account holds."""
    return runtime.state.get(pool.account_shares, account, *pool.key)


def value_shares(runtime: Runtime, pool: StakePool, shares: int) -> int:
    """Return what shares of the pool are worth now."""
    return to_balance(
        shares,
        total_shares=runtime.state.get(pool.shares, *pool.key),
        total_balance=runtime.state.get(pool.balance, *pool.key),
    )


def join(runtime: Runtime, pool: StakePool, account: bytes, amount: int) -> None:
    """Give the account shares for units that it has paid. Raises CouldNotConvertToShares."""
    state = runtime.state
    total_shares = state.get(pool.shares, *pool.key)
    if not total_shares:
        state.add(pool.shares, *pool.key, amount=DEAD_SHARES)
    total_balance = state.get(pool.balance, *pool.key)
    shares = to_shares(amount, total_shares=total_shares, total_balance=total_balance)
    ensure(shares > 0, "CouldNotConvertToShares")
    _change(runtime, pool, account, amount=amount, shares=shares)


def leave(runtime: Runtime, pool: StakePool, account: bytes, shares: int) -> int:
    """Take shares from the account; return the units that they were worth."""
    ensure(shares > 0, "SharesZero")
    ensure(count_shares(runtime, pool, account) >= shares, "NotEnoughStakeToWithdraw")
    amount = value_shares(runtime, pool, shares)
    check_rate(runtime, account)
    _change(runtime, pool, account, amount=-amount, shares=-shares)
    return amount


def transfer_shares(
    runtime: Runtime, pool: StakePool, source: bytes, target: bytes, *, shares: int
) -> None:
    """Move shares between accounts.

    The runtime checks only for zero and lets the sender's shares saturate; here
    shares are not made from nothing.
    """
    ensure(0 < shares <= count_shares(runtime, pool, source), "NotEnoughStakeToWithdraw")
    _change(runtime, pool, source, amount=0, shares=-shares)
    _change(runtime, pool, target, amount=0, shares=shares)


def add_rewards(runtime: Runtime, pool: StakePool, amount: int) -> None:
    """Raise the pool's balance; the shares stay as they are."""
    if not amount:
        return
    state = runtime.state
    if not state.get(pool.balance, *pool.key) or not state.get(pool.shares, *pool.key):
        state.add(pool.shares, *pool.key, amount=DEAD_SHARES)
    state.add(pool.balance, *pool.key, amount=amount)
    state.add(pool.network_total, amount=amount)


def _change(runtime: Runtime, pool: StakePool, account: bytes, *, amount: int, shares: int) -> None:
    """Change an account's shares and the pool with them; negative numbers take away."""
    state = runtime.state
    state.add(pool.account_shares, account, *pool.key, amount=shares)
    state.add(pool.balance, *pool.key, amount=amount)
    state.add(pool.shares, *pool.key, amount=shares)
    state.add(pool.network_total, amount=amount)
    if pool.flow is not None:
        flow = state.get(pool.flow, *pool.key)
        state.put(pool.flow, *pool.key, value=flow + amount)
