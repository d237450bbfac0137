"""When the swarm, the gateway or the body fails: the right status, and no content anywhere."""

from __future__ import annotations

from mesh.errors import NoRoute, PeerRefusal
from tests.support.http_checks import SECRET, check_error
from tests.support.local_backend import MODEL

CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
TEXT = {"model": MODEL, "prompt": "hi"}


async def test_a_body_beyond_the_limit_is_413(open_api, backend):
    api = await open_api(backend, limits={"max_body_bytes": 2000})
    check_error(await api.post("/v1/completions", json={**TEXT, "prompt": "x" * 3000}), 413)

    async def chunks():
        for _ in range(30):
            yield b"x" * 100

    response = await api.post(
        "/v1/completions", content=chunks(), headers={"Content-Type": "application/json"}
    )
    check_error(response, 413)


async def test_missing_layers_are_503_and_named(open_api, make_backend):
    api = await open_api(make_backend(uncovered=((12, 18),)))
    for path, body in (("/v1/chat/completions", CHAT), ("/v1/completions", TEXT)):
        error = check_error(await api.post(path, json=body), 503)
        assert "12:18" in error["message"] and error["code"] == "no_route"
    assert (await api.get("/v1/models")).json() == {"object": "list", "data": []}
    ready = await api.get("/readyz")
    assert ready.status_code == 503 and "12:18" in ready.text
    assert (await api.get("/livez")).status_code == 200


async def test_a_busy_hoster_is_503_with_retry_after(open_api, make_backend):
    from keys.peer import PeerKey

    peer_id = PeerKey.generate().peer_id
    api = await open_api(make_backend(failure=PeerRefusal(peer_id, "busy", SECRET)))
    response = await api.post("/v1/completions", json=TEXT)
    check_error(response, 503)
    assert int(response.headers["retry-after"]) > 0


async def test_a_defect_is_500_without_its_message_and_harms_nobody_else(
    open_api, make_backend, capsys, caplog
):
    backend = make_backend(failure=RuntimeError(SECRET))
    api = await open_api(backend)
    check_error(await api.post("/v1/completions", json=TEXT), 500)
    backend.failure = None
    assert (await api.post("/v1/completions", json=TEXT)).status_code == 200
    # A test before may have configured the logs of this process, which then go another way.
    logged = capsys.readouterr()
    said = logged.out + logged.err + caplog.text
    assert "RuntimeError" in said and SECRET not in said


async def test_neither_prompts_nor_keys_are_logged(api, capsys, caplog):
    body = {**CHAT, "messages": [{"role": "user", "content": SECRET}], "user": SECRET}
    headers = {"Authorization": f"Bearer {SECRET}"}
    caplog.set_level("INFO", logger="mesh")
    await api.post("/v1/chat/completions", json=body, headers=headers)
    await api.post("/v1/completions", json={**TEXT, "prompt": [SECRET], "n": -1})
    await api.get("/v1/models", params={"api_key": SECRET})
    logged = capsys.readouterr()
    said = logged.out + logged.err + caplog.text
    assert "request" in said and SECRET not in said


async def test_the_health_of_a_stranger_is_answered_in_the_error_shape(open_api, make_backend):
    backend = make_backend()

    async def fail():
        raise NoRoute(((0, 1),))

    backend.list_models = fail
    api = await open_api(backend)
    assert (await api.get("/readyz")).status_code == 503
    check_error(await api.get("/v1/models"), 503)
