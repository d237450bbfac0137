"""Ending the work for a caller who has gone away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from starlette.requests import Request

Result = TypeVar("Result")


class CallerGone(Exception):
    """The caller closed the connection; an answer has no reader."""


async def run_while_connected(request: Request, work: Awaitable[Result]) -> Result:
    """Return the result of ``work``, cancelled if the caller goes away. Raises CallerGone."""
    try:
        async with asyncio.TaskGroup() as tasks:
            watcher = tasks.create_task(_watch(request))
            result = await work
            watcher.cancel()
    except ExceptionGroup as group:
        raise group.exceptions[0] from None
    return result


async def _watch(request: Request) -> None:
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise CallerGone
