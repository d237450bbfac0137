"""The calls that the chain understands: name, index and arguments of the real runtime.

Only calls that work are declared. ``activate_subnet_node`` is the original flow's
and stands at an index that the real pallet does not use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from subnet.devchain.scale import U32, U128, CompactU64, CompactU128, Variant
from subnet.devchain.values import (
    AccountId,
    BoundedArgs,
    BoundedVector,
    DelegateAccount,
    PeerIdText,
    PeerInfo,
    RegistrationSubnetData,
    SubnetNodeConsensusData,
)


class Call(Variant):
    """Base of every call. ``is_free`` calls give their fee back when they succeed."""

    pallet: ClassVar[str]
    is_free: ClassVar[bool] = False


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
class OwnerUpdateDescription(NetworkCall, index=7, name="owner_update_description"):
    subnet_id: U32
    value: bytes


@dataclass(frozen=True)
class OwnerUpdateMisc(NetworkCall, index=8, name="owner_update_misc"):
    subnet_id: U32
    value: bytes


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
class ActivateSubnetNode(NetworkCall, index=240, name="activate_subnet_node"):
    subnet_id: U32
    subnet_node_id: U32
