"""The options of a node's monitor page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from subnet.errors import UsageError

if TYPE_CHECKING:
    from subnet.operator.monitor_options import MonitorOptions

MonitorPort = Annotated[
    int | None,
    typer.Option(min=0, max=65535, help="Serve the monitor page on this port; 0 takes a free one."),
]
MonitorHost = Annotated[
    str | None,
    typer.Option(help="Address of the monitor page; loopback if absent."),
]
MonitorPublic = Annotated[
    bool,
    typer.Option(
        "--monitor-public", help="Others may read the monitor page; with another --monitor-host."
    ),
]
MonitorAddresses = Annotated[
    bool,
    typer.Option("--monitor-addresses", help="The monitor page publishes nodes' addresses."),
]


def make_monitor_options(
    *, port: int | None, host: str | None, is_public: bool, shows_addresses: bool
) -> MonitorOptions | None:
    """Return what the options say; None means no page. Raises UsageError or ConfigError."""
    from subnet.operator.monitor_options import DEFAULT_HOST, MonitorOptions

    if port is None:
        if host is not None or is_public or shows_addresses:
            raise UsageError("the monitor page has no port", "give --monitor-port PORT")
        return None
    options = MonitorOptions(port, host or DEFAULT_HOST, is_public, shows_addresses)
    # Before anything slow: a refusal should not take a minute.
    options.check()
    return options
