"""A world in memory for the node's core: a chain that advances by hand, records, inference.

Small second implementations behind the production interfaces, not mocks: each keeps the
rules that the node relies on.
"""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from consensus.protocol_params import MINIMAL
from consensus.roster import RosterNode
from consensus.submission import Submission
from consensus.types import (
    BlockNumber,
    Epoch,
    EpochPosition,
    LayerRange,
    NodeClass,
    Score,
    SubnetId,
    SubnetNodeId,
    compute_epoch_position,
)
from mesh.errors import RecordRefused
from mesh.p2p.interface import RecordPolicy
from subnet.epoch.interfaces import BlockInfo, ChainInfo, ExtrinsicReceipt, LayerTask, SubnetInfo
from subnet.errors import ChainUnavailable, ExtrinsicFailed

SUBNET_ID = SubnetId(1)
GENESIS = b"g" * 32
Vector = NDArray[np.float32]
START_S = 1_700_000_000
MIN_ATTESTATION = 66 * 10**16


@dataclass
class FakeChain:
    """The few rules of the pallet that the core depends on. Blocks come from ``advance``.

    ``elect`` names the validator of an epoch, None for an epoch without election.
    """

    nodes: tuple[RosterNode, ...]
    elect: Callable[[int], int | None] | None = None
    epoch_length: int = 20
    slot: int = 0
    finality_lag: int = 2
    block_time_s: int = 6
    height: int = 0
    is_down: bool = False
    submissions: dict[int, Submission] = field(default_factory=dict)
    attestation_blocks: dict[tuple[int, int], int] = field(default_factory=dict)
    """The block of each (epoch, node id) that attested; the proposer's is the submission's."""
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def advance(self) -> int:
        """Make one block and wake whoever waits for heads."""
        self.height += 1
        news, self._news = self._news, asyncio.Event()
        news.set()
        return self.height

    @property
    def position(self) -> EpochPosition:
        return compute_epoch_position(
            BlockNumber(self.height), slot=self.slot, epoch_length=self.epoch_length
        )

    def get_block(self, number: int) -> BlockInfo:
        block_hash = hashlib.sha256(b"block" + number.to_bytes(4, "little")).digest()
        return BlockInfo(BlockNumber(number), block_hash, START_S + number * self.block_time_s)

    def get_elected(self, epoch: int) -> int | None:
        if self.elect is None:
            return self.nodes[epoch % len(self.nodes)].node_id
        return self.elect(epoch)

    def get_submission(self, epoch: int, *, at_block: int | None = None) -> Submission | None:
        """Return the epoch's submission as it was when ``at_block`` ended, now by default."""
        submission = self.submissions.get(epoch)
        if submission is None or at_block is None:
            return submission
        if submission.block > at_block:
            return None
        attested = frozenset(
            node_id
            for node_id in submission.attested
            if self.attestation_blocks.get((epoch, node_id), submission.block) <= at_block
        )
        return replace(submission, attested=attested)

    async def wait(self) -> None:
        await self._news.wait()


class FakeReader:
    """Satisfies ChainReader."""

    def __init__(self, chain: FakeChain) -> None:
        self._chain = chain

    async def fetch_info(self) -> ChainInfo:
        return ChainInfo(GENESIS, self._chain.epoch_length)

    async def heads(self) -> AsyncGenerator[BlockInfo, None]:
        while True:
            self._check_up()
            yield self._chain.get_block(self._chain.height)
            await self._chain.wait()

    async def fetch_finalised_number(self) -> BlockNumber:
        self._check_up()
        return BlockNumber(max(0, self._chain.height - self._chain.finality_lag))

    async def fetch_block(self, number: BlockNumber) -> BlockInfo:
        self._check_up()
        return self._chain.get_block(number)

    async def fetch_subnet(
        self, subnet_id: SubnetId, *, at_block: BlockNumber | None = None
    ) -> SubnetInfo:
        self._check_up()
        return SubnetInfo(subnet_id, "fake", True, self._chain.slot, 0, "")

    async def fetch_nodes(
        self, subnet_id: SubnetId, *, at_block: BlockNumber | None = None
    ) -> tuple[RosterNode, ...]:
        self._check_up()
        return self._chain.nodes

    async def fetch_elected_validator(
        self, subnet_id: SubnetId, epoch: Epoch
    ) -> SubnetNodeId | None:
        self._check_up()
        elected = self._chain.get_elected(epoch) if epoch <= self._chain.position.epoch else None
        return None if elected is None else SubnetNodeId(elected)

    async def fetch_submission(
        self, subnet_id: SubnetId, epoch: Epoch, *, at_block: BlockNumber | None = None
    ) -> Submission | None:
        self._check_up()
        return self._chain.get_submission(epoch, at_block=at_block)

    async def fetch_min_attestation_percent(self, *, at_block: BlockNumber | None = None) -> int:
        self._check_up()
        return MIN_ATTESTATION

    def _check_up(self) -> None:
        if self._chain.is_down:
            raise ChainUnavailable("the chain is down")


