"""The functions of NetworkRuntimeApi, which state_call and network_* serve.

Field orders are those that were decoded from the real runtime's answers; they are
in no metadata.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, get_type_hints

from consensus.types import NodeClass
from devchain import storage
from devchain.chain_types import (
    AccountId,
    BoundedVector,
    ColdkeyIdentityData,
    DelegateAccount,
    PeerIdText,
    PeerInfo,
    Reputation,
    SubnetNode,
    SubnetNodeClassification,
    SubnetState,
)
from devchain.nodes import PEER_ID_ITEMS, find_node
from devchain.scale import (
    U8,
    U32,
    U128,
    Bool,
    ByteVec,
    Hash,
    ScaleType,
    TupleOf,
    decode_all,
    type_of,
)
from devchain.stake_pools import StakePool, node_pool, subnet_pool, to_balance
from devchain.state import Item, StateReader
from devchain.storage_keys import hash_key
from devchain.subnets import compute_min_delegate_stake

API_PREFIX = "NetworkRuntimeApi_"
API_ID = "0x648005601f2d50c7"
API_VERSION = 1


@dataclass(frozen=True)
class SubnetInfo:
    id: U32
    friendly_id: U32 | None
    name: bytes
    repo: bytes
    description: bytes
    misc: bytes
    state: SubnetState
    start_epoch: U32
    churn_limit: U32
    churn_limit_multiplier: U32
    min_stake: U128
    max_stake: U128
    queue_immunity_epochs: U32
    target_node_registrations_per_epoch: U32
    node_registrations_this_epoch: U32
    subnet_node_queue_epochs: U32
    idle_classification_epochs: U32
    included_classification_epochs: U32
    delegate_stake_percentage: U128
    last_delegate_stake_rewards_update: U32
    node_burn_rate_alpha: U128
    current_node_burn_rate: U128
    initial_coldkeys: Mapping[AccountId, U32] | None
    initial_coldkey_data: Mapping[AccountId, U32] | None
    max_registered_nodes: U32
    owner: AccountId | None
    pending_owner: AccountId | None
    registration_epoch: U32 | None
    prev_pause_epoch: U32
    slot_index: U32 | None
    slot_assignment: U32 | None
    min_weight_decrease_reputation_threshold: U128
    reputation: U128
    min_subnet_node_reputation: U128
    absent_decrease_reputation_factor: U128
    included_increase_reputation_factor: U128
    below_min_weight_decrease_reputation_factor: U128
    non_attestor_decrease_reputation_factor: U128
    non_consensus_attestor_decrease_reputation_factor: U128
    validator_absent_reputation_factor: U128
    validator_non_consensus_reputation_factor: U128
    bootnode_access: frozenset[AccountId]
    bootnodes: Mapping[PeerIdText, BoundedVector]
    total_nodes: U32
    total_active_nodes: U32
    total_electable_nodes: U32
    current_min_delegate_stake: U128
    total_subnet_stake: U128
    total_subnet_delegate_stake_shares: U128
    total_subnet_delegate_stake_balance: U128


@dataclass(frozen=True)
class SubnetNodeInfo:
    subnet_id: U32
    subnet_node_id: U32
    coldkey: AccountId
    hotkey: AccountId
    peer_info: PeerInfo
    bootnode_peer_info: PeerInfo | None
    client_peer_info: PeerInfo | None
    delegate_account: DelegateAccount | None
    identity: ColdkeyIdentityData
    classification: SubnetNodeClassification
    delegate_reward_rate: U128
    last_delegate_reward_rate_update: U32
    unique: BoundedVector | None
    non_unique: BoundedVector | None
    stake_balance: U128
    total_node_delegate_stake_shares: U128
    node_delegate_stake_balance: U128
    coldkey_reputation: Reputation
    subnet_node_reputation: U128
    node_slot_index: U32 | None
    consecutive_idle_epochs: U32
    consecutive_included_epochs: U32


@dataclass(frozen=True)
class AllSubnetBootnodes:
    subnet_bootnodes: Mapping[PeerIdText, BoundedVector]
    node_bootnodes: Mapping[PeerIdText, BoundedVector | None]
    registered_bootnodes: Mapping[PeerIdText, BoundedVector | None]


@dataclass(frozen=True)
class StakeInfo:
    subnet_id: U32 | None
    subnet_node_id: U32 | None
    hotkey: AccountId
    balance: U128


@dataclass(frozen=True)
class DelegateStakeInfo:
    subnet_id: U32
    shares: U128
    balance: U128


@dataclass(frozen=True)
class NodeDelegateStakeInfo:
    subnet_id: U32
    subnet_node_id: U32
    shares: U128
    balance: U128


@dataclass(frozen=True)
class View:
    """The chain's state at one block."""

    state: StateReader
    block: int
    epoch_length: int

    def subnet_epoch(self, subnet_id: int) -> int:
        slot = self.state.find(storage.SUBNET_SLOT, subnet_id) or 0
        return max(0, self.block - slot) // self.epoch_length


