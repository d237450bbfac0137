"""The events of calls and hooks, with the real runtime's indices and field names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Annotated, ClassVar

from devchain.chain_types import (
    AccountId,
    BoundedVector,
    ColdkeyIdentityData,
    DelegateAccount,
    PeerIdText,
    PeerInfo,
    QueuedSwapCallType,
    SubnetNode,
    SubnetNodeClassification,
    SubnetRemovalReason,
)
from devchain.scale import (
    U8,
    U32,
    U128,
    ByteArray,
    CompactU64,
    Hash,
    Variant,
    Variants,
)


@dataclass(frozen=True)
class Weight:
    ref_time: CompactU64 = 0
    proof_size: CompactU64 = 0


class DispatchClass(IntEnum):
    NORMAL = 0
    OPERATIONAL = 1
    MANDATORY = 2


class Pays(IntEnum):
    YES = 0
    NO = 1


@dataclass(frozen=True)
class DispatchInfo:
    weight: Weight = Weight()
    dispatch_class: DispatchClass = field(default=DispatchClass.NORMAL, metadata={"name": "class"})
    pays_fee: Pays = Pays.YES


@dataclass(frozen=True)
class ModuleError:
    """``error`` is the error's index in its pallet and three zero bytes."""

    index: U8
    error: Annotated[bytes, ByteArray(4)]


class TokenError(IntEnum):
    FUNDS_UNAVAILABLE = 0
    ONLY_PROVIDER = 1
    BELOW_MINIMUM = 2
    CANNOT_CREATE = 3
    UNKNOWN_ASSET = 4
    FROZEN = 5
    UNSUPPORTED = 6
    CANNOT_CREATE_HOLD = 7
    NOT_EXPENDABLE = 8
    BLOCKED = 9


class BadOriginFailure(Variant, index=2, name="BadOrigin"): ...


class ModuleFailure(Variant, index=3, name="Module", named=False):
    error: ModuleError


class TokenFailure(Variant, index=7, name="Token", named=False):
    error: TokenError


Failure = BadOriginFailure | ModuleFailure | TokenFailure
FailureType = Annotated[
    Failure,
    Variants(("sp_runtime", "DispatchError"), (BadOriginFailure, ModuleFailure, TokenFailure)),
]


class Event(Variant):
    pallet: ClassVar[str]


class SystemEvent(Event):
    pallet = "System"


class BalancesEvent(Event):
    pallet = "Balances"


class TransactionPaymentEvent(Event):
    pallet = "TransactionPayment"


class NetworkEvent(Event):
    pallet = "Network"


class SubnetEvent(NetworkEvent):
    """Base of the events that begin with a subnet."""

    subnet_id: U32


class SubnetNodeEvent(SubnetEvent):
    """Base of the events that begin with a node of a subnet."""

    subnet_node_id: U32


class OwnerEvent(SubnetEvent):
    """Base of the events that begin with a subnet and the owner who changed it."""

    owner: AccountId


class TextUpdate(OwnerEvent):
    """Base of the events of an owner's text settings."""

    prev_value: bytes
    value: bytes


class ExtrinsicSuccess(SystemEvent, index=0):
    dispatch_info: DispatchInfo


class ExtrinsicFailed(SystemEvent, index=1):
    dispatch_error: FailureType
    dispatch_info: DispatchInfo


class NewAccount(SystemEvent, index=3):
    account: AccountId


class KilledAccount(SystemEvent, index=4):
    account: AccountId


class Remarked(SystemEvent, index=5):
    sender: AccountId
    hash: Hash


class Endowed(BalancesEvent, index=0):
    account: AccountId
    free_balance: U128


class DustLost(BalancesEvent, index=1):
    account: AccountId
    amount: U128


class Transfer(BalancesEvent, index=2):
    from_account: AccountId = field(metadata={"name": "from"})
    to: AccountId
    amount: U128


class Deposit(BalancesEvent, index=7):
    who: AccountId
    amount: U128


class Withdraw(BalancesEvent, index=8):
    who: AccountId
    amount: U128


class TransactionFeePaid(TransactionPaymentEvent, index=0):
    who: AccountId
    actual_fee: U128
    tip: U128


class SubnetRegistered(NetworkEvent, index=0):
    owner: AccountId
    name: bytes
    subnet_id: U32


