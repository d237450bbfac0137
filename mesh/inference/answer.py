"""The state of an answer at the range that chooses tokens, and an answer at a single range."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from mesh.errors import MeshError
from mesh.inference.measures import TokenClock
from mesh.inference.receipts import RunningReceipt
from mesh.inference.sampler import SampleRequest
from mesh.inference.shaping import LogitShaper
from mesh.inference.steps import StepInput, StepOutput
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
    def goes_on(self) -> bool:
        """Whether a further token follows the next one, chosen alike, unless that is a stop."""
        left = self.request.max_new_tokens - (self.index - self.request.first_index)
        return left > 1 and self.request.sampling.repetition_penalty == 1.0

    def accept(self, output: StepOutput, times_us: tuple[int, ...]) -> Token:
        """Count a chosen token; return it with its place, its times and whether it is the last."""
        chosen = output.sampled
        if chosen is None:
            raise ValueError("a token was asked for and none was chosen")
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


class AnswerAlone:
    """An answer at the only range: every token leaves from the compute thread, which goes on.

    Nothing waits for a slow reader: the tokens of an answer are few bytes.
    """

    def __init__(
        self, answer: AnswerState, send: Callable[[bytes], None], clock: TokenClock
    ) -> None:
        self._answer = answer
        self._clock = clock
        self._send = send
        self._failure: MeshError | None = None
        self._is_stopped = False

    def stop(self) -> None:
        """Submit no step after the token that is being computed. From any thread."""
        self._is_stopped = True

    def follow(self, output: StepOutput) -> StepInput | None:
        """Send a token; return the step after it, if it was not the last."""
        token = self._answer.accept(output, (output.elapsed_us, output.elapsed_us))
        self._clock.note_token()
        try:
            self._send(encode_token(token))
        except MeshError as error:
            self._failure = error
            return None
        if token.finish is not Finish.NOT_YET or self._is_stopped:
            return None
        return StepInput(
            1,
            token_ids=(token.token_id,),
            sample=self._answer.next_sample(),
            follow=self.follow,
            goes_on=self._answer.goes_on,
        )

    def check(self) -> None:
        """Raise the error that sending raised, if any."""
        if self._failure is not None:
            raise self._failure