_SUBNET_ITEMS: dict[str, Item[Any]] = {
    "churn_limit": storage.CHURN_LIMIT,
    "churn_limit_multiplier": storage.CHURN_LIMIT_MULTIPLIER,
    "min_stake": storage.SUBNET_MIN_STAKE_BALANCE,
    "max_stake": storage.SUBNET_MAX_STAKE_BALANCE,
    "queue_immunity_epochs": storage.QUEUE_IMMUNITY_EPOCHS,
    "target_node_registrations_per_epoch": storage.TARGET_NODE_REGISTRATIONS_PER_EPOCH,
    "node_registrations_this_epoch": storage.NODE_REGISTRATIONS_THIS_EPOCH,
    "subnet_node_queue_epochs": storage.SUBNET_NODE_QUEUE_EPOCHS,
    "idle_classification_epochs": storage.IDLE_CLASSIFICATION_EPOCHS,
    "included_classification_epochs": storage.INCLUDED_CLASSIFICATION_EPOCHS,
    "delegate_stake_percentage": storage.SUBNET_DELEGATE_STAKE_REWARDS_PERCENTAGE,
    "last_delegate_stake_rewards_update": storage.LAST_SUBNET_DELEGATE_STAKE_REWARDS_UPDATE,
    "node_burn_rate_alpha": storage.NODE_BURN_RATE_ALPHA,
    "current_node_burn_rate": storage.CURRENT_NODE_BURN_RATE,
    "max_registered_nodes": storage.MAX_REGISTERED_NODES,
    "prev_pause_epoch": storage.PREVIOUS_SUBNET_PAUSE_EPOCH,
    "min_weight_decrease_reputation_threshold": storage.NODE_MIN_WEIGHT_THRESHOLD,
    "reputation": storage.SUBNET_REPUTATION,
    "min_subnet_node_reputation": storage.MIN_SUBNET_NODE_REPUTATION,
    "absent_decrease_reputation_factor": storage.ABSENT_DECREASE,
    "included_increase_reputation_factor": storage.INCLUDED_INCREASE,
    "below_min_weight_decrease_reputation_factor": storage.BELOW_MIN_WEIGHT_DECREASE,
    "non_attestor_decrease_reputation_factor": storage.NON_ATTESTOR_DECREASE,
    "non_consensus_attestor_decrease_reputation_factor": storage.NON_CONSENSUS_ATTESTOR_DECREASE,
    "validator_absent_reputation_factor": storage.VALIDATOR_ABSENT_DECREASE,
    "validator_non_consensus_reputation_factor": storage.VALIDATOR_NON_CONSENSUS_DECREASE,
    "bootnode_access": storage.SUBNET_BOOTNODE_ACCESS,
    "bootnodes": storage.SUBNET_BOOTNODES,
    "total_nodes": storage.TOTAL_SUBNET_NODES,
    "total_active_nodes": storage.TOTAL_ACTIVE_SUBNET_NODES,
    "total_electable_nodes": storage.TOTAL_SUBNET_ELECTABLE_NODES,
    "total_subnet_stake": storage.TOTAL_SUBNET_STAKE,
    "total_subnet_delegate_stake_shares": storage.TOTAL_SUBNET_DELEGATE_STAKE_SHARES,
    "total_subnet_delegate_stake_balance": storage.TOTAL_SUBNET_DELEGATE_STAKE_BALANCE,
    "friendly_id": storage.SUBNET_ID_FRIENDLY_UID,
    "initial_coldkeys": storage.SUBNET_REGISTRATION_INITIAL_COLDKEYS,
    "initial_coldkey_data": storage.INITIAL_COLDKEY_DATA,
    "owner": storage.SUBNET_OWNER,
    "pending_owner": storage.PENDING_SUBNET_OWNER,
    "registration_epoch": storage.SUBNET_REGISTRATION_EPOCH,
    "slot_index": storage.SUBNET_SLOT,
    # The runtime looks the slot up under the subnet's id, so it finds none; neither do we.
    "slot_assignment": storage.SLOT_ASSIGNMENT,
}


