"""A subnet at one block as columns with one entry per node; read from the chain or a file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from consensus.submission import Submission
from consensus.types import BlockNumber, Epoch, NodeClass, SubnetId, compute_epoch_position
from keys.errors import BadPeerId
from keys.peer import PeerId
from subnet.account.overview import NodeOverview, fetch_overview
from subnet.chain.substrate import SubstrateChain
from subnet.errors import ConfigError

if TYPE_CHECKING:
    from subnet.chain.chain_session import ChainSession

FORMAT = "mesh-metagraph-1"
MAX_FILE_SIZE = 16 * 1024 * 1024
# What reading other people's JSON can trip over.
_MALFORMED = (KeyError, TypeError, ValueError, OverflowError, AttributeError, BadPeerId)
ACCOUNT_SIZE = 20


@dataclass(frozen=True, slots=True)
class Metagraph:
    """The nodes of one subnet, sorted by id; every column has one entry for each node.

    Amounts, reputations and scores are exact integers at 10^18 in columns of Python ints, because
    64 bits do not hold them. ``scores`` are those last proposed, in ``scores_epoch`` (-1 if none
    were), and -1 for a node that was left out.
    """

    subnet_id: SubnetId
    name: str
    block: BlockNumber
    block_hash: bytes
    scores_epoch: int
    node_ids: NDArray[np.uint32]
    classes: NDArray[np.uint8]
    is_queued: NDArray[np.bool_]
    start_epochs: NDArray[np.uint32]
    stakes: NDArray[np.object_]
    reputations: NDArray[np.object_]
    scores: NDArray[np.object_]
    attested: NDArray[np.bool_]
    hotkeys: tuple[bytes, ...]
    coldkeys: tuple[bytes, ...]
    peer_ids: tuple[PeerId | None, ...]

    def __len__(self) -> int:
        return len(self.node_ids)

    def get_index(self, node_id: int) -> int:
        """Return the row of a node. Raises KeyError."""
        found = np.flatnonzero(self.node_ids == node_id)
        if not len(found):
            raise KeyError(node_id)
        return int(found[0])

    def save(self, path: Path) -> None:
        """Write the metagraph as JSON. Raises ConfigError."""
        try:
            path.write_text(json.dumps(self.to_json()) + "\n", encoding="utf-8")
        except OSError as error:
            raise ConfigError(
                f"{path} cannot be written: {error.strerror}", "name another file with --save"
            ) from error

    @classmethod
    def load(cls, path: Path) -> Metagraph:
        """Read what ``save`` wrote. Raises ConfigError."""
        hint = "make it anew with `mesh chain metagraph --save FILE`"
        try:
            if path.stat().st_size > MAX_FILE_SIZE:
                raise ConfigError(f"{path} is too large for a metagraph", hint)
            document = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigError(f"cannot read a metagraph from {path}: {error}", hint) from error
        try:
            return _parse_document(document)
        except _MALFORMED as error:
            raise ConfigError(f"{path} is not a metagraph: {error}", hint) from error

    def to_json(self) -> dict[str, Any]:
        """Return JSON values; integers at 10^18 are decimal strings."""
        return {
            "format": FORMAT,
            "subnet_id": self.subnet_id,
            "name": self.name,
            "block": self.block,
            "block_hash": self.block_hash.hex(),
            "scores_epoch": self.scores_epoch,
            "nodes": [self._row_to_json(row) for row in range(len(self))],
        }

    def _row_to_json(self, row: int) -> dict[str, Any]:
        peer_id = self.peer_ids[row]
        return {
            "subnet_node_id": int(self.node_ids[row]),
            "class": int(self.classes[row]),
            "is_queued": bool(self.is_queued[row]),
            "start_epoch": int(self.start_epochs[row]),
            "stake": str(self.stakes[row]),
            "reputation": str(self.reputations[row]),
            "score": str(self.scores[row]),
            "attested": bool(self.attested[row]),
            "hotkey": self.hotkeys[row].hex(),
            "coldkey": self.coldkeys[row].hex(),
            "peer_id": None if peer_id is None else str(peer_id),
        }


async def fetch_metagraph(
    chain: SubstrateChain, subnet_id: SubnetId, *, at_block: BlockNumber | None = None
) -> Metagraph | None:
    """Return the subnet at a block, the head by default; None if there is none by this id.

    Raises ChainUnavailable for a block whose state the endpoint no longer keeps.
    """
    overview = await fetch_overview(chain, subnet_id, at_block=at_block)
    if overview is None:
        return None
    epoch, submission = await _fetch_last_submission(
        chain, subnet_id, overview.head.number, overview.subnet.slot
    )
    return _build(
        overview.nodes,
        submission,
        subnet_id=subnet_id,
        name=overview.subnet.name,
        block=overview.head.number,
        block_hash=overview.head.block_hash,
        scores_epoch=-1 if submission is None else int(epoch),
    )


async def _fetch_last_submission(
    chain: SubstrateChain, subnet_id: SubnetId, block: BlockNumber, slot: int | None
) -> tuple[Epoch, Submission | None]:
    """Return the present epoch's proposal, or the one before it, as of ``block``."""
    if slot is None:
        return Epoch(0), None
    length = (await chain.fetch_info()).epoch_length
    epoch = compute_epoch_position(block, slot=slot, epoch_length=length).epoch

    def work(session: ChainSession) -> tuple[Epoch, Submission | None]:
        from subnet.chain.parsing import parse_submission

        at = session.read_block_hash(block)
        for candidate in (epoch, epoch - 1):
            record = session.read(
                "Network.SubnetConsensusSubmission", subnet_id, max(0, candidate), at=at
            )
            if record is not None:
                return Epoch(max(0, candidate)), parse_submission(record)
        return epoch, None

    return await chain.query(work)


