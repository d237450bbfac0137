"""The shapes of the Network pallet that this client knows, told apart by their metadata.

The Hoskinson runtime and the development chain give each node a hotkey. The tree of June
2026 gives each node a validator, and the validator a hotkey and a coldkey; its
propose_attestation and attest name the node. Everything else is found by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from consensus.roster import RosterNode
from consensus.types import SubnetId, SubnetNodeId
from subnet.chain import parsing
from subnet.errors import ChainMismatch

if TYPE_CHECKING:
    from subnet.chain.chain_session import ChainSession
    from subnet.chain.codec import Runtime

Rows = Sequence[Mapping[str, Any]]
"""Decoded SubnetNode structs."""
Keys = Iterable[tuple[Any, Any]]
"""The hotkey and the coldkey of each row, in the chain's form."""


class Shape:
    """What differs between runtimes. ``storage`` holds the items that tell a shape."""

    name: str
    storage: tuple[str, ...]

    def read_nodes(
        self, session: ChainSession, subnet_id: SubnetId, *, at: str
    ) -> tuple[RosterNode, ...]:
        """Return the activated nodes in the state of block hash ``at``, sorted by id."""
        rows = [row for _, row in session.read_map("Network.SubnetNodesData", subnet_id, at=at)]
        keys = self._read_keys(session, subnet_id, rows, at)
        nodes = (
            parsing.parse_roster_node(row, hotkey=hotkey, coldkey=coldkey)
            for row, (hotkey, coldkey) in zip(rows, keys, strict=True)
        )
        return tuple(sorted(nodes, key=lambda node: node.node_id))

    def _read_keys(self, session: ChainSession, subnet_id: SubnetId, rows: Rows, at: str) -> Keys:
        """Return the hotkey and the coldkey of each row."""
        raise NotImplementedError


class HotkeyShape(Shape):
    """Each node has its own hotkey (Hoskinson, and the original flow)."""

    name = "a hotkey for each node"
    storage = ("Network.HotkeyOwner", "Network.HotkeySubnetNodeId")

    def _read_keys(self, session: ChainSession, subnet_id: SubnetId, rows: Rows, at: str) -> Keys:
        hotkeys = [row["hotkey"] for row in rows]
        return zip(hotkeys, session.read_many("Network.HotkeyOwner", hotkeys, at=at), strict=True)


class ValidatorShape(Shape):
    """Each node belongs to a validator, whose hotkey signs unless the node overrides it."""

    name = "a validator for each node"
    storage = (
        "Network.ValidatorIdHotkey",
        "Network.ValidatorColdkey",
        "Network.SubnetNodeIdHotkey",
    )

    def _read_keys(self, session: ChainSession, subnet_id: SubnetId, rows: Rows, at: str) -> Keys:
        validators = [row["validator_id"] for row in rows]
        hotkeys = session.read_many("Network.ValidatorIdHotkey", validators, at=at)
        own = dict(session.read_map("Network.SubnetNodeIdHotkey", subnet_id, at=at))
        signing = [own.get(row["id"], hotkey) for row, hotkey in zip(rows, hotkeys, strict=True)]
        coldkeys = session.read_many("Network.ValidatorColdkey", validators, at=at)
        return zip(signing, coldkeys, strict=True)


_SHAPES: tuple[Shape, ...] = (HotkeyShape(), ValidatorShape())


def choose_shape(runtime: Runtime) -> Shape:
    """Return the shape of a runtime. Raises ChainMismatch for one that is unknown."""
    for shape in _SHAPES:
        if all(runtime.has_storage(*name.split(".")) for name in shape.storage):
            return shape
    known = " or ".join(shape.name for shape in _SHAPES)
    raise ChainMismatch(f"the runtime's nodes are of an unknown shape: this client knows {known}")


def add_own_node(
    session: ChainSession,
    call: str,
    arguments: Mapping[str, object],
    *,
    hotkey: bytes,
    node_id: SubnetNodeId | None,
) -> Mapping[str, object]:
    """Return the arguments with ``subnet_node_id`` where the runtime's call wants it.

    Raises ChainMismatch if the hotkey signs for none or for several nodes and ``node_id`` does
    not say for which.
    """
    if "subnet_node_id" not in session.runtime.get_call_arguments("Network", call):
        return arguments
    subnet_id = SubnetId(int(str(arguments["subnet_id"])))
    if node_id is None:
        shape = choose_shape(session.runtime)
        nodes = shape.read_nodes(session, subnet_id, at=session.read_head_hash())
        found = [node.node_id for node in nodes if node.hotkey == hotkey]
        if len(found) != 1:
            names = ", ".join(map(str, found)) or "none"
            raise ChainMismatch(
                f"the hotkey signs for these nodes of subnet {subnet_id}: {names};"
                " say which one with --subnet_node_id"
            )
        node_id = found[0]
    return {**arguments, "subnet_node_id": node_id}
