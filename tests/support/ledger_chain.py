"""ChainReader and ChainWriter over a ledger: a chain without a network or a clock.

A call builds the block that holds it, as an instant-seal node does, so a receipt is
always one block ahead of the head at the time of the call.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Sequence

from consensus.roster import RosterNode
from consensus.submission import Submission
from consensus.types import BlockNumber, Epoch, Score, SubnetId, SubnetNodeId
from devchain import storage
from devchain.calls import Attest, Call, ProposeAttestation
from devchain.chain_types import SubnetNodeConsensusData
from devchain.errors import DispatchError
from devchain.events import Event
from devchain.ledger import Ledger
from subnet.chain.substrate import check_args_size
from subnet.epoch.interfaces import BlockInfo, ChainInfo, ExtrinsicReceipt, SubnetInfo
from subnet.errors import ChainUnavailable, ExtrinsicFailed
from subnet.simulation import ledger_reads

BLOCK_MS = 6_000
GENESIS_HASH = hashlib.blake2b(b"ledger", digest_size=32).digest()


class LedgerBlocks:
    """Builds blocks of one ledger and wakes waiting readers. Shared by its chains."""

    def __init__(self, ledger: Ledger, *, finality_lag: int = 2) -> None:
        self.ledger = ledger
        self.finality_lag = finality_lag
        self._built = asyncio.Condition()
        self._hashes: list[bytes] = [GENESIS_HASH]

    async def advance(self, count: int = 1) -> None:
        """Build ``count`` empty blocks."""
        for _ in range(count):
            self._build()
        async with self._built:
            self._built.notify_all()

    async def execute(self, origin: bytes, call: Call) -> tuple[ExtrinsicReceipt, list[Event]]:
        """Build a block with ``call`` in it. Raises ExtrinsicFailed."""
        await self.advance()
        block = BlockNumber(self.ledger.block)
        subject = origin + repr(call).encode()
        receipt = ExtrinsicReceipt(
            hashlib.blake2b(subject, digest_size=32).digest(), self._hashes[block], block
        )
        try:
            return receipt, self.ledger.apply(origin, call)
        except DispatchError as error:
            raise ExtrinsicFailed(error.name) from error

    async def wait_beyond(self, block: int) -> None:
        """Wait until the head is higher than ``block``."""
        async with self._built:
            await self._built.wait_for(lambda: self.ledger.block > block)

    def get_block(self, number: int) -> BlockInfo:
        """Return a block's number, hash and time. Raises ChainUnavailable for a later one."""
        if number > self.ledger.block:
            raise ChainUnavailable(f"block {number} is not there yet")
        now_ms = self.ledger.state.at(number).get(storage.NOW)
        return BlockInfo(BlockNumber(number), self._hashes[number], now_ms // 1000)

    def _build(self) -> None:
        number = self.ledger.block + 1
        self.ledger.begin_block(number, number * BLOCK_MS, parent_hash=self._hashes[-1])
        subject = self._hashes[-1] + number.to_bytes(4, "little")
        self._hashes.append(hashlib.blake2b(subject, digest_size=32).digest())


class LedgerChain:
    """Satisfies ChainReader and ChainWriter. ``signer`` is the hotkey's account id."""

    def __init__(self, blocks: LedgerBlocks, *, signer: bytes | None = None) -> None:
        self._blocks = blocks
        self._signer = signer

    async def fetch_info(self) -> ChainInfo:
        return ChainInfo(GENESIS_HASH, self._blocks.ledger.config.epoch_length)

    async def heads(self) -> AsyncGenerator[BlockInfo, None]:
        while True:
            head = self._blocks.get_block(self._blocks.ledger.block)
            yield head
            await self._blocks.wait_beyond(head.number)

    async def fetch_finalised_number(self) -> BlockNumber:
        return BlockNumber(max(0, self._blocks.ledger.block - self._blocks.finality_lag))

    async def fetch_block(self, number: BlockNumber) -> BlockInfo:
        return self._blocks.get_block(number)

    async def fetch_subnet(
        self, subnet_id: SubnetId, *, at_block: BlockNumber | None = None
    ) -> SubnetInfo | None:
        return ledger_reads.read_subnet(self._get_ledger(at_block), subnet_id, at_block=at_block)

    async def fetch_nodes(
        self, subnet_id: SubnetId, *, at_block: BlockNumber | None = None
    ) -> tuple[RosterNode, ...]:
        return ledger_reads.read_nodes(self._get_ledger(at_block), subnet_id, at_block=at_block)

    async def fetch_elected_validator(
        self, subnet_id: SubnetId, epoch: Epoch
    ) -> SubnetNodeId | None:
        return ledger_reads.read_elected_validator(self._blocks.ledger, subnet_id, epoch)

    async def fetch_submission(
        self, subnet_id: SubnetId, epoch: Epoch, *, at_block: BlockNumber | None = None
    ) -> Submission | None:
        return ledger_reads.read_submission(
            self._get_ledger(at_block), subnet_id, epoch, at_block=at_block
        )

    async def fetch_min_attestation_percent(self, *, at_block: BlockNumber | None = None) -> int:
        return ledger_reads.read_min_attestation_percent(
            self._get_ledger(at_block), at_block=at_block
        )

    async def propose(
        self, subnet_id: SubnetId, scores: Sequence[tuple[SubnetNodeId, Score]], args: bytes | None
    ) -> ExtrinsicReceipt:
        check_args_size(args)
        data = tuple(SubnetNodeConsensusData(node_id, score) for node_id, score in scores)
        return await self._execute(ProposeAttestation(subnet_id, data, args=args))

    async def attest(self, subnet_id: SubnetId) -> ExtrinsicReceipt:
        return await self._execute(Attest(subnet_id))

    def _get_ledger(self, at_block: BlockNumber | None) -> Ledger:
        if at_block is not None:
            self._blocks.get_block(at_block)
        return self._blocks.ledger

    async def _execute(self, call: Call) -> ExtrinsicReceipt:
        if self._signer is None:
            raise ValueError("this chain was made without a hotkey, so it cannot sign")
        receipt, _ = await self._blocks.execute(self._signer, call)
        return receipt
