"""A ledger with rich coldkeys and a subnet, and a development chain in a thread."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin

from consensus.types import NodeClass
from devchain import storage
from devchain.calls import (
    ActivateSubnet,
    ActivateSubnetNode,
    Attest,
    Call,
    ProposeAttestation,
    RegisterSubnet,
    RegisterSubnetNode,
)
from devchain.chain_types import (
    TENSOR,
    PeerInfo,
    RegistrationSubnetData,
    SubnetNode,
    SubnetNodeConsensusData,
)
from devchain.config import DevChainConfig
from devchain.errors import DispatchError
from devchain.events import Event
from devchain.ledger import Ledger
from devchain.runtime import LedgerConfig
from devchain.server import DevChain
from keys.peer import PeerKey

BLOCK_MS = 6000
FIRST_SUBNET = 128_001
WAIT_S = 20


def coldkey(index: int) -> bytes:
    return bytes([0xC0, index]) + bytes(18)


def hotkey(index: int) -> bytes:
    return bytes([0x40, index]) + bytes(18)


def peer_text(index: int) -> bytes:
    return PeerKey(bytes([index]) * 32).peer_id.to_base58().encode()


def multiaddr(index: int) -> bytes:
    """/ip4/127.0.0.1/tcp/8080/p2p/<peer> in binary."""
    peer = PeerKey(bytes([index]) * 32).peer_id.to_bytes()
    return bytes([4, 127, 0, 0, 1, 6, 0x1F, 0x90, 0xA5, 0x03, len(peer)]) + peer


def subnet_data(**changes: Any) -> RegistrationSubnetData:
    fields: dict[str, Any] = {
        "name": b"mesh",
        "repo": b"https://example.org/mesh",
        "description": b"",
        "misc": b"",
        "min_stake": 100 * TENSOR,
        "max_stake": 1000 * TENSOR,
        "delegate_stake_percentage": TENSOR // 10,
        "initial_coldkeys": {coldkey(index): 1 for index in range(8)},
        "bootnodes": {peer_text(250): multiaddr(250)},
    }
    return RegistrationSubnetData(**{**fields, **changes})


def node_call(index: int, **changes: Any) -> RegisterSubnetNode:
    fields: dict[str, Any] = {
        "subnet_id": FIRST_SUBNET,
        "hotkey": hotkey(index),
        "peer_info": PeerInfo(peer_text(index + 1)),
        "bootnode_peer_info": None,
        "client_peer_info": None,
        "delegate_reward_rate": 0,
        "stake_to_be_added": 100 * TENSOR,
        "unique": None,
        "non_unique": None,
        "delegate_account": None,
        "max_burn_amount": TENSOR,
    }
    return RegisterSubnetNode(**{**fields, **changes})


class World:
    """A ledger with eight rich coldkeys; node n has coldkey(n - 1) and hotkey(n - 1)."""

    def __init__(self, **config: Any) -> None:
        balances = {coldkey(index): 10_000 * TENSOR for index in range(8)}
        self.ledger = Ledger(LedgerConfig(balances=balances, **config))
        self.events: list[Event] = []

    @property
    def state(self) -> Any:
        return self.ledger.state

    def advance(self, count: int = 1) -> list[Event]:
        """Build blocks; return the hooks' events of the last."""
        for _ in range(count):
            number = self.ledger.block + 1
            self.events = self.ledger.begin_block(number, number * BLOCK_MS)
        return self.events

    def advance_to(self, number: int) -> list[Event]:
        return self.advance(number - self.ledger.block)

    def apply(self, origin: bytes, call: Call) -> list[Event]:
        return self.ledger.apply(origin, call)

    def register_subnet(self, **changes: Any) -> None:
        if not self.ledger.block:
            self.advance()
        self.apply(coldkey(0), RegisterSubnet(10 * TENSOR, subnet_data(**changes)))

    def register_node(self, index: int, **changes: Any) -> None:
        self.apply(coldkey(index), node_call(index, **changes))

    def activate_node(self, index: int, node_id: int | None = None) -> list[Event]:
        wanted = index + 1 if node_id is None else node_id
        return self.apply(coldkey(index), ActivateSubnetNode(FIRST_SUBNET, wanted))

    def start(self, nodes: int = 4, *, activate: bool = True) -> None:
        """Register, fill and activate the subnet in block 1, then go to its first election."""
        self.register_subnet()
        for index in range(nodes):
            self.register_node(index)
            if activate:
                self.activate_node(index)
        self.apply(coldkey(0), ActivateSubnet(FIRST_SUBNET))
        self.advance_to(23)

    @property
    def epoch(self) -> int:
        return self.ledger.runtime.subnet_epoch(FIRST_SUBNET)

    @property
    def elected(self) -> int:
        found = self.state.find(storage.SUBNET_ELECTED_VALIDATOR, FIRST_SUBNET, self.epoch)
        assert found is not None
        return int(found)

    def node(self, node_id: int) -> SubnetNode:
        found = self.state.get(storage.SUBNET_NODES_DATA, FIRST_SUBNET, node_id)
        assert isinstance(found, SubnetNode)
        return found

    def stake(self, node_id: int) -> int:
        return int(self.state.get(storage.ACCOUNT_SUBNET_STAKE, hotkey(node_id - 1), FIRST_SUBNET))

    def propose(self, ids: tuple[int, ...], **changes: Any) -> list[Event]:
        data = tuple(SubnetNodeConsensusData(node_id, TENSOR) for node_id in ids)
        origin = hotkey(self.elected - 1)
        return self.apply(origin, ProposeAttestation(FIRST_SUBNET, data, **changes))

    def attest(self, node_id: int) -> list[Event]:
        return self.apply(hotkey(node_id - 1), Attest(FIRST_SUBNET))

    def agree(self, ids: tuple[int, ...]) -> list[Event]:
        """Propose ``ids`` and let every Validator attest; return the next slot's events."""
        self.propose(ids)
        elected = self.elected
        for key, node in list(self.state.items(storage.SUBNET_NODES_DATA, FIRST_SUBNET)):
            if key[1] != elected and node.has_class(NodeClass.VALIDATOR, self.epoch):
                self.attest(key[1])
        return self.advance(20)


