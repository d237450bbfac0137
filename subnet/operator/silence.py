"""Listens a whole epoch for an own identity that may run elsewhere, before anything is signed.

Theory of operation
-------------------

What it is for. Two nodes with one key sign two records for one slot, and neither counts. A journal
protects a node from itself only if it is the newest one of its identity. After a restored backup,
a copied or lost data folder or a start of the machine the node cannot know that, so it listens for
``epoch_length`` blocks and signs nothing, its heartbeat included (folder_mark.py says when).

What it hears. Each of these proves another process, and ends the node:

- a heartbeat of its own that is newer than the newest found at the beginning;
- a consensus record of its own in an epoch that began after it started to listen;
- its own proposal or attestation on the chain in such an epoch.

What was signed before is no proof: it may be the node's own work, before its disk was lost. After
``epoch_length`` blocks another epoch has begun, in which the lost journal signed nothing.

What it cannot hear. A process that begins to listen at the same time, one that is cut off from
network and chain, and one that starts when the listening is over.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

import structlog

from consensus.records import EPOCH_KINDS, RecordKind
from consensus.submission import Submission
from consensus.types import BlockNumber, Epoch, EpochPosition, SubnetNodeId
from keys.envelope import compute_record_key
from keys.peer import PeerId
from mesh.errors import TransportError
from mesh.p2p.interface import RecordStore
from subnet.epoch.heads import follow_heads
from subnet.epoch.interfaces import BlockInfo, ChainReader
from subnet.epoch.observer import log_event
from subnet.epoch.rosters import Rosters
from subnet.epoch.terms import SubnetTerms
from subnet.errors import ChainUnavailable, ConfigError
from subnet.operator.identity_watch import FETCH_TIMEOUT_S, find_expiry

TRACE_EPOCHS = 2
"""Epochs, the present one and those before, in which a new folder's identity is looked for."""

logger = structlog.get_logger(__name__)

Tell = Callable[[EpochPosition, BlockNumber], None]
"""Hears each head while the node listens, and the block at which that ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ear:
    """How one node hears of itself. ``records`` None: it has no peer to ask."""

    own: PeerId
    node_id: SubnetNodeId
    terms: SubnetTerms
    reader: ChainReader
    rosters: Rosters
    records: RecordStore | None
    clock: Callable[[], float] = time.time

    async def find_expiry(self, *, after: int | None) -> int | None:
        """Return when a live own heartbeat expires that expires after ``after``, if there is one.

        Raises TransportError.
        """
        if self.records is None:
            return None
        network_id = self.terms.network_id
        return await find_expiry(self.records, self.own, network_id, after=after, clock=self.clock)

    async def find_record(self, epochs: Sequence[Epoch]) -> tuple[RecordKind, Epoch] | None:
        """Return an own consensus record of one of ``epochs``. Raises TransportError."""
        if self.records is None or not epochs:
            return None
        network_id = self.terms.network_id
        # The record store admits only records that their author signed, in epochs it knows.
        slots = {
            compute_record_key(network_id, kind, epoch, self.own): (kind, epoch)
            for kind in EPOCH_KINDS
            for epoch in epochs
        }
        found = await self.records.fetch(tuple(slots), timeout_s=FETCH_TIMEOUT_S)
        return next((slots[key] for key in found if key in slots), None)

    async def fetch_submission(self, epoch: Epoch) -> Submission | None:
        """Return the proposal of ``epoch``. Raises ChainUnavailable."""
        return await self.reader.fetch_submission(self.terms.subnet_id, epoch)

    def has_part(self, submission: Submission | None) -> bool:
        """Whether this node proposed or attested it."""
        return submission is not None and self.node_id in submission.attested | {
            submission.proposer
        }


async def find_trace(ear: Ear) -> str | None:
    """Return by what the identity was heard of lately, in words; None for one that is new.

    Raises ChainUnavailable or TransportError.
    """
    head = await ear.rosters.locate(await _fetch_head(ear.reader))
    if await ear.find_expiry(after=None) is not None:
        return "a heartbeat of it is alive"
    if head is None:
        return None
    epochs = [Epoch(head.epoch - age) for age in range(TRACE_EPOCHS) if head.epoch >= age]
    found = await ear.find_record(epochs)
    if found is not None:
        return f"it published {found[0].name} in epoch {found[1]}"
    for epoch in epochs:
        submission = await ear.fetch_submission(epoch)
        if ear.has_part(submission):
            return f"it attested the proposal of epoch {epoch}"
        if submission is not None and dict(submission.scores).get(ear.node_id):
            return f"it was paid in the proposal of epoch {epoch}"
    return None


async def listen_an_epoch(ear: Ear, *, tell: Tell) -> None:
    """Return after ``epoch_length`` blocks in which nothing was heard of the own identity.

    Raises ConfigError as soon as another process with the identity is heard.
    """
    silence = _Silence(ear)
    heads = follow_heads(
        ear.reader,
        ear.terms,
        newest=ear.rosters.get_newest_roster(),
        get_wall_time_s=ear.clock,
        observe=log_event,
    )
    async with aclosing(heads):
        async for head in heads:
            try:
                position = await ear.rosters.locate(head)
                if position is None:
                    # Before the subnet's first epoch there is nothing to sign.
                    return
                await ear.rosters.refresh(position)
                ends_at = await silence.take(position)
            except (ChainUnavailable, TransportError) as error:
                # Unheard is not silent: the epoch is counted from the first head that was heard.
                logger.warning("cannot listen for the own identity", reason=str(error))
                continue
            tell(position, ends_at)
            if position.block >= ends_at:
                return


class _Silence:
    """What was heard so far."""

    def __init__(self, ear: Ear) -> None:
        self._ear = ear
        self._first: EpochPosition | None = None
        self._newest: int | None = None

    async def take(self, position: EpochPosition) -> BlockNumber:
        """Listen at one head; return the block at which the epoch of silence ends.

        Raises ConfigError if another process is heard, ChainUnavailable or TransportError.
        """
        first = self._first
        if first is None:
            await self._begin()
            self._first = position
            return BlockNumber(position.block + position.length)
        ear = self._ear
        if await ear.find_expiry(after=self._newest) is not None:
            raise self._make_failure("its heartbeat was renewed")
        later = [Epoch(number) for number in range(first.epoch + 1, position.epoch + 1)]
        found = await ear.find_record(later)
        if found is not None:
            raise self._make_failure(f"it published {found[0].name} in epoch {found[1]}")
        if later and ear.has_part(await ear.fetch_submission(position.epoch)):
            raise self._make_failure(f"it attested the proposal of epoch {position.epoch}")
        return BlockNumber(first.block + first.length)

    async def _begin(self) -> None:
        """Note what is there from before. Replicas may hold older heartbeats than others do."""
        ear = self._ear
        newest = self._newest
        while later := await ear.find_expiry(after=newest):
            newest = later
        self._newest = newest

    def _make_failure(self, what: str) -> ConfigError:
        return ConfigError(
            f"another process runs as {self._ear.own}: {what} while this one listened",
            "stop it, or make an identity of its own for this node with `mesh keygen`",
        )


async def _fetch_head(reader: ChainReader) -> BlockInfo:
    async with aclosing(reader.heads()) as heads:
        async for head in heads:
            return head
    raise ChainUnavailable("the chain tells of no head")
