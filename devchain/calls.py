"""The calls that the chain understands: name, index and arguments of the real runtime.

Only calls that work are declared. ``activate_subnet_node`` is the original flow's
and stands at an index that the real pallet does not use.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar

from devchain.chain_types import (
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
from devchain.scale import U32, U128, CompactU64, CompactU128, Variant


class Call(Variant):
    """Base of every call.

    ``is_free`` calls give their fee back when they succeed; ``ignores_pause`` calls work while the
    network is paused.
    """

    pallet: ClassVar[str]
    is_free: ClassVar[bool] = False
    ignores_pause: ClassVar[bool] = False

    def __init_subclass__(cls, *, index: int | None = None, name: str | None = None) -> None:
        # OwnerPauseSubnet is owner_pause_subnet on the wire.
        words = re.findall("[A-Z][a-z]*", cls.__name__)
        super().__init_subclass__(index=index, name=name or "_".join(words).lower())


class SystemCall(Call):
    pallet = "System"


class TimestampCall(Call):
    pallet = "Timestamp"


class BalancesCall(Call):
    pallet = "Balances"


class NetworkCall(Call):
    pallet = "Network"


class SubnetCall(NetworkCall):
    """Base of the calls that begin with a subnet."""

    subnet_id: U32


class SubnetNodeCall(SubnetCall):
    """Base of the calls that begin with a node of a subnet."""

    subnet_node_id: U32


class Remark(SystemCall, index=0):
    remark: bytes


class RemarkWithEvent(SystemCall, index=7):
    remark: bytes


class SetTimestamp(TimestampCall, index=0, name="set"):
    """The block author's inherent: milliseconds since 1970."""

    now: CompactU64


class TransferCall(BalancesCall):
    """Base of the transfers of free units."""

    dest: AccountId
    value: CompactU128


class TransferAllowDeath(TransferCall, index=0): ...


class TransferKeepAlive(TransferCall, index=3): ...


class RegisterSubnet(NetworkCall, index=0):
    max_cost: U128
    subnet_data: RegistrationSubnetData


class ActivateSubnet(SubnetCall, index=1): ...


class OwnerPauseSubnet(SubnetCall, index=2): ...


class OwnerUnpauseSubnet(SubnetCall, index=3): ...


class OwnerDeactivateSubnet(SubnetCall, index=4): ...


class TextSetting(SubnetCall):
    """Base of the owner's settings that are texts."""

    value: bytes


class OwnerUpdateName(TextSetting, index=5): ...


class OwnerUpdateRepo(TextSetting, index=6): ...


class OwnerUpdateDescription(TextSetting, index=7): ...


class OwnerUpdateMisc(TextSetting, index=8): ...


class CountSetting(SubnetCall):
    """Base of the owner's settings that are counts."""

    value: U32


class FractionSetting(SubnetCall):
    """Base of the owner's settings that are fixed-point fractions."""

    value: U128


class OwnerUpdateChurnLimit(CountSetting, index=9): ...


class OwnerUpdateChurnLimitMultiplier(CountSetting, index=10): ...


class OwnerUpdateRegistrationQueueEpochs(CountSetting, index=11): ...


class OwnerUpdateIdleClassificationEpochs(CountSetting, index=12): ...


class OwnerUpdateIncludedClassificationEpochs(CountSetting, index=13): ...


class OwnerUpdateNonConsensusAttestorDecreaseReputationFactor(FractionSetting, index=14): ...


class OwnerUpdateAbsentDecreaseReputationFactor(FractionSetting, index=15): ...


class OwnerUpdateIncludedIncreaseReputationFactor(FractionSetting, index=16): ...


class OwnerUpdateBelowMinWeightDecreaseReputationFactor(FractionSetting, index=17): ...


class OwnerUpdateNonAttestorDecreaseReputationFactor(FractionSetting, index=18): ...


class OwnerUpdateValidatorAbsentDecreaseReputationFactor(FractionSetting, index=19): ...


class OwnerUpdateValidatorNonConsensusDecreaseReputationFactor(FractionSetting, index=20): ...


class OwnerUpdateSubnetNodeMinWeightDecreaseReputationThreshold(FractionSetting, index=21): ...


class OwnerUpdateMinSubnetNodeReputation(FractionSetting, index=22): ...


class OwnerAddOrUpdateInitialColdkeys(SubnetCall, index=23):
    coldkeys: Mapping[AccountId, U32]


class OwnerRemoveInitialColdkeys(SubnetCall, index=24):
    coldkeys: frozenset[AccountId]


class OwnerSetEmergencyValidatorSet(SubnetCall, index=25):
    subnet_node_ids: tuple[U32, ...]


class OwnerRevertEmergencyValidatorSet(SubnetCall, index=26): ...


class OwnerUpdateMinMaxStake(SubnetCall, index=27):
    min: U128
    max: U128


class OwnerUpdateDelegateStakePercentage(SubnetCall, index=28):
    value: U128


class OwnerUpdateMaxRegisteredNodes(CountSetting, index=29): ...


