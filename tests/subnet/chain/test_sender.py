"""An extrinsic lands once or is explained, whatever breaks on the way.

The chain here is a scripted session: it includes bytes when told to, and fails when told to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import pytest

from consensus.types import BlockNumber
from keys.account import AccountKey
from subnet.chain.chain_session import Header
from subnet.chain.events import ChainEvent
from subnet.chain.extrinsics import Call, SignedExtrinsic, choose_era, compute_lifetime
from subnet.chain.rpc_errors import PoolRefused
from subnet.chain.sender import ExtrinsicSender
from subnet.chain.worker import ChainWorker
from subnet.epoch.interfaces import ExtrinsicReceipt
from subnet.errors import ChainUnavailable, ExtrinsicFailed

T = TypeVar("T")

KEY = AccountKey(bytes([5]) * 32)
CALL = Call("Network", "attest", {"subnet_id": 1, "attest_data": None})
SUCCESS = ChainEvent("System", "ExtrinsicSuccess", {})
BROKEN = ChainUnavailable("the connection broke")


def block_hash(number: int) -> str:
    return f"0x{number:064x}"


class ScriptedSession:
    """The session's methods over a list of blocks. ``script`` decides what each send does."""

    def __init__(self, *script: Callable[[ScriptedSession, SignedExtrinsic], str]) -> None:
        self.blocks: list[list[bytes]] = [[]]
        self.nonce = 0
        self.signed = 0
        self.sent: list[bytes] = []
        self.ends: list[int] = []
        self.is_down = 0
        self.event = SUCCESS
        self._script = list(script)

    def include(self, data: bytes) -> str:
        self.blocks.append([b"timestamp", data])
        self.nonce += 1
        return block_hash(len(self.blocks) - 1)

    def sign(
        self, call: Call, key: AccountKey, *, end: int | None = None, tip: int = 0
    ) -> SignedExtrinsic:
        self.signed += 1
        data = f"{call}/{self.nonce}/{self.signed}".encode()
        since = len(self.blocks) - 1
        until = since + compute_lifetime(since, end=end)
        self.ends.append(until)
        return SignedExtrinsic(
            str(call), key.account_id, self.nonce, data, since=since, until=until
        )

    def watch(self, extrinsic: SignedExtrinsic) -> str:
        self.sent.append(extrinsic.data)
        return self._script.pop(0)(self, extrinsic)

    def read_nonce(self, account_id: bytes) -> int:
        if self.is_down:
            self.is_down -= 1
            raise BROKEN
        return self.nonce

    def read_head_hash(self) -> str:
        return block_hash(len(self.blocks) - 1)

    def read_header(self, wanted: str) -> Header:
        number = int(wanted, 16)
        return Header(number, block_hash(number - 1))

    def read_block_hash(self, number: int) -> str:
        return block_hash(number)

    def read_extrinsics(self, wanted: str) -> list[bytes]:
        return self.blocks[int(wanted, 16)]

    def read_events(self, wanted: str) -> list[tuple[int | None, ChainEvent]]:
        return [(None, SUCCESS), (0, SUCCESS), (1, self.event)]


class InlineWorker:
    """Runs work at once, on the scripted session."""

    def __init__(self, session: ScriptedSession) -> None:
        self.session = session

    async def call(self, work: Callable[[Any], T], **_limits: object) -> T:
        return work(self.session)


class MemoryLog:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def record_signed(self, extrinsic: SignedExtrinsic) -> None:
        self.lines.append(f"signed {extrinsic.nonce}")

    def record_included(
        self, extrinsic: SignedExtrinsic, receipt: ExtrinsicReceipt, *, reason: str | None
    ) -> None:
        self.lines.append(f"included {receipt.block_number} {reason}")

    def record_dropped(self, extrinsic: SignedExtrinsic, reason: str) -> None:
        self.lines.append(f"dropped {reason}")


def lands(session: ScriptedSession, extrinsic: SignedExtrinsic) -> str:
    return session.include(extrinsic.data)


def lands_but_the_answer_is_lost(session: ScriptedSession, extrinsic: SignedExtrinsic) -> str:
    session.include(extrinsic.data)
    raise BROKEN


def breaks_before_it_lands(session: ScriptedSession, extrinsic: SignedExtrinsic) -> str:
    raise BROKEN


