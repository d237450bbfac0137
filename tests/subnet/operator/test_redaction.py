"""Addresses in logs: the server stays, what may be an access token goes."""

from __future__ import annotations

import io
import json
import logging
import sys

import pytest
import structlog

from subnet.operator.logs import LogOptions, configure_logs
from subnet.operator.redaction import redact_urls

TOKEN = "0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"wss://rpc.example.org/v1/{TOKEN} fails", "wss://rpc.example.org/... fails"),
        (f"wss://rpc.example.org:444/?key={TOKEN}", "wss://rpc.example.org:444/..."),
        (f"https://user:{TOKEN}@example.org/", "https://example.org/"),
        (f"at 'https://a.org/x?k={TOKEN}', not", "at 'https://a.org/...', not"),
        ("wss://rpc.example.org", "wss://rpc.example.org"),
        ("https://example.org/v1/models", "https://example.org/v1/models"),
        ("http://127.0.0.1:31340/metrics?a=1", "http://127.0.0.1:31340/metrics?a=1"),
        (f"ws://me:{TOKEN}@127.0.0.1:9944/", "ws://127.0.0.1:9944/"),
        (f"https://[not-an-address/{TOKEN}", "<redacted>"),
        # As --chain lists them: each is judged alone.
        (f"on ws://127.0.0.1:9944,wss://a.org/{TOKEN}", "on ws://127.0.0.1:9944,wss://a.org/..."),
        ("wss://a.org,wss://u:k@b.org", "wss://a.org,wss://b.org"),
        (f"wss://a.org/x,{TOKEN}", "wss://a.org/..."),
        ("/ip4/1.2.3.4/tcp/31330", "/ip4/1.2.3.4/tcp/31330"),
    ],
)
def test_only_what_may_be_a_secret_goes(text, shown):
    assert redact_urls(text) == shown


def test_own_logs_and_those_of_the_standard_library_are_redacted(monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(sys, "stderr", out)
    url = f"wss://rpc.example.org/{TOKEN}"
    handlers, level = logging.root.handlers[:], logging.root.level
    try:
        configure_logs(LogOptions(as_json=True))
        structlog.get_logger("subnet.test").warning(f"{url} fails", url=url)
        logging.getLogger("subnet.chain.endpoints").warning("%s is left for now", url)
    finally:
        structlog.reset_defaults()
        logging.basicConfig(handlers=handlers, level=level, force=True)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert len(lines) == 2 and TOKEN not in out.getvalue()
    assert all("wss://rpc.example.org/..." in line["event"] for line in lines)
