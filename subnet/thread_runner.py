"""Run blocking functions in a thread of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Runner(Protocol):
    """Runs one blocking function at a time and returns or raises what it does."""

    async def __call__(
        self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T: ...


@contextmanager
def open_thread_runner(name: str) -> Iterator[Runner]:
    """Run in one thread of its own, so that calls keep their order."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix=name) as executor:

        async def run(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(executor, lambda: function(*args, **kwargs))

        yield run
