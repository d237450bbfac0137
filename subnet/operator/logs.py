"""Logs for operators: stable event names with fields, without secrets, on stderr and in a file."""

from __future__ import annotations

import fcntl
import logging
import logging.handlers
import os
import re
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import structlog

from subnet.errors import ConfigError
from subnet.operator.redaction import redact_urls

MAX_VALUE_TEXT = 300
MAX_FILE_BYTES = 16 << 20
KEPT_FILES = 5
"""Old log files beside the one that is written."""
MAX_REPEATS = 20
"""Lines alike but for their numbers that are written in REPEAT_WINDOW_S; the rest is counted."""
REPEAT_WINDOW_S = 60.0
MAX_KNOWN_LINES = 1024
LEFT_OUT = "left_out_like_this"
_DIGITS = re.compile(r"\d+")
_SECRET_WORDS = ("password", "salt", "secret", "private", "mnemonic", "seed_phrase")
_OWN_LOGGERS = ("keys", "consensus", "mesh", "devchain", "subnet")


@dataclass(frozen=True, slots=True)
class LogOptions:
    """How a process logs. ``as_json`` None: JSON unless stderr is a terminal.

    ``file`` gets JSON lines too; at MAX_FILE_BYTES it is renamed and begun anew.
    """

    level: str = "info"
    as_json: bool | None = None
    file: Path | None = None


def configure_logs(options: LogOptions | None = None) -> None:
    """Send structured logs to stderr, for people on a terminal and as JSON elsewhere.

    Other libraries' loggers speak from WARNING on. Raises ConfigError for a log file that cannot
    be opened.
    """
    options = options or LogOptions()
    as_json = not sys.stderr.isatty() if options.as_json is None else options.as_json
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _redact,
    ]
    handlers: list[logging.Handler] = [_StderrHandler()]
    handlers[0].setFormatter(_make_formatter(shared, as_json=as_json))
    if options.file is not None:
        handlers.append(_open_file(options.file))
        handlers[1].setFormatter(_make_formatter(shared, as_json=True))
    for handler in handlers:
        handler.addFilter(RepeatLimit())
    logging.basicConfig(handlers=handlers, level=logging.WARNING, force=True)
    for name in _OWN_LOGGERS:
        logging.getLogger(name).setLevel(options.level.upper())
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


def _make_formatter(shared: list[Any], *, as_json: bool) -> logging.Formatter:
    renderer: Any = (
        structlog.processors.JSONRenderer(default=str)
        if as_json
        else structlog.dev.ConsoleRenderer(colors="NO_COLOR" not in os.environ)
    )
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
    )


class RepeatLimit(logging.Filter):
    """Lets MAX_REPEATS lines through that differ in numbers only, and counts the others.

    The first line of the next window says how many were left out. DEBUG lines are not limited.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._seen: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno <= logging.DEBUG:
            return True
        key, now_s = _make_key(record), self._clock()
        since_s, count = self._seen.pop(key, (now_s, 0))
        left_out = 0
        if now_s - since_s >= REPEAT_WINDOW_S:
            left_out, since_s, count = max(0, count - MAX_REPEATS), now_s, 0
        self._seen[key] = since_s, count + 1
        if len(self._seen) > MAX_KNOWN_LINES:
            self._seen.popitem(last=False)
        if left_out and isinstance(record.msg, dict):
            # The handlers share the record, and each has its own filter: the key leaves this out.
            record.msg = record.msg | {LEFT_OUT: left_out}
        return count < MAX_REPEATS


def _make_key(record: logging.LogRecord) -> str:
    fields = record.msg if isinstance(record.msg, dict) else {"event": str(record.msg)}
    told = {name: value for name, value in fields.items() if name not in ("timestamp", LEFT_OUT)}
    return _DIGITS.sub("#", f"{record.name} {record.levelno} {told}"[: 4 * MAX_VALUE_TEXT])


class _StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to what ``sys.stderr`` is now: a live display takes its place for a while."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


class _PrivateFile(logging.handlers.RotatingFileHandler):
    """A log file of one process, that its owner alone may read.

    A full disk costs lines, and is said once.
    """

    _has_failed = False

    def _open(self) -> Any:
        flags = os.O_CREAT | os.O_APPEND | os.O_WRONLY | os.O_CLOEXEC
        descriptor = os.open(self.baseFilename, flags, 0o600)
        try:
            # Two processes would rename the file below each other.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise
        return open(descriptor, "a", encoding="utf-8")

    def handleError(self, record: logging.LogRecord) -> None:
        if not self._has_failed:
            self._has_failed = True
            sys.stderr.write(f"the log file {self.baseFilename} cannot be written\n")


def _open_file(path: Path) -> logging.Handler:
    try:
        return _PrivateFile(path, maxBytes=MAX_FILE_BYTES, backupCount=KEPT_FILES)
    except BlockingIOError as error:
        raise ConfigError(
            f"another process writes the log file {path}", "give each process its own --log-file"
        ) from error
    except OSError as error:
        raise ConfigError(
            f"the log file {path} cannot be opened: {error.strerror}",
            "give --log-file a file in a folder that exists and can be written",
        ) from error


def _redact(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    for name, value in event.items():
        if name == "prompt" or any(word in name.lower() for word in _SECRET_WORDS):
            event[name] = "<redacted>"
        elif isinstance(value, str):
            text = redact_urls(value)
            is_long = len(text) > MAX_VALUE_TEXT and name != "exception"
            event[name] = text[:MAX_VALUE_TEXT] + "..." if is_long else text
    return event
