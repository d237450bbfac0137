"""Sends an extrinsic so that it lands once, or says why it did not.

The signed bytes carry a nonce, so the chain includes them at most once: after a broken
connection the sender first looks on the chain, then sends the very same bytes again.
Only when the pool says that the nonce is spent, and the chain does not hold our bytes,
is the call signed anew. Two processes that sign the same call with the same key and nonce
make the same bytes, which is one extrinsic: an attestation cannot be paid for twice.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from consensus.types import BlockNumber
from keys.account import AccountKey
from subnet.chain.events import ChainEvent
from subnet.chain.extrinsics import Call, SignedExtrinsic
from subnet.chain.failures import make_failure, read_dispatch_error, read_pool_reason
from subnet.chain.rpc_errors import PoolRefused
from subnet.chain.worker import ChainWorker
from subnet.epoch.interfaces import ExtrinsicReceipt
from subnet.errors import ChainError, ChainUnavailable

if TYPE_CHECKING:
    from subnet.chain.chain_session import ChainSession

logger = logging.getLogger(__name__)

INCLUSION_TIMEOUT_S = 120.0
MAX_SENDS = 4
MAX_SIGNATURES = 3
STALE = "Stale"
"""The reason of an extrinsic whose nonce went to another one."""
EXPIRED = "Expired"
"""The reason of an extrinsic whose last block is past."""
RESEND_PAUSE_S = 0.5
POLL_S = 0.5

# The pool's words for: this nonce is spent, or another transaction holds it.
_NONCE_REASONS = frozenset({STALE, "TooLowPriority", "Usurped"})
# The pool took it before; all that is left is to wait for a block.
_WAITING_REASONS = frozenset({"AlreadyImported", "TemporarilyBanned", "FinalityTimeout"})


@dataclass(frozen=True, slots=True)
class Inclusion:
    """A successful extrinsic and what it caused."""

    receipt: ExtrinsicReceipt
    events: tuple[ChainEvent, ...]


class ExtrinsicLog(Protocol):
    """Where the sender writes down what it is about to say, before it says it.

    The methods block; the sender calls them off the event loop.
    """

    def record_signed(self, extrinsic: SignedExtrinsic) -> None: ...

    def record_included(
        self, extrinsic: SignedExtrinsic, receipt: ExtrinsicReceipt, *, reason: str | None
    ) -> None:
        """``reason`` names the error of an extrinsic that a block holds, but that failed."""
        ...

    def record_dropped(self, extrinsic: SignedExtrinsic, reason: str) -> None:
        """No block holds it, and none ever will."""
        ...


class _Dropped(ChainError):
    """No block holds an extrinsic, and none ever will. ``reason`` is one of failures.py."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(detail or reason)
        self.reason = reason
        self.detail = detail


