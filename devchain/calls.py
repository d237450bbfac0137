"""The calls that the chain understands: name, index and arguments of the real runtime.

Only calls that work are declared. ``activate_subnet_node`` is the original flow's
and stands at an index that the real pallet does not use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from devchain.scale import U32, U128, CompactU64, CompactU128, Variant
from devchain.values import (
    AccountId,
    BoundedArgs,
    BoundedSocialId,
    BoundedVector,
    DelegateAccount,
    PeerIdText,
    PeerInfo,
    QueuedSwapCallType,
    RegistrationSubnetData,
    SubnetNodeConsensusData,
)


class Call(Variant):
    """Base of every call.

    ``is_free`` calls give their fee back when they succeed; ``ignores_pause`` calls work while the
    network is paused.
    """

    pallet: ClassVar[str]
    is_free: ClassVar[bool] = False
    ignores_pause: ClassVar[bool] = False


class SystemCall(Call):
    pallet = "System"


class TimestampCall(Call):
    pallet = "Timestamp"


class BalancesCall(Call):
    pallet = "Balances"


class NetworkCall(Call):
    pallet = "Network"


@dataclass(frozen=True)
class Remark(SystemCall, index=0, name="remark"):
    remark: bytes


@dataclass(frozen=True)
class RemarkWithEvent(SystemCall, index=7, name="remark_with_event"):
    remark: bytes


@dataclass(frozen=True)
class SetTimestamp(TimestampCall, index=0, name="set"):
    """The block author's inherent: milliseconds since 1970."""

    now: CompactU64


@dataclass(frozen=True)
class TransferAllowDeath(BalancesCall, index=0, name="transfer_allow_death"):
    dest: AccountId
    value: CompactU128


@dataclass(frozen=True)
class TransferKeepAlive(BalancesCall, index=3, name="transfer_keep_alive"):
    dest: AccountId
    value: CompactU128


@dataclass(frozen=True)
class RegisterSubnet(NetworkCall, index=0, name="register_subnet"):
    max_cost: U128
    subnet_data: RegistrationSubnetData


@dataclass(frozen=True)
class ActivateSubnet(NetworkCall, index=1, name="activate_subnet"):
    subnet_id: U32


@dataclass(frozen=True)
class OwnerPauseSubnet(NetworkCall, index=2, name="owner_pause_subnet"):
    subnet_id: U32


@dataclass(frozen=True)
class OwnerUnpauseSubnet(NetworkCall, index=3, name="owner_unpause_subnet"):
    subnet_id: U32


@dataclass(frozen=True)
class OwnerDeactivateSubnet(NetworkCall, index=4, name="owner_deactivate_subnet"):
    subnet_id: U32


@dataclass(frozen=True)
class OwnerUpdateName(NetworkCall, index=5, name="owner_update_name"):
    subnet_id: U32
    value: bytes


@dataclass(frozen=True)
class OwnerUpdateRepo(NetworkCall, index=6, name="owner_update_repo"):
    subnet_id: U32
    value: bytes


@dataclass(frozen=True)
class OwnerUpdateDescription(NetworkCall, index=7, name="owner_update_description"):
    subnet_id: U32
    value: bytes


@dataclass(frozen=True)
class OwnerUpdateMisc(NetworkCall, index=8, name="owner_update_misc"):
    subnet_id: U32
    value: bytes


@dataclass(frozen=True)
class CountSetting(NetworkCall):
    """Base of the owner's settings that are counts."""

    subnet_id: U32
    value: U32


@dataclass(frozen=True)
class FractionSetting(NetworkCall):
    """Base of the owner's settings that are fixed-point fractions."""

    subnet_id: U32
    value: U128


class OwnerUpdateChurnLimit(CountSetting, index=9, name="owner_update_churn_limit"):
    pass


class OwnerUpdateChurnLimitMultiplier(
    CountSetting, index=10, name="owner_update_churn_limit_multiplier"
):
    pass


class OwnerUpdateRegistrationQueueEpochs(
    CountSetting, index=11, name="owner_update_registration_queue_epochs"
):
    pass


class OwnerUpdateIdleClassificationEpochs(
    CountSetting, index=12, name="owner_update_idle_classification_epochs"
):
    pass


