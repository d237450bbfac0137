"""What calls and hooks report, with the real runtime's indices and field names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Annotated, ClassVar

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
from devchain.values import (
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


@dataclass(frozen=True)
class BadOriginFailure(Variant, index=2, name="BadOrigin"):
    pass


@dataclass(frozen=True)
class ModuleFailure(Variant, index=3, name="Module", named=False):
    error: ModuleError


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class ExtrinsicSuccess(SystemEvent, index=0):
    dispatch_info: DispatchInfo


@dataclass(frozen=True)
class ExtrinsicFailed(SystemEvent, index=1):
    dispatch_error: FailureType
    dispatch_info: DispatchInfo


@dataclass(frozen=True)
class NewAccount(SystemEvent, index=3):
    account: AccountId


@dataclass(frozen=True)
class KilledAccount(SystemEvent, index=4):
    account: AccountId


@dataclass(frozen=True)
class Remarked(SystemEvent, index=5):
    sender: AccountId
    hash: Hash


@dataclass(frozen=True)
class Endowed(BalancesEvent, index=0):
    account: AccountId
    free_balance: U128


@dataclass(frozen=True)
class DustLost(BalancesEvent, index=1):
    account: AccountId
    amount: U128


@dataclass(frozen=True)
class Transfer(BalancesEvent, index=2):
    from_account: AccountId = field(metadata={"name": "from"})
    to: AccountId
    amount: U128


@dataclass(frozen=True)
class Deposit(BalancesEvent, index=7):
    who: AccountId
    amount: U128


@dataclass(frozen=True)
class Withdraw(BalancesEvent, index=8):
    who: AccountId
    amount: U128


@dataclass(frozen=True)
class TransactionFeePaid(TransactionPaymentEvent, index=0):
    who: AccountId
    actual_fee: U128
    tip: U128


@dataclass(frozen=True)
class SubnetRegistered(NetworkEvent, index=0):
    owner: AccountId
    name: bytes
    subnet_id: U32


@dataclass(frozen=True)
class SubnetActivated(NetworkEvent, index=1):
    subnet_id: U32


@dataclass(frozen=True)
class SubnetDeactivated(NetworkEvent, index=2):
    subnet_id: U32
    reason: SubnetRemovalReason


@dataclass(frozen=True)
class SubnetNodeRegistered(NetworkEvent, index=3):
    subnet_id: U32
    subnet_node_id: U32
    coldkey: AccountId
    hotkey: AccountId
    data: SubnetNode


@dataclass(frozen=True)
class SubnetNodeActivated(NetworkEvent, index=4):
    subnet_id: U32
    subnet_node_id: U32


@dataclass(frozen=True)
class SubnetNodeRemoved(NetworkEvent, index=5):
    subnet_id: U32
    subnet_node_id: U32


@dataclass(frozen=True)
class SubnetNodeUpdateDelegateRewardRate(NetworkEvent, index=6):
    subnet_id: U32
    subnet_node_id: U32
    delegate_reward_rate: U128


@dataclass(frozen=True)
class SubnetNodeUpdatePeerInfo(NetworkEvent, index=7):
    subnet_id: U32
    subnet_node_id: U32
    peer_info: PeerInfo


@dataclass(frozen=True)
class SubnetNodeUpdateBootnodePeerInfo(NetworkEvent, index=9):
    subnet_id: U32
    subnet_node_id: U32
    bootnode_peer_info: PeerInfo | None


@dataclass(frozen=True)
class SubnetNodeUpdateClientPeerInfo(NetworkEvent, index=10):
    subnet_id: U32
    subnet_node_id: U32
    client_peer_info: PeerInfo | None


@dataclass(frozen=True)
class SubnetNodeUpdateUnique(NetworkEvent, index=11):
    subnet_id: U32
    subnet_node_id: U32
    unique: BoundedVector | None


@dataclass(frozen=True)
class SubnetNodeUpdateNonUnique(NetworkEvent, index=12):
    subnet_id: U32
    subnet_node_id: U32
    non_unique: BoundedVector | None


@dataclass(frozen=True)
class SubnetNodeUpdateDelegateAccount(NetworkEvent, index=13):
    subnet_id: U32
    subnet_node_id: U32
    delegate_account: DelegateAccount | None


@dataclass(frozen=True)
class UpdateColdkey(NetworkEvent, index=14):
    coldkey: AccountId
    new_coldkey: AccountId


@dataclass(frozen=True)
class UpdateHotkey(NetworkEvent, index=15):
    hotkey: AccountId
    new_hotkey: AccountId


@dataclass(frozen=True)
class QueuedNodePrioritized(NetworkEvent, index=16):
    subnet_id: U32
    subnet_node_id: U32


@dataclass(frozen=True)
class QueuedNodeRemoved(NetworkEvent, index=17):
    subnet_id: U32
    subnet_node_id: U32


@dataclass(frozen=True)
class NodeClassGraduation(NetworkEvent, index=18):
    subnet_id: U32
    subnet_node_id: U32
    classification: SubnetNodeClassification


@dataclass(frozen=True)
class StakeAdded(NetworkEvent, index=19, named=False):
    subnet_id: U32
    coldkey: AccountId
    hotkey: AccountId
    amount: U128


@dataclass(frozen=True)
class StakeRemoved(NetworkEvent, index=20, named=False):
    subnet_id: U32
    coldkey: AccountId
    hotkey: AccountId
    amount: U128


@dataclass(frozen=True)
class SubnetDelegateStakeAdded(NetworkEvent, index=21, named=False):
    subnet_id: U32
    account: AccountId
    amount: U128


@dataclass(frozen=True)
class SubnetDelegateStakeRemoved(NetworkEvent, index=22, named=False):
    subnet_id: U32
    account: AccountId
    amount: U128


@dataclass(frozen=True)
class DelegateNodeStakeAdded(NetworkEvent, index=24):
    account_id: AccountId
    subnet_id: U32
    subnet_node_id: U32
    amount: U128


@dataclass(frozen=True)
class DelegateNodeStakeRemoved(NetworkEvent, index=25):
    account_id: AccountId
    subnet_id: U32
    subnet_node_id: U32
    amount: U128


@dataclass(frozen=True)
class DelegateNodeStakeSwapped(NetworkEvent, index=26):
    account_id: AccountId
    from_subnet_id: U32
    from_subnet_node_id: U32
    to_subnet_id: U32
    to_subnet_node_id: U32
    amount: U128


@dataclass(frozen=True)
class DelegateNodeToSubnetDelegateStakeSwapped(NetworkEvent, index=27):
    account_id: AccountId
    from_subnet_id: U32
    from_subnet_node_id: U32
    to_subnet_id: U32
    amount: U128


@dataclass(frozen=True)
class SubnetDelegateToNodeDelegateStakeSwapped(NetworkEvent, index=28):
    account_id: AccountId
    from_subnet_id: U32
    to_subnet_id: U32
    to_subnet_node_id: U32
    amount: U128


@dataclass(frozen=True)
class DelegateBalanceRemoved(NetworkEvent, index=29):
    account_id: AccountId
    amount: U128


@dataclass(frozen=True)
class ValidatorSubmission(NetworkEvent, index=123):
    subnet_id: U32
    account_id: AccountId
    epoch: U32


@dataclass(frozen=True)
class Attestation(NetworkEvent, index=124):
    subnet_id: U32
    subnet_node_id: U32
    epoch: U32


@dataclass(frozen=True)
class Slashing(NetworkEvent, index=125):
    subnet_id: U32
    account_id: AccountId
    amount: U128


@dataclass(frozen=True)
class SubnetRewards(NetworkEvent, index=126):
    subnet_id: U32
    node_rewards: tuple[tuple[U32, U128], ...]
    delegate_stake_reward: U128
    node_delegate_stake_rewards: tuple[tuple[U32, U128], ...]
    node_delegate_account_allocations: tuple[tuple[U32, tuple[AccountId, U128]], ...]


@dataclass(frozen=True)
class SubnetReputationUpdate(NetworkEvent, index=128):
    subnet_id: U32
    prev_reputation: U128
    new_reputation: U128


@dataclass(frozen=True)
class NodeReputationUpdate(NetworkEvent, index=129):
    subnet_id: U32
    subnet_node_id: U32
    prev_reputation: U128
    new_reputation: U128


@dataclass(frozen=True)
class SubnetNameUpdate(NetworkEvent, index=130):
    subnet_id: U32
    owner: AccountId
    prev_value: bytes
    value: bytes


@dataclass(frozen=True)
class SubnetRepoUpdate(NetworkEvent, index=131):
    subnet_id: U32
    owner: AccountId
    prev_value: bytes
    value: bytes


@dataclass(frozen=True)
class SubnetDescriptionUpdate(NetworkEvent, index=132):
    subnet_id: U32
    owner: AccountId
    prev_value: bytes
    value: bytes


@dataclass(frozen=True)
class SubnetMiscUpdate(NetworkEvent, index=133):
    subnet_id: U32
    owner: AccountId
    prev_value: bytes
    value: bytes


@dataclass(frozen=True)
class CountUpdate(NetworkEvent):
    """Base of the events of an owner's count settings."""

    subnet_id: U32
    owner: AccountId
    value: U32


