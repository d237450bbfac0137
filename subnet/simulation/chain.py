"""The production ledger on a virtual clock, and the endpoints through which nodes see it.

Blocks come every six seconds, or later. Extrinsics wait in a pool for the next block. A fork may
replace blocks that are not final; their extrinsics are in the pool again. Each node reads through
an endpoint of its own, which answers after a while, may lag behind the best block, may miss
heads, and may be down.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random
from types import SimpleNamespace
from typing import Any

from consensus.roster import RosterNode
from consensus.submission import Submission
from consensus.types import BlockNumber, Epoch, Score, SubnetId, SubnetNodeId
from devchain import storage
from devchain.calls import (
    ActivateSubnet,
    ActivateSubnetNode,
    AddToDelegateStake,
    Attest,
    NetworkCall,
    OwnerUpdateMinSubnetNodeReputation,
    ProposeAttestation,
    RegisterSubnet,
    RegisterSubnetNode,
)
from devchain.chain_types import (
    TENSOR,
    ActivationMode,
    PeerInfo,
    RegistrationSubnetData,
    SubnetNodeConsensusData,
)
from devchain.errors import DispatchError
from devchain.ledger import Ledger
from devchain.runtime import LedgerConfig
from keys.peer import PeerId
from subnet.chain.substrate import check_args_size
from subnet.epoch.interfaces import BlockInfo, ChainInfo, ExtrinsicReceipt, SubnetInfo
from subnet.errors import ChainUnavailable, ExtrinsicFailed
from subnet.simulation.ledger_reads import (
    read_elected_validator,
    read_min_attestation_percent,
    read_nodes,
    read_submission,
    read_subnet,
)
from subnet.simulation.trace import RunTrace
from subnet.simulation.windows import EPOCH_LENGTH

SUBNET_ID = SubnetId(128_001)
BLOCK_TIME_S = 6
GENESIS_TIME_S = 1_700_000_000
FINALITY_LAG = 2
LIFETIMES = (4, 8, 16, 32, 64)
"""In how many blocks from its head on an extrinsic may land: the chain's mortal eras."""
SETUP_BLOCKS = 2
"""Blocks in which subnet and nodes are registered and activated before any node runs."""
DELEGATED = 1_000 * TENSOR
_STAKE = 100 * TENSOR


@dataclass(frozen=True)
class NodeAccount:
    """The keys of one node, as the chain knows them."""

    peer_id: PeerId
    coldkey: bytes
    hotkey: bytes


@dataclass(frozen=True)
class NodeState:
    """What the chain holds of a node: units at stake, and reputation at 10**18."""

    stake: int
    reputation: int


@dataclass
class _Pending:
    """An extrinsic in the pool, and who waits for what becomes of it."""

    origin: bytes
    call: NetworkCall
    last_block: int
    """No later block takes it."""
    outcome: asyncio.Future[BlockInfo]


class _Expired(Exception):
    """No block has taken an extrinsic in its lifetime."""


