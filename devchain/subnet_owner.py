"""Calls of a subnet's owner: settings, pause, removal, ownership, bootnodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from devchain import calls, events, storage
from devchain.addresses import check_multiaddr
from devchain.chain_types import ONE, SubnetNode, SubnetRemovalReason, SubnetState
from devchain.emergency_validators import start_emergency
from devchain.errors import DispatchError, ensure, fail
from devchain.runtime import Runtime
from devchain.state import Item
from devchain.subnets import check_owner, remove_subnet


@dataclass(frozen=True)
class OwnerSetting:
    """One number: where it is stored, the event of a change, and the limits of its value.

    A limit of None does not bind. A fraction above 1.0 is InvalidPercent before anything else.
    A value outside the limits is ``error_name``; without one, the event ChurnLimitUpdate makes
    it InvalidChurnLimit.
    """

    item: Item[int]
    event: type[events.CountUpdate] | type[events.FractionUpdate]
    low: Item[int] | None = None
    high: Item[int] | None = None
    error_name: str | None = None
    is_fraction: bool = False
    is_fixed_in_emergency: bool = False
    """Whether it stays as it is while an emergency set exists, which was timed by it."""

    @property
    def error(self) -> str:
        return self.error_name or f"Invalid{self.event.__name__.removesuffix('Update')}"


def _reputation_factor(
    item: Item[int], event: type[events.FractionUpdate], error: str | None = None
) -> OwnerSetting:
    low, high = storage.MIN_NODE_REPUTATION_FACTOR, storage.MAX_NODE_REPUTATION_FACTOR
    fixed = item is not storage.INCLUDED_INCREASE
    return OwnerSetting(
        item, event, low, high, error, is_fraction=True, is_fixed_in_emergency=fixed
    )


SETTINGS: Mapping[type[calls.CountSetting] | type[calls.FractionSetting], OwnerSetting] = {
    calls.OwnerUpdateChurnLimit: OwnerSetting(
        storage.CHURN_LIMIT,
        events.ChurnLimitUpdate,
        storage.MIN_CHURN_LIMIT,
        storage.MAX_CHURN_LIMIT,
    ),
    calls.OwnerUpdateChurnLimitMultiplier: OwnerSetting(
        storage.CHURN_LIMIT_MULTIPLIER,
        events.ChurnLimitMultiplierUpdate,
        storage.MIN_CHURN_LIMIT_MULTIPLIER,
        storage.MAX_CHURN_LIMIT_MULTIPLIER,
    ),
    calls.OwnerUpdateRegistrationQueueEpochs: OwnerSetting(
        storage.SUBNET_NODE_QUEUE_EPOCHS,
        events.RegistrationQueueEpochsUpdate,
        storage.MIN_QUEUE_EPOCHS,
        storage.MAX_QUEUE_EPOCHS,
    ),
    calls.OwnerUpdateIdleClassificationEpochs: OwnerSetting(
        storage.IDLE_CLASSIFICATION_EPOCHS,
        events.IdleClassificationEpochsUpdate,
        storage.MIN_IDLE_CLASSIFICATION_EPOCHS,
        storage.MAX_IDLE_CLASSIFICATION_EPOCHS,
    ),
    calls.OwnerUpdateIncludedClassificationEpochs: OwnerSetting(
        storage.INCLUDED_CLASSIFICATION_EPOCHS,
        events.IncludedClassificationEpochsUpdate,
        storage.MIN_INCLUDED_CLASSIFICATION_EPOCHS,
        storage.MAX_INCLUDED_CLASSIFICATION_EPOCHS,
    ),
    calls.OwnerUpdateNonConsensusAttestorDecreaseReputationFactor: _reputation_factor(
        storage.NON_CONSENSUS_ATTESTOR_DECREASE,
        events.NonConsensusAttestorDecreaseReputationFactorUpdate,
    ),
    calls.OwnerUpdateAbsentDecreaseReputationFactor: _reputation_factor(
        storage.ABSENT_DECREASE, events.AbsentDecreaseReputationFactorUpdate
    ),
    calls.OwnerUpdateIncludedIncreaseReputationFactor: _reputation_factor(
        storage.INCLUDED_INCREASE, events.IncludedIncreaseReputationFactorUpdate
    ),
    calls.OwnerUpdateBelowMinWeightDecreaseReputationFactor: _reputation_factor(
        storage.BELOW_MIN_WEIGHT_DECREASE, events.BelowMinWeightDecreaseReputationFactorUpdate
    ),
    calls.OwnerUpdateNonAttestorDecreaseReputationFactor: _reputation_factor(
        storage.NON_ATTESTOR_DECREASE, events.NonAttestorDecreaseReputationFactorUpdate
    ),
    calls.OwnerUpdateValidatorAbsentDecreaseReputationFactor: _reputation_factor(
        storage.VALIDATOR_ABSENT_DECREASE,
        events.ValidatorAbsentDecreaseReputationFactorUpdate,
        "InvalidNonValidatorAbsentDecreaseReputationFactor",
    ),
    calls.OwnerUpdateValidatorNonConsensusDecreaseReputationFactor: _reputation_factor(
        storage.VALIDATOR_NON_CONSENSUS_DECREASE,
        events.ValidatorNonConsensusSubnetNodeReputationFactorUpdate,
    ),
    calls.OwnerUpdateSubnetNodeMinWeightDecreaseReputationThreshold: OwnerSetting(
        storage.NODE_MIN_WEIGHT_THRESHOLD,
        events.SubnetNodeMinWeightDecreaseReputationThresholdUpdate,
        high=storage.MAX_NODE_MIN_WEIGHT_THRESHOLD,
        error_name="InvalidPercent",
    ),
    calls.OwnerUpdateMinSubnetNodeReputation: OwnerSetting(
        storage.MIN_SUBNET_NODE_REPUTATION,
        events.MinSubnetNodeReputationUpdate,
        storage.MIN_MIN_SUBNET_NODE_REPUTATION,
        storage.MAX_MIN_SUBNET_NODE_REPUTATION,
        "MinSubnetNodeReputation",
        is_fraction=True,
    ),
    calls.OwnerUpdateMaxRegisteredNodes: OwnerSetting(
        storage.MAX_REGISTERED_NODES,
        events.MaxRegisteredNodesUpdate,
        storage.MIN_MAX_REGISTERED_NODES,
        storage.MAX_MAX_REGISTERED_NODES,
    ),
    calls.OwnerUpdateTargetNodeRegistrationsPerEpoch: OwnerSetting(
        storage.TARGET_NODE_REGISTRATIONS_PER_EPOCH, events.TargetNodeRegistrationsPerEpochUpdate
    ),
    # These two have no limits of their own.
    calls.OwnerUpdateNodeBurnRateAlpha: OwnerSetting(
        storage.NODE_BURN_RATE_ALPHA, events.NodeBurnRateAlphaUpdate, is_fraction=True
    ),
    calls.OwnerUpdateQueueImmunityEpochs: OwnerSetting(
        storage.QUEUE_IMMUNITY_EPOCHS, events.QueueImmunityEpochsUpdate
    ),
}


def update_setting(
    runtime: Runtime, origin: bytes, call: calls.CountSetting | calls.FractionSetting
) -> None:
    """Change one number within its limits."""
    check_owner(runtime, origin, call.subnet_id)
    setting, state = SETTINGS[type(call)], runtime.state
    ensure(not setting.is_fraction or call.value <= ONE, "InvalidPercent")
    low = 0 if setting.low is None else state.get(setting.low)
    high = call.value if setting.high is None else state.get(setting.high)
    ensure(low <= call.value <= high, setting.error)
    _check_against_others(runtime, call, setting)
    if setting.is_fixed_in_emergency:
        is_set = state.contains(storage.EMERGENCY_SUBNET_NODE_ELECTION_DATA, call.subnet_id)
        ensure(not is_set, "EmergencyValidatorsSet")
    state.put(setting.item, call.subnet_id, value=call.value)
    runtime.emit(setting.event(call.subnet_id, origin, call.value))


def _check_against_others(
    runtime: Runtime, call: calls.CountSetting | calls.FractionSetting, setting: OwnerSetting
) -> None:
    """Two settings bound each other."""
    state, subnet_id = runtime.state, call.subnet_id
    if isinstance(call, calls.OwnerUpdateMaxRegisteredNodes):
        target = state.get(storage.TARGET_NODE_REGISTRATIONS_PER_EPOCH, subnet_id)
        ensure(call.value <= target, setting.error)
    if isinstance(call, calls.OwnerUpdateTargetNodeRegistrationsPerEpoch):
        most = state.get(storage.MAX_REGISTERED_NODES, subnet_id)
        ensure(0 < call.value <= most, setting.error)


def owner_pause_subnet(runtime: Runtime, origin: bytes, call: calls.OwnerPauseSubnet) -> None:
    """Stop registrations; the pause begins with the present general epoch."""
    state, subnet_id, epoch = runtime.state, call.subnet_id, runtime.general_epoch
    check_owner(runtime, origin, subnet_id)
    subnet = runtime.subnet(subnet_id)
    ensure(subnet.state is SubnetState.ACTIVE, "SubnetMustBeActive")
    rested = state.get(storage.PREVIOUS_SUBNET_PAUSE_EPOCH, subnet_id)
    rested += state.get(storage.SUBNET_PAUSE_COOLDOWN_EPOCHS)
    ensure(rested <= epoch, "SubnetPauseCooldownActive")
    paused = replace(subnet, state=SubnetState.PAUSED, start_epoch=epoch)
    state.put(storage.SUBNETS_DATA, subnet_id, value=paused)
    runtime.emit(events.SubnetPaused(subnet_id, origin))


def owner_unpause_subnet(runtime: Runtime, origin: bytes, call: calls.OwnerUnpauseSubnet) -> None:
    """Go on with the next general epoch; waiting nodes wait longer by what the pause lasted."""
    state, subnet_id, epoch = runtime.state, call.subnet_id, runtime.general_epoch
    check_owner(runtime, origin, subnet_id)
    subnet = runtime.subnet(subnet_id)
    ensure(subnet.state is SubnetState.PAUSED, "SubnetMustBePaused")
    lasted = max(0, epoch - subnet.start_epoch) + 1
    for key, node in state.items(storage.REGISTERED_SUBNET_NODES_DATA):
        state.put(storage.REGISTERED_SUBNET_NODES_DATA, *key, value=_delay(node, lasted))
    resumed = replace(subnet, state=SubnetState.ACTIVE, start_epoch=epoch + 1)
    state.put(storage.SUBNETS_DATA, subnet_id, value=resumed)
    state.put(storage.PREVIOUS_SUBNET_PAUSE_EPOCH, subnet_id, value=epoch)
    start_emergency(runtime, subnet_id)
    runtime.emit(events.SubnetUnpaused(subnet_id, origin))


def _delay(node: SubnetNode, epochs: int) -> SubnetNode:
    start = node.classification.start_epoch + epochs
    return replace(node, classification=replace(node.classification, start_epoch=start))


def owner_deactivate_subnet(
    runtime: Runtime, origin: bytes, call: calls.OwnerDeactivateSubnet
) -> None:
    """Remove the subnet at once; stake stays with its owners."""
    check_owner(runtime, origin, call.subnet_id)
    remove_subnet(runtime, call.subnet_id, SubnetRemovalReason.OWNER)


@dataclass(frozen=True)
class Description:
    """One text: its field of the subnet and the event of a change.

    ``owners`` names the subnet that has each value of a text which no two may share; ``error``
    refuses a taken one.
    """

    field: str
    event: type[events.TextUpdate]
    owners: Item[int] | None = None
    error: str = ""


DESCRIPTIONS: Mapping[type[calls.TextSetting], Description] = {
    calls.OwnerUpdateName: Description(
        "name", events.SubnetNameUpdate, storage.SUBNET_NAME, "SubnetNameExist"
    ),
    calls.OwnerUpdateRepo: Description(
        "repo", events.SubnetRepoUpdate, storage.SUBNET_REPO, "SubnetRepoExist"
    ),
    calls.OwnerUpdateDescription: Description("description", events.SubnetDescriptionUpdate),
    calls.OwnerUpdateMisc: Description("misc", events.SubnetMiscUpdate),
}


def update_description(runtime: Runtime, origin: bytes, call: calls.TextSetting) -> None:
    """Replace one of the subnet's texts; its name and repository must be unused."""
    state, text = runtime.state, DESCRIPTIONS[type(call)]
    check_owner(runtime, origin, call.subnet_id)
    if text.owners is not None:
        ensure(not state.contains(text.owners, call.value), text.error)
    subnet = runtime.subnet(call.subnet_id)
    previous = getattr(subnet, text.field)
    if text.owners is not None:
        state.remove(text.owners, previous)
        state.put(text.owners, call.value, value=subnet.id)
    changes: dict[str, Any] = {text.field: call.value}
    state.put(storage.SUBNETS_DATA, subnet.id, value=replace(subnet, **changes))
    runtime.emit(text.event(subnet.id, origin, previous, call.value))


