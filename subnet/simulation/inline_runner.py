"""A runner without a thread, for tests whose time is virtual."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def run_inline(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run in the event loop's own thread."""
    return function(*args, **kwargs)
