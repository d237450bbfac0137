"""Rotary positions, as a config.json describes them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from mesh.errors import ModelError, UnknownArchitecture
from mesh.model.fields import MAX_CONTEXT, Fields, read_number, read_positive

DEFAULT_ROPE_THETA = 10_000.0
ORIGINAL_CONTEXT = "original_max_position_embeddings"
LEAST = 1e-6
"""What is smaller, or negative, scales nothing in a sensible way."""


@dataclass(frozen=True, slots=True)
class YarnRamp:
    """Which frequencies YaRN keeps and which it divides.

    Kept are those of more than ``fast_turns`` turns within the original context, divided those of
    less than ``slow_turns``. ``is_whole`` rounds the dimensions where the two begin outwards.
    """

    fast_turns: float
    slow_turns: float
    is_whole: bool


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Rotary position parameters; ``kind`` is ``default`` or a key of READERS.

    YaRN and LongRoPE multiply cosines and sines by ``attention_factor``. LongRoPE divides each
    frequency by its own of the ``divisors``. The last three are None where a kind has none of them,
    and then no part of a manifest.
    """

    theta: float = DEFAULT_ROPE_THETA
    kind: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192
    attention_factor: float | None = None
    yarn: YarnRamp | None = None
    divisors: tuple[float, ...] | None = None

    def limit_context(self, tokens: int) -> int:
        """Return how many positions a model has whose config.json says ``tokens``.

        YaRN extends the original context ``factor`` times. LongRoPE turns every key otherwise once
        a text is longer than the original context, those in the cache too, so it ends there.
        """
        if self.kind == "yarn":
            return max(tokens, min(MAX_CONTEXT, int(self.factor * self.original_context)))
        return min(tokens, self.original_context) if self.kind == "longrope" else tokens


@dataclass(frozen=True, slots=True)
class _Source:
    """The rotary parameters, beside the fields of config.json that they stand in."""

    scaling: Fields
    fields: Fields
    theta: float
    head_dim: int

    def read_above_zero(self, name: str, default: float) -> float:
        value = read_number(self.scaling, name, default) or default
        if value < LEAST:
            raise ModelError(f"config.json: {name} must be above 0, not {value}")
        return value

    def read_original_context(self) -> int:
        """Return the context before scaling; Phi-3 has it outside of the rotary parameters."""
        context = read_positive(self.fields, "max_position_embeddings", MAX_CONTEXT)
        inner = read_positive(self.scaling, ORIGINAL_CONTEXT, MAX_CONTEXT, default=context)
        return read_positive(self.fields, ORIGINAL_CONTEXT, MAX_CONTEXT, default=inner)

    def read_factor(self, original: int) -> float:
        """Return ``factor``, or else by how much the context is longer than the original one."""
        context = read_positive(self.fields, "max_position_embeddings", MAX_CONTEXT)
        return self.read_above_zero("factor", context / original)


def read_rope(
    architecture: str, fields: Fields, *, head_dim: int, names: Mapping[str, str]
) -> RopeConfig:
    """Read both layouts: ``rope_parameters`` (transformers 5) and ``rope_scaling`` (before).

    ``names`` are kinds that a family calls otherwise. Raises UnknownArchitecture naming what is
    not supported, or ModelError.
    """
    scaling = fields.get("rope_parameters") or fields.get("rope_scaling") or {}
    if not isinstance(scaling, Mapping):
        raise ModelError("config.json: the rotary parameters are not an object")
    theta = read_number(scaling, "rope_theta", 0.0) or read_number(fields, "rope_theta", 0.0)
    kind = str(scaling.get("rope_type") or scaling.get("type") or "default")
    reader = READERS.get(names.get(kind, kind))
    if reader is None:
        raise UnknownArchitecture(f"{architecture} with rotary scaling {kind:.40}")
    whole = read_number(fields, "partial_rotary_factor", 1.0)
    if read_number(scaling, "partial_rotary_factor", whole) != 1.0:
        raise UnknownArchitecture(f"{architecture} with partial rotary positions")
    return reader(_Source(scaling, fields, theta or DEFAULT_ROPE_THETA, head_dim))


def _read_simple(source: _Source, *, kind: str) -> RopeConfig:
    rope = RopeConfig(
        theta=source.theta,
        kind=kind,
        factor=read_number(source.scaling, "factor", 1.0),
        low_freq_factor=read_number(source.scaling, "low_freq_factor", 1.0),
        high_freq_factor=read_number(source.scaling, "high_freq_factor", 4.0),
        original_context=read_positive(source.scaling, ORIGINAL_CONTEXT, MAX_CONTEXT, default=8192),
    )
    if kind != "default" and rope.factor < LEAST:
        raise ModelError(f"config.json: factor must be above 0, not {rope.factor}")
    if kind == "llama3" and not LEAST <= rope.low_freq_factor < rope.high_freq_factor:
        raise ModelError(
            "config.json: low_freq_factor must be above 0 and below high_freq_factor, "
            f"not {rope.low_freq_factor}"
        )
    return rope


def _read_yarn(source: _Source) -> RopeConfig:
    original = source.read_original_context()
    factor = source.read_factor(original)
    if source.theta <= 1:
        raise ModelError(f"config.json: rope_theta must be above 1 for YaRN, not {source.theta}")
    return RopeConfig(
        theta=source.theta,
        kind="yarn",
        factor=factor,
        original_context=original,
        attention_factor=source.read_above_zero(
            "attention_factor", _compute_yarn_attention(source, factor)
        ),
        yarn=YarnRamp(
            fast_turns=source.read_above_zero("beta_fast", 32.0),
            slow_turns=source.read_above_zero("beta_slow", 1.0),
            is_whole=bool(source.scaling.get("truncate", True)),
        ),
    )


def _compute_yarn_attention(source: _Source, factor: float) -> float:
    logarithm, names = 0.1 * math.log(max(factor, 1.0)), ("mscale", "mscale_all_dim")
    if not all(source.scaling.get(name) for name in names):
        return logarithm + 1.0
    over, under = (source.read_above_zero(name, 1.0) for name in names)
    return (over * logarithm + 1.0) / (under * logarithm + 1.0)


def _read_longrope(source: _Source) -> RopeConfig:
    original = source.read_original_context()
    factor = source.read_factor(original)
    stretch = math.log(max(factor, 1.0)) / math.log(max(original, 2))
    return RopeConfig(
        theta=source.theta,
        kind="longrope",
        factor=factor,
        original_context=original,
        attention_factor=source.read_above_zero("attention_factor", math.sqrt(1 + stretch)),
        divisors=_read_divisors(source),
    )


def _read_divisors(source: _Source) -> tuple[float, ...]:
    listed, count = source.scaling.get("short_factor"), source.head_dim // 2
    if not isinstance(listed, list) or len(listed) != count:
        raise ModelError(f"config.json: short_factor must be a list of {count} numbers")
    named = {str(place): value for place, value in enumerate(listed)}
    divisors = tuple(read_number(named, name, 0.0) for name in named)
    if min(divisors) < LEAST:
        raise ModelError("config.json: the numbers of short_factor must be above 0")
    return divisors


READERS: Mapping[str, Callable[[_Source], RopeConfig]] = {
    **{kind: partial(_read_simple, kind=kind) for kind in ("default", "linear", "llama3")},
    "yarn": _read_yarn,
    "longrope": _read_longrope,
}
