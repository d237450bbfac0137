"""Where a block stands in its epoch, and what tells one network from another."""

from __future__ import annotations

import hashlib

import pytest

from consensus.roster import compute_network_id
from consensus.types import BlockNumber, SubnetId, compute_epoch_position


@pytest.mark.parametrize(
    ("block", "epoch", "offset", "first_block"),
    [(0, 0, 0, 3), (3, 0, 0, 3), (22, 0, 19, 3), (23, 1, 0, 23), (40, 1, 17, 23), (43, 2, 0, 43)],
)
def test_epochs_are_shifted_by_the_subnets_slot(
    block: int, epoch: int, offset: int, first_block: int
) -> None:
    position = compute_epoch_position(BlockNumber(block), slot=3, epoch_length=20)
    assert (position.epoch, position.offset, position.first_block) == (epoch, offset, first_block)


def test_a_network_is_one_chain_one_subnet_and_one_model() -> None:
    genesis, manifest = bytes([1]) * 32, bytes([2]) * 32
    expected = hashlib.sha256(b"mesh/net" + genesis + b"\x07\x00\x00\x00" + manifest).digest()
    assert compute_network_id(genesis, SubnetId(7), manifest) == expected
