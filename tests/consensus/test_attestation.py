"""Attesting a proposal: the same rows, and at least one."""

import hashlib
import struct

import pytest

from consensus.attestation import check_proposal, compute_proposal_hash, is_proposal_equal
from consensus.errors import ProposalMismatch

ROWS = ((1, 10), (2, 0), (5, 10**18))


def test_proposal_hash_written_out():
    rows = b"".join(struct.pack("<IQQ", node, score, 0) for node, score in ROWS)
    assert compute_proposal_hash(ROWS) == hashlib.sha256(b"mesh/proposal" + rows).digest()


def test_unsorted_rows_have_no_hash():
    with pytest.raises(ValueError):
        compute_proposal_hash(ROWS[::-1])


def test_equal_rows_are_attested_in_any_order():
    check_proposal(ROWS, ROWS)
    check_proposal(ROWS, ROWS[::-1])
    assert is_proposal_equal(ROWS, list(ROWS))


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
    assert not is_proposal_equal(ROWS, proposed)
    with pytest.raises(ProposalMismatch, match=difference):
        check_proposal(ROWS, proposed)


def test_two_empty_lists_attest_nothing():
    assert not is_proposal_equal((), ())
