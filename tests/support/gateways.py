"""A gateway on a free port of loopback, and a client of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx

from mesh.api.backend import Backend
from mesh.api.limits import Limits
from mesh.api.server import ServeConfig, open_gateway

QUICK = Limits(drain_s=0.2, sse_comment_s=30.0)


@asynccontextmanager
async def open_client(backend: Backend, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    """Run a gateway; ``limits`` are changes to QUICK, ``metrics`` what it shows, other options are
    ServeConfig's.
    """
    limits, metrics = replace(QUICK, **options.pop("limits", {})), options.pop("metrics", None)
    config = ServeConfig(port=0, limits=limits, **options)
    async with open_gateway(config, backend, metrics=metrics) as gateway:
        # Nothing is encrypted on loopback: to read the certificates of all authorities costs more
        # than most tests.
        async with httpx.AsyncClient(base_url=gateway.url, timeout=20, verify=False) as client:
            yield client
