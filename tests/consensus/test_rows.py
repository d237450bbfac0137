"""The proposal lists who joins, leaves out only a silent Validator and who is refuted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.roster import Roster, RosterNode
from consensus.rows import compute_rows, drop_departed
from consensus.types import NodeClass

REGISTERED, IDLE, INCLUDED, VALIDATOR = NodeClass
SCORE = 7


def make_roster(epoch, classes, *, start_epoch=0):
    nodes = tuple(
        RosterNode(node_id, None, b"c" * 20, b"h" * 20, node_class, start_epoch)
        for node_id, node_class in sorted(classes.items())
        if node_class is not None
    )
    return Roster(epoch, 100 * epoch, bytes(32), 0, nodes)


def compute_row(before, after, *, is_present, is_left_out=False):
    """Return the score of node 5 beside one Validator; None without a row."""
    rows = compute_rows(
        make_roster(8, {1: VALIDATOR, 5: before}),
        make_roster(9, {1: VALIDATOR, 5: after}),
        present={1, 5} if is_present else {1},
        left_out={5} if is_left_out else set(),
        scores={1: 10, 5: SCORE},
    )
    found = dict(rows)
    assert found.pop(1) == 10
    return found.get(5)


@pytest.mark.parametrize(
    ("before", "after", "present", "absent"),
    [
        # before, after: its class in the scored epoch, and in the one that proposes.
        (VALIDATOR, VALIDATOR, SCORE, None),
        (INCLUDED, VALIDATOR, SCORE, 0),
        (INCLUDED, INCLUDED, SCORE, 0),
        (IDLE, INCLUDED, 0, 0),
        (REGISTERED, INCLUDED, 0, 0),
        (None, INCLUDED, 0, 0),
        (None, VALIDATOR, 0, 0),
        (IDLE, IDLE, None, None),
        (IDLE, REGISTERED, None, None),
        (None, IDLE, None, None),
        (VALIDATOR, None, None, None),
        (INCLUDED, None, None, None),
    ],
)
def test_only_a_silent_validator_has_no_row(before, after, present, absent):
    assert compute_row(before, after, is_present=True) == present
    assert compute_row(before, after, is_present=False) == absent
    for is_present in (True, False):
        assert compute_row(before, after, is_present=is_present, is_left_out=True) is None


def test_a_class_that_begins_later_does_not_count_yet():
    before = make_roster(8, {5: INCLUDED}, start_epoch=9)
    after = make_roster(9, {5: VALIDATOR}, start_epoch=10)
    arguments = {"present": {5}, "left_out": (), "scores": {5: SCORE}}
    assert compute_rows(before, after, **arguments) == ()
    after = make_roster(9, {5: VALIDATOR}, start_epoch=9)
    assert compute_rows(before, after, **arguments) == ((5, 0),)


def test_where_nothing_was_scored_every_node_has_a_row_with_0():
    roster = make_roster(9, {3: VALIDATOR, 1: VALIDATOR, 2: INCLUDED, 4: IDLE})
    rows = compute_rows(roster, roster, present={1, 2, 3, 4}, left_out=(), scores={})
    assert rows == ((1, 0), (2, 0), (3, 0))


CLASSES = st.dictionaries(st.integers(1, 9), st.sampled_from(NodeClass))
IDS = st.frozensets(st.integers(1, 9))


@given(CLASSES, CLASSES, IDS, IDS, st.dictionaries(st.integers(1, 9), st.integers(0, 99)))
def test_rows_are_sorted_unique_and_of_nodes_that_the_chain_takes(
    before, after, present, left_out, scores
):
    rows = compute_rows(
        make_roster(8, before),
        make_roster(9, after),
        present=present,
        left_out=left_out,
        scores=scores,
    )
    ids = [node_id for node_id, _ in rows]
    assert ids == sorted(set(ids))
    for node_id, score in rows:
        assert after[node_id] >= INCLUDED and node_id not in left_out
        assert score == 0 or (score == scores[node_id] and node_id in present)
    included = {n for n, node_class in after.items() if node_class == INCLUDED}
    assert included - left_out <= set(ids)


def test_the_row_of_a_node_that_left_before_the_proposal_is_dropped():
    rows = ((1, 10), (2, 20), (3, 30))
    assert drop_departed(rows, proposed=rows[:2], listed={1, 2}) == rows[:2]
    # Node 2 left in the proposal's block, after the proposal.
    assert drop_departed(rows, proposed=rows[:2], listed={1}) == rows[:2]
    # A proposer that leaves out a node that is there is still found out.
    assert drop_departed(rows, proposed=rows[:2], listed={1, 2, 3}) == rows
