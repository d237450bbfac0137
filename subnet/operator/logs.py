"""Logs for operators: stable event names with fields, on stderr, without secrets."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

from subnet.operator.redaction import redact_urls

MAX_VALUE_TEXT = 300
_SECRET_WORDS = ("password", "salt", "secret", "private", "mnemonic", "seed_phrase")
_OWN_LOGGERS = ("keys", "consensus", "mesh", "devchain", "subnet")


def configure_logs(*, as_json: bool | None = None, level: int = logging.INFO) -> None:
    """Send structured logs to stderr, for people on a terminal and as JSON elsewhere.

    ``MESH_LOG_FORMAT`` (``pretty`` or ``json``) decides when ``as_json`` is None. Other
    libraries' loggers speak from WARNING on.
    """
    if as_json is None:
        chosen = os.environ.get("MESH_LOG_FORMAT", "")
        as_json = chosen == "json" or (chosen != "pretty" and not sys.stderr.isatty())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _redact,
        structlog.processors.format_exc_info,
    ]
    renderer: Any = (
        structlog.processors.JSONRenderer(default=str)
        if as_json
        else structlog.dev.ConsoleRenderer(colors="NO_COLOR" not in os.environ)
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    for name in _OWN_LOGGERS:
        logging.getLogger(name).setLevel(level)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


def _redact(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    for name, value in event.items():
        if isinstance(value, str) and "://" in value:
            value = event[name] = redact_urls(value)
        if name == "prompt" or any(word in name.lower() for word in _SECRET_WORDS):
            event[name] = "<redacted>"
        elif isinstance(value, str) and len(value) > MAX_VALUE_TEXT and name != "exception":
            event[name] = value[:MAX_VALUE_TEXT] + "..."
    return event