def owner_add_or_update_initial_coldkeys(
    runtime: Runtime, origin: bytes, call: calls.OwnerAddOrUpdateInitialColdkeys
) -> None:
    """Allow more coldkeys, or more nodes of one, while the subnet registers."""
    state = runtime.state
    _check_registering(runtime, origin, call.subnet_id)
    sane = all(count >= 1 for count in call.coldkeys.values())
    ensure(sane, "InvalidSubnetRegistrationInitialColdkeys")
    present = state.find(storage.SUBNET_REGISTRATION_INITIAL_COLDKEYS, call.subnet_id) or {}
    merged = {**present, **call.coldkeys}
    state.put(storage.SUBNET_REGISTRATION_INITIAL_COLDKEYS, call.subnet_id, value=merged)
    runtime.emit(events.AddSubnetRegistrationInitialColdkeys(call.subnet_id, origin, call.coldkeys))


def owner_remove_initial_coldkeys(
    runtime: Runtime, origin: bytes, call: calls.OwnerRemoveInitialColdkeys
) -> None:
    """Allow fewer coldkeys; with none left, any coldkey may register."""
    state, item = runtime.state, storage.SUBNET_REGISTRATION_INITIAL_COLDKEYS
    _check_registering(runtime, origin, call.subnet_id)
    present = state.find(item, call.subnet_id) or {}
    left = {key: count for key, count in present.items() if key not in call.coldkeys}
    if left:
        state.put(item, call.subnet_id, value=left)
    else:
        state.remove(item, call.subnet_id)
    runtime.emit(
        events.RemoveSubnetRegistrationInitialColdkeys(call.subnet_id, origin, call.coldkeys)
    )


