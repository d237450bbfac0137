"""Calls that add, remove, unbond and delegate stake."""

from __future__ import annotations

from devchain import calls, events, stake_pools, storage
from devchain.balances import add_stake as move_stake
from devchain.balances import can_withdraw, deposit, increase_stake, withdraw
from devchain.errors import ensure
from devchain.nodes import get_node, is_elected
from devchain.rate_limit import check_rate, note_call
from devchain.runtime import Runtime
from devchain.state import Item


def add_stake(runtime: Runtime, origin: bytes, call: calls.AddStake) -> None:
    """Raise the stake of a hotkey that the origin owns."""
    subnet_id = runtime.subnet(call.subnet_id).id
    owner = runtime.state.get(storage.HOTKEY_OWNER, call.hotkey)
    ensure(owner == origin, "NotKeyOwner")
    move_stake(runtime, origin, call.hotkey, subnet_id=subnet_id, amount=call.stake_to_be_added)


def remove_stake(runtime: Runtime, origin: bytes, call: calls.RemoveStake) -> None:
    """Start to unbond stake; a node keeps the subnet's minimum."""
    state, subnet_id, hotkey = runtime.state, call.subnet_id, call.hotkey
    ensure(state.get(storage.HOTKEY_OWNER, hotkey) == origin, "NotKeyOwner")
    node_id = state.find(storage.HOTKEY_SUBNET_NODE_ID, subnet_id, hotkey)
    if node_id is not None:
        _check_may_unstake(runtime, subnet_id, node_id)
    staked = state.get(storage.ACCOUNT_SUBNET_STAKE, hotkey, subnet_id)
    amount = call.stake_to_be_removed
    ensure(amount > 0, "AmountZero")
    ensure(staked >= amount, "NotEnoughStakeToWithdraw")
    if node_id is not None:
        minimum = state.get(storage.SUBNET_MIN_STAKE_BALANCE, subnet_id)
        ensure(staked - amount >= minimum, "MinStakeNotReached")
    elif amount == staked:
        _forget_hotkey(runtime, coldkey=origin, hotkey=hotkey)
    check_rate(runtime, origin)
    increase_stake(runtime, hotkey, subnet_id, -amount)
    unbond(runtime, origin, amount, epochs=state.get(storage.STAKE_COOLDOWN_EPOCHS))
    note_call(runtime, origin)
    runtime.emit(events.StakeRemoved(subnet_id, origin, hotkey, amount))


def _check_may_unstake(runtime: Runtime, subnet_id: int, node_id: int) -> None:
    state = runtime.state
    ensure(not is_elected(runtime, subnet_id, node_id), "ElectedValidatorCannotUnstake")
    node = state.find(storage.SUBNET_NODES_DATA, subnet_id, node_id)
    if node is not None:
        locked = state.get(storage.MIN_ACTIVE_NODE_STAKE_EPOCHS)
        free_from = node.classification.start_epoch + locked
        ensure(free_from <= runtime.subnet_epoch(subnet_id), "MinActiveNodeStakeEpochs")


def _forget_hotkey(runtime: Runtime, *, coldkey: bytes, hotkey: bytes) -> None:
    """Free the hotkey of a former node, whose last stake leaves."""
    state = runtime.state
    state.remove(storage.HOTKEY_SUBNET_ID, hotkey)
    state.remove(storage.HOTKEY_OWNER, hotkey)
    hotkeys = state.get(storage.COLDKEY_HOTKEYS, coldkey)
    state.put(storage.COLDKEY_HOTKEYS, coldkey, value=hotkeys - {hotkey})


def unbond(runtime: Runtime, account: bytes, amount: int, *, epochs: int) -> None:
    """Write units into the account's ledger, to be claimed after ``epochs`` epochs."""
    state = runtime.state
    claim_block = runtime.block + epochs * runtime.config.epoch_length
    if len(state.get(storage.STAKE_UNBONDING_LEDGER, account)) == state.get(storage.MAX_UNBONDINGS):
        claim(runtime, account)
    ledger = state.get(storage.STAKE_UNBONDING_LEDGER, account)
    ensure(len(ledger) < state.get(storage.MAX_UNBONDINGS), "MaxUnlockingsReached")
    entries = {**ledger, claim_block: ledger.get(claim_block, 0) + amount}
    state.put(storage.STAKE_UNBONDING_LEDGER, account, value=entries)
    state.add(storage.TOTAL_UNBONDING_BALANCE, amount=amount)


