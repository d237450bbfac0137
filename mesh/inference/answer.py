"""What the range that chooses tokens knows of an answer, and how it gets ahead of its reader."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from mesh.inference.engine import StepInput, StepOutput
from mesh.inference.sampler import Sampled, SampleRequest
from mesh.inference.wire import Finish, OpenSession, TokenFrame

MAX_TOKENS_AHEAD = 4
"""Tokens that may wait at the only range for the client."""


@dataclass(slots=True)
class Answer:
    """What the last range knows of the answer: its length so far, and what a penalty counts."""

    request: OpenSession
    index: int = field(init=False)
    seen: list[int] = field(init=False)
    finish: Finish = Finish.NOT_YET

    def __post_init__(self) -> None:
        self.index = self.request.first_index
        self.seen = list(self.request.token_ids)

    def next_sample(self) -> SampleRequest:
        """Say how to choose the next token."""
        return SampleRequest(self.request.sampling, self.index, self.seen)

    def accept(self, output: StepOutput, times_us: tuple[int, ...]) -> TokenFrame:
        """Count a chosen token and say whether it ends the answer."""
        sampled = _get_sampled(output)
        index = self.index
        self.index += 1
        self.seen.append(sampled.token_id)
        if sampled.token_id in self.request.sampling.stop_token_ids:
            self.finish = Finish.STOP
        elif self.index - self.request.first_index >= self.request.max_new_tokens:
            self.finish = Finish.LENGTH
        return TokenFrame(
            index, sampled.token_id, sampled.logprob, self.finish, sampled.top, times_us
        )


class AnswerAhead:
    """An answer at the only range: the compute thread goes on while its tokens are being told.

    ``follow`` runs on that thread while a step is in flight, everything else on the event loop.
    """

    def __init__(
        self, answer: Answer, submit: Callable[[StepInput], asyncio.Future[StepOutput]]
    ) -> None:
        self._answer = answer
        self._submit = submit
        self._loop = asyncio.get_running_loop()
        self._tokens: deque[TokenFrame] = deque()
        self._news = asyncio.Event()
        self._paused: StepInput | None = None
        self._failure: BaseException | None = None

    def start(self, output: StepOutput) -> None:
        """Take the prompt's output and compute on, if that was not the last token."""
        step = self.follow(output)
        if step is not None:
            self._go_on(step)

    def follow(self, output: StepOutput) -> StepInput | None:
        """Note a token; return the step after it unless too many wait to be told."""
        token = self._answer.accept(output, (output.elapsed_us, output.elapsed_us))
        step = None
        if token.finish is Finish.NOT_YET:
            sample = self._answer.next_sample()
            step = StepInput(1, token_ids=(token.token_id,), sample=sample, follow=self.follow)
        if len(self._tokens) + 1 >= MAX_TOKENS_AHEAD:
            # Before the token is there, so that whoever takes it finds the step too.
            self._paused, step = step, None
        self._tokens.append(token)
        self._loop.call_soon_threadsafe(self._news.set)
        return step

    async def take(self) -> TokenFrame:
        """Return the next token. Raises Refused when it could not be computed."""
        while not self._tokens:
            if self._failure is not None:
                raise self._failure
            self._news.clear()
            await self._news.wait()
        token = self._tokens.popleft()
        if self._paused is not None:
            step, self._paused = self._paused, None
            self._go_on(step)
        return token

    def _go_on(self, step: StepInput) -> None:
        self._submit(step).add_done_callback(self._note_end)

    def _note_end(self, future: asyncio.Future[StepOutput]) -> None:
        if not future.cancelled():
            self._failure = future.exception()
        self._news.set()


def _get_sampled(output: StepOutput) -> Sampled:
    if output.sampled is None:
        raise ValueError("a token was asked for and none was chosen")
    return output.sampled
