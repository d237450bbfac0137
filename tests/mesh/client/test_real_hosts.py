"""The shipped model over real p2pd daemons: exact answers through two hosters."""

from __future__ import annotations

import contextlib
import json
from contextlib import aclosing
from pathlib import Path

import pytest

import mesh
from keys.peer import PeerKey
from mesh.client.client import MeshClient
from mesh.client.receipt_check import check_receipt
from mesh.client.receipts import AnswerReceipt
from mesh.client.route_search import RoutingOptions
from mesh.client.tokenizer import ChatTokenizer
from mesh.inference.engine import Engine
from mesh.inference.session_server import SessionServer
from mesh.model.config import load_config
from mesh.model.files import resolve_model_folder
from mesh.model.weights import load_shard
from mesh.p2p.config import HostConfig
from mesh.p2p.hivemind_host import HivemindHost
from mesh.routing.announcer import Announcer
from mesh.routing.directory import Directory, fetch_info
from mesh.routing.heartbeat import ServerInfo, ServerRole, ServerState
from mesh.routing.info import NetworkInfo
from tests.support.real_swarm import NETWORK_ID, HeartbeatsOnly

FOLDER = Path(mesh.__file__).parent / "assets" / "mesh-tiny"


async def start_hoster(stack, tasks, span, initial_peers, *, features="r"):
    config = load_config(FOLDER)
    folder = resolve_model_folder(str(FOLDER))
    engine = await stack.enter_async_context(
        Engine.open(lambda: load_shard(folder, config, start=span[0], end=span[1]))
    )
    tasks.append(engine.serve())
    key = PeerKey.generate()
    host = await stack.enter_async_context(
        HivemindHost.open(
            HostConfig(
                key=key,
                network_id=NETWORK_ID,
                record_policy=HeartbeatsOnly(),
                initial_peers=tuple(initial_peers),
            )
        )
    )
    directory = Directory(host, network_id=NETWORK_ID)
    addresses = tuple(await host.list_addresses())
    SessionServer(host, engine, connect=directory.ensure_connected, key=key).register()
    directory.serve(
        lambda: NetworkInfo(
            NETWORK_ID,
            bytes(32),
            "mesh-tiny",
            config.num_layers,
            config.max_context,
            config.vocab_size,
            "test",
        )
    )
    announcer = Announcer(
        host,
        directory,
        key=key,
        network_id=NETWORK_ID,
        node_id=1,
        describe=lambda: ServerInfo(
            role=ServerRole.HOSTER,
            state=ServerState.ONLINE,
            span=engine.layers,
            throughput=1000,
            free_cache_tokens=engine.free_cache_tokens,
            dtype="float32",
            software=f"test;{features}",
            addresses=addresses,
        ),
    )
    await announcer.announce()
    return host, directory, addresses


@pytest.mark.timeout(120)
async def test_shipped_model_answers_exactly_over_two_real_hosters():
    import asyncio

    question = json.loads((FOLDER / "questions.json").read_text(encoding="utf-8"))[0]
    async with contextlib.AsyncExitStack() as stack:
        serves: list = []
        first, directory, addresses = await start_hoster(stack, serves, (0, 4), ())
        second, _, _ = await start_hoster(stack, serves, (4, 8), addresses[:1])
        running = [asyncio.get_running_loop().create_task(serve) for serve in serves]
        await directory.fetch_from_records([first.peer_id, second.peer_id])
        client_host = await stack.enter_async_context(
            HivemindHost.open(
                HostConfig(key=PeerKey.generate(), initial_peers=addresses[:1], client_mode=True)
            )
        )
        info = await fetch_info(client_host, first.peer_id)
        client_host.set_network_id(info.network_id)
        client = MeshClient(
            client_host,
            Directory(client_host, network_id=info.network_id),
            config=load_config(FOLDER),
            tokenizer=ChatTokenizer.load(FOLDER),
            peers=[first.peer_id],
        )
        await client.refresh()
        answer = client.generate(
            [{"role": "user", "content": question["question"]}],
            max_new_tokens=400,
            routing=RoutingOptions(max_layers_per_hop=4),
        )
        async with aclosing(answer):
            pieces = [piece async for piece in answer]
        receipt = AnswerReceipt()
        signed = client.generate(
            [{"role": "user", "content": question["question"]}],
            max_new_tokens=400,
            routing=RoutingOptions(max_layers_per_hop=4),
            receipt=receipt,
        )
        async with aclosing(signed):
            again = [piece async for piece in signed]
        for task in running:
            task.cancel()
    assert "".join(piece.text for piece in pieces) == question["answer"]
    assert pieces[-1].finish_reason == "stop"
    trace = pieces[-1].trace
    assert [hop.peer_id for hop in trace.route] == [str(first.peer_id), str(second.peer_id)]
    print(f"{trace.tokens} tokens, {trace.tokens_per_second:.0f} a second")
    assert [piece.token_id for piece in again] == [piece.token_id for piece in pieces]
    checked = check_receipt(receipt.to_dict())
    assert checked.is_complete and checked.is_disclosed
    assert [hop.peer_id for hop in checked.parts[0].route] == [first.peer_id, second.peer_id]
