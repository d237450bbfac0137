"""Every storage item of the chain: its name, keys, value and default.

Names, hashers and defaults are the Hoskinson runtime's metadata; the items under
"original flow" exist only here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from devchain.chain_types import (
    NO_NODE,
    NULL_ACCOUNT,
    ONE,
    TENSOR,
    AccountId,
    AccountInfo,
    BoundedVector,
    ColdkeyIdentityData,
    ConsensusData,
    DistributionData,
    EmergencySubnetValidatorData,
    PeerIdText,
    QueuedSwapItem,
    Reputation,
    SubnetData,
    SubnetNode,
    SubnetWeightFactorsData,
)
from devchain.scale import I128, U32, U64, U128, Hash, type_of
from devchain.state import Hasher, Item, KeyPart, by_blake2, by_identity

_U32 = by_identity(U32)
_TWOX_U32 = KeyPart(Hasher.TWOX_64_CONCAT, type_of(U32))
_ACCOUNT = by_blake2(AccountId)
_PEER = by_blake2(PeerIdText)
_BYTES = by_blake2(bytes)
_VECTOR = by_blake2(BoundedVector)


def _network(name: str, annotation: Any, *keys: KeyPart, default: Any = None) -> Item[Any]:
    return Item("Network", name, type_of(annotation), keys, default)


def _plain_u32(name: str, default: int) -> Item[int]:
    return _network(name, U32, default=default)


def _plain_u128(name: str, default: int) -> Item[int]:
    return _network(name, U128, default=default)


def _subnet_u32(name: str, default: int | None = None) -> Item[int]:
    return _network(name, U32, _U32, default=default)


def _subnet_u128(name: str, default: int) -> Item[int]:
    return _network(name, U128, _U32, default=default)


def _node_u32(name: str, default: int | None = None) -> Item[int]:
    return _network(name, U32, _U32, _U32, default=default)


def _node_u128(name: str, default: int) -> Item[int]:
    return _network(name, U128, _U32, _U32, default=default)


def _node_id_by(name: str, key: KeyPart) -> Item[int]:
    """An item that names a subnet's node by something of its own; 0 is no node."""
    return _network(name, U32, _U32, key, default=0)


# System, Timestamp and Balances.
ACCOUNT: Item[AccountInfo] = Item(
    "System", "Account", type_of(AccountInfo), (_ACCOUNT,), AccountInfo()
)
BLOCK_NUMBER: Item[int] = Item("System", "Number", type_of(U32), default=0)
BLOCK_HASH: Item[bytes] = Item("System", "BlockHash", type_of(Hash), (_TWOX_U32,), bytes(32))
PARENT_HASH: Item[bytes] = Item("System", "ParentHash", type_of(Hash), default=bytes(32))
EXTRINSIC_COUNT: Item[int] = Item("System", "ExtrinsicCount", type_of(U32))
NOW: Item[int] = Item("Timestamp", "Now", type_of(U64), default=0)
TOTAL_ISSUANCE: Item[int] = Item("Balances", "TotalIssuance", type_of(U128), default=0)

