"""Pages of listed origins: what a browser asks first, and what its script may read."""

from __future__ import annotations

import json

import pytest

from mesh.api.keys_file import create_key
from mesh.api.rate_limit import Rate
from tests.support.local_backend import MODEL

PAGE = "https://page.example"
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}


async def test_the_clients_own_headers_pass_the_preflight(open_api, backend):
    api = await open_api(backend, cors_origins=(PAGE,))
    wanted = "authorization,content-type,x-stainless-arch,x-stainless-os,x-stainless-retry-count"
    response = await api.options(
        "/v1/chat/completions",
        headers={
            "Origin": PAGE,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": wanted,
        },
    )
    assert response.status_code == 200
    assert set(wanted.split(",")) <= set(
        response.headers["access-control-allow-headers"].replace(" ", "").lower().split(",")
    )


async def test_a_page_may_read_every_refusal_and_the_headers_that_explain_it(
    open_api, backend, tmp_path
):
    keys = tmp_path / "keys.txt"
    key = create_key(keys, "page", rate=Rate(1, 1), now_s=1)
    other = create_key(keys, "other", rate=Rate(1, 1), now_s=1)
    api = await open_api(
        backend, cors_origins=(PAGE,), keys_file=keys, limits={"max_body_bytes": 400}
    )
    asked = {"Origin": PAGE, "Authorization": f"Bearer {key}"}
    answers = [
        await api.post("/v1/chat/completions", json=CHAT, headers={"Origin": PAGE}),
        await api.post("/v1/chat/completions", json=CHAT, headers=asked),
        await api.post("/v1/chat/completions", json=CHAT, headers=asked),
        await api.post(
            "/v1/chat/completions",
            content=b" " * 500,
            headers={**asked, "Authorization": f"Bearer {other}"},
        ),
        await api.post("/v1/nowhere", json=CHAT, headers={"Origin": PAGE}),
    ]
    assert [answer.status_code for answer in answers] == [401, 200, 429, 413, 401]
    for answer in answers:
        assert answer.headers["access-control-allow-origin"] == PAGE
        exposed = answer.headers["access-control-expose-headers"]
        assert {"X-Mesh-Route", "Request-Id", "Retry-After"} <= set(
            exposed.replace(" ", "").split(",")
        )
    assert "retry-after" in answers[2].headers


async def test_other_origins_get_nothing(open_api, backend):
    api = await open_api(backend, cors_origins=(PAGE,))
    response = await api.post(
        "/v1/chat/completions", json=CHAT, headers={"Origin": "https://other.example"}
    )
    assert response.status_code == 403
    assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize("path", ["/livez", "/v1/models", "/"])
async def test_head_is_answered_like_get_without_a_body(api, path):
    head, get = await api.head(path), await api.get(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == get.headers["content-type"]


@pytest.mark.parametrize(
    "change",
    [
        {"messages": [{"role": "user", "content": "\ud800"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a\udfff"}]}]},
        {"tools": [{"type": "function", "function": {"name": "f", "description": "\ud800"}}]},
        {"stop": "\ud800"},
        {"user": "\ud800"},
        {"guided_regex": "\ud800"},
        {"guided_json": {"const": "\ud800"}},
        {"guided_choice": ["\ud800"]},
        {"\ud800": 1},
    ],
    ids=lambda change: next(iter(change)),
)
async def test_half_a_character_is_never_a_failure_of_ours(api, change):
    content = json.dumps({**CHAT, **change}).encode()
    response = await api.post(
        "/v1/chat/completions", content=content, headers={"Content-Type": "application/json"}
    )
    assert response.status_code in (200, 400)
