"""Attesting a proposal: the same rows, at least one; attested by two thirds."""

import pytest

from consensus.attestation import check_proposal, is_attested
from consensus.errors import ProposalMismatch
from consensus.protocol_params import MAINNET
from consensus.roster import Roster, RosterNode
from consensus.submission import Submission
from consensus.types import NodeClass

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


@pytest.mark.parametrize(
    ("num_validators", "attested", "is_enough"),
    [
        (3, {1, 2}, True),
        (3, {1}, False),
        (4, {1, 2}, False),
        (4, {1, 2, 3}, True),
        (100, set(range(1, 67)), True),
        (100, set(range(1, 66)), False),
        (3, {1, 8, 9}, False),
    ],
)
def test_two_thirds_of_the_validators_attest_a_proposal(num_validators, attested, is_enough):
    nodes = [RosterNode(n, None, b"", b"", NodeClass.VALIDATOR, 0) for n in range(1, 101)]
    included = RosterNode(101, None, b"", b"", NodeClass.INCLUDED, 0)
    roster = Roster(5, 100, bytes(32), 0, (*nodes[:num_validators], included))
    submission = Submission(1, 101, ROWS, frozenset(attested), None)
    assert is_attested(submission, roster, MAINNET) is is_enough