class SubnetActivated(SubnetEvent, index=1): ...


class SubnetDeactivated(SubnetEvent, index=2):
    reason: SubnetRemovalReason


class SubnetNodeRegistered(SubnetNodeEvent, index=3):
    coldkey: AccountId
    hotkey: AccountId
    data: SubnetNode


class SubnetNodeActivated(SubnetNodeEvent, index=4): ...


class SubnetNodeRemoved(SubnetNodeEvent, index=5): ...


class SubnetNodeUpdateDelegateRewardRate(SubnetNodeEvent, index=6):
    delegate_reward_rate: U128


class SubnetNodeUpdatePeerInfo(SubnetNodeEvent, index=7):
    peer_info: PeerInfo


class SubnetNodeUpdateBootnodePeerInfo(SubnetNodeEvent, index=9):
    bootnode_peer_info: PeerInfo | None


class SubnetNodeUpdateClientPeerInfo(SubnetNodeEvent, index=10):
    client_peer_info: PeerInfo | None


class SubnetNodeUpdateUnique(SubnetNodeEvent, index=11):
    unique: BoundedVector | None


class SubnetNodeUpdateNonUnique(SubnetNodeEvent, index=12):
    non_unique: BoundedVector | None


class SubnetNodeUpdateDelegateAccount(SubnetNodeEvent, index=13):
    delegate_account: DelegateAccount | None


class UpdateColdkey(NetworkEvent, index=14):
    coldkey: AccountId
    new_coldkey: AccountId


class UpdateHotkey(NetworkEvent, index=15):
    hotkey: AccountId
    new_hotkey: AccountId


class QueuedNodePrioritized(SubnetNodeEvent, index=16): ...


class QueuedNodeRemoved(SubnetNodeEvent, index=17): ...


class NodeClassGraduation(SubnetNodeEvent, index=18):
    classification: SubnetNodeClassification


class StakeEvent(SubnetEvent):
    """Base of the events about a node's own stake."""

    coldkey: AccountId
    hotkey: AccountId
    amount: U128


class StakeAdded(StakeEvent, index=19, named=False): ...


class StakeRemoved(StakeEvent, index=20, named=False): ...


class SubnetDelegateStakeEvent(SubnetEvent):
    """Base of the events about stake that is delegated to a subnet."""

    account: AccountId
    amount: U128


class SubnetDelegateStakeAdded(SubnetDelegateStakeEvent, index=21, named=False): ...


class SubnetDelegateStakeRemoved(SubnetDelegateStakeEvent, index=22, named=False): ...


class DelegateNodeStakeEvent(NetworkEvent):
    """Base of the events about stake that is delegated to a node."""

    account_id: AccountId
    subnet_id: U32
    subnet_node_id: U32
    amount: U128


class DelegateNodeStakeAdded(DelegateNodeStakeEvent, index=24): ...


class DelegateNodeStakeRemoved(DelegateNodeStakeEvent, index=25): ...


class DelegateNodeStakeSwapped(NetworkEvent, index=26):
    account_id: AccountId
    from_subnet_id: U32
    from_subnet_node_id: U32
    to_subnet_id: U32
    to_subnet_node_id: U32
    amount: U128


class DelegateNodeToSubnetDelegateStakeSwapped(NetworkEvent, index=27):
    account_id: AccountId
    from_subnet_id: U32
    from_subnet_node_id: U32
    to_subnet_id: U32
    amount: U128


class SubnetDelegateToNodeDelegateStakeSwapped(NetworkEvent, index=28):
    account_id: AccountId
    from_subnet_id: U32
    to_subnet_id: U32
    to_subnet_node_id: U32
    amount: U128


class DelegateBalanceRemoved(NetworkEvent, index=29):
    account_id: AccountId
    amount: U128


class ValidatorSubmission(SubnetEvent, index=123):
    account_id: AccountId
    epoch: U32


class Attestation(SubnetNodeEvent, index=124):
    epoch: U32


class Slashing(SubnetEvent, index=125):
    account_id: AccountId
    amount: U128


class SubnetRewards(SubnetEvent, index=126):
    node_rewards: tuple[tuple[U32, U128], ...]
    delegate_stake_reward: U128
    node_delegate_stake_rewards: tuple[tuple[U32, U128], ...]
    node_delegate_account_allocations: tuple[tuple[U32, tuple[AccountId, U128]], ...]