def _check_registering(runtime: Runtime, origin: bytes, subnet_id: int) -> None:
    check_owner(runtime, origin, subnet_id)
    registering = runtime.subnet(subnet_id).state is SubnetState.REGISTERED
    ensure(registering, "SubnetMustBeRegistering")


def owner_update_min_max_stake(
    runtime: Runtime, origin: bytes, call: calls.OwnerUpdateMinMaxStake
) -> None:
    """Change between which limits nodes stake."""
    state, subnet_id = runtime.state, call.subnet_id
    check_owner(runtime, origin, subnet_id)
    ensure(call.min <= call.max, "InvalidValues")
    low, high = state.get(storage.MIN_SUBNET_MIN_STAKE), state.get(storage.MAX_SUBNET_MIN_STAKE)
    ensure(low <= call.min <= high, "InvalidSubnetMinStake")
    ensure(call.max <= state.get(storage.NETWORK_MAX_STAKE_BALANCE), "InvalidSubnetMaxStake")
    state.put(storage.SUBNET_MIN_STAKE_BALANCE, subnet_id, value=call.min)
    state.put(storage.SUBNET_MAX_STAKE_BALANCE, subnet_id, value=call.max)
    runtime.emit(events.SubnetMinMaxStakeBalanceUpdate(subnet_id, origin, call.min, call.max))