def _build(
    rows: tuple[NodeOverview, ...],
    submission: Submission | None,
    *,
    subnet_id: SubnetId,
    name: str,
    block: BlockNumber,
    block_hash: bytes,
    scores_epoch: int,
) -> Metagraph:
    # The first of two rows for one node is the one that is paid.
    scores = {} if submission is None else dict(reversed(submission.scores))
    attested = frozenset() if submission is None else submission.attested
    nodes = [row.node for row in rows]
    return Metagraph(
        subnet_id=subnet_id,
        name=name,
        block=block,
        block_hash=block_hash,
        scores_epoch=scores_epoch,
        node_ids=np.array([node.node_id for node in nodes], dtype=np.uint32),
        classes=np.array([node.node_class for node in nodes], dtype=np.uint8),
        is_queued=np.array([node.is_queued for node in nodes], dtype=np.bool_),
        start_epochs=np.array([node.start_epoch for node in nodes], dtype=np.uint32),
        stakes=_exact(row.stake for row in rows),
        reputations=_exact(row.reputation for row in rows),
        scores=_exact(scores.get(node.node_id, -1) for node in nodes),
        attested=np.array([node.node_id in attested for node in nodes], dtype=np.bool_),
        hotkeys=tuple(node.hotkey for node in nodes),
        coldkeys=tuple(row.coldkey for row in rows),
        peer_ids=tuple(node.peer_id for node in nodes),
    )


def _parse_document(document: Any) -> Metagraph:
    if document["format"] != FORMAT:
        raise ValueError(f"its format is {document['format']!r}, not {FORMAT!r}")
    rows = document["nodes"]
    return Metagraph(
        subnet_id=SubnetId(int(document["subnet_id"])),
        name=str(document["name"]),
        block=BlockNumber(int(document["block"])),
        block_hash=bytes.fromhex(document["block_hash"]),
        scores_epoch=int(document["scores_epoch"]),
        node_ids=np.array([row["subnet_node_id"] for row in rows], dtype=np.uint32),
        classes=np.array([NodeClass(row["class"]) for row in rows], dtype=np.uint8),
        is_queued=np.array([row["is_queued"] for row in rows], dtype=np.bool_),
        start_epochs=np.array([row["start_epoch"] for row in rows], dtype=np.uint32),
        stakes=_exact(int(row["stake"]) for row in rows),
        reputations=_exact(int(row["reputation"]) for row in rows),
        scores=_exact(int(row["score"]) for row in rows),
        attested=np.array([row["attested"] for row in rows], dtype=np.bool_),
        hotkeys=tuple(_parse_account(row["hotkey"]) for row in rows),
        coldkeys=tuple(_parse_account(row["coldkey"]) for row in rows),
        peer_ids=tuple(
            None if row["peer_id"] is None else PeerId.from_base58(row["peer_id"]) for row in rows
        ),
    )


def _parse_account(text: str) -> bytes:
    account = bytes.fromhex(text)
    if len(account) != ACCOUNT_SIZE:
        raise ValueError("an account id has 20 bytes")
    return account


def _exact(values: Any) -> NDArray[np.object_]:
    return np.array(list(values), dtype=np.object_)