class OwnerUpdateIncludedClassificationEpochs(
    CountSetting, index=13, name="owner_update_included_classification_epochs"
):
    pass


class OwnerUpdateNonConsensusAttestorDecrease(
    FractionSetting,
    index=14,
    name="owner_update_non_consensus_attestor_decrease_reputation_factor",
):
    pass


class OwnerUpdateAbsentDecrease(
    FractionSetting, index=15, name="owner_update_absent_decrease_reputation_factor"
):
    pass


class OwnerUpdateIncludedIncrease(
    FractionSetting, index=16, name="owner_update_included_increase_reputation_factor"
):
    pass


class OwnerUpdateBelowMinWeightDecrease(
    FractionSetting, index=17, name="owner_update_below_min_weight_decrease_reputation_factor"
):
    pass


class OwnerUpdateNonAttestorDecrease(
    FractionSetting, index=18, name="owner_update_non_attestor_decrease_reputation_factor"
):
    pass


class OwnerUpdateValidatorAbsentDecrease(
    FractionSetting, index=19, name="owner_update_validator_absent_decrease_reputation_factor"
):
    pass


class OwnerUpdateValidatorNonConsensusDecrease(
    FractionSetting,
    index=20,
    name="owner_update_validator_non_consensus_decrease_reputation_factor",
):
    pass


class OwnerUpdateNodeMinWeightThreshold(
    FractionSetting,
    index=21,
    name="owner_update_subnet_node_min_weight_decrease_reputation_threshold",
):
    pass


class OwnerUpdateMinSubnetNodeReputation(
    FractionSetting, index=22, name="owner_update_min_subnet_node_reputation"
):
    pass


@dataclass(frozen=True)
class OwnerAddOrUpdateInitialColdkeys(
    NetworkCall, index=23, name="owner_add_or_update_initial_coldkeys"
):
    subnet_id: U32
    coldkeys: Mapping[AccountId, U32]


@dataclass(frozen=True)
class OwnerRemoveInitialColdkeys(NetworkCall, index=24, name="owner_remove_initial_coldkeys"):
    subnet_id: U32
    coldkeys: frozenset[AccountId]


@dataclass(frozen=True)
class OwnerSetEmergencyValidatorSet(
    NetworkCall, index=25, name="owner_set_emergency_validator_set"
):
    subnet_id: U32
    subnet_node_ids: tuple[U32, ...]


@dataclass(frozen=True)
class OwnerRevertEmergencyValidatorSet(
    NetworkCall, index=26, name="owner_revert_emergency_validator_set"
):
    subnet_id: U32


@dataclass(frozen=True)
class OwnerUpdateMinMaxStake(NetworkCall, index=27, name="owner_update_min_max_stake"):
    subnet_id: U32
    min: U128
    max: U128


@dataclass(frozen=True)
class OwnerUpdateDelegateStakePercentage(
    NetworkCall, index=28, name="owner_update_delegate_stake_percentage"
):
    subnet_id: U32
    value: U128


class OwnerUpdateMaxRegisteredNodes(
    CountSetting, index=29, name="owner_update_max_registered_nodes"
):
    pass


@dataclass(frozen=True)
class TransferSubnetOwnership(NetworkCall, index=30, name="transfer_subnet_ownership"):
    subnet_id: U32
    new_owner: AccountId


@dataclass(frozen=True)
class AcceptSubnetOwnership(NetworkCall, index=31, name="accept_subnet_ownership"):
    subnet_id: U32


@dataclass(frozen=True)
class OwnerAddBootnodeAccess(NetworkCall, index=32, name="owner_add_bootnode_access"):
    subnet_id: U32
    new_account: AccountId


@dataclass(frozen=True)
class OwnerRemoveBootnodeAccess(NetworkCall, index=33, name="owner_remove_bootnode_access"):
    subnet_id: U32
    remove_account: AccountId


class OwnerUpdateTargetNodeRegistrations(
    CountSetting, index=34, name="owner_update_target_node_registrations_per_epoch"
):
    pass


class OwnerUpdateNodeBurnRateAlpha(
    FractionSetting, index=35, name="owner_update_node_burn_rate_alpha"
):
    pass


