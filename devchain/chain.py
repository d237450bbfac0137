"""A chain of blocks over the ledger. Synchronous; time is an argument.

Theory of operation
===================

The parts, from the rules outwards::

    storage, calls, events, chain_types   declarations: names, indices, types, defaults
    scale, metadata, pallets              the bytes and the metadata, derived from them
    state                                 every value that an item has had, by block
    runtime + nodes, stake, rewards, ...  the rules: functions of a Runtime
    ledger                                apply a call, begin a block; a failed call is undone
    execution                             nonce, fee, call, refund, events of one extrinsic
    chain (here)                          blocks, hashes, finality, waiting extrinsics
    block_producer, block_store           the clock and the disk
    rpc_connection, rpc_methods, server   clients

An extrinsic's way. ``submit`` decodes it, checks signature, nonce and balance, and puts it into
the transaction pool. ``build`` makes one block:

1. ``Ledger.begin_block`` opens block n: it writes number, parent hash and time, then runs the
   hooks. Offset 0 of a general epoch checks subnets, offset 2 fixes emission weights, and a
   subnet's slot settles its last epoch and elects for the new one.
2. The timestamp is extrinsic 0. Then extrinsics come from the pool in the order of arrival, but
   each signer's in the order of nonces, up to MAX_BLOCK_EXTRINSICS.
3. ``execute`` charges the fee and applies the call. A DispatchError undoes the call and keeps
   nonce and fee. InvalidTransaction drops the extrinsic from the block: its account could not
   pay any more, or its era ended while it waited.
4. ``_seal`` stores the events, hashes the block's changes into the state root and appends the
   block. Blocks below the head less ``finality_lag`` are final; there are no forks.

The state keeps all versions, so a read at any old block is exact. The state root chains the
hashes of changes instead of hashing a trie: the same history gives the same root.

A restart replays the stored blocks. Every block must get the hash that it had, otherwise the
rules have changed and the database is refused (ForeignBlock). What genesis storage does not
show, such as the epoch length and the seed, is hashed into the genesis root.
"""

from __future__ import annotations

from dataclasses import dataclass

from devchain import events, storage
from devchain.blocks import Block, compute_state_root, seal_block
from devchain.errors import InvalidReason, InvalidTransaction, LedgerError
from devchain.execution import Payment, compute_fee, execute
from devchain.extrinsics import (
    SignedExtrinsic,
    blake2_256,
    decode_extrinsic,
    decode_timestamp,
    encode_timestamp,
)
from devchain.ledger import Ledger
from devchain.metadata import build_metadata
from devchain.pallets import (
    BLOCK_HASH_COUNT,
    SYSTEM_EVENTS,
    ApplyExtrinsic,
    EventRecord,
    Initialization,
)
from devchain.runtime import LedgerConfig
from devchain.scale import ScaleError
from devchain.transaction_pool import TransactionPool

MAX_BLOCK_EXTRINSICS = 1024
DEFAULT_FINALITY_LAG = 2


class ForeignBlock(LedgerError):
    """A stored block does not follow from this chain's rules."""


@dataclass(frozen=True)
class Rejected:
    """An extrinsic that was waiting and turned out to be unusable."""

    extrinsic: SignedExtrinsic
    reason: InvalidReason


