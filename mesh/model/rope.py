"""Rotary positions, as a config.json describes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mesh.errors import ModelError, UnknownArchitecture
from mesh.model.fields import MAX_CONTEXT, Fields, read_number, read_positive

DEFAULT_ROPE_THETA = 10_000.0


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Rotary position parameters; ``kind`` is ``default``, ``linear`` or ``llama3``."""

    theta: float = DEFAULT_ROPE_THETA
    kind: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192


def read_rope(architecture: str, fields: Fields) -> RopeConfig:
    """Read both layouts: ``rope_parameters`` (transformers 5) and ``rope_scaling`` (before).

    Raises UnknownArchitecture naming what is not supported, or ModelError.
    """
    scaling = fields.get("rope_parameters") or fields.get("rope_scaling") or {}
    if not isinstance(scaling, Mapping):
        raise ModelError("config.json: the rotary parameters are not an object")
    theta = read_number(scaling, "rope_theta", 0.0) or read_number(fields, "rope_theta", 0.0)
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    if kind not in ("default", "linear", "llama3"):
        raise UnknownArchitecture(f"{architecture} with rotary scaling {kind}")
    whole = read_number(fields, "partial_rotary_factor", 1.0)
    if read_number(scaling, "partial_rotary_factor", whole) != 1.0:
        raise UnknownArchitecture(f"{architecture} with partial rotary positions")
    original = "original_max_position_embeddings"
    return RopeConfig(
        theta=theta or DEFAULT_ROPE_THETA,
        kind=str(kind),
        factor=read_number(scaling, "factor", 1.0),
        low_freq_factor=read_number(scaling, "low_freq_factor", 1.0),
        high_freq_factor=read_number(scaling, "high_freq_factor", 4.0),
        original_context=read_positive(scaling, original, MAX_CONTEXT, default=8192),
    )
