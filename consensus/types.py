"""The basic types of the protocol.

``NewType`` costs nothing at run time and keeps an epoch from being passed as a block.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import NewType

Epoch = NewType("Epoch", int)
"""A subnet epoch: the pallet counts them per subnet, shifted by the subnet's slot."""
BlockNumber = NewType("BlockNumber", int)
SubnetId = NewType("SubnetId", int)
SubnetNodeId = NewType("SubnetNodeId", int)
Score = NewType("Score", int)
"""Fixed point: 10**18 is 1.0."""

SCORE_ONE = 10**18


class Role(Enum):
    """What a node does beside scoring and attesting."""

    HOSTER = "hoster"
    VALIDATOR = "validator"


class NodeClass(IntEnum):
    """SubnetNodeClass of the pallet, in its encoding order."""

    REGISTERED = 0
    IDLE = 1
    INCLUDED = 2
    VALIDATOR = 3


@dataclass(frozen=True, order=True, slots=True)
class LayerRange:
    """Half-open range of transformer layers, ``[start, end)``."""

    start: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end:
            raise ValueError(
                f"a block range is half-open and not empty: [{self.start}, {self.end})"
            )

    def __contains__(self, layer: int) -> bool:
        return self.start <= layer < self.end

    def __len__(self) -> int:
        return self.end - self.start

    def __str__(self) -> str:
        return f"{self.start}:{self.end}"


@dataclass(frozen=True, slots=True)
class EpochPosition:
    """Where a block stands in its subnet epoch.

    ``offset`` is in ``[0, length)``; ``first_block`` is the epoch's first block.
    """

    epoch: Epoch
    offset: int
    length: int
    first_block: BlockNumber

    @property
    def block(self) -> BlockNumber:
        return BlockNumber(self.first_block + self.offset)


def compute_epoch_position(block: BlockNumber, *, slot: int, epoch_length: int) -> EpochPosition:
    """Return the subnet epoch of ``block``.

    ``(block - slot) // EpochLength`` as in the pallet; blocks before the slot
    belong to epoch 0, whose first block is the slot block.
    """
    epoch = max(0, (block - slot) // epoch_length)
    first_block = epoch * epoch_length + slot
    return EpochPosition(
        Epoch(epoch), max(0, block - first_block), epoch_length, BlockNumber(first_block)
    )
