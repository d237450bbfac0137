"""The types that the chain stores and calls carry, as frozen dataclasses in encoding order.

Mappings inside them are never changed in place: old blocks share them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated

from consensus.types import SCORE_ONE, NodeClass
from devchain.scale import (
    U32,
    U128,
    BoundedBytes,
    ByteArray,
    ByteVec,
    Newtype,
    Variant,
    Variants,
)

ONE = SCORE_ONE
"""Fixed point: percentages, reputation and progress have 10**18 as 1.0."""
TENSOR = 10**18
"""Units of one TENSOR."""

MAX_VECTOR = 1024
MAX_SOCIAL_ID = 255
MAX_ARGS = 4096

AccountId = Annotated[bytes, Newtype(("fp_account", "AccountId20"), ByteArray(20))]
PeerIdText = Annotated[bytes, Newtype(("sp_core", "OpaquePeerId"), ByteVec())]
"""The ASCII text of a peer id, as the pallet wants it."""
BoundedVector = Annotated[bytes, BoundedBytes(MAX_VECTOR)]
BoundedSocialId = Annotated[bytes, BoundedBytes(MAX_SOCIAL_ID)]
BoundedArgs = Annotated[bytes, BoundedBytes(MAX_ARGS)]

NULL_ACCOUNT = bytes(20)


class ActivationMode(IntEnum):
    """How a registered node becomes active."""

    MANUAL = 0
    """Its owner calls activate_subnet_node inside the start window."""
    AUTOMATIC = 1
    """The queue activates it, as on the Hoskinson runtime."""


class SubnetState(IntEnum):
    REGISTERED = 0
    ACTIVE = 1
    PAUSED = 2


class SubnetRemovalReason(IntEnum):
    MIN_REPUTATION = 0
    MIN_SUBNET_NODES = 1
    MIN_SUBNET_DELEGATE_STAKE = 2
    COUNCIL = 3
    ENACTMENT_PERIOD = 4
    MAX_SUBNETS = 5
    OWNER = 6
    PAUSE_EXPIRED = 7


@dataclass(frozen=True)
class AccountData:
    """Balances in units. ``flags`` marks the account as using the current balance logic."""

    free: U128 = 0
    reserved: U128 = 0
    frozen: U128 = 0
    flags: U128 = 1 << 127


@dataclass(frozen=True)
class AccountInfo:
    nonce: U32 = 0
    consumers: U32 = 0
    providers: U32 = 0
    sufficients: U32 = 0
    data: AccountData = AccountData()


@dataclass(frozen=True)
class PeerInfo:
    """A peer id's text and, optionally, a binary multiaddr that ends in /p2p."""

    peer_id: PeerIdText
    multiaddr: BoundedVector | None = None


@dataclass(frozen=True)
class DelegateAccount:
    account_id: AccountId
    rate: U128


@dataclass(frozen=True)
class RegistrationSubnetData:
    name: bytes
    repo: bytes
    description: bytes
    misc: bytes
    min_stake: U128
    max_stake: U128
    delegate_stake_percentage: U128
    initial_coldkeys: Mapping[AccountId, U32]
    bootnodes: Mapping[PeerIdText, BoundedVector]


@dataclass(frozen=True)
class SubnetData:
    """``start_epoch`` is a general epoch; 2**32 - 1 until the subnet is activated."""

    id: U32
    friendly_id: U32
    name: bytes
    repo: bytes
    description: bytes
    misc: bytes
    state: SubnetState
    start_epoch: U32


@dataclass(frozen=True)
class SubnetNodeClassification:
    """``start_epoch`` is a subnet epoch."""

    node_class: NodeClass = NodeClass.REGISTERED
    start_epoch: U32 = 0


@dataclass(frozen=True)
class SubnetNode:
    id: U32
    hotkey: AccountId
    peer_info: PeerInfo
    bootnode_peer_info: PeerInfo | None
    client_peer_info: PeerInfo | None
    classification: SubnetNodeClassification
    delegate_reward_rate: U128
    last_delegate_reward_rate_update: U32
    unique: BoundedVector | None
    non_unique: BoundedVector | None
    delegate_account: DelegateAccount | None

    def has_class(self, wanted: NodeClass, subnet_epoch: int) -> bool:
        """Whether the node is of at least this class in ``subnet_epoch``."""
        return (
            self.classification.node_class >= wanted
            and self.classification.start_epoch <= subnet_epoch
        )


