"""What is examined: the files, settings and chain of one node, running or not."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from consensus.protocol_params import MAINNET, ConsensusParams
from consensus.types import Role, SubnetId, SubnetNodeId
from keys.peer import PeerId
from subnet.doctor.finding import Finding

if TYPE_CHECKING:
    from subnet.chain.substrate import SubstrateChain

AskNode = Callable[[str], Awaitable[Finding]]
"""Has the running node make the check of that name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """What is known about the node. None and empty mean unknown.

    ``data_dir`` is the folder of all nodes, ``folder`` this node's in it. ``hotkey`` is the
    address of the hotkey with which a running node signs. ``addresses`` are those that it announced
    last.
    """

    data_dir: Path
    identity_path: Path
    folder: Path | None = None
    hotkey_path: Path | None = None
    hotkey: str | None = None
    chain_urls: tuple[str, ...] = ()
    peer_id: PeerId | None = None
    subnet_id: SubnetId | None = None
    node_id: SubnetNodeId | None = None
    role: Role | None = None
    model: str | None = None
    is_unpaid: bool = False
    host_maddrs: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the facts as they travel over the control socket."""
        return {
            "data_dir": str(self.data_dir),
            "identity_path": str(self.identity_path),
            "folder": _text(self.folder),
            "hotkey_path": _text(self.hotkey_path),
            "hotkey": self.hotkey,
            "chain_urls": list(self.chain_urls),
            "peer_id": _text(self.peer_id),
            "subnet_id": self.subnet_id,
            "node_id": self.node_id,
            "role": None if self.role is None else self.role.value,
            "model": self.model,
            "is_unpaid": self.is_unpaid,
            "host_maddrs": list(self.host_maddrs),
            "addresses": list(self.addresses),
        }


def parse_facts(raw: Mapping[str, Any]) -> NodeFacts:
    """Undo ``NodeFacts.to_json``. Raises KeyError, TypeError, ValueError or BadPeerId."""
    return NodeFacts(
        data_dir=Path(raw["data_dir"]),
        identity_path=Path(raw["identity_path"]),
        folder=_parse_path(raw["folder"]),
        hotkey_path=_parse_path(raw["hotkey_path"]),
        hotkey=None if raw["hotkey"] is None else str(raw["hotkey"]),
        chain_urls=tuple(map(str, raw["chain_urls"])),
        peer_id=None if raw["peer_id"] is None else PeerId.from_base58(raw["peer_id"]),
        subnet_id=None if raw["subnet_id"] is None else SubnetId(int(raw["subnet_id"])),
        node_id=None if raw["node_id"] is None else SubnetNodeId(int(raw["node_id"])),
        role=None if raw["role"] is None else Role(raw["role"]),
        model=None if raw["model"] is None else str(raw["model"]),
        is_unpaid=bool(raw["is_unpaid"]),
        host_maddrs=tuple(map(str, raw["host_maddrs"])),
        addresses=tuple(map(str, raw["addresses"])),
    )


@dataclass(frozen=True, slots=True)
class Subject:
    """One node under examination.

    ``chain`` is None where no endpoint answers, ``ask_node`` where no node runs.
    """

    facts: NodeFacts
    chain: SubstrateChain | None = None
    ask_node: AskNode | None = None
    params: ConsensusParams = MAINNET

    @property
    def is_running(self) -> bool:
        return self.ask_node is not None


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _parse_path(text: str | None) -> Path | None:
    return None if text is None else Path(text)
