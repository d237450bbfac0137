"""The kinds of quantised weights, as far as they can be told without torch.

How values are made is in mesh/model/quantise.py (int8) and mesh/model/int4.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mesh.errors import ModelError

NOT_QUANTISED = "none"
_FLOAT32_BYTES = 4
INT4_GROUPS = (64, 32)
"""How many numbers of a row share an int4 scale: the first that divides the row, else the last."""


@dataclass(frozen=True, slots=True)
class QuantType:
    """One kind. ``manifest_dtype`` is what a manifest calls a matrix of it.

    ``count_bytes`` returns what a matrix takes, from its rows and columns; ``has_head`` says
    whether the head is quantised like the layers' matrices.
    """

    manifest_dtype: str
    has_head: bool
    count_bytes: Callable[[int, int], int]


def get_int4_group(columns: int) -> int:
    """Return how many numbers of a row share a scale; the last group of a row may be shorter."""
    wide, narrow = INT4_GROUPS
    return wide if columns % wide == 0 else narrow


def _count_int8_bytes(rows: int, columns: int) -> int:
    return rows * (columns + _FLOAT32_BYTES)


def _count_int4_bytes(rows: int, columns: int) -> int:
    group = get_int4_group(columns)
    groups = -(-columns // group)
    return rows * groups * (group // 2 + _FLOAT32_BYTES)


QUANT_TYPES: Mapping[str, QuantType] = {
    "int8": QuantType("I8", has_head=False, count_bytes=_count_int8_bytes),
    "int4": QuantType("I4", has_head=True, count_bytes=_count_int4_bytes),
}


def find_quant_type(name: str) -> QuantType | None:
    """Return the kind, None for ``none``. Raises ModelError for an unknown one."""
    if name == NOT_QUANTISED:
        return None
    if name not in QUANT_TYPES:
        known = ", ".join((NOT_QUANTISED, *QUANT_TYPES))
        raise ModelError(f"quant type {name} is not one of {known}")
    return QUANT_TYPES[name]
