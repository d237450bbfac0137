"""A client with several endpoints is never stopped by one of them; with one, it waits for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import subnet
from consensus.types import SubnetId
from devchain.config import BlockMode, DevChainConfig
from devchain.server import DevChain
from keys.account import get_development_account
from subnet.account.registration import TENSOR, transfer
from subnet.chain.endpoints import (
    DEFAULT_CHAIN_URL,
    FIRST_REST_S,
    MAX_REST_S,
    REMINDER_S,
    Endpoints,
    parse_chain_urls,
)
from subnet.chain.head_subscription import parse_announced
from subnet.chain.rpc_errors import AnotherChain
from subnet.chain.substrate import SubstrateChain
from subnet.chain.worker import ChainWorker
from subnet.epoch.interfaces import BlockInfo
from subnet.errors import ChainMismatch, ChainUnavailable, UsageError
from tests.support.rpc_proxy import PASS, RpcProxy, refuse, run_rpc_proxy
from tests.support.tcp_proxy import run_proxy

HEADER = {
    "number": "0x99",
    "parentHash": f"0x{bytes(32).hex()}",
    "stateRoot": f"0x{bytes(32).hex()}",
    "extrinsicsRoot": f"0x{bytes(32).hex()}",
    "digest": {"logs": []},
}
ALITH = get_development_account("Alith")
BALTATHAR = get_development_account("Baltathar")
SUBNET = SubnetId(1)
PAGE = "<html>" + "x" * 20_000


def mangle_storage(method: str) -> dict[str, Any]:
    return {"result": "0x0102"} if method == "state_getStorageAt" else PASS


def forget_storage(method: str) -> dict[str, Any] | None:
    return None if method == "state_getStorageAt" else PASS


FAULTS = {
    "method not found": refuse(-32601, "Method not found", methods="state_getStorage"),
    "rate limit": refuse(-32005, "rate limit exceeded"),
    "rate limit by status": refuse(429, "Too Many Requests"),
    "state is pruned": refuse(4003, "State already discarded", methods="state_getStorage"),
    "undecodable storage": mangle_storage,
    "no answer": forget_storage,
}


@asynccontextmanager
async def open_bad_and_good(devchain: DevChain) -> AsyncIterator[tuple[RpcProxy, SubstrateChain]]:
    """Yield a client of a proxy and the chain behind it, and the proxy; both were fine so far."""
    async with run_rpc_proxy(devchain.url) as bad:
        urls = [bad.url, devchain.url]
        async with SubstrateChain.open(urls, call_timeout_s=2.0) as chain:
            yield bad, chain


@pytest.mark.parametrize("fault", FAULTS)
async def test_an_endpoint_that_fails_is_left_for_the_next(devchain: DevChain, fault: str) -> None:
    async with open_bad_and_good(devchain) as (bad, chain):
        bad.answer = FAULTS[fault]
        assert await chain.fetch_balance(ALITH.account_id) > 0
        before = bad.requests.total()
        assert await chain.fetch_subnet(SUBNET) is None
        assert bad.requests.total() == before


@pytest.mark.parametrize("fault", ["method not found", "rate limit", "undecodable storage"])
async def test_a_single_endpoint_that_fails_is_unavailable_until_it_serves_again(
    devchain: DevChain, fault: str
) -> None:
    async with run_rpc_proxy(devchain.url) as bad, SubstrateChain.open(bad.url) as chain:
        bad.answer = FAULTS[fault]
        with pytest.raises(ChainUnavailable):
            await chain.fetch_balance(ALITH.account_id)
        bad.answer = lambda _method: PASS
        assert await chain.fetch_balance(ALITH.account_id) > 0


async def test_an_endpoint_that_refuses_at_a_reconnect_is_asked_again_later(
    devchain: DevChain,
) -> None:
    async with run_proxy(devchain.port) as good, run_rpc_proxy(devchain.url) as bad:
        async with SubstrateChain.open([bad.url, good.url]) as chain:
            bad.answer = refuse(-32005, "rate limit exceeded")
            await bad.cut_all()
            assert await chain.fetch_balance(ALITH.account_id) > 0
            bad.answer = lambda _method: PASS
            good.is_refusing = True
            good.cut_all()
            assert await chain.fetch_balance(ALITH.account_id) > 0


def describe_no_chain(method: str) -> dict[str, Any]:
    return {"result": "0x6d6574610e"} if method == "state_getMetadata" else PASS


async def test_metadata_that_cannot_be_read_is_the_endpoints_fault_once_the_chain_is_proven(
    devchain: DevChain,
) -> None:
    async with open_bad_and_good(devchain) as (bad, chain):
        bad.answer = describe_no_chain
        await bad.cut_all()
        assert await chain.fetch_balance(ALITH.account_id) > 0
    async with run_rpc_proxy(devchain.url) as bad:
        bad.answer = describe_no_chain
        with pytest.raises(ChainMismatch, match="metadata"):
            async with SubstrateChain.open([bad.url, devchain.url]):
                pass


async def test_a_first_endpoint_that_refuses_everything_does_not_stop_the_start(
    devchain: DevChain,
) -> None:
    async with run_rpc_proxy(devchain.url) as bad:
        bad.answer = refuse(-32601, "Method not found")
        async with SubstrateChain.open([bad.url, devchain.url]) as chain:
            assert await chain.fetch_balance(ALITH.account_id) > 0


async def test_heads_go_on_when_their_endpoint_begins_to_refuse(devchain: DevChain) -> None:
    async with run_rpc_proxy(devchain.url) as bad:
        urls = [bad.url, devchain.url]
        async with SubstrateChain.open(urls, block_time_s=0.2) as chain:
            seen = []
            async with asyncio.timeout(30):
                async for head in chain.heads():
                    seen.append(head.number)
                    if len(seen) == 4:
                        break
                    bad.answer = refuse(-32005, "rate limit exceeded")
                    devchain.build()
            assert seen == sorted(set(seen))


async def test_an_endpoint_that_takes_no_extrinsics_does_not_refuse_them(
    devchain: DevChain,
) -> None:
    async with open_bad_and_good(devchain) as (bad, chain):
        before = await chain.fetch_balance(BALTATHAR.account_id)
        bad.answer = refuse(-32601, "Method not found", methods="author_")
        await transfer(chain, sender=ALITH, recipient=BALTATHAR.account_id, amount=TENSOR)
        assert await chain.fetch_balance(BALTATHAR.account_id) - before == TENSOR


async def test_a_call_takes_a_block_at_most(devchain: DevChain) -> None:
    worker = ChainWorker(Endpoints([devchain.url]))
    assert worker.call_timeout_s == 6.0
    try:
        assert await worker.call(lambda session: session.block_time_ms) == 6_000
        assert worker.call_timeout_s == worker.block_time_s == 6.0
    finally:
        await worker.aclose()


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


FAILURE = ChainUnavailable("ws://a does not answer: refused")


def test_a_failing_endpoint_rests_longer_each_time_and_comes_back() -> None:
    clock = Clock()
    endpoints = Endpoints(["ws://a", "ws://b"], clock=clock)
    rests = []
    for _ in range(5):
        endpoints.leave("ws://a", FAILURE)
        assert endpoints.choose("ws://a") == "ws://b"
        endpoints.leave("ws://b", FAILURE)
        rests.append(endpoints.get_rest_s())
        with pytest.raises(ChainUnavailable, match="refused"):
            endpoints.choose("ws://a")
        clock.now += rests[-1]
        assert endpoints.choose("ws://a") == "ws://a"
    assert rests == sorted(rests)
    assert (rests[0], rests[-1]) == (pytest.approx(FIRST_REST_S), pytest.approx(MAX_REST_S))
    endpoints.note_answer("ws://a")
    endpoints.leave("ws://a", FAILURE)
    clock.now += FIRST_REST_S
    assert endpoints.choose("ws://a") == "ws://a"


def test_only_another_genesis_excludes_an_endpoint_and_never_the_last() -> None:
    endpoints = Endpoints(["ws://a", "ws://b"])
    error = AnotherChain("ws://a serves another chain")
    with pytest.raises(ChainMismatch):
        endpoints.exclude("ws://a", error)
    endpoints.is_proven = True
    endpoints.exclude("ws://a", error)
    assert endpoints.choose("ws://a") == "ws://b"
    with pytest.raises(ChainMismatch):
        endpoints.exclude("ws://b", error)


def test_a_lost_chain_is_one_line_and_its_return_another(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    clock = Clock()
    endpoints = Endpoints(["ws://a"], clock=clock)
    endpoints.is_proven = True
    for _ in range(int(2.5 * REMINDER_S)):
        endpoints.leave("ws://a", FAILURE)
        clock.now += 1.0
    endpoints.note_answer("ws://a")
    endpoints.note_answer("ws://a")
    assert [record.message for record in caplog.records] == [
        "ws://a is left for now: does not answer: refused",
        "ws://a still fails after 60 s: does not answer: refused",
        "ws://a still fails after 120 s: does not answer: refused",
        "ws://a serves again after 150 s",
    ]


async def test_a_lost_chain_is_not_reported_by_every_call(
    devchain: DevChain, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("subnet.chain.endpoints.MAX_REST_S", FIRST_REST_S)
    caplog.set_level(logging.INFO, logger="subnet.chain")
    async with run_proxy(devchain.port) as proxy, SubstrateChain.open(proxy.url) as chain:
        proxy.is_refusing = True
        proxy.cut_all()
        for _ in range(3):
            with pytest.raises(ChainUnavailable):
                await chain.fetch_head()
        proxy.is_refusing = False
        await chain.fetch_head()
    lost, back = (record.message for record in caplog.records)
    assert "is left for now: does not answer" in lost
    assert "serves again" in back


async def test_a_connection_that_was_closed_while_idle_is_opened_again_without_a_word(
    devchain: DevChain, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="subnet.chain")
    async with run_proxy(devchain.port) as proxy:
        async with SubstrateChain.open([proxy.url, devchain.url]) as chain:
            for _ in range(3):
                before = proxy.connections
                proxy.cut_all()
                assert await chain.fetch_balance(ALITH.account_id) > 0
                assert proxy.connections == before + 1
    assert caplog.records == []


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("localhost:9944", "write ws://localhost:9944"),
        ("nonsense", "write ws://nonsense"),
        ("http://chain.example:9944/", "write ws://chain.example:9944/"),
        ("https://chain.example", "write wss://chain.example"),
        ("ws://chain.example,localhost:9944", "write ws://localhost:9944"),
        ("ftp://chain.example", "write ws://chain.example"),
        ("ws://", f"write {DEFAULT_CHAIN_URL}"),
        ("ws://a b", f"write {DEFAULT_CHAIN_URL}"),
        ("ws://a:99999", f"write {DEFAULT_CHAIN_URL}"),
        ("", f"write --chain {DEFAULT_CHAIN_URL}"),
        (" , ", f"write --chain {DEFAULT_CHAIN_URL}"),
    ],
)
def test_an_address_that_is_none_is_refused_with_the_fix(text: str, fix: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_chain_urls(text)
    assert caught.value.hint == fix
    assert "\n" not in str(caught.value)


def test_spaces_empty_entries_and_repeats_in_a_list_of_addresses_are_dropped() -> None:
    text = " ws://a:1 ,, wss://b/path , ws://a:1,"
    assert parse_chain_urls(text) == ("ws://a:1", "wss://b/path")
    assert parse_chain_urls(["ws://a:1", " "]) == ("ws://a:1",)


@asynccontextmanager
async def serve_page(status: str) -> AsyncIterator[str]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = PAGE.encode()
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize("status", ["200 OK", "404 Not Found", "429 Too Many Requests"])
async def test_a_web_server_is_one_short_sentence(status: str) -> None:
    async with serve_page(status) as url:
        with pytest.raises(ChainUnavailable) as caught:
            async with SubstrateChain.open(url):
                pass
    assert str(caught.value) == (
        f"{url} answers like a web server (HTTP {status[:3]}), not like a chain"
    )


async def test_a_long_refusal_is_cut_to_one_line(devchain: DevChain) -> None:
    async with run_rpc_proxy(devchain.url) as bad, SubstrateChain.open(bad.url) as chain:
        bad.answer = refuse(-32000, "a\n" + PAGE)
        with pytest.raises(ChainUnavailable) as caught:
            await chain.fetch_finalised_number()
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


async def test_a_subscription_that_announces_every_head_a_little_late_is_made_once() -> None:
    config = DevChainConfig(mode=BlockMode.INTERVAL, block_seconds=0.25, seed=b"steady")
    async with DevChain.open(config) as devchain, run_rpc_proxy(devchain.url) as proxy:
        proxy.announcement_delay_s = 0.15
        async with SubstrateChain.open(proxy.url, block_time_s=0.25) as chain:
            count = 0
            async for _head in chain.heads():
                count += 1
                if count == 20:
                    break
    assert proxy.requests["chain_subscribeNewHeads"] == 1


async def test_a_subscription_that_is_silent_costs_no_heads_and_is_made_anew_ever_less() -> None:
    config = DevChainConfig(mode=BlockMode.INTERVAL, block_seconds=0.25, seed=b"silent")
    async with DevChain.open(config) as devchain, run_rpc_proxy(devchain.url) as proxy:
        async with SubstrateChain.open(proxy.url, block_time_s=0.25) as chain:
            proxy.is_announcing = False
            seen: list[int] = []
            async for head in chain.heads():
                seen.append(head.number)
                if len(seen) == 16:
                    break
    assert seen[-1] - seen[0] < 2 * len(seen)
    # Two misses, then four, then eight.
    assert 2 <= proxy.requests["chain_subscribeNewHeads"] <= 4


def test_the_default_address_is_written_once() -> None:
    packages = Path(subnet.__file__).parent
    holders = [
        path.relative_to(packages).as_posix()
        for path in packages.rglob("*.py")
        if DEFAULT_CHAIN_URL in path.read_text()
    ]
    assert holders == ["chain/endpoints.py"]


async def test_a_head_that_is_announced_costs_one_request_and_after_a_gap_the_version() -> None:
    config = DevChainConfig(mode=BlockMode.MANUAL, seed=b"cost")
    async with DevChain.open(config) as devchain, run_rpc_proxy(devchain.url) as proxy:
        async with SubstrateChain.open(proxy.url) as chain, aclosing(chain.heads()) as heads:

            async def follow(count: int) -> BlockInfo:
                make = {"count": count}
                await chain.query(lambda session: session.rpc("dev_newBlock", make))
                return await anext(heads)

            await anext(heads)
            await follow(1)
            proxy.requests.clear()
            for _ in range(3):
                head = await follow(1)
                assert head.block_hash == devchain.chain.head.hash
                assert head.number == devchain.chain.head.number
            assert proxy.requests == {"dev_newBlock": 3, "state_getStorageAt": 3}
            await chain.query(lambda session: session.rpc("dev_newBlock", {"count": 2}))
            await chain.fetch_head()
            assert proxy.requests["state_getRuntimeVersion"] == 1


async def test_an_announced_block_that_the_reader_does_not_know_costs_no_head() -> None:
    config = DevChainConfig(mode=BlockMode.MANUAL, seed=b"balancer")
    async with DevChain.open(config) as devchain, run_rpc_proxy(devchain.url) as proxy:
        proxy.announced = HEADER
        async with SubstrateChain.open(proxy.url) as chain, aclosing(chain.heads()) as heads:
            await anext(heads)
            await chain.query(lambda session: session.rpc("dev_newBlock", {"count": 1}))
            assert (await anext(heads)).number == devchain.chain.head.number
            assert proxy.requests["chain_getHeader"] > 0


@pytest.mark.parametrize(
    "parameters",
    [
        None,
        [],
        {},
        {"result": None},
        {"result": {"number": "0x1"}},
        {"result": {**HEADER, "number": "one"}},
        {"result": {**HEADER, "number": "0xffffffffff"}},
        {"result": {**HEADER, "stateRoot": "0x00"}},
        {"result": {**HEADER, "digest": {"logs": ["0x00"] * 65}}},
        {"result": {**HEADER, "digest": {"logs": [1]}}},
    ],
)
def test_an_announcement_that_is_no_header_is_none(parameters: object) -> None:
    assert parse_announced(parameters) is None
