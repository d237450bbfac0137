"""What a key may do: its budget of tokens, its end, its models; and what it used."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import stat
import subprocess
import sys
import threading

import pytest

from mesh.api.auth import KeyRing
from mesh.api.errors import KeysFileCorrupt, UsageFileUnusable
from mesh.api.key_terms import KeyTerms, parse_moment, write_moment
from mesh.api.keys_file import compute_digest, create_key, read_keys
from mesh.api.problems import Problem
from mesh.api.usage import Allowances, UsageBook, open_usage_book
from mesh.api.usage_file import (
    KEPT_DAYS,
    SECONDS_PER_DAY,
    KeyUsage,
    UsageFile,
    compute_day,
    locate_usage,
    read_usage,
)
from mesh.errors import InvalidRequest
from tests.support.gateways import open_client
from tests.support.http_checks import check_error
from tests.support.local_backend import MODEL

NOW = 1_700_000_000
DAY = compute_day(NOW)
CHAT = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "hi"}],
    "max_tokens": 5,
    "temperature": 0,
}


@pytest.fixture
def keys_file(tmp_path):
    return tmp_path / "keys"


def make_key(path, name="ci", **terms):
    return create_key(path, name, terms=KeyTerms(**terms), now_s=NOW)


def head(key):
    return {"Authorization": f"Bearer {key}"}


def test_terms_are_read_back_and_a_key_without_any_is_written_as_before(keys_file):
    create_key(keys_file, "plain", now_s=NOW)
    make_key(keys_file, "tied", tokens_per_day=9, expires_s=NOW + 1, models=("a", "b"))
    plain, tied = (json.loads(line) for line in keys_file.read_text().splitlines())
    assert set(plain) == {"event", "name", "sha256", "created_s", "per_minute", "burst"}
    assert tied["models"] == ["a", "b"]
    assert [key.terms for key in read_keys(keys_file)] == [
        KeyTerms(),
        KeyTerms(9, NOW + 1, ("a", "b")),
    ]


def test_a_file_of_an_earlier_version_is_read(keys_file):
    digest = compute_digest("mesh-old").hex()
    keys_file.touch(0o600)
    keys_file.write_text(
        f'{{"event":"created","name":"old","sha256":"{digest}","created_s":1,'
        '"per_minute":120,"burst":30}\n{"event":"revoked","name":"old","revoked_s":2}\n'
    )
    (key,) = read_keys(keys_file)
    assert (key.name, key.revoked_s, key.terms) == ("old", 2, KeyTerms())


@pytest.mark.parametrize(
    "field", ['"tokens_per_day":0', '"expires_s":-1', '"models":[]', '"models":[""]', '"budget":1']
)
def test_a_line_with_impossible_terms_lets_no_key_in(keys_file, field):
    create_key(keys_file, "ci", now_s=NOW)
    keys_file.write_text(keys_file.read_text().replace('"burst":30', f'"burst":30,{field}'))
    with pytest.raises(KeysFileCorrupt, match="line 1"):
        read_keys(keys_file)


@pytest.mark.parametrize(
    ("terms", "field"),
    [
        ({"tokens_per_day": 0}, "tokens_per_day"),
        ({"expires_s": NOW}, "expires"),
        ({"models": ("",)}, "models"),
        ({"models": ("x" * 257,)}, "models"),
        ({"models": tuple("abcdefghijklmnopq")}, "models"),
    ],
)
def test_terms_that_no_key_can_have_are_refused_by_the_field(keys_file, terms, field):
    with pytest.raises(InvalidRequest, match=field):
        make_key(keys_file, **terms)
    assert not keys_file.exists()


def test_a_day_is_read_in_utc_and_nothing_else_is_a_day():
    assert parse_moment("2027-01-31") == parse_moment("2027-01-31T01:00:00+01:00") == 1801353600
    assert write_moment(1801353600) == "2027-01-31T00:00:00Z"
    for text in ("", "tomorrow", "2027-02-30", "31.01.2027", "1801353600000"):
        with pytest.raises(InvalidRequest, match="expires"):
            parse_moment(text)


async def test_an_expired_key_is_401_with_its_sentence(open_api, backend, keys_file):
    key, other = make_key(keys_file, expires_s=NOW + 1), make_key(keys_file, "other")
    api = await open_api(backend, keys_file=keys_file)
    response = await api.post("/v1/chat/completions", json=CHAT, headers=head(key))
    error = check_error(response, 401)
    assert error["code"] == "expired_api_key"
    assert f"expired at {write_moment(NOW + 1)}" in error["message"]
    assert (await api.get("/v1/models", headers=head(other))).status_code == 200
    assert backend.requests == []
    # To the second: valid until then, refused from then on.
    ring = KeyRing.open(keys_file)
    ring.check_expiry("ci", unix_s=NOW + 0.9)
    with pytest.raises(Problem):
        ring.check_expiry("ci", unix_s=NOW + 1)


async def test_a_key_may_use_its_models_only(open_api, backend, keys_file):
    mine = make_key(keys_file, "mine", models=(MODEL,))
    theirs = make_key(keys_file, "theirs", models=("another/model",))
    api = await open_api(backend, keys_file=keys_file)
    assert (
        await api.post("/v1/chat/completions", json=CHAT, headers=head(mine))
    ).status_code == 200
    for stream in (False, True):
        body = {**CHAT, "stream": stream}
        response = await api.post("/v1/chat/completions", json=body, headers=head(theirs))
        error = check_error(response, 403)
        assert (error["code"], error["param"]) == ("model_not_allowed", "model")
    listed = [
        (await api.get("/v1/models", headers=head(key))).json()["data"] for key in (mine, theirs)
    ]
    assert [[model["id"] for model in models] for models in listed] == [[MODEL], []]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_beyond_the_budget_is_429_with_when_it_is_free_again(
    open_api, backend, keys_file, stream
):
    key, other = make_key(keys_file, tokens_per_day=40), make_key(keys_file, "other")
    api = await open_api(backend, keys_file=keys_file)
    body = {**CHAT, "stream": stream, "max_tokens": 30}
    first = await api.post("/v1/chat/completions", json=body, headers=head(key))
    assert first.status_code == 200
    asked = len(backend.requests)
    response = await api.post("/v1/chat/completions", json=body, headers=head(key))
    error = check_error(response, 429)
    assert (error["code"], error["type"]) == ("insufficient_quota", "insufficient_quota")
    assert "40 tokens a day" in error["message"] and "T00:00:00Z" in error["message"]
    assert 0 < int(response.headers["retry-after"]) <= SECONDS_PER_DAY
    assert len(backend.requests) == asked
    again = await api.post("/v1/chat/completions", json=body, headers=head(other))
    assert again.status_code == 200


async def test_the_budget_survives_a_restart_of_the_gateway(open_api, backend, keys_file):
    key = make_key(keys_file, tokens_per_day=40)
    body = {**CHAT, "max_tokens": 30}
    async with open_client(backend, keys_file=keys_file) as api:
        reply = await api.post("/v1/chat/completions", json=body, headers=head(key))
        usage = reply.json()["usage"]
    ((place, used),) = read_usage(locate_usage(keys_file)).items()
    assert place[0] == "ci"
    assert used == KeyUsage(1, usage["prompt_tokens"], usage["completion_tokens"])
    assert stat.S_IMODE(locate_usage(keys_file).stat().st_mode) == 0o600
    async with open_client(backend, keys_file=keys_file) as api:
        response = await api.post("/v1/chat/completions", json=body, headers=head(key))
        assert check_error(response, 429)["code"] == "insufficient_quota"


async def test_choices_of_one_prompt_count_it_once_as_the_answer_says(open_api, backend, keys_file):
    key = make_key(keys_file)
    async with open_client(backend, keys_file=keys_file) as api:
        reply = await api.post("/v1/chat/completions", json={**CHAT, "n": 3}, headers=head(key))
        two = {"model": MODEL, "prompt": ["a b", "c"], "max_tokens": 2, "temperature": 0}
        texts = await api.post("/v1/completions", json=two, headers=head(key))
    told = [answer.json()["usage"] for answer in (reply, texts)]
    ((_, used),) = read_usage(locate_usage(keys_file)).items()
    assert used.requests == 2
    assert used.prompt_tokens == sum(usage["prompt_tokens"] for usage in told)
    assert used.completion_tokens == sum(usage["completion_tokens"] for usage in told)


async def test_a_day_ends_at_midnight_of_utc(keys_file):
    make_key(keys_file, tokens_per_day=10)
    clock = [float(DAY * SECONDS_PER_DAY + SECONDS_PER_DAY - 5)]
    allowances = Allowances(KeyRing.open(keys_file), UsageBook(), lambda: clock[0])
    allowances.charge("ci", models=(), prompt_tokens=9)
    with pytest.raises(Problem) as refused:
        allowances.charge("ci", models=(), prompt_tokens=1)
    assert refused.value.headers["Retry-After"] == "5"
    clock[0] += 5
    allowances.charge("ci", models=(), prompt_tokens=1)


async def test_a_prompt_beyond_the_whole_budget_is_not_computed(keys_file):
    make_key(keys_file, tokens_per_day=10)
    allowances = Allowances(KeyRing.open(keys_file))
    with pytest.raises(Problem, match="10 of this key's 10 .* the prompt has 11"):
        allowances.charge("ci", models=(), prompt_tokens=11)
    assert allowances.book.get_today("ci", unix_s=allowances.clock()) == KeyUsage()


async def test_two_gateways_on_one_file_see_each_others_counts(tmp_path):
    path = tmp_path / "usage"
    async with open_usage_book(path, clock=lambda: NOW) as one:
        async with open_usage_book(path, clock=lambda: NOW) as two:
            one.count("ci", KeyUsage(1, 2, 3), unix_s=NOW)
            await one.write(unix_s=NOW)
            two.count("ci", KeyUsage(1, 20, 30), unix_s=NOW)
            await two.write(unix_s=NOW)
            assert two.get_today("ci", unix_s=NOW) == KeyUsage(2, 22, 33)
    assert read_usage(path) == {("ci", DAY): KeyUsage(2, 22, 33)}


async def test_old_days_are_dropped(tmp_path):
    path = tmp_path / "usage"
    old = NOW - KEPT_DAYS * SECONDS_PER_DAY
    async with open_usage_book(path, clock=lambda: NOW) as book:
        book.count("ci", KeyUsage(1, 1, 1), unix_s=old)
        book.count("ci", KeyUsage(1, 1, 1), unix_s=old + SECONDS_PER_DAY)
        book.count("ci", KeyUsage(1, 1, 1), unix_s=NOW)
        await book.write(unix_s=NOW)
    assert [day for _, day in read_usage(path)] == [DAY - KEPT_DAYS + 1, DAY]


async def test_a_full_disk_stops_no_answer_and_is_said_once(tmp_path, capsys, caplog):
    path = tmp_path / "usage"
    file = UsageFile(path)
    book = UsageBook(file)
    book.count("ci", KeyUsage(1, 2, 3), unix_s=NOW)
    await book.write(unix_s=NOW)
    # SQLite's own limit of pages gives the error that a full disk gives.
    (pages,) = file._connection.execute("PRAGMA page_count").fetchone()
    names = [f"{number:064}" for number in range(200)]
    real_open = file.close
    file.close = lambda: None  # the limit belongs to the connection
    file._connection.execute(f"PRAGMA max_page_count = {pages}")
    for _ in range(3):
        for name in names:
            book.count(name, KeyUsage(1, 1, 1), unix_s=NOW)
        await book.write(unix_s=NOW)
    assert book.get_today(names[0], unix_s=NOW) == KeyUsage(3, 3, 3)
    assert book.get_today("ci", unix_s=NOW) == KeyUsage(1, 2, 3)
    said = capsys.readouterr()
    # Where log lines go depends on the tests before this one.
    told = said.out + said.err or caplog.text
    assert told.count("usage cannot be written") == 1
    file._connection.execute("PRAGMA max_page_count = 100000")
    await book.write(unix_s=NOW)
    real_open()
    written = read_usage(path)
    assert len(written) == 201 and written[names[-1], DAY] == KeyUsage(3, 3, 3)


async def test_a_gateway_starts_although_its_usage_cannot_be_opened(
    open_api, backend, keys_file, tmp_path
):
    key = make_key(keys_file, tokens_per_day=40)
    api = await open_api(backend, keys_file=keys_file, usage_file=tmp_path / "absent" / "usage")
    body = {**CHAT, "max_tokens": 30}
    codes = [
        (await api.post("/v1/chat/completions", json=body, headers=head(key))).status_code
        for _ in range(2)
    ]
    assert codes == [200, 429]


async def test_a_cancelled_write_is_counted_once(tmp_path):
    class SlowFile(UsageFile):
        started, may_end = threading.Event(), threading.Event()

        def add(self, counted, *, today):
            self.started.set()
            self.may_end.wait(30)
            return super().add(counted, today=today)

    file = SlowFile(tmp_path / "usage")
    book = UsageBook(file)
    book.count("ci", KeyUsage(1, 2, 3), unix_s=NOW)
    async with asyncio.TaskGroup() as tasks:
        writing = tasks.create_task(book.write(unix_s=NOW))
        await asyncio.to_thread(file.started.wait, 30)
        writing.cancel()
    assert writing.cancelled()
    book.count("ci", KeyUsage(1, 0, 0), unix_s=NOW)
    assert book.get_today("ci", unix_s=NOW) == KeyUsage(2, 2, 3)
    file.may_end.set()
    await book.write(unix_s=NOW)
    await book.write(unix_s=NOW)
    assert book.get_today("ci", unix_s=NOW) == KeyUsage(2, 2, 3)
    assert read_usage(file.path) == {("ci", DAY): KeyUsage(2, 2, 3)}
    file.close()


ADD_WITHOUT_END = """
import sys
from pathlib import Path
from mesh.api.usage_file import KeyUsage, UsageFile

