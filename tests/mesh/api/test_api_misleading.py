"""Refusals name what is wrong, and the address that was probably meant."""

from __future__ import annotations

import pytest

from mesh.api import middleware
from mesh.api.keys_file import create_key
from mesh.api.rate_limit import Rate
from tests.support.http_checks import check_error
from tests.support.local_backend import MODEL

CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
PATH = "/v1/chat/completions"


async def test_nine_stops_are_called_too_many(api):
    error = check_error(await api.post(PATH, json={**CHAT, "stop": ["a"] * 9}), 400, param="stop")
    assert "at most 8 items" in error["message"]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "input_audio", "input_audio": {}},
    ],
)
async def test_a_part_that_is_no_text_is_refused_as_such(api, part):
    content = [{"type": "text", "text": "What is this?"}, part]
    body = {**CHAT, "messages": [{"role": "user", "content": content}]}
    error = check_error(await api.post(PATH, json=body), 400, param="messages[0].content[1].type")
    assert "only parts of type 'text'" in error["message"]
    assert "valid string" not in error["message"]


@pytest.mark.parametrize("value", [7, {"a": 1}, True])
async def test_a_value_of_no_known_type_is_still_refused(api, value):
    check_error(await api.post(PATH, json={**CHAT, "stop": value}), 400, param="stop")


async def test_the_list_of_models_is_there_with_a_slash_too(api):
    assert (await api.get("/v1/models/")).json() == (await api.get("/v1/models")).json()


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/chat/completions", "/v1/chat/completions"),
        ("/v1/v1/chat/completions", "/v1/chat/completions"),
        ("/v1/chat/completions/", "/v1/chat/completions"),
        ("/completions", "/v1/completions"),
        ("/models", "/v1/models"),
    ],
)
async def test_a_wrong_base_address_is_told_the_right_one(api, path, meant):
    response = await (api.get(path) if "models" in path else api.post(path, json=CHAT))
    error = check_error(response, 404)
    assert error["message"].endswith(f"Did you mean {meant}?")


async def test_an_address_that_is_like_none_gets_no_hint(api):
    error = check_error(await api.get("/v1/<script>"), 404)
    assert error["message"] == "There is nothing at this address."


async def test_a_refusal_for_its_rate_is_logged_with_the_callers_name(
    open_api, backend, tmp_path, monkeypatch
):
    lines = []
    monkeypatch.setattr(middleware.log, "info", lambda event, **fields: lines.append(fields))
    keys = tmp_path / "keys.txt"
    key = create_key(keys, "busy-bee", rate=Rate(1, 1), now_s=1)
    api = await open_api(backend, keys_file=keys)
    headers = {"Authorization": f"Bearer {key}"}
    for status in (200, 429):
        assert (await api.post(PATH, json=CHAT, headers=headers)).status_code == status
    assert (await api.post(PATH, json=CHAT)).status_code == 401
    told = [(line["status"], line["caller"]) for line in lines]
    assert told == [(200, "busy-bee"), (429, "busy-bee"), (401, None)]
