"""A session in which the client chooses the tokens, at one range.

The client sends token ids to the first range, and gets logits of the last range. transformers'
logits processors, beams and assistants run at the client. Hidden states go from range to range as
in generation sessions; logits come back along the same streams. Rows at a position before the end
replace what followed it: beams and assistants go back in this way. Instead of logits a client may
ask for the last hidden states, for embeddings of texts.

A client may open the session so that it can go on over a changed route: only the lost range is then
filled again (mesh/inference/refills.py).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from mesh.errors import StreamClosed
from mesh.inference.drive_wire import (
    DriveSession,
    FeedFrame,
    LogitsFrame,
    compute_max_logit_rows,
    decode_driven_step,
    decode_feed,
    decode_logits,
    encode_driven_steps,
    encode_logits,
)
from mesh.inference.hops import Links, NextHop, RangeRole, run_guarded
from mesh.inference.refills import RangeRefill, agree_on_refill, list_kept_steps
from mesh.inference.refusals import RefusalReason, Refused, check_vocabulary
from mesh.inference.steps import StepInput, StepOutput
from mesh.inference.tensors import view_bytes
from mesh.inference.wire import StepFrame, encode_ready
from mesh.model.config import ModelConfig

MAX_FEEDS_AHEAD = 2
"""Feeds that may wait at the first range; a client waits for its logits before the next."""


def check_drive(request: DriveSession, config: ModelConfig) -> None:
    """Raise Refused for a model whose logits do not fit into a frame."""
    _check_width(config.vocab_size)


def check_hidden(request: DriveSession, config: ModelConfig) -> None:
    """Raise Refused for a model whose hidden states do not fit into a frame."""
    _check_width(config.hidden_size)


def _check_width(width: int) -> None:
    if not compute_max_logit_rows(width):
        raise Refused(RefusalReason.WRONG_SHAPE, f"{width} values do not fit into a frame")


@dataclass(frozen=True, slots=True)
class DrivenRange(RangeRole[DriveSession]):
    """A session that its client drives, at one range.

    With a ``refill`` it keeps what it sends, and may go on with what an earlier session of the text
    left here.
    """

    wants_hidden: ClassVar[bool] = False
    refill: RangeRefill | None = None

    @property
    def width(self) -> int:
        """How many values come back for each row."""
        return self.engine.config.vocab_size

    async def run(self, links: Links) -> None:
        """Compute what the client or the range before sends, until it goes."""
        if self.request.is_last:
            await self._go_on(None)
            return
        async with links.open_next() as next_hop:
            await self._agree(next_hop)
            await self._go_on(next_hop)

    async def _go_on(self, next_hop: NextHop | None) -> None:
        if self.request.is_refill:
            await self.upstream.send(encode_ready(self.session.length))
        try:
            await self._compute(next_hop)
        except StreamClosed:
            # The client has ended its text in good order, and will not go on with it.
            if self.refill is not None:
                self.refill.is_over = True
            if next_hop is not None:
                await next_hop.finish()
            raise

    async def _agree(self, next_hop: NextHop) -> None:
        if self.refill is not None and self.refill.is_refill:
            await agree_on_refill(
                self.engine,
                self.session,
                self.refill,
                next_hop,
                self.request,
                timeout_s=self.timeouts.open_s,
            )

    async def _send_kept(self, next_hop: NextHop | None) -> None:
        """Send the next range what it lost of the hidden states that were sent before."""
        refill = self.refill
        if refill is None or next_hop is None or not refill.is_refill:
            return
        for first, end in list_kept_steps(
            self.session,
            refill,
            chunk=self.engine.limits.prefill_chunk,
            deterministic=self.engine.is_deterministic,
        ):
            for frame in encode_driven_steps(StepFrame(first, refill.kept.read(first, end)), 0):
                await next_hop.send(frame)
            self.engine.measures.refilled_rows += end - first

    async def _compute(self, next_hop: NextHop | None) -> None:
        guards = []
        if next_hop is not None:
            guards = [self._pass_logits_back(next_hop), next_hop.watch_silence()]
        if not self.request.is_first:
            await run_guarded(self._compute_steps(next_hop), *guards)
            return
        inbox: asyncio.Queue[FeedFrame] = asyncio.Queue(MAX_FEEDS_AHEAD)
        await run_guarded(self._compute_feeds(inbox, next_hop), self._collect_feeds(inbox), *guards)

    async def _collect_feeds(self, inbox: asyncio.Queue[FeedFrame]) -> None:
        while True:
            await inbox.put(decode_feed(await self.upstream.receive()))

    async def _compute_feeds(
        self, inbox: asyncio.Queue[FeedFrame], next_hop: NextHop | None
    ) -> None:
        await self._send_kept(next_hop)
        while True:
            feed = await self.wait_for(inbox.get())
            self._check(feed)
            await self._compute_feed(feed, next_hop)

    def _check(self, feed: FeedFrame) -> None:
        if feed.position + len(feed.token_ids) > self.session.capacity:
            raise Refused(RefusalReason.CONTEXT_OVERFLOW, "more tokens than the session may have")
        check_vocabulary(feed.token_ids, self.engine.config)

    async def _compute_feed(self, feed: FeedFrame, next_hop: NextHop | None) -> None:
        """Compute the new text in chunks."""
        count, chunk = len(feed.token_ids), self.engine.limits.prefill_chunk
        for first in range(0, count, chunk):
            token_ids = feed.token_ids[first : first + chunk]
            rows = len(token_ids)
            wanted = max(0, first + rows - max(first, count - feed.wanted))
            step = StepInput(
                rows,
                token_ids=token_ids,
                logit_rows=self._count_own(wanted),
                wants_hidden=self.wants_hidden,
            )
            await self._run_step(feed.position + first, step, wanted, next_hop)

    async def _compute_steps(self, next_hop: NextHop | None) -> None:
        await self._send_kept(next_hop)
        while True:
            frame = await self.wait_for(self.upstream.receive())
            hidden_size = self.engine.config.hidden_size
            step, wanted = decode_driven_step(frame, hidden_size=hidden_size)
            hidden = step.hidden
            rows = StepInput(
                hidden.rows,
                hidden=hidden,
                logit_rows=self._count_own(wanted),
                wants_hidden=self.wants_hidden,
            )
            await self._run_step(step.position, rows, wanted, next_hop)

    def _count_own(self, wanted: int) -> int:
        """Return how many rows of logits this range owes: the last one all, another none."""
        return wanted if self.request.is_last else 0

    async def _run_step(
        self, position: int, step: StepInput, wanted: int, next_hop: NextHop | None
    ) -> None:
        if position > self.session.length:
            raise self.make_position_refusal(position)
        if self.refill is not None and position < self.session.length:
            # Another text may follow here, of which the next range has nothing.
            self.refill.lower(position)
        self.session.rewind(position)
        output = await self.engine.submit(self.session, step)
        if next_hop is not None:
            await self._pass_on(next_hop, position, output, wanted)
        elif output.logits is not None:
            await self._send_logits(position + step.rows - wanted, output.logits)

    async def _pass_on(
        self, next_hop: NextHop, position: int, output: StepOutput, wanted: int
    ) -> None:
        """Send what a step gave, as far as the next range needs it."""
        step: StepFrame | None = output.make_frame(position)
        if self.refill is not None and step is not None:
            if wanted:
                self.refill.lower(position + step.hidden.rows - wanted)
            step = self.refill.pick(step)
        for frame in () if step is None else encode_driven_steps(step, wanted):
            await next_hop.send(frame)

    async def _send_logits(self, position: int, logits: Tensor) -> None:
        """Send float32 ``logits`` [rows, width] in as few frames as they fit into."""
        most = compute_max_logit_rows(self.width)
        for first in range(0, logits.shape[0], most):
            rows = logits[first : first + most]
            frame = LogitsFrame(position + first, rows.shape[0], view_bytes(rows))
            await self.upstream.send(encode_logits(frame, vocab_size=self.width))

    async def _pass_logits_back(self, next_hop: NextHop) -> None:
        while (frame := await next_hop.receive()) is not None:
            try:
                decode_logits(frame, vocab_size=self.width)
            except Refused as refused:
                raise Refused(
                    RefusalReason.HOP_LOST, str(refused), hop_index=next_hop.hop_index
                ) from refused
            await self.upstream.send(frame)
        raise Refused(RefusalReason.HOP_LOST, "it left", hop_index=next_hop.hop_index)


@dataclass(frozen=True, slots=True)
class HiddenRange(DrivenRange):
    """A driven session whose client wants the last hidden states instead of logits."""

    wants_hidden: ClassVar[bool] = True

    @property
    def width(self) -> int:
        return self.engine.config.hidden_size