def owner_update_delegate_stake_percentage(
    runtime: Runtime, origin: bytes, call: calls.OwnerUpdateDelegateStakePercentage
) -> None:
    """Change the delegators' share, in small steps."""
    state, subnet_id = runtime.state, call.subnet_id
    check_owner(runtime, origin, subnet_id)
    updated = state.get(storage.LAST_SUBNET_DELEGATE_STAKE_REWARDS_UPDATE, subnet_id)
    period = state.get(storage.DELEGATE_PERCENTAGE_UPDATE_PERIOD)
    ensure(updated + period < runtime.block, "DelegateStakePercentageUpdateTooSoon")
    present = state.get(storage.SUBNET_DELEGATE_STAKE_REWARDS_PERCENTAGE, subnet_id)
    step = state.get(storage.MAX_DELEGATE_PERCENTAGE_CHANGE)
    ensure(abs(present - call.value) <= step, "DelegateStakePercentageAbsDiffTooLarge")
    low = state.get(storage.MIN_DELEGATE_STAKE_PERCENTAGE)
    high = state.get(storage.MAX_DELEGATE_STAKE_PERCENTAGE)
    ensure(low <= call.value <= high, "InvalidDelegateStakePercentage")
    state.put(storage.LAST_SUBNET_DELEGATE_STAKE_REWARDS_UPDATE, subnet_id, value=runtime.block)
    state.put(storage.SUBNET_DELEGATE_STAKE_REWARDS_PERCENTAGE, subnet_id, value=call.value)
    runtime.emit(events.SubnetDelegateStakeRewardsPercentageUpdate(subnet_id, origin, call.value))