# Subnets.
TOTAL_SUBNET_UIDS = _plain_u32("TotalSubnetUids", 128_000)
SUBNET_NET_FLOW: Item[int] = _network("SubnetNetFlow", I128, _U32, default=0)
SUBNET_ID_FRIENDLY_UID = _subnet_u32("SubnetIdFriendlyUid")
FRIENDLY_UID_SUBNET_ID = _subnet_u32("FriendlyUidSubnetId")
TOTAL_SUBNETS = _plain_u32("TotalSubnets", 0)
TOTAL_ACTIVE_SUBNETS = _plain_u32("TotalActiveSubnets", 0)
SUBNETS_DATA: Item[SubnetData] = _network("SubnetsData", SubnetData, _U32)
SUBNET_REGISTRATION_EPOCH = _subnet_u32("SubnetRegistrationEpoch")
PENDING_SUBNET_OWNER: Item[bytes] = _network("PendingSubnetOwner", AccountId, _U32)
SUBNET_OWNER: Item[bytes] = _network("SubnetOwner", AccountId, _U32)
SUBNET_PAUSE_COOLDOWN_EPOCHS = _plain_u32("SubnetPauseCooldownEpochs", 21_900)
MAX_SUBNET_PAUSE_EPOCHS = _plain_u32("MaxSubnetPauseEpochs", 2190)
MIN_SUBNET_REMOVAL_INTERVAL = _plain_u32("MinSubnetRemovalInterval", 10)
MAX_SUBNET_REMOVAL_INTERVAL = _plain_u32("MaxSubnetRemovalInterval", 10)
PREVIOUS_SUBNET_PAUSE_EPOCH = _subnet_u32("PreviousSubnetPauseEpoch", 0)
PREV_SUBNET_ACTIVATION_EPOCH = _plain_u32("PrevSubnetActivationEpoch", 0)
LAST_REGISTRATION_COST = _plain_u128("LastRegistrationCost", TENSOR)
MIN_REGISTRATION_COST = _plain_u128("MinRegistrationCost", TENSOR // 10)
LAST_SUBNET_REGISTRATION_BLOCK = _plain_u32("LastSubnetRegistrationBlock", 0)
REGISTRATION_COST_DECAY_BLOCKS = _plain_u32("RegistrationCostDecayBlocks", 438_290)
REGISTRATION_COST_ALPHA = _plain_u128("RegistrationCostAlpha", ONE // 2)
NEW_REGISTRATION_COST_MULTIPLIER = _plain_u128("NewRegistrationCostMultiplier", 2 * ONE)
SUBNET_SLOT = _subnet_u32("SubnetSlot")
SLOT_ASSIGNMENT = _subnet_u32("SlotAssignment")
ASSIGNED_SLOTS: Item[frozenset[int]] = _network(
    "AssignedSlots", frozenset[U32], default=frozenset()
)
SUBNET_REGISTRATION_EPOCHS = _plain_u32("SubnetRegistrationEpochs", 5053)
MIN_SUBNET_REGISTRATION_EPOCHS = _plain_u32("MinSubnetRegistrationEpochs", 720)
SUBNET_ENACTMENT_EPOCHS = _plain_u32("SubnetEnactmentEpochs", 2526)
DELEGATE_STAKE_SUBNET_REMOVAL_INTERVAL = _plain_u32("DelegateStakeSubnetRemovalInterval", 2)
MAX_SUBNETS = _plain_u32("MaxSubnets", 64)
MAX_SUBNET_BOOTNODE_ACCESS = _plain_u32("MaxSubnetBootnodeAccess", 21)
MAX_BOOTNODES = _plain_u32("MaxBootnodes", 32)
MIN_SUBNET_NODES = _plain_u32("MinSubnetNodes", 3)
MAX_SUBNET_NODES = _plain_u32("MaxSubnetNodes", 256)
SUBNET_NAME: Item[int] = _network("SubnetName", U32, _BYTES)
SUBNET_REPO: Item[int] = _network("SubnetRepo", U32, _BYTES)
SUBNET_BOOTNODES: Item[Mapping[bytes, bytes]] = _network(
    "SubnetBootnodes", Mapping[PeerIdText, BoundedVector], _U32, default={}
)
SUBNET_BOOTNODE_ACCESS: Item[frozenset[bytes]] = _network(
    "SubnetBootnodeAccess", frozenset[AccountId], _U32, default=frozenset()
)
SUBNET_REGISTRATION_INITIAL_COLDKEYS: Item[Mapping[bytes, int]] = _network(
    "SubnetRegistrationInitialColdkeys", Mapping[AccountId, U32], _U32
)
INITIAL_COLDKEY_DATA: Item[Mapping[bytes, int]] = _network(
    "InitialColdkeyData", Mapping[AccountId, U32], _U32
)
LAST_SUBNET_DELEGATE_STAKE_REWARDS_UPDATE = _subnet_u32("LastSubnetDelegateStakeRewardsUpdate", 0)

# Per-subnet settings.
CHURN_LIMIT = _subnet_u32("ChurnLimit", 4)
CHURN_LIMIT_MULTIPLIER = _subnet_u32("ChurnLimitMultiplier", 1)
SUBNET_NODE_QUEUE_EPOCHS = _subnet_u32("SubnetNodeQueueEpochs", 3)
IDLE_CLASSIFICATION_EPOCHS = _subnet_u32("IdleClassificationEpochs", 2)
INCLUDED_CLASSIFICATION_EPOCHS = _subnet_u32("IncludedClassificationEpochs", 2)
QUEUE_IMMUNITY_EPOCHS = _subnet_u32("QueueImmunityEpochs", 3)
MAX_REGISTERED_NODES = _subnet_u32("MaxRegisteredNodes", 64)
TARGET_NODE_REGISTRATIONS_PER_EPOCH = _subnet_u32("TargetNodeRegistrationsPerEpoch", 64)
NODE_REGISTRATIONS_THIS_EPOCH = _subnet_u32("NodeRegistrationsThisEpoch", 0)
SUBNET_MIN_STAKE_BALANCE = _subnet_u128("SubnetMinStakeBalance", 100 * TENSOR)
SUBNET_MAX_STAKE_BALANCE = _subnet_u128("SubnetMaxStakeBalance", 1000 * TENSOR)
SUBNET_DELEGATE_STAKE_REWARDS_PERCENTAGE = _subnet_u128(
    "SubnetDelegateStakeRewardsPercentage", ONE // 10
)
CURRENT_NODE_BURN_RATE = _subnet_u128("CurrentNodeBurnRate", ONE)
NODE_BURN_RATE_ALPHA = _subnet_u128("NodeBurnRateAlpha", ONE // 2)
BASE_NODE_BURN_AMOUNT = _plain_u128("BaseNodeBurnAmount", TENSOR // 100_000)
MIN_NODE_BURN_RATE = _plain_u128("MinNodeBurnRate", ONE)
MAX_NODE_BURN_RATE = _plain_u128("MaxNodeBurnRate", 5 * ONE)
MIN_SUBNET_MIN_STAKE = _plain_u128("MinSubnetMinStake", 100 * TENSOR)
MAX_SUBNET_MIN_STAKE = _plain_u128("MaxSubnetMinStake", 250 * TENSOR)
NETWORK_MAX_STAKE_BALANCE = _plain_u128("NetworkMaxStakeBalance", 1000 * TENSOR)
MIN_DELEGATE_STAKE_PERCENTAGE = _plain_u128("MinDelegateStakePercentage", ONE * 5 // 100)
MAX_DELEGATE_STAKE_PERCENTAGE = _plain_u128("MaxDelegateStakePercentage", ONE * 95 // 100)
MIN_CHURN_LIMIT = _plain_u32("MinChurnLimit", 1)
MAX_CHURN_LIMIT = _plain_u32("MaxChurnLimit", 64)
MIN_CHURN_LIMIT_MULTIPLIER = _plain_u32("MinChurnLimitMultiplier", 1)
MAX_CHURN_LIMIT_MULTIPLIER = _plain_u32("MaxChurnLimitMultiplier", 5053)
MIN_QUEUE_EPOCHS = _plain_u32("MinQueueEpochs", 3)
MAX_QUEUE_EPOCHS = _plain_u32("MaxQueueEpochs", 21_900)
MIN_IDLE_CLASSIFICATION_EPOCHS = _plain_u32("MinIdleClassificationEpochs", 1)
MAX_IDLE_CLASSIFICATION_EPOCHS = _plain_u32("MaxIdleClassificationEpochs", 5053)
MIN_INCLUDED_CLASSIFICATION_EPOCHS = _plain_u32("MinIncludedClassificationEpochs", 1)
MAX_INCLUDED_CLASSIFICATION_EPOCHS = _plain_u32("MaxIncludedClassificationEpochs", 5053)
MIN_MAX_REGISTERED_NODES = _plain_u32("MinMaxRegisteredNodes", 1)
MAX_MAX_REGISTERED_NODES = _plain_u32("MaxMaxRegisteredNodes", 64)
MAX_DELEGATE_PERCENTAGE_CHANGE = _plain_u128(
    "MaxSubnetDelegateStakeRewardsPercentageChange", ONE * 2 // 100
)
DELEGATE_PERCENTAGE_UPDATE_PERIOD = _plain_u32("SubnetDelegateStakeRewardsUpdatePeriod", 14_400)
MAX_MIN_DELEGATE_STAKE_MULTIPLIER = _plain_u128("MaxMinDelegateStakeMultiplier", 4 * ONE)
TX_PAUSE: Item[bool] = _network("TxPause", bool, default=False)
TX_RATE_LIMIT = _plain_u32("TxRateLimit", 0)
LAST_TX_BLOCK: Item[int] = _network("LastTxBlock", U32, by_identity(AccountId), default=0)

# Nodes.
TOTAL_SUBNET_NODE_UIDS = _subnet_u32("TotalSubnetNodeUids", 0)
TOTAL_NODES = _plain_u32("TotalNodes", 0)
TOTAL_ACTIVE_NODES = _plain_u32("TotalActiveNodes", 0)
TOTAL_SUBNET_NODES = _subnet_u32("TotalSubnetNodes", 0)
TOTAL_ACTIVE_SUBNET_NODES = _subnet_u32("TotalActiveSubnetNodes", 0)
TOTAL_SUBNET_ELECTABLE_NODES = _subnet_u32("TotalSubnetElectableNodes", 0)
TOTAL_ELECTABLE_NODES = _plain_u32("TotalElectableNodes", 0)
SUBNET_NODES_DATA: Item[SubnetNode] = _network(
    "SubnetNodesData", SubnetNode, _U32, _U32, default=NO_NODE
)
REGISTERED_SUBNET_NODES_DATA: Item[SubnetNode] = _network(
    "RegisteredSubnetNodesData", SubnetNode, _U32, _U32, default=NO_NODE
)
SUBNET_NODE_QUEUE: Item[tuple[SubnetNode, ...]] = _network(
    "SubnetNodeQueue", tuple[SubnetNode, ...], _U32, default=()
)
SUBNET_NODE_ELECTION_SLOTS: Item[tuple[int, ...]] = _network(
    "SubnetNodeElectionSlots", tuple[U32, ...], _U32, default=()
)
NODE_SLOT_INDEX = _node_u32("NodeSlotIndex")
IDLE_CONSECUTIVE_EPOCHS = _node_u32("SubnetNodeIdleConsecutiveEpochs", 0)
CONSECUTIVE_INCLUDED_EPOCHS = _node_u32("SubnetNodeConsecutiveIncludedEpochs", 0)
HOTKEY_OWNER: Item[bytes] = _network("HotkeyOwner", AccountId, _ACCOUNT, default=NULL_ACCOUNT)
HOTKEY_SUBNET_ID: Item[int] = _network("HotkeySubnetId", U32, _ACCOUNT)
COLDKEY_HOTKEYS: Item[frozenset[bytes]] = _network(
    "ColdkeyHotkeys", frozenset[AccountId], _ACCOUNT, default=frozenset()
)
COLDKEY_SUBNET_NODES: Item[Mapping[int, frozenset[int]]] = _network(
    "ColdkeySubnetNodes", Mapping[U32, frozenset[U32]], _ACCOUNT, default={}
)
HOTKEY_SUBNET_NODE_ID: Item[int] = _network("HotkeySubnetNodeId", U32, _U32, _ACCOUNT)
SUBNET_NODE_ID_HOTKEY: Item[bytes] = _network("SubnetNodeIdHotkey", AccountId, _U32, _U32)
PEER_ID_SUBNET_NODE_ID = _node_id_by("PeerIdSubnetNodeId", _PEER)
BOOTNODE_PEER_ID_SUBNET_NODE_ID = _node_id_by("BootnodePeerIdSubnetNodeId", _PEER)
CLIENT_PEER_ID_SUBNET_NODE_ID = _node_id_by("ClientPeerIdSubnetNodeId", _PEER)
MULTIADDR_SUBNET_NODE_ID = _node_id_by("MultiaddrSubnetNodeId", _VECTOR)
UNIQUE_PARAM_SUBNET_NODE_ID = _node_id_by("UniqueParamSubnetNodeId", _VECTOR)

# Consensus.
SUBNET_ELECTED_VALIDATOR = _node_u32("SubnetElectedValidator")
SUBNET_CONSENSUS_SUBMISSION: Item[ConsensusData] = _network(
    "SubnetConsensusSubmission", ConsensusData, _U32, _U32
)
EMERGENCY_SUBNET_NODE_ELECTION_DATA: Item[EmergencySubnetValidatorData] = _network(
    "EmergencySubnetNodeElectionData", EmergencySubnetValidatorData, _U32
)
MAX_EMERGENCY_SUBNET_NODES = _plain_u32("MaxEmergencySubnetNodes", 64)
MAX_EMERGENCY_VALIDATOR_EPOCHS_MULTIPLIER = _plain_u128(
    "MaxEmergencyValidatorEpochsMultiplier", 2 * ONE
)
MIN_ATTESTATION_PERCENTAGE = _plain_u128("MinAttestationPercentage", ONE * 66 // 100)
SUPER_MAJORITY_ATTESTATION_RATIO = _plain_u128("SuperMajorityAttestationRatio", ONE * 875 // 1000)
FINAL_SUBNET_EMISSION_WEIGHTS: Item[DistributionData] = _network(
    "FinalSubnetEmissionWeights", DistributionData, _U32, default=DistributionData(0, {})
)
BASE_VALIDATOR_REWARD = _plain_u128("BaseValidatorReward", TENSOR)
VALIDATOR_REWARD_K: Item[int] = _network("ValidatorRewardK", U64, default=20)
VALIDATOR_REWARD_MIDPOINT = _plain_u128("ValidatorRewardMidpoint", ONE // 2)
ATTESTOR_REWARD_EXPONENT: Item[int] = _network("AttestorRewardExponent", U64, default=10)
ATTESTOR_MIN_REWARD_FACTOR = _plain_u128("AttestorMinRewardFactor", ONE * 33 // 100)
BASE_SLASH_PERCENTAGE = _plain_u128("BaseSlashPercentage", ONE * 3125 // 100_000)
MAX_SLASH_AMOUNT = _plain_u128("MaxSlashAmount", TENSOR)
SUBNET_OWNER_PERCENTAGE = _plain_u128("SubnetOwnerPercentage", ONE * 23 // 100)
SUBNET_DISTRIBUTION_POWER = _plain_u128("SubnetDistributionPower", ONE * 75 // 100)
SUBNET_WEIGHT_FACTORS: Item[SubnetWeightFactorsData] = _network(
    "SubnetWeightFactors", SubnetWeightFactorsData, default=SubnetWeightFactorsData()
)
INFLATION_SIGMOID_MIDPOINT = _plain_u128("InflationSigmoidMidpoint", ONE // 2)
INFLATION_SIGMOID_STEEPNESS = _plain_u128("InflationSigmoidSteepness", 7)

# Reputation.
SUBNET_REPUTATION = _subnet_u128("SubnetReputation", ONE)
MIN_SUBNET_REPUTATION = _plain_u128("MinSubnetReputation", ONE // 10)
LESS_THAN_MIN_NODES_SUBNET_REPUTATION_FACTOR = _plain_u128(
    "LessThanMinNodesSubnetReputationFactor", ONE // 8
)
NOT_IN_CONSENSUS_SUBNET_REPUTATION_FACTOR = _plain_u128(
    "NotInConsensusSubnetReputationFactor", ONE // 8
)
VALIDATOR_ABSENT_SUBNET_REPUTATION_FACTOR = _plain_u128(
    "ValidatorAbsentSubnetReputationFactor", ONE // 20
)
IN_CONSENSUS_SUBNET_REPUTATION_FACTOR = _plain_u128("InConsensusSubnetReputationFactor", ONE // 8)
SUBNET_NODE_REPUTATION = _node_u128("SubnetNodeReputation", ONE)
MIN_SUBNET_NODE_REPUTATION = _subnet_u128("MinSubnetNodeReputation", ONE // 10)
NODE_MIN_WEIGHT_THRESHOLD = _subnet_u128("SubnetNodeMinWeightDecreaseReputationThreshold", 0)
ABSENT_DECREASE = _subnet_u128("AbsentDecreaseReputationFactor", ONE // 10)
INCLUDED_INCREASE = _subnet_u128("IncludedIncreaseReputationFactor", ONE // 10)
BELOW_MIN_WEIGHT_DECREASE = _subnet_u128("BelowMinWeightDecreaseReputationFactor", ONE // 10)
NON_ATTESTOR_DECREASE = _subnet_u128("NonAttestorDecreaseReputationFactor", ONE // 10)
NON_CONSENSUS_ATTESTOR_DECREASE = _subnet_u128(
    "NonConsensusAttestorDecreaseReputationFactor", ONE // 10
)
VALIDATOR_ABSENT_DECREASE = _subnet_u128("ValidatorAbsentDecreaseReputationFactor", ONE // 20)
VALIDATOR_NON_CONSENSUS_DECREASE = _subnet_u128(
    "ValidatorNonConsensusSubnetNodeReputationFactor", ONE // 20
)
MAX_PAUSE_EPOCHS_SUBNET_REPUTATION_FACTOR = _plain_u128(
    "MaxPauseEpochsSubnetReputationFactor", ONE // 8
)
MAX_NODE_MIN_WEIGHT_THRESHOLD = _plain_u128(
    "MaxSubnetNodeMinWeightDecreaseReputationThreshold", ONE // 10
)
MIN_NODE_REPUTATION_FACTOR = _plain_u128("MinNodeReputationFactor", ONE // 20)
MAX_NODE_REPUTATION_FACTOR = _plain_u128("MaxNodeReputationFactor", ONE // 2)
MIN_MIN_SUBNET_NODE_REPUTATION = _plain_u128("MinMinSubnetNodeReputation", ONE // 20)
MAX_MIN_SUBNET_NODE_REPUTATION = _plain_u128("MaxMinSubnetNodeReputation", ONE // 2)
COLDKEY_REPUTATION: Item[Reputation] = _network(
    "ColdkeyReputation", Reputation, _ACCOUNT, default=Reputation()
)
COLDKEY_REPUTATION_INCREASE_FACTOR = _plain_u128("ColdkeyReputationIncreaseFactor", ONE // 2000)
COLDKEY_REPUTATION_DECREASE_FACTOR = _plain_u128("ColdkeyReputationDecreaseFactor", ONE // 2)

# Stake.
TOTAL_STAKE = _plain_u128("TotalStake", 0)
TOTAL_SUBNET_STAKE = _subnet_u128("TotalSubnetStake", 0)
ACCOUNT_SUBNET_STAKE: Item[int] = _network("AccountSubnetStake", U128, _ACCOUNT, _U32, default=0)
TOTAL_DELEGATE_STAKE = _plain_u128("TotalDelegateStake", 0)
TOTAL_SUBNET_DELEGATE_STAKE_SHARES = _subnet_u128("TotalSubnetDelegateStakeShares", 0)
TOTAL_SUBNET_DELEGATE_STAKE_BALANCE = _subnet_u128("TotalSubnetDelegateStakeBalance", 0)
MIN_SUBNET_DELEGATE_STAKE_FACTOR = _plain_u128("MinSubnetDelegateStakeFactor", ONE // 1000)

ACCOUNT_SUBNET_DELEGATE_STAKE_SHARES: Item[int] = _network(
    "AccountSubnetDelegateStakeShares", U128, _ACCOUNT, _U32, default=0
)
TOTAL_NODE_DELEGATE_STAKE = _plain_u128("TotalNodeDelegateStake", 0)
TOTAL_NODE_DELEGATE_STAKE_SHARES = _node_u128("TotalNodeDelegateStakeShares", 0)
TOTAL_NODE_DELEGATE_STAKE_BALANCE = _node_u128("TotalNodeDelegateStakeBalance", 0)
ACCOUNT_NODE_DELEGATE_STAKE_SHARES: Item[int] = _network(
    "AccountNodeDelegateStakeShares", U128, _ACCOUNT, _U32, _U32, default=0
)
ACCOUNT_DELEGATE_STAKE: Item[int] = _network("AccountDelegateStake", U128, _ACCOUNT, default=0)
TOTAL_ACCOUNT_DELEGATE_STAKE = _plain_u128("TotalAccountDelegateStake", 0)
NODE_DELEGATE_STAKE_COOLDOWN_EPOCHS = _plain_u32("NodeDelegateStakeCooldownEpochs", 1)
NODE_REWARD_RATE_UPDATE_PERIOD = _plain_u32("NodeRewardRateUpdatePeriod", 14_400)
MAX_REWARD_RATE_DECREASE = _plain_u128("MaxRewardRateDecrease", ONE // 10**11)
MIN_DELEGATE_STAKE_DEPOSIT = _plain_u128("MinDelegateStakeDeposit", 1000)
DELEGATE_STAKE_COOLDOWN_EPOCHS = _plain_u32("DelegateStakeCooldownEpochs", 1)
STAKE_COOLDOWN_EPOCHS = _plain_u32("StakeCooldownEpochs", 4)
MIN_ACTIVE_NODE_STAKE_EPOCHS = _plain_u32("MinActiveNodeStakeEpochs", 720)
MAX_UNBONDINGS = _plain_u32("MaxUnbondings", 32)
STAKE_UNBONDING_LEDGER: Item[Mapping[int, int]] = _network(
    "StakeUnbondingLedger", Mapping[U32, U128], _ACCOUNT, default={}
)
TOTAL_UNBONDING_BALANCE = _plain_u128("TotalUnbondingBalance", 0)
SWAP_QUEUE_ORDER: Item[tuple[int, ...]] = _network("SwapQueueOrder", tuple[U32, ...], default=())
SWAP_CALL_QUEUE: Item[QueuedSwapItem] = _network("SwapCallQueue", QueuedSwapItem, _U32)
NEXT_SWAP_QUEUE_ID = _plain_u32("NextSwapQueueId", 0)
MAX_SWAP_QUEUE_CALLS_PER_BLOCK = _plain_u32("MaxSwapQueueCallsPerBlock", 16)

# Identities.
COLDKEY_IDENTITY: Item[ColdkeyIdentityData] = _network(
    "ColdkeyIdentity", ColdkeyIdentityData, _ACCOUNT, default=ColdkeyIdentityData()
)
COLDKEY_IDENTITY_NAME_OWNER: Item[bytes] = _network(
    "ColdkeyIdentityNameOwner", AccountId, _BYTES, default=NULL_ACCOUNT
)

# The original flow: how many subnet epochs after its start epoch a node may still be activated.
ACTIVATION_GRACE_EPOCHS = _subnet_u32("ActivationGraceEpochs", 2)

ALL_ITEMS: tuple[Item[Any], ...] = tuple(
    value for value in list(globals().values()) if isinstance(value, Item)
)
HOSKINSON_GENESIS: Mapping[str, int] = {
    "MinSubnetRegistrationEpochs": 0,
    "DelegateStakeCooldownEpochs": 1,
    "NodeDelegateStakeCooldownEpochs": 1,
    "StakeCooldownEpochs": 1,
    "MinActiveNodeStakeEpochs": 1,
    "SubnetDelegateStakeRewardsUpdatePeriod": 0,
    "NodeRewardRateUpdatePeriod": 0,
    "MinSubnetDelegateStakeFactor": 0,
    "MaxMinDelegateStakeMultiplier": ONE,
    "SubnetPauseCooldownEpochs": 0,
}
"""Parameters that the test network's genesis sets away from the metadata defaults."""


def get_item(pallet: str, name: str) -> Item[Any]:
    """Return an item by its metadata name. Raises KeyError."""
    for item in ALL_ITEMS:
        if (item.pallet, item.name) == (pallet, name):
            return item
    raise KeyError(f"{pallet}.{name}")
