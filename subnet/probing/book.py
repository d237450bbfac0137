"""The results of this node's probes: a small file, private to its owner, bounded.

It is advice to this node alone, so a book that cannot be read is begun anew, and one that cannot
be written is kept in memory.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import structlog
from pydantic import BaseModel, ConfigDict, ValidationError

from consensus.protocol_params import ConsensusParams
from consensus.roster import Roster
from consensus.types import Epoch, SubnetNodeId
from subnet.private_file import replace_private_file

BOOK_FILE = "probes.json"
BOOK_VERSION = 1
MAX_BOOK_SIZE = 1 << 20
MAX_NODES = 1024

logger = structlog.get_logger(__name__)


class _Page(BaseModel):
    """The file: for each node id its last probes, each an epoch and whether it passed."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)

    version: int
    network_id: str
    probes: Mapping[int, tuple[tuple[int, bool], ...]]


class ProbeBook:
    """The last probes of each hoster, one an epoch, oldest first."""

    def __init__(self, path: Path | None, *, network_id: bytes, params: ConsensusParams) -> None:
        self._path = path
        self._network_id = network_id
        self._params = params
        self._probes: dict[SubnetNodeId, tuple[tuple[Epoch, bool], ...]] = {}

    @classmethod
    def open(cls, path: Path, *, network_id: bytes, params: ConsensusParams) -> Self:
        """Read the book, or begin one: of another network or not readable it is no loss."""
        book = cls(path, network_id=network_id, params=params)
        try:
            with path.open("rb") as file:
                page = _Page.model_validate_json(file.read(MAX_BOOK_SIZE))
        except FileNotFoundError:
            return book
        except (OSError, ValidationError) as error:
            logger.warning("the results of earlier probes are lost", detail=str(error)[:200])
            return book
        if (page.version, page.network_id) == (BOOK_VERSION, network_id.hex()):
            for node_id, probes in page.probes.items():
                book._note(SubnetNodeId(node_id), [(Epoch(e), passed) for e, passed in probes])
        return book

    def record(self, node_id: SubnetNodeId, epoch: Epoch, *, passed: bool) -> None:
        """Note a probe; a second one of the same epoch changes nothing."""
        known = self._probes.get(node_id, ())
        if any(other == epoch for other, _ in known):
            return
        self._note(node_id, sorted([*known, (epoch, passed)]))
        self._forget(epoch)
        self._write()

    def is_recorded(self, node_id: SubnetNodeId, epoch: Epoch) -> bool:
        """Whether this epoch's probe of the hoster has a result."""
        return any(other == epoch for other, _ in self._probes.get(node_id, ()))

    def list_failed(self, roster: Roster) -> frozenset[SubnetNodeId]:
        """Return the roster's nodes whose last ``probe_failures`` probes all failed, each in an
        epoch of its own among the last ``probe_memory_epochs``, the roster's included.
        """
        oldest = roster.epoch - self._params.probe_memory_epochs + 1
        failed = set()
        for node in roster.nodes:
            recent = [
                passed
                for epoch, passed in self._probes.get(node.node_id, ())
                if oldest <= epoch <= roster.epoch
            ][-self._params.probe_failures :]
            if len(recent) == self._params.probe_failures and not any(recent):
                failed.add(node.node_id)
        return frozenset(failed)

    def list_failed_last(self) -> frozenset[SubnetNodeId]:
        """Return the nodes whose last probe failed."""
        return frozenset(node for node, probes in self._probes.items() if not probes[-1][1])

    def _note(self, node_id: SubnetNodeId, probes: list[tuple[Epoch, bool]]) -> None:
        if probes:
            self._probes[node_id] = tuple(probes[-self._params.probe_failures :])

    def _forget(self, now: Epoch) -> None:
        """Drop what is too old, and the nodes that were probed longest ago if there are many."""
        oldest = now - self._params.probe_memory_epochs
        kept = {node: probes for node, probes in self._probes.items() if probes[-1][0] > oldest}
        newest_first = sorted(kept.items(), key=lambda item: item[1][-1][0], reverse=True)
        self._probes = dict(newest_first[:MAX_NODES])

    def _write(self) -> None:
        if self._path is None:
            return
        page = {
            "version": BOOK_VERSION,
            "network_id": self._network_id.hex(),
            "probes": dict(sorted(self._probes.items())),
        }
        try:
            replace_private_file(self._path, json.dumps(page).encode(), is_durable=True)
        except OSError as error:
            logger.warning("the results of probes cannot be written", reason=error.strerror)
