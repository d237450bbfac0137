"""A registered, active subnet on a development chain, and the files of its nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from consensus.types import SubnetId, SubnetNodeId
from keys.keystore import create_keystore
from keys.peer import PeerId
from keys.secret_file import create_secret_file
from subnet.chain.substrate import SubstrateChain
from subnet.localnet.chain_setup import create_identities, derive_account, register_everything
from subnet.localnet.node_plan import NodePlan

PASSWORD = "correct horse"
CHEAP = 1 << 4
"""scrypt's N for a keystore that guards nothing."""


@dataclass(frozen=True)
class NodeFiles:
    """One registered node: its ids, and the files that an operator would have."""

    name: str
    node_id: SubnetNodeId
    peer_id: PeerId
    identity: Path
    hotkey: Path
    password: Path
    hotkey_account: bytes
    data_dir: Path

    def journal(self) -> Path:
        """Return the journal's path, once the node has run."""
        (path,) = self.data_dir.glob("*/journal.sqlite")
        return path


@dataclass(frozen=True)
class Network:
    """One active subnet and its nodes, in the order of the plan."""

    subnet_id: SubnetId
    nodes: tuple[NodeFiles, ...]


async def register_network(
    chain: SubstrateChain,
    plan: Sequence[NodePlan],
    directory: Path,
    *,
    manifest_hash: bytes,
) -> Network:
    """Fund, register and activate everything; write identities and keystores."""
    identities = create_identities(directory, plan)
    subnet_id, node_ids = await register_everything(
        chain,
        plan,
        identities=identities,
        manifest_hash=manifest_hash,
        bootnode_address="/ip4/127.0.0.1/tcp/31330",
        say=print,
    )
    nodes = []
    for node in plan:
        place, hotkey = directory / node.name, derive_account(node.hotkey_account)
        create_keystore(place / "hotkey.json", hotkey, PASSWORD, work_factor=CHEAP)
        create_secret_file(place / "password", f"{PASSWORD}\n".encode())
        nodes.append(
            NodeFiles(
                name=node.name,
                node_id=node_ids[node.name],
                peer_id=identities[node.name].peer_id,
                identity=identities[node.name].path,
                hotkey=place / "hotkey.json",
                password=place / "password",
                hotkey_account=hotkey.account_id,
                data_dir=place / "data",
            )
        )
    return Network(subnet_id, tuple(nodes))
