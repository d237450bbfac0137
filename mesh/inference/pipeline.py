"""A generation session at one range: the only one, the first, a middle one or the last.

Theory of operation
===================

A model's layers are divided into ranges, each at one hoster. A session is a chain of streams: the
client opens one to the first range, and each range opens one to the next. All of them carry the
same request (OPEN), each with its own place in the route.

::

    client --OPEN--> first --OPEN, STEP--> middle --OPEN, STEP--> last
    client <-TOKEN-- first <------------- TOKEN (loop stream) ---- last

**The prompt.** The first range cuts the prompt into chunks, computes each, and sends its hidden
states (STEP) to the second range, which computes them and sends them on. The last range chooses the
first token after the last row of the prompt. Hidden states of a chunk are many bytes: sending them
waits for a slow link, and the next chunk is computed after that.

What a range has of an equal prompt is not computed again, where all later ranges have it too
(mesh/inference/prefixes.py).

**Each further token.** The last range sends a chosen token straight to the first range: over their
own stream where there are two ranges, else over a *loop stream* that the last range opens to the
first and that names the session (BIND). The first range checks that it is the next token, hands it
to its engine at once, and then tells the client. So a token costs one hop for each range, and a
distant client slows nothing.

**No task waits for a token.** A frame is taken in the turn of the event loop in which it arrives
(:class:`TurnLoop`), its step is handed to the compute thread in that turn, and what the step gives
leaves from the compute thread (:class:`Departure`). Each other hand-over would add to every token.
Where there is only one range the thread does not even return to the event loop between tokens
(:class:`AnswerAlone`).

**Several tokens for one hop of each range.** The first range may send the row of a token together
with rows of a draft of what follows it; the last range verifies the draft and answers with all
tokens that it proves right, and one more (mesh/inference/windows.py). Where drafts are often right
it sends the next ones before that answer (mesh/inference/rounds.py).

**Scores.** A request for no new tokens asks for the log probabilities of the prompt's own tokens.
The prompt goes through the ranges in the same way, and the last one sends SCORES instead of TOKEN.

**Who owns what.** The session's stretch of the cache belongs to the ``with`` block of the session
server; so do the streams to other ranges. A role owns no task beyond its own: ``run_guarded`` ends
all of them together. The length of the session moves on the compute thread only.

**A lost hop.** A client may open the session so that it can go on over a changed route: only the
lost range is then filled again (mesh/inference/refills.py).

**Receipts.** If the client asks for one, the ranges hash what they receive and send, and sign it at
the end (mesh/inference/receipts.py).

**What ends a session.**

- The last token was sent, or the client closed its stream. Each range aborts the streams that it
  opened, so the whole chain ends and every cache is freed.
- A deadline passed. Between two steps a later range waits ``idle_s``. The first range waits
  ``step_s`` for each token, and blames no hop, because it cannot know which range is slow; the
  client then asks the hops of its route a short question.
- A later range sent what it may not send. The first range checks each token (its index, its id, and
  whether the step that gives it has left) and blames the last range.
- The stream to the next range broke: that range is blamed (HOP_LOST, or BUSY if it is full).
- A step could not be computed here (FAILED), or the request makes no sense (MALFORMED and the
  reasons beside it).

Each of these is a :class:`Refused` with the hop to blame. It travels back as an ERROR frame, from
range to range, to the client, which plans another route, or replaces the lost hop (see
mesh/client/client.py).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace

from mesh.errors import InvalidRequest
from mesh.inference.answer import AnswerAlone, AnswerState, DraftingAlone
from mesh.inference.arrivals import Arrivals, Plan
from mesh.inference.drafting import Drafter
from mesh.inference.first_range import AnswerAtFirst, ScoresAtFirst
from mesh.inference.flight_wire import encode_ahead
from mesh.inference.hops import Departure, Links, NextHop, RangeRole, run_guarded
from mesh.inference.measures import TokenClock
from mesh.inference.prefixes import agree
from mesh.inference.receipt_wire import SETTLE
from mesh.inference.receipts import RunningReceipt, settle
from mesh.inference.refills import RangeRefill, agree_on_refill, list_kept_steps
from mesh.inference.refusals import RefusalReason, Refused, check_vocabulary
from mesh.inference.sampler import SampleRequest
from mesh.inference.shaping import make_shaper
from mesh.inference.steps import Follow, StepInput, StepOutput
from mesh.inference.tokens import Finish
from mesh.inference.window_wire import encode_window
from mesh.inference.windows import (
    decode_arrival,
    encode_answer,
    forget_draft,
    plan_step,
    take_step,
)
from mesh.inference.wire import (
    NO_ROWS,
    OpenSession,
    ScoresFrame,
    StepFrame,
    encode_ready,
    encode_scores,
    encode_step,
    split_step,
)
from mesh.model.config import ModelConfig
from mesh.p2p.interface import Stream


def check_generation(request: OpenSession, config: ModelConfig) -> None:
    """Raise Refused unless the model can answer the request."""
    if request.first_index >= len(request.token_ids):
        raise Refused(RefusalReason.BAD_PARAMETER, "the answer so far stands in the prompt")
    if request.wants_scores and len(request.token_ids) < 2:
        raise Refused(RefusalReason.BAD_PARAMETER, "a prompt's first token has no score")
    if request.capacity > config.max_context:
        raise Refused(
            RefusalReason.CONTEXT_OVERFLOW,
            f"{len(request.token_ids)} tokens and {request.max_new_tokens} new ones do not "
            f"fit into a context of {config.max_context}",
        )
    check_vocabulary(request.token_ids, config)
    try:
        request.sampling.check()
    except InvalidRequest as error:
        raise Refused(RefusalReason.BAD_PARAMETER, str(error)) from error


@dataclass(frozen=True, slots=True)
class GenerationRange(RangeRole[OpenSession]):
    """A session that generates tokens, or scores its prompt's, at one range.

    With a ``receipt`` it ends only once all ranges were asked what they received and sent
    (mesh/inference/receipts.py). With a ``refill`` it keeps what it sends, and may go on with what
    an earlier session of the answer left here (mesh/inference/refills.py).
    """

    receipt: RunningReceipt | None = None
    refill: RangeRefill | None = None

    async def run(self, links: Links) -> None:
        """Serve the session to its end. Raises Refused or PeerError."""
        request = self.request
        if request.is_first and request.is_last:
            await self._tell_ready()
            if request.wants_scores:
                await run_guarded(self._score_alone(), self.watch_client())
            else:
                await self._answer_alone()
        elif request.is_first:
            first = ScoresAtFirst(self) if request.wants_scores else AnswerAtFirst(self)
            with links.take_loop(first.put):
                async with links.open_next() as next_hop:
                    await self._agree(next_hop)
                    if request.is_refill:
                        await run_guarded(
                            self._send_kept(next_hop), self.watch_client(), next_hop.watch_silence()
                        )
                    else:
                        await self._tell_ready()
                    await first.run(next_hop)
                    await self._settle(next_hop)
        elif not request.is_last:
            async with links.open_next() as next_hop:
                await self._agree(next_hop)
                await self._tell_ready()
                await run_guarded(
                    self._pass_on(next_hop), self._watch_next(next_hop), next_hop.watch_silence()
                )
                await self._settle(next_hop)
        elif len(request.route) == 2:
            await self._tell_ready()
            await self._run_last(self.upstream)
            await self._settle()
        else:
            await self._tell_ready()
            async with links.open_loop() as back:
                await self._run_last(back)
                await self._settle()

    async def _settle(self, next_hop: NextHop | None = None) -> None:
        """Sign what came and went, if a receipt is wanted, and pass on what later ranges signed."""
        if self.receipt is not None:
            await settle(
                self.receipt.sign(self.session.reused),
                self.upstream,
                next_hop,
                hops=len(self.request.route),
                timeout_s=self.timeouts.open_s,
            )

    def is_settled_by(self, frame: bytes) -> bool:
        """Whether a frame says that no further step comes."""
        return self.receipt is not None and frame == SETTLE

    def note_token(self, token_id: int) -> None:
        """Note a token that came back to the first range, if a receipt is wanted."""
        if self.receipt is not None:
            self.receipt.note_token(token_id)
        if self.refill is not None and token_id in self.request.sampling.stop_token_ids:
            self.refill.is_over = True

    async def _agree(self, next_hop: NextHop) -> None:
        if self.refill is None or not self.refill.is_refill:
            await agree(self.engine, self.session, next_hop, timeouts=self.timeouts)
            return
        await agree_on_refill(
            self.engine,
            self.session,
            self.refill,
            next_hop,
            self.request,
            timeout_s=self.timeouts.open_s,
        )

    async def _tell_ready(self) -> None:
        """Tell the range before, which has some of the prompt, how much is here too; or a client
        that asks.
        """
        if self.request.is_refill:
            await self.upstream.send(encode_ready(self.session.length))
        elif self.request.reused:
            await self.upstream.send(encode_ready(self.session.reused))

    async def _send_kept(self, next_hop: NextHop) -> None:
        """Send the next range what it lost of the hidden states that were sent before."""
        refill = self.refill
        if refill is None or not refill.is_refill:
            return
        for first, end in list_kept_steps(
            self.session,
            refill,
            chunk=self.engine.limits.prefill_chunk,
            deterministic=self.engine.is_deterministic,
        ):
            for part in split_step(StepFrame(first, refill.kept.read(first, end))):
                await next_hop.send(self._encode(part))
            self.engine.measures.refilled_rows += end - first

    async def send_prompt(
        self,
        next_hop: NextHop,
        position: int,
        output: StepOutput,
        times_us: tuple[int, ...] = (),
    ) -> None:
        """Send what a step of the prompt gave, as far as the next range needs it.

        A prompt's rows are many bytes, so this waits for a slow link.
        """
        frame: StepFrame | None = output.make_frame(position, (*times_us, output.elapsed_us))
        if self.refill is not None and frame is not None:
            frame = self.refill.pick(frame)
        for part in () if frame is None else split_step(frame):
            await next_hop.send(self._encode(part))

    async def _pass_on(self, next_hop: NextHop) -> None:
        await self._send_kept(next_hop)
        while self.session.length < len(self.request.token_ids):
            step, output = await self._compute_next()
            await self.send_prompt(next_hop, step.position, output, step.times_us)

        def plan(step: StepFrame) -> Plan:
            if step.draft and not next_hop.window:
                raise Refused(RefusalReason.MALFORMED, "a draft that the next range cannot verify")
            return (), self.depart_to(next_hop, step)

        await Arrivals(self, plan, in_flight=next_hop.in_flight).run()

    async def _run_last(self, back: Stream) -> None:
        """Choose tokens, or score the prompt's, and send that to the first range over ``back``."""
        if self.request.wants_scores:
            return await self._score_for_others(back)
        answer = await self._start_answer()

        def plan(step: StepFrame) -> Plan:
            if answer.finish is not Finish.NOT_YET:
                raise Refused(RefusalReason.MALFORMED, "a step after the last token")
            if step.position + step.hidden.rows < len(self.request.token_ids):
                return (), None

            def send(output: StepOutput) -> None:
                tokens = take_step(answer, self.session, step, output)
                if self.refill is not None and answer.finish is not Finish.NOT_YET:
                    self.refill.is_over = True
                back.send_now(encode_answer(self.request, step, tokens))
                # While the other ranges compute the step after these tokens.
                answer.prepare()

            return plan_step(answer, step), Departure(send)

        await Arrivals(self, plan, answer, in_flight=self.request.in_flight).run()

    async def _start_answer(self) -> AnswerState:
        """Return the answer's state, its grammar compiled. Raises Refused(BAD_PARAMETER)."""
        shaper = await make_shaper(self.request, self.engine.config, self.engine.grammars)
        return AnswerState(self.request, shaper, self.receipt)

    async def _answer_alone(self) -> None:
        answer = await self._start_answer()
        clock = TokenClock(self.engine.measures)
        alone = AnswerAlone(answer, self.upstream.send_now, clock, self._make_drafting())

        async def compute() -> None:
            async for _ in self.compute_prompt(answer.next_sample(), alone.follow):
                alone.check()

        await run_guarded(compute(), self.watch_client(alone.stop))
        await self._settle()

    def _make_drafting(self) -> DraftingAlone | None:
        if not (self.request.window and self.engine.drafts_alone):
            return None
        most = self.request.window - 1
        drafter = Drafter(self.request.token_ids, most=most, compares_first=True)
        engine = self.engine
        return DraftingAlone(self.session, drafter, lambda: engine.draft_room, engine.measures)

    async def _score_alone(self) -> None:
        async for position, output in self.compute_prompt(None):
            await self._send_scores(self.upstream, position, output)

    async def _score_for_others(self, back: Stream) -> None:
        while self.session.length < len(self.request.token_ids):
            step, output = await self._compute_next()
            await self._send_scores(back, step.position, output)

    async def _send_scores(self, stream: Stream, position: int, output: StepOutput) -> None:
        if output.scores:
            await stream.send(encode_scores(ScoresFrame(position + 1, output.scores)))

    async def watch_client(self, stop: Callable[[], None] | None = None) -> None:
        """When the client goes, the session ends.

        It says nothing after its request, but that it wants the receipt now: then ``stop`` is
        called.
        """
        while True:
            frame = await self.upstream.receive()
            if stop is None or not self.is_settled_by(frame):
                raise Refused(RefusalReason.MALFORMED, "no frame is expected after OPEN")
            stop()

    async def _watch_next(self, next_hop: NextHop) -> None:
        if await next_hop.receive() is not None:
            raise Refused(RefusalReason.MALFORMED, "no frame is expected from a later range")
        if self.refill is not None:
            self.refill.is_over = True

    async def _compute_next(self) -> tuple[StepFrame, StepOutput]:
        """Wait for the next hidden states and compute them. Raises Refused or PeerError."""
        step = self.read_step(await self.wait_for(self.upstream.receive()))
        return step, await self.engine.submit(self.session, self.make_following(step))

    def read_step(self, frame: bytes) -> StepFrame:
        """Parse the next hidden states. Raises Refused."""
        step = decode_arrival(frame, self.request, self.engine.config)
        if self.receipt is not None:
            self.receipt.note_received(frame)
        session = self.session
        # A hop that is new in the route gives no page again that was published before it came.
        if step.position < session.length == session.reused and not self.request.is_refill:
            self.engine.reuse_less(session, step.position)
        forget_draft(self.request, session, step.position)
        if step.position != session.length:
            raise self.make_position_refusal(step.position)
        return step

    def make_following(
        self, step: StepFrame, samples: Sequence[SampleRequest] = (), follow: Follow | None = None
    ) -> StepInput:
        """Return what the engine is to compute of a step that arrived."""
        is_ahead = step.lead is not None and step.lead.before > 0
        rows = StepInput(step.hidden.rows, hidden=step.hidden, follow=follow, is_ahead=is_ahead)
        if step.draft:
            return replace(rows, window=samples)
        rows = replace(rows, sample=samples[0] if samples else None)
        return self._ask_scores(step.position, rows)

    def depart_to(self, next_hop: NextHop, step: StepFrame) -> Departure:
        """Return the departure of a step's hidden states to the next range.

        ``step`` says where they stand and what they are of; its own are not read.
        """
        about = step._replace(hidden=NO_ROWS)
        return Departure(lambda output: next_hop.send_now(self._encode_window(about, output)))

    def _ask_scores(self, position: int, step: StepInput) -> StepInput:
        """Add the scores that the last range owes for the rows of a step."""
        request = self.request
        if not (request.wants_scores and request.is_last):
            return step
        score_ids = request.token_ids[position + 1 : position + 1 + step.rows]
        return replace(step, score_ids=score_ids, score_top=request.sampling.top_logprobs)

    async def compute_prompt(
        self, sample: SampleRequest | None, follow: Follow | None = None
    ) -> AsyncIterator[tuple[int, StepOutput]]:
        """Compute the prompt in chunks, from what the session began with; yield (position, output).

        ``sample`` and ``follow`` are for the last of them.
        """
        token_ids, position = self.request.token_ids, self.session.length
        while position < len(token_ids):
            piece = token_ids[position : position + self._count_rows(position)]
            step = StepInput(len(piece), token_ids=piece)
            if position + len(piece) == len(token_ids):
                step = replace(step, sample=sample, follow=follow)
            step = self._ask_scores(position, step)
            yield position, await self.engine.submit(self.session, step)
            position += len(piece)

    def _count_rows(self, position: int) -> int:
        """Return the most rows of the step from ``position`` on.

        The tokens of an answer that goes on after a failure were computed one by one. So they are
        again where bits are to be equal: a row's bits depend on how the text is cut.
        """
        chunk, first_row = self.engine.limits.prefill_chunk, self.request.answer_start
        if not self.engine.is_deterministic or position < first_row - chunk:
            return chunk
        return first_row - position if position < first_row else 1

    def _encode_window(self, about: StepFrame, output: StepOutput) -> bytes:
        """Encode a step's hidden states; ``about`` says the rest of it."""
        frame = output.make_frame(about.position, (*about.times_us, output.elapsed_us))
        if self.refill is not None:
            self.refill.kept.note(about.position, frame.hidden)
        if about.lead is not None:
            return encode_ahead(frame._replace(draft=about.draft), about.lead)
        if about.draft:
            return encode_window(frame._replace(draft=about.draft))
        return self._encode(frame)

    def _encode(self, step: StepFrame) -> bytes:
        frame = encode_step(step)
        if self.receipt is not None:
            self.receipt.note_sent(frame)
        return frame
