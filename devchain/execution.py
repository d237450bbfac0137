"""Execution of one extrinsic in a block: nonce, fee, call, refund, events."""

from __future__ import annotations

from dataclasses import dataclass, replace

from devchain import calls, events, storage
from devchain.balances import can_withdraw, deposit, withdraw
from devchain.errors import DispatchError, InvalidReason, InvalidTransaction
from devchain.ledger import Ledger
from devchain.pallets import make_failure
from devchain.runtime import BASE_FEE

_TRANSFER_PROOF = 3593


@dataclass(frozen=True)
class Payment:
    """The signer, its nonce, and the extrinsic's fee and tip in units."""

    signer: bytes
    nonce: int
    fee: int
    tip: int


def compute_weight(call: calls.Call) -> events.Weight:
    """Return what the real runtime says that a call weighs; Network calls weigh nothing."""
    match call:
        case calls.TransferKeepAlive():
            return events.Weight(165_655_000, _TRANSFER_PROOF)
        case calls.TransferAllowDeath():
            return events.Weight(176_105_000, _TRANSFER_PROOF)
        case calls.Remark(remark):
            return events.Weight(2_169_000 + 387 * len(remark), 0)
        case calls.RemarkWithEvent(remark):
            return events.Weight(23_611_490 + 1_613 * len(remark), 0)
        case _:
            return events.Weight()


def compute_fee(call: calls.Call, size: int) -> int:
    """Return the units that an extrinsic of ``size`` bytes costs: a unit per byte and weight."""
    return BASE_FEE + size + compute_weight(call).ref_time


def check_payment(ledger: Ledger, payment: Payment) -> None:
    """Raise InvalidTransaction for a wrong nonce or an account that cannot pay."""
    nonce = ledger.state.get(storage.ACCOUNT, payment.signer).nonce
    if payment.nonce != nonce:
        reason = InvalidReason.STALE if payment.nonce < nonce else InvalidReason.FUTURE
        raise InvalidTransaction(reason)
    if not can_withdraw(ledger.runtime, payment.signer, payment.fee + payment.tip):
        raise InvalidTransaction(InvalidReason.PAYMENT)


def execute(ledger: Ledger, call: calls.Call, payment: Payment) -> list[events.Event]:
    """Charge for and apply one call; return all events of the extrinsic.

    A failing call changes nothing but the nonce and the fee. Raises InvalidTransaction
    if the extrinsic has no place in the block.
    """
    check_payment(ledger, payment)
    runtime, signer = ledger.runtime, payment.signer
    info = ledger.state.get(storage.ACCOUNT, signer)
    ledger.state.put(storage.ACCOUNT, signer, value=replace(info, nonce=info.nonce + 1))
    charged = payment.fee + payment.tip
    dispatch = events.DispatchInfo(compute_weight(call))
    with ledger.collect() as emitted:
        withdraw(runtime, signer, charged)
        outcome: events.Event
        try:
            runtime.events.extend(ledger.apply(signer, call))
        except DispatchError as error:
            paid, outcome = charged, events.ExtrinsicFailed(make_failure(error), dispatch)
        else:
            paid = payment.tip if call.is_free else charged
            deposit(runtime, signer, charged - paid)
            pays = events.Pays.NO if call.is_free else events.Pays.YES
            outcome = events.ExtrinsicSuccess(replace(dispatch, pays_fee=pays))
        runtime.emit(events.TransactionFeePaid(signer, paid, payment.tip))
        runtime.emit(outcome)
    return emitted