class Chain:
    """A growing list of blocks and the state after each of them."""

    def __init__(self, config: LedgerConfig, *, finality_lag: int = DEFAULT_FINALITY_LAG) -> None:
        self.ledger = Ledger(config)
        self.transaction_pool = TransactionPool()
        self.metadata = build_metadata(config)
        self._finality_lag = finality_lag
        genesis_root = compute_state_root(_describe(config), self.ledger.state.changes())
        self.blocks = [seal_block(0, parent_hash=bytes(32), state_root=genesis_root, extrinsics=())]
        self._numbers = {self.genesis.hash: 0}

    @property
    def genesis(self) -> Block:
        return self.blocks[0]

    @property
    def head(self) -> Block:
        return self.blocks[-1]

    @property
    def finalised(self) -> Block:
        return self.blocks[max(0, self.head.number - self._finality_lag)]

    def find_block(self, block_hash: bytes) -> Block | None:
        """Return the block with this hash."""
        number = self._numbers.get(block_hash)
        return None if number is None else self.blocks[number]

    def submit(self, raw: bytes) -> SignedExtrinsic:
        """Take an extrinsic into the pool.

        Raises ScaleError for bytes that are none, InvalidTransaction, or PoolRefusal.
        """
        extrinsic = decode_extrinsic(raw)
        self.check(extrinsic)
        self.transaction_pool.add(extrinsic)
        return extrinsic

    def check(self, extrinsic: SignedExtrinsic) -> None:
        """Raise InvalidTransaction unless the extrinsic may be in the next block or later."""
        self._check_signature(extrinsic)
        account = self.ledger.state.get(storage.ACCOUNT, extrinsic.signer)
        if extrinsic.nonce < account.nonce:
            raise InvalidTransaction(InvalidReason.STALE)
        needed = compute_fee(extrinsic.call, len(extrinsic.raw)) + extrinsic.tip
        if account.data.free - needed < self.ledger.config.existential_deposit:
            raise InvalidTransaction(InvalidReason.PAYMENT)

    def _check_signature(self, extrinsic: SignedExtrinsic) -> None:
        next_number = self.head.number + 1
        birth = extrinsic.era.birth(next_number)
        if extrinsic.era.period and (
            birth >= len(self.blocks) or next_number - birth > BLOCK_HASH_COUNT
        ):
            raise InvalidTransaction(InvalidReason.ANCIENT_BIRTH_BLOCK)
        era_hash = self.blocks[birth].hash
        extrinsic.check_signature(genesis_hash=self.genesis.hash, era_hash=era_hash)

    def build(self, now_ms: int) -> tuple[Block, list[Rejected]]:
        """Build the next block from what is waiting; return what proved unusable, too.

        The timestamp follows ``now_ms`` and never stands still.
        """
        timestamp = max(now_ms, self.ledger.state.get(storage.NOW) + 1)
        records = self._open_block(timestamp)
        included = [encode_timestamp(timestamp)]
        rejected: list[Rejected] = []
        for extrinsic in self.transaction_pool.take_ready(
            self._nonce_of, limit=MAX_BLOCK_EXTRINSICS
        ):
            try:
                # An era may have ended, or the balance gone, while it was waiting.
                if extrinsic.era.period:
                    self._check_signature(extrinsic)
                records += self._execute(extrinsic, index=len(included))
            except InvalidTransaction as error:
                rejected.append(Rejected(extrinsic, error.reason))
            else:
                included.append(extrinsic.raw)
        return self._seal(tuple(included), records), rejected

    def _nonce_of(self, signer: bytes) -> int:
        return self.ledger.state.get(storage.ACCOUNT, signer).nonce

    def _open_block(self, timestamp: int) -> list[EventRecord]:
        number = self.head.number + 1
        hook_events = self.ledger.begin_block(number, timestamp, parent_hash=self.head.hash)
        if number > BLOCK_HASH_COUNT:
            self.ledger.state.remove(storage.BLOCK_HASH, number - BLOCK_HASH_COUNT - 1)
        records = [EventRecord(Initialization(), event) for event in hook_events]
        mandatory = events.DispatchInfo(dispatch_class=events.DispatchClass.MANDATORY)
        return [*records, EventRecord(ApplyExtrinsic(0), events.ExtrinsicSuccess(mandatory))]

    def _execute(self, extrinsic: SignedExtrinsic, *, index: int) -> list[EventRecord]:
        fee = compute_fee(extrinsic.call, len(extrinsic.raw))
        payment = Payment(extrinsic.signer, extrinsic.nonce, fee, extrinsic.tip)
        emitted = execute(self.ledger, extrinsic.call, payment)
        return [EventRecord(ApplyExtrinsic(index), event) for event in emitted]

    def _seal(self, extrinsics: tuple[bytes, ...], records: list[EventRecord]) -> Block:
        state = self.ledger.state
        state.put(SYSTEM_EVENTS, value=tuple(records))
        root = compute_state_root(self.head.state_root, state.changes())
        block = seal_block(
            self.head.number + 1,
            parent_hash=self.head.hash,
            state_root=root,
            extrinsics=extrinsics,
        )
        self.blocks.append(block)
        self._numbers[block.hash] = block.number
        return block

    def replay(self, extrinsics: tuple[bytes, ...], expected_hash: bytes) -> None:
        """Build a stored block again. Raises ForeignBlock if it is not what it was.

        Signatures were checked when the block was built; its hash vouches for them.
        """
        try:
            records = self._open_block(decode_timestamp(extrinsics[0]))
            for index, raw in enumerate(extrinsics[1:], start=1):
                records += self._execute(decode_extrinsic(raw), index=index)
        except (ScaleError, InvalidTransaction, IndexError) as error:
            raise ForeignBlock(f"block {self.head.number + 1} cannot be replayed") from error
        if self._seal(extrinsics, records).hash != expected_hash:
            raise ForeignBlock(f"block {self.head.number} has another hash than when it was built")


def _describe(config: LedgerConfig) -> bytes:
    """Bind what genesis storage does not show into the genesis hash."""
    shown = (config.epoch_length, config.activation_mode.name, config.activation_queue_epochs)
    return blake2_256(repr((shown, config.existential_deposit, config.seed)).encode())
