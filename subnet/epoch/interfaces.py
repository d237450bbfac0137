"""The protocols through which the epoch loop reaches chain, record store and model.

The Substrate client, the peer-to-peer host, the engine and the simulator satisfy them; the
contract tests in tests/contract run against each.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from consensus.roster import RosterNode
from consensus.submission import Submission
from consensus.types import BlockNumber, Epoch, LayerRange, Score, SubnetId, SubnetNodeId
from keys.peer import PeerId
from subnet.receipts.evidence import EpochEvidence


@dataclass(frozen=True, slots=True)
class ChainInfo:
    """What does not change while a runtime runs."""

    genesis_hash: bytes
    epoch_length: int


@dataclass(frozen=True, slots=True)
class BlockInfo:
    """One block: its number, hash and the whole seconds of its timestamp."""

    number: BlockNumber
    block_hash: bytes
    timestamp_s: int


@dataclass(frozen=True, slots=True)
class SubnetInfo:
    """One subnet as the chain describes it.

    ``slot`` is the offset of its epochs in the general epoch; ``start_epoch`` is a general epoch;
    ``misc`` may hold ``mesh-manifest:<hex>``.
    """

    subnet_id: SubnetId
    name: str
    is_active: bool
    slot: int | None
    start_epoch: int
    misc: str


@dataclass(frozen=True, slots=True)
class ExtrinsicReceipt:
    """Where an extrinsic landed."""

    extrinsic_hash: bytes
    block_hash: bytes
    block_number: BlockNumber


class ChainReader(Protocol):
    """Reading the chain. Every method may raise ChainUnavailable, which is retried.

    ``at_block`` asks for the state in which that block left the chain, which endpoints keep for
    some hundred blocks at least; ChainUnavailable for a block that they do not know yet or no more.
    """

    async def fetch_info(self) -> ChainInfo: ...

    def heads(self) -> AsyncGenerator[BlockInfo, None]:
        """Yield each new best block, starting with the present one; skips are allowed."""
        ...

    async def fetch_finalised_number(self) -> BlockNumber: ...

    async def fetch_block(self, number: BlockNumber) -> BlockInfo: ...

    async def fetch_subnet(
        self, subnet_id: SubnetId, *, at_block: BlockNumber | None = None
    ) -> SubnetInfo | None: ...

    async def fetch_nodes(
        self, subnet_id: SubnetId, *, at_block: BlockNumber | None = None
    ) -> tuple[RosterNode, ...]:
        """Return the subnet's activated nodes, sorted by id, as of that block."""
        ...

    async def fetch_elected_validator(
        self, subnet_id: SubnetId, epoch: Epoch
    ) -> SubnetNodeId | None: ...

    async def fetch_submission(
        self, subnet_id: SubnetId, epoch: Epoch, *, at_block: BlockNumber | None = None
    ) -> Submission | None:
        """Return the epoch's proposal and the attestations that it had when ``at_block`` ended.

        None means the best block. Every node that asks for a finalised block gets one answer.
        """
        ...

    async def fetch_min_attestation_percent(self, *, at_block: BlockNumber | None = None) -> int:
        """Return the share of voters that must attest a proposal: fixed point, 10**18 is one."""
        ...


class ChainWriter(Protocol):
    """Signing with one hotkey. Raises ChainUnavailable or ExtrinsicFailed(reason)."""

    async def propose(
        self, subnet_id: SubnetId, scores: Sequence[tuple[SubnetNodeId, Score]], args: bytes | None
    ) -> ExtrinsicReceipt: ...

    async def attest(self, subnet_id: SubnetId) -> ExtrinsicReceipt: ...


@dataclass(frozen=True, slots=True)
class LayerTask:
    """One layer's challenge, ready to run.

    ``hidden`` is float32 [positions, hidden_size]. ``token_ids`` (layer 0 only) are added as
    embedding rows; ``head_rows`` (the number after the last layer only) are the logit rows wanted.
    """

    layer: int
    hidden: NDArray[np.float32]
    token_ids: NDArray[np.int64] | None = None
    head_rows: NDArray[np.int64] | None = None


class LayerRunner(Protocol):
    """Running challenged layers."""

    async def run_tasks(self, tasks: Sequence[LayerTask]) -> tuple[NDArray[np.float32], ...]:
        """Answer each task alone in float32.

        The vector has hidden_size values, or one logit for each of ``head_rows``.
        """
        ...


class Inference(LayerRunner, Protocol):
    """Running challenged layers with the weights that this node serves."""

    @property
    def layers(self) -> LayerRange: ...


class RecordStore(Protocol):
    """The replicated record map; satisfied by mesh.p2p. Raises TransportError, which is retried."""

    async def publish(self, key: bytes, value: bytes, expires_at: int) -> bool: ...

    async def fetch(self, keys: Sequence[bytes], *, timeout_s: float) -> Mapping[bytes, bytes]: ...


class PeerRecords(Protocol):
    """Records by their hash, straight from one peer; satisfied by mesh.p2p."""

    async def fetch_by_hash(
        self, peer: PeerId, hashes: Sequence[bytes], *, timeout_s: float
    ) -> Sequence[bytes]:
        """Return the envelopes that ``peer`` has of those with these 16-byte hashes.

        Raises PeerError.
        """
        ...


class ReceiptSink(Protocol):
    """Keeps what the scores of an epoch are made from. Never raises: it is for people."""

    def is_settled(self, epoch: Epoch) -> bool:
        """Whether the epoch was kept after its proposal was settled."""
        ...

    def write(self, evidence: EpochEvidence) -> None: ...
