"""The monitor over HTTP: what is documented is what is answered, and what is refused."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
from collections.abc import AsyncIterator

import httpx
import jsonschema_rs
import pytest

from mesh.api.middleware import CONTENT_SECURITY_POLICY
from subnet.errors import ConfigError
from subnet.monitor import http
from subnet.monitor.hub import MAX_SUBSCRIBERS, Subscription
from subnet.monitor.receipts import ReceiptsBusy
from subnet.monitor.serving import serve_monitor
from subnet.operator.monitor_options import MonitorOptions
from tests.support.monitor import FakeMonitor, make_head, make_large, make_row, make_scored_receipt

DOCUMENTED = {
    "/api/v1/snapshot": "/api/v1/snapshot",
    "/api/v1/history": "/api/v1/history?epochs=8",
    "/api/v1/epochs/{epoch}": "/api/v1/epochs/12",
    "/api/v1/receipts/{epoch}/{node_id}": "/api/v1/receipts/9/1",
}


@contextlib.asynccontextmanager
async def open_page(monitor: FakeMonitor, **options) -> AsyncIterator[httpx.AsyncClient]:
    urls: list[str] = []
    async with serve_monitor(MonitorOptions(port=0, **options), monitor, on_start=urls.append):
        async with httpx.AsyncClient(base_url=urls[0], timeout=20, verify=False) as client:
            yield client


async def test_every_documented_answer_is_as_its_schema_says():
    monitor = make_large(30, epochs=12)
    monitor.receipts[9, 1] = make_scored_receipt()
    async with open_page(monitor) as client:
        document = (await client.get("/openapi.json")).json()
        jsonschema_rs.meta.validate(document["components"]["schemas"]["Snapshot"])
        documented = {path for path in document["paths"] if path != "/api/v1/events"}
        assert documented == DOCUMENTED.keys()
        for path, url in DOCUMENTED.items():
            responses = document["paths"][path]["get"]["responses"]
            answer = await client.get(url)
            assert answer.status_code == 200, answer.text
            check(document, responses["200"], answer.json())
        for url in ("/api/v1/epochs/999", "/api/v1/receipts/3/1", "/api/v1/epochs/x"):
            answer = await client.get(url)
            assert answer.status_code in (404, 422)
            check(document, responses["4XX"], answer.json())


def check(document, response, body) -> None:
    """Validate one answer against the OpenAPI document, references and all."""
    schema = response["content"]["application/json"]["schema"]
    jsonschema_rs.validate({**schema, "components": document["components"]}, body)


async def test_the_schema_is_not_one_that_everything_satisfies():
    async with open_page(make_large(3)) as client:
        document = (await client.get("/openapi.json")).json()
        body = (await client.get("/api/v1/snapshot")).json()
    body["nodes"][0]["stake"] = 1.5
    response = document["paths"]["/api/v1/snapshot"]["get"]["responses"]["200"]
    with pytest.raises(jsonschema_rs.ValidationError):
        check(document, response, body)


async def test_events_are_what_the_document_names():
    monitor = FakeMonitor()
    monitor.hub.publish(make_head(), {})
    async with open_page(monitor) as client:
        document = (await client.get("/openapi.json")).json()
        description = document["paths"]["/api/v1/events"]["get"]["responses"]["200"]["description"]
        async with client.stream("GET", "/api/v1/events") as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            lines = stream.aiter_lines()
            assert await read_event(lines) == ("hello", {})
            monitor.hub.publish(make_head(offset=11), {"a": make_row(1, key="a")})
            name, delta = await read_event(lines)
            assert name == "delta" and delta["changed"][0]["key"] == "a"
            monitor.hub.note_epoch(41, has_results=True)
            assert await read_event(lines) == ("epoch", {"epoch": 41, "has_results": True})
            monitor.hub.close()
            assert await read_event(lines) == ("closed", {})
    for name in ("delta", "epoch", "resync", "closed"):
        assert f"`{name}`" in description


async def read_event(lines):
    name = data = None
    async for line in lines:
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            data = json.loads(line.removeprefix("data: "))
        elif not line and name is not None:
            return name, data
    raise AssertionError("the stream ended")


async def test_a_reader_who_leaves_frees_its_place():
    monitor = FakeMonitor()
    async with open_page(monitor) as client:
        async with client.stream("GET", "/api/v1/events") as stream:
            await read_event(stream.aiter_lines())
            assert len(monitor.hub._subscriptions) == 1
        for _ in range(200):
            if not monitor.hub._subscriptions:
                break
            await asyncio.sleep(0.02)
        assert not monitor.hub._subscriptions


async def test_one_reader_too_many_is_told_to_poll():
    monitor = FakeMonitor()
    with contextlib.ExitStack() as stack:
        for _ in range(MAX_SUBSCRIBERS):
            stack.enter_context(monitor.hub.attach(Subscription()))
        async with open_page(monitor) as client:
            answer = await client.get("/api/v1/events")
    assert answer.status_code == 503 and answer.headers["retry-after"] == "10"
    assert answer.json()["fix"] == "poll /api/v1/snapshot"


async def test_a_monitor_that_has_seen_nothing_says_so():
    async with open_page(FakeMonitor()) as client:
        answer = await client.get("/api/v1/snapshot")
        assert answer.status_code == 503
        assert answer.json()["error"] == "nothing has been seen yet"
        assert (await client.get("/api/v1/history")).json()["epochs"] == []
        assert (await client.get("/")).status_code == 200


async def test_every_answer_has_the_strict_policy_and_the_page_needs_nothing_else():
    async with open_page(FakeMonitor()) as client:
        for path in ("/", "/static/app.js", "/api/v1/snapshot", "/nothing"):
            headers = (await client.get(path)).headers
            assert headers["content-security-policy"] == CONTENT_SECURITY_POLICY
            assert headers["x-content-type-options"] == "nosniff"
        page = (await client.get("/")).text
        sources = re.findall(r'(?:src|href)="([^"#]+)"', page)
        assert sources and all(source.startswith("/") for source in sources)
        assert "style=" not in page and "onclick" not in page
        for name in http.FILES:
            answer = await client.get(f"/static/{name}")
            assert answer.status_code == 200
            assert not re.search(
                r"innerHTML|insertAdjacentHTML|document\.write|eval\(", answer.text
            )
            assert "https://" not in answer.text.replace("http://www.w3.org/2000/svg", "")
        assert (await client.get("/static/../documents.py")).status_code == 404
        assert (await client.get("/static/%2e%2e%2fdocuments.py")).status_code == 404


async def test_pages_of_other_sites_cannot_read_it_by_rebinding_a_name():
    async with open_page(FakeMonitor()) as client:
        answer = await client.get("/api/v1/history", headers={"Host": "evil.example"})
        assert answer.status_code == 421
        answer = await client.get("/api/v1/history", headers={"Host": "localhost:1"})
        assert answer.status_code == 200
    async with open_page(FakeMonitor(), is_public=True) as client:
        answer = await client.get("/api/v1/history", headers={"Host": "monitor.example"})
        assert answer.status_code == 200


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("/api/v1/history?epochs=0", "epochs"),
        ("/api/v1/history?epochs=1000000", "epochs"),
        ("/api/v1/history?epochs=<b>", "epochs"),
        ("/api/v1/epochs/-1", "epoch"),
        ("/api/v1/epochs/99999999999999999999", "epoch"),
        ("/api/v1/receipts/1/0", "node_id"),
    ],
)
async def test_a_bad_parameter_is_named(path, names):
    async with open_page(FakeMonitor()) as client:
        answer = await client.get(path)
    assert answer.status_code == 422
    assert answer.json()["error"].startswith(f"{names}: ")
    assert "<b>" not in answer.text


async def test_nothing_can_be_written():
    async with open_page(FakeMonitor()) as client:
        for path in ("/", "/api/v1/snapshot", "/api/v1/receipts/1/1"):
            assert (await client.post(path, json={})).status_code == 405


async def test_an_unchanged_answer_is_not_sent_again_and_large_ones_are_compressed():
    async with open_page(make_large(200)) as client:
        first = await client.get("/api/v1/snapshot", headers={"Accept-Encoding": "gzip"})
        assert first.headers["content-encoding"] == "gzip"
        plain = await client.get("/api/v1/snapshot", headers={"Accept-Encoding": "identity"})
        assert "content-encoding" not in plain.headers and plain.json() == first.json()
        again = await client.get(
            "/api/v1/snapshot", headers={"If-None-Match": first.headers["etag"]}
        )
        assert again.status_code == 304 and not again.content


async def test_the_pages_files_are_compared_by_content_and_head_is_answered():
    async with open_page(FakeMonitor()) as client:
        for path in ("/", *(f"/static/{name}" for name in http.FILES)):
            get, head = await client.get(path), await client.head(path)
            assert (head.status_code, head.content) == (200, b"")
            for name in ("etag", "content-length", "content-type", "cache-control"):
                assert head.headers[name] == get.headers[name]
            known = await client.get(path, headers={"If-None-Match": f"W/{get.headers['etag']}"})
            assert (known.status_code, known.content) == (304, b"")
            plain = await client.get(path, headers={"Accept-Encoding": "gzip;q=0"})
            assert "content-encoding" not in plain.headers and plain.content == get.content


async def test_the_history_is_collected_once_a_change_however_many_ask():
    class Counting(FakeMonitor):
        asked = 0

        async def read_history(self, count):
            self.asked += 1
            return await super().read_history(count)

    monitor = Counting()
    async with open_page(monitor) as client:
        for _ in range(5):
            await client.get("/api/v1/history?epochs=9")
        assert monitor.asked == 1
        monitor.hub.note_epoch(1, has_results=True)
        await client.get("/api/v1/history?epochs=9")
    assert monitor.asked == 2


async def test_too_many_receipts_at_once_are_refused():
    class Busy(FakeMonitor):
        async def read_receipt(self, epoch, node_id):
            raise ReceiptsBusy

    async with open_page(Busy()) as client:
        answer = await client.get("/api/v1/receipts/1/1")
    assert answer.status_code == 503 and "too many receipts" in answer.json()["error"]


async def test_a_snapshot_of_10_000_nodes_is_answered():
    monitor = make_large(10_000, epochs=1)
    async with open_page(monitor) as client:
        answer = await client.get("/api/v1/snapshot")
    assert len(answer.json()["nodes"]) == 10_000


def test_a_public_address_has_to_be_meant():
    with pytest.raises(ConfigError, match="everybody"):
        MonitorOptions(port=0, host="0.0.0.0").check()
    MonitorOptions(port=0, host="0.0.0.0", is_public=True).check()
    MonitorOptions(port=0, host="localhost").check()


async def test_a_taken_port_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=str(port)):
            async with serve_monitor(MonitorOptions(port=port), FakeMonitor()):
                pytest.fail("it listens twice")