def nonce_is_taken(session: ScriptedSession, extrinsic: SignedExtrinsic) -> str:
    session.include(b"somebody else's")
    raise PoolRefused(1010, "Invalid Transaction", "Transaction is outdated")


def cannot_pay(session: ScriptedSession, extrinsic: SignedExtrinsic) -> str:
    raise PoolRefused(1010, "Invalid Transaction", "Inability to pay some fees")


def is_known_and_lands_later(session: ScriptedSession, extrinsic: SignedExtrinsic) -> str:
    session.include(extrinsic.data)
    raise PoolRefused(1013, "Transaction Already Imported")


def make_sender(session: ScriptedSession, log: MemoryLog | None = None) -> ExtrinsicSender:
    return ExtrinsicSender(
        cast(ChainWorker, InlineWorker(session)), log=log, inclusion_timeout_s=5.0
    )


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subnet.chain.sender.RESEND_PAUSE_S", 0.0)
    monkeypatch.setattr("subnet.chain.sender.POLL_S", 0.0)


async def test_an_extrinsic_that_lands_is_sent_once() -> None:
    session, log = ScriptedSession(lands), MemoryLog()
    inclusion = await make_sender(session, log).send(CALL, KEY)
    assert inclusion.receipt.block_number == 1
    assert inclusion.events == (SUCCESS,)
    assert len(session.sent) == 1
    assert log.lines == ["signed 0", "included 1 None"]


async def test_a_connection_cut_after_inclusion_sends_nothing_twice() -> None:
    session = ScriptedSession(lands_but_the_answer_is_lost)
    inclusion = await make_sender(session).send(CALL, KEY)
    assert inclusion.receipt.block_number == 1
    assert len(session.sent) == 1


async def test_a_connection_cut_before_inclusion_sends_the_very_same_bytes() -> None:
    session = ScriptedSession(breaks_before_it_lands, breaks_before_it_lands, lands)
    await make_sender(session).send(CALL, KEY)
    assert session.signed == 1
    assert len(set(session.sent)) == 1
    assert sum(data in block for data in session.sent[:1] for block in session.blocks) == 1


async def test_an_endpoint_that_stays_away_after_the_send_is_waited_for() -> None:
    session = ScriptedSession(lands_but_the_answer_is_lost)
    session.is_down = 10
    assert (await make_sender(session).send(CALL, KEY)).receipt.block_number == 1


async def test_a_nonce_that_another_process_took_is_signed_anew() -> None:
    session = ScriptedSession(nonce_is_taken, lands)
    inclusion = await make_sender(session).send(CALL, KEY)
    assert session.signed == 2
    assert inclusion.receipt.block_number == 2


async def test_a_nonce_that_is_taken_every_time_is_explained() -> None:
    session, log = ScriptedSession(nonce_is_taken, nonce_is_taken, nonce_is_taken), MemoryLog()
    with pytest.raises(ExtrinsicFailed) as caught:
        await make_sender(session, log).send(CALL, KEY)
    assert caught.value.reason == "Stale"
    assert len(session.sent) == 3


async def test_an_empty_account_is_explained_and_nothing_is_repeated() -> None:
    session, log = ScriptedSession(cannot_pay), MemoryLog()
    with pytest.raises(ExtrinsicFailed) as caught:
        await make_sender(session, log).send(CALL, KEY)
    assert caught.value.reason == "Payment"
    assert len(session.sent) == 1
    assert log.lines == ["signed 0", "dropped Payment"]


async def test_bytes_that_the_pool_knows_are_waited_for() -> None:
    session = ScriptedSession(breaks_before_it_lands, is_known_and_lands_later)
    assert (await make_sender(session).send(CALL, KEY)).receipt.block_number == 1


async def test_a_failed_dispatch_is_named() -> None:
    session = ScriptedSession(lands)
    session.event = ChainEvent("System", "ExtrinsicFailed", {"dispatch_error": "BadOrigin"})
    with pytest.raises(ExtrinsicFailed) as caught:
        await make_sender(session).send(CALL, KEY)
    assert caught.value.reason == "BadOrigin"


async def test_what_an_earlier_process_sent_is_found_and_not_sent_again() -> None:
    session = ScriptedSession()
    signed = session.sign(CALL, KEY)
    session.include(signed.data)
    inclusion = await make_sender(session).resume(signed)
    assert inclusion is not None
    assert session.sent == []


