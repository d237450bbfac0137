"""A runtime that lacks what a node uses is refused with the names of all of it."""

from __future__ import annotations

from typing import cast

import pytest

from subnet.chain.codec import ChainRuntime
from subnet.chain.interface import REQUIRED_CALLS, REQUIRED_STORAGE, check_interface
from subnet.errors import ChainMismatch


class FakeRuntime:
    """Declares names, as metadata does."""

    def __init__(self, *, storage: set[str]) -> None:
        self._storage = storage

    def has_storage(self, pallet: str, item: str) -> bool:
        return f"{pallet}.{item}" in self._storage

    def has_call(self, pallet: str, name: str) -> bool:
        return f"{pallet}.{name}" in REQUIRED_CALLS


def check(*, without: set[str]) -> None:
    runtime = FakeRuntime(storage={*REQUIRED_STORAGE} - without)
    check_interface(cast(ChainRuntime, runtime), url="ws://somewhere")


def test_a_runtime_with_all_of_it_passes() -> None:
    check(without=set())


def test_everything_that_a_runtime_lacks_is_named_at_once() -> None:
    with pytest.raises(ChainMismatch, match=r"lacks Timestamp\.Now, Network\.SubnetSlot"):
        check(without={"Network.SubnetSlot", "Timestamp.Now"})


def test_a_runtime_that_gives_hotkeys_to_validators_is_refused() -> None:
    with pytest.raises(ChainMismatch, match=r"lacks Network\.HotkeyOwner"):
        check(without={"Network.HotkeyOwner", "Network.HotkeySubnetNodeId"})
