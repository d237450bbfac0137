"""The state of an answer at the range that chooses tokens, and an answer at a single range."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mesh.errors import MeshError
from mesh.inference.drafting import Drafter
from mesh.inference.measures import ServingMeasures, TokenClock
from mesh.inference.receipts import RunningReceipt
from mesh.inference.refusals import Refused
from mesh.inference.sampler import SampleRequest
from mesh.inference.shaping import LogitShaper
from mesh.inference.steps import EngineSession, StepInput, StepOutput
from mesh.inference.tokens import Finish, Token
from mesh.inference.wire import OpenSession, encode_token


@dataclass(slots=True)
class AnswerState:
    """The answer so far at the last range: its length, and the tokens that a penalty counts.

    ``shaper`` says what changes the logits, if anything does; ``receipt`` notes the tokens, if one
    is wanted.
    """

    request: OpenSession
    shaper: LogitShaper | None = None
    receipt: RunningReceipt | None = None
    index: int = field(init=False)
    seen: list[int] = field(init=False)
    finish: Finish = Finish.NOT_YET

    def __post_init__(self) -> None:
        self.index = self.request.first_index
        self.seen = list(self.request.token_ids)

    def next_sample(self) -> SampleRequest:
        """Say how to choose the next token."""
        change = None if self.shaper is None else self.shaper.get_change()
        return SampleRequest(self.request.sampling, self.index, self.seen, change)

    def prepare(self) -> None:
        """Compute now what the next token needs; the token before it is on its way."""
        if self.shaper is not None and self.finish is Finish.NOT_YET:
            self.shaper.get_change()

    @property
    def left(self) -> int:
        """How many tokens may still come."""
        return self.request.max_new_tokens - (self.index - self.request.first_index)

    @property
    def goes_on(self) -> bool:
        """Whether a further token follows the next one, chosen alike, unless that is a stop."""
        return self.left > 1 and self.request.sampling.repetition_penalty == 1.0

    def accept(self, output: StepOutput, times_us: tuple[int, ...]) -> Token:
        """Count a chosen token; return it with its place, its times and whether it is the last."""
        if output.sampled is None:
            raise ValueError("a token was asked for and none was chosen")
        return self._count(output.sampled, times_us)

    def plan_window(self, draft: Sequence[int]) -> tuple[SampleRequest, ...]:
        """Say how to choose the next token, and the one after each token of a draft.

        It ends where the draft cannot go on: after a token that ends the answer, or that a grammar
        does not allow. Raises Refused as :meth:`next_sample` does.
        """
        requests = [self.next_sample()]
        sampling = self.request.sampling
        shaper = None if self.shaper is None else self.shaper.fork()
        seen, change = list(self.seen) if sampling.repetition_penalty != 1.0 else [], None
        for token_id in draft[: self.left - 1]:
            if token_id in sampling.stop_token_ids:
                break
            if shaper is not None:
                try:
                    shaper.note(token_id)
                    change = shaper.get_change()
                except Refused:
                    # The token is not chosen then, so this ends the window and not the answer.
                    break
            seen = [*seen, token_id]
            requests.append(SampleRequest(sampling, self.index + len(requests), seen, change))
        return tuple(requests)

    def accept_window(
        self, output: StepOutput, draft: Sequence[int], times_us: tuple[int, ...]
    ) -> tuple[Token, ...]:
        """Count a window's tokens up to the first that is not the drafted one, and return them.

        Each was chosen after the draft before it, so it is what would have come one by one. The
        times stand at the first.
        """
        tokens: list[Token] = []
        for place, chosen in enumerate(output.window):
            tokens.append(self._count(chosen, () if place else times_us))
            is_drafted = place < len(draft) and chosen.token_id == draft[place]
            if self.finish is not Finish.NOT_YET or not is_drafted:
                break
        return tuple(tokens)

    def _count(self, chosen: Token, times_us: tuple[int, ...]) -> Token:
        token_id, index = chosen.token_id, self.index
        self.index += 1
        self.seen.append(token_id)
        if self.shaper is not None:
            self.shaper.note(token_id)
        if self.receipt is not None:
            self.receipt.note_token(token_id)
        if token_id in self.request.sampling.stop_token_ids:
            self.finish = Finish.STOP
        elif self.index - self.request.first_index >= self.request.max_new_tokens:
            self.finish = Finish.LENGTH
        return Token(token_id, chosen.logprob, chosen.top_logprobs, index, self.finish, times_us)


class DraftingAlone:
    """Drafts for an answer at a single range. ``get_room`` says how many tokens may be drafted."""

    def __init__(
        self,
        session: EngineSession,
        drafter: Drafter,
        get_room: Callable[[], int],
        measures: ServingMeasures,
    ) -> None:
        self._session = session
        self._drafter = drafter
        self._get_room = get_room
        self._measures = measures
        self._has_begun = False

    def settle(self, tokens: Sequence[Token], draft: Sequence[int]) -> None:
        """Forget the wrong rows of a draft, also after the last token: the text may be kept."""
        if draft:
            self._session.rewind(self._session.length - len(draft) - 1 + len(tokens))
            self._measures.note_draft(len(draft), len(tokens) - 1)
        self._session.verified = self._session.length

    def make(
        self, tokens: Sequence[Token], draft: Sequence[int], output: StepOutput, left: int
    ) -> tuple[int, ...]:
        """Note the tokens that a step gave; return the next draft."""
        token_ids = [token.token_id for token in tokens]
        if not self._has_begun:
            self._has_begun = True
            self._drafter.begin(token_ids[0])
        else:
            self._drafter.note(token_ids, drafted=len(draft), elapsed_s=output.elapsed_us / 1e6)
        return self._drafter.draft(min(left - 1, self._get_room()))


class AnswerAlone:
    """An answer at the only range: every token leaves from the compute thread, which goes on.

    Nothing waits for a slow reader: the tokens of an answer are few bytes. With ``drafting`` a step
    may be a window (mesh/inference/windows.py).
    """

    def __init__(
        self,
        answer: AnswerState,
        send: Callable[[bytes], None],
        clock: TokenClock,
        drafting: DraftingAlone | None = None,
    ) -> None:
        self._answer = answer
        self._clock = clock
        self._send = send
        self._drafting = drafting
        self._draft: tuple[int, ...] = ()
        self._failure: MeshError | None = None
        self._is_stopped = False

    def stop(self) -> None:
        """Submit no step after the token that is being computed. From any thread."""
        self._is_stopped = True

    def follow(self, output: StepOutput) -> StepInput | None:
        """Send a step's tokens; return the step after them, if they were not the last."""
        tokens = self._accept(output)
        if self._drafting is not None:
            self._drafting.settle(tokens, self._draft)
        for token in tokens:
            self._clock.note_token()
            try:
                self._send(encode_token(token))
            except MeshError as error:
                self._failure = error
                return None
        if self._answer.finish is not Finish.NOT_YET or self._is_stopped:
            return None
        token_id = tokens[-1].token_id
        if self._drafting is not None:
            self._draft = self._drafting.make(tokens, self._draft, output, self._answer.left)
        if self._draft:
            return StepInput(
                1 + len(self._draft),
                token_ids=(token_id, *self._draft),
                window=self._answer.plan_window(self._draft),
                follow=self.follow,
            )
        return StepInput(
            1,
            token_ids=(token_id,),
            sample=self._answer.next_sample(),
            follow=self.follow,
            goes_on=self._answer.goes_on,
        )

    def _accept(self, output: StepOutput) -> tuple[Token, ...]:
        times_us = (output.elapsed_us, output.elapsed_us)
        if not self._draft:
            return (self._answer.accept(output, times_us),)
        return self._answer.accept_window(output, self._draft, times_us)

    def check(self) -> None:
        """Raise the error that sending raised, if any."""
        if self._failure is not None:
            raise self._failure
