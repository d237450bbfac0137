"""A client that dies between submit and inclusion neither repeats nor loses its extrinsic."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from devchain.config import BlockMode, DevChainConfig
from devchain.server import DevChain
from keys.account import get_development_account
from subnet.account.registration import TENSOR, transfer
from subnet.chain.extrinsic_journal import (
    KEPT_EPOCHS,
    ExtrinsicJournal,
    ExtrinsicState,
    settle,
)
from subnet.chain.extrinsics import Call
from subnet.chain.substrate import SubstrateChain
from subnet.errors import ExtrinsicFailed, JournalCorrupt, JournalFailed

ALITH = get_development_account("Alith")
BALTATHAR = get_development_account("Baltathar")
POLL_S = 0.02
FINALITY_LAG = 2

SUBMITTER = """
import asyncio, sys
from pathlib import Path
from keys.account import get_development_account
from subnet.chain.extrinsic_journal import ExtrinsicJournal
from subnet.account.registration import TENSOR, transfer
from subnet.chain.substrate import SubstrateChain

async def main():
    alith, baltathar = get_development_account("Alith"), get_development_account("Baltathar")
    with ExtrinsicJournal.open(Path(sys.argv[2])) as journal:
        async with SubstrateChain.open(sys.argv[1], log=journal) as chain:
            await transfer(chain, sender=alith, recipient=baltathar.account_id, amount=TENSOR)

