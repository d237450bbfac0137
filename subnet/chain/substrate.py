"""The chain client: ChainReader and ChainWriter over substrate-interface.

Calls and storage are found by name in the endpoint's metadata, so one client serves the
development chain and the real runtime.

How it works
------------

Threads. The library blocks, so nothing of it runs on the event loop. A client has three threads:

    chain (reader)    a ChainWorker: all reads
    chain (sender)    a ChainWorker: signs, sends and looks for what was sent
    chain-heads       a HeadListener: listens for announcements of heads, while heads() runs

A ChainWorker runs one function at a time, ``work(session)``, in its thread. Callers queue for the
worker's lock; the deadline of a call starts once it has the lock. The reader is apart from the
sender because a sent extrinsic keeps its connection busy until a block holds it.

Who owns what. A worker's session (socket, library object, decoded runtime) belongs to the
worker's thread; the loop touches it only to abort the socket of a thread that waits too long.
Both workers share one Endpoints, which belongs to the loop: who rests, who is excluded, what was
logged. Decoded metadata is shared by the whole process and never changes (codec.load_runtime).

Order of events in one call:

    1. Without a session, Endpoints.choose names the endpoint. While all of them rest, the call
       fails at once with what was wrong last, without a connection.
    2. The thread opens a session: connect, genesis, metadata, version, interface, head.
    3. The thread runs the work, several requests and answers.
    4. Success: the endpoint's failures are forgotten. Failure: the session is closed.
    5. After a failure the call is repeated, MAX_ATTEMPTS times in all, when an endpoint is ready.

What is asked once. Items that are read at one block are read in one request
(ChainSession.read_items). What a block's hash names never changes, so a session keeps the last
items, maps, timestamps and numbers, and returns them to the next reader of the same block.

What can fail, and what then happens:

    the connection of a session that had answered is closed (idle, restarted, runtime upgraded)
        a new session at the same endpoint, once in a call; nothing is logged
    no connection, no answer within a block, an error, an answer that cannot be decoded,
    metadata that lacks something although the chain is proven
        the endpoint is left, rests (0.2 s, growing to 3 s) and is asked again when the one in use
        fails; ChainUnavailable when no attempt is left
    another genesis
        the endpoint is excluded; ChainMismatch if it was the first one asked or is the last one
    metadata that lacks something before the chain is proven, a call or item that the runtime lacks
        ChainMismatch, at once
    the pool or the pallet refuses an extrinsic
        ExtrinsicFailed; see sender.py

Heads. The listener wakes heads() with a header, and the reader reads that block's timestamp: one
request. A block that the reader's node does not know makes it ask for the head. Announcements that
stop are noticed by asking: after one and a half blocks of silence the head is read anyway. If it
is a new one, an announcement was missed. After MAX_MISSES in a row the subscription is made anew,
after twice as many if the new one was silent, too. A head that stands still for STALL_BLOCKS
makes the reader leave its endpoint.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, TypeVar

from consensus.roster import RosterNode
from consensus.submission import Submission
from consensus.types import (
    BlockNumber,
    Epoch,
    EpochPosition,
    Score,
    SubnetId,
    SubnetNodeId,
    compute_epoch_position,
)
from keys.account import AccountKey
from subnet.chain import parsing
from subnet.chain.block_time import Pace
from subnet.chain.endpoints import Endpoints, parse_chain_urls
from subnet.chain.extrinsics import Call
from subnet.chain.head_subscription import AnnouncedHead, HeadListener
from subnet.chain.rpc_errors import RpcRefused
from subnet.chain.sender import (
    INCLUSION_TIMEOUT_S,
    ExtrinsicLog,
    ExtrinsicSender,
    Inclusion,
)
from subnet.chain.worker import ChainWorker
from subnet.epoch.interfaces import BlockInfo, ChainInfo, ExtrinsicReceipt, SubnetInfo
from subnet.errors import ChainMismatch, ChainUnavailable

if TYPE_CHECKING:
    from subnet.chain.chain_session import ChainSession

T = TypeVar("T")

QUERY_CALLS = 5
"""Times a call's timeout that a query of many requests may take; each answer still has one."""
SILENCE_BLOCKS = 1.5
"""Blocks without an announcement after which the head is asked for."""
POLL_BLOCKS = 0.5
"""The same, once an announcement was missed."""
MAX_MISSES = 2
MAX_MISSES_SILENT = 64
"""The most misses that a subscription which announces nothing is kept for."""
STALL_BLOCKS = 10
"""An endpoint whose head stands still for so many blocks is left for the next one."""
MAX_OUTAGE_S = 60.0
"""Heads ride out an outage of this length before they raise."""
OUTAGE_PAUSE_S = 1.0

