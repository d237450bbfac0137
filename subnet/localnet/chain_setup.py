"""Register a local network on its chain: funds, subnet, nodes, activation, delegated stake."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from consensus.types import SubnetId, SubnetNodeId
from keys.account import DEVELOPMENT_MNEMONIC, AccountKey
from keys.identity_file import create_identity_file
from keys.peer import PeerId
from subnet.account.registration import (
    DEFAULT_MIN_STAKE,
    TENSOR,
    NodeRegistration,
    SubnetRegistration,
    activate_node,
    activate_subnet,
    delegate_stake,
    fetch_activation_rules,
    register_node,
    register_subnet,
    transfer_many,
)
from subnet.chain.manifest_hash import format_manifest_hash
from subnet.chain.substrate import SubstrateChain
from subnet.errors import ChainMismatch
from subnet.localnet.node_plan import OWNER_ACCOUNT, NodePlan

COLDKEY_FUNDS = DEFAULT_MIN_STAKE + 10 * TENSOR
HOTKEY_FUNDS = TENSOR
MAX_COST = 10_000 * TENSOR
"""The price of a subnet doubles with each one that a chain has seen."""
DELEGATED = 50 * TENSOR
"""Without any delegated stake the chain pays only the proposer."""


@dataclass(frozen=True, slots=True)
class NodeIdentity:
    """The peer ids and identity file of one planned node."""

    path: Path
    peer_id: PeerId
    bootnode_peer_id: PeerId
    client_peer_id: PeerId


def create_identities(directory: Path, nodes: Sequence[NodePlan]) -> Mapping[str, NodeIdentity]:
    """Write the identity files of every node and return them by the node's name."""
    from keys.identity_file import PEER_ID_FILE, create_identity_set

    identities = {}
    for node in nodes:
        made = create_identity_set(directory / node.name)
        identities[node.name] = NodeIdentity(
            path=directory / node.name / PEER_ID_FILE,
            peer_id=made.peer_id,
            bootnode_peer_id=made.bootstrap_peer_id,
            client_peer_id=made.client_peer_id,
        )
    return identities


def create_client_identity(directory: Path) -> Path:
    """Write the identity file of the client that asks the question."""
    path = directory / "client" / "client_peer_id.key"
    create_identity_file(path)
    return path


def derive_account(index: int) -> AccountKey:
    """Return one account below the development mnemonic."""
    return AccountKey.from_mnemonic(DEVELOPMENT_MNEMONIC, index=index)


async def register_everything(
    chain: SubstrateChain,
    nodes: Sequence[NodePlan],
    *,
    name: str = "localnet",
    identities: Mapping[str, NodeIdentity],
    manifest_hash: bytes,
    bootnode_address: str,
    say: Callable[[str], None],
) -> tuple[SubnetId, Mapping[str, SubnetNodeId]]:
    """Fund, register and activate the subnet ``name`` and every node; return their ids.

    Raises ExtrinsicFailed or ChainUnavailable.
    """
    owner = derive_account(OWNER_ACCOUNT)
    coldkeys = {node.name: derive_account(node.coldkey_account) for node in nodes}
    hotkeys = {node.name: derive_account(node.hotkey_account) for node in nodes}
    amounts = {key.account_id: COLDKEY_FUNDS for key in coldkeys.values()}
    amounts |= {key.account_id: HOTKEY_FUNDS for key in hotkeys.values()}
    await transfer_many(chain, sender=owner, amounts=amounts)
    say(f"funded {len(amounts)} accounts")
    registered = await register_subnet(
        chain,
        SubnetRegistration(
            name=name,
            repo=name,
            description="a local network",
            misc=format_manifest_hash(manifest_hash),
            initial_coldkeys={key.account_id: 1 for key in coldkeys.values()},
            bootnodes={str(identities[nodes[0].name].peer_id): bootnode_address},
            max_cost=MAX_COST,
        ),
        owner=owner,
    )
    subnet_id = registered.subnet_id
    is_automatic = (await fetch_activation_rules(chain)).is_automatic
    node_ids = {}
    for node in nodes:
        node_ids[node.name] = await _register_node(
            chain,
            subnet_id,
            identities[node.name],
            coldkey=coldkeys[node.name],
            hotkey=hotkeys[node.name].account_id,
            is_automatic=is_automatic,
        )
    say(f"registered subnet {subnet_id} and nodes {', '.join(map(str, node_ids.values()))}")
    if await chain.query(lambda s: s.runtime.has_call("Network", "add_to_delegate_stake")):
        await delegate_stake(chain, subnet_id=subnet_id, amount=DELEGATED, key=owner)
    if not (await activate_subnet(chain, subnet_id=subnet_id, owner=owner)).is_active:
        raise ChainMismatch("the chain removed the subnet instead of activating it")
    say(f"activated subnet {subnet_id}")
    return subnet_id, node_ids


async def _register_node(
    chain: SubstrateChain,
    subnet_id: SubnetId,
    identity: NodeIdentity,
    *,
    coldkey: AccountKey,
    hotkey: bytes,
    is_automatic: bool,
) -> SubnetNodeId:
    registered = await register_node(
        chain,
        NodeRegistration(
            subnet_id=subnet_id,
            hotkey=hotkey,
            peer_id=identity.peer_id,
            bootnode_peer_id=identity.bootnode_peer_id,
            client_peer_id=identity.client_peer_id,
        ),
        coldkey=coldkey,
    )
    if not is_automatic:
        await activate_node(chain, subnet_id=subnet_id, node_id=registered.node_id, coldkey=coldkey)
    return registered.node_id
