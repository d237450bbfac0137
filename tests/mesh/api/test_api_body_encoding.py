"""Compressed bodies: unpacked within the limit, or refused with a sentence."""

from __future__ import annotations

import gzip
import json
import zlib

import pytest

from tests.support.http_checks import check_error
from tests.support.local_backend import MODEL

BODY = json.dumps({"model": MODEL, "prompt": "Hello"}).encode()
PACKED = gzip.compress(BODY, mtime=0)


async def send(api, content, encoding="gzip"):
    headers = {"Content-Type": "application/json", "Content-Encoding": encoding}
    return await api.post("/tokenize", content=content, headers=headers)


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "x-gzip"])
async def test_a_gzip_body_is_read(api, tokenizer, encoding):
    response = await send(api, gzip.compress(BODY), encoding)
    assert response.json()["tokens"] == tokenizer.encode("Hello").ids


async def test_a_body_that_names_no_encoding_is_read(api):
    assert (await send(api, BODY, "identity")).status_code == 200


@pytest.mark.parametrize("encoding", ["br", "zstd", "deflate", "gzip, gzip", "nonsense"])
async def test_another_encoding_is_refused_with_a_sentence(api, encoding):
    response = await send(api, zlib.compress(BODY), encoding)
    assert "Content-Encoding: gzip" in check_error(response, 415)["message"]
    assert response.headers["accept-encoding"] == "gzip"


async def test_a_bomb_is_refused_before_it_is_unpacked(open_api, backend):
    api = await open_api(backend, limits={"max_body_bytes": 4096})
    bomb = gzip.compress(b" " * 3_000_000)
    assert len(bomb) < 4096
    check_error(await send(api, bomb), 413)
    check_error(await send(api, gzip.compress(b" " * 4097)), 413)


# Workers that collect at another second must find the same tests.
@pytest.mark.parametrize(
    "content",
    [b"", BODY, PACKED[:-5], PACKED + b"x", PACKED * 2],
    ids=["nothing", "not packed", "cut", "a byte more", "twice"],
)
async def test_what_is_no_gzip_is_refused(api, content):
    check_error(await send(api, content), 400)