class SimChain:
    """One chain; ``produce`` builds the next block and lets endpoints know."""

    def __init__(
        self,
        accounts: Sequence[NodeAccount],
        *,
        seed: bytes,
        trace: RunTrace,
        epoch_length: int = EPOCH_LENGTH,
        num_founders: int | None = None,
        min_reputation: int | None = None,
    ) -> None:
        self.epoch_length = epoch_length
        self._seed = seed
        self._trace = trace
        self._pool: list[_Pending] = []
        self._included: dict[int, list[_Pending]] = {}
        self._num_forks = 0
        self.fork_depth = 0
        """How many of the newest blocks the next one replaces; at most FINALITY_LAG."""
        self.lost_percent = 0
        """How many extrinsics of replaced blocks the pool has forgotten."""
        self.slipped_s = 0
        """By how much slots without a block have delayed those to come."""
        self._headers: list[BlockInfo] = []
        self._watchers: list[Callable[[BlockInfo], None]] = []
        self._node_cache: dict[int, tuple[RosterNode, ...]] = {}
        self.ledger = open_ledger(accounts, epoch_length, mode=ActivationMode.AUTOMATIC)
        self._append_header(0)
        for number in range(1, SETUP_BLOCKS + 1):
            self._begin(number)
            if number == 1:
                found_subnet(self.ledger, accounts[:num_founders])
                delegate(self.ledger, accounts[0].coldkey)
                if min_reputation is not None:
                    call = OwnerUpdateMinSubnetNodeReputation(SUBNET_ID, min_reputation)
                    self.ledger.apply(accounts[0].coldkey, call)

    @property
    def best(self) -> BlockInfo:
        return self._headers[-1]

    @cached_property
    def slot(self) -> int:
        """The block of the subnet's first epoch; it stays when the chain removes the subnet.

        Colluders of a third who attest nothing lower the subnet until it is removed.
        """
        subnet = read_subnet(self.ledger, SUBNET_ID)
        assert subnet is not None and subnet.slot is not None
        return subnet.slot

    @property
    def num_waiting(self) -> int:
        """Extrinsics that wait for a block."""
        return len(self._pool)

    def get_header(self, number: int) -> BlockInfo:
        return self._headers[number]

    def view(self, block: int) -> Any:
        """The ledger as it was when ``block`` ended."""
        return SimpleNamespace(state=self.ledger.state.at(block))

    def read_nodes(self, block: int) -> tuple[RosterNode, ...]:
        if block not in self._node_cache:
            self._node_cache[block] = read_nodes(self.view(block), SUBNET_ID)
        return self._node_cache[block]

    def list_registered(self, block: int) -> frozenset[int]:
        """Return the ids of all nodes, active or waiting, in the state of a block."""
        state = self.ledger.state.at(block)
        items = (storage.SUBNET_NODES_DATA, storage.REGISTERED_SUBNET_NODES_DATA)
        return frozenset(node.id for item in items for _, node in state.items(item, SUBNET_ID))

    def read_node_states(self, block: int) -> dict[int, NodeState]:
        """Return stake and reputation of each activated node in the state of a block."""
        state = self.ledger.state.at(block)
        return {
            node.node_id: NodeState(
                state.get(storage.ACCOUNT_SUBNET_STAKE, node.hotkey, SUBNET_ID),
                state.get(storage.SUBNET_NODE_REPUTATION, SUBNET_ID, node.node_id),
            )
            for node in self.read_nodes(block)
        }

    def get_time_s(self, number: int) -> float:
        """Return when a block is or was due, on the chain's clock."""
        if number < len(self._headers):
            return float(self._headers[number].timestamp_s)
        return float(GENESIS_TIME_S + number * BLOCK_TIME_S + self.slipped_s)

    def read_submission(self, epoch: Epoch, *, at_block: int | None = None) -> Submission | None:
        block = None if at_block is None else BlockNumber(at_block)
        return read_submission(self.ledger, SUBNET_ID, epoch, at_block=block)

    def read_elected(self, epoch: Epoch) -> SubnetNodeId | None:
        return read_elected_validator(self.ledger, SUBNET_ID, epoch)

    def watch(self, tell: Callable[[BlockInfo], None]) -> None:
        """Call ``tell`` with each new best block from now on."""
        self._watchers.append(tell)

    def unwatch(self, tell: Callable[[BlockInfo], None]) -> None:
        self._watchers.remove(tell)

    def submit(self, origin: bytes, call: NetworkCall, *, head: int) -> asyncio.Future[BlockInfo]:
        """Put an extrinsic that was signed at ``head`` into the pool.

        As production signs it, its lifetime ends with the epoch of ``head``, if that has as many
        blocks left as the shortest lifetime. The future tells the block, or raises DispatchError.
        """
        outcome: asyncio.Future[BlockInfo] = asyncio.get_running_loop().create_future()
        left = self.epoch_length - (head - self.slot) % self.epoch_length
        lifetime = max(each for each in LIFETIMES if each <= max(left, LIFETIMES[0]))
        self._pool.append(_Pending(origin, call, head + lifetime - 1, outcome))
        return outcome

    def produce(self, random: Random) -> BlockInfo:
        """Build the next block from the pool, in an order of its own, on a fork if that is due."""
        number = self.best.number + 1
        random.shuffle(self._pool)
        if self.fork_depth:
            self._retract(self.fork_depth, random)
            self.fork_depth = 0
        while self.best.number < number:
            header = self._begin(self.best.number + 1)
            pool, self._pool = self._pool, []
            self._included[header.number] = pool
            for pending in pool:
                self._include(pending, header)
        self._included.pop(number - FINALITY_LAG, None)
        for tell in list(self._watchers):
            tell(self.best)
        return self.best

    def _retract(self, depth: int, random: Random) -> None:
        """Undo the newest blocks; what was in them comes before what waits, in its order."""
        assert depth <= FINALITY_LAG
        last = self.best.number - depth
        self._trace.add("chain", f"replaces the blocks after {last}")
        orphans = []
        for number in range(last + 1, self.best.number + 1):
            orphans += self._included.pop(number, [])
            self._node_cache.pop(number, None)
        kept = [each for each in orphans if 100 * random.random() >= self.lost_percent]
        self._pool[:0] = kept
        del self._headers[last + 1 :]
        self.ledger.state.rewind(last)
        self._num_forks += 1

    def _include(self, pending: _Pending, header: BlockInfo) -> None:
        name = type(pending.call).__name__
        if header.number > pending.last_block:
            self._trace.add("chain", f"{name} by {pending.origin[-1]} has expired")
            if not pending.outcome.done():
                pending.outcome.set_exception(_Expired())
                pending.outcome.exception()
            return
        try:
            self.ledger.apply(pending.origin, pending.call)
        except DispatchError as error:
            self._trace.add("chain", f"{name} by {pending.origin[-1]} fails: {error.name}")
            if not pending.outcome.done():
                pending.outcome.set_exception(error)
                pending.outcome.exception()
        else:
            self._trace.add("chain", f"{name} by {pending.origin[-1]} lands")
            if not pending.outcome.done():
                pending.outcome.set_result(header)

    def _begin(self, number: int) -> BlockInfo:
        parent = self._headers[number - 1].block_hash
        timestamp_s = int(self.get_time_s(number))
        self.ledger.begin_block(number, 1000 * timestamp_s, parent_hash=parent)
        return self._append_header(number)

    def _append_header(self, number: int) -> BlockInfo:
        fork = str(self._num_forks).encode() if self._num_forks else b""
        block_hash = hashlib.sha256(self._seed + number.to_bytes(4, "little") + fork).digest()
        header = BlockInfo(BlockNumber(number), block_hash, int(self.get_time_s(number)))
        self._headers.append(header)
        return header


