"""What the last range asks for and takes of a window, without a model."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mesh.inference.answer import AnswerState
from mesh.inference.grammar import Grammar, GrammarKind
from mesh.inference.grammar_compiler import GrammarCompiler, Vocabulary
from mesh.inference.sampling import Sampling
from mesh.inference.shaping import LogitShaper
from mesh.inference.steps import StepOutput
from mesh.inference.tokens import Finish, Token
from tests.mesh.inference.test_shaped_wire import REQUEST

STOP = 9
TOKENS = [b"a", b"b", b"c", b"<end>"]


def make_answer(sampling=None, *, shaper=None, left=20):
    sampling = sampling or Sampling(stop_token_ids=(STOP,))
    request = replace(REQUEST, sampling=sampling, max_new_tokens=left, first_index=0)
    return AnswerState(request, shaper)


def make_output(*token_ids):
    chosen = tuple(Token(token_id, -0.5) for token_id in token_ids)
    return StepOutput(None, None, (), 100, window=chosen)


def test_each_row_is_asked_for_what_its_place_in_the_answer_asks():
    answer = make_answer(Sampling(seed=3, temperature=1.0, repetition_penalty=1.5))
    requests = answer.plan_window((4, 5))
    assert [request.index for request in requests] == [0, 1, 2]
    assert [list(request.seen) for request in requests] == [
        [5, 6, 7],
        [5, 6, 7, 4],
        [5, 6, 7, 4, 5],
    ]
    assert answer.index == 0 and answer.seen == [5, 6, 7]


def test_a_window_counts_up_to_the_first_token_that_was_not_drafted():
    answer = make_answer()
    tokens = answer.accept_window(make_output(4, 5, 7, 8), (4, 5, 6), (10,))
    assert [token.token_id for token in tokens] == [4, 5, 7]
    assert [token.index for token in tokens] == [0, 1, 2]
    assert [token.times_us for token in tokens] == [(10,), (), ()]
    assert answer.seen[-3:] == [4, 5, 7] and answer.finish is Finish.NOT_YET


def test_a_window_of_right_drafts_gives_one_token_more():
    tokens = make_answer().accept_window(make_output(4, 5, 8), (4, 5), ())
    assert [token.token_id for token in tokens] == [4, 5, 8]


def test_a_window_ends_with_a_stop_token_and_with_the_answers_length():
    answer = make_answer()
    assert len(answer.plan_window((4, STOP, 6))) == 2
    tokens = answer.accept_window(make_output(4, STOP), (4, STOP, 6), ())
    assert [token.finish for token in tokens] == [Finish.NOT_YET, Finish.STOP]
    short = make_answer(left=2)
    assert len(short.plan_window((4, 5, 6))) == 2
    tokens = short.accept_window(make_output(4, 5), (4, 5, 6), ())
    assert [token.finish for token in tokens] == [Finish.NOT_YET, Finish.LENGTH]


def test_penalties_and_the_first_stop_of_a_row_are_those_of_its_place():
    sampling = Sampling(
        stop_token_ids=(STOP,), min_tokens=2, frequency_penalty=0.5, logit_bias=((4, 1.0),)
    )
    answer = make_answer(sampling, shaper=LogitShaper(sampling))
    changes = [request.change for request in answer.plan_window((4, 4))]
    amounts = [dict(zip(c.token_ids, c.amounts, strict=True)) for c in changes]
    assert amounts == [{4: 1.0}, {4: 0.5}, {4: 0.0}]
    assert [change.banned for change in changes] == [(STOP,), (STOP,), ()]


@pytest.fixture
def matcher():
    compiler = GrammarCompiler(lambda: Vocabulary(TOKENS, (3,), (3,)), vocab_size=len(TOKENS))
    return compiler.start_now(Grammar(GrammarKind.REGEX, "ab*c"))


def list_allowed(request):
    mask = int(request.change.mask[0])
    return [token_id for token_id in range(len(TOKENS)) if mask >> token_id & 1]


def test_a_grammar_is_followed_along_the_draft_and_ends_it(matcher):
    sampling = Sampling(stop_token_ids=(3,), grammar=Grammar(GrammarKind.REGEX, "ab*c"))
    answer = make_answer(sampling, shaper=LogitShaper(sampling, matcher))
    requests = answer.plan_window((0, 1, 2))
    assert [list_allowed(request) for request in requests] == [[0], [1, 2], [1, 2], [3]]
    # Its own place has not moved: what is not allowed there ends a window.
    assert [list_allowed(request) for request in answer.plan_window((1, 1))] == [[0]]
    assert [list_allowed(request) for request in answer.plan_window((0, 0, 1))] == [[0], [1, 2]]
    tokens = answer.accept_window(make_output(0, 2), (0, 0, 1), ())
    assert [token.token_id for token in tokens] == [0, 2]
    assert [list_allowed(request) for request in answer.plan_window((1,))] == [[3]]