asyncio.run(main())
"""


@pytest.fixture
async def devchain() -> AsyncIterator[DevChain]:
    """A chain that builds blocks only when the test says so."""
    config = DevChainConfig(
        mode=BlockMode.MANUAL, seed=b"extrinsic journal", finality_lag=FINALITY_LAG
    )
    async with DevChain.open(config) as running:
        running.build()
        yield running


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "extrinsics.sqlite"


@pytest.fixture
def journal(path: Path) -> Iterator[ExtrinsicJournal]:
    with ExtrinsicJournal.open(path) as opened:
        yield opened


async def wait_for_pool(chain: SubstrateChain) -> None:
    async with asyncio.timeout(30):
        while True:
            if await chain.query(lambda session: session.rpc("author_pendingExtrinsics")):
                return
            await asyncio.sleep(POLL_S)


async def sign(chain: SubstrateChain, journal: ExtrinsicJournal, *, end: int | None = None) -> None:
    call = Call(
        "Balances",
        "transfer_keep_alive",
        {"dest": BALTATHAR.address.lower(), "value": TENSOR},
    )
    signed = await chain.query(lambda session: session.sign(call, ALITH, end=end))
    journal.record_signed(signed)


async def build_while(devchain: DevChain, chain: SubstrateChain, journal: ExtrinsicJournal) -> None:
    """Settle, with a block as soon as the pool has something."""
    async with asyncio.TaskGroup() as tasks:
        settling = tasks.create_task(settle(chain, journal))
        await wait_for_pool(chain)
        devchain.build()
        await settling


async def test_a_client_killed_between_submit_and_inclusion_pays_once(
    devchain: DevChain, path: Path
) -> None:
    async with SubstrateChain.open(devchain.url) as observer:
        before = await observer.fetch_balance(BALTATHAR.account_id)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", SUBMITTER, devchain.url, str(path)
        )
        await wait_for_pool(observer)
        process.send_signal(signal.SIGKILL)
        await process.wait()
        devchain.build()

        with ExtrinsicJournal.open(path) as journal:
            assert [entry.state for entry in journal.list_entries(*ExtrinsicState)] == [
                ExtrinsicState.SIGNED
            ]
            async with SubstrateChain.open(devchain.url, log=journal) as chain:
                await settle(chain, journal)
                devchain.build(FINALITY_LAG)
                assert await settle(chain, journal) == ()
            (entry,) = journal.list_entries(ExtrinsicState.FINALISED)
        assert await observer.fetch_balance(BALTATHAR.account_id) - before == TENSOR
        assert entry.block_number == 2


async def test_a_client_killed_between_signing_and_submit_sends_the_same_bytes(
    devchain: DevChain, journal: ExtrinsicJournal
) -> None:
    async with SubstrateChain.open(devchain.url, log=journal) as chain:
        before = await chain.fetch_balance(BALTATHAR.account_id)
        await sign(chain, journal)
        await build_while(devchain, chain, journal)
        assert await chain.fetch_balance(BALTATHAR.account_id) - before == TENSOR
        await settle(chain, journal)
    (entry,) = journal.list_entries(*ExtrinsicState)
    assert entry.state is ExtrinsicState.INCLUDED


async def test_what_outlived_its_blocks_is_dropped_and_never_sent(
    devchain: DevChain, journal: ExtrinsicJournal
) -> None:
    async with SubstrateChain.open(devchain.url, log=journal) as chain:
        before = await chain.fetch_balance(BALTATHAR.account_id)
        await sign(chain, journal, end=4)
        devchain.build(4)
        assert await settle(chain, journal) == ()
        devchain.build()
        assert await chain.fetch_balance(BALTATHAR.account_id) == before
    (entry,) = journal.list_entries(ExtrinsicState.DROPPED)
    assert entry.reason == "Expired"


async def test_a_failed_call_is_written_down_with_its_reason(
    devchain: DevChain, journal: ExtrinsicJournal
) -> None:
    devchain.set_mode(BlockMode.INSTANT)
    async with SubstrateChain.open(devchain.url, log=journal) as chain:
        with pytest.raises(ExtrinsicFailed):
            await transfer(
                chain, sender=ALITH, recipient=BALTATHAR.account_id, amount=10**9 * TENSOR
            )
        devchain.build(FINALITY_LAG)
        assert await settle(chain, journal) == ()
    (entry,) = journal.list_entries(ExtrinsicState.FINALISED)
    assert entry.reason == "FundsUnavailable"


async def test_a_block_that_was_undone_is_noticed(
    devchain: DevChain, journal: ExtrinsicJournal
) -> None:
    async with SubstrateChain.open(devchain.url, log=journal) as chain:
        await sign(chain, journal)
        await build_while(devchain, chain, journal)
        (entry,) = journal.list_entries(ExtrinsicState.INCLUDED)
        # As if the block that held it had been replaced: its hash is another one.
        journal._execute("UPDATE extrinsics SET block_hash = ?", (bytes(32),))
        devchain.build(FINALITY_LAG)
        await settle(chain, journal)
        (found,) = journal.list_entries(ExtrinsicState.INCLUDED)
        assert found.block_hash == entry.block_hash
        assert await settle(chain, journal) == ()


async def test_settled_extrinsics_are_deleted_after_some_epochs(
    devchain: DevChain, journal: ExtrinsicJournal
) -> None:
    async with SubstrateChain.open(devchain.url, log=journal) as chain:
        kept_blocks = KEPT_EPOCHS * (await chain.fetch_info()).epoch_length
        await sign(chain, journal)
        await build_while(devchain, chain, journal)
        await sign(chain, journal, end=4)
        devchain.build(FINALITY_LAG + 4)
        assert await settle(chain, journal) == ()
        states = [entry.state for entry in journal.list_entries(*ExtrinsicState)]
        assert states == [ExtrinsicState.FINALISED, ExtrinsicState.DROPPED]

        last = max(entry.extrinsic.until for entry in journal.list_entries(*ExtrinsicState))
        devchain.build(last + kept_blocks + FINALITY_LAG - devchain.chain.head.number)
        # While nothing is open, nothing is asked of the chain and nothing deleted.
        assert await settle(chain, journal) == ()
        assert len(journal.list_entries(*ExtrinsicState)) == 2
        devchain.build()
        await sign(chain, journal)
        await build_while(devchain, chain, journal)
        (new,) = journal.list_entries(*ExtrinsicState)
        assert new.extrinsic.until > last


async def test_the_journal_never_holds_the_event_loop(
    devchain: DevChain, journal: ExtrinsicJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = set()
    for name in ("list_entries", "_execute"):
        method = getattr(ExtrinsicJournal, name)

        def watched(self: ExtrinsicJournal, *args: object, method: Any = method) -> object:
            threads.add(threading.get_ident())
            return method(self, *args)

        monkeypatch.setattr(ExtrinsicJournal, name, watched)
    devchain.set_mode(BlockMode.INSTANT)
    async with SubstrateChain.open(devchain.url, log=journal) as chain:
        await transfer(chain, sender=ALITH, recipient=BALTATHAR.account_id, amount=TENSOR)
        devchain.build(FINALITY_LAG)
        assert await settle(chain, journal) == ()
    assert threads
    assert threading.get_ident() not in threads


def test_open_extrinsics_are_found_without_a_scan(journal: ExtrinsicJournal) -> None:
    for statement in (
        "SELECT * FROM extrinsics WHERE state IN ('signed', 'included')",
        "DELETE FROM extrinsics WHERE state IN ('finalised', 'dropped') AND until < 9",
    ):
        rows = journal._connection.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall()
        assert all("USING INDEX" in row[-1] for row in rows), rows


def test_a_journal_that_cannot_be_written_is_named(path: Path, journal: ExtrinsicJournal) -> None:
    journal._connection.execute("PRAGMA query_only = ON")
    with pytest.raises(JournalFailed, match="journal of extrinsics could not be written"):
        journal.delete_settled(1)


def test_a_file_that_is_no_journal_is_refused(path: Path) -> None:
    path.write_bytes(b"x" * 5000)
    with pytest.raises(JournalCorrupt), ExtrinsicJournal.open(path):
        pass


def test_the_journal_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "extrinsics.sqlite"
    with ExtrinsicJournal.open(path):
        assert path.stat().st_mode & 0o777 == 0o600
