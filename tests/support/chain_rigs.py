"""One way to drive every chain that the contract tests run against."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from consensus.types import (
    BlockNumber,
    Epoch,
    Score,
    SubnetId,
    SubnetNodeId,
    compute_epoch_position,
)
from devchain import calls, storage
from devchain.chain_types import PeerInfo, RegistrationSubnetData, SubnetNodeConsensusData
from keys.account import AccountKey, derive_development_account
from keys.peer import PeerKey
from subnet.account import registration
from subnet.account.registration import TENSOR, NodeRegistration, SubnetRegistration
from subnet.chain.multiaddr import encode_multiaddr
from subnet.chain.substrate import SubstrateChain
from subnet.epoch.interfaces import ChainReader, ChainWriter
from tests.support.ledger_chain import LedgerBlocks, LedgerChain

# A block of the real runtime may take a busy machine some seconds.
CALL_WAIT_S = 60.0
ELECTION_WAIT_S = 600.0

COLDKEYS = tuple(derive_development_account(index) for index in range(6))
OWNER = COLDKEYS[0]
HOTKEY_FUNDS = TENSOR // 100
BOOTNODE = PeerKey(bytes([250]) * 32).peer_id
_serial = itertools.count(1)


Rows = Sequence[tuple[SubnetNodeId, Score]]


class Chain(ChainReader, ChainWriter, Protocol):
    """What the contract tests use."""


def make_seed() -> bytes:
    """Return a new 32-byte seed; the same sequence in every run."""
    return next(_serial).to_bytes(32, "big")


def make_subnet(name: str, **changes: object) -> SubnetRegistration:
    """Return a registration that every chain takes."""
    defaults: dict[str, object] = {
        "name": name,
        "repo": f"repo of {name}",
        "misc": "mesh-manifest:" + "ab" * 32,
        "initial_coldkeys": {key.account_id: 1 for key in COLDKEYS[:4]},
        "bootnodes": {str(BOOTNODE): "/ip4/127.0.0.1/tcp/31330"},
        # The price doubles with every registration, and tests register many.
        "max_cost": 100_000 * TENSOR,
    }
    return SubnetRegistration(**(defaults | changes))  # type: ignore[arg-type]


def make_node(subnet_id: SubnetId, hotkey: AccountKey) -> NodeRegistration:
    """Return a registration with three new peer ids."""
    return NodeRegistration(
        subnet_id=subnet_id,
        hotkey=hotkey.account_id,
        peer_id=PeerKey(make_seed()).peer_id,
        bootnode_peer_id=PeerKey(make_seed()).peer_id,
        client_peer_id=PeerKey(make_seed()).peer_id,
    )


class Rig(Protocol):
    """One chain under test, with the means to fill it and to let time pass."""

    def open(self, signer: AccountKey | None = None) -> AbstractAsyncContextManager[Chain]: ...

    async def advance(self, count: int) -> None:
        """Let at least ``count`` blocks pass."""
        ...

    async def fund(self, account_id: bytes, amount: int) -> None: ...

    async def register_subnet(self, wanted: SubnetRegistration, owner: AccountKey) -> SubnetId: ...

    async def register_node(
        self, wanted: NodeRegistration, coldkey: AccountKey
    ) -> SubnetNodeId: ...

    async def activate_subnet(self, subnet_id: SubnetId, owner: AccountKey) -> None: ...

    async def delegate(self, subnet_id: SubnetId, amount: int, key: AccountKey) -> None: ...

    async def propose_for_queue(
        self,
        subnet_id: SubnetId,
        rows: Rows,
        key: AccountKey,
        *,
        prioritize: SubnetNodeId | None,
        remove: SubnetNodeId | None,
    ) -> None:
        """Propose as no node of ours does: naming queued nodes."""
        ...

    async def read_stake(self, subnet_id: SubnetId, hotkey: bytes) -> int: ...

    async def read_reputation(self, subnet_id: SubnetId, node_id: SubnetNodeId) -> int:
        """Return a node's reputation; 10**18 is one."""
        ...


