"""A session that its client drives, at one range: tokens in, logits of the last range out.

Here the client chooses the tokens: transformers' logits processors, beams and assistants run on
its side. Hidden states go from range to range as in other sessions; logits come back along the
same streams. A position before the end forgets what followed it, so that beams and assistants
may change their minds.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from torch import Tensor

from mesh.inference.drive_wire import (
    DriveSession,
    FeedFrame,
    LogitsFrame,
    compute_max_logit_rows,
    decode_driven_step,
    decode_feed,
    decode_logits,
    encode_driven_step,
    encode_logits,
)
from mesh.inference.engine import Engine, EngineSession, StepInput, StepOutput
from mesh.inference.hops import NextHop, SessionTimeouts, run_guarded
from mesh.inference.refusals import RefusalReason, Refused
from mesh.inference.tensors import view_bytes
from mesh.inference.wire import StepFrame
from mesh.p2p.interface import Stream

MAX_FEEDS_AHEAD = 2
"""Feeds that may wait at the first range; a client waits for its logits before the next."""


@dataclass(frozen=True, slots=True)
class DrivenRange:
    """One driven session at one hoster."""

    engine: Engine
    session: EngineSession
    request: DriveSession
    upstream: Stream
    timeouts: SessionTimeouts

    async def run_first(self, next_hop: NextHop | None) -> None:
        """Compute what the client feeds until it goes; ``next_hop`` None is the only range."""
        inbox: asyncio.Queue[FeedFrame] = asyncio.Queue(MAX_FEEDS_AHEAD)
        guards = [self._collect_feeds(inbox)]
        if next_hop is not None:
            guards.append(self._pass_logits_back(next_hop))
        await run_guarded(self._compute_feeds(inbox, next_hop), *guards)

    async def run_middle(self, next_hop: NextHop) -> None:
        """Pass hidden states on and logits back until the previous range goes."""
        await run_guarded(self._compute_steps(next_hop), self._pass_logits_back(next_hop))

    async def run_last(self) -> None:
        """Answer with logits until the previous range goes."""
        await self._compute_steps(None)

    async def _collect_feeds(self, inbox: asyncio.Queue[FeedFrame]) -> None:
        while True:
            await inbox.put(decode_feed(await self.upstream.receive()))

    async def _compute_feeds(
        self, inbox: asyncio.Queue[FeedFrame], next_hop: NextHop | None
    ) -> None:
        while True:
            try:
                async with asyncio.timeout(self.timeouts.idle_s):
                    feed = await inbox.get()
            except TimeoutError as error:
                raise Refused(RefusalReason.TIMEOUT, "the session was idle for too long") from error
            self._check(feed)
            await self._compute_feed(feed, next_hop)

    def _check(self, feed: FeedFrame) -> None:
        config = self.engine.config
        if feed.position + len(feed.token_ids) > self.session.capacity:
            raise Refused(RefusalReason.CONTEXT_OVERFLOW, "more tokens than were reserved")
        if max(feed.token_ids) >= config.vocab_size:
            raise Refused(
                RefusalReason.TOKEN_OUT_OF_RANGE, f"the vocabulary has {config.vocab_size} tokens"
            )

    async def _compute_feed(self, feed: FeedFrame, next_hop: NextHop | None) -> None:
        """Compute the new text in chunks."""
        count, chunk = len(feed.token_ids), self.engine.limits.prefill_chunk
        for first in range(0, count, chunk):
            token_ids = feed.token_ids[first : first + chunk]
            rows = len(token_ids)
            wanted = max(0, first + rows - max(first, count - feed.wanted))
            step = StepInput(rows, token_ids=token_ids, logit_rows=self._count_own(wanted))
            await self._run_step(feed.position + first, step, wanted, next_hop)

    async def _compute_steps(self, next_hop: NextHop | None) -> None:
        while True:
            step, wanted = await self._receive_step()
            hidden = step.hidden
            rows = StepInput(hidden.rows, hidden=hidden, logit_rows=self._count_own(wanted))
            await self._run_step(step.position, rows, wanted, next_hop)

    async def _receive_step(self) -> tuple[StepFrame, int]:
        try:
            async with asyncio.timeout(self.timeouts.idle_s):
                frame = await self.upstream.receive()
        except TimeoutError as error:
            raise Refused(RefusalReason.TIMEOUT, "the session was idle for too long") from error
        return decode_driven_step(frame, hidden_size=self.engine.config.hidden_size)

    def _count_own(self, wanted: int) -> int:
        """Return how many rows of logits this range owes: the last one all, another none."""
        return wanted if self.request.is_last else 0

    async def _run_step(
        self, position: int, step: StepInput, wanted: int, next_hop: NextHop | None
    ) -> None:
        if position > self.session.length:
            raise Refused(
                RefusalReason.WRONG_POSITION,
                f"position {position} does not follow {self.session.length}",
            )
        # What followed is forgotten: its cache slots are written again before they are read.
        self.session.length = position
        output = await self.engine.submit(self.session, step)
        if next_hop is not None:
            await next_hop.send(encode_driven_step(_make_step(position, output), wanted))
        elif output.logits is not None:
            await self._send_logits(position + step.rows - wanted, output.logits)

    async def _send_logits(self, position: int, logits: Tensor) -> None:
        """Send float32 ``logits`` [rows, vocabulary] in as few frames as they fit into."""
        vocab_size = self.engine.config.vocab_size
        most = compute_max_logit_rows(vocab_size)
        for first in range(0, logits.shape[0], most):
            rows = logits[first : first + most]
            frame = LogitsFrame(position + first, rows.shape[0], view_bytes(rows))
            await self.upstream.send(encode_logits(frame, vocab_size=vocab_size))

    async def _pass_logits_back(self, next_hop: NextHop) -> None:
        vocab_size = self.engine.config.vocab_size
        while (frame := await next_hop.receive()) is not None:
            try:
                decode_logits(frame, vocab_size=vocab_size)
            except Refused as refused:
                raise Refused(
                    RefusalReason.HOP_LOST, str(refused), hop_index=next_hop.hop_index
                ) from refused
            await self.upstream.send(frame)
        raise Refused(RefusalReason.HOP_LOST, "it left", hop_index=next_hop.hop_index)


def _make_step(position: int, output: StepOutput) -> StepFrame:
    if output.hidden is None:
        raise ValueError("the last block's rows do not leave as hidden states")
    return StepFrame(position, output.hidden)