class SubnetReputationUpdate(SubnetEvent, index=128):
    prev_reputation: U128
    new_reputation: U128


class NodeReputationUpdate(SubnetNodeEvent, index=129):
    prev_reputation: U128
    new_reputation: U128


class SubnetNameUpdate(TextUpdate, index=130): ...


class SubnetRepoUpdate(TextUpdate, index=131): ...


class SubnetDescriptionUpdate(TextUpdate, index=132): ...


class SubnetMiscUpdate(TextUpdate, index=133): ...


class CountUpdate(OwnerEvent):
    """Base of the events of an owner's count settings."""

    value: U32


class FractionUpdate(OwnerEvent):
    """Base of the events of an owner's fraction settings."""

    value: U128


class ChurnLimitUpdate(CountUpdate, index=134): ...


class ChurnLimitMultiplierUpdate(CountUpdate, index=135): ...


class RegistrationQueueEpochsUpdate(CountUpdate, index=136): ...


class IdleClassificationEpochsUpdate(CountUpdate, index=137): ...


class IncludedClassificationEpochsUpdate(CountUpdate, index=138): ...


class BootnodesUpdated(SubnetEvent, index=139):
    added: Mapping[PeerIdText, BoundedVector]
    removed: frozenset[PeerIdText]


class SubnetPaused(OwnerEvent, index=140): ...


class SubnetUnpaused(OwnerEvent, index=141): ...


class SubnetForked(OwnerEvent, index=142):
    subnet_node_ids: tuple[U32, ...]


class SubnetForkRevert(OwnerEvent, index=143): ...


class AddSubnetRegistrationInitialColdkeys(OwnerEvent, index=144):
    coldkeys: Mapping[AccountId, U32]


class RemoveSubnetRegistrationInitialColdkeys(OwnerEvent, index=145):
    coldkeys: frozenset[AccountId]


class SubnetMinMaxStakeBalanceUpdate(OwnerEvent, index=146):
    min: U128
    max: U128


class SubnetDelegateStakeRewardsPercentageUpdate(FractionUpdate, index=147): ...


class MaxRegisteredNodesUpdate(CountUpdate, index=148): ...


class TransferPendingSubnetOwner(OwnerEvent, index=149):
    new_owner: AccountId


class AcceptPendingSubnetOwner(SubnetEvent, index=150):
    new_owner: AccountId


class AddSubnetBootnodeAccess(OwnerEvent, index=151):
    new_account: AccountId


class RemoveSubnetBootnodeAccess(OwnerEvent, index=152):
    remove_account: AccountId


class TargetNodeRegistrationsPerEpochUpdate(CountUpdate, index=153): ...


class NodeBurnRateAlphaUpdate(FractionUpdate, index=154): ...


class QueueImmunityEpochsUpdate(CountUpdate, index=155): ...


class SubnetNodeMinWeightDecreaseReputationThresholdUpdate(FractionUpdate, index=156): ...


class MinSubnetNodeReputationUpdate(FractionUpdate, index=157): ...


class AbsentDecreaseReputationFactorUpdate(FractionUpdate, index=158): ...


class IncludedIncreaseReputationFactorUpdate(FractionUpdate, index=159): ...


class BelowMinWeightDecreaseReputationFactorUpdate(FractionUpdate, index=160): ...


class NonAttestorDecreaseReputationFactorUpdate(FractionUpdate, index=161): ...


class NonConsensusAttestorDecreaseReputationFactorUpdate(FractionUpdate, index=162): ...


class ValidatorAbsentDecreaseReputationFactorUpdate(FractionUpdate, index=163): ...


class ValidatorNonConsensusSubnetNodeReputationFactorUpdate(FractionUpdate, index=164): ...


class IdentityRegistered(NetworkEvent, index=166):
    coldkey: AccountId
    identity: ColdkeyIdentityData


class IdentityRemoved(NetworkEvent, index=167):
    coldkey: AccountId
    identity: ColdkeyIdentityData


class SwapEvent(NetworkEvent):
    """Base of the events about a swap of delegated stake that waits."""

    id: U32
    account_id: AccountId
    call: QueuedSwapCallType


class SwapCallQueued(SwapEvent, index=168): ...


class SwapCallQueueUpdated(SwapEvent, index=169): ...
