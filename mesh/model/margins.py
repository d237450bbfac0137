"""What calibration found out about a model: scales, honest spread, and how far cheats stand out.

It stands in the model manifest. All numbers are integers, one for each challenged layer, the head
last. No torch: a manifest is read before anything heavy is imported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mesh.errors import MarginTooSmall

DISTANCE_ONE = 10**12
"""Distances are relative L2, in units of 1e-12."""
MIN_MARGIN = 10
"""How many times the tolerance must exceed the honest spread, and a cheat the tolerance."""
MAX_SCALE = 64
"""The largest exponent of a layer's power of two, in magnitude."""
MAX_DISTANCE = 1 << 62
MAX_NAMES = 16
MAX_NAME = 64


@dataclass(frozen=True, slots=True)
class Calibration:
    """Measured on full vectors. Each tuple has one number for each challenged layer.

    ``scales`` are exponents of two. ``honest`` is the largest distance between two of the
    ``variants`` of honest computation, ``cheats`` the smallest one between an honest answer and
    that of a cheat, by the cheat's name.
    """

    scales: tuple[int, ...]
    honest: tuple[int, ...]
    cheats: Mapping[str, tuple[int, ...]]
    variants: tuple[str, ...]


def describe_calibration(calibration: Calibration) -> dict[str, Any]:
    """Return the calibration as a manifest writes it."""
    return {
        "scales": list(calibration.scales),
        "honest": list(calibration.honest),
        "cheats": {name: list(row) for name, row in calibration.cheats.items()},
        "variants": list(calibration.variants),
    }


def parse_calibration(value: object, num_layers: int) -> Calibration:
    """Parse what a manifest says of a model with so many layers. Raises ValueError."""
    if not isinstance(value, dict) or value.keys() != {"scales", "honest", "cheats", "variants"}:
        raise ValueError("a calibration has scales, honest, cheats and variants")
    cheats, variants = value["cheats"], value["variants"]
    if not isinstance(cheats, dict) or not isinstance(variants, list):
        raise ValueError("cheats are an object, variants a list")
    count = num_layers + 1
    return Calibration(
        scales=_parse_row(value["scales"], count, smallest=-MAX_SCALE, largest=MAX_SCALE),
        honest=_parse_row(value["honest"], count, smallest=0, largest=MAX_DISTANCE),
        cheats={
            name: _parse_row(row, count, smallest=0, largest=MAX_DISTANCE)
            for name, row in zip(_parse_names(cheats), cheats.values(), strict=True)
        },
        variants=_parse_names(variants),
    )


def _parse_row(value: object, count: int, *, smallest: int, largest: int) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) != count:
        raise ValueError(f"a row has {count} numbers, one for each challenged block")
    # A bool is an int to isinstance.
    if any(type(number) is not int or not smallest <= number <= largest for number in value):
        raise ValueError(f"a number is not an integer from {smallest} to {largest}")
    return tuple(value)


def _parse_names(names: Sequence[Any] | Mapping[Any, Any]) -> tuple[str, ...]:
    listed = tuple(names)
    if not 0 < len(listed) <= MAX_NAMES:
        raise ValueError(f"1 to {MAX_NAMES} names")
    for name in listed:
        if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME or not name.isprintable():
            raise ValueError(f"a name has 1 to {MAX_NAME} printable characters")
    return listed


def check_margins(calibration: Calibration, *, tolerance_bits: int) -> None:
    """Raise MarginTooSmall naming the layer whose figures stand too near the tolerance."""
    tolerance = DISTANCE_ONE >> tolerance_bits
    for layer, spread in enumerate(calibration.honest):
        if spread * MIN_MARGIN > tolerance:
            raise MarginTooSmall(
                f"{_name(calibration, layer)}: honest machines differ by up to {_show(spread)}, "
                f"and the tolerance of {_show(tolerance)} must be {MIN_MARGIN} times as large"
            )
    for cheat, distances in calibration.cheats.items():
        for layer, distance in enumerate(distances):
            if distance < tolerance * MIN_MARGIN:
                raise MarginTooSmall(
                    f"{_name(calibration, layer)}: the cheat {cheat} stands {_show(distance)} from "
                    f"the honest answer, less than {MIN_MARGIN} times the tolerance of "
                    f"{_show(tolerance)}"
                )


def name_layer(layer: int, num_layers: int) -> str:
    """Return what a person calls a challenged layer."""
    return "the head" if layer == num_layers else f"block {layer}"


def _name(calibration: Calibration, layer: int) -> str:
    return name_layer(layer, len(calibration.honest) - 1)


def _show(distance: int) -> str:
    return f"{distance / DISTANCE_ONE:.2g}"
