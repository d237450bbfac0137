"""Logs leave secrets out and limit repeated lines; a log file is private and of limited size."""

from __future__ import annotations

import json
import logging
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from subnet.errors import ConfigError
from subnet.operator import logs
from subnet.operator.logs import (
    MAX_KNOWN_LINES,
    MAX_REPEATS,
    REPEAT_WINDOW_S,
    LogOptions,
    RepeatLimit,
    configure_logs,
)


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Leave the process's loggers as they were."""
    root = logging.getLogger()
    kept, level = list(root.handlers), root.level
    yield
    for handler in root.handlers:
        if handler not in kept:
            handler.close()
    root.handlers[:] = kept
    root.setLevel(level)
    structlog.reset_defaults()


def read_lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_log_file_is_private_json_of_the_level_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "node.log"
    configure_logs(LogOptions(level="warning", as_json=False, file=path))
    logger = structlog.get_logger("subnet.test")
    logger.info("not said")
    logger.warning("left", url="wss://u:p@chain.example", password="x")
    try:
        raise ValueError("wss://u:p@chain.example broke")
    except ValueError:
        logger.exception("broken")
    logging.getLogger("subnet.other").warning("%s is left", "wss://u:p@chain.example")
    first, second, third = read_lines(path)
    assert (first["event"], first["url"], first["password"]) == (
        "left",
        "wss://chain.example",
        "<redacted>",
    )
    assert "wss://chain.example broke" in str(second["exception"])
    assert third["event"] == "wss://chain.example is left"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_log_file_is_begun_anew_before_it_grows_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "MAX_FILE_BYTES", 2000)
    path = tmp_path / "node.log"
    configure_logs(LogOptions(file=path))
    for word in "abcdefghijklmnopqrst":
        structlog.get_logger("subnet.test").info("long", field=200 * word)
    written = sorted(tmp_path.iterdir())
    assert 1 < len(written) <= 1 + logs.KEPT_FILES
    assert all(file.stat().st_size <= 2000 for file in written)
    assert {stat.S_IMODE(file.stat().st_mode) for file in written} == {0o600}


def test_a_log_file_that_cannot_be_opened_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent/node.log cannot be opened: No such file"):
        configure_logs(LogOptions(file=tmp_path / "absent" / "node.log"))


def test_a_log_file_has_one_writer(tmp_path: Path) -> None:
    """Two processes would rename the file below each other, and lose lines."""
    path = tmp_path / "node.log"
    other = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from pathlib import Path\n"
            "from subnet.operator.logs import LogOptions, configure_logs\n"
            "configure_logs(LogOptions(file=Path(sys.argv[1])))\n"
            "print(flush=True); sys.stdin.read()",
            str(path),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert other.stdout is not None
    assert other.stdout.readline() == b"\n"
    with pytest.raises(ConfigError, match=r"another process writes the log file .*node.log"):
        configure_logs(LogOptions(file=path))
    other.communicate()
    configure_logs(LogOptions(file=path))


def make_record(event: str, level: int = logging.WARNING, **fields: object) -> logging.LogRecord:
    record = logging.LogRecord("subnet.test", level, "", 0, "", None, None)
    record.msg = {"event": event} | fields  # type: ignore[assignment]
    return record


def test_lines_alike_but_for_numbers_are_limited_and_counted() -> None:
    now_s = 0.0
    limit = RepeatLimit(lambda: now_s)
    passed = [limit.filter(make_record("chain unavailable", block=n)) for n in range(50)]
    assert passed == [True] * MAX_REPEATS + [False] * (50 - MAX_REPEATS)
    assert limit.filter(make_record("chain unavailable", block="other"))
    assert all(limit.filter(make_record("seen", logging.DEBUG)) for _ in range(50))
    now_s = REPEAT_WINDOW_S
    late = make_record("chain unavailable", block=51)
    assert limit.filter(late)
    assert isinstance(late.msg, dict) and late.msg["left_out_like_this"] == 50 - MAX_REPEATS


def test_lines_left_out_are_counted_once_in_each_place_that_is_written() -> None:
    now_s = 0.0
    limits = [RepeatLimit(lambda: now_s) for _ in range(2)]

    def write() -> list[object]:
        """Return what each handler says was left out; all of them get the same record."""
        record, told = make_record("chain unavailable"), []
        for limit in limits:
            if limit.filter(record):
                assert isinstance(record.msg, dict)
                told.append(record.msg.get("left_out_like_this"))
        return told

    for _ in range(MAX_REPEATS + 3):
        write()
    now_s = REPEAT_WINDOW_S
    assert (write(), write()) == ([3, 3], [None, None])


def test_what_the_limit_remembers_is_bounded() -> None:
    limit = RepeatLimit(lambda: 0.0)
    for number in range(2 * MAX_KNOWN_LINES):
        word = "".join(chr(ord("a") + int(digit)) for digit in str(number))
        assert limit.filter(make_record(word))
    assert len(limit._seen) == MAX_KNOWN_LINES
