"""``/metrics`` on the API's own port: who may read it."""

from __future__ import annotations

from mesh.api.checks import ShownMetrics
from mesh.api.keys_file import create_key, revoke_key
from mesh.api.monitoring import CONTENT_TYPE
from tests.support.http_checks import check_error

TOKEN = "a-long-enough-token"
PAGE = b"mesh_ready 1\n"


def shown(token=None):
    return ShownMetrics(lambda: PAGE, token)


def bear(key):
    return {"Authorization": f"Bearer {key}"}


async def test_without_keys_the_metrics_are_as_open_as_the_api(open_api, backend):
    api = await open_api(backend, metrics=shown())
    reply = await api.get("/metrics")
    assert (reply.status_code, reply.content) == (200, PAGE)
    assert reply.headers["content-type"] == CONTENT_TYPE
    assert (await api.get("/metrics", headers={"Host": "evil.example"})).status_code == 421
    check_error(await api.post("/metrics", json={}), 405)


async def test_with_keys_only_a_key_reads_them(open_api, backend, tmp_path):
    keys_file = tmp_path / "keys"
    key, gone = (create_key(keys_file, name, now_s=1) for name in ("scraper", "gone"))
    revoke_key(keys_file, "gone", now_s=2)
    api = await open_api(backend, metrics=shown(TOKEN), keys_file=keys_file)
    for headers in ({}, bear(gone), bear("other"), bear(TOKEN)):
        reply = await api.get("/metrics", headers=headers)
        assert check_error(reply, 401)["code"] == "invalid_api_key"
        assert PAGE not in reply.content
    assert (await api.get("/metrics", headers=bear(key))).content == PAGE
    assert (await api.get("/metrics", headers={"X-API-Key": key})).content == PAGE


async def test_a_token_of_the_metrics_is_asked_for_here_too(open_api, backend):
    api = await open_api(backend, metrics=shown(TOKEN))
    for headers in ({}, bear("other"), bear(TOKEN + "x")):
        reply = await api.get("/metrics", headers=headers)
        assert check_error(reply, 401)["code"] == "invalid_metrics_token"
        assert PAGE not in reply.content
    assert (await api.get("/metrics", headers=bear(TOKEN))).content == PAGE
    assert TOKEN not in repr(shown(TOKEN))


async def test_a_gateway_that_shows_none_says_so(api):
    assert check_error(await api.get("/metrics"), 404)["code"] == "no_metrics"
