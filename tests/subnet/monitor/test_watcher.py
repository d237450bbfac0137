"""``mesh monitor``: what a client without a journal sees of a swarm and of a chain."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from consensus.types import SCORE_ONE, Score, SubnetId
from devchain.chain_types import ActivationMode
from devchain.config import BlockMode, DevChainConfig, fund_development_accounts
from devchain.runtime import LedgerConfig
from devchain.server import DevChain
from keys.account import AccountKey
from keys.peer import PeerKey
from subnet.account.registration import TENSOR
from subnet.errors import ConfigError, UnknownSubnet
from subnet.monitor import watcher
from subnet.monitor.watcher import WatchConfig, run_watcher
from subnet.operator.monitor_options import MonitorOptions
from tests.support.chain_rigs import (
    COLDKEYS,
    OWNER,
    WireRig,
    make_node,
    make_seed,
    register_four,
    wait_for_election,
)
from tests.support.real_swarm import open_real_swarm

NOBODY = f"/ip4/127.0.0.1/tcp/9/p2p/{PeerKey(bytes([9]) * 32).peer_id}"
WAIT_S = 60.0


@contextlib.asynccontextmanager
async def watch(config: WatchConfig, **options) -> AsyncIterator[httpx.AsyncClient]:
    started: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(
            run_watcher(config, MonitorOptions(port=0, **options), on_start=started.set_result)
        )
        async with httpx.AsyncClient(base_url=await started, timeout=20, verify=False) as client:
            yield client
        running.cancel()


async def wait_for(client: httpx.AsyncClient, path: str, is_there):
    """Return the JSON of ``path`` once ``is_there`` holds of it."""
    async with asyncio.timeout(WAIT_S):
        while True:
            answer = await client.get(path)
            if answer.status_code == 200 and is_there(answer.json()):
                return answer.json()
            await asyncio.sleep(0.1)


async def test_any_nodes_address_is_enough_to_see_who_serves_what():
    async with open_real_swarm([(0, 3), (2, 6)]) as (address, _):
        async with watch(WatchConfig(initial_peers=(address,))) as client:
            found = await wait_for(client, "/api/v1/snapshot", lambda body: len(body["nodes"]) == 2)
            receipt = await client.get("/api/v1/receipts/1/1")
    head = found["head"]
    assert head["hosters"] == [1, 1, 2, 1, 1, 1, 0, 0]
    assert head["network"]["model"] == "mesh-tiny" and head["chain"] is None
    assert sorted(row["blocks"] for row in found["nodes"]) == [[0, 3], [2, 6]]
    # Without a chain no node id is believed, and addresses stay here.
    assert {row["node_id"] for row in found["nodes"]} == {None}
    assert all(row["addresses"] == [] for row in found["nodes"])
    assert receipt.status_code == 404 and "no journal" in receipt.json()["error"]


async def test_where_no_node_answers_the_page_says_so(monkeypatch):
    monkeypatch.setattr(watcher, "RETRY_S", 1000)
    async with watch(WatchConfig(initial_peers=(NOBODY,))) as client:
        found = await wait_for(client, "/api/v1/snapshot", lambda body: body["head"]["notices"])
    (notice,) = found["head"]["notices"]
    # Whom it dialled is in the log, not on a page that others may read.
    assert notice == "No node of the network answers."
    assert found["nodes"] == []


@pytest.fixture
async def devchain() -> AsyncIterator[DevChain]:
    rules = LedgerConfig(
        activation_mode=ActivationMode.AUTOMATIC, balances=fund_development_accounts()
    )
    config = DevChainConfig(ledger=rules, mode=BlockMode.INSTANT, seed=b"monitor")
    async with DevChain.open(config) as chain:
        yield chain


async def agree_once(rig: WireRig) -> tuple[SubnetId, int, list[int]]:
    """Let a subnet of four agree on one proposal; return it, the epoch, and the node ids."""
    subnet_id, hotkeys = await register_four(rig, "watched")
    await rig.activate_subnet(subnet_id, OWNER)
    await rig.delegate(subnet_id, 50 * TENSOR, OWNER)
    await rig.advance(20)
    async with rig.open() as chain:
        epoch, elected = await wait_for_election(rig, chain, subnet_id)
    rows = [(node_id, Score(SCORE_ONE // node_id)) for node_id in sorted(hotkeys)]
    async with rig.open(hotkeys[elected]) as writer:
        await writer.propose(subnet_id, rows, None)
    for node_id in sorted(set(hotkeys) - {elected}):
        async with rig.open(hotkeys[node_id]) as writer:
            await writer.attest(subnet_id)
    return subnet_id, int(epoch), [int(node_id) for node_id in sorted(hotkeys)]


async def test_the_chain_shows_scores_attestations_pay_and_the_queue(
    devchain, tmp_path: Path, monkeypatch
):
    async def look_away(self, addresses):
        self.publish()

    monkeypatch.setattr(watcher.Watcher, "follow_swarm", look_away)
    async with WireRig.connect(devchain.url) as rig:
        subnet_id, epoch, nodes = await agree_once(rig)
        await rig.advance(20)
        late = AccountKey(make_seed())
        await rig.fund(late.account_id, TENSOR)
        queued = await rig.register_node(make_node(subnet_id, late), COLDKEYS[4])
        config = WatchConfig(
            initial_peers=(NOBODY,),
            chain_url=devchain.url,
            subnet_id=subnet_id,
            data_dir=tmp_path,
        )
        async with watch(config) as client:
            found = await wait_for(
                client,
                "/api/v1/snapshot",
                lambda body: body["head"]["settled_epoch"] is not None,
            )
            history = (await client.get("/api/v1/history")).json()
            record = (await client.get(f"/api/v1/epochs/{epoch - 1}")).json()
            present = found["head"]["chain"]["epoch"]
            await rig.advance(20)
            await wait_for(
                client, "/api/v1/snapshot", lambda b: b["head"]["chain"]["epoch"] > present
            )
    rows = {row["node_id"]: row for row in found["nodes"]}
    assert rows.keys() == {*nodes, int(queued)}
    assert rows[int(queued)]["queue_place"] == 1
    assert {rows[node_id]["node_class"] for node_id in nodes} == {"validator"}
    assert all(int(rows[node_id]["stake"]) >= TENSOR for node_id in nodes)
    assert rows[int(queued)]["eligibility"] == {
        "epoch": present + 1,
        "obstacle": "queued",
        "text": f"epoch {present + 1}: not eligible: it waits in the queue",
    }
    eligible = {"epoch": present + 1, "obstacle": None, "text": f"epoch {present + 1}: eligible"}
    assert all(rows[node_id]["eligibility"] == eligible for node_id in nodes)
    assert {row["state"] for row in found["nodes"]} == {"absent"}
    assert {rows[node]["score"] for node in nodes} == {1_000_000 // node for node in nodes}
    assert all(int(rows[node]["paid"]) > 0 for node in nodes)
    column = [row["epoch"] for row in history["epochs"]].index(epoch)
    assert history["epochs"][column]["ratio"] == 1_000_000
    assert history["epochs"][column]["is_agreed"] is True
    assert record["source"] == "chain" and record["windows"] == {}
    assert (tmp_path / "monitor" / f"subnet-{subnet_id}.sqlite").exists()


async def test_a_subnet_that_is_not_there_ends_it_at_once(devchain):
    for subnet_id, error in ((None, ConfigError), (SubnetId(77), UnknownSubnet)):
        config = WatchConfig(chain_url=devchain.url, subnet_id=subnet_id)
        with pytest.raises(error):
            await run_watcher(config, MonitorOptions(port=0))