def _read(state: StateReader, item: Item[Any], *key: Any) -> Any:
    return state.find(item, *key) if item.is_optional else state.get(item, *key)


def get_subnet_info(view: View, subnet_id: U32) -> SubnetInfo | None:
    """Return everything about one subnet."""
    state = view.state
    subnet = state.find(storage.SUBNETS_DATA, subnet_id)
    if subnet is None:
        return None
    described = {field.name: getattr(subnet, field.name) for field in fields(subnet)}
    stored = {name: _read(state, item, subnet_id) for name, item in _SUBNET_ITEMS.items()}
    minimum = compute_min_delegate_stake(state, subnet_id)
    return SubnetInfo(**{**described, **stored}, current_min_delegate_stake=minimum)


def get_all_subnets_info(view: View) -> tuple[SubnetInfo, ...]:
    """Return every subnet."""
    found = (get_subnet_info(view, key[0]) for key, _ in view.state.items(storage.SUBNETS_DATA))
    return tuple(info for info in found if info is not None)


def get_subnet_node_info(view: View, subnet_id: U32, node_id: U32) -> SubnetNodeInfo | None:
    """Return everything about one node, active or waiting."""
    state, node = view.state, find_node(view.state, subnet_id, node_id)
    if node is None:
        return None
    coldkey, pool = state.get(storage.HOTKEY_OWNER, node.hotkey), node_pool(subnet_id, node_id)
    return SubnetNodeInfo(
        subnet_id=subnet_id,
        subnet_node_id=node_id,
        coldkey=coldkey,
        hotkey=node.hotkey,
        peer_info=node.peer_info,
        bootnode_peer_info=node.bootnode_peer_info,
        client_peer_info=node.client_peer_info,
        delegate_account=node.delegate_account,
        identity=state.get(storage.COLDKEY_IDENTITY, coldkey),
        classification=node.classification,
        delegate_reward_rate=node.delegate_reward_rate,
        last_delegate_reward_rate_update=node.last_delegate_reward_rate_update,
        unique=node.unique,
        non_unique=node.non_unique,
        stake_balance=state.get(storage.ACCOUNT_SUBNET_STAKE, node.hotkey, subnet_id),
        total_node_delegate_stake_shares=state.get(pool.shares, *pool.key),
        node_delegate_stake_balance=state.get(pool.balance, *pool.key),
        coldkey_reputation=state.get(storage.COLDKEY_REPUTATION, coldkey),
        subnet_node_reputation=state.get(storage.SUBNET_NODE_REPUTATION, subnet_id, node_id),
        node_slot_index=state.find(storage.NODE_SLOT_INDEX, subnet_id, node_id),
        consecutive_idle_epochs=state.get(storage.IDLE_CONSECUTIVE_EPOCHS, subnet_id, node_id),
        consecutive_included_epochs=state.get(
            storage.CONSECUTIVE_INCLUDED_EPOCHS, subnet_id, node_id
        ),
    )


def _infos(view: View, ids: list[tuple[int, int]]) -> tuple[SubnetNodeInfo, ...]:
    found = (get_subnet_node_info(view, subnet_id, node_id) for subnet_id, node_id in ids)
    return tuple(info for info in found if info is not None)


def get_subnet_nodes_info(view: View, subnet_id: U32) -> tuple[SubnetNodeInfo, ...]:
    """Return a subnet's nodes, waiting ones too, in the order of their hotkeys' hashes."""
    entries = list(view.state.items(storage.HOTKEY_SUBNET_NODE_ID, subnet_id))
    entries.sort(key=lambda entry: hash_key(storage.HOTKEY_SUBNET_NODE_ID, entry[0]))
    return _infos(view, [(subnet_id, node_id) for _, node_id in entries])


