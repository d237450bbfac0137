"""The versioned store: history, rollback, deletion."""

from __future__ import annotations

import pytest

from devchain import storage
from devchain.state import ABSENT, State


def test_old_blocks_keep_what_they_held() -> None:
    state = State()
    for block in (1, 2, 5):
        state.begin_block(block)
        state.put(storage.SUBNET_SLOT, 9, value=block)
    state.begin_block(6)
    state.remove(storage.SUBNET_SLOT, 9)
    found = [state.at(block).find(storage.SUBNET_SLOT, 9) for block in range(8)]
    assert found == [None, 1, 2, 2, 2, 5, None, None]
    assert list(state.at(4).items(storage.SUBNET_SLOT)) == [((9,), 2)]
    assert list(state.items(storage.SUBNET_SLOT)) == []


def test_rollback_restores_replaced_new_and_deleted_entries() -> None:
    state = State()
    state.put(storage.SUBNET_SLOT, 1, value=3)
    state.begin_block(1)
    state.put(storage.SUBNET_SLOT, 2, value=4)
    mark = state.mark()
    state.put(storage.SUBNET_SLOT, 2, value=40)
    state.put(storage.SUBNET_SLOT, 3, value=5)
    state.remove(storage.SUBNET_SLOT, 1)
    state.rollback(mark)
    assert [value for _, value in state.items(storage.SUBNET_SLOT)] == [3, 4]
    assert list(state.changes()) == [(storage.SUBNET_SLOT, (2,), 4)]


def test_a_deletion_is_a_change() -> None:
    state = State()
    state.put(storage.SUBNET_SLOT, 1, value=3)
    state.begin_block(1)
    assert state.take(storage.SUBNET_SLOT, 1) == 3
    assert list(state.changes()) == [(storage.SUBNET_SLOT, (1,), ABSENT)]


def test_items_without_a_default_have_none() -> None:
    state = State()
    assert state.get(storage.CHURN_LIMIT, 7) == 4
    with pytest.raises(KeyError, match="SubnetSlot"):
        state.get(storage.SUBNET_SLOT, 7)


def test_counters_saturate_at_zero() -> None:
    state = State()
    state.add(storage.TOTAL_NODES, amount=-5)
    assert state.get(storage.TOTAL_NODES) == 0
