"""Stake after registration: adding, unbonding, and the pools of those who delegate."""

from __future__ import annotations

from subnet.devchain import calls, items
from subnet.devchain.arithmetic import MAX_U128
from subnet.devchain.balances import add_stake as move_stake
from subnet.devchain.balances import can_withdraw, deposit, increase_stake, withdraw
from subnet.devchain.errors import ensure
from subnet.devchain.events import (
    StakeRemoved,
    SubnetDelegateStakeAdded,
    SubnetDelegateStakeRemoved,
)
from subnet.devchain.nodes import is_elected
from subnet.devchain.rewards import DEAD_SHARES, add_delegate_rewards
from subnet.devchain.runtime import Runtime

_VIRTUAL_SHARES = 10
_VIRTUAL_BALANCE = 1


def add_stake(runtime: Runtime, origin: bytes, call: calls.AddStake) -> None:
    """Raise the stake of a hotkey that the origin owns."""
    subnet_id = runtime.subnet(call.subnet_id).id
    owner = runtime.state.get(items.HOTKEY_OWNER, call.hotkey)
    ensure(owner == origin, "NotKeyOwner")
    move_stake(runtime, origin, call.hotkey, subnet_id=subnet_id, amount=call.stake_to_be_added)


def remove_stake(runtime: Runtime, origin: bytes, call: calls.RemoveStake) -> None:
    """Start to unbond stake; a node keeps the subnet's minimum."""
    state, subnet_id, hotkey = runtime.state, call.subnet_id, call.hotkey
    ensure(state.get(items.HOTKEY_OWNER, hotkey) == origin, "NotKeyOwner")
    node_id = state.find(items.HOTKEY_SUBNET_NODE_ID, subnet_id, hotkey)
    if node_id is not None:
        _check_may_unstake(runtime, subnet_id, node_id)
    staked, amount = (
        state.get(items.ACCOUNT_SUBNET_STAKE, hotkey, subnet_id),
        call.stake_to_be_removed,
    )
    ensure(amount > 0, "AmountZero")
    ensure(staked >= amount, "NotEnoughStakeToWithdraw")
    if node_id is not None:
        minimum = state.get(items.SUBNET_MIN_STAKE_BALANCE, subnet_id)
        ensure(staked - amount >= minimum, "MinStakeNotReached")
    elif amount == staked:
        _forget_hotkey(runtime, coldkey=origin, hotkey=hotkey)
    increase_stake(runtime, hotkey, subnet_id, -amount)
    unbond(runtime, origin, amount, epochs=state.get(items.STAKE_COOLDOWN_EPOCHS))
    runtime.emit(StakeRemoved(subnet_id, origin, hotkey, amount))


def _check_may_unstake(runtime: Runtime, subnet_id: int, node_id: int) -> None:
    state = runtime.state
    ensure(not is_elected(runtime, subnet_id, node_id), "ElectedValidatorCannotUnstake")
    node = state.find(items.SUBNET_NODES_DATA, subnet_id, node_id)
    if node is not None:
        free_from = node.classification.start_epoch + state.get(items.MIN_ACTIVE_NODE_STAKE_EPOCHS)
        ensure(free_from <= runtime.subnet_epoch(subnet_id), "MinActiveNodeStakeEpochs")


def _forget_hotkey(runtime: Runtime, *, coldkey: bytes, hotkey: bytes) -> None:
    """The last stake of a former node leaves: the hotkey becomes free again."""
    state = runtime.state
    state.remove(items.HOTKEY_SUBNET_ID, hotkey)
    state.remove(items.HOTKEY_OWNER, hotkey)
    hotkeys = state.get(items.COLDKEY_HOTKEYS, coldkey)
    state.put(items.COLDKEY_HOTKEYS, coldkey, value=hotkeys - {hotkey})


def unbond(runtime: Runtime, account: bytes, amount: int, *, epochs: int) -> None:
    """Write units into the account's ledger, to be claimed after ``epochs`` epochs."""
    state = runtime.state
    claim_block = runtime.block + epochs * runtime.config.epoch_length
    if len(state.get(items.STAKE_UNBONDING_LEDGER, account)) == state.get(items.MAX_UNBONDINGS):
        claim(runtime, account)
    ledger = state.get(items.STAKE_UNBONDING_LEDGER, account)
    ensure(len(ledger) < state.get(items.MAX_UNBONDINGS), "MaxUnlockingsReached")
    entries = {**ledger, claim_block: ledger.get(claim_block, 0) + amount}
    state.put(items.STAKE_UNBONDING_LEDGER, account, value=entries)
    state.add(items.TOTAL_UNBONDING_BALANCE, amount=amount)


def claim(runtime: Runtime, account: bytes) -> int:
    """Pay out every entry whose time has come; return how many there were."""
    state = runtime.state
    ledger = state.get(items.STAKE_UNBONDING_LEDGER, account)
    due = {block: amount for block, amount in ledger.items() if block <= runtime.block}
    if due:
        left = {block: amount for block, amount in ledger.items() if block not in due}
        state.put(items.STAKE_UNBONDING_LEDGER, account, value=left)
    for _, amount in sorted(due.items()):
        deposit(runtime, account, amount)
        state.add(items.TOTAL_UNBONDING_BALANCE, amount=-amount)
    return len(due)


