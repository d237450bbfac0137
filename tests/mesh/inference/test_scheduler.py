"""Policy without tensors: turns, priority."""

from __future__ import annotations

import pytest

from mesh.inference.refusals import Refused
from mesh.inference.scheduler import QueuedStep, Scheduler
from mesh.model.config import LayerSpan

ALL = LayerSpan(0, 6)


def work(session, rows=1, *, span=ALL, priority=0, peer=None):
    return QueuedStep(session, span, rows, priority, session, peer)


def taken(scheduler):
    return [item.payload for item in scheduler.take_batch()]


def test_long_prompts_and_decodes_take_turns():
    scheduler = Scheduler(max_batch_rows=8)
    for session in (1, 2, 3):
        scheduler.add(work(session, rows=64))
    for session in (4, 5):
        scheduler.add(work(session))
    assert scheduler.waiting_count == 5
    assert [taken(scheduler) for _ in range(5)] == [[1], [4, 5], [2], [3], []]
    assert scheduler.waiting_count == 0


def test_decode_rows_of_one_range_are_batched_up_to_the_limit():
    scheduler = Scheduler(max_batch_rows=3)
    for session in range(5):
        scheduler.add(work(session, span=ALL if session != 1 else LayerSpan(2, 4)))
    assert taken(scheduler) == [0, 2, 3]
    assert taken(scheduler) == [1]
    assert taken(scheduler) == [4]


def test_higher_priority_goes_first_and_equals_in_order_of_arrival():
    scheduler = Scheduler(max_batch_rows=1)
    for session, priority in ((1, 0), (2, 5), (3, 0), (4, 5)):
        scheduler.add(work(session, priority=priority))
    assert [taken(scheduler) for _ in range(4)] == [[2], [4], [1], [3]]


def test_challenges_are_taken_in_order_and_bounded(monkeypatch):
    monkeypatch.setattr("mesh.inference.scheduler.MAX_PENDING_CHALLENGES", 2)
    scheduler = Scheduler(max_batch_rows=1)
    scheduler.add_challenge("a")
    scheduler.add_challenge("b")
    with pytest.raises(Refused, match="busy"):
        scheduler.add_challenge("c")
    assert [scheduler.take_challenge() for _ in range(3)] == ["a", "b", None]


def test_a_session_computes_one_step_after_the_other():
    scheduler = Scheduler(max_batch_rows=4)
    scheduler.add(work(1))
    with pytest.raises(ValueError, match="one step"):
        scheduler.add(work(1))
    assert scheduler.discard(1) == (1,)
    assert taken(scheduler) == []


def test_prompts_share_a_step_up_to_its_rows_and_sessions():
    scheduler = Scheduler(max_batch_rows=3, max_prompt_rows=100)
    for session, rows in ((1, 40), (2, 64), (3, 60), (4, 500), (5, 2), (6, 2), (7, 2), (8, 2)):
        scheduler.add(work(session, rows=rows))
    scheduler.add(work(9, rows=2, span=LayerSpan(2, 4)))
    assert [taken(scheduler) for _ in range(6)] == [[1, 3], [2, 5, 6], [4], [7, 8], [9], []]


def test_prompts_of_different_peers_take_turns():
    scheduler = Scheduler(max_batch_rows=8)
    for session in range(4):
        scheduler.add(work(session, rows=9, peer="a"))
    for session in range(4, 6):
        scheduler.add(work(session, rows=9, peer="b"))
    assert [taken(scheduler) for _ in range(3)] == [[0], [4], [1]]
    scheduler.add(work(0, rows=9, peer="a"))
    # One that comes back, and one of another priority.
    scheduler.add(work(7, rows=9, peer="c"))
    scheduler.add(work(8, rows=9, peer="a", priority=1))
    assert [taken(scheduler) for _ in range(6)] == [[8], [7], [5], [2], [3], [0]]


def test_a_step_of_many_prompts_is_divided_between_peers():
    scheduler = Scheduler(max_batch_rows=8, max_prompt_rows=40)
    for session in range(6):
        scheduler.add(work(session, rows=10, peer="a"))
    for session in (6, 7):
        scheduler.add(work(session, rows=10, peer="b"))
    assert taken(scheduler) == [0, 6, 1, 7]


def test_the_peers_whose_turn_is_known_are_bounded(monkeypatch):
    monkeypatch.setattr("mesh.inference.scheduler.MAX_REMEMBERED_PEERS", 3)
    scheduler = Scheduler(max_batch_rows=8)
    for session in range(9):
        scheduler.add(work(session, rows=9, peer=str(session)))
        assert taken(scheduler) == [session]
    assert len(scheduler._turns) == 3


def test_windows_are_batched_with_decode_rows_up_to_the_limit():
    scheduler = Scheduler(max_batch_rows=8)
    for session, rows in ((1, 4), (2, 1), (3, 4), (4, 16), (5, 1)):
        scheduler.add(QueuedStep(session, ALL, rows, 0, session, is_window=True))
    assert [taken(scheduler) for _ in range(4)] == [[1, 2], [3], [4], [5]]


def test_rows_that_were_sent_ahead_are_batched_and_hold_no_batch():
    scheduler = Scheduler(max_batch_rows=8)
    scheduler.add(QueuedStep(1, ALL, 3, 0, 1, is_window=True, is_ahead=True))
    assert scheduler.waiting_decodes == () and not scheduler.is_turn_waiting
    scheduler.add(work(2))
    assert scheduler.is_turn_waiting
    assert scheduler.waiting_decodes == (2,)
    assert taken(scheduler) == [1, 2]
