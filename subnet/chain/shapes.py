"""The shapes of the Network pallet that this client knows, told apart by their metadata.

The Hoskinson runtime and the development chain give each node a hotkey. The tree of June
2026 gives each node a validator, and the validator a hotkey and a coldkey; its
propose_attestation and attest name the node. Everything else is found by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from consensus.roster import RosterNode
from consensus.types import SubnetId, SubnetNodeId
from subnet.chain import parsing
from subnet.errors import ChainMismatch

if TYPE_CHECKING:
    from subnet.chain.codec import Runtime


class Reader(Protocol):
    """What a shape reads with; a session satisfies it."""

    runtime: Runtime

    def read_head_hash(self) -> str: ...

    def read(self, item: str, *params: object, at: str | None, default: bool = False) -> Any: ...

    def read_map(self, item: str, *params: object, at: str) -> list[tuple[Any, Any]]: ...

    def read_many(self, item: str, keys: Sequence[object], *, at: str) -> list[Any]: ...


class Shape(Protocol):
    """What differs between runtimes."""

    name: str

    def read_nodes(self, reader: Reader, subnet_id: SubnetId, *, at: str) -> tuple[RosterNode, ...]:
        """Return the activated nodes in the state of block hash ``at``, sorted by id."""
        ...

    def find_nodes(
        self, reader: Reader, subnet_id: SubnetId, hotkey: bytes, *, at: str
    ) -> tuple[SubnetNodeId, ...]:
        """Return the ids of the nodes for which ``hotkey`` signs."""
        ...


class HotkeyShape:
    """Each node has its own hotkey (Hoskinson, and the original flow)."""

    name = "a hotkey for each node"

    def read_nodes(self, reader: Reader, subnet_id: SubnetId, *, at: str) -> tuple[RosterNode, ...]:
        rows = _read_rows(reader, subnet_id, at=at)
        coldkeys = reader.read_many("Network.HotkeyOwner", [row["hotkey"] for row in rows], at=at)
        nodes = (
            parsing.parse_roster_node(row, hotkey=row["hotkey"], coldkey=coldkey)
            for row, coldkey in zip(rows, coldkeys, strict=True)
        )
        return tuple(sorted(nodes, key=lambda node: node.node_id))

    def find_nodes(
        self, reader: Reader, subnet_id: SubnetId, hotkey: bytes, *, at: str
    ) -> tuple[SubnetNodeId, ...]:
        node_id = reader.read("Network.HotkeySubnetNodeId", subnet_id, f"0x{hotkey.hex()}", at=at)
        return () if node_id is None else (SubnetNodeId(node_id),)


class ValidatorShape:
    """Each node belongs to a validator, whose hotkey signs unless the node overrides it."""

    name = "a validator for each node"

    def read_nodes(self, reader: Reader, subnet_id: SubnetId, *, at: str) -> tuple[RosterNode, ...]:
        rows = _read_rows(reader, subnet_id, at=at)
        validators = [row["validator_id"] for row in rows]
        hotkeys = reader.read_many("Network.ValidatorIdHotkey", validators, at=at)
        coldkeys = reader.read_many("Network.ValidatorColdkey", validators, at=at)
        own = dict(reader.read_map("Network.SubnetNodeIdHotkey", subnet_id, at=at))
        nodes = (
            parsing.parse_roster_node(row, hotkey=own.get(row["id"], hotkey), coldkey=coldkey)
            for row, hotkey, coldkey in zip(rows, hotkeys, coldkeys, strict=True)
        )
        return tuple(sorted(nodes, key=lambda node: node.node_id))

    def find_nodes(
        self, reader: Reader, subnet_id: SubnetId, hotkey: bytes, *, at: str
    ) -> tuple[SubnetNodeId, ...]:
        return tuple(
            node.node_id
            for node in self.read_nodes(reader, subnet_id, at=at)
            if node.hotkey == hotkey
        )


_SHAPES: tuple[tuple[Shape, tuple[str, ...]], ...] = (
    (HotkeyShape(), ("Network.HotkeyOwner", "Network.HotkeySubnetNodeId")),
    (
        ValidatorShape(),
        ("Network.ValidatorIdHotkey", "Network.ValidatorColdkey", "Network.SubnetNodeIdHotkey"),
    ),
)


def choose_shape(runtime: Runtime) -> Shape:
    """Return the shape of a runtime. Raises ChainMismatch for one that is unknown."""
    for shape, storage in _SHAPES:
        if all(runtime.has_storage(*name.split(".")) for name in storage):
            return shape
    known = " or ".join(shape.name for shape, _ in _SHAPES)
    raise ChainMismatch(f"the runtime's nodes are of an unknown shape: this client knows {known}")


def add_own_node(
    reader: Reader,
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
    if "subnet_node_id" not in reader.runtime.get_call_arguments("Network", call):
        return arguments
    subnet_id = SubnetId(int(str(arguments["subnet_id"])))
    if node_id is None:
        shape = choose_shape(reader.runtime)
        found = shape.find_nodes(reader, subnet_id, hotkey, at=reader.read_head_hash())
        if len(found) != 1:
            names = ", ".join(str(found_id) for found_id in found) or "none"
            raise ChainMismatch(
                f"the hotkey signs for these nodes of subnet {subnet_id}: {names};"
                " say which one with --subnet_node_id"
            )
        node_id = found[0]
    return {**arguments, "subnet_node_id": node_id}


def _read_rows(reader: Reader, subnet_id: SubnetId, *, at: str) -> list[dict[str, Any]]:
    return [row for _, row in reader.read_map("Network.SubnetNodesData", subnet_id, at=at)]