def refused(world: World, origin: bytes, call: Any) -> str:
    """Return the name of the error with which the ledger refuses a call."""
    with pytest.raises(DispatchError) as failure:
        world.apply(origin, call)
    return failure.value.name


@contextmanager
def serve_in_thread(config: DevChainConfig) -> Iterator[DevChain]:
    """Run a development chain on its own loop, for clients that block."""
    started: list[DevChain] = []
    ready, stop = threading.Event(), asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def serve() -> None:
        async with DevChain.open(config) as devchain:
            started.append(devchain)
            loops.append(asyncio.get_running_loop())
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert ready.wait(WAIT_S)
        yield started[0]
    finally:
        loops[0].call_soon_threadsafe(stop.set)
        thread.join(WAIT_S)


class Wire:
    """Raw JSON-RPC over one WebSocket."""

    def __init__(self, url: str, *, origin: str | None = None) -> None:
        named = None if origin is None else Origin(origin)
        self.socket: ClientConnection = connect(url, open_timeout=WAIT_S, origin=named)
        self._next_id = 0
        self.news: list[dict[str, Any]] = []

    def send(self, message: str | bytes) -> dict[str, Any]:
        """Send one message as it is; return the next response."""
        self.socket.send(message)
        return self.receive()

    def receive(self) -> dict[str, Any]:
        """Return the next response; notifications are kept in ``news``."""
        while True:
            message = json.loads(self.socket.recv(WAIT_S))
            if "method" not in message:
                return dict(message)
            self.news.append(message)

    def next_news(self) -> Any:
        """Return the next notification's result."""
        if not self.news:
            self.news.append(json.loads(self.socket.recv(WAIT_S)))
        return self.news.pop(0)["params"]["result"]

    def ask(self, method: str, *params: Any) -> dict[str, Any]:
        self._next_id += 1
        request = {"jsonrpc": "2.0", "id": self._next_id, "method": method, "params": list(params)}
        return self.send(json.dumps(request))

    def get(self, method: str, *params: Any) -> Any:
        response = self.ask(method, *params)
        assert "error" not in response, response
        return response["result"]

    def close(self) -> None:
        self.socket.close()