def get_all_subnet_nodes_info(view: View) -> tuple[SubnetNodeInfo, ...]:
    """Return the nodes of every subnet."""
    subnets = [key[0] for key, _ in view.state.items(storage.SUBNETS_DATA)]
    return tuple(info for subnet in subnets for info in get_subnet_nodes_info(view, subnet))


def get_elected_validator_info(view: View, subnet_id: U32, epoch: U32) -> SubnetNodeInfo | None:
    """Return the node that was elected for a subnet epoch."""
    elected = view.state.find(storage.SUBNET_ELECTED_VALIDATOR, subnet_id, epoch)
    return None if elected is None else get_subnet_node_info(view, subnet_id, elected)


def get_validators_and_attestors(view: View, subnet_id: U32) -> tuple[SubnetNodeInfo, ...]:
    """Return the emergency set, or else the electable nodes in the order of their slots."""
    emergency = view.state.find(storage.EMERGENCY_SUBNET_NODE_ELECTION_DATA, subnet_id)
    slots = view.state.get(storage.SUBNET_NODE_ELECTION_SLOTS, subnet_id)
    if emergency is not None:
        slots = emergency.subnet_node_ids
    return _infos(view, [(subnet_id, node_id) for node_id in slots])


def get_coldkey_subnet_nodes_info(view: View, coldkey: AccountId) -> tuple[SubnetNodeInfo, ...]:
    """Return the nodes of one coldkey's hotkeys."""
    state = view.state
    ids = []
    hotkeys = state.get(storage.COLDKEY_HOTKEYS, coldkey)
    for hotkey in sorted(hotkeys):
        subnet_id = state.find(storage.HOTKEY_SUBNET_ID, hotkey)
        if subnet_id is not None:
            node_id = state.find(storage.HOTKEY_SUBNET_NODE_ID, subnet_id, hotkey)
            if node_id is not None:
                ids.append((subnet_id, node_id))
    return _infos(view, ids)


def get_coldkey_stakes(view: View, coldkey: AccountId) -> tuple[StakeInfo, ...]:
    """Return the stakes of one coldkey's nodes."""
    state = view.state
    stakes = []
    for subnet_id, node_ids in sorted(state.get(storage.COLDKEY_SUBNET_NODES, coldkey).items()):
        for node_id in sorted(node_ids):
            hotkey = state.find(storage.SUBNET_NODE_ID_HOTKEY, subnet_id, node_id)
            if hotkey is not None:
                balance = state.get(storage.ACCOUNT_SUBNET_STAKE, hotkey, subnet_id)
                stakes.append(StakeInfo(subnet_id, node_id, hotkey, balance))
    return tuple(stakes)


def _worth(state: StateReader, pool: StakePool, shares: int) -> int:
    return to_balance(
        shares,
        total_shares=state.get(pool.shares, *pool.key),
        total_balance=state.get(pool.balance, *pool.key),
    )


def get_delegate_stakes(view: View, account: AccountId) -> tuple[DelegateStakeInfo, ...]:
    """Return what an account has delegated to subnets, and what it is worth."""
    entries = view.state.items(storage.ACCOUNT_SUBNET_DELEGATE_STAKE_SHARES, account)
    return tuple(
        DelegateStakeInfo(key[1], shares, _worth(view.state, subnet_pool(key[1]), shares))
        for key, shares in entries
    )


def get_node_delegate_stakes(view: View, account: AccountId) -> tuple[NodeDelegateStakeInfo, ...]:
    """Return what an account has delegated to nodes, and what it is worth."""
    entries = view.state.items(storage.ACCOUNT_NODE_DELEGATE_STAKE_SHARES, account)
    return tuple(
        NodeDelegateStakeInfo(
            key[1], key[2], shares, _worth(view.state, node_pool(key[1], key[2]), shares)
        )
        for key, shares in entries
    )


