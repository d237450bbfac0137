"""What of the chain's storage is read together with other items, in one request."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Item:
    """The storage item ``Pallet.Name`` under its keys.

    ``default``: the metadata's value where the chain holds none, instead of None.
    """

    name: str
    keys: tuple[object, ...] = ()
    default: bool = False