@dataclass
class EndpointFaults:
    """What is wrong with one endpoint; changed while it runs."""

    latency_s: tuple[float, float] = (0.01, 0.3)
    lag_s: float = 0.0
    """New heads are told this much later."""
    miss_percent: int = 0
    """New heads that are never told."""
    is_down: bool = False
    """Every call fails and no head is told."""
    lose_receipts: bool = False
    """Extrinsics land, but the answer is an outage."""


class SimEndpoint:
    """Satisfies ChainReader and ChainWriter for one hotkey."""

    def __init__(self, chain: SimChain, *, hotkey: bytes, random: Random) -> None:
        self._chain = chain
        self._hotkey = hotkey
        self._random = random
        self.faults = EndpointFaults()
        self._best = chain.best
        chain.watch(self._hear)
        self._news: asyncio.Event = asyncio.Event()

    def close(self) -> None:
        self._chain.unwatch(self._hear)

    def _hear(self, header: BlockInfo) -> None:
        faults = self.faults
        if faults.is_down:
            return
        if faults.miss_percent and 100 * self._random.random() < faults.miss_percent:
            return
        delay_s = self._random.uniform(*self.faults.latency_s) + self.faults.lag_s
        asyncio.get_running_loop().call_later(delay_s, self._learn, header)

    def _learn(self, header: BlockInfo) -> None:
        if header.number > self._best.number and not self.faults.is_down:
            self._best = header
            self._news.set()

    async def heads(self) -> AsyncIterator[BlockInfo]:
        await self._delay()
        told = -1
        while True:
            if self._best.number > told:
                told = self._best.number
                yield self._best
                continue
            self._news.clear()
            await self._news.wait()

    async def fetch_info(self) -> ChainInfo:
        await self._delay()
        return ChainInfo(self._chain.get_header(0).block_hash, self._chain.epoch_length)

    async def fetch_finalised_number(self) -> BlockNumber:
        await self._delay()
        return BlockNumber(max(0, self._best.number - FINALITY_LAG))

    async def fetch_block(self, number: BlockNumber) -> BlockInfo:
        await self._delay()
        if number > self._best.number:
            raise ChainUnavailable(f"block {number} is not known here")
        return self._chain.get_header(number)

    async def fetch_subnet(
        self, subnet_id: SubnetId, *, at_block: BlockNumber | None = None
    ) -> SubnetInfo | None:
        await self._delay()
        return read_subnet(self._chain.view(self._get_block(at_block)), subnet_id)

    async def fetch_nodes(
        self, subnet_id: SubnetId, *, at_block: BlockNumber | None = None
    ) -> tuple[RosterNode, ...]:
        await self._delay()
        return self._chain.read_nodes(self._get_block(at_block))

    async def fetch_elected_validator(
        self, subnet_id: SubnetId, epoch: Epoch
    ) -> SubnetNodeId | None:
        await self._delay()
        return read_elected_validator(self._chain.view(self._best.number), subnet_id, epoch)

    async def fetch_submission(
        self, subnet_id: SubnetId, epoch: Epoch, *, at_block: BlockNumber | None = None
    ) -> Submission | None:
        await self._delay()
        return read_submission(self._chain.view(self._get_block(at_block)), subnet_id, epoch)

    async def fetch_min_attestation_percent(self, *, at_block: BlockNumber | None = None) -> int:
        await self._delay()
        return read_min_attestation_percent(self._chain.view(self._get_block(at_block)))

    async def propose(
        self, subnet_id: SubnetId, scores: Sequence[tuple[SubnetNodeId, Score]], args: bytes | None
    ) -> ExtrinsicReceipt:
        check_args_size(args)
        rows = tuple(SubnetNodeConsensusData(node_id, score) for node_id, score in scores)
        return await self._send(ProposeAttestation(subnet_id, rows, args=args))

    async def attest(self, subnet_id: SubnetId) -> ExtrinsicReceipt:
        return await self._send(Attest(subnet_id))

    async def _send(self, call: NetworkCall) -> ExtrinsicReceipt:
        await self._delay()
        try:
            block = await self._chain.submit(self._hotkey, call, head=self._best.number)
        except _Expired as error:
            raise ExtrinsicFailed("AncientBirthBlock") from error
        except DispatchError as error:
            await self._delay()
            raise ExtrinsicFailed(error.name) from error
        await self._delay()
        if self.faults.lose_receipts:
            raise ChainUnavailable("the connection broke before the receipt")
        digest = hashlib.sha256(self._hotkey + block.block_hash).digest()
        return ExtrinsicReceipt(digest, block.block_hash, block.number)

    async def _delay(self) -> None:
        await asyncio.sleep(self._random.uniform(*self.faults.latency_s))
        if self.faults.is_down:
            raise ChainUnavailable("the endpoint is down")

    def _get_block(self, at_block: BlockNumber | None) -> int:
        if at_block is not None and at_block > self._best.number:
            raise ChainUnavailable(f"block {at_block} is not known here")
        return self._best.number if at_block is None else at_block