@dataclass(frozen=True)
class FractionUpdate(NetworkEvent):
    """Base of the events of an owner's fraction settings."""

    subnet_id: U32
    owner: AccountId
    value: U128


class ChurnLimitUpdate(CountUpdate, index=134):
    pass


class ChurnLimitMultiplierUpdate(CountUpdate, index=135):
    pass


class RegistrationQueueEpochsUpdate(CountUpdate, index=136):
    pass


class IdleClassificationEpochsUpdate(CountUpdate, index=137):
    pass


class IncludedClassificationEpochsUpdate(CountUpdate, index=138):
    pass


@dataclass(frozen=True)
class BootnodesUpdated(NetworkEvent, index=139):
    subnet_id: U32
    added: Mapping[PeerIdText, BoundedVector]
    removed: frozenset[PeerIdText]


@dataclass(frozen=True)
class SubnetPaused(NetworkEvent, index=140):
    subnet_id: U32
    owner: AccountId


@dataclass(frozen=True)
class SubnetUnpaused(NetworkEvent, index=141):
    subnet_id: U32
    owner: AccountId


@dataclass(frozen=True)
class SubnetForked(NetworkEvent, index=142):
    subnet_id: U32
    owner: AccountId
    subnet_node_ids: tuple[U32, ...]


@dataclass(frozen=True)
class SubnetForkRevert(NetworkEvent, index=143):
    subnet_id: U32
    owner: AccountId


