"""Attesting a proposal: the same rows, at least one; attested by two thirds."""

import pytest

from consensus.attestation import (
    check_proposal,
    check_queue_arguments,
    compute_attestation_ratio,
    is_agreed,
)
from consensus.errors import ProposalMismatch
from consensus.submission import Submission

ROWS = ((1, 10), (2, 0), (5, 10**18))


def test_equal_rows_are_attested_in_any_order():
    check_proposal(ROWS, ROWS)
    check_proposal(ROWS, ROWS[::-1])
    check_proposal(ROWS, list(ROWS))


@pytest.mark.parametrize(
    ("proposed", "difference"),
    [
        (((1, 11), (2, 0), (5, 9)), "node 1: proposed 11, computed 10"),
        (((1, 10), (5, 10**18)), "node 2: proposed no row, computed 0"),
        ((*ROWS, (3, 7)), "node 3: proposed 7, computed no row"),
        ((*ROWS, (6, 0)), "node 6: proposed 0, computed no row"),
        ((*ROWS, (1, 10)), "twice"),
        ((), "empty"),
    ],
)
def test_refusal_names_the_first_difference(proposed, difference):
    with pytest.raises(ProposalMismatch, match=difference):
        check_proposal(ROWS, proposed)


def test_two_empty_lists_attest_nothing():
    with pytest.raises(ProposalMismatch, match="empty"):
        check_proposal((), ())


def make_submission(*, attested=(1,), voters=(1, 2, 3), **changes):
    return Submission(1, 101, ROWS, frozenset(attested), None, frozenset(voters), **changes)


@pytest.mark.parametrize("name", ["prioritize_queue_node_id", "remove_queue_node_id"])
@pytest.mark.parametrize("node_id", [0, 7])
def test_a_proposal_that_names_a_queued_node_is_refused_and_the_argument_named(name, node_id):
    check_queue_arguments(make_submission())
    with pytest.raises(ProposalMismatch, match=f"{name}: proposed node {node_id}"):
        check_queue_arguments(make_submission(**{name: node_id}))


@pytest.mark.parametrize(
    ("num_attested", "num_voters", "ratio"),
    [
        (0, 0, 0),
        (1, 0, 0),
        (2, 3, 666_666_666_666_666_666),
        (3, 3, 10**18),
        (4, 3, 10**18),
        (33, 50, 66 * 10**16),
    ],
)
def test_the_ratio_is_the_chains_own_rounded_down(num_attested, num_voters, ratio):
    submission = make_submission(attested=range(num_attested), voters=range(num_voters))
    assert compute_attestation_ratio(submission) == ratio
    assert is_agreed(submission, min_attestation=ratio)
    assert not is_agreed(submission, min_attestation=ratio + 1)


def test_voters_are_those_of_the_proposal_and_not_those_that_left_before_it():
    assert is_agreed(
        make_submission(attested=(1, 2), voters=(1, 2, 3)), min_attestation=66 * 10**16
    )
    assert not is_agreed(
        make_submission(attested=(1, 2), voters=(1, 2, 3, 4)), min_attestation=66 * 10**16
    )
