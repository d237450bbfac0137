"""The chain's rules as a pure state machine: no I/O, no clock, no event loop.

The development chain's server, the simulator and tests drive the same object::

    ledger = Ledger(LedgerConfig(balances={coldkey: 1000 * TENSOR}))
    ledger.begin_block(1, timestamp_ms=6000)
    ledger.apply(coldkey, RegisterSubnet(...))
    ledger.begin_block(2, timestamp_ms=12000)
    ledger.state.at(1).find(storage.SUBNETS_DATA, 128_001)
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from devchain import (
    account_keys,
    calls,
    node_settings,
    stake,
    stake_swaps,
    storage,
    subnet_owner,
)
from devchain.attestation import attest, propose_attestation
from devchain.balances import deposit, transfer
from devchain.calls import Call
from devchain.emergency_validators import (
    owner_revert_emergency_validator_set,
    owner_set_emergency_validator_set,
)
from devchain.errors import DispatchError, ensure
from devchain.events import Event, Remarked
from devchain.hooks import run_hooks
from devchain.nodes import (
    activate_subnet_node,
    register_subnet_node,
    remove_subnet_node,
)
from devchain.runtime import LedgerConfig, Runtime
from devchain.state import State
from devchain.subnets import activate_subnet, register_subnet

Handler = Callable[[Runtime, bytes, Any], None]


def _remark(_runtime: Runtime, _origin: bytes, _call: calls.Remark) -> None:
    """Do nothing; the extrinsic itself is the record."""


def _remark_with_event(runtime: Runtime, origin: bytes, call: calls.RemarkWithEvent) -> None:
    digest = hashlib.blake2b(call.remark, digest_size=32).digest()
    runtime.emit(Remarked(origin, digest))


def _transfer(runtime: Runtime, origin: bytes, call: calls.TransferCall) -> None:
    keep_alive = isinstance(call, calls.TransferKeepAlive)
    transfer(runtime, origin, call.dest, call.value, keep_alive=keep_alive)


HANDLERS: dict[type[Call], Handler] = {
    calls.Remark: _remark,
    calls.RemarkWithEvent: _remark_with_event,
    calls.TransferAllowDeath: _transfer,
    calls.TransferKeepAlive: _transfer,
    calls.RegisterSubnet: register_subnet,
    calls.ActivateSubnet: activate_subnet,
    calls.OwnerPauseSubnet: subnet_owner.owner_pause_subnet,
    calls.OwnerUnpauseSubnet: subnet_owner.owner_unpause_subnet,
    calls.OwnerDeactivateSubnet: subnet_owner.owner_deactivate_subnet,
    **dict.fromkeys(subnet_owner.DESCRIPTIONS, subnet_owner.update_description),
    **dict.fromkeys(subnet_owner.SETTINGS, subnet_owner.update_setting),
    calls.OwnerAddOrUpdateInitialColdkeys: subnet_owner.owner_add_or_update_initial_coldkeys,
    calls.OwnerRemoveInitialColdkeys: subnet_owner.owner_remove_initial_coldkeys,
    calls.OwnerSetEmergencyValidatorSet: owner_set_emergency_validator_set,
    calls.OwnerRevertEmergencyValidatorSet: owner_revert_emergency_validator_set,
    calls.OwnerUpdateMinMaxStake: subnet_owner.owner_update_min_max_stake,
    calls.OwnerUpdateDelegateStakePercentage: subnet_owner.owner_update_delegate_stake_percentage,
    calls.TransferSubnetOwnership: subnet_owner.transfer_subnet_ownership,
    calls.AcceptSubnetOwnership: subnet_owner.accept_subnet_ownership,
    calls.OwnerAddBootnodeAccess: subnet_owner.owner_add_bootnode_access,
    calls.OwnerRemoveBootnodeAccess: subnet_owner.owner_remove_bootnode_access,
    calls.UpdateBootnodes: subnet_owner.update_bootnodes,
    calls.RegisterSubnetNode: register_subnet_node,
    calls.RemoveSubnetNode: remove_subnet_node,
    calls.UpdatePeerInfo: node_settings.update_peer_info,
    calls.UpdateDelegateAccount: node_settings.update_delegate_account,
    calls.UpdateBootnodePeerInfo: node_settings.update_peer_info,
    calls.UpdateClientPeerInfo: node_settings.update_peer_info,
    calls.UpdateNodeDelegateRewardRate: node_settings.update_node_delegate_reward_rate,
    calls.UpdateUnique: node_settings.update_unique,
    calls.UpdateNonUnique: node_settings.update_non_unique,
    calls.AddStake: stake.add_stake,
    calls.RemoveStake: stake.remove_stake,
    calls.ClaimUnbondings: stake.claim_unbondings,
    calls.AddToDelegateStake: stake.add_to_delegate_stake,
    calls.SwapDelegateStake: stake_swaps.swap_delegate_stake,
    calls.TransferDelegateStake: stake.transfer_delegate_stake,
    calls.RemoveDelegateStake: stake.remove_delegate_stake,
    calls.DonateDelegateStake: stake.donate_delegate_stake,
    calls.AddToNodeDelegateStake: stake.add_to_node_delegate_stake,
    calls.SwapNodeDelegateStake: stake_swaps.swap_node_delegate_stake,
    calls.TransferNodeDelegateStake: stake.transfer_node_delegate_stake,
    calls.RemoveNodeDelegateStake: stake.remove_node_delegate_stake,
    calls.DonateNodeDelegateStake: stake.donate_node_delegate_stake,
    calls.SwapFromNodeToSubnet: stake_swaps.swap_from_node_to_subnet,
    calls.SwapFromSubnetToNode: stake_swaps.swap_from_subnet_to_node,
    calls.UpdateSwapQueue: stake_swaps.update_swap_queue,
    calls.RegisterOrUpdateIdentity: account_keys.register_or_update_identity,
    calls.RemoveIdentity: account_keys.remove_identity,
    calls.ProposeAttestation: propose_attestation,
    calls.Attest: attest,
    calls.UpdateColdkey: account_keys.update_coldkey,
    calls.UpdateHotkey: account_keys.update_hotkey,
    calls.TransferDelegateAccount: node_settings.transfer_delegate_account,
    calls.RemoveDelegateBalance: stake.remove_delegate_balance,
    calls.ActivateSubnetNode: activate_subnet_node,
}
"""Every call that an account may sign, with what it does."""


class Ledger:
    """One chain from genesis on. ``state`` may be read freely, at any block."""

    def __init__(self, config: LedgerConfig) -> None:
        self.config = config
        self.runtime = Runtime(config, State())
        for name, value in config.parameters.items():
            self.state.put(storage.get_item("Network", name), value=value)
        for account, amount in config.balances.items():
            deposit(self.runtime, account, amount)
        self.runtime.events.clear()

    @property
    def state(self) -> State:
        return self.runtime.state

    @property
    def block(self) -> int:
        """The block being built; 0 is genesis."""
        return self.state.block

    def begin_block(
        self, number: int, timestamp_ms: int, *, parent_hash: bytes | None = None
    ) -> list[Event]:
        """Start block ``number`` and run its hooks; return their events.

        Without ``parent_hash`` one is derived from the configured seed. Raises
        ValueError unless ``number`` follows the present block.
        """
        if number != self.block + 1:
            raise ValueError(f"block {number} does not follow block {self.block}")
        parent = parent_hash if parent_hash is not None else self._derive_hash(number - 1)
        self.state.begin_block(number)
        self.state.put(storage.BLOCK_NUMBER, value=number)
        self.state.put(storage.PARENT_HASH, value=parent)
        self.state.put(storage.BLOCK_HASH, number - 1, value=parent)
        self.state.put(storage.NOW, value=timestamp_ms)
        with self.collect() as events:
            run_hooks(self.runtime)
        return events

    def _derive_hash(self, number: int) -> bytes:
        subject = self.config.seed + number.to_bytes(4, "little")
        return hashlib.blake2b(subject, digest_size=32).digest()

    def apply(self, origin: bytes, call: Call) -> list[Event]:
        """Execute ``call`` as ``origin`` in the present block; return its events.

        Raises DispatchError, after undoing everything that the call did. Fees and
        nonces belong to extrinsics: see ``devchain.execution``.
        """
        handler = HANDLERS[type(call)]
        mark = self.state.mark()
        with self.collect() as events:
            try:
                if call.pallet == "Network" and not call.ignores_pause:
                    ensure(not self.state.get(storage.TX_PAUSE), "Paused")
                handler(self.runtime, origin, call)
            except DispatchError:
                self.state.rollback(mark)
                raise
        return events

    @contextmanager
    def collect(self) -> Iterator[list[Event]]:
        """Gather the events of one step, apart from those around it."""
        collected: list[Event] = []
        outer, self.runtime.events = self.runtime.events, collected
        try:
            yield collected
        finally:
            self.runtime.events = outer