class OwnerUpdateQueueImmunityEpochs(
    CountSetting, index=36, name="owner_update_queue_immunity_epochs"
):
    pass


@dataclass(frozen=True)
class UpdateBootnodes(NetworkCall, index=37, name="update_bootnodes"):
    subnet_id: U32
    add: Mapping[PeerIdText, BoundedVector]
    remove: frozenset[PeerIdText]


@dataclass(frozen=True)
class RegisterSubnetNode(NetworkCall, index=38, name="register_subnet_node"):
    subnet_id: U32
    hotkey: AccountId
    peer_info: PeerInfo
    bootnode_peer_info: PeerInfo | None
    client_peer_info: PeerInfo | None
    delegate_reward_rate: U128
    stake_to_be_added: U128
    unique: BoundedVector | None
    non_unique: BoundedVector | None
    delegate_account: DelegateAccount | None
    max_burn_amount: U128


@dataclass(frozen=True)
class RemoveSubnetNode(NetworkCall, index=39, name="remove_subnet_node"):
    subnet_id: U32
    subnet_node_id: U32


@dataclass(frozen=True)
class UpdatePeerInfo(NetworkCall, index=40, name="update_peer_info"):
    subnet_id: U32
    subnet_node_id: U32
    new_peer_info: PeerInfo


@dataclass(frozen=True)
class UpdateDelegateAccount(NetworkCall, index=41, name="update_delegate_account"):
    subnet_id: U32
    subnet_node_id: U32
    delegate_account_id: AccountId | None
    delegate_rate: U128 | None


@dataclass(frozen=True)
class UpdateBootnodePeerInfo(NetworkCall, index=42, name="update_bootnode_peer_info"):
    subnet_id: U32
    subnet_node_id: U32
    new_peer_info: PeerInfo | None


@dataclass(frozen=True)
class UpdateClientPeerInfo(NetworkCall, index=43, name="update_client_peer_info"):
    subnet_id: U32
    subnet_node_id: U32
    new_peer_info: PeerInfo | None


@dataclass(frozen=True)
class UpdateNodeDelegateRewardRate(NetworkCall, index=44, name="update_node_delegate_reward_rate"):
    subnet_id: U32
    subnet_node_id: U32
    new_delegate_reward_rate: U128


@dataclass(frozen=True)
class UpdateUnique(NetworkCall, index=45, name="update_unique"):
    subnet_id: U32
    subnet_node_id: U32
    unique: BoundedVector | None


@dataclass(frozen=True)
class UpdateNonUnique(NetworkCall, index=46, name="update_non_unique"):
    subnet_id: U32
    subnet_node_id: U32
    non_unique: BoundedVector | None


@dataclass(frozen=True)
class AddStake(NetworkCall, index=47, name="add_stake"):
    subnet_id: U32
    subnet_node_id: U32
    hotkey: AccountId
    stake_to_be_added: U128


@dataclass(frozen=True)
class RemoveStake(NetworkCall, index=48, name="remove_stake"):
    subnet_id: U32
    hotkey: AccountId
    stake_to_be_removed: U128


@dataclass(frozen=True)
class ClaimUnbondings(NetworkCall, index=49, name="claim_unbondings"):
    pass


@dataclass(frozen=True)
class AddToDelegateStake(NetworkCall, index=50, name="add_to_delegate_stake"):
    subnet_id: U32
    stake_to_be_added: U128


@dataclass(frozen=True)
class SwapDelegateStake(NetworkCall, index=51, name="swap_delegate_stake"):
    from_subnet_id: U32
    to_subnet_id: U32
    delegate_stake_shares_to_swap: U128


@dataclass(frozen=True)
class TransferDelegateStake(NetworkCall, index=52, name="transfer_delegate_stake"):
    subnet_id: U32
    to_account_id: AccountId
    delegate_stake_shares_to_transfer: U128


@dataclass(frozen=True)
class RemoveDelegateStake(NetworkCall, index=53, name="remove_delegate_stake"):
    subnet_id: U32
    shares_to_be_removed: U128


@dataclass(frozen=True)
class DonateDelegateStake(NetworkCall, index=54, name="donate_delegate_stake"):
    subnet_id: U32
    amount: U128