class TransferSubnetOwnership(SubnetCall, index=30):
    new_owner: AccountId


class AcceptSubnetOwnership(SubnetCall, index=31): ...


class OwnerAddBootnodeAccess(SubnetCall, index=32):
    new_account: AccountId


class OwnerRemoveBootnodeAccess(SubnetCall, index=33):
    remove_account: AccountId


class OwnerUpdateTargetNodeRegistrationsPerEpoch(CountSetting, index=34): ...


class OwnerUpdateNodeBurnRateAlpha(FractionSetting, index=35): ...


class OwnerUpdateQueueImmunityEpochs(CountSetting, index=36): ...


class UpdateBootnodes(SubnetCall, index=37):
    add: Mapping[PeerIdText, BoundedVector]
    remove: frozenset[PeerIdText]


class RegisterSubnetNode(SubnetCall, index=38):
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


class RemoveSubnetNode(SubnetNodeCall, index=39): ...


class UpdatePeerInfo(SubnetNodeCall, index=40):
    new_peer_info: PeerInfo


class UpdateDelegateAccount(SubnetNodeCall, index=41):
    delegate_account_id: AccountId | None
    delegate_rate: U128 | None


class UpdateBootnodePeerInfo(SubnetNodeCall, index=42):
    new_peer_info: PeerInfo | None


class UpdateClientPeerInfo(SubnetNodeCall, index=43):
    new_peer_info: PeerInfo | None


class UpdateNodeDelegateRewardRate(SubnetNodeCall, index=44):
    new_delegate_reward_rate: U128


class UpdateUnique(SubnetNodeCall, index=45):
    unique: BoundedVector | None


class UpdateNonUnique(SubnetNodeCall, index=46):
    non_unique: BoundedVector | None


class AddStake(SubnetNodeCall, index=47):
    hotkey: AccountId
    stake_to_be_added: U128


class RemoveStake(SubnetCall, index=48):
    hotkey: AccountId
    stake_to_be_removed: U128


class ClaimUnbondings(NetworkCall, index=49): ...


class AddToDelegateStake(SubnetCall, index=50):
    stake_to_be_added: U128


class SwapDelegateStake(NetworkCall, index=51):
    from_subnet_id: U32
    to_subnet_id: U32
    delegate_stake_shares_to_swap: U128


class TransferDelegateStake(SubnetCall, index=52):
    to_account_id: AccountId
    delegate_stake_shares_to_transfer: U128


class RemoveDelegateStake(SubnetCall, index=53):
    shares_to_be_removed: U128


class DonateDelegateStake(SubnetCall, index=54):
    amount: U128


class AddToNodeDelegateStake(SubnetNodeCall, index=55):
    node_delegate_stake_to_be_added: U128


class SwapNodeDelegateStake(NetworkCall, index=56):
    from_subnet_id: U32
    from_subnet_node_id: U32
    to_subnet_id: U32
    to_subnet_node_id: U32
    node_delegate_stake_shares_to_swap: U128


class TransferNodeDelegateStake(SubnetNodeCall, index=57):
    to_account_id: AccountId
    node_delegate_stake_shares_to_transfer: U128


class RemoveNodeDelegateStake(SubnetNodeCall, index=58):
    node_delegate_stake_shares_to_be_removed: U128


class DonateNodeDelegateStake(SubnetNodeCall, index=59):
    amount: U128


class SwapFromNodeToSubnet(NetworkCall, index=60):
    from_subnet_id: U32
    from_subnet_node_id: U32
    to_subnet_id: U32
    node_delegate_stake_shares_to_swap: U128


class SwapFromSubnetToNode(NetworkCall, index=61):
    from_subnet_id: U32
    to_subnet_id: U32
    to_subnet_node_id: U32
    delegate_stake_shares_to_swap: U128


class UpdateSwapQueue(NetworkCall, index=62):
    ignores_pause = True
    id: U32
    new_call: QueuedSwapCallType


class RegisterOrUpdateIdentity(NetworkCall, index=63):
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


class RemoveIdentity(NetworkCall, index=64):
    ignores_pause = True


class ProposeAttestation(SubnetCall, index=65):
    is_free = True
    data: tuple[SubnetNodeConsensusData, ...]
    prioritize_queue_node_id: U32 | None = None
    remove_queue_node_id: U32 | None = None
    args: BoundedArgs | None = None
    attest_data: BoundedArgs | None = None


class Attest(SubnetCall, index=66):
    is_free = True
    attest_data: BoundedArgs | None = None


class UpdateColdkey(NetworkCall, index=67):
    hotkey: AccountId
    new_coldkey: AccountId


class UpdateHotkey(NetworkCall, index=68):
    old_hotkey: AccountId
    new_hotkey: AccountId


class TransferDelegateAccount(SubnetNodeCall, index=163):
    delegate_account_id: AccountId


class RemoveDelegateBalance(NetworkCall, index=164):
    amount_to_remove: U128


class ActivateSubnetNode(SubnetNodeCall, index=240): ...
