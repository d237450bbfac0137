"""Amounts of TENSOR as text. Imports nothing, because every command needs it."""

from __future__ import annotations

DECIMALS = 18


def format_amount(units: int) -> str:
    """Return units of 10^-18 as TENSOR, exactly."""
    whole, rest = divmod(units, 10**DECIMALS)
    decimals = f"{rest:0{DECIMALS}d}".rstrip("0")
    return f"{whole}.{decimals}" if decimals else str(whole)
