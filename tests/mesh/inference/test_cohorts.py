"""Who is awaited before a batch starts: companions that are due, for a moment, and none in vain."""

from __future__ import annotations

import pytest

from mesh.inference.cohorts import MISSED_STEPS, WAIT_SHARE, Cohorts

INTERVAL_S = 0.1
MOMENT_S = WAIT_SHARE * INTERVAL_S


def beat(cohorts, times_by_session):
    """Note the steps of all sessions in the order of their times."""
    steps = [(at, session) for session, times in times_by_session.items() for at in times]
    for at, session in sorted(steps):
        cohorts.note_step(session, at)


def test_a_session_that_is_alone_waits_for_none():
    cohorts = Cohorts()
    for number in range(10):
        at = number * INTERVAL_S
        cohorts.note_step(1, at)
        assert cohorts.hold_until([1], at) == at


def test_a_companion_that_is_due_is_awaited_for_a_moment():
    cohorts = Cohorts()
    beat(cohorts, {1: [0.0, 0.1], 2: [0.01, 0.11]})
    cohorts.note_step(1, 0.2)
    assert cohorts.hold_until([1], 0.2) == pytest.approx(0.2 + MOMENT_S)
    cohorts.note_step(2, 0.21)
    assert cohorts.hold_until([1, 2], 0.21) == 0.21


def test_a_companion_of_the_opposite_phase_is_not_awaited():
    cohorts = Cohorts()
    beat(cohorts, {1: [0.0, 0.1], 2: [0.05, 0.15]})
    cohorts.note_step(1, 0.2)
    assert cohorts.hold_until([1], 0.2) == 0.2


def test_a_companion_that_comes_late_on_purpose_is_left_alone_for_a_while():
    cohorts = Cohorts()
    beat(cohorts, {1: [0.0, 0.1], 2: [0.01, 0.11]})
    cohorts.note_step(1, 0.2)
    until_s = cohorts.hold_until([1], 0.2)
    assert until_s > 0.2 and cohorts.hold_until([1], until_s) == until_s
    cohorts.note_step(2, 0.2 + MOMENT_S + 0.001)
    held = 0
    for number in range(3, 2 + MISSED_STEPS):
        at = number * INTERVAL_S
        cohorts.note_step(1, at)
        held += cohorts.hold_until([1], at) > at
        cohorts.note_step(2, at + MOMENT_S + 0.001)
    assert held == 0


def test_a_session_that_never_comes_back_slows_one_step():
    cohorts = Cohorts()
    beat(cohorts, {1: [0.0, 0.1], 2: [0.01, 0.11]})
    held = 0
    for number in range(2, 50):
        at = number * INTERVAL_S
        cohorts.note_step(1, at)
        until_s = cohorts.hold_until([1], at)
        held += until_s > at
        cohorts.hold_until([1], until_s)
    assert held == 1


def test_no_session_waits_for_one_that_ended_or_is_new():
    cohorts = Cohorts()
    beat(cohorts, {1: [0.0, 0.1], 2: [0.01, 0.11]})
    cohorts.forget(2)
    cohorts.note_step(3, 0.15)
    cohorts.note_step(1, 0.2)
    assert cohorts.hold_until([1], 0.2) == 0.2


def test_a_new_session_does_not_wait():
    cohorts = Cohorts()
    beat(cohorts, {1: [0.0, 0.1], 2: [0.01, 0.11]})
    cohorts.note_step(3, 0.2)
    assert cohorts.hold_until([3], 0.2) == 0.2


def test_an_empty_queue_is_not_held():
    assert Cohorts().hold_until([], 5.0) == 5.0


def test_a_prompt_that_goes_first_makes_no_companion_late():
    cohorts = Cohorts()
    beat(cohorts, {1: [0.0, 0.1], 2: [0.01, 0.11]})
    cohorts.note_step(1, 0.2)
    assert cohorts.hold_until([1], 0.2) > 0.2
    assert cohorts.hold_until([], 0.201) == 0.201
    beat(cohorts, {2: [0.21], 1: [0.3]})
    assert cohorts.hold_until([1], 0.3) > 0.3
