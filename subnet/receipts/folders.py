"""Which node of this machine keeps the receipt that is asked for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from consensus.types import Epoch, SubnetId, SubnetNodeId
from subnet.errors import ConfigError, ReceiptNotKept, UsageError
from subnet.receipts.evidence import EpochEvidence
from subnet.receipts.store import list_epochs, read_receipt

_FOLDER = re.compile(r"(\d{1,10})-(\d{1,10})")


@dataclass(frozen=True, slots=True)
class NodeFolder:
    """The data folder of one node."""

    path: Path
    subnet_id: SubnetId
    node_id: SubnetNodeId


def find_folders(data_dir: Path, subnet_id: int | None = None) -> tuple[NodeFolder, ...]:
    """Return the folders of the nodes that keep their data below ``data_dir``.

    Raises ConfigError if there is none.
    """
    found = []
    for path in sorted(data_dir.iterdir()) if data_dir.is_dir() else ():
        named = _FOLDER.fullmatch(path.name)
        if named is not None and path.is_dir() and subnet_id in (None, int(named[1])):
            found.append(NodeFolder(path, SubnetId(int(named[1])), SubnetNodeId(int(named[2]))))
    if not found:
        which = "" if subnet_id is None else f" of subnet {subnet_id}"
        raise ConfigError(
            f"no node{which} has run with its data in {data_dir}",
            "start one with mesh-test, or give --data-dir",
        )
    return tuple(found)


def choose_folder(
    folders: tuple[NodeFolder, ...], node_id: int | None, epoch: Epoch | None
) -> NodeFolder:
    """Return the folder of the node itself, or else of one that keeps the epoch.

    Raises UsageError where several nodes have folders and none is asked for, or where nodes of
    several subnets have.
    """
    if len({folder.subnet_id for folder in folders}) > 1:
        subnets = ", ".join(str(n) for n in sorted({folder.subnet_id for folder in folders}))
        raise UsageError(f"nodes of several subnets keep data here: {subnets}", "give --subnet ID")
    own = [folder for folder in folders if folder.node_id == node_id]
    if own and (epoch is None or epoch in list_epochs(own[0].path)):
        return own[0]
    if node_id is None and len(folders) > 1:
        nodes = ", ".join(str(folder.node_id) for folder in folders)
        raise UsageError(
            f"several nodes keep data here: {nodes}",
            "name one: `mesh why EPOCH NODE`, or `mesh why last NODE`",
        )
    keeping = [f for f in folders if epoch is None or epoch in list_epochs(f.path)]
    return (keeping or own or list(folders))[0]


def load_evidence(folder: NodeFolder, epoch: Epoch | None) -> EpochEvidence:
    """Return what a node keeps of an epoch; None means the newest whose proposal is settled.

    Raises ConfigError where it keeps none at all, ReceiptNotKept, and ReceiptDamaged.
    """
    kept = list_epochs(folder.path)
    if not kept:
        raise ConfigError(
            f"node {folder.node_id} has kept no receipt yet",
            "ask again when an epoch in which it ran has been scored, one epoch later",
        )
    if epoch is None:
        newest = read_receipt(folder.path, kept[-1])
        is_last = newest.is_settled or len(kept) == 1
        return newest if is_last else read_receipt(folder.path, kept[-2])
    if epoch in kept:
        return read_receipt(folder.path, epoch)
    raise ReceiptNotKept(
        f"node {folder.node_id} keeps no receipt of epoch {epoch}: it has {len(kept)}, "
        f"of epochs {kept[0]} to {kept[-1]}",
        _explain_gap(epoch, kept),
    )


def check_node(evidence: EpochEvidence, node_id: SubnetNodeId) -> None:
    """Raise ConfigError for a node of which nothing is known in the epoch."""
    rosters = (evidence.roster, evidence.following)
    known = sorted({node.node_id for roster in rosters for node in roster.nodes})
    if node_id not in known and node_id != evidence.kept_by:
        raise ConfigError(
            f"the subnet had no node {node_id} in epoch {evidence.epoch}",
            f"name one of its nodes: {', '.join(map(str, known))}",
        )


def _explain_gap(epoch: Epoch, kept: tuple[Epoch, ...]) -> str:
    if epoch < kept[0]:
        return "older receipts are pruned; another node may keep it, or ask with --chain URL"
    if epoch > kept[-1]:
        return "an epoch is scored in the one after it: ask later, or with --chain URL"
    return "this node was not running then; another node may keep it, or ask with --chain URL"
