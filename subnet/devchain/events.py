"""What calls and hooks report, with the real runtime's indices and field names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Annotated, ClassVar

from subnet.devchain.scale import (
    U8,
    U32,
    U128,
    ByteArray,
    CompactU64,
    Hash,
    Variant,
    Variants,
)
from subnet.devchain.values import (
    AccountId,
    BoundedVector,
    PeerIdText,
    PeerInfo,
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
class SubnetNodeUpdatePeerInfo(NetworkEvent, index=7):
    subnet_id: U32
    subnet_node_id: U32
    peer_info: PeerInfo


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
class BootnodesUpdated(NetworkEvent, index=139):
    subnet_id: U32
    added: Mapping[PeerIdText, BoundedVector]
    removed: frozenset[PeerIdText]
