"""Shows the monitor page at the address that the operator chose."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import structlog

from mesh.api.errors import ApiError
from subnet.errors import ConfigError
from subnet.operator.monitor_options import MonitorOptions

if TYPE_CHECKING:
    from subnet.monitor.http import MonitorData

logger = structlog.get_logger(__name__)


@asynccontextmanager
async def serve_monitor(
    options: MonitorOptions, data: MonitorData, *, on_start: Callable[[str], None] | None = None
) -> AsyncIterator[None]:
    """Answer while the block runs; ``on_start`` gets the URL.

    Raises ConfigError for an address that cannot be used.
    """
    # It brings an HTTP server along, which a process without the page need not load.
    from mesh.api.listening import run_app
    from subnet.monitor.http import LIMITS, create_app

    options.check()
    app = create_app(data, is_public=options.is_public)
    try:
        async with run_app(app, host=options.host, port=options.port, limits=LIMITS) as url:
            logger.info("monitor page", url=url)
            if on_start is not None:
                on_start(url)
            try:
                yield
            finally:
                data.hub.close()
    except ApiError as error:
        raise ConfigError(f"monitor: {error}", "choose another --monitor-port") from error
