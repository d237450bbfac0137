"""How much a node may hold: exact counts of what its program, its journal and its replica keep.

The program is walked from its epoch loop on, so a table that is added later is counted too. What
grows with the nodes is bounded by what these may publish in the epochs that are kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from types import MappingProxyType
from typing import Any

from consensus.admission import EpochTable
from consensus.missed import OwedDuty
from consensus.protocol_params import MINIMAL
from consensus.records import EPOCH_KINDS
from subnet.epoch.collector import MAX_READINGS
from subnet.journal.journal import KEPT_EPOCHS, MAX_FETCHED
from subnet.journal.log import KEPT_REPORTS

NUM_KINDS = len(EPOCH_KINDS)
MAX_LANES = 2 * NUM_KINDS + 3
"""Duties at once: a record of each kind of this epoch and of the one before, and three others."""
MAX_EPOCH_TABLE = KEPT_EPOCHS + 1
_OWN_PACKAGES = ("subnet.epoch.", "subnet.journal.")
_BY_EPOCH = ("_rosters", "_elections", "_stale", "_refused", "_submissions", "_draws")
_MAPPINGS = (dict, MappingProxyType)
_CONTAINERS = (*_MAPPINGS, set, frozenset, deque, list)


def count_entries(root: object) -> dict[str, int]:
    """Return how many entries each table has that is reached from ``root``, by class and name.

    Of a table of tables it is the sum: of the outer one's entries and of those in the inner ones.
    """
    found: dict[str, int] = {}
    queue, known = [root], {id(root)}
    while queue:
        owner = queue.pop()
        for name, value in _list_attributes(owner):
            if isinstance(value, _CONTAINERS):
                path = f"{type(owner).__name__}.{name}"
                found[path] = max(found.get(path, 0), _count(value))
            elif _is_own(value) and id(value) not in known:
                known.add(id(value))
                queue.append(value)
    return found


def compute_bound(path: str, *, num_nodes: int) -> int:
    """Return the most entries that a table may have in a network of ``num_nodes``."""
    records = NUM_KINDS * num_nodes
    owner, name = path.split(".", 1)
    if owner == "Journal" and name in _BY_EPOCH:
        return MAX_EPOCH_TABLE
    match path:
        case "Journal._sightings":
            return MAX_EPOCH_TABLE * (1 + records)
        case "Journal._probation":
            return MAX_EPOCH_TABLE * (1 + num_nodes)
        case "Journal._missed":
            return MAX_EPOCH_TABLE * (1 + len(OwedDuty))
        case "Journal._reports":
            return KEPT_REPORTS
        case "Journal._own" | "Journal._confirmed":
            return MAX_EPOCH_TABLE * NUM_KINDS
        case "EpochLoop._running":
            return MAX_LANES
        case "EpochLoop._readings":
            return MAX_READINGS
    # Own, seen, and fetched versions, by a proposal's wish one more; for each slot that is kept.
    return MAX_EPOCH_TABLE * records * (MAX_FETCHED + 3)


def compute_store_bound(num_nodes: int) -> int:
    """Return the most records that a replica may hold: one of each kind, author and epoch."""
    return (MINIMAL.record_life_epochs + 1) * NUM_KINDS * num_nodes


def _list_attributes(owner: object) -> Iterator[tuple[str, Any]]:
    names = list(getattr(owner, "__dict__", ()))
    names += [name for cls in type(owner).__mro__ for name in getattr(cls, "__slots__", ())]
    for name in names:
        value = getattr(owner, name, None)
        if value is not None:
            yield name, value


def _is_own(value: object) -> bool:
    """Whether a value is a part of the program, or the table that its policy asks."""
    return type(value).__module__.startswith(_OWN_PACKAGES) or isinstance(value, EpochTable)


def _count(table: Any) -> int:
    inner = table.values() if isinstance(table, _MAPPINGS) else table
    return len(table) + sum(len(value) for value in inner if isinstance(value, _CONTAINERS))