def claim_unbondings(runtime: Runtime, origin: bytes, _call: calls.ClaimUnbondings) -> None:
    """Turn what has unbonded into free balance."""
    ensure(claim(runtime, origin) > 0, "NoStakeUnbondingsOrCooldownNotMet")


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


def add_to_delegate_stake(runtime: Runtime, origin: bytes, call: calls.AddToDelegateStake) -> None:
    """Put units into the subnet's pool for shares of it."""
    state, subnet_id = runtime.state, runtime.subnet(call.subnet_id).id
    amount = call.stake_to_be_added
    minimum = state.get(items.MIN_DELEGATE_STAKE_DEPOSIT)
    ensure(amount >= minimum, "MinDelegateStakeDepositNotReached")
    ensure(can_withdraw(runtime, origin, amount), "NotEnoughBalanceToStake")
    ensure(withdraw(runtime, origin, amount), "BalanceWithdrawalError")
    total_shares = state.get(items.TOTAL_SUBNET_DELEGATE_STAKE_SHARES, subnet_id)
    if not total_shares:
        state.add(items.TOTAL_SUBNET_DELEGATE_STAKE_SHARES, subnet_id, amount=DEAD_SHARES)
    total_balance = state.get(items.TOTAL_SUBNET_DELEGATE_STAKE_BALANCE, subnet_id)
    shares = to_shares(amount, total_shares=total_shares, total_balance=total_balance)
    ensure(shares > 0, "CouldNotConvertToShares")
    _change_pool(runtime, origin, subnet_id, amount=amount, shares=shares)
    runtime.emit(SubnetDelegateStakeAdded(subnet_id, origin, amount))


def _change_pool(
    runtime: Runtime, account: bytes, subnet_id: int, *, amount: int, shares: int
) -> None:
    """Change an account's shares and the pool with them; negative numbers take away."""
    state = runtime.state
    state.add(items.ACCOUNT_SUBNET_DELEGATE_STAKE_SHARES, account, subnet_id, amount=shares)
    state.add(items.TOTAL_SUBNET_DELEGATE_STAKE_BALANCE, subnet_id, amount=amount)
    state.add(items.TOTAL_SUBNET_DELEGATE_STAKE_SHARES, subnet_id, amount=shares)
    state.add(items.TOTAL_DELEGATE_STAKE, amount=amount)
    flow = state.get(items.SUBNET_NET_FLOW, subnet_id)
    state.put(items.SUBNET_NET_FLOW, subnet_id, value=flow + amount)


def _worth(runtime: Runtime, subnet_id: int, shares: int) -> int:
    state = runtime.state
    return to_balance(
        shares,
        total_shares=state.get(items.TOTAL_SUBNET_DELEGATE_STAKE_SHARES, subnet_id),
        total_balance=state.get(items.TOTAL_SUBNET_DELEGATE_STAKE_BALANCE, subnet_id),
    )


def remove_delegate_stake(runtime: Runtime, origin: bytes, call: calls.RemoveDelegateStake) -> None:
    """Give shares back; what they are worth starts to unbond."""
    state, subnet_id, shares = runtime.state, call.subnet_id, call.shares_to_be_removed
    ensure(shares > 0, "SharesZero")
    owned = state.get(items.ACCOUNT_SUBNET_DELEGATE_STAKE_SHARES, origin, subnet_id)
    ensure(owned >= shares, "NotEnoughStakeToWithdraw")
    amount = _worth(runtime, subnet_id, shares)
    _change_pool(runtime, origin, subnet_id, amount=-amount, shares=-shares)
    unbond(runtime, origin, amount, epochs=state.get(items.DELEGATE_STAKE_COOLDOWN_EPOCHS))
    runtime.emit(SubnetDelegateStakeRemoved(subnet_id, origin, amount))


def transfer_delegate_stake(
    runtime: Runtime, origin: bytes, call: calls.TransferDelegateStake
) -> None:
    """Give shares to another account."""
    state, subnet_id = runtime.state, call.subnet_id
    shares = call.delegate_stake_shares_to_transfer
    ensure(origin != call.to_account_id, "TransferToSelfNotAllowed")
    owned = state.get(items.ACCOUNT_SUBNET_DELEGATE_STAKE_SHARES, origin, subnet_id)
    # The runtime checks only for zero and lets the sender's shares saturate; shares are
    # not minted from nothing here.
    ensure(0 < shares <= owned, "NotEnoughStakeToWithdraw")
    minimum = state.get(items.MIN_DELEGATE_STAKE_DEPOSIT)
    enough = _worth(runtime, subnet_id, shares) >= minimum
    ensure(enough, "MinDelegateStakeDepositNotReached")
    _change_pool(runtime, origin, subnet_id, amount=0, shares=-shares)
    _change_pool(runtime, call.to_account_id, subnet_id, amount=0, shares=shares)


def donate_delegate_stake(runtime: Runtime, origin: bytes, call: calls.DonateDelegateStake) -> None:
    """Raise the pool for everybody who holds shares."""
    subnet_id = runtime.subnet(call.subnet_id).id
    minimum = runtime.state.get(items.MIN_DELEGATE_STAKE_DEPOSIT)
    ensure(call.amount >= minimum, "MinDelegateStake")
    ensure(can_withdraw(runtime, origin, call.amount), "NotEnoughBalance")
    ensure(withdraw(runtime, origin, call.amount), "BalanceWithdrawalError")
    add_delegate_rewards(runtime, subnet_id, call.amount)
