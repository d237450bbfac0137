"""Opens each epoch's challenge at the engine's guard, from the first block on that decides it.

A challenge is open from its epoch's first block until REVEAL begins: before, a hoster could
have the output that it owes computed by another one, and a validator the layer that it audits.
The guard does not wait until the first block is final, since others do not either. On a branch of
the chain with another first block it opens that block's challenge too.
"""

from __future__ import annotations

import asyncio

import numpy as np
import structlog
from numpy.typing import NDArray

from consensus.challenge import ModelShape, compute_layer_input, compute_seed
from consensus.types import Epoch, EpochPosition
from mesh.inference.challenge_guard import ChallengeGuard
from subnet.epoch.interfaces import BlockInfo, ChainReader
from subnet.epoch.rosters import Rosters
from subnet.epoch.terms import SubnetTerms
from subnet.errors import ChainUnavailable

logger = structlog.get_logger(__name__)


class RelayGuard:
    """Feeds one engine's guard with the challenges of the chain that a node follows."""

    def __init__(
        self,
        terms: SubnetTerms,
        shape: ModelShape,
        *,
        reader: ChainReader,
        rosters: Rosters,
        guard: ChallengeGuard,
    ) -> None:
        self._terms = terms
        self._shape = shape
        self._reader = reader
        self._rosters = rosters
        self._guard = guard
        self._epoch: Epoch | None = None
        self._head: BlockInfo | None = None
        self._news = asyncio.Event()

    def note_head(self, head: BlockInfo) -> None:
        """Hear of a new head."""
        self._head = head
        self._news.set()

    async def run(self) -> None:
        """Follow the heads until cancelled: a task of the node's group."""
        while True:
            await self._news.wait()
            self._news.clear()
            if self._head is None:
                continue
            try:
                await self.follow(self._head)
            except ChainUnavailable as error:
                logger.warning("the relay guard lacks the challenge", detail=str(error))

    async def follow(self, head: BlockInfo) -> None:
        """Open the challenge of the head's epoch, or close it. Raises ChainUnavailable."""
        position = self._rosters.get_position(head.number)
        if position is None:
            return
        if position.epoch != self._epoch:
            self._guard.close()
            self._epoch = position.epoch
        if position.offset >= self._terms.schedule.reveal_start:
            self._guard.close()
            return
        seed = await self._fetch_seed(position, head)
        self._guard.open(seed, lambda layer: self._compute_input(seed, layer))

    async def _fetch_seed(self, position: EpochPosition, head: BlockInfo) -> bytes:
        """Return the seed of the epoch on the head's branch; final once there is a roster."""
        roster = self._rosters.get_roster(position.epoch)
        if roster is not None:
            return self._terms.compute_challenge(roster).seed
        first = head
        if position.offset:
            first = await self._reader.fetch_block(position.first_block)
        return compute_seed(self._terms.network_id, position.epoch, first.number, first.block_hash)

    def _compute_input(self, seed: bytes, layer: int) -> NDArray[np.float32]:
        return compute_layer_input(seed, layer, self._shape, self._terms.params)
