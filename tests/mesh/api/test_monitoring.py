"""The monitoring port: who may read it, and what it says when something is missing."""

from __future__ import annotations

import asyncio
import socket

import httpx
import pytest

from mesh.api.checks import HealthCheck, Monitored
from mesh.api.errors import AddressInUse
from mesh.api.monitoring import LIMITS, open_monitoring

TOKEN = "a-long-enough-token"
GOOD = HealthCheck("chain", True, "fresh")
BAD = HealthCheck("serving", False, "the node is joining")


def monitored(*checks: HealthCheck) -> Monitored:
    return Monitored(lambda: b"mesh_ready 1\n", lambda: checks)


async def get(url, path, **headers):
    async with httpx.AsyncClient(base_url=url, timeout=20, verify=False) as client:
        return await client.get(path, headers=headers)


async def test_without_a_token_this_machine_reads_everything():
    async with open_monitoring(monitored(GOOD), host="127.0.0.1", port=0, token=None) as url:
        metrics = await get(url, "/metrics")
        assert (metrics.status_code, metrics.text) == (200, "mesh_ready 1\n")
        assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert (await get(url, "/healthz")).json() == {"status": "ok"}
        assert (await get(url, "/readyz")).status_code == 200
        assert (await get(url, "/other")).status_code == 404


async def test_readiness_names_what_is_missing():
    async with open_monitoring(monitored(GOOD, BAD), host="127.0.0.1", port=0, token=None) as url:
        answer = await get(url, "/readyz")
    assert answer.status_code == 503
    assert answer.json() == {
        "status": "not ready",
        "missing": ["serving"],
        "checks": [
            {"name": "chain", "ok": True, "detail": "fresh"},
            {"name": "serving", "ok": False, "detail": "the node is joining"},
        ],
    }


async def test_a_page_of_another_site_under_a_rebound_name_is_turned_away():
    async with open_monitoring(monitored(GOOD), host="127.0.0.1", port=0, token=None) as url:
        assert (await get(url, "/metrics", host="evil.example")).status_code == 421
        assert (await get(url, "/metrics", host="localhost:1")).status_code == 200


async def test_with_a_token_only_health_is_told_to_everybody():
    async with open_monitoring(monitored(GOOD), host="127.0.0.1", port=0, token=TOKEN) as url:
        for path in ("/metrics", "/readyz"):
            for wrong in ({}, {"authorization": "Bearer other"}, {"authorization": TOKEN}):
                answer = await get(url, path, **wrong)
                assert answer.status_code == 401 and "mesh_" not in answer.text
            right = {"authorization": f"Bearer {TOKEN}", "host": "node.example.org"}
            assert (await get(url, path, **right)).status_code == 200
        assert (await get(url, "/healthz")).status_code == 200


async def test_a_taken_port_is_an_error_and_the_block_s_own_error_comes_through():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(AddressInUse):
            opening = open_monitoring(
                monitored(GOOD), host="127.0.0.1", port=taken.getsockname()[1], token=None
            )
            async with opening:
                pytest.fail("it listens twice")
    with pytest.raises(LookupError):
        async with open_monitoring(monitored(GOOD), host="127.0.0.1", port=0, token=None):
            raise LookupError


async def test_connections_beyond_the_limit_are_dropped_and_the_others_served():
    async with open_monitoring(monitored(GOOD), host="127.0.0.1", port=0, token=None) as url:
        port = int(url.rpartition(":")[2])
        writers = []
        for _ in range(LIMITS.max_connections - 1):
            writers.append((await asyncio.open_connection("127.0.0.1", port))[1])
        assert (await get(url, "/healthz")).status_code == 200
        writers.append((await asyncio.open_connection("127.0.0.1", port))[1])
        with pytest.raises(httpx.TransportError):
            await get(url, "/healthz")
        for writer in writers:
            writer.close()