class LedgerRig:
    """The pure ledger."""

    def __init__(self, blocks: LedgerBlocks) -> None:
        self._blocks = blocks

    @asynccontextmanager
    async def open(self, signer: AccountKey | None = None) -> AsyncIterator[Chain]:
        yield LedgerChain(self._blocks, signer=None if signer is None else signer.account_id)

    async def advance(self, count: int) -> None:
        await self._blocks.advance(count)

    async def fund(self, account_id: bytes, amount: int) -> None:
        await self._blocks.execute(OWNER.account_id, calls.TransferKeepAlive(account_id, amount))

    async def register_subnet(self, wanted: SubnetRegistration, owner: AccountKey) -> SubnetId:
        data = RegistrationSubnetData(
            name=wanted.name.encode(),
            repo=wanted.repo.encode(),
            description=wanted.description.encode(),
            misc=wanted.misc.encode(),
            min_stake=wanted.min_stake,
            max_stake=wanted.max_stake,
            delegate_stake_percentage=wanted.delegate_stake_percentage,
            initial_coldkeys=wanted.initial_coldkeys,
            bootnodes={
                text.encode(): encode_multiaddr(multiaddr, peer_id=BOOTNODE)
                for text, multiaddr in wanted.bootnodes.items()
            },
        )
        await self._blocks.execute(owner.account_id, calls.RegisterSubnet(wanted.max_cost, data))
        subnet_id = self._blocks.ledger.state.find(storage.SUBNET_NAME, wanted.name.encode())
        assert subnet_id is not None
        return SubnetId(subnet_id)

    async def register_node(self, wanted: NodeRegistration, coldkey: AccountKey) -> SubnetNodeId:
        peers = [
            None if peer is None else PeerInfo(str(peer).encode(), None)
            for peer in (wanted.peer_id, wanted.bootnode_peer_id, wanted.client_peer_id)
        ]
        assert peers[0] is not None
        call = calls.RegisterSubnetNode(
            subnet_id=wanted.subnet_id,
            hotkey=wanted.hotkey,
            peer_info=peers[0],
            bootnode_peer_info=peers[1],
            client_peer_info=peers[2],
            delegate_reward_rate=wanted.delegate_reward_rate,
            stake_to_be_added=wanted.stake,
            unique=wanted.unique,
            non_unique=wanted.non_unique,
            delegate_account=None,
            max_burn_amount=wanted.max_burn,
        )
        await self._blocks.execute(coldkey.account_id, call)
        node_id = self._blocks.ledger.state.find(
            storage.HOTKEY_SUBNET_NODE_ID, wanted.subnet_id, wanted.hotkey
        )
        assert node_id is not None
        return SubnetNodeId(node_id)

    async def activate_subnet(self, subnet_id: SubnetId, owner: AccountKey) -> None:
        await self._blocks.execute(owner.account_id, calls.ActivateSubnet(subnet_id))

    async def delegate(self, subnet_id: SubnetId, amount: int, key: AccountKey) -> None:
        await self._blocks.execute(key.account_id, calls.AddToDelegateStake(subnet_id, amount))

    async def propose_for_queue(
        self,
        subnet_id: SubnetId,
        rows: Rows,
        key: AccountKey,
        *,
        prioritize: SubnetNodeId | None,
        remove: SubnetNodeId | None,
    ) -> None:
        data = tuple(SubnetNodeConsensusData(node_id, score) for node_id, score in rows)
        call = calls.ProposeAttestation(subnet_id, data, prioritize, remove)
        await self._blocks.execute(key.account_id, call)

    async def read_stake(self, subnet_id: SubnetId, hotkey: bytes) -> int:
        state = self._blocks.ledger.state
        return int(state.get(storage.ACCOUNT_SUBNET_STAKE, hotkey, subnet_id))

    async def read_reputation(self, subnet_id: SubnetId, node_id: SubnetNodeId) -> int:
        state = self._blocks.ledger.state
        return int(state.get(storage.SUBNET_NODE_REPUTATION, subnet_id, node_id))