def open_ledger(
    accounts: Sequence[NodeAccount],
    epoch_length: int = EPOCH_LENGTH,
    *,
    mode: ActivationMode = ActivationMode.MANUAL,
) -> Ledger:
    """Return a chain on which each account's coldkey has what it needs."""
    balances = {account.coldkey: 10_000 * TENSOR for account in accounts}
    config = LedgerConfig(epoch_length=epoch_length, balances=balances, activation_mode=mode)
    return Ledger(config)


def delegate(ledger: Ledger, coldkey: bytes) -> None:
    """Delegate to the subnet: without that the chain pays its nodes nothing."""
    ledger.apply(coldkey, AddToDelegateStake(SUBNET_ID, DELEGATED))


def found_subnet(ledger: Ledger, accounts: Sequence[NodeAccount]) -> None:
    """Register and activate the subnet and its nodes; their ids count from 1, in this order."""
    owner = accounts[0].coldkey
    data = RegistrationSubnetData(
        name=b"simulated",
        repo=b"https://example.org/simulated",
        description=b"",
        misc=b"",
        min_stake=_STAKE,
        max_stake=10 * _STAKE,
        delegate_stake_percentage=TENSOR // 10,
        initial_coldkeys=Counter(account.coldkey for account in accounts),
        bootnodes={accounts[0].peer_id.to_base58().encode(): _boot_address(accounts[0].peer_id)},
    )
    ledger.apply(owner, RegisterSubnet(100 * TENSOR, data))
    for node_id, account in enumerate(accounts, start=1):
        ledger.apply(account.coldkey, make_registration(account))
        if ledger.config.activation_mode is ActivationMode.MANUAL:
            ledger.apply(account.coldkey, ActivateSubnetNode(SUBNET_ID, node_id))
    ledger.apply(owner, ActivateSubnet(SUBNET_ID))


def make_registration(account: NodeAccount) -> RegisterSubnetNode:
    """Return the call with which an account's owner registers its node."""
    return RegisterSubnetNode(
        subnet_id=SUBNET_ID,
        hotkey=account.hotkey,
        peer_info=PeerInfo(account.peer_id.to_base58().encode()),
        bootnode_peer_info=None,
        client_peer_info=None,
        delegate_reward_rate=0,
        stake_to_be_added=_STAKE,
        unique=None,
        non_unique=None,
        delegate_account=None,
        max_burn_amount=TENSOR,
    )


def _boot_address(peer_id: PeerId) -> bytes:
    raw = peer_id.to_bytes()
    return bytes([4, 127, 0, 0, 1, 6, 0x7A, 0x69, 0xA5, 3, len(raw)]) + raw