MAX_ARGS_SIZE = 4096
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
        tip: int,
        block_time_s: float,
        endpoints: Endpoints,
    ) -> None:
        self.endpoints = endpoints
        self._reader = reader
        self._sender = sender
        self._info = info
        self._signer = signer
        self._tip = tip
        self._block_time_s = block_time_s

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        url: str | Sequence[str],
        *,
        signer: AccountKey | None = None,
        tip: int = 0,
        expected_genesis: bytes | None = None,
        log: ExtrinsicLog | None = None,
        call_timeout_s: float | None = None,
        inclusion_timeout_s: float = INCLUSION_TIMEOUT_S,
        block_time_s: float | None = None,
    ) -> AsyncIterator[SubstrateChain]:
        """Connect to ``url``, or to the first of several (a sequence, or commas) that answers.

        ``signer`` is the hotkey for ``propose`` and ``attest``, ``tip`` what ``submit`` adds to
        each fee (units of 10^-18 TENSOR). ``call_timeout_s`` and ``block_time_s`` None mean the
        chain's block time.
        Raises UsageError for an address that is none, ChainUnavailable or ChainMismatch.
        """
        endpoints = Endpoints(parse_chain_urls(url))
        async with AsyncExitStack() as stack:
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
                tip=tip,
                block_time_s=block_time_s or reader.block_time_s,
                endpoints=endpoints,
            )

    @property
    def sender(self) -> ExtrinsicSender:
        """Sends any call with any key; ``propose`` and ``attest`` use it."""
        return self._sender

    @property
    def url(self) -> str:
        """The endpoint that is read from."""
        return self._reader.url

    async def query(self, work: Callable[[ChainSession], T]) -> T:
        """Run blocking reads with the session, off the event loop; they may be repeated."""
        return await self._reader.call(work, timeout_s=QUERY_CALLS * self._reader.call_timeout_s)

    async def fetch_info(self) -> ChainInfo:
        return self._info

    async def heads(self) -> AsyncGenerator[BlockInfo, None]:
        """Yield each new best block, starting with the present one; skips are allowed.

        Rides out broken connections and raises ChainUnavailable after MAX_OUTAGE_S of them.
        """
        latest = await self.fetch_head()
        yield latest
        pace = Pace(self._block_time_s)
        max_misses = MAX_MISSES
        moved_at = time.monotonic()
        while True:
            async with HeadListener(self._reader.url) as listener:
                misses = 0
                while misses < max_misses and listener.is_useful_at(self._reader.url):
                    patience = POLL_BLOCKS if misses else SILENCE_BLOCKS
                    is_told = await listener.wait(patience * pace.block_s)
                    head = await self._fetch_head_patiently(listener.take_announced())
                    if is_told:
                        misses = 0
                    if head.block_hash != latest.block_hash:
                        if is_told:
                            max_misses = MAX_MISSES
                        else:
                            misses += 1
                        moved_at = time.monotonic()
                        pace.note_head(moved_at)
                        latest = head
                        yield head
                    elif time.monotonic() - moved_at > STALL_BLOCKS * self._block_time_s:
                        await self._reader.leave_endpoint(f"stands still at block {head.number}")
                        moved_at = time.monotonic()
                        break
            if misses >= max_misses:
                max_misses = min(2 * max_misses, MAX_MISSES_SILENT)

    async def fetch_head(self) -> BlockInfo:
        """Return the best block. Raises ChainUnavailable."""
        return await self._reader.call(lambda session: _read_head(session))

    async def _fetch_head_patiently(self, announced: AnnouncedHead | None) -> BlockInfo:
        since = time.monotonic()
        while True:
            try:
                return await self._reader.call(lambda session: _read_head(session, announced))
            except ChainUnavailable:
                if time.monotonic() - since > MAX_OUTAGE_S:
                    raise
            await asyncio.sleep(OUTAGE_PAUSE_S)

    async def fetch_finalised_number(self) -> BlockNumber:
        return await self._reader.call(lambda session: BlockNumber(session.read_finalised_number()))

    async def fetch_block(self, number: BlockNumber) -> BlockInfo:
        return await self._reader.call(
            lambda session: read_block(session, number, session.read_block_hash(number))
        )

    async def fetch_subnet(
        self, subnet_id: SubnetId, *, at_block: BlockNumber | None = None
    ) -> SubnetInfo | None:
        def work(session: ChainSession) -> SubnetInfo | None:
            at = _resolve(session, at_block)
            fields = session.read("Network.SubnetsData", subnet_id, at=at)
            if fields is None:
                return None
            slot = session.read("Network.SubnetSlot", subnet_id, at=at)
            return parsing.parse_subnet(fields, slot=slot)

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
        def work(session: ChainSession) -> SubnetNodeId | None:
            found = session.read(
                "Network.SubnetElectedValidator", subnet_id, epoch, at=session.read_head_hash()
            )
            return None if found is None else SubnetNodeId(found)

        return await self._reader.call(work)

    async def fetch_submission(
        self, subnet_id: SubnetId, epoch: Epoch, *, at_block: BlockNumber | None = None
    ) -> Submission | None:
        def work(session: ChainSession) -> Submission | None:
            at = _resolve(session, at_block)
            fields = session.read("Network.SubnetConsensusSubmission", subnet_id, epoch, at=at)
            return None if fields is None else parsing.parse_submission(fields)

        return await self._reader.call(work)

    async def fetch_min_attestation_percent(self, *, at_block: BlockNumber | None = None) -> int:
        def work(session: ChainSession) -> int:
            at = _resolve(session, at_block)
            return int(session.read("Network.MinAttestationPercentage", at=at, default=True))

        return await self._reader.call(work)

    async def fetch_balance(self, account_id: bytes) -> int:
        """Return the free balance of an account in units of 10^-18 TENSOR."""

        def work(session: ChainSession) -> int:
            account = f"0x{account_id.hex()}"
            found = session.read("System.Account", account, at=session.read_head_hash())
            return int((found or ZERO_BALANCE)["data"]["free"])

        return await self._reader.call(work)

    async def submit(
        self,
        pallet: str,
        name: str,
        arguments: Mapping[str, object],
        *,
        key: AccountKey,
        end: BlockNumber | None = None,
    ) -> Inclusion:
        """Sign a call with ``key`` and return once a block holds it.

        ``arguments`` may hold more names than the runtime's call has: those are left out. ``end``
        is the block before which the call should land. Raises ChainUnavailable, ChainMismatch or
        ExtrinsicFailed.
        """
        return await self._sender.send(Call(pallet, name, arguments), key, end=end, tip=self._tip)

    async def propose(
        self, subnet_id: SubnetId, scores: Sequence[tuple[SubnetNodeId, Score]], args: bytes | None
    ) -> ExtrinsicReceipt:
        check_args_size(args)
        arguments = {
            "subnet_id": subnet_id,
            "data": [{"subnet_node_id": node_id, "score": score} for node_id, score in scores],
            "prioritize_queue_node_id": None,
            "remove_queue_node_id": None,
            "args": args,
            "attest_data": None,
        }
        return await self._submit_in_epoch(subnet_id, "propose_attestation", arguments)

    async def attest(self, subnet_id: SubnetId) -> ExtrinsicReceipt:
        arguments = {"subnet_id": subnet_id, "attest_data": None}
        return await self._submit_in_epoch(subnet_id, "attest", arguments)

    async def _submit_in_epoch(
        self, subnet_id: SubnetId, name: str, arguments: Mapping[str, object]
    ) -> ExtrinsicReceipt:
        """Submit a call that means the present epoch, so that it dies with the epoch."""
        key = self._require_signer()

        end = await self._reader.call(
            lambda session: _find_epoch_end(session, subnet_id, self._info.epoch_length)
        )
        inclusion = await self.submit("Network", name, arguments, key=key, end=end)
        return inclusion.receipt

    def _require_signer(self) -> AccountKey:
        if self._signer is None:
            raise ValueError("this chain client was opened without a hotkey, so it cannot sign")
        return self._signer


