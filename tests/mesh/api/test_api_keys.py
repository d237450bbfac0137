"""API keys: hashed at rest, named, revocable, limited; and who may listen where."""

from __future__ import annotations

import os
import stat

import pytest

from mesh.api.auth import RATE_HEADERS, KeyRing
from mesh.api.errors import (
    AddressInUse,
    ApiError,
    KeyNameTaken,
    KeysFileCorrupt,
    KeysFileMissing,
    KeysFileMode,
    PublicBindWithoutKey,
    UnknownKeyName,
)
from mesh.api.keys_file import KEY_PREFIX, create_key, read_keys, revoke_key
from mesh.api.rate_limit import Rate
from mesh.api.server import ServeConfig, check_bind, open_gateway
from mesh.loopback import is_loopback
from tests.support.http_checks import check_error
from tests.support.local_backend import MODEL

TEXT = {"model": MODEL, "prompt": "hi", "max_tokens": 1}
NOW = 1_800_000_000


@pytest.fixture
def keys_file(tmp_path):
    return tmp_path / "private" / "keys.jsonl"


def test_the_file_is_private_and_holds_no_key(keys_file):
    key = create_key(keys_file, "ci", now_s=NOW)
    assert key.startswith(KEY_PREFIX) and len(key) > 40
    assert stat.S_IMODE(keys_file.stat().st_mode) == 0o600
    assert key not in keys_file.read_text() and key[5:] not in keys_file.read_text()
    assert key not in repr(read_keys(keys_file)) + repr(KeyRing.open(keys_file))


def test_the_file_is_appended_to_and_never_rewritten(keys_file):
    create_key(keys_file, "one", now_s=NOW)
    before, inode = keys_file.read_bytes(), keys_file.stat().st_ino
    create_key(keys_file, "two", now_s=NOW)
    revoke_key(keys_file, "one", now_s=NOW + 1)
    assert keys_file.read_bytes().startswith(before)
    assert keys_file.stat().st_ino == inode
    assert [(key.name, key.revoked_s) for key in read_keys(keys_file)] == [
        ("one", NOW + 1),
        ("two", None),
    ]


def test_a_name_is_used_once_even_after_it_is_revoked(keys_file):
    create_key(keys_file, "ci", now_s=NOW)
    with pytest.raises(KeyNameTaken):
        create_key(keys_file, "ci", now_s=NOW)
    revoke_key(keys_file, "ci", now_s=NOW)
    with pytest.raises(KeyNameTaken):
        create_key(keys_file, "ci", now_s=NOW)
    with pytest.raises(UnknownKeyName):
        revoke_key(keys_file, "ci", now_s=NOW)


@pytest.mark.parametrize("name", ["", "a b", "../x", "x" * 65, "new\nline", "é"])
def test_a_name_that_would_confuse_a_log_is_refused(keys_file, name):
    with pytest.raises(UnknownKeyName):
        create_key(keys_file, name, now_s=NOW)
    assert not keys_file.exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o777])
def test_a_file_that_others_can_read_is_refused_with_the_fix(keys_file, mode):
    create_key(keys_file, "ci", now_s=NOW)
    keys_file.chmod(mode)
    with pytest.raises(KeysFileMode, match="chmod 600"):
        read_keys(keys_file)
    with pytest.raises(KeysFileMode):
        create_key(keys_file, "two", now_s=NOW)


@pytest.mark.parametrize(
    "content",
    [
        b"{}\n",
        b"not json\n",
        b'{"event":"revoked","name":"nobody","revoked_s":1}\n',
        b'{"event":"created"',
        b"\xff\n",
        b"x" * (2 << 20),
    ],
)
def test_a_damaged_file_lets_nobody_in(keys_file, content):
    create_key(keys_file, "ci", now_s=NOW)
    with keys_file.open("ab") as file:
        file.write(content)
    with pytest.raises(KeysFileCorrupt):
        KeyRing.open(keys_file)
    with pytest.raises(KeysFileCorrupt):
        create_key(keys_file, "two", now_s=NOW)


