"""Changes of free balances and of stake, with their totals and events."""

from __future__ import annotations

from dataclasses import replace

from devchain import events, storage
from devchain.chain_types import AccountInfo
from devchain.errors import DispatchError, ensure
from devchain.rate_limit import check_rate, note_call
from devchain.runtime import Runtime


def free_balance(runtime: Runtime, account: bytes) -> int:
    """Return the account's free units."""
    return runtime.state.get(storage.ACCOUNT, account).data.free


def can_withdraw(runtime: Runtime, account: bytes, amount: int) -> bool:
    """Whether ``amount`` may leave and the account still live."""
    return free_balance(runtime, account) - amount >= runtime.config.existential_deposit


def set_free(runtime: Runtime, account: bytes, free: int) -> None:
    """Set the free balance; an account exists exactly while it has one provider."""
    info = runtime.state.get(storage.ACCOUNT, account)
    data = replace(info.data, free=free)
    runtime.state.put(storage.ACCOUNT, account, value=replace(info, data=data, providers=1))


def withdraw(runtime: Runtime, account: bytes, amount: int) -> bool:
    """Burn ``amount`` from the account, which must stay alive. Return whether it could."""
    if not can_withdraw(runtime, account, amount):
        return False
    set_free(runtime, account, free_balance(runtime, account) - amount)
    runtime.state.add(storage.TOTAL_ISSUANCE, amount=-amount)
    runtime.emit(events.Withdraw(account, amount))
    return True


def deposit(runtime: Runtime, account: bytes, amount: int) -> None:
    """Mint ``amount``; less than the existential deposit to a new account is lost."""
    if amount == 0:
        return
    is_new = not runtime.state.contains(storage.ACCOUNT, account)
    if is_new and amount < runtime.config.existential_deposit:
        return
    _credit(runtime, account, amount)
    runtime.state.add(storage.TOTAL_ISSUANCE, amount=amount)
    runtime.emit(events.Deposit(account, amount))


def _credit(runtime: Runtime, account: bytes, amount: int) -> None:
    if not runtime.state.contains(storage.ACCOUNT, account):
        runtime.state.put(storage.ACCOUNT, account, value=AccountInfo(providers=1))
        runtime.emit(events.NewAccount(account))
        runtime.emit(events.Endowed(account, amount))
    set_free(runtime, account, free_balance(runtime, account) + amount)


def transfer(
    runtime: Runtime, source: bytes, target: bytes, amount: int, *, keep_alive: bool
) -> None:
    """Move ``amount`` units.

    Raises Token.FundsUnavailable, Token.NotExpendable (the source would die) or
    Token.BelowMinimum (the target would not live).
    """
    left = free_balance(runtime, source) - amount
    deposit_needed = runtime.config.existential_deposit
    if left < 0:
        raise DispatchError("Token", "FundsUnavailable")
    if source != target:
        if free_balance(runtime, target) + amount < deposit_needed:
            raise DispatchError("Token", "BelowMinimum")
        if left < deposit_needed and keep_alive:
            raise DispatchError("Token", "NotExpendable")
        set_free(runtime, source, left)
        if left < deposit_needed:
            _reap(runtime, source, left)
        _credit(runtime, target, amount)
    runtime.emit(events.Transfer(source, target, amount))


def _reap(runtime: Runtime, account: bytes, dust: int) -> None:
    runtime.state.remove(storage.ACCOUNT, account)
    runtime.emit(events.KilledAccount(account))
    if dust:
        runtime.state.add(storage.TOTAL_ISSUANCE, amount=-dust)
        runtime.emit(events.DustLost(account, dust))


def increase_stake(runtime: Runtime, hotkey: bytes, subnet_id: int, amount: int) -> None:
    """Add to a hotkey's stake and both totals; a negative amount takes away, down to zero."""
    runtime.state.add(storage.ACCOUNT_SUBNET_STAKE, hotkey, subnet_id, amount=amount)
    runtime.state.add(storage.TOTAL_SUBNET_STAKE, subnet_id, amount=amount)
    runtime.state.add(storage.TOTAL_STAKE, amount=amount)


def add_stake(
    runtime: Runtime, coldkey: bytes, hotkey: bytes, *, subnet_id: int, amount: int
) -> None:
    """Move free units of the coldkey into the hotkey's stake, within the subnet's limits."""
    state = runtime.state
    ensure(amount != 0, "InvalidAmount")
    total = state.get(storage.ACCOUNT_SUBNET_STAKE, hotkey, subnet_id) + amount
    ensure(total >= state.get(storage.SUBNET_MIN_STAKE_BALANCE, subnet_id), "MinStakeNotReached")
    ensure(total <= state.get(storage.SUBNET_MAX_STAKE_BALANCE, subnet_id), "MaxStakeReached")
    ensure(can_withdraw(runtime, coldkey, amount), "NotEnoughBalanceToStake")
    check_rate(runtime, coldkey)
    ensure(withdraw(runtime, coldkey, amount), "BalanceWithdrawalError")
    increase_stake(runtime, hotkey, subnet_id, amount)
    note_call(runtime, coldkey)
    runtime.emit(events.StakeAdded(subnet_id, coldkey, hotkey, amount))
