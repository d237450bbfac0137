"""Checks everything about a node that is cheap to check, before anything slow starts.

The order is fixed: identity file, other local files, ports, device, chain, registration, model
files, layer range. The first error ends the start with one sentence and one fix.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from consensus.protocol_params import MAINNET
from consensus.types import LayerRange, Role, SubnetId, SubnetNodeId
from keys.account import AccountKey
from keys.identity_file import load_identity_file
from keys.peer import PeerId, PeerKey
from mesh.errors import ModelFilesMissing
from mesh.model.capacity import ServingFormat, check_device, compute_layer_bytes
from mesh.model.config import ModelConfig, load_config
from mesh.model.files import ModelFolder, check_has_weights, resolve_known_model
from mesh.p2p.ports import PortInUse, check_ports_free
from subnet.chain.manifest_hash import parse_manifest_hash
from subnet.errors import ConfigError, NotRegistered, UnknownSubnet
from subnet.operator.access import Rank, load_priority, load_rules
from subnet.operator.config import NodeConfig
from subnet.operator.passwords import open_keystore

if TYPE_CHECKING:
    from subnet.account.registration import RegisteredNode
    from subnet.chain.substrate import SubstrateChain

NO_HOTKEY_NOTICE = (
    "no --hotkey-path: this node serves, commits and reveals, but neither proposes nor attests"
)
UNPAID_NOTICE = (
    "--unpaid: this node serves clients and takes no part in consensus: "
    "it commits nothing, scores no node and is paid nothing"
)


LIGHT_NOTICE = "--light: this validator audits nothing and is paid for its scores only"


@dataclass(frozen=True, slots=True)
class PreparedNode:
    """A node whose inputs hold.

    ``layers`` is None for a validator, and for a hoster that chooses its range itself once it
    knows the swarm. ``rank`` says whom the operator serves first.
    """

    config: NodeConfig
    key: PeerKey
    hotkey: AccountKey | None
    subnet_id: SubnetId
    node_id: SubnetNodeId
    folder: ModelFolder
    model: ModelConfig
    layers: LayerRange | None
    data_dir: Path
    notices: tuple[str, ...]
    rank: Rank | None = None


async def prepare(config: NodeConfig, *, hotkey: AccountKey | None = None) -> PreparedNode:
    """Check ``config`` in the promised order. ``hotkey`` stands in for its keystore file.

    Raises KeysError, ConfigError, ChainError, NotRegistered, ModelError or DeviceUnavailable.
    """
    key = load_identity_file(config.identity_path)
    hotkey = hotkey or _load_hotkey(config)
    load_rules(config.allow_file, config.deny_file)
    rank = None if config.priority is None else load_priority(config.priority)
    check_private_directory(get_data_dir(config))
    _check_ports(config)
    if not config.light:
        check_device(config.device)
    subnet_id, node = await _find_registration(config, key.peer_id)
    notices = _collect_notices(config, node, hotkey)
    folder = resolve_known_model(config.model)
    model = load_config(folder.source)
    if config.role is Role.HOSTER:
        check_has_weights(folder)
    else:
        notices += (_check_audits(config, folder, model),)
    return PreparedNode(
        config=config,
        key=key,
        hotkey=hotkey,
        subnet_id=subnet_id,
        node_id=node.node_id,
        folder=folder,
        model=model,
        layers=choose_blocks(config, model),
        data_dir=get_data_dir(config) / f"{subnet_id}-{node.node_id}",
        notices=notices,
        rank=rank,
    )


def _check_audits(config: NodeConfig, folder: ModelFolder, model: ModelConfig) -> str:
    """Return the sentence that tells what a validator will read. Raises ConfigError."""
    if config.light:
        return LIGHT_NOTICE
    try:
        # An audit has seconds, so nothing is downloaded for it.
        check_has_weights(replace(folder, hub_name=None))
    except ModelFilesMissing as error:
        raise ConfigError(
            f"a validator audits single blocks, and {folder.path} has no *.safetensors weights",
            "download the whole model, or give --light to audit nothing",
        ) from error
    mib = -(-compute_layer_bytes(model, ServingFormat("float32")) // (1 << 20))
    return (
        f"audits: in each epoch this validator reads {MAINNET.audit_layers} of the model's "
        f"{model.num_layers} blocks, or its head, from {folder.path} and computes it on "
        f"{config.device}, in about {mib} MiB; --light leaves that out"
    )


def choose_blocks(config: NodeConfig, model: ModelConfig) -> LayerRange | None:
    """Return the range that the operator names; None if there is none or the node chooses it.

    Raises LayerRangeOutsideModel.
    """
    if config.num_layers is not None:
        model.check_layer_range(0, config.num_layers)
    layers = config.layer_indices
    if layers is not None:
        model.check_layer_range(layers.start, layers.end)
    return layers


def get_data_dir(config: NodeConfig) -> Path:
    """Return the folder of journals: ``--data-dir``, or the user's data folder."""
    if config.data_dir is not None:
        return config.data_dir
    from platformdirs import user_data_path

    return user_data_path("mesh")