class ExtrinsicSender:
    """Signs and sends one extrinsic at a time for each account."""

    def __init__(
        self,
        worker: ChainWorker,
        *,
        log: ExtrinsicLog | None = None,
        inclusion_timeout_s: float = INCLUSION_TIMEOUT_S,
    ) -> None:
        self._worker = worker
        self.log = log
        self._inclusion_timeout_s = inclusion_timeout_s
        self._lock = asyncio.Lock()

    async def send(
        self, call: Call, key: AccountKey, *, end: BlockNumber | None = None, tip: int = 0
    ) -> Inclusion:
        """Sign ``call``, send it and return once a block holds it.

        It lives for 64 blocks, or shorter so as to land before block ``end``: what could land only
        from there on is not sent. ``tip``, in units of 10^-18 TENSOR, is paid to the block's
        author on top of the fee. Raises ExtrinsicFailed with the pool's or the pallet's reason, or
        Expired; ChainUnavailable if the chain could not be asked whether it landed; ChainMismatch
        for a call that it lacks.
        """
        async with self._lock:
            for _ in range(MAX_SIGNATURES):
                try:
                    return await self._sign_and_deliver(call, key, end=end, tip=tip)
                except _Dropped as dropped:
                    if dropped.reason != STALE:
                        raise make_failure(
                            dropped.reason, call=str(call), detail=dropped.detail
                        ) from dropped
                    logger.info("a nonce of %s was taken; signing %s anew", key.address, call)
        raise make_failure(STALE, call=str(call))

    async def resume(self, signed: SignedExtrinsic) -> Inclusion | None:
        """Look for an extrinsic that an earlier process signed; send the same bytes if need be.

        None if no block holds it and none ever will; the log then holds the reason. Raises
        ExtrinsicFailed for one that failed in its block, ChainUnavailable.
        """
        async with self._lock:
            try:
                return await self._deliver(signed, look_first=True)
            except _Dropped:
                return None

    async def _sign_and_deliver(
        self, call: Call, key: AccountKey, *, end: BlockNumber | None, tip: int
    ) -> Inclusion:
        # Each signature is for the head that it is made at.
        signed = await self._worker.call(lambda session: session.sign(call, key, end=end, tip=tip))
        if end is not None and signed.since >= end - 1:
            raise make_failure(EXPIRED, call=str(call))
        await self._write(lambda log: log.record_signed(signed))
        return await self._deliver(signed)

    async def _deliver(self, signed: SignedExtrinsic, *, look_first: bool = False) -> Inclusion:
        try:
            async with asyncio.timeout(self._inclusion_timeout_s):
                block_hash = await self._find(signed) if look_first else None
                block_hash = block_hash or await self._include(signed)
                return await self._conclude(signed, block_hash)
        except TimeoutError as error:
            raise ChainUnavailable(
                f"{signed.call} (0x{signed.extrinsic_hash.hex()}) was sent, but no block held it"
                f" within {self._inclusion_timeout_s:g} s"
            ) from error
        except _Dropped as dropped:
            reason = dropped.reason
            await self._write(lambda log: log.record_dropped(signed, reason))
            raise

    async def _include(self, signed: SignedExtrinsic) -> str:
        """Return the hash of the block that holds ``signed``."""
        for _ in range(MAX_SENDS):
            try:
                return await self._worker.call(
                    lambda session: session.watch(signed),
                    attempts=1,
                    timeout_s=self._inclusion_timeout_s,
                )
            except PoolRefused as refusal:
                reason = read_pool_reason(refusal)
                logger.info("the pool answered %s to %s: %s", reason, signed.call, refusal)
                if reason in _WAITING_REASONS:
                    return await self._wait_for_block(signed)
                block_hash = await self._find(signed)
                if block_hash is not None:
                    return block_hash
                if reason in _NONCE_REASONS:
                    await asyncio.sleep(RESEND_PAUSE_S)
                    raise _Dropped(STALE) from refusal
                raise _Dropped(reason, str(refusal)) from refusal
            except ChainUnavailable as error:
                logger.info("%s was sent, perhaps in vain: %s", signed.call, error)
                await asyncio.sleep(RESEND_PAUSE_S)
                block_hash = await self._find(signed)
                if block_hash is not None:
                    return block_hash
        return await self._wait_for_block(signed)

    async def _wait_for_block(self, signed: SignedExtrinsic) -> str:
        while True:
            block_hash = await self._find(signed)
            if block_hash is not None:
                return block_hash
            await asyncio.sleep(POLL_S)

    async def _find(self, signed: SignedExtrinsic) -> str | None:
        """Return the hash of the block that holds it; waits out an endpoint that is away.

        Raises _Dropped when no block holds it and none ever will.
        """
        while True:
            try:
                return await self._worker.call(lambda session: _search_chain(session, signed))
            except ChainUnavailable as error:
                logger.debug("cannot look for %s yet: %s", signed.call, error)
                await asyncio.sleep(POLL_S)

    async def _conclude(self, signed: SignedExtrinsic, block_hash: str) -> Inclusion:
        """Read what became of an included extrinsic. Raises ExtrinsicFailed."""
        inclusion, reason = await self._worker.call(
            lambda session: _read_outcome(session, signed, block_hash)
        )
        await self._write(lambda log: log.record_included(signed, inclusion.receipt, reason=reason))
        if reason is not None:
            raise make_failure(reason, call=signed.call)
        return inclusion

    async def _write(self, write: Callable[[ExtrinsicLog], None]) -> None:
        if self.log is not None:
            await asyncio.to_thread(write, self.log)


def _search_chain(session: ChainSession, signed: SignedExtrinsic) -> str | None:
    """Look for its bytes from its last possible block back to the one where it was made."""
    block_hash = session.read_head_hash()
    head = session.read_header(block_hash).number
    # An unspent nonce says that no block holds it; only then is there no need to walk.
    if session.read_nonce(signed.sender) > signed.nonce:
        if head >= signed.until:
            block_hash = session.read_block_hash(signed.until - 1)
        for _ in range(min(head, signed.until - 1), signed.since, -1):
            if signed.data in session.read_extrinsics(block_hash):
                return block_hash
            block_hash = session.read_header(block_hash).parent_hash
    if head >= signed.until - 1:
        raise _Dropped(EXPIRED)
    return None


def _read_outcome(
    session: ChainSession, signed: SignedExtrinsic, block_hash: str
) -> tuple[Inclusion, str | None]:
    """Return the inclusion and, for a failed extrinsic, the error's name."""
    index = session.read_extrinsics(block_hash).index(signed.data)
    events = tuple(
        event for position, event in session.read_events(block_hash) if position == index
    )
    receipt = ExtrinsicReceipt(
        extrinsic_hash=signed.extrinsic_hash,
        block_hash=bytes.fromhex(block_hash[2:]),
        block_number=BlockNumber(session.read_header(block_hash).number),
    )
    reason = next(
        (
            read_dispatch_error(event.fields["dispatch_error"], session)
            for event in events
            if str(event) == "System.ExtrinsicFailed"
        ),
        None,
    )
    return Inclusion(receipt, events), reason
