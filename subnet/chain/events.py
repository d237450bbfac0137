"""Events of a block, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ChainEvent:
    """One event. ``fields`` are by name; unnamed fields are named by their position."""

    pallet: str
    name: str
    fields: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.pallet}.{self.name}"


def parse_event(record: Mapping[str, Any]) -> tuple[int | None, ChainEvent]:
    """Return the index of the extrinsic that an event record belongs to, and the event."""
    attributes = record["attributes"]
    if attributes is None:
        fields: dict[str, Any] = {}
    elif isinstance(attributes, dict):
        fields = dict(attributes)
    elif isinstance(attributes, tuple | list):
        fields = {str(position): value for position, value in enumerate(attributes)}
    else:
        fields = {"0": attributes}
    event = ChainEvent(str(record["module_id"]), str(record["event_id"]), fields)
    return record["extrinsic_idx"], event


def find_event(events: tuple[ChainEvent, ...], pallet: str, name: str) -> ChainEvent | None:
    """Return the first event of that name."""
    return next((found for found in events if (found.pallet, found.name) == (pallet, name)), None)