class WireRig:
    """A chain behind a WebSocket, through our client; it builds blocks when told to."""

    def __init__(self, url: str, chain: SubstrateChain) -> None:
        self.url = url
        self._chain = chain

    @classmethod
    @asynccontextmanager
    async def connect(cls, url: str) -> AsyncIterator[WireRig]:
        async with SubstrateChain.open(url, call_timeout_s=CALL_WAIT_S) as chain:
            yield cls(url, chain)

    @asynccontextmanager
    async def open(self, signer: AccountKey | None = None) -> AsyncIterator[Chain]:
        async with SubstrateChain.open(
            self.url, signer=signer, call_timeout_s=CALL_WAIT_S
        ) as chain:
            yield chain

    async def advance(self, count: int) -> None:
        # One at a time: the real runtime may take seconds for each, and a call has a deadline.
        for _ in range(count):
            await self._chain.query(lambda session: session.rpc("dev_newBlock", {"count": 1}))

    @asynccontextmanager
    async def hold_blocks(self) -> AsyncIterator[None]:
        """Let extrinsics wait in the pool, instead of building a block for each."""
        methods = (await self._ask("rpc_methods"))["methods"]
        if "dev_setBlockMode" in methods:
            method, held, instant = "dev_setBlockMode", "manual", "instant"
        else:
            method, held, instant = "dev_setBlockBuildMode", "Manual", "Instant"
        await self._ask(method, held)
        try:
            yield
        finally:
            await self._ask(method, instant)

    async def count_waiting(self) -> int:
        """Return how many extrinsics the pool holds."""
        return len(await self._ask("author_pendingExtrinsics"))

    async def _ask(self, method: str, *params: object) -> Any:
        return await self._chain.query(lambda session: session.rpc(method, *params))

    async def fund(self, account_id: bytes, amount: int) -> None:
        await registration.transfer(self._chain, sender=OWNER, recipient=account_id, amount=amount)

    async def register_subnet(self, wanted: SubnetRegistration, owner: AccountKey) -> SubnetId:
        return (await registration.register_subnet(self._chain, wanted, owner=owner)).subnet_id

    async def register_node(self, wanted: NodeRegistration, coldkey: AccountKey) -> SubnetNodeId:
        return (await registration.register_node(self._chain, wanted, coldkey=coldkey)).node_id

    async def activate_subnet(self, subnet_id: SubnetId, owner: AccountKey) -> None:
        await registration.activate_subnet(self._chain, subnet_id=subnet_id, owner=owner)

    async def delegate(self, subnet_id: SubnetId, amount: int, key: AccountKey) -> None:
        await registration.delegate_stake(self._chain, subnet_id=subnet_id, amount=amount, key=key)

    async def propose_for_queue(
        self,
        subnet_id: SubnetId,
        rows: Rows,
        key: AccountKey,
        *,
        prioritize: SubnetNodeId | None,
        remove: SubnetNodeId | None,
    ) -> None:
        arguments = {
            "subnet_id": subnet_id,
            "data": [{"subnet_node_id": node_id, "score": score} for node_id, score in rows],
            "prioritize_queue_node_id": prioritize,
            "remove_queue_node_id": remove,
            "args": None,
            "attest_data": None,
        }
        await self._chain.submit("Network", "propose_attestation", arguments, key=key)

    async def read_stake(self, subnet_id: SubnetId, hotkey: bytes) -> int:
        return await self._read("Network.AccountSubnetStake", f"0x{hotkey.hex()}", subnet_id)

    async def read_reputation(self, subnet_id: SubnetId, node_id: SubnetNodeId) -> int:
        return await self._read("Network.SubnetNodeReputation", subnet_id, node_id)

    async def _read(self, item: str, *keys: object) -> int:
        return await self._chain.query(
            lambda session: int(
                session.read(item, *keys, at=session.read_head_hash(), default=True)
            )
        )


@dataclass(frozen=True)
class ActiveSubnet:
    """A subnet of four nodes whose first validator is elected."""

    subnet_id: SubnetId
    hotkeys: dict[SubnetNodeId, AccountKey]
    epoch: Epoch
    elected: SubnetNodeId

    @property
    def others(self) -> tuple[SubnetNodeId, ...]:
        return tuple(sorted(set(self.hotkeys) - {self.elected}))


async def register_four(rig: Rig, name: str) -> tuple[SubnetId, dict[SubnetNodeId, AccountKey]]:
    """Register a subnet of four nodes; return its id and each node's hotkey."""
    subnet_id = await rig.register_subnet(make_subnet(name), OWNER)
    hotkeys = {}
    for coldkey in COLDKEYS[:4]:
        hotkey = AccountKey(make_seed())
        await rig.fund(hotkey.account_id, HOTKEY_FUNDS)
        hotkeys[await rig.register_node(make_node(subnet_id, hotkey), coldkey)] = hotkey
    return subnet_id, hotkeys


async def wait_for_election(
    rig: Rig, chain: Chain, subnet_id: SubnetId
) -> tuple[Epoch, SubnetNodeId]:
    """Let blocks pass until the subnet's present epoch is young and has an elected validator."""
    info = await chain.fetch_info()
    subnet = await chain.fetch_subnet(subnet_id)
    assert subnet is not None and subnet.slot is not None
    async with asyncio.timeout(ELECTION_WAIT_S):
        while True:
            head = await read_head(chain)
            position = compute_epoch_position(
                head, slot=subnet.slot, epoch_length=info.epoch_length
            )
            elected = await chain.fetch_elected_validator(subnet_id, position.epoch)
            if elected is not None and position.offset <= info.epoch_length // 4:
                return position.epoch, elected
            await rig.advance(1 if elected is None else info.epoch_length - position.offset)


async def read_head(chain: Chain) -> BlockNumber:
    """Return the number of the present best block."""
    async for head in chain.heads():
        return head.number
    raise AssertionError("heads begins with the present one")


async def propose(
    rig: Rig,
    active: ActiveSubnet,
    signer: SubnetNodeId,
    scores: Sequence[tuple[int, int]],
    *,
    args: bytes | None = b"0xargs\xff",
) -> BlockNumber:
    rows = [(SubnetNodeId(node_id), Score(score)) for node_id, score in scores]
    async with rig.open(active.hotkeys[signer]) as writer:
        return (await writer.propose(active.subnet_id, rows, args)).block_number


async def attest(rig: Rig, active: ActiveSubnet, signer: AccountKey) -> None:
    async with rig.open(signer) as writer:
        await writer.attest(active.subnet_id)