def test_a_link_is_not_followed(keys_file, tmp_path):
    create_key(keys_file, "ci", now_s=NOW)
    link = tmp_path / "link"
    link.symlink_to(keys_file)
    with pytest.raises(KeysFileCorrupt):
        read_keys(link)
    with pytest.raises(KeysFileMissing):
        read_keys(tmp_path / "absent")


async def test_only_a_valid_key_gets_in(open_api, backend, keys_file):
    key = create_key(keys_file, "ci", now_s=NOW)
    api = await open_api(backend, keys_file=keys_file)
    assert (await api.post("/v1/completions", json=TEXT)).status_code == 401
    for headers in (
        {"Authorization": f"Bearer {key}"},
        {"Authorization": f"bearer {key}"},
        {"X-API-Key": key},
    ):
        assert (await api.get("/v1/models", headers=headers)).status_code == 200
    for wrong in (key[:-1], key + "x", "mesh-", "é" * 20, "x" * 5000, f"{key} {key}"):
        headers = {"Authorization": f"Bearer {wrong}".encode()}
        response = await api.post("/v1/completions", json=TEXT, headers=headers)
        error = check_error(response, 401)
        assert error["code"] == "invalid_api_key"
        assert response.headers["www-authenticate"] == "Bearer"
        assert wrong not in response.text or wrong == "mesh-"
    basic = {"Authorization": f"Basic {key}"}
    assert (await api.get("/v1/models", headers=basic)).status_code == 401
    assert len(backend.requests) == 0


async def test_without_a_key_only_the_page_and_the_health_checks_answer(
    open_api, backend, keys_file
):
    create_key(keys_file, "ci", now_s=NOW)
    api = await open_api(backend, keys_file=keys_file)
    for path in ("/", "/static/chat.js", "/livez", "/readyz", "/health"):
        assert (await api.get(path)).status_code == 200, path
    for path in ("/v1/models", "/openapi.json", "/nothing", "/static", "/livez/", "/%2e%2e/"):
        check_error(await api.get(path), 401)


async def test_a_revoked_key_is_refused_by_the_running_gateway(open_api, backend, keys_file):
    first, second = (create_key(keys_file, name, now_s=NOW) for name in ("one", "two"))
    ring = KeyRing.open(keys_file)
    assert ring.identify(first) == "one" and ring.identify(second) == "two"
    revoke_key(keys_file, "one", now_s=NOW)
    ring.refresh(now_s=0.0)
    assert ring.identify(first) is None and ring.identify(second) == "two"
    third = create_key(keys_file, "three", now_s=NOW)
    ring.refresh(now_s=0.5)
    assert ring.identify(third) is None  # looked at once a second
    ring.refresh(now_s=1.5)
    assert ring.identify(third) == "three"


async def test_a_keys_file_that_becomes_unreadable_closes_the_gateway(keys_file):
    key = create_key(keys_file, "ci", now_s=NOW)
    ring = KeyRing.open(keys_file)
    os.chmod(keys_file, 0o644)
    with keys_file.open("ab") as file:
        file.write(b"\n")
    with pytest.raises(KeysFileMode):
        ring.refresh(now_s=0.0)
    assert ring.identify(key) is None


async def test_a_key_beyond_its_rate_is_429_with_retry_after(open_api, backend, keys_file):
    rate = Rate(per_minute=6, burst=2)
    slow = create_key(keys_file, "slow", rate=rate, now_s=NOW)
    other = create_key(keys_file, "other", now_s=NOW)
    api = await open_api(backend, keys_file=keys_file)
    replies = [
        await api.get("/v1/models", headers={"Authorization": f"Bearer {slow}"}) for _ in range(3)
    ]
    assert [reply.status_code for reply in replies] == [200, 200, 429]
    assert check_error(replies[2], 429)["code"] == "rate_limit_exceeded"
    assert 1 <= int(replies[2].headers["retry-after"]) <= 10
    told = [[reply.headers[name] for name in RATE_HEADERS[:2]] for reply in replies]
    assert told == [["2", "1"], ["2", "0"], ["2", "0"]]
    assert 10 < int(replies[2].headers["x-ratelimit-reset-requests"].removesuffix("s")) <= 20
    assert (await api.get("/v1/models", headers={"X-API-Key": other})).status_code == 200