class FakeWriter:
    """Satisfies ChainWriter for one node. ``sent`` counts what was asked of it."""

    def __init__(self, chain: FakeChain, node_id: int) -> None:
        self._chain = chain
        self._node_id = SubnetNodeId(node_id)
        self.sent: list[tuple[str, int]] = []

    async def propose(
        self, subnet_id: SubnetId, scores: Sequence[tuple[SubnetNodeId, Score]], args: bytes | None
    ) -> ExtrinsicReceipt:
        epoch = self._send("propose")
        if self._chain.get_elected(epoch) != self._node_id:
            raise ExtrinsicFailed("InvalidValidator")
        if epoch in self._chain.submissions:
            raise ExtrinsicFailed("SubnetRewardsAlreadySubmitted")
        self._chain.submissions[epoch] = Submission(
            self._node_id,
            BlockNumber(self._chain.height),
            tuple(sorted(scores)),
            frozenset({self._node_id}),
            args,
            voters=frozenset(
                node.node_id
                for node in self._chain.nodes
                if node.has_class(NodeClass.VALIDATOR, epoch)
            ),
        )
        return self._receipt()

    async def attest(self, subnet_id: SubnetId) -> ExtrinsicReceipt:
        epoch = self._send("attest")
        submission = self._chain.submissions.get(epoch)
        if submission is None:
            raise ExtrinsicFailed("InvalidSubnetConsensusSubmission")
        if self._node_id in submission.attested:
            raise ExtrinsicFailed("AlreadyAttested")
        self._chain.submissions[epoch] = replace(
            submission, attested=submission.attested | {self._node_id}
        )
        self._chain.attestation_blocks[epoch, self._node_id] = self._chain.height
        return self._receipt()

    def _send(self, call: str) -> Epoch:
        if self._chain.is_down:
            raise ChainUnavailable("the chain is down")
        epoch = self._chain.position.epoch
        self.sent.append((call, epoch))
        return epoch

    def _receipt(self) -> ExtrinsicReceipt:
        block = self._chain.get_block(self._chain.height)
        return ExtrinsicReceipt(b"x" * 32, block.block_hash, block.number)


@dataclass
class FakeNetwork:
    """Values that every node of the network can read: write-once, as hivemind is here.

    ``refuse`` may name keys that nobody stores.
    """

    values: dict[bytes, bytes] = field(default_factory=dict)
    refuse: Callable[[bytes], bool] | None = None
    published: list[tuple[bytes, bytes]] = field(default_factory=list)


class FakeRecordStore:
    """Satisfies RecordStore: one node's access to the network, guarded by its record policy."""

    def __init__(self, network: FakeNetwork, policy: RecordPolicy) -> None:
        self._network = network
        self._policy = policy

    async def publish(self, key: bytes, value: bytes, expires_at: int) -> bool:
        if self._policy.admit(value, float(expires_at)) != key:
            raise RecordRefused("wrong_key")
        self._network.published.append((key, value))
        if self._network.refuse is not None and self._network.refuse(key):
            return False
        return self._network.values.setdefault(key, value) == value

    async def fetch(self, keys: Collection[bytes], *, timeout_s: float) -> dict[bytes, bytes]:
        values = self._network.values
        return {key: values[key] for key in keys if key in values}


class FakeInference:
    """Satisfies Inference: a fixed function of the input, plus this machine's own noise.

    ``noise`` is relative to the output's norm; honest machines differ by some 1e-6.
    """

    def __init__(self, layers: LayerRange, *, seed: int = 0, noise: float = 1e-6) -> None:
        self.layers = layers
        self._random = np.random.default_rng(seed)
        self._noise = noise
        self.runs = 0

    async def run_tasks(self, tasks: Sequence[LayerTask]) -> tuple[Vector, ...]:
        self.runs += 1
        return tuple(self._run(task) for task in tasks)

    def _run(self, task: LayerTask) -> Vector:
        output: Vector = task.hidden[-1] + np.float32(task.layer)
        if task.token_ids is not None:
            output = output + np.float32(task.token_ids.sum() % 7)
        if task.head_rows is not None:
            output = np.sin(task.head_rows.astype(np.float32)) + output[0]
        noise = self._random.standard_normal(len(output)).astype(np.float32)
        scale = self._noise * np.linalg.norm(output) / max(1.0, float(np.linalg.norm(noise)))
        return (output + noise * np.float32(scale)).astype(np.float32)


PARAMS = MINIMAL