@dataclass(frozen=True)
class AddToNodeDelegateStake(NetworkCall, index=55, name="add_to_node_delegate_stake"):
    subnet_id: U32
    subnet_node_id: U32
    node_delegate_stake_to_be_added: U128


@dataclass(frozen=True)
class SwapNodeDelegateStake(NetworkCall, index=56, name="swap_node_delegate_stake"):
    from_subnet_id: U32
    from_subnet_node_id: U32
    to_subnet_id: U32
    to_subnet_node_id: U32
    node_delegate_stake_shares_to_swap: U128


@dataclass(frozen=True)
class TransferNodeDelegateStake(NetworkCall, index=57, name="transfer_node_delegate_stake"):
    subnet_id: U32
    subnet_node_id: U32
    to_account_id: AccountId
    node_delegate_stake_shares_to_transfer: U128


@dataclass(frozen=True)
class RemoveNodeDelegateStake(NetworkCall, index=58, name="remove_node_delegate_stake"):
    subnet_id: U32
    subnet_node_id: U32
    node_delegate_stake_shares_to_be_removed: U128


@dataclass(frozen=True)
class DonateNodeDelegateStake(NetworkCall, index=59, name="donate_node_delegate_stake"):
    subnet_id: U32
    subnet_node_id: U32
    amount: U128


@dataclass(frozen=True)
class SwapFromNodeToSubnet(NetworkCall, index=60, name="swap_from_node_to_subnet"):
    from_subnet_id: U32
    from_subnet_node_id: U32
    to_subnet_id: U32
    node_delegate_stake_shares_to_swap: U128


@dataclass(frozen=True)
class SwapFromSubnetToNode(NetworkCall, index=61, name="swap_from_subnet_to_node"):
    from_subnet_id: U32
    to_subnet_id: U32
    to_subnet_node_id: U32
    delegate_stake_shares_to_swap: U128


@dataclass(frozen=True)
class UpdateSwapQueue(NetworkCall, index=62, name="update_swap_queue"):
    ignores_pause = True
    id: U32
    new_call: QueuedSwapCallType


@dataclass(frozen=True)
class RegisterOrUpdateIdentity(NetworkCall, index=63, name="register_or_update_identity"):
    hotkey: AccountId
    name: BoundedVector
    url: BoundedVector
    image: BoundedVector
    discord: BoundedSocialId
    x: BoundedSocialId
    telegram: BoundedSocialId
    github: BoundedVector
    hugging_face: BoundedVector
    description: BoundedVector
    misc: BoundedVector


@dataclass(frozen=True)
class RemoveIdentity(NetworkCall, index=64, name="remove_identity"):
    ignores_pause = True


@dataclass(frozen=True)
class ProposeAttestation(NetworkCall, index=65, name="propose_attestation"):
    is_free = True
    subnet_id: U32
    data: tuple[SubnetNodeConsensusData, ...]
    prioritize_queue_node_id: U32 | None = None
    remove_queue_node_id: U32 | None = None
    args: BoundedArgs | None = None
    attest_data: BoundedArgs | None = None


@dataclass(frozen=True)
class Attest(NetworkCall, index=66, name="attest"):
    is_free = True
    subnet_id: U32
    attest_data: BoundedArgs | None = None


@dataclass(frozen=True)
class UpdateColdkey(NetworkCall, index=67, name="update_coldkey"):
    hotkey: AccountId
    new_coldkey: AccountId


@dataclass(frozen=True)
class UpdateHotkey(NetworkCall, index=68, name="update_hotkey"):
    old_hotkey: AccountId
    new_hotkey: AccountId


@dataclass(frozen=True)
class TransferDelegateAccount(NetworkCall, index=163, name="transfer_delegate_account"):
    subnet_id: U32
    subnet_node_id: U32
    delegate_account_id: AccountId


@dataclass(frozen=True)
class RemoveDelegateBalance(NetworkCall, index=164, name="remove_delegate_balance"):
    amount_to_remove: U128


@dataclass(frozen=True)
class ActivateSubnetNode(NetworkCall, index=240, name="activate_subnet_node"):
    subnet_id: U32
    subnet_node_id: U32