def get_bootnodes(view: View, subnet_id: U32) -> AllSubnetBootnodes:
    """Return official bootnodes and those that nodes announce with an address."""
    state = view.state

    def announced(item: Item[SubnetNode]) -> dict[bytes, bytes | None]:
        infos = (node.bootnode_peer_info for _, node in state.items(item, subnet_id))
        return {info.peer_id: info.multiaddr for info in infos if info and info.multiaddr}

    return AllSubnetBootnodes(
        state.get(storage.SUBNET_BOOTNODES, subnet_id),
        announced(storage.SUBNET_NODES_DATA),
        announced(storage.REGISTERED_SUBNET_NODES_DATA),
    )


def proof_of_stake(
    view: View, subnet_id: U32, peer_id: bytes, min_class: U8, min_stake: U128 | None
) -> bool:
    """Whether the peer id is that of a node with class and stake, or an official bootnode."""
    state = view.state
    if not state.contains(storage.SUBNETS_DATA, subnet_id) or min_class > NodeClass.VALIDATOR:
        return False
    wanted = NodeClass(min_class)
    if min_stake is None:
        min_stake = state.get(storage.SUBNET_MIN_STAKE_BALANCE, subnet_id)
    for item in PEER_ID_ITEMS:
        node_id = state.find(item, subnet_id, peer_id)
        if node_id is not None and _has_stake(view, subnet_id, node_id, wanted, min_stake):
            return True
    return peer_id in state.get(storage.SUBNET_BOOTNODES, subnet_id)


def _has_stake(view: View, subnet_id: int, node_id: int, wanted: NodeClass, min_stake: int) -> bool:
    state = view.state
    node = state.find(storage.SUBNET_NODES_DATA, subnet_id, node_id)
    if node is None and wanted is NodeClass.REGISTERED:
        node = state.find(storage.REGISTERED_SUBNET_NODES_DATA, subnet_id, node_id)
    if node is None or not node.has_class(wanted, view.subnet_epoch(subnet_id)):
        return False
    return state.get(storage.ACCOUNT_SUBNET_STAKE, node.hotkey, subnet_id) >= min_stake


def get_overwatch_commits_for_epoch_and_node(
    _view: View, _epoch: U32, _node_id: U32
) -> tuple[tuple[U32, Hash], ...]:
    """Answer that there are none: this chain has no overwatch nodes."""
    return ()


def get_overwatch_reveals_for_epoch_and_node(
    _view: View, _epoch: U32, _node_id: U32
) -> tuple[tuple[U32, U128], ...]:
    """Answer that there are none: this chain has no overwatch nodes."""
    return ()


def get_all_overwatch_nodes_info(_view: View) -> tuple[U32, ...]:
    """Answer that there are none: this chain has no overwatch nodes."""
    return ()


@dataclass(frozen=True)
class Function:
    """One function of the API. Its annotations are the SCALE types of arguments and result."""

    run: Callable[..., Any]
    arguments: tuple[ScaleType, ...]
    result: ScaleType

    @classmethod
    def from_annotations(cls, function: Callable[..., Any]) -> Function:
        """Read the types of everything but the first argument, the view."""
        hints = get_type_hints(function, include_extras=True)
        _view, *arguments, result = hints.values()
        return cls(function, tuple(map(type_of, arguments)), type_of(result))


FUNCTIONS: dict[str, Function] = {
    function.__name__: Function.from_annotations(function)
    for function in (
        get_subnet_info,
        get_all_subnets_info,
        get_subnet_node_info,
        get_subnet_nodes_info,
        get_all_subnet_nodes_info,
        proof_of_stake,
        get_bootnodes,
        get_coldkey_subnet_nodes_info,
        get_coldkey_stakes,
        get_delegate_stakes,
        get_node_delegate_stakes,
        get_overwatch_commits_for_epoch_and_node,
        get_overwatch_reveals_for_epoch_and_node,
        get_elected_validator_info,
        get_validators_and_attestors,
        get_all_overwatch_nodes_info,
    )
}


def call_function(view: View, name: str, data: bytes) -> bytes:
    """Run one function on encoded arguments; return the encoded answer.

    All but proof_of_stake answer with bytes that hold the encoding. Raises KeyError
    for an unknown function and ScaleError for bad arguments.
    """
    function = FUNCTIONS[name]
    arguments = decode_all(TupleOf(function.arguments), data)
    encoded = function.result.encode(function.run(view, *arguments))
    return encoded if function.result == Bool() else ByteVec().encode(encoded)