def check_args_size(args: bytes | None) -> None:
    """Raise ValueError for more bytes than the chain keeps with a proposal."""
    if args is not None and len(args) > MAX_ARGS_SIZE:
        raise ValueError(f"the chain keeps {MAX_ARGS_SIZE} bytes of args, not {len(args)}")


def read_nodes(session: ChainSession, subnet_id: SubnetId, *, at: str) -> tuple[RosterNode, ...]:
    """Return the activated nodes in the state of block hash ``at``, sorted by id."""
    rows = [row for _, row in session.read_map("Network.SubnetNodesData", subnet_id, at=at)]
    hotkeys = [row["hotkey"] for row in rows]
    coldkeys = session.read_many("Network.HotkeyOwner", hotkeys, at=at)
    nodes = (
        parsing.parse_roster_node(row, hotkey=row["hotkey"], coldkey=coldkey)
        for row, coldkey in zip(rows, coldkeys, strict=True)
    )
    return tuple(sorted(nodes, key=lambda node: node.node_id))


def _read_info(session: ChainSession) -> ChainInfo:
    epoch_length = session.read_constant("Network.EpochLength")
    if not isinstance(epoch_length, int) or epoch_length <= 0:
        raise ChainMismatch(f"{session.url} serves a chain without the Network pallet")
    return ChainInfo(session.runtime.genesis_hash, epoch_length)


