"""Shows a process's metrics and checks at the address that the operator chose."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import structlog

from mesh.api.checks import HealthCheck, Monitored
from mesh.api.errors import AddressInUse, ApiError
from subnet.errors import ConfigError
from subnet.metrics.page import Fill, Page, make_renderer
from subnet.metrics.table import Process
from subnet.operator.metrics_options import (
    BOOTSTRAP_PORT,
    GATEWAY_PORT,
    NODE_PORT,
    MetricsOptions,
)
from subnet.version import SOFTWARE

ListChecks = Callable[[], Sequence[HealthCheck]]
DEFAULT_PORTS = {
    Process.NODE: NODE_PORT,
    Process.BOOTSTRAP: BOOTSTRAP_PORT,
    Process.GATEWAY: GATEWAY_PORT,
}

logger = structlog.get_logger(__name__)


@asynccontextmanager
async def serve_metrics(
    options: MetricsOptions | None, process: Process, fill: Fill, list_checks: ListChecks
) -> AsyncIterator[None]:
    """Answer while the block runs; without ``options`` nothing listens.

    A second process of a machine finds the default port taken: it says so and goes on without
    metrics, because its work does not depend on them. Raises ConfigError for an address that the
    operator chose and that cannot be used, or that needs a token.
    """
    if options is None:
        yield
        return
    # It brings an HTTP server along, which a process without metrics need not load.
    from mesh.api.monitoring import open_monitoring

    token = options.read_token()
    port = DEFAULT_PORTS[process] if options.port is None else options.port
    monitored = Monitored(make_exposition(process, fill, list_checks), list_checks)
    async with AsyncExitStack() as stack:
        try:
            url = await stack.enter_async_context(
                open_monitoring(monitored, host=options.host, port=port, token=token)
            )
        except AddressInUse as error:
            if options.port is not None:
                raise _explain(error) from error
            logger.warning(
                "no metrics: their port is taken", port=port, fix="give --metrics-port PORT"
            )
        except ApiError as error:
            raise _explain(error) from error
        else:
            logger.info("metrics", url=f"{url}/metrics")
        yield


def make_exposition(process: Process, fill: Fill, list_checks: ListChecks) -> Callable[[], bytes]:
    """Return a function that gives the process's metrics as text."""
    return make_renderer(process, lambda page: _fill(page, process, fill, list_checks))


def _explain(error: ApiError) -> ConfigError:
    return ConfigError(f"metrics: {error}", "choose another --metrics-host or --metrics-port")


def _fill(page: Page, process: Process, fill: Fill, list_checks: ListChecks) -> None:
    checks = list_checks()
    page.add("mesh_build_info", 1, SOFTWARE, process.value)
    page.add("mesh_ready", float(all(check.ok for check in checks)))
    for check in checks:
        page.add("mesh_ready_check", float(check.ok), check.name)
    fill(page)
