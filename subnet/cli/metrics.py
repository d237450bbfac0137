"""The options about metrics, the same for nodes, bootstraps and gateways."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from subnet.errors import UsageError

if TYPE_CHECKING:
    from subnet.operator.metrics_options import MetricsOptions

MetricsPort = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=65535,
        help="Port of /metrics, /healthz and /readyz; 0 takes a free one. "
        "Else 31340 (node), 31341 (bootstrap), 31342 (gateway).",
    ),
]
MetricsHost = Annotated[
    str | None,
    typer.Option(help="Address of /metrics; other than loopback needs a token."),
]
MetricsTokenFile = Annotated[
    Path | None, typer.Option(help="File with the token that readers of /metrics send.")
]
NoMetrics = Annotated[bool, typer.Option("--no-metrics", help="Show no metrics.")]


def make_metrics_options(
    *, host: str | None, port: int | None, token_file: Path | None, no_metrics: bool
) -> MetricsOptions | None:
    """Return what the options say; None means no metrics. Raises UsageError or ConfigError."""
    from subnet.operator.metrics_options import DEFAULT_HOST, MetricsOptions

    if no_metrics:
        if (host, port, token_file) != (None, None, None):
            raise UsageError(
                "--no-metrics excludes the other options about metrics", "leave it out"
            )
        return None
    options = MetricsOptions(host=host or DEFAULT_HOST, port=port, token_file=token_file)
    # Before anything slow: a refusal should not take a minute.
    options.check()
    return options