def claim(runtime: Runtime, account: bytes) -> int:
    """Pay out every entry whose time has come; return how many there were."""
    state = runtime.state
    ledger = state.get(storage.STAKE_UNBONDING_LEDGER, account)
    due = {block: amount for block, amount in ledger.items() if block <= runtime.block}
    if due:
        left = {block: amount for block, amount in ledger.items() if block not in due}
        state.put(storage.STAKE_UNBONDING_LEDGER, account, value=left)
    for _, amount in sorted(due.items()):
        deposit(runtime, account, amount)
        state.add(storage.TOTAL_UNBONDING_BALANCE, amount=-amount)
    return len(due)


def claim_unbondings(runtime: Runtime, origin: bytes, _call: calls.ClaimUnbondings) -> None:
    """Turn what has unbonded into free balance."""
    ensure(claim(runtime, origin) > 0, "NoStakeUnbondingsOrCooldownNotMet")


def _join(
    runtime: Runtime, account: bytes, pool: stake_pools.StakePool, amount: int, error: str
) -> None:
    """Pay units into a pool; ``error`` refuses less than the least deposit."""
    ensure(amount >= runtime.state.get(storage.MIN_DELEGATE_STAKE_DEPOSIT), error)
    ensure(can_withdraw(runtime, account, amount), "NotEnoughBalanceToStake")
    check_rate(runtime, account)
    ensure(withdraw(runtime, account, amount), "BalanceWithdrawalError")
    stake_pools.join(runtime, pool, account, amount)
    note_call(runtime, account)


def _leave(
    runtime: Runtime, account: bytes, pool: stake_pools.StakePool, shares: int, cooldown: Item[int]
) -> int:
    """Start to unbond what the shares are worth, for ``cooldown`` epochs; return the units."""
    amount = stake_pools.leave(runtime, pool, account, shares)
    unbond(runtime, account, amount, epochs=runtime.state.get(cooldown))
    note_call(runtime, account)
    return amount


def _donate(runtime: Runtime, account: bytes, pool: stake_pools.StakePool, amount: int) -> None:
    ensure(amount >= runtime.state.get(storage.MIN_DELEGATE_STAKE_DEPOSIT), "MinDelegateStake")
    ensure(can_withdraw(runtime, account, amount), "NotEnoughBalance")
    ensure(withdraw(runtime, account, amount), "BalanceWithdrawalError")
    stake_pools.add_rewards(runtime, pool, amount)


def _check_transfer(runtime: Runtime, pool: stake_pools.StakePool, shares: int, error: str) -> None:
    """Refuse no shares, and with ``error`` shares that are worth less than the least deposit."""
    ensure(shares > 0, "NotEnoughStakeToWithdraw")
    worth = stake_pools.value_shares(runtime, pool, shares)
    ensure(worth >= runtime.state.get(storage.MIN_DELEGATE_STAKE_DEPOSIT), error)


def add_to_delegate_stake(runtime: Runtime, origin: bytes, call: calls.AddToDelegateStake) -> None:
    """Put units into the subnet's pool for shares of it."""
    subnet_id, amount = runtime.subnet(call.subnet_id).id, call.stake_to_be_added
    pool = stake_pools.subnet_pool(subnet_id)
    _join(runtime, origin, pool, amount, "MinDelegateStakeDepositNotReached")
    runtime.emit(events.SubnetDelegateStakeAdded(subnet_id, origin, amount))


def remove_delegate_stake(runtime: Runtime, origin: bytes, call: calls.RemoveDelegateStake) -> None:
    """Give shares back; what they are worth starts to unbond."""
    pool, cooldown = stake_pools.subnet_pool(call.subnet_id), storage.DELEGATE_STAKE_COOLDOWN_EPOCHS
    amount = _leave(runtime, origin, pool, call.shares_to_be_removed, cooldown)
    runtime.emit(events.SubnetDelegateStakeRemoved(call.subnet_id, origin, amount))


