"""An answer that computes ahead of its reader: bounded, complete, in order."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

from keys.peer import PeerKey
from mesh.inference.answer import MAX_TOKENS_AHEAD, Answer, AnswerAhead
from mesh.inference.engine import StepOutput
from mesh.inference.refusals import RefusalReason, Refused
from mesh.inference.sampler import Sampled
from mesh.inference.sampling import Sampling
from mesh.inference.wire import Finish, Hop, OpenSession
from mesh.model.config import BlockSpan

WANTED = 20


def make_output(token_id):
    return StepOutput(None, Sampled(token_id, -0.5), (), 100)


def make_answer():
    route = (Hop(PeerKey(b"\1" * 32).peer_id, BlockSpan(0, 6)),)
    return Answer(OpenSession(bytes(16), route, Sampling(), (1, 2, 3), WANTED))


class Thread:
    """Stands for the engine: runs what it is given, as far as it goes, on a thread."""

    def __init__(self, executor):
        self._loop = asyncio.get_running_loop()
        self._executor = executor
        self.longest = 0
        self.computed = 0

    def submit(self, step):
        return self._loop.run_in_executor(self._executor, self._run, step)

    def _run(self, step):
        steps = 0
        while step is not None:
            steps += 1
            self.computed += 1
            output = make_output(1000 + self.computed)
            step = step.follow(output)
        self.longest = max(self.longest, steps)
        return output


async def test_a_slow_reader_stops_the_thread_and_loses_nothing():
    with ThreadPoolExecutor(1) as executor:
        thread = Thread(executor)
        ahead = AnswerAhead(make_answer(), thread.submit)
        ahead.start(make_output(1000))
        tokens = []
        while not tokens or tokens[-1].finish is Finish.NOT_YET:
            tokens.append(await ahead.take())
            # Until the thread has gone as far as it may.
            await asyncio.wrap_future(executor.submit(int))
            assert thread.computed <= len(tokens) + MAX_TOKENS_AHEAD
    assert [token.token_id for token in tokens] == [1000 + i for i in range(WANTED)]
    assert [token.index for token in tokens] == list(range(WANTED))
    assert tokens[-1].finish is Finish.LENGTH
    assert thread.longest <= MAX_TOKENS_AHEAD


async def test_a_failure_reaches_the_reader_after_the_tokens_before_it():
    def refuse(step):
        future = asyncio.get_running_loop().create_future()
        future.set_exception(Refused(RefusalReason.FAILED, "broken"))
        return future

    ahead = AnswerAhead(make_answer(), refuse)
    ahead.start(make_output(7))
    assert (await ahead.take()).token_id == 7
    with pytest.raises(Refused, match="broken"):
        await ahead.take()