async def test_one_key_cannot_take_every_place(open_api, backend, keys_file):
    key = create_key(keys_file, "ci", now_s=NOW)
    limits = {"max_generations": 8, "max_generations_per_key": 2}
    api = await open_api(backend, keys_file=keys_file, limits=limits)
    response = await api.post("/v1/completions", json={**TEXT, "n": 3}, headers={"X-API-Key": key})
    assert check_error(response, 429)["code"] == "concurrency_limit_exceeded"


def test_a_bucket_refills_evenly_and_holds_no_more_than_its_burst():
    bucket = Rate(per_minute=60, burst=2).make_bucket(now_s=0.0)
    assert [bucket.take(now_s=0.0) for _ in range(3)] == [0, 0, 1]
    assert bucket.take(now_s=1.0) == 0
    assert [bucket.take(now_s=100.0) for _ in range(3)] == [0, 0, 1]
    # A clock that goes back gives nothing away.
    assert bucket.take(now_s=50.0) > 0


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback_needs_no_key(host):
    assert is_loopback(host)
    check_bind(host, None)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", ""])
def test_listening_for_others_needs_a_key(host, keys_file):
    with pytest.raises(PublicBindWithoutKey):
        check_bind(host, None)
    create_key(keys_file, "ci", now_s=NOW)
    check_bind(host, KeyRing.open(keys_file))
    revoke_key(keys_file, "ci", now_s=NOW)
    with pytest.raises(PublicBindWithoutKey):
        check_bind(host, KeyRing.open(keys_file))


async def test_a_port_in_use_is_a_sentence(api, backend):
    with pytest.raises(AddressInUse, match=str(api.base_url.port)):
        async with open_gateway(ServeConfig(port=api.base_url.port), backend):
            pass
    with pytest.raises(ApiError):
        async with open_gateway(ServeConfig(host="127.0.0.1.nowhere.invalid"), backend):
            pass


async def test_a_rebound_host_name_is_turned_away(open_api, backend):
    api = await open_api(backend, allowed_hosts=("Chat.Example.org",))
    for host in ("evil.example", "localhost.evil.example", "", "[::1", "chat.example.org.evil"):
        response = await api.post("/v1/completions", json=TEXT, headers={"Host": host})
        check_error(response, 421)
    for host in ("localhost:8000", "127.0.0.1", "[::1]:99", "10.0.0.3:80", "chat.example.org"):
        assert (await api.get("/v1/models", headers={"Host": host})).status_code == 200


async def test_another_sites_page_cannot_post(api, backend):
    broken = ("http://[", "http://a]b", "//")
    local = f"http://localhost:{api.base_url.port}"
    for origin in ("https://evil.example", "null", local, *broken):
        response = await api.post("/v1/completions", json=TEXT, headers={"Origin": origin})
        check_error(response, 403)
    assert backend.requests == []
    own = {"Origin": str(api.base_url).rstrip("/")}
    assert (await api.post("/v1/completions", json=TEXT, headers=own)).status_code == 200


async def test_cors_is_off_unless_asked_for(api, open_api, backend):
    origin = {"Origin": "https://app.example"}
    preflight = {**origin, "Access-Control-Request-Method": "POST"}
    response = await api.options("/v1/completions", headers=preflight)
    assert response.status_code == 405
    assert (
        "access-control-allow-origin" not in (await api.get("/v1/models", headers=origin)).headers
    )
    open_one = await open_api(backend, cors_origins=("https://app.example",))
    response = await open_one.options("/v1/completions", headers=preflight)
    assert response.headers["access-control-allow-origin"] == "https://app.example"
    assert (await open_one.post("/v1/completions", json=TEXT, headers=origin)).status_code == 200


async def test_every_answer_has_safe_headers_and_an_id(api):
    for path in ("/", "/v1/models", "/nothing", "/static/chat.css"):
        headers = (await api.get(path)).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["x-request-id"]
        assert "server" not in headers
