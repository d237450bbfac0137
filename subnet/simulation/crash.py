"""Killing a node at an await: before or after any call to chain, store, journal or model.

``Guard`` wraps what a node is given. When its switch fires, the call raises ``Killed``, and
so does everything that the dying process still tries: like ``kill -9``, no cleanup of its
own reaches disk or network.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from subnet.thread_runner import Runner

P = ParamSpec("P")
T = TypeVar("T")


class Killed(BaseException):
    """The process is gone. Not an Exception: nothing in the node may catch and survive it."""


@dataclass
class Switch:
    """Counts the points that one life of a node passes; fires at ``fire_at``, if that is set.

    ``passed`` is how many points were passed; ``last`` names the point at which it fired.
    """

    fire_at: int | None = None
    passed: int = 0
    is_dead: bool = False
    last: str = ""

    def pass_point(self, name: str) -> None:
        """Raise Killed if the process ends here, or has ended."""
        if not self.is_dead and self.passed == self.fire_at:
            self.is_dead = True
            self.last = name
        if self.is_dead:
            raise Killed(name)
        self.passed += 1


class Guard:
    """Stands before ``inner`` and passes a point before and after each of its coroutines."""

    def __init__(self, inner: Any, switch: Switch) -> None:
        self._inner = inner
        self._switch = switch

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._inner, name)
        if not callable(attribute):
            return attribute
        if name == "heads":
            return self._heads

        pass_point, before, after = self._switch.pass_point, f"before {name}", f"after {name}"

        async def guarded(*args: Any, **kwargs: Any) -> Any:
            pass_point(before)
            result = await attribute(*args, **kwargs)
            pass_point(after)
            return result

        # The next call finds it without coming here.
        setattr(self, name, guarded)
        return guarded

    async def _heads(self) -> AsyncIterator[Any]:
        async for head in self._inner.heads():
            self._switch.pass_point("head")
            yield head


def make_runner(switch: Switch) -> Runner:
    """Run the journal's blocking writes inline, between two points."""

    async def run(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        name = getattr(function, "__name__", "write")
        switch.pass_point(f"before journal {name}")
        result = function(*args, **kwargs)
        switch.pass_point(f"after journal {name}")
        return result

    return run
