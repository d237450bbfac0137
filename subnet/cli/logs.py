"""The options about logs, the same for nodes, bootstraps and gateways."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from subnet.cli.progress import Bars
    from subnet.operator.logs import LogOptions


class LogLevel(StrEnum):
    """What ``--log-level`` takes."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """What ``--log-format`` takes."""

    PRETTY = "pretty"
    JSON = "json"


LogLevelOption = Annotated[
    LogLevel,
    typer.Option("--log-level", envvar="MESH_LOG_LEVEL", help="The least of what is logged."),
]
LogFormatOption = Annotated[
    LogFormat | None,
    typer.Option(
        "--log-format",
        envvar="MESH_LOG_FORMAT",
        help="On stderr; pretty on a terminal, json elsewhere.",
    ),
]
LogFileOption = Annotated[
    Path | None,
    typer.Option(
        "--log-file",
        envvar="MESH_LOG_FILE",
        help="Also as JSON lines to this file: 6 files of 16 MiB.",
    ),
]


def make_log_options(
    level: LogLevel, log_format: LogFormat | None, file: Path | None
) -> LogOptions:
    """Return what the options say."""
    from subnet.operator.logs import LogOptions

    as_json = None if log_format is None else log_format is LogFormat.JSON
    return LogOptions(level=level.value, as_json=as_json, file=file)


def start_logs(options: LogOptions | None = None, *, has_bars: bool = True) -> Bars | None:
    """Configure the logs of what runs until it is stopped, and report long work there.

    Returns the bars, which are drawn where the logs are for people; None without, or if
    ``has_bars`` is False. Raises ConfigError for a log file that cannot be opened.
    """
    from subnet.cli.progress import can_draw, log_progress
    from subnet.operator.logs import configure_logs

    configure_logs(options)
    is_json = options is not None and options.as_json is True
    return log_progress(with_bars=has_bars and not is_json and can_draw())