def transfer_subnet_ownership(
    runtime: Runtime, origin: bytes, call: calls.TransferSubnetOwnership
) -> None:
    """Offer the subnet to another account."""
    check_owner(runtime, origin, call.subnet_id)
    runtime.state.put(storage.PENDING_SUBNET_OWNER, call.subnet_id, value=call.new_owner)
    runtime.emit(events.TransferPendingSubnetOwner(call.subnet_id, origin, call.new_owner))


def accept_subnet_ownership(
    runtime: Runtime, origin: bytes, call: calls.AcceptSubnetOwnership
) -> None:
    """Take an offered subnet."""
    state, subnet_id = runtime.state, call.subnet_id
    pending = state.find(storage.PENDING_SUBNET_OWNER, subnet_id)
    ensure(pending is not None, "NoPendingSubnetOwner")
    ensure(pending == origin, "NotPendingSubnetOwner")
    state.put(storage.SUBNET_OWNER, subnet_id, value=origin)
    state.remove(storage.PENDING_SUBNET_OWNER, subnet_id)
    runtime.emit(events.AcceptPendingSubnetOwner(subnet_id, origin))


def owner_add_bootnode_access(
    runtime: Runtime, origin: bytes, call: calls.OwnerAddBootnodeAccess
) -> None:
    """Let another account change the bootnodes."""
    state, subnet_id = runtime.state, call.subnet_id
    check_owner(runtime, origin, subnet_id)
    present = state.get(storage.SUBNET_BOOTNODE_ACCESS, subnet_id)
    ensure(call.new_account not in present, "InBootnodeAccessList")
    room = len(present) < state.get(storage.MAX_SUBNET_BOOTNODE_ACCESS)
    ensure(room, "MaxSubnetBootnodeAccess")
    state.put(storage.SUBNET_BOOTNODE_ACCESS, subnet_id, value=present | {call.new_account})
    runtime.emit(events.AddSubnetBootnodeAccess(subnet_id, origin, call.new_account))


def owner_remove_bootnode_access(
    runtime: Runtime, origin: bytes, call: calls.OwnerRemoveBootnodeAccess
) -> None:
    """Take from an account the right to change the bootnodes."""
    state, subnet_id = runtime.state, call.subnet_id
    check_owner(runtime, origin, subnet_id)
    present = state.get(storage.SUBNET_BOOTNODE_ACCESS, subnet_id)
    ensure(call.remove_account in present, "NotInAccessList")
    state.put(storage.SUBNET_BOOTNODE_ACCESS, subnet_id, value=present - {call.remove_account})
    runtime.emit(events.RemoveSubnetBootnodeAccess(subnet_id, origin, call.remove_account))


def update_bootnodes(runtime: Runtime, origin: bytes, call: calls.UpdateBootnodes) -> None:
    """Remove, then add, official bootnodes."""
    state, subnet_id = runtime.state, runtime.subnet(call.subnet_id).id
    is_owner = state.find(storage.SUBNET_OWNER, subnet_id) == origin
    allowed = is_owner or origin in state.get(storage.SUBNET_BOOTNODE_ACCESS, subnet_id)
    ensure(allowed, "InvalidAccess")
    present = state.get(storage.SUBNET_BOOTNODES, subnet_id)
    bootnodes = {peer: addr for peer, addr in present.items() if peer not in call.remove}
    for peer_id, multiaddr in sorted(call.add.items()):
        try:
            check_multiaddr(multiaddr)
        except DispatchError:
            fail("InvalidMultiaddr")
        bootnodes[peer_id] = multiaddr
    ensure(len(bootnodes) <= state.get(storage.MAX_BOOTNODES), "TooManyBootnodes")
    state.put(storage.SUBNET_BOOTNODES, subnet_id, value=bootnodes)
    runtime.emit(events.BootnodesUpdated(subnet_id, call.add, call.remove))
