"""``mesh serve`` as a process of its own, in front of real hosters on real p2pd daemons."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys

import openai
import pytest

from mesh.assets import SHIPPED_MODEL_NAME, shipped_model_path
from subnet.metrics.table import Process
from tests.mesh.client.test_real_hosts import start_hoster
from tests.support.commands import find_free_port, wait_until
from tests.support.metrics import (
    get_value,
    list_names,
    list_promised,
    read_samples,
    scrape,
)

START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 40

pytestmark = pytest.mark.e2e


@pytest.fixture
async def hosters():
    """Two hosters of four blocks each; gives the first one's addresses."""
    async with contextlib.AsyncExitStack() as stack:
        serves: list = []
        first, directory, addresses = await start_hoster(stack, serves, (0, 4), ())
        second, _, _ = await start_hoster(stack, serves, (4, 8), addresses[:1])
        loop = asyncio.get_running_loop()
        # Fixtures start and end in different tasks, so a TaskGroup cannot span them.
        running = [loop.create_task(serve) for serve in serves]
        await directory.fetch_from_records([first.peer_id, second.peer_id])
        yield addresses
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def start_gateway(addresses, metrics_port) -> tuple[asyncio.subprocess.Process, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "subnet.cli.mesh", "serve", "--port", "0", "--initial_peers", addresses[0]),
        *("--metrics_port", str(metrics_port)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(START_TIMEOUT_S):
        return process, (await process.stdout.readline()).decode().strip()


def check_metrics(url):
    """Check what a gateway shows after one answer."""
    finished = ("mesh_requests_total", (("result", "finished"),))
    wait_until(lambda: read_samples(url)[finished] == 1, "the end of the answer")
    samples = read_samples(url)
    assert list_names(samples) == list_promised(Process.GATEWAY)
    assert get_value(samples, "mesh_time_to_first_token_seconds_count") == 1
    generated = get_value(samples, "mesh_generation_tokens_total")
    assert get_value(samples, "mesh_inter_token_latency_seconds_count") == generated - 1
    assert get_value(samples, "mesh_received_bytes_total", kind="calls") > 0
    # The hosters of this test announce themselves once, so they may have expired by now.
    assert scrape(url, "/readyz")[0] in (200, 503) and scrape(url, "/healthz")[0] == 200


@pytest.mark.timeout(180)
async def test_openai_client_to_hosters_and_a_clean_end(hosters):
    entry = json.loads((shipped_model_path() / "questions.json").read_text(encoding="utf-8"))[0]
    metrics_port = find_free_port()
    process, url = await start_gateway(hosters, metrics_port)
    try:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:
            stream = await client.chat.completions.create(
                model=SHIPPED_MODEL_NAME,
                messages=[{"role": "user", "content": entry["question"]}],
                temperature=0,
                stream=True,
            )
            chunks = [chunk async for chunk in stream]
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert text == entry["answer"]
        assert [hop["blocks"] for hop in chunks[-1].mesh["route"]] == [[0, 4], [4, 8]]
        await asyncio.to_thread(check_metrics, f"http://127.0.0.1:{metrics_port}/metrics")
        samples = await asyncio.to_thread(read_samples, f"{url}/metrics")
        assert list_names(samples) == list_promised(Process.GATEWAY)
    finally:
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(STOP_TIMEOUT_S):
            out, talk = await process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert out == b"", "stdout holds the URL and nothing else"
    assert b"request" in talk and b"Traceback" not in talk
    assert entry["question"].encode() not in talk
