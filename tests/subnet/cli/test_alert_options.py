"""The webhook of alerts as an operator names it: on the line or, better, in a private file."""

from __future__ import annotations

import pytest

from subnet.cli.alerts import make_webhook
from subnet.errors import ConfigError, UsageError

URL = "https://hooks.example.org/services/abcdefghijklmnop"


def write(path, text, mode=0o600):
    path.write_text(text)
    path.chmod(mode)
    return path


def test_line_and_file_mean_the_same_and_neither_means_none(tmp_path):
    on_line = make_webhook(URL, file=None, may_be_private=False)
    in_file = make_webhook(None, file=write(tmp_path / "hook", f"{URL}\n"), may_be_private=False)
    assert on_line == in_file and "abcdefghijklmnop" not in f"{on_line!r} {on_line}"
    assert make_webhook(None, file=None, may_be_private=False) is None


def test_what_contradicts_itself_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError):
        make_webhook(URL, file=tmp_path / "hook", may_be_private=False)
    with pytest.raises(UsageError):
        make_webhook(None, file=None, may_be_private=True)


def test_a_file_that_others_can_read_or_that_is_missing_or_too_long_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="the webhook file"):
        make_webhook(None, file=write(tmp_path / "open", URL, mode=0o644), may_be_private=False)
    with pytest.raises(ConfigError, match="cannot read the webhook file"):
        make_webhook(None, file=tmp_path / "absent", may_be_private=False)
    with pytest.raises(ConfigError, match="is not an address"):
        make_webhook(
            None, file=write(tmp_path / "long", f"{URL}{'x' * 5000}"), may_be_private=False
        )