NO_NODE = SubnetNode(
    0,
    NULL_ACCOUNT,
    PeerInfo(b""),
    None,
    None,
    SubnetNodeClassification(),
    0,
    0,
    None,
    None,
    None,
)
"""What the chain answers for a node that is not there."""


@dataclass(frozen=True)
class SubnetNodeConsensusData:
    subnet_node_id: U32
    score: U128


@dataclass(frozen=True)
class AttestEntry:
    """``attestor_progress`` and ``reward_factor`` are fixed point."""

    block: U32
    attestor_progress: U128
    reward_factor: U128
    data: BoundedArgs | None


@dataclass(frozen=True)
class ConsensusData:
    """One proposal: its proposer, block, snapshot of nodes, scores and attestations."""

    validator_id: U32
    block: U32
    validator_epoch_progress: U128
    validator_reward_factor: U128
    attests: Mapping[U32, AttestEntry]
    subnet_nodes: tuple[SubnetNode, ...]
    prioritize_queue_node_id: U32 | None
    remove_queue_node_id: U32 | None
    data: tuple[SubnetNodeConsensusData, ...]
    args: BoundedArgs | None


@dataclass(frozen=True)
class Reputation:
    """A coldkey's standing over all subnets."""

    start_epoch: U32 = 0
    score: U128 = ONE // 2
    lifetime_node_count: U32 = 0
    total_active_nodes: U32 = 0
    total_increases: U32 = 0
    total_decreases: U32 = 0
    average_attestation: U128 = 0
    last_validator_epoch: U32 = 0
    ow_score: U128 = ONE // 2000


@dataclass(frozen=True)
class ColdkeyIdentityData:
    """What the owner of a coldkey says about itself."""

    name: BoundedVector = b""
    url: BoundedVector = b""
    image: BoundedVector = b""
    discord: BoundedSocialId = b""
    x: BoundedSocialId = b""
    telegram: BoundedSocialId = b""
    github: BoundedVector = b""
    hugging_face: BoundedVector = b""
    description: BoundedVector = b""
    misc: BoundedVector = b""


@dataclass(frozen=True)
class DistributionData:
    """What one general epoch pays: units for validators, and each subnet's share."""

    validator_emissions: U128
    weights: Mapping[U32, U128]


@dataclass(frozen=True)
class SubnetWeightFactorsData:
    delegate_stake: U128 = ONE * 4 // 10
    node_count: U128 = ONE * 4 // 10
    net_flow: U128 = ONE * 2 // 10


@dataclass(frozen=True)
class EmergencySubnetValidatorData:
    """Whom the owner trusts for a while: they alone are elected and attest.

    The set ends after ``target_emergency_validators_epochs`` submissions, or with the subnet epoch
    ``max_emergency_validators_epoch``, which is 0 until the subnet goes on from its pause.
    """

    subnet_node_ids: tuple[U32, ...]
    target_emergency_validators_epochs: U32
    max_emergency_validators_epoch: U32
    total_epochs: U32


class SwapToSubnetDelegateStake(Variant, index=0):
    """Units on their way into a subnet's pool."""

    account_id: AccountId
    to_subnet_id: U32
    balance: U128


class SwapToNodeDelegateStake(Variant, index=1):
    """Units on their way into one node's pool."""

    account_id: AccountId
    to_subnet_id: U32
    to_subnet_node_id: U32
    balance: U128


QueuedSwapCall = SwapToSubnetDelegateStake | SwapToNodeDelegateStake
QueuedSwapCallType = Annotated[
    QueuedSwapCall,
    Variants(
        ("pallet_network", "pallet", "QueuedSwapCall"),
        (SwapToSubnetDelegateStake, SwapToNodeDelegateStake),
    ),
]


@dataclass(frozen=True)
class QueuedSwapItem:
    """A swap that waits; it runs ``execute_after_blocks`` after it was queued, or later."""

    id: U32
    call: QueuedSwapCallType
    queued_at_block: U32
    execute_after_blocks: U32
