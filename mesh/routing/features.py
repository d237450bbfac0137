"""What a hoster can do beyond plain sessions, announced behind its program's name.

``mesh/0.2.0;gs``: each letter is a feature. Nodes of earlier versions read it as a longer name, and
a heartbeat without letters says that its hoster can do none of them. Unknown letters are of later
versions and mean nothing here.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum

SEPARATOR = ";"


class Feature(StrEnum):
    """What a heartbeat announces. A letter is part of the wire format: it never changes."""

    SHAPED = "s"
    """Sessions with penalties, biases, ``min_p`` and ``min_tokens``; every hop must take them."""
    GRAMMAR = "g"
    """Compiles grammars; needed of the hop that has the last layer."""
    RECEIPT = "r"
    """Signs receipts of answers; every hop must."""
    REFILL = "f"
    """Goes on with a session whose other hops changed; every hop must."""
    DRIVEN_REFILL = "d"
    """Does so with one that its client drives; every hop must."""


NAMES = {
    Feature.SHAPED: "takes penalties and biases",
    Feature.GRAMMAR: "compiles grammars",
    Feature.RECEIPT: "signs receipts",
    Feature.REFILL: "goes on with a session over a changed route",
    Feature.DRIVEN_REFILL: "goes on with a driven session over a changed route",
}


def name_software(product: str, features: Collection[Feature], *, max_size: int) -> str:
    """Return a heartbeat's name of the program; without features if it would be too long."""
    letters = "".join(sorted(features))
    name = f"{product}{SEPARATOR}{letters}" if letters else product
    return name if len(name) <= max_size else product


def split_software(software: str) -> tuple[str, frozenset[Feature]]:
    """Return the program and the features that are known here."""
    product, *parts = software.split(SEPARATOR)
    # Other parts tell other things (mesh/routing/load.py).
    letters = "".join(part for part in parts if part.isalpha())
    return product, frozenset(feature for feature in Feature if feature in letters)
