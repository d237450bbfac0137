"""The chain client: ChainReader and ChainWriter over substrate-interface.

Calls and storage are found by name in the endpoint's metadata, so one client serves the
development chain and the real runtime. The library blocks, so it lives on two threads, one
that reads and one that sends; a third only listens for heads.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from consensus.roster import RosterNode
from consensus.submission import Submission
from consensus.types import (
    BlockNumber,
    Epoch,
    Score,
    SubnetId,
    SubnetNodeId,
    compute_epoch_position,
)
from keys.account import AccountKey
from subnet.chain import parsing
from subnet.chain.endpoints import Endpoints
from subnet.chain.head_subscription import HeadListener
from subnet.chain.sender import (
    INCLUSION_TIMEOUT_S,
    LIFETIME,
    ExtrinsicLog,
    ExtrinsicSender,
    Inclusion,
)
from subnet.chain.shapes import add_own_node, choose_shape
from subnet.chain.worker import CALL_TIMEOUT_S, ChainWorker
from subnet.epoch.interfaces import BlockInfo, ChainInfo, Receipt, SubnetInfo
from subnet.errors import ChainMismatch, ChainUnavailable

if TYPE_CHECKING:
    from subnet.chain.session import Session

logger = logging.getLogger(__name__)

T = TypeVar("T")

POLL_AFTER_S = 3.0
"""A listener that is silent for so long is checked by asking."""
STALL_TIMEOUT_S = 60.0
"""An endpoint whose head stands still for so long is left for the next one."""
MAX_OUTAGE_S = 60.0
"""Heads ride out an outage of this length before they raise."""
OUTAGE_PAUSE_S = 1.0

MAX_ARGS_SIZE = 4096
MIN_LIFETIME = 4
"""Blocks; the shortest mortal era."""
ZERO_BALANCE = {"data": {"free": 0}}


class SubstrateChain:
    """A chain behind one endpoint or several. Satisfies ChainReader and ChainWriter.

    Make it with ``SubstrateChain.open``.
    """

    def __init__(
        self,
        *,
        reader: ChainWorker,
        sender: ExtrinsicSender,
        info: ChainInfo,
        signer: AccountKey | None,
        node_id: SubnetNodeId | None,
        tip: int,
        poll_after_s: float,
        stall_timeout_s: float,
    ) -> None:
        self._reader = reader
        self._sender = sender
        self._info = info
        self._signer = signer
        self._node_id = node_id
        self._tip = tip
        self._poll_after_s = poll_after_s
        self._stall_timeout_s = stall_timeout_s

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        url: str | Sequence[str],
        *,
        signer: AccountKey | None = None,
        node_id: SubnetNodeId | None = None,
        tip: int = 0,
        expected_genesis: bytes | None = None,
        log: ExtrinsicLog | None = None,
        call_timeout_s: float = CALL_TIMEOUT_S,
        inclusion_timeout_s: float = INCLUSION_TIMEOUT_S,
        poll_after_s: float = POLL_AFTER_S,
        stall_timeout_s: float = STALL_TIMEOUT_S,
    ) -> AsyncIterator[SubstrateChain]:
        """Connect to ``url``, or to the first of several (a sequence, or commas) that answers.

        Of several, those that later prove to be of another chain are left out while one is right.

        ``signer`` is the hotkey for ``propose`` and ``attest``, ``node_id`` the node for which it
        signs where one hotkey serves several, ``tip`` what ``submit`` adds to each fee (units of
        10^-18 TENSOR). Raises ChainUnavailable or ChainMismatch.
        """
        named = url.split(",") if isinstance(url, str) else url
        urls = tuple(one.strip() for one in named if one.strip())
        if not urls:
            raise ChainUnavailable("no endpoint of a chain is named")
        async with AsyncExitStack() as stack:
            endpoints = Endpoints(urls)
            reader = ChainWorker(
                endpoints, call_timeout_s=call_timeout_s, expected_genesis=expected_genesis
            )
            stack.push_async_callback(reader.aclose)
            info = await reader.call(_read_info)
            writer = ChainWorker(
                endpoints, call_timeout_s=call_timeout_s, expected_genesis=info.genesis_hash
            )
            stack.push_async_callback(writer.aclose)
            yield cls(
                reader=reader,
                sender=ExtrinsicSender(writer, log=log, inclusion_timeout_s=inclusion_timeout_s),
                info=info,
                signer=signer,
                node_id=node_id,
                tip=tip,
                poll_after_s=poll_after_s,
                stall_timeout_s=stall_timeout_s,
            )

    @property
    def sender(self) -> ExtrinsicSender:
        """Sends any call with any key; ``propose`` and ``attest`` use it."""
        return self._sender

    async def query(self, work: Callable[[Session], T]) -> T:
        """Run blocking reads with the session, off the event loop; they may be repeated."""
        return await self._reader.call(work)

    async def fetch_info(self) -> ChainInfo:
        return self._info

    async def heads(self) -> AsyncGenerator[BlockInfo, None]:
        """Yield each new best block, starting with the present one; skips are allowed.

        Rides out broken connections and raises ChainUnavailable after MAX_OUTAGE_S of them.
        """
        latest = await self.fetch_head()
        yield latest
        while True:
            async with HeadListener(self._reader.url) as listener:
                is_moving = True
                moved_at = time.monotonic()
                while is_moving:
                    is_told = await listener.wait(self._poll_after_s)
                    head = await self._fetch_head_patiently()
                    if head.block_hash != latest.block_hash:
                        # News that nobody announced: the subscription is dead, so renew it.
                        is_moving = is_told
                        moved_at = time.monotonic()
                        latest = head
                        yield head
                    elif time.monotonic() - moved_at > self._stall_timeout_s:
                        logger.warning("%s stands still at block %d", self._reader.url, head.number)
                        await self._reader.leave_endpoint()
                        is_moving = False

    async def fetch_head(self) -> BlockInfo:
        """Return the best block. Raises ChainUnavailable."""
        return await self._reader.call(_read_head)

    async def _fetch_head_patiently(self) -> BlockInfo:
        since = time.monotonic()
        while True:
            try:
                return await self.fetch_head()
            except ChainUnavailable:
                if time.monotonic() - since > MAX_OUTAGE_S:
                    raise
            await asyncio.sleep(OUTAGE_PAUSE_S)

    async def fetch_finalised_number(self) -> BlockNumber:
        return await self._reader.call(
            lambda session: BlockNumber(session.read_header(session.read_finalised_hash()).number)
        )

    async def fetch_block(self, number: BlockNumber) -> BlockInfo:
        return await self._reader.call(
            lambda session: read_block(session, number, session.read_block_hash(number))
        )

    async def fetch_subnet(
        self, subnet_id: SubnetId, *, at_block: BlockNumber | None = None
    ) -> SubnetInfo | None:
        def work(session: Session) -> SubnetInfo | None:
            at = _resolve(session, at_block)
            record = session.read("Network.SubnetsData", subnet_id, at=at)
            if record is None:
                return None
            return parsing.parse_subnet(
                record, slot=session.read("Network.SubnetSlot", subnet_id, at=at)
            )

        return await self._reader.call(work)

    async def fetch_nodes(
        self, subnet_id: SubnetId, *, at_block: BlockNumber | None = None
    ) -> tuple[RosterNode, ...]:
        return await self._reader.call(
            lambda session: read_nodes(session, subnet_id, at=_resolve(session, at_block))
        )

    async def fetch_elected_validator(
        self, subnet_id: SubnetId, epoch: Epoch
    ) -> SubnetNodeId | None:
        node_id = await self._reader.call(
            lambda session: session.read(
                "Network.SubnetElectedValidator", subnet_id, epoch, at=session.read_head_hash()
            )
        )
        return None if node_id is None else SubnetNodeId(node_id)

    async def fetch_submission(self, subnet_id: SubnetId, epoch: Epoch) -> Submission | None:
        record = await self._reader.call(
            lambda session: session.read(
                "Network.SubnetConsensusSubmission", subnet_id, epoch, at=session.read_head_hash()
            )
        )
        return None if record is None else parsing.parse_submission(record)

    async def fetch_balance(self, account_id: bytes) -> int:
        """Return the free balance of an account in units of 10^-18 TENSOR."""

        def work(session: Session) -> Any:
            return session.read(
                "System.Account", f"0x{account_id.hex()}", at=session.read_head_hash()
            )

        return int((await self._reader.call(work) or ZERO_BALANCE)["data"]["free"])

    async def submit(
        self,
        pallet: str,
        name: str,
        arguments: Mapping[str, object],
        *,
        key: AccountKey,
        lifetime: int = LIFETIME,
    ) -> Inclusion:
        """Sign a call with ``key`` and return once a block holds it.

        ``arguments`` may hold more names than the runtime's call has: those are left out. After
        ``lifetime`` blocks, a power of two from 4 to 64, the call can land no more. Raises
        ChainUnavailable, ChainMismatch or ExtrinsicFailed.
        """
        from subnet.chain.session import Call

        return await self._sender.send(
            Call(pallet, name, arguments), key, lifetime=lifetime, tip=self._tip
        )

    async def propose(
        self, subnet_id: SubnetId, scores: Sequence[tuple[SubnetNodeId, Score]], args: bytes | None
    ) -> Receipt:
        if args is not None and len(args) > MAX_ARGS_SIZE:
            raise ValueError(f"the chain keeps {MAX_ARGS_SIZE} bytes of args, not {len(args)}")
        arguments = {
            "subnet_id": subnet_id,
            "data": [{"subnet_node_id": node_id, "score": score} for node_id, score in scores],
            "prioritize_queue_node_id": None,
            "remove_queue_node_id": None,
            "args": args,
            "attest_data": None,
        }
        return await self._submit_in_epoch(subnet_id, "propose_attestation", arguments)

    async def attest(self, subnet_id: SubnetId) -> Receipt:
        # The same argument goes by two names in two runtimes.
        arguments = {"subnet_id": subnet_id, "attest_data": None, "data": None}
        return await self._submit_in_epoch(subnet_id, "attest", arguments)

    async def _submit_in_epoch(
        self, subnet_id: SubnetId, name: str, arguments: Mapping[str, object]
    ) -> Receipt:
        """Submit a call that means the present epoch, so that it dies with the epoch."""
        key = self._require_signer()

        def prepare(session: Session) -> tuple[int, Mapping[str, object]]:
            return (
                _choose_lifetime(session, subnet_id, self._info.epoch_length),
                add_own_node(
                    session, name, arguments, hotkey=key.account_id, node_id=self._node_id
                ),
            )

        lifetime, complete = await self._reader.call(prepare)
        inclusion = await self.submit("Network", name, complete, key=key, lifetime=lifetime)
        return inclusion.receipt

    def _require_signer(self) -> AccountKey:
        if self._signer is None:
            raise ValueError("this chain client was opened without a hotkey, so it cannot sign")
        return self._signer


def read_nodes(session: Session, subnet_id: SubnetId, *, at: str) -> tuple[RosterNode, ...]:
    """Return the activated nodes in the state of block hash ``at``, sorted by id."""
    return choose_shape(session.runtime).read_nodes(session, subnet_id, at=at)


def _read_info(session: Session) -> ChainInfo:
    epoch_length = session.read_constant("Network.EpochLength")
    if not isinstance(epoch_length, int) or epoch_length <= 0:
        raise ChainMismatch(f"{session.url} serves a chain without the Network pallet")
    return ChainInfo(session.runtime.genesis_hash, epoch_length)


def _resolve(session: Session, number: BlockNumber | None) -> str:
    return session.read_head_hash() if number is None else session.read_block_hash(number)


def _choose_lifetime(session: Session, subnet_id: SubnetId, epoch_length: int) -> int:
    """Return the longest lifetime that ends with the subnet's epoch.

    The shortest that the chain knows is four blocks, so what is signed in an epoch's last three
    may still land in the next epoch's first.
    """
    header, at = session.read_head()
    slot = session.read("Network.SubnetSlot", subnet_id, at=at) or 0
    position = compute_epoch_position(
        BlockNumber(header.number), slot=slot, epoch_length=epoch_length
    )
    lifetime = MIN_LIFETIME
    while lifetime * 2 <= min(position.length - position.offset, LIFETIME):
        lifetime *= 2
    return lifetime


def _read_head(session: Session) -> BlockInfo:
    header, block_hash = session.read_head()
    return read_block(session, header.number, block_hash)


def read_block(session: Session, number: int, block_hash: str) -> BlockInfo:
    """Return one block; its timestamp is the one in its own state."""
    now_ms = session.read("Timestamp.Now", at=block_hash, default=True)
    return BlockInfo(
        BlockNumber(number), bytes.fromhex(block_hash[2:]), timestamp_s=int(now_ms) // 1000
    )
