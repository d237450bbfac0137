"""An answer of a single range: complete, in order, and over when its reader is gone."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from keys.peer import PeerKey
from mesh.errors import StreamBroken
from mesh.inference.answer import AnswerAlone, AnswerState
from mesh.inference.measures import ServingMeasures, TokenClock
from mesh.inference.sampling import Sampling
from mesh.inference.steps import StepOutput
from mesh.inference.tokens import Finish, Token
from mesh.inference.wire import OpenSession, decode_token
from mesh.model.config import LayerSpan
from mesh.routing.hop import Hop

WANTED = 20


def make_output(token_id):
    return StepOutput(None, Token(token_id, -0.5), (), 100)


def make_answer():
    route = (Hop(PeerKey(b"\1" * 32).peer_id, LayerSpan(0, 6)),)
    return AnswerState(OpenSession(bytes(16), route, Sampling(), (1, 2, 3), WANTED))


def run_to_the_end(alone):
    """Do as the compute thread: step after step until none follows."""
    tokens = itertools.count(1000)
    steps = 0
    while True:
        steps += 1
        step = alone.follow(make_output(next(tokens)))
        if step is None:
            return steps
        assert step.sample.index == steps


def test_every_token_leaves_in_order_and_the_last_ends_the_answer():
    frames = []
    measures = ServingMeasures()
    alone = AnswerAlone(make_answer(), frames.append, TokenClock(measures))
    assert run_to_the_end(alone) == WANTED
    alone.check()
    tokens = [decode_token(frame) for frame in frames]
    assert [token.token_id for token in tokens] == [1000 + i for i in range(WANTED)]
    assert [token.index for token in tokens] == list(range(WANTED))
    assert {token.finish for token in tokens[:-1]} == {Finish.NOT_YET}
    assert tokens[-1].finish is Finish.LENGTH
    assert sum(measures.first_token.read().counts) == 1
    assert sum(measures.between_tokens.read().counts) == WANTED - 1


@pytest.mark.parametrize("penalty", [1.0, 1.5])
def test_a_step_promises_another_one_unless_it_is_the_last_or_needs_the_text(penalty):
    answer = make_answer()
    answer.request = replace(answer.request, sampling=Sampling(repetition_penalty=penalty))
    alone = AnswerAlone(answer, lambda frame: None, TokenClock(ServingMeasures()))
    promised = []
    while (step := alone.follow(make_output(1000))) is not None:
        promised.append(step.goes_on)
    assert promised == [penalty == 1.0] * (WANTED - 2) + [False]


def test_a_reader_that_has_gone_ends_the_answer():
    sent = []

    def send(frame):
        if len(sent) == 3:
            raise StreamBroken(PeerKey(b"\2" * 32).peer_id, "it left")
        sent.append(frame)

    alone = AnswerAlone(make_answer(), send, TokenClock(ServingMeasures()))
    assert run_to_the_end(alone) == 4
    with pytest.raises(StreamBroken):
        alone.check()
