"""Numbers of a config.json, read within limits: the file is a stranger's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mesh.errors import ModelError

Fields = Mapping[str, Any]

MAX_LAYERS = 1024
MAX_WIDTH = 1 << 20
MAX_VOCABULARY = 1 << 24
MAX_CONTEXT = 1 << 24
MAX_NUMBER = 1e30
"""Numbers of config.json are at most this; an infinity or a NaN is no number of a model."""


def read_positive(fields: Fields, name: str, limit: int, *, default: int | None = None) -> int:
    """Return an integer from 1 to ``limit``. Raises ModelError."""
    value = fields.get(name)
    if value is None:
        value = default
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= limit:
        raise ModelError(f"config.json: {name} must be from 1 to {limit}, not {value!r:.80}")
    return value


def read_number(fields: Fields, name: str, default: float) -> float:
    """Return a finite number, ``default`` without one. Raises ModelError."""
    value = fields.get(name)
    if value is None:
        return default
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not abs(value) <= MAX_NUMBER:
        raise ModelError(f"config.json: {name} must be a number, not {value!r:.80}")
    return float(value)
