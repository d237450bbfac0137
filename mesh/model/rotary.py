"""How fast each pair of a head's dimensions turns with the position."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mesh.model.rope import RopeConfig, YarnRamp


def compute_rotary_frequencies(rope: RopeConfig, head_dim: int) -> Tensor:
    """Return float64 [head_dim / 2] angles per position.

    The rules are those of transformers' ``rope_type``.
    """
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim
    frequencies = rope.theta**-exponents
    if rope.kind == "linear":
        return frequencies / rope.factor
    if rope.kind == "llama3":
        return _blend_llama3(rope, frequencies)
    if rope.yarn is not None:
        return _blend_yarn(rope, rope.yarn, frequencies)
    if rope.divisors is not None:
        return frequencies / torch.tensor(rope.divisors, dtype=torch.float64)
    return frequencies


def _blend_llama3(rope: RopeConfig, frequencies: Tensor) -> Tensor:
    """Keep short wavelengths, divide long ones by ``factor`` and blend between."""
    wavelengths = 2 * math.pi / frequencies
    low = rope.original_context / rope.low_freq_factor
    high = rope.original_context / rope.high_freq_factor
    blend = (rope.original_context / wavelengths - rope.low_freq_factor) / (
        rope.high_freq_factor - rope.low_freq_factor
    )
    blended = (1 - blend) * frequencies / rope.factor + blend * frequencies
    scaled = torch.where(wavelengths > low, frequencies / rope.factor, blended)
    return torch.where(wavelengths < high, frequencies, scaled)


def _blend_yarn(rope: RopeConfig, ramp: YarnRamp, frequencies: Tensor) -> Tensor:
    """Keep fast frequencies, divide slow ones by ``factor`` and blend between, by dimension."""
    count = len(frequencies)
    low = _find_yarn_dimension(rope, 2 * count, ramp.fast_turns)
    high = _find_yarn_dimension(rope, 2 * count, ramp.slow_turns)
    if ramp.is_whole:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, 2 * count - 1)
    if low == high:
        high += 0.001
    slow = ((torch.arange(count, dtype=torch.float64) - low) / (high - low)).clamp(0, 1)
    return frequencies / rope.factor * slow + frequencies * (1 - slow)


def _find_yarn_dimension(rope: RopeConfig, head_dim: int, turns: float) -> float:
    """Return the dimension that turns so often within the original context."""
    wavelength = rope.original_context / (turns * 2 * math.pi)
    return head_dim * math.log(wavelength) / (2 * math.log(rope.theta))