file, day = UsageFile(Path(sys.argv[1])), int(sys.argv[2])
while True:
    file.add({("ci", day): KeyUsage(1, 2, 3)}, today=day)
    print("added", flush=True)
"""


@pytest.mark.parametrize("after", [1, 7, 50])
def test_a_gateway_that_is_killed_while_it_writes_leaves_each_count_once(tmp_path, after):
    path = tmp_path / "usage"
    line = [sys.executable, "-c", ADD_WITHOUT_END, str(path), str(DAY)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as gateway:
        told = sum(1 for _ in zip(range(after), gateway.stdout, strict=False))
        gateway.kill()
        told += sum(1 for _ in gateway.stdout)
    requests = read_usage(path)["ci", DAY].requests
    # The last one may have been written before the process could say so.
    assert requests in (told, told + 1)
    file = UsageFile(path)
    file.add({("ci", DAY): KeyUsage(1, 2, 3)}, today=DAY)
    file.close()
    assert read_usage(path) == {
        ("ci", DAY): KeyUsage(requests + 1, 2 * requests + 2, 3 * requests + 3)
    }


def make_foreign(path):
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE other (x)")
    path.chmod(0o600)


def make_damaged(path):
    path.write_bytes(b"no database at all" * 100)
    path.chmod(0o600)


def make_open(path):
    path.touch()
    path.chmod(0o644)


@pytest.mark.parametrize(
    ("make", "says"),
    [(make_foreign, "something else"), (make_damaged, "damaged"), (make_open, "chmod 600")],
)
async def test_a_file_that_is_no_usage_is_refused_and_not_replaced(tmp_path, make, says):
    path = tmp_path / "usage"
    make(path)
    before = path.read_bytes()
    with pytest.raises(UsageFileUnusable, match=says):
        async with open_usage_book(path):
            pass
    assert path.read_bytes() == before
