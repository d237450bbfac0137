"""The state, the present block and the events so far: what every rule reads and changes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from devchain import storage
from devchain.chain_types import ActivationMode, SubnetData
from devchain.errors import ensure
from devchain.events import Event
from devchain.state import State

DESIGNATED_EPOCH_SLOTS = 3
"""Offsets of a general epoch that belong to the network's own hooks."""
EPOCHS_PER_YEAR = 262_800
PALLET_ID = b"/network"
TREASURY_ACCOUNT = b"modlpy/trsry".ljust(20, b"\0")
BASE_FEE = 108_157_000
"""Units; one more for each byte of the extrinsic."""


@dataclass(frozen=True)
class LedgerConfig:
    """One chain. ``balances`` are units at genesis; ``parameters`` override plain u32/u128 items.

    ``seed`` decides the randomness of elections where the caller has no block hashes.
    """

    epoch_length: int = 20
    activation_mode: ActivationMode = ActivationMode.MANUAL
    activation_grace_epochs: int = 2
    activation_queue_epochs: int = 0
    """Manual mode: epochs added to the start epoch of a node that registers late."""
    existential_deposit: int = 500
    balances: Mapping[bytes, int] = field(default_factory=dict)
    parameters: Mapping[str, int] = field(default_factory=lambda: dict(storage.HOSKINSON_GENESIS))
    seed: bytes = b"devchain"

    def __post_init__(self) -> None:
        if self.epoch_length <= DESIGNATED_EPOCH_SLOTS:
            raise ValueError(f"an epoch has more than {DESIGNATED_EPOCH_SLOTS} blocks")


@dataclass
class Runtime:
    """The ledger's mutable part. A rule is a function that takes it first."""

    config: LedgerConfig
    state: State
    events: list[Event] = field(default_factory=list)

    @property
    def block(self) -> int:
        return self.state.block

    @property
    def general_epoch(self) -> int:
        return self.block // self.config.epoch_length

    def emit(self, event: Event) -> None:
        self.events.append(event)

    def subnet_epoch(self, subnet_id: int) -> int:
        """Return the subnet's current epoch; 0 before its first slot."""
        slot = self.state.find(storage.SUBNET_SLOT, subnet_id) or 0
        return max(0, self.block - slot) // self.config.epoch_length

    def subnet(self, subnet_id: int) -> SubnetData:
        """Return the subnet. Raises InvalidSubnetId."""
        subnet = self.state.find(storage.SUBNETS_DATA, subnet_id)
        ensure(subnet is not None, "InvalidSubnetId")
        assert subnet is not None
        return subnet

    def draw(self, count: int) -> int:
        """Return this block's random number below ``count``.

        Drawn from the parent's hash, so it is unknown until the parent is built.
        """
        subject = PALLET_ID + self.block.to_bytes(4, "little")
        parent = self.state.get(storage.PARENT_HASH)
        digest = hashlib.blake2b(subject + parent, digest_size=32).digest()
        return int.from_bytes(digest[:4], "little") % count
