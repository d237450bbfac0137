"""The page's files as browsers keep them: compared by content, compressed, and never stale."""

from __future__ import annotations

import gzip
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.api.page import FILES
from mesh.api.page_files import accepts_gzip, is_known

PATHS = ["/", "/static/knowledge.json", *(f"/static/{name}" for name in FILES)]
PLAIN = {"Accept-Encoding": "identity"}
PACKED = {"Accept-Encoding": "gzip"}


@pytest.mark.parametrize("path", PATHS)
async def test_a_file_is_sent_once_and_then_only_compared(api, path):
    for accepted in (PLAIN, PACKED):
        first = await api.get(path, headers=accepted)
        etag = first.headers["etag"]
        assert first.status_code == 200 and first.headers["cache-control"] == "no-cache"
        assert etag.startswith('"') and etag.endswith('"')
        assert first.headers["vary"] == "Accept-Encoding"
        again = await api.get(path, headers={**accepted, "If-None-Match": etag})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == etag and again.headers["cache-control"] == "no-cache"
        assert "content-security-policy" in again.headers
        other = await api.get(path, headers={**accepted, "If-None-Match": '"another"'})
        assert other.status_code == 200 and other.content == first.content


@pytest.mark.parametrize("path", PATHS)
async def test_head_says_what_get_would_send(api, path):
    for accepted in (PLAIN, PACKED):
        get, head = await api.get(path, headers=accepted), await api.head(path, headers=accepted)
        assert (head.status_code, head.content) == (200, b"")
        for name in ("content-type", "content-length", "etag", "cache-control", "vary"):
            assert head.headers[name] == get.headers[name], name
        assert head.headers.get("content-encoding") == get.headers.get("content-encoding")
        known = await api.head(path, headers={**accepted, "If-None-Match": head.headers["etag"]})
        assert known.status_code == 304


async def test_a_file_is_compressed_where_that_is_accepted_and_the_same_when_unpacked(api):
    plain = await api.get("/static/chat.js", headers=PLAIN)
    async with api.stream("GET", "/static/chat.js", headers=PACKED) as packed:
        raw = b"".join([part async for part in packed.aiter_raw()])
    assert packed.headers["content-encoding"] == "gzip"
    assert gzip.decompress(raw) == plain.content and 2 * len(raw) < len(plain.content)
    assert "content-encoding" not in plain.headers
    # A strong tag names bytes: the two codings are different ones.
    assert packed.headers["etag"] != plain.headers["etag"]
    assert hashlib.sha256(plain.content).hexdigest()[:24] in plain.headers["etag"]
    refused = await api.get("/static/chat.js", headers={"Accept-Encoding": "gzip;q=0, br"})
    assert "content-encoding" not in refused.headers and refused.content == plain.content


async def test_a_file_that_is_not_there_has_no_tag(api):
    answer = await api.get("/static/nothing.js")
    assert answer.status_code == 404 and "etag" not in answer.headers


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", False),
        ("gzip", True),
        ("br, GZIP", True),
        ("gzip;q=0", False),
        ("gzip; q=0.000, *", False),
        ("gzip;q=0.5", True),
        ("*", True),
        ("*;q=0", False),
        ("gzip;q=nonsense", False),
        ("xgzip", False),
        ("identity;q=1, *;q=0", False),
    ],
)
def test_what_an_accept_encoding_takes(header, expected):
    assert accepts_gzip(header) is expected


@pytest.mark.parametrize(
    ("header", "expected"),
    [('"a"', True), ('W/"a"', True), ('"b", "a"', True), ("*", True), ('"b"', False), ("a", False)],
)
def test_which_tags_are_known(header, expected):
    assert is_known('"a"', header) is expected


@given(st.text(max_size=200))
def test_no_header_is_a_failure_of_ours(header):
    assert accepts_gzip(header) in (True, False) and not is_known('"of no file"x', header)