def _load_hotkey(config: NodeConfig) -> AccountKey | None:
    if config.hotkey_path is None:
        return None
    return open_keystore(config.hotkey_path, config.hotkey_password_file)


def _check_ports(config: NodeConfig) -> None:
    try:
        check_ports_free(config.get_host_maddrs())
    except PortInUse as error:
        raise ConfigError(
            f"cannot listen on {error}", "stop the other process or choose another port"
        ) from error


async def _find_registration(
    config: NodeConfig, peer_id: PeerId
) -> tuple[SubnetId, RegisteredNode]:
    from subnet.chain.substrate import SubstrateChain

    async with SubstrateChain.open(config.chain_url) as chain:
        subnet_id = await _find_subnet(chain, config, peer_id)
        node = await _find_node(chain, config, subnet_id, peer_id)
        subnet = await chain.fetch_subnet(subnet_id)
    if subnet is None:
        raise UnknownSubnet(f"subnet {subnet_id} is gone from {config.chain_url}")
    # Without a manifest there is nothing to compare the weights with.
    parse_manifest_hash(subnet.misc, subnet_id=subnet_id)
    return subnet_id, node


async def _find_subnet(chain: SubstrateChain, config: NodeConfig, peer_id: PeerId) -> SubnetId:
    from subnet.account.registration import find_subnet, find_subnet_of_peer

    if config.subnet is not None:
        found = await find_subnet(chain, config.subnet)
        if found is None:
            raise UnknownSubnet(f"there is no subnet {config.subnet} on {config.chain_url}")
        return found
    subnets = await find_subnet_of_peer(chain, peer_id)
    if not subnets:
        raise NotRegistered(f"no node with peer id {peer_id} is registered on {config.chain_url}")
    if len(subnets) > 1:
        raise ConfigError(
            f"peer id {peer_id} is registered in several subnets: {subnets}", "give --subnet"
        )
    return subnets[0]


async def _find_node(
    chain: SubstrateChain, config: NodeConfig, subnet_id: SubnetId, peer_id: PeerId
) -> RegisteredNode:
    from subnet.account.registration import fetch_registered_node, find_node_by_peer_id

    node_id = (
        SubnetNodeId(config.subnet_node_id)
        if config.subnet_node_id is not None
        else await find_node_by_peer_id(chain, subnet_id=subnet_id, peer_id=peer_id)
    )
    if node_id is None:
        raise NotRegistered(f"no node with peer id {peer_id} is registered in subnet {subnet_id}")
    node = await fetch_registered_node(chain, subnet_id=subnet_id, node_id=node_id)
    if node is None:
        raise NotRegistered(f"node {node_id} is not registered in subnet {subnet_id}")
    if node.peer_id != peer_id:
        raise NotRegistered(
            f"node {node_id} of subnet {subnet_id} is registered to peer {node.peer_id}, "
            f"but the identity file is of peer {peer_id}"
        )
    return node


def _collect_notices(
    config: NodeConfig, node: RegisteredNode, hotkey: AccountKey | None
) -> tuple[str, ...]:
    if config.unpaid:
        return (UNPAID_NOTICE,)
    if hotkey is None:
        return (NO_HOTKEY_NOTICE,)
    if hotkey.account_id != node.hotkey:
        raise NotRegistered(
            f"node {node.node_id} is registered with hotkey 0x{node.hotkey.hex()}, "
            f"but the keystore is of {hotkey.address}"
        )
    return ()


def check_private_directory(path: Path) -> None:
    """Raise ConfigError if ``path`` is no writable folder and cannot become one. Makes nothing."""
    try:
        existing = next(place for place in (path, *path.absolute().parents) if place.exists())
        is_usable = existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)
    except OSError:
        is_usable = False
    if not is_usable:
        raise ConfigError(f"the data folder {path} cannot be written", "choose another --data-dir")


def make_private_directory(path: Path) -> None:
    """Create ``path`` for this user only. Raises ConfigError."""
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.chmod(path, 0o700)
    except OSError as error:
        raise ConfigError(
            f"cannot use the data folder {path}: {error.strerror}", "choose another --data-dir"
        ) from error