async def test_what_landed_thousands_of_blocks_ago_is_found_in_its_lifetime() -> None:
    session = ScriptedSession()
    signed = session.sign(CALL, KEY, end=4)
    session.include(signed.data)
    session.blocks += [[]] * 5000
    inclusion = await make_sender(session).resume(signed)
    assert inclusion is not None
    assert inclusion.receipt.block_number == 1
    assert session.sent == []


async def test_what_an_earlier_process_signed_but_lost_is_sent_as_it_was() -> None:
    session = ScriptedSession(lands)
    signed = session.sign(CALL, KEY)
    assert await make_sender(session).resume(signed) is not None
    assert session.sent == [signed.data]


async def test_what_an_earlier_process_signed_is_given_up_when_its_nonce_went_elsewhere() -> None:
    session = ScriptedSession(nonce_is_taken)
    signed = session.sign(CALL, KEY)
    assert await make_sender(session).resume(signed) is None


async def test_what_outlived_its_blocks_is_given_up_and_not_sent_again() -> None:
    session, log = ScriptedSession(), MemoryLog()
    signed = session.sign(CALL, KEY, end=4)
    session.blocks += [[]] * 3
    assert await make_sender(session, log).resume(signed) is None
    assert session.sent == []
    assert log.lines == ["dropped Expired"]


async def test_an_extrinsic_that_no_block_takes_in_its_lifetime_is_explained() -> None:
    def lets_blocks_pass(session: ScriptedSession, extrinsic: SignedExtrinsic) -> str:
        session.blocks += [[]] * 4
        raise BROKEN

    session = ScriptedSession(lets_blocks_pass)
    with pytest.raises(ExtrinsicFailed, match="no block took it in its lifetime"):
        await make_sender(session).send(CALL, KEY, end=BlockNumber(4))
    assert len(session.sent) == 1


@pytest.mark.parametrize(
    ("head", "end", "lifetime"),
    [(5, None, 64), (5, 20, 8), (5, 200, 64), (12, 20, 8), (13, 20, 4), (16, 20, 4), (18, 20, 4)],
)
def test_a_lifetime_ends_with_the_epoch_where_the_chain_knows_so_short_a_one(
    head: int, end: int | None, lifetime: int
) -> None:
    assert compute_lifetime(head, end=end) == lifetime


@pytest.mark.parametrize(
    ("head", "final", "end", "era"),
    [
        (100, 97, None, (97, 64)),
        (100, 97, 200, (97, 64)),
        (100, 97, 120, (97, 16)),
        (100, 97, 105, (97, 8)),
        # From the final block four blocks are over too soon, and eight end too late.
        (100, 97, 104, (100, 4)),
        (100, 97, 101, (100, 4)),
        # Finality stands still.
        (100, 20, None, (100, 64)),
        (100, 20, 120, (100, 16)),
        (100, 50, 120, (50, 64)),
        (100, 100, None, (100, 64)),
    ],
)
def test_an_era_begins_at_a_final_block_where_it_can(
    head: int, final: int, end: int | None, era: tuple[int, int]
) -> None:
    assert choose_era(head, final=final, end=end) == era


async def test_what_is_signed_anew_lives_no_longer_than_the_epoch() -> None:
    def nonce_is_taken_and_blocks_pass(session: ScriptedSession, extrinsic: SignedExtrinsic) -> str:
        session.blocks += [[]] * 12
        return nonce_is_taken(session, extrinsic)

    session = ScriptedSession(nonce_is_taken_and_blocks_pass, lands)
    await make_sender(session).send(CALL, KEY, end=BlockNumber(20))
    assert session.ends == [16, 17]


async def test_what_could_land_only_in_the_next_epoch_is_not_sent() -> None:
    session = ScriptedSession()
    session.blocks += [[]] * 19
    with pytest.raises(ExtrinsicFailed, match="Expired"):
        await make_sender(session).send(CALL, KEY, end=BlockNumber(20))
    assert session.sent == []


async def test_a_chain_that_never_includes_it_ends_in_a_sentence() -> None:
    session = ScriptedSession(*[breaks_before_it_lands] * 9)
    sender = ExtrinsicSender(cast(ChainWorker, InlineWorker(session)), inclusion_timeout_s=0.05)
    with pytest.raises(ChainUnavailable, match=r"Network\.attest .*was sent, but no block held it"):
        await sender.send(CALL, KEY)
    assert len(set(session.sent)) == 1
