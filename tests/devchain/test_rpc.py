"""The JSON-RPC server against clients that behave badly, and clients that watch."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed

from devchain import rpc_connection, rpc_errors, server, storage
from devchain.calls import Call, Remark, TransferKeepAlive
from devchain.chain_types import TENSOR
from devchain.config import BlockMode, DevChainConfig
from devchain.errors import DevchainUnusable
from devchain.runtime import LedgerConfig
from devchain.server import DevChain
from devchain.storage_keys import hash_key
from keys.account import derive_development_account
from tests.support.ledger_world import WAIT_S, Wire, serve_in_thread
from tests.support.signed_extrinsics import encode_signed

ALITH, BALTATHAR = derive_development_account(0), derive_development_account(1)
MANUAL = DevChainConfig(mode=BlockMode.MANUAL)
ORDINARY_LINES = ("connection open", "connection closed")


@pytest.fixture
def devchain() -> Iterator[DevChain]:
    with serve_in_thread(MANUAL) as running:
        yield running


@pytest.fixture
def wire(devchain: DevChain) -> Iterator[Wire]:
    client = Wire(devchain.url)
    yield client
    client.close()


def make(wire: Wire, call: Call, nonce: int, *, tip: int = 0) -> str:
    genesis = bytes.fromhex(wire.get("chain_getBlockHash", 0)[2:])
    raw = encode_signed(
        call,
        signer=ALITH,
        nonce=nonce,
        genesis_hash=genesis,
        tip=tip,
    )
    return "0x" + raw.hex()


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("{", -32700),
        ("", -32700),
        ("[" * 100_000, -32700),
        ("\ud83d", -32700),
        ("[]", -32600),
        ("7", -32600),
        ('{"method": 7}', -32600),
        ('{"id": 1, "method": "no_such_method"}', -32601),
        ('{"id": 1, "method": "chain_getHeader", "params": 7}', -32602),
        ('{"id": 1, "method": "chain_getHeader", "params": ["0x12"]}', -32602),
        ('{"id": 1, "method": "state_getStorage", "params": ["zz"]}', -32602),
        ('{"id": 1, "method": "state_getKeysPaged", "params": ["0x", -1]}', -32602),
        ('{"id": 1, "method": "chain_getBlockHash", "params": [1.5]}', -32602),
        ('{"id": 1, "method": "dev_newBlock", "params": [100000]}', -32602),
        ('{"id": 1, "method": "dev_setBlockMode", "params": ["never"]}', -32602),
        ('{"id": 1, "method": "author_submitExtrinsic", "params": ["0x00"]}', 1001),
        ('{"id": 1, "method": "state_call", "params": ["Nope_nope", "0x"]}', 4003),
    ],
)
def test_malformed_requests_get_an_error_and_the_connection_lives(
    wire: Wire, message: str, code: int
) -> None:
    assert wire.send(message.encode("utf-8", "replace"))["error"]["code"] == code
    assert wire.get("system_chain") == "mesh development chain"


def test_an_unknown_block_is_named(wire: Wire) -> None:
    answer = wire.ask("state_getMetadata", "0x" + "ab" * 32)
    assert "UnknownBlock" in answer["error"]["message"]
    assert wire.get("chain_getHeader", "0x" + "ab" * 32) is None
    assert wire.get("chain_getBlockHash", 10**9) is None


def test_an_oversized_message_ends_its_connection_and_no_other(
    devchain: DevChain, wire: Wire
) -> None:
    bad = Wire(devchain.url)
    with pytest.raises(ConnectionClosed) as closed:
        bad.send(b" " * (server.MAX_MESSAGE_SIZE + 1))
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 1009
    assert wire.get("system_health")["isSyncing"] is False


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}", b""),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 426 Upgrade Required"),
        (b"\x16\x03\x01\x1b[31m\r\n\r\n", b""),
        (b"GET / HT", b""),
        (b"", b""),
    ],
    ids=["post", "get", "garbage", "half a request", "nothing"],
)
def test_a_post_to_the_devchains_port_prints_no_traceback(
    caplog: pytest.LogCaptureFixture, sent: bytes, answer: bytes
) -> None:
    with caplog.at_level("INFO"), serve_in_thread(MANUAL) as devchain:
        with socket.create_connection(("127.0.0.1", devchain.port), WAIT_S) as client:
            client.sendall(sent)
            if not answer:
                client.shutdown(socket.SHUT_WR)
            received = b"".join(iter(lambda: client.recv(4096), b""))
        with closing(Wire(devchain.url)) as wire:
            assert wire.get("system_chain")
    assert received.startswith(answer) and bool(received) == bool(answer)
    told = [record for record in caplog.records if "connection" in record.getMessage()]
    told = [record for record in told if record.getMessage() not in ORDINARY_LINES]
    assert len(told) == 1
    assert told[0].levelname == "INFO" and told[0].exc_info is None
    assert "\x1b" not in told[0].getMessage() and "Traceback" not in caplog.text


def test_a_stop_ends_connected_clients_without_an_error(caplog: pytest.LogCaptureFixture) -> None:
    busy = DevChainConfig(block_seconds=0.02)
    with caplog.at_level("WARNING"), serve_in_thread(busy) as devchain:
        clients = [Wire(devchain.url) for _ in range(4)]
        for client in clients:
            client.get("chain_subscribeNewHeads")
            client.get("chain_subscribeFinalizedHeads")
        assert clients[0].next_news()
    for client in clients:
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                client.next_news()
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1001
    assert caplog.records == []


def test_a_batch_is_answered_one_by_one_and_a_huge_one_is_refused(wire: Wire) -> None:
    requests = [{"id": number, "method": "system_chain"} for number in range(3)]
    wire.socket.send(json.dumps(requests))
    assert [wire.receive()["id"] for _ in range(3)] == [0, 1, 2]
    huge = [{"id": 1, "method": "system_chain"}] * (rpc_connection.MAX_BATCH + 1)
    assert wire.send(json.dumps(huge))["error"]["code"] == -32600


def test_subscriptions_are_bounded(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc_connection, "MAX_SUBSCRIPTIONS", 3)
    names = [wire.get("chain_subscribeNewHeads") for _ in range(3)]
    assert "Too many" in wire.ask("chain_subscribeNewHeads")["error"]["message"]
    assert wire.get("chain_unsubscribeNewHeads", names[0]) is True
    assert wire.get("chain_unsubscribeNewHeads", names[0]) is False
    wire.get("chain_subscribeNewHeads")


def test_connections_are_bounded(devchain: DevChain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 1)
    first = Wire(devchain.url)
    assert first.get("system_chain")
    second = Wire(devchain.url)
    with pytest.raises(ConnectionClosed) as closed:
        second.get("system_chain")
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 1013
    first.close()


@pytest.mark.parametrize(
    "origin", ["https://polkadot.js.org", "http://localhost.evil.example", "null", "http://[", ""]
)
def test_a_page_of_another_host_makes_no_blocks(devchain: DevChain, origin: str) -> None:
    page = Wire(devchain.url, origin=origin)
    for method in ("dev_newBlock", "dev_setBlockMode", "dev_timeTravel"):
        assert page.ask(method)["error"]["code"] == rpc_errors.NOT_FOR_PAGES
    # The polkadot.js Apps page is one: it reads and submits.
    assert page.get("chain_getHeader")["number"] == "0x0"
    page.get("author_submitExtrinsic", make(page, Remark(b"x"), 0))
    page.close()


@pytest.mark.parametrize(
    "origin", [None, "http://localhost:3000", "http://127.0.0.1:8080", "http://[::1]:80"]
)
def test_programs_and_pages_of_this_machine_make_blocks(
    devchain: DevChain, origin: str | None
) -> None:
    client = Wire(devchain.url, origin=origin)
    client.get("dev_newBlock")
    client.close()


def test_a_client_that_does_not_read_is_cut_off(
    devchain: DevChain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rpc_connection, "MAX_OUTBOX", 4)
    slow = Wire(devchain.url)
    slow.get("chain_subscribeNewHeads")
    with pytest.raises(ConnectionClosed) as closed:
        slow.get("dev_newBlock", {"count": 50})
        while True:
            slow.next_news()
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 1008


def test_a_watched_extrinsic_is_ready_then_in_a_block_then_final(wire: Wire) -> None:
    wire.get("author_submitAndWatchExtrinsic", make(wire, Remark(b"x"), 0))
    assert wire.next_news() == "ready"
    assert len(wire.get("author_pendingExtrinsics")) == 1
    block_hash = wire.get("dev_newBlock")
    assert wire.next_news() == {"inBlock": block_hash}
    wire.get("dev_newBlock", 2)
    assert wire.next_news() == {"finalized": block_hash}
    assert wire.get("chain_getFinalizedHead") == block_hash
    assert wire.get("author_pendingExtrinsics") == []


def test_the_pool_keeps_one_extrinsic_for_each_nonce(wire: Wire) -> None:
    first = make(wire, Remark(b"first"), 0)
    wire.get("author_submitExtrinsic", first)
    assert wire.ask("author_submitExtrinsic", first)["error"]["code"] == 1013
    second = make(wire, Remark(b"second"), 0)
    assert wire.ask("author_submitExtrinsic", second)["error"]["code"] == 1014
    wire.get("author_submitExtrinsic", make(wire, Remark(b"second"), 0, tip=5))
    assert wire.get("system_accountNextIndex", "0x" + ALITH.account_id.hex()) == 1
    wire.get("dev_newBlock")
    body = wire.get("chain_getBlock")["block"]["extrinsics"]
    assert len(body) == 2 and b"second".hex() in body[1]


def test_a_future_nonce_waits_for_its_turn(wire: Wire) -> None:
    wire.get("author_submitExtrinsic", make(wire, Remark(b"later"), 1))
    wire.get("dev_newBlock")
    assert len(wire.get("chain_getBlock")["block"]["extrinsics"]) == 1
    wire.get("author_submitExtrinsic", make(wire, Remark(b"now"), 0))
    wire.get("dev_newBlock")
    assert len(wire.get("chain_getBlock")["block"]["extrinsics"]) == 3


def test_an_extrinsic_that_can_no_longer_pay_is_reported_invalid(
    devchain: DevChain, wire: Wire
) -> None:
    everything = 1_000_000 * TENSOR - 10**9
    transfer = TransferKeepAlive(BALTATHAR.account_id, everything)
    wire.get("author_submitExtrinsic", make(wire, transfer, 0))
    dear = make(wire, Remark(b"x"), 1, tip=TENSOR)
    wire.get("author_submitAndWatchExtrinsic", dear)
    assert wire.next_news() == "ready"
    wire.get("dev_newBlock")
    assert wire.next_news() == "invalid"


def test_storage_subscribers_hear_of_changes_only(wire: Wire) -> None:
    key = "0x" + hash_key(storage.ACCOUNT, (BALTATHAR.account_id,)).hex()
    wire.get("state_subscribeStorage", [key])
    assert wire.next_news()["changes"][0][0] == key
    wire.get("dev_newBlock", 3)
    wire.get("author_submitExtrinsic", make(wire, TransferKeepAlive(BALTATHAR.account_id, 5), 0))
    block_hash = wire.get("dev_newBlock")
    assert wire.next_news()["block"] == block_hash


def test_finality_lags_two_blocks_and_every_final_block_is_told(wire: Wire) -> None:
    wire.get("chain_subscribeFinalizedHeads")
    assert wire.next_news()["number"] == "0x0"
    wire.get("dev_newBlock", 4)
    assert [wire.next_news()["number"] for _ in range(2)] == ["0x1", "0x2"]


def test_headers_hash_to_what_the_next_one_calls_its_parent(wire: Wire) -> None:
    wire.get("dev_newBlock", 3)
    for number in (1, 2, 3):
        header = wire.get("chain_getHeader", wire.get("chain_getBlockHash", number))
        assert header["parentHash"] == wire.get("chain_getBlockHash", number - 1)
        from devchain.extrinsics import blake2_256
        from devchain.scale import encode_compact

        raw = bytes.fromhex(header["parentHash"][2:]) + encode_compact(number)
        raw += bytes.fromhex(header["stateRoot"][2:] + header["extrinsicsRoot"][2:]) + b"\x00"
        assert "0x" + blake2_256(raw).hex() == wire.get("chain_getBlockHash", number)


def test_runtime_metadata_is_the_same_by_every_way(wire: Wire) -> None:
    direct = wire.get("state_getMetadata")
    wrapped = wire.get("state_call", "Metadata_metadata", "0x")
    assert wrapped.endswith(direct[2:])
    at_version = wire.get("state_call", "Metadata_metadata_at_version", "0x0e000000")
    assert at_version == "0x01" + wrapped[2:]
    assert wire.get("state_call", "Metadata_metadata_versions", "0x") == "0x040e000000"


def test_a_port_in_use_is_a_sentence_with_a_fix(devchain: DevChain) -> None:
    import asyncio

    async def collide() -> None:
        async with DevChain.open(DevChainConfig(port=devchain.port)):
            raise AssertionError("the port was free")

    with pytest.raises(BaseException) as failure:
        asyncio.run(collide())
    error = failure.value
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, DevchainUnusable) and "listen" in str(error)


def test_a_restart_goes_on_with_the_same_chain(tmp_path: Path) -> None:
    config = DevChainConfig(mode=BlockMode.MANUAL, database=tmp_path / "chain.sqlite")
    with serve_in_thread(config) as first:
        wire = Wire(first.url)
        transfer = TransferKeepAlive(bytes([7]) * 20, TENSOR)
        wire.get("author_submitExtrinsic", make(wire, transfer, 0))
        wire.get("dev_newBlock", 30)
        genesis, head = wire.get("chain_getBlockHash", 0), wire.get("chain_getHead")
        key = "0x" + hash_key(storage.ACCOUNT, (bytes([7]) * 20,)).hex()
        stored = wire.get("state_getStorage", key)
        wire.close()
    with serve_in_thread(config) as second:
        wire = Wire(second.url)
        assert wire.get("chain_getBlockHash", 0) == genesis
        assert wire.get("chain_getHead") == head
        assert wire.get("state_getStorage", key) == stored
        assert wire.get("state_getStorage", key, genesis) is None
        wire.get("author_submitExtrinsic", make(wire, Remark(b"x"), 1))
        wire.get("dev_newBlock")
        assert wire.get("chain_getHeader")["number"] == "0x1f"
        wire.close()


def test_a_database_of_other_rules_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "chain.sqlite"
    with serve_in_thread(DevChainConfig(mode=BlockMode.MANUAL, database=path)) as running:
        Wire(running.url).close()
    from devchain.block_store import BlockStore

    other = DevChainConfig(ledger=LedgerConfig(epoch_length=50), database=path)
    with pytest.raises(DevchainUnusable, match="other rules"):
        server.load_chain(other, BlockStore(path))


def test_a_tampered_database_is_refused(tmp_path: Path) -> None:
    import sqlite3

    path = tmp_path / "chain.sqlite"
    config = DevChainConfig(mode=BlockMode.MANUAL, database=path)
    with serve_in_thread(config) as running:
        wire = Wire(running.url)
        wire.get("dev_newBlock", 3)
        wire.close()
    with sqlite3.connect(path) as database:
        database.execute("UPDATE blocks SET extrinsics = '[]' WHERE number = 2")
    database.close()
    from devchain.block_store import BlockStore

    with pytest.raises(DevchainUnusable, match="cannot be used"):
        server.load_chain(config, BlockStore(path))


def test_a_restart_tells_of_each_block_that_it_replays(tmp_path: Path) -> None:
    from devchain.block_store import BlockStore

    path = tmp_path / "chain.sqlite"
    told: list[int] = []
    config = DevChainConfig(mode=BlockMode.MANUAL, database=path)

    @contextmanager
    def follow(count: int) -> Iterator[Callable[[int], None]]:
        told.append(-count)
        yield told.append

    server.load_chain(config, BlockStore(path), follow_replay=follow)
    assert told == []
    with serve_in_thread(config) as running:
        wire = Wire(running.url)
        wire.get("dev_newBlock", 3)
        wire.close()
    chain = server.load_chain(config, BlockStore(path), follow_replay=follow)
    assert told == [-3, 1, 1, 1] and chain.head.number == 3


def test_two_fresh_chains_are_never_the_same_chain() -> None:
    first, second = (server.load_chain(MANUAL, None) for _ in range(2))
    assert first.genesis.hash != second.genesis.hash
    seeded = DevChainConfig(seed=b"fixed")
    again = [server.load_chain(seeded, None).genesis.hash for _ in range(2)]
    assert again[0] == again[1]


def test_blocks_come_by_the_clock_and_carry_its_time() -> None:
    import time

    config = DevChainConfig(block_seconds=0.05)
    with serve_in_thread(config) as running:
        wire = Wire(running.url)
        wire.get("chain_subscribeNewHeads")
        numbers = [int(wire.next_news()["number"], 16) for _ in range(4)]
        assert numbers == list(range(numbers[0], numbers[0] + 4))
        raw = wire.get("state_getStorage", "0x" + hash_key(storage.NOW, ()).hex())
        now_ms = int.from_bytes(bytes.fromhex(raw[2:]), "little")
        assert abs(now_ms / 1000 - time.time()) < 10
        wire.get("dev_setBlockMode", "manual")
        wire.news.clear()
        head = wire.get("chain_getHead")
        assert wire.get("chain_getHead") == head
        wire.close()


def test_the_pallets_queries_are_served_at_any_block(wire: Wire) -> None:
    assert wire.get("state_call", "NetworkRuntimeApi_get_all_subnets_info", "0x") == "0x0400"
    genesis = wire.get("chain_getBlockHash", 0)
    subnet = "0x01f40100"
    assert wire.get("state_call", "NetworkRuntimeApi_get_subnet_info", subnet, genesis) == "0x0400"
    bad = wire.ask("state_call", "NetworkRuntimeApi_get_subnet_info", "0x01")
    assert bad["error"]["code"] == -32602
    unknown = wire.ask("state_call", "NetworkRuntimeApi_get_everything", "0x")
    assert unknown["error"]["code"] == 4003


def test_time_can_be_set_and_goes_on_from_there(wire: Wire) -> None:
    future_ms = 4_000_000_000_000
    assert wire.get("dev_timeTravel", future_ms) >= future_ms
    key = "0x" + hash_key(storage.NOW, ()).hex()
    first = int.from_bytes(bytes.fromhex(wire.get("state_getStorage", key)[2:]), "little")
    wire.get("dev_newBlock")
    second = int.from_bytes(bytes.fromhex(wire.get("state_getStorage", key)[2:]), "little")
    assert future_ms <= first < second < future_ms + 60_000
    assert wire.ask("dev_timeTravel", 2**64)["error"]["code"] == -32602
    wire.get("dev_timeTravel", 1)
    third = int.from_bytes(bytes.fromhex(wire.get("state_getStorage", key)[2:]), "little")
    assert third == second + 1


def test_the_nodes_network_methods_answer_with_numbers(wire: Wire) -> None:
    assert wire.get("network_getSubnetInfo", 128_001) == [0]
    assert wire.get("network_getAllSubnetsInfo", wire.get("chain_getBlockHash", 0)) == [0]
    assert wire.get("network_proofOfStake", 128_001, list(b"12D3KooW"), 1, None) is False
    assert wire.get("network_getDelegateStakes", "0x" + ALITH.account_id.hex()) == [0]
    for bad in ([], ["x"], [1, 2, 3], [2**32], [True, "0x00"]):
        assert wire.ask("network_getSubnetInfo", *bad)["error"]["code"] == -32602