def _resolve(session: ChainSession, number: BlockNumber | None) -> str:
    return session.read_head_hash() if number is None else session.read_block_hash(number)


def read_position(
    session: ChainSession, subnet_id: SubnetId, *, epoch_length: int
) -> tuple[EpochPosition, str]:
    """Return where the head stands in the subnet's epochs, slot 0 while it has none; its hash."""
    header, at = session.read_head()
    slot = session.read("Network.SubnetSlot", subnet_id, at=at) or 0
    block = BlockNumber(header.number)
    return compute_epoch_position(block, slot=slot, epoch_length=epoch_length), at


def _find_epoch_end(session: ChainSession, subnet_id: SubnetId, epoch_length: int) -> BlockNumber:
    """Return the first block of the subnet's next epoch."""
    position, _ = read_position(session, subnet_id, epoch_length=epoch_length)
    return BlockNumber(position.block - position.offset + position.length)


def _read_head(session: ChainSession, announced: AnnouncedHead | None = None) -> BlockInfo:
    """Return the announced block, or the best one where there is none or it is not known here.

    Behind a load balancer the announcement may come from a node that is ahead of ours.
    """
    from subnet.chain.chain_session import make_header

    if announced is not None:
        # Nodes refuse a hash that they do not know, or find no timestamp there.
        block = None
        with suppress(RpcRefused):
            block = read_block(session, announced.number, announced.block_hash)
        if block is not None and block.timestamp_s:
            header = make_header(announced.number, announced.parent_hash, announced.logs)
            session.take_head(header, announced.block_hash)
            return block
    header, block_hash = session.read_head()
    return read_block(session, header.number, block_hash)


def read_block(session: ChainSession, number: int, block_hash: str) -> BlockInfo:
    """Return one block; its timestamp is the one in its own state."""
    now_ms = session.read_timestamp_ms(block_hash)
    return BlockInfo(BlockNumber(number), bytes.fromhex(block_hash[2:]), timestamp_s=now_ms // 1000)
