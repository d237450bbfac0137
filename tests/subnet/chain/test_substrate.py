"""What the client does when the endpoint is down, slow, silent, lying, or another chain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve

from consensus.types import BlockNumber, SubnetId, SubnetNodeId
from devchain.config import BlockMode, DevChainConfig
from devchain.rpc_methods import METHODS
from devchain.server import DevChain
from keys.account import AccountKey, get_development_account
from subnet.account.registration import TENSOR, find_subnet, transfer
from subnet.chain.chain_session import ChainSession
from subnet.chain.extrinsics import Call
from subnet.chain.substrate import SubstrateChain
from subnet.errors import ChainMismatch, ChainUnavailable, ExtrinsicFailed, UsageError
from tests.support.chopsticks import REAL_RUNTIME_MARKS
from tests.support.tcp_proxy import run_proxy

ALITH = get_development_account("Alith")
BALTATHAR = get_development_account("Baltathar")
NOBODY = AccountKey(bytes([77]) * 32)
NOWHERE = "ws://127.0.0.1:1"

OUTAGE_S = 0.5


@asynccontextmanager
async def serve_answers(answer: Callable[[str], Awaitable[str | None]]) -> AsyncIterator[str]:
    """Run a WebSocket server that is not a node."""

    async def handle(connection: ServerConnection) -> None:
        async for message in connection:
            reply = await answer(str(message))
            if reply is not None:
                await connection.send(reply, text=True)

    async with serve(handle, "127.0.0.1", 0) as server:
        yield f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"


async def count_transfers(chain: SubstrateChain, before: int) -> float:
    return (await chain.fetch_balance(BALTATHAR.account_id) - before) / TENSOR


async def pay(
    chain: SubstrateChain, sender: AccountKey = ALITH, *, amount: int = TENSOR
) -> BlockNumber:
    receipt = await transfer(chain, sender=sender, recipient=BALTATHAR.account_id, amount=amount)
    return receipt.block_number


async def test_an_endpoint_that_is_down_is_unavailable() -> None:
    with pytest.raises(ChainUnavailable, match=r"ws://127\.0\.0\.1:1 does not answer"):
        async with SubstrateChain.open(NOWHERE):
            pass


@pytest.mark.parametrize("url", ["", ",", "nonsense", "http://[::1", "ws://", "ftp://x"])
async def test_an_address_that_is_none_is_a_mistake_of_the_command_line(url: str) -> None:
    with pytest.raises(UsageError):
        async with SubstrateChain.open(url):
            pass


async def test_a_silent_endpoint_is_given_up_after_the_timeout() -> None:
    async def say_nothing(_message: str) -> None:
        return None

    async with serve_answers(say_nothing) as url:
        with pytest.raises(ChainUnavailable):
            async with SubstrateChain.open(url, call_timeout_s=0.1):
                pass


@pytest.mark.parametrize(
    "noise", ["not json", "[]", '{"id": 1, "result": 7}', '"\\ud800"', b'"\xff"', b'"\xed\xa0\x80"']
)
async def test_an_endpoint_that_is_no_node_is_refused(noise: str | bytes) -> None:
    async def babble(_message: str) -> str | bytes:
        return noise

    async with serve_answers(babble) as url:
        with pytest.raises((ChainUnavailable, ChainMismatch)):
            async with SubstrateChain.open(url, call_timeout_s=0.1):
                pass


async def test_another_genesis_is_refused_by_name(devchain: DevChain) -> None:
    with pytest.raises(ChainMismatch, match="serves another chain"):
        async with SubstrateChain.open(devchain.url, expected_genesis=bytes(32)):
            pass


async def test_the_first_endpoint_that_answers_serves(devchain: DevChain) -> None:
    for urls in ([NOWHERE, devchain.url], f"{NOWHERE}, {devchain.url}"):
        async with SubstrateChain.open(urls) as chain:
            assert (await chain.fetch_info()).epoch_length == 20


OTHER_CHAIN = DevChainConfig(mode=BlockMode.INSTANT, seed=b"another chain")


async def test_a_fallback_endpoint_of_another_chain_is_left_out_with_a_sentence(
    devchain: DevChain, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("subnet.chain.endpoints.MAX_REST_S", 0.2)
    async with DevChain.open(OTHER_CHAIN) as foreign, run_proxy(devchain.port) as proxy:
        async with SubstrateChain.open([proxy.url, foreign.url]) as chain:
            for _ in range(3):
                await pay(chain)
                # Away for longer than it takes to reconnect, so that the fallback is asked.
                proxy.is_refusing = True
                proxy.cut_all()
                with pytest.raises(ChainUnavailable):
                    await chain.fetch_finalised_number()
                proxy.is_refusing = False
                assert await chain.fetch_balance(ALITH.account_id) > 0
            await pay(chain)
    warnings = [record.message for record in caplog.records if "left out" in record.message]
    assert len(warnings) == 1
    assert foreign.url in warnings[0]
    assert "serves another chain: its genesis is 0x" in warnings[0]


async def test_an_endpoint_of_another_chain_is_never_asked_while_the_right_one_is_away(
    devchain: DevChain,
) -> None:
    async with DevChain.open(OTHER_CHAIN) as foreign, run_proxy(devchain.port) as proxy:
        async with SubstrateChain.open([proxy.url, foreign.url]) as chain:
            proxy.is_refusing = True
            proxy.cut_all()
            with pytest.raises(ChainUnavailable):
                await chain.fetch_finalised_number()
            proxy.is_refusing = False
            assert await chain.fetch_balance(ALITH.account_id) > 0


async def test_a_first_endpoint_of_another_chain_is_an_error_whatever_stands_behind_it(
    devchain: DevChain,
) -> None:
    genesis = devchain.chain.genesis.hash
    async with DevChain.open(OTHER_CHAIN) as foreign:
        with pytest.raises(ChainMismatch, match="serves another chain"):
            async with SubstrateChain.open([foreign.url, devchain.url], expected_genesis=genesis):
                pass


async def test_the_last_endpoint_that_becomes_another_chain_is_an_error(
    devchain: DevChain,
) -> None:
    async with DevChain.open(OTHER_CHAIN) as foreign, run_proxy(devchain.port) as proxy:
        async with SubstrateChain.open(proxy.url) as chain:
            proxy.target_port = foreign.port
            proxy.cut_all()
            with pytest.raises(ChainMismatch, match="serves another chain"):
                await chain.fetch_finalised_number()


async def test_a_cut_connection_is_reopened_for_the_next_read(devchain: DevChain) -> None:
    async with run_proxy(devchain.port) as proxy, SubstrateChain.open(proxy.url) as chain:
        before = proxy.connections
        proxy.cut_all()
        assert await chain.fetch_balance(ALITH.account_id) > 0
        assert proxy.connections > before


async def test_heads_go_on_after_a_cut_and_repeat_none(devchain: DevChain) -> None:
    async with run_proxy(devchain.port) as proxy:
        async with SubstrateChain.open(proxy.url, block_time_s=0.1) as chain:
            seen = []
            async for head in chain.heads():
                seen.append(head.number)
                if len(seen) == 4:
                    break
                if len(seen) == 2:
                    proxy.cut_all()
                devchain.build()
            assert seen == sorted(set(seen))


async def test_an_endpoint_that_stands_still_is_left_for_the_next(devchain: DevChain) -> None:
    # The first endpoint serves the same chain as it was long ago: a copy that builds nothing.
    still = DevChainConfig(mode=BlockMode.MANUAL, seed=b"chain client")
    async with DevChain.open(still) as frozen:
        urls = [frozen.url, devchain.url]
        async with SubstrateChain.open(urls, block_time_s=0.02) as chain:
            devchain.build(3)
            async with asyncio.timeout(30):
                async for head in chain.heads():
                    if head.number >= 3:
                        break


async def test_a_block_that_is_not_there_yet_is_unavailable(devchain: DevChain) -> None:
    async with SubstrateChain.open(devchain.url) as chain:
        with pytest.raises(ChainUnavailable, match="does not know block 999"):
            await chain.fetch_block(BlockNumber(999))


async def test_a_connection_cut_between_submit_and_inclusion_pays_once(
    devchain: DevChain,
) -> None:
    async with run_proxy(devchain.port) as proxy, SubstrateChain.open(proxy.url) as chain:
        before = await chain.fetch_balance(BALTATHAR.account_id)
        # The extrinsic arrives and is included; the answer that says so is lost.
        proxy.cut_answers = lambda data: b"inBlock" in data and not proxy.cuts
        await pay(chain)
        assert proxy.cuts == 1
        assert await count_transfers(chain, before) == 1


async def test_a_connection_cut_before_the_submit_arrives_pays_once(devchain: DevChain) -> None:
    async with run_proxy(devchain.port) as proxy, SubstrateChain.open(proxy.url) as chain:
        before = await chain.fetch_balance(BALTATHAR.account_id)
        # Requests are masked on the wire, and no read is as long as a signed extrinsic.
        is_first = iter([True])
        proxy.cut_requests = lambda data: len(data) > 200 and next(is_first, False)
        await pay(chain)
        assert proxy.cuts == 1
        assert await count_transfers(chain, before) == 1


async def test_an_endpoint_that_dies_after_the_submit_and_returns_pays_once(
    devchain: DevChain,
) -> None:
    def die(data: bytes) -> bool:
        if b"inBlock" in data and not died.is_set():
            proxy.is_refusing = True
            died.set()
            return True
        return False

    async def come_back() -> None:
        await died.wait()
        await asyncio.sleep(OUTAGE_S)
        proxy.is_refusing = False

    died = asyncio.Event()

    async with run_proxy(devchain.port) as proxy, SubstrateChain.open(proxy.url) as chain:
        before = await chain.fetch_balance(BALTATHAR.account_id)
        proxy.cut_answers = die
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(come_back())
            await pay(chain)
        assert await count_transfers(chain, before) == 1


async def test_two_processes_with_one_key_both_get_their_call_in(devchain: DevChain) -> None:
    async with SubstrateChain.open(devchain.url) as one, SubstrateChain.open(devchain.url) as two:
        before = await one.fetch_balance(BALTATHAR.account_id)
        async with asyncio.TaskGroup() as tasks:
            # Amounts differ: equal calls with an equal nonce would be one and the same extrinsic.
            for number, chain in enumerate((one, two, one, two), start=1):
                tasks.create_task(pay(chain, amount=number * TENSOR))
        assert await count_transfers(one, before) == 1 + 2 + 3 + 4


async def test_a_nonce_that_is_too_low_is_stale(devchain: DevChain) -> None:
    async with SubstrateChain.open(devchain.url) as chain:
        call = Call("System", "remark", {"remark": b"once"})
        signed = await chain.query(lambda session: session.sign(call, ALITH))
        await pay(chain)
        assert await chain.sender.resume(signed) is None


async def test_what_is_signed_names_a_final_block(devchain: DevChain) -> None:
    async with SubstrateChain.open(devchain.url) as chain:
        await chain.query(lambda session: session.rpc("dev_newBlock", {"count": 5}))
        final = await chain.fetch_finalised_number()
        call = Call("System", "remark", {"remark": b"once"})
        signed = await chain.query(lambda session: session.sign(call, ALITH))
        assert signed.since == final < devchain.chain.head.number
        assert await chain.sender.resume(signed) is not None


async def test_an_account_without_money_cannot_pay_the_fee(devchain: DevChain) -> None:
    async with SubstrateChain.open(devchain.url) as chain:
        with pytest.raises(ExtrinsicFailed) as caught:
            await pay(chain, NOBODY)
    assert caught.value.reason == "Payment"


async def test_an_amount_above_the_balance_is_refused(devchain: DevChain) -> None:
    async with SubstrateChain.open(devchain.url) as chain:
        with pytest.raises(ExtrinsicFailed, match="the balance does not cover"):
            await transfer(chain, sender=ALITH, recipient=NOBODY.account_id, amount=10**9 * TENSOR)


async def test_a_call_that_the_runtime_lacks_is_named(devchain: DevChain) -> None:
    async with SubstrateChain.open(devchain.url) as chain:
        with pytest.raises(ChainMismatch, match=r"no call Network\.validate"):
            await chain.submit("Network", "validate", {}, key=ALITH)


async def test_an_argument_that_this_client_does_not_know_is_named(devchain: DevChain) -> None:
    async with SubstrateChain.open(devchain.url) as chain:
        with pytest.raises(ChainMismatch, match="attest wants attest_data"):
            await chain.submit("Network", "attest", {"subnet_id": 1}, key=ALITH)


async def test_storage_that_the_runtime_lacks_is_a_mismatch(devchain: DevChain) -> None:
    async with SubstrateChain.open(devchain.url) as chain:
        with pytest.raises(ChainMismatch, match="SubnetPaths"):
            await chain.query(lambda session: session.read("Network.SubnetPaths", 1, at=None))


async def test_a_runtime_upgrade_is_noticed_and_the_new_runtime_read(
    devchain: DevChain, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with run_proxy(devchain.port) as proxy, SubstrateChain.open(proxy.url) as chain:
        before = proxy.connections
        describe = METHODS["state_getRuntimeVersion"]

        def describe_next(*arguments: Any) -> Any:
            return {**describe(*arguments), "specVersion": 2}  # type: ignore[dict-item]

        monkeypatch.setitem(METHODS, "state_getRuntimeVersion", describe_next)
        async for head in chain.heads():
            assert head.number == devchain.chain.head.number
            break
        # The subscription is one more connection than before; the session of the reader is new.
        assert proxy.connections > before
        await chain.query(lambda session: session.check_version())


async def test_a_client_without_a_hotkey_does_not_sign(devchain: DevChain) -> None:
    async with SubstrateChain.open(devchain.url) as chain:
        with pytest.raises(ValueError, match="without a hotkey"):
            await chain.attest(SubnetId(1))


async def test_args_beyond_the_chains_bound_are_refused_here(devchain: DevChain) -> None:
    async with SubstrateChain.open(devchain.url, signer=ALITH) as chain:
        with pytest.raises(ValueError, match="4096"):
            await chain.propose(SubnetId(1), [(SubnetNodeId(1), 1)], bytes(4097))  # type: ignore[list-item]


async def test_an_unknown_subnet_is_not_found_under_any_name(devchain: DevChain) -> None:
    async with SubstrateChain.open(devchain.url) as chain:
        for wanted in ("nope", "7", "128001", "0"):
            assert await find_subnet(chain, wanted) is None


async def wait_for_pool(chain: SubstrateChain) -> None:
    while True:
        if await chain.query(lambda session: session.rpc("author_pendingExtrinsics")):
            return
        await asyncio.sleep(0.01)


def shift_nonces(monkeypatch: pytest.MonkeyPatch, by: int) -> None:
    """Let endpoints tell a nonce that is too high."""
    true_nonce = ChainSession.read_nonce
    monkeypatch.setattr(
        ChainSession, "read_nonce", lambda session, account: true_nonce(session, account) + by
    )


async def test_a_nonce_too_high_waits_for_the_missing_one_and_lands_once(
    devchain: DevChain, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        SubstrateChain.open(devchain.url) as early,
        SubstrateChain.open(devchain.url) as other,
    ):
        before = await other.fetch_balance(BALTATHAR.account_id)
        async with asyncio.TaskGroup() as tasks, asyncio.timeout(30):
            with monkeypatch.context() as patched:
                shift_nonces(patched, 1)
                waiting = tasks.create_task(pay(early))
                await wait_for_pool(other)
            assert not waiting.done()
            await pay(other)
            await waiting
        assert await count_transfers(other, before) == 2


async def test_a_nonce_too_high_that_never_becomes_right_ends_in_a_sentence(
    devchain: DevChain, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with SubstrateChain.open(devchain.url, inclusion_timeout_s=0.5) as chain:
        before = await chain.fetch_balance(BALTATHAR.account_id)
        shift_nonces(monkeypatch, 3)
        with pytest.raises(ChainUnavailable, match="was sent, but no block held it"):
            await pay(chain)
        assert await count_transfers(chain, before) == 0


@pytest.mark.parametrize("_", [pytest.param("real runtime", marks=REAL_RUNTIME_MARKS)])
async def test_the_real_runtime_refuses_a_nonce_too_high_with_a_sentence(
    _: str, real_runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with SubstrateChain.open(real_runtime) as chain:
        before = await chain.fetch_balance(BALTATHAR.account_id)
        with monkeypatch.context() as patched:
            shift_nonces(patched, 3)
            with pytest.raises(ExtrinsicFailed, match="its nonce is ahead of the account's"):
                await pay(chain)
        assert await count_transfers(chain, before) == 0
        await pay(chain)
