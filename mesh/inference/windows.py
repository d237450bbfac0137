"""Speculative decoding: several tokens in one pass over the ranges; the answer stays the same.

Theory of operation
===================

**Draft.** The first range knows the prompt and every token so far. It looks up what may come next
(mesh/inference/drafting.py) and sends the rows of the last token and of the draft together: a
*window* (WINDOW, mesh/inference/window_wire.py). All ranges compute its rows as decode rows.

**Verify.** The last range chooses a token after each row, by the same rule as without a draft. The
rule depends on the tokens before: which of them a penalty counts, where a grammar is, which draw it
is. For each row these are the answer so far and the draft up to there. If the token chosen after a
row is the drafted one, the next row has been computed of the right text, and its token counts too.
The first one that differs counts still; what was chosen after it does not. So a window gives from
one token to all of its rows, and each is the one that would have come alone. The last range answers
with all of them in one frame (TOKENS).

**Forget.** What follows the last right row is forgotten: keys and values stay where they are, the
length goes back, and the next rows overwrite them. The last range does so when it has chosen. The
first one does when the tokens arrive, the others when the next step does, by its position. No
range goes back into the prompt, whose pages other sessions may share.

::

    first  --WINDOW at 40: t d1 d2 d3-->  middle  --WINDOW at 40-->  last: chooses d1 d2 x -
    first  <------------------------- TOKENS d1 d2 x --------------------  length 43
    length 43                             length 44
    first  --WINDOW at 43: x e1 e2 ---->  middle: length 43  ------>  ...

**Several windows under way.** Over slow links a window's way is what is waited for. So the first
range sends the next ones before it is verified, where drafts are often right as a whole:
mesh/inference/rounds.py says how the ranges forget them where they are not.

**What can fail.** A draft is only a guess, so a wrong one costs time alone. A window longer than
agreed, a drafted token outside the vocabulary, or a position that is not within the last window
ends the session as any frame that makes no sense. Tokens that do not continue the draft as the last
range says are refused by the first range, which blames it.
"""

from __future__ import annotations

from collections.abc import Sequence

from mesh.inference.answer import AnswerState
from mesh.inference.flight_wire import decode_ahead, encode_verified
from mesh.inference.refusals import check_vocabulary
from mesh.inference.sampler import SampleRequest
from mesh.inference.steps import EngineSession, StepOutput
from mesh.inference.tokens import Token
from mesh.inference.window_wire import decode_window, encode_tokens
from mesh.inference.wire import FrameType, OpenSession, StepFrame, decode_step, encode_token
from mesh.model.config import ModelConfig

WINDOW_TYPE = bytes((FrameType.WINDOW,))


def decode_arrival(frame: bytes, request: OpenSession, config: ModelConfig) -> StepFrame:
    """Parse a STEP or, where the session has windows, a WINDOW. Raises Refused."""
    if frame[:1] != WINDOW_TYPE:
        return decode_step(frame, hidden_size=config.hidden_size)
    step = decode_window(frame, hidden_size=config.hidden_size, most=request.window)
    check_vocabulary(step.draft, config)
    return step


def decode_ahead_arrival(frame: bytes, request: OpenSession, config: ModelConfig) -> StepFrame:
    """Parse a window of a session that has several under way. Raises Refused."""
    step = decode_ahead(frame, hidden_size=config.hidden_size, most=request.window)
    first = () if step.lead is None else (step.lead.token_id,)
    check_vocabulary((*first, *step.draft), config)
    return step


def forget_draft(request: OpenSession, session: EngineSession, position: int) -> None:
    """At a middle range, go back to where the next step begins, if that is within a window.

    The last range has gone back already, when it verified the window.
    """
    if request.is_last or not request.window:
        return
    earliest = max(len(request.token_ids), session.length - request.window + 1)
    if earliest <= position < session.length:
        session.rewind(position)


def plan_step(answer: AnswerState, step: StepFrame) -> Sequence[SampleRequest]:
    """Say how to choose the tokens after a step at the last range. Raises Refused."""
    return answer.plan_window(step.draft) if step.draft else (answer.next_sample(),)


def take_step(
    answer: AnswerState, session: EngineSession, step: StepFrame, output: StepOutput
) -> tuple[Token, ...]:
    """Count the tokens that a step gave; forget the rows of a draft that turned out wrong."""
    times_us = (*step.times_us, output.elapsed_us)
    if not step.draft:
        return (answer.accept(output, times_us),)
    tokens = answer.accept_window(output, step.draft, times_us)
    session.rewind(step.position + len(tokens))
    return tokens


def encode_answer(request: OpenSession, step: StepFrame, tokens: Sequence[Token]) -> bytes:
    """Encode what a step gave, as the session's first range expects it."""
    if request.in_flight:
        return encode_verified(0 if step.lead is None else step.lead.round, tokens)
    return encode_tokens(tokens) if request.window else encode_token(tokens[0])
