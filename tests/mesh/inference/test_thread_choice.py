"""Decode steps are computed by the number of threads that is fastest now."""

from __future__ import annotations

from random import Random

import pytest

from mesh.inference.thread_choice import (
    COMPARED_PAIRS,
    FIRST_PAUSE,
    MAX_PAUSE,
    ThreadChoice,
    list_candidates,
)


def run(choice, steps, take_s, *, rows=1):
    """Compute steps that take ``take_s(threads)``; return the threads of each."""
    found = []
    for _ in range(steps):
        threads = choice.choose(rows)
        choice.note(rows, take_s(threads))
        found.append(threads)
    return found


def share(found, threads):
    return found.count(threads) / len(found)


@pytest.mark.parametrize(
    ("most", "numbers"),
    [(1, (1,)), (2, (1, 2)), (3, (1, 2, 3)), (6, (1, 2, 4, 5, 6)), (8, (1, 2, 4, 7, 8))],
)
def test_powers_of_two_and_one_less_than_all_are_tried(most, numbers):
    assert list_candidates(most) == numbers


def test_one_thread_is_never_tried_against_another():
    assert set(run(ThreadChoice(1), 500, lambda _: 1.0)) == {1}


def test_all_threads_stay_where_they_are_faster():
    found = run(ThreadChoice(2), 1000, lambda threads: 1.0 / threads)
    assert found[0] == 2 and share(found, 2) > 0.98


def test_fewer_threads_are_taken_where_others_use_the_cores():
    """A comparison costs one step of each number where the difference is clear."""
    found = run(ThreadChoice(2), 1000, lambda threads: 5.0 if threads == 2 else 1.0)
    assert found[:4] == [2, 1, 2, 1] and share(found, 1) > 0.99


def test_the_best_of_many_is_found_step_by_step():
    times = {1: 8.0, 2: 4.2, 4: 2.5, 7: 1.9, 8: 3.0}
    found = run(ThreadChoice(8), 2000, times.__getitem__)
    assert share(found[100:], 7) > 0.95


def test_a_neighbour_that_comes_is_noticed_after_two_slow_steps():
    choice = ThreadChoice(2)
    run(choice, 300, lambda threads: 1.0 / threads)
    found = run(choice, 100, lambda threads: 5.0 if threads == 2 else 1.0)
    assert found.count(2) <= 5 and choice.threads == 1


def test_a_neighbour_that_leaves_is_noticed_by_the_next_comparison():
    choice = ThreadChoice(2)
    run(choice, 5000, lambda threads: 5.0 if threads == 2 else 1.0)
    run(choice, MAX_PAUSE + 2 * COMPARED_PAIRS, lambda threads: 1.0 / threads)
    assert choice.threads == 2


def test_comparisons_become_rare_where_nothing_changes():
    found = run(ThreadChoice(2), 20_000, lambda threads: 5.0 if threads == 2 else 1.0)
    assert found[-10_000:].count(2) <= 5


def test_noise_does_not_make_a_comparison_of_every_step():
    random = Random(3)
    found = run(ThreadChoice(2), 5000, lambda threads: random.uniform(0.9, 1.1) / threads**0.5)
    assert share(found, 2) > 0.97


def test_one_slow_step_changes_nothing():
    choice = ThreadChoice(2)
    run(choice, 50, lambda threads: 1.0 / threads)
    run(choice, 1, lambda _: 30.0)
    assert run(choice, 5, lambda threads: 1.0 / threads) == [2] * 5


def test_steps_of_other_numbers_of_rows_are_not_compared():
    """Eight rows take longer than one, which is no neighbour's doing."""
    choice = ThreadChoice(2)
    for _ in range(40):
        run(choice, 2, lambda threads: 1.0 / threads, rows=1)
        run(choice, 2, lambda threads: 8.0 / threads, rows=8)
    found = run(choice, FIRST_PAUSE, lambda threads: 8.0 / threads, rows=8)
    assert share(found, 2) > 0.9


def test_numbers_of_rows_that_change_with_every_step_are_compared_all_the_same():
    choice = ThreadChoice(2)
    found = [
        run(choice, 1, lambda t: 5.0 if t == 2 else 1.0, rows=1 + i % 7)[0] for i in range(2000)
    ]
    assert share(found, 1) > 0.9


def test_a_neighbour_is_noticed_though_the_numbers_of_rows_change():
    choice = ThreadChoice(2)
    for i in range(200):
        run(choice, 1, lambda threads: 1.0 / threads, rows=1 + i % 7)
    found = [
        run(choice, 1, lambda t: 5.0 if t == 2 else 1.0, rows=1 + i % 7)[0] for i in range(100)
    ]
    assert found.count(2) <= 20 and choice.threads == 1