def transfer_delegate_stake(
    runtime: Runtime, origin: bytes, call: calls.TransferDelegateStake
) -> None:
    """Give shares of the subnet's pool to another account."""
    pool, shares = stake_pools.subnet_pool(call.subnet_id), call.delegate_stake_shares_to_transfer
    ensure(origin != call.to_account_id, "TransferToSelfNotAllowed")
    _check_transfer(runtime, pool, shares, "MinDelegateStakeDepositNotReached")
    stake_pools.transfer_shares(runtime, pool, origin, call.to_account_id, shares=shares)


def donate_delegate_stake(runtime: Runtime, origin: bytes, call: calls.DonateDelegateStake) -> None:
    """Raise the value of all shares of the subnet's pool."""
    subnet_id = runtime.subnet(call.subnet_id).id
    _donate(runtime, origin, stake_pools.subnet_pool(subnet_id), call.amount)


def _node_key(call: calls.SubnetNodeCall) -> tuple[int, int]:
    return call.subnet_id, call.subnet_node_id


def add_to_node_delegate_stake(
    runtime: Runtime, origin: bytes, call: calls.AddToNodeDelegateStake
) -> None:
    """Put units into one node's pool for shares of it."""
    key, amount = _node_key(call), call.node_delegate_stake_to_be_added
    get_node(runtime.state, *key)
    pool = stake_pools.node_pool(*key)
    _join(runtime, origin, pool, amount, "MinNodeDelegateStakeDepositNotReached")
    runtime.emit(events.DelegateNodeStakeAdded(origin, *key, amount))


def remove_node_delegate_stake(
    runtime: Runtime, origin: bytes, call: calls.RemoveNodeDelegateStake
) -> None:
    """Give shares of a node's pool back; what they are worth starts to unbond."""
    key, shares = _node_key(call), call.node_delegate_stake_shares_to_be_removed
    cooldown = storage.NODE_DELEGATE_STAKE_COOLDOWN_EPOCHS
    amount = _leave(runtime, origin, stake_pools.node_pool(*key), shares, cooldown)
    runtime.emit(events.DelegateNodeStakeRemoved(origin, *key, amount))


def transfer_node_delegate_stake(
    runtime: Runtime, origin: bytes, call: calls.TransferNodeDelegateStake
) -> None:
    """Give shares of a node's pool to another account."""
    pool = stake_pools.node_pool(*_node_key(call))
    shares = call.node_delegate_stake_shares_to_transfer
    _check_transfer(runtime, pool, shares, "CouldNotConvertToBalance")
    stake_pools.transfer_shares(runtime, pool, origin, call.to_account_id, shares=shares)


def donate_node_delegate_stake(
    runtime: Runtime, origin: bytes, call: calls.DonateNodeDelegateStake
) -> None:
    """Raise the value of all shares of a node's pool."""
    key = _node_key(call)
    ensure(runtime.state.contains(storage.SUBNET_NODES_DATA, *key), "InvalidSubnetNodeId")
    _donate(runtime, origin, stake_pools.node_pool(*key), call.amount)


def remove_delegate_balance(
    runtime: Runtime, origin: bytes, call: calls.RemoveDelegateBalance
) -> None:
    """Start to unbond what nodes have paid to the origin as their delegate account."""
    state, amount = runtime.state, call.amount_to_remove
    ensure(amount > 0, "AmountZero")
    ensure(state.get(storage.ACCOUNT_DELEGATE_STAKE, origin) >= amount, "NotEnoughStakeToWithdraw")
    state.add(storage.ACCOUNT_DELEGATE_STAKE, origin, amount=-amount)
    state.add(storage.TOTAL_ACCOUNT_DELEGATE_STAKE, amount=-amount)
    unbond(runtime, origin, amount, epochs=state.get(storage.STAKE_COOLDOWN_EPOCHS))
    runtime.emit(events.DelegateBalanceRemoved(origin, amount))