@dataclass(frozen=True)
class AddSubnetRegistrationInitialColdkeys(NetworkEvent, index=144):
    subnet_id: U32
    owner: AccountId
    coldkeys: Mapping[AccountId, U32]


@dataclass(frozen=True)
class RemoveSubnetRegistrationInitialColdkeys(NetworkEvent, index=145):
    subnet_id: U32
    owner: AccountId
    coldkeys: frozenset[AccountId]


@dataclass(frozen=True)
class SubnetMinMaxStakeBalanceUpdate(NetworkEvent, index=146):
    subnet_id: U32
    owner: AccountId
    min: U128
    max: U128


class SubnetDelegateStakeRewardsPercentageUpdate(FractionUpdate, index=147):
    pass


class MaxRegisteredNodesUpdate(CountUpdate, index=148):
    pass


@dataclass(frozen=True)
class TransferPendingSubnetOwner(NetworkEvent, index=149):
    subnet_id: U32
    owner: AccountId
    new_owner: AccountId


@dataclass(frozen=True)
class AcceptPendingSubnetOwner(NetworkEvent, index=150):
    subnet_id: U32
    new_owner: AccountId


@dataclass(frozen=True)
class AddSubnetBootnodeAccess(NetworkEvent, index=151):
    subnet_id: U32
    owner: AccountId
    new_account: AccountId


@dataclass(frozen=True)
class RemoveSubnetBootnodeAccess(NetworkEvent, index=152):
    subnet_id: U32
    owner: AccountId
    remove_account: AccountId


class TargetNodeRegistrationsPerEpochUpdate(CountUpdate, index=153):
    pass


class NodeBurnRateAlphaUpdate(FractionUpdate, index=154):
    pass


class QueueImmunityEpochsUpdate(CountUpdate, index=155):
    pass


class SubnetNodeMinWeightDecreaseReputationThresholdUpdate(FractionUpdate, index=156):
    pass


class MinSubnetNodeReputationUpdate(FractionUpdate, index=157):
    pass


class AbsentDecreaseReputationFactorUpdate(FractionUpdate, index=158):
    pass


class IncludedIncreaseReputationFactorUpdate(FractionUpdate, index=159):
    pass


class BelowMinWeightDecreaseReputationFactorUpdate(FractionUpdate, index=160):
    pass


class NonAttestorDecreaseReputationFactorUpdate(FractionUpdate, index=161):
    pass


class NonConsensusAttestorDecreaseReputationFactorUpdate(FractionUpdate, index=162):
    pass


class ValidatorAbsentDecreaseReputationFactorUpdate(FractionUpdate, index=163):
    pass


class ValidatorNonConsensusSubnetNodeReputationFactorUpdate(FractionUpdate, index=164):
    pass


@dataclass(frozen=True)
class IdentityRegistered(NetworkEvent, index=166):
    coldkey: AccountId
    identity: ColdkeyIdentityData


@dataclass(frozen=True)
class IdentityRemoved(NetworkEvent, index=167):
    coldkey: AccountId
    identity: ColdkeyIdentityData


@dataclass(frozen=True)
class SwapCallQueued(NetworkEvent, index=168):
    id: U32
    account_id: AccountId
    call: QueuedSwapCallType


@dataclass(frozen=True)
class SwapCallQueueUpdated(NetworkEvent, index=169):
    id: U32
    account_id: AccountId
    call: QueuedSwapCallType
