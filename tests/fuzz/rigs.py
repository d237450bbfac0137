"""What some decoders need around them: a file, a chain client, a chain, a gateway."""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from functools import cache, cached_property
from pathlib import Path
from typing import Any, TypeVar

from scalecodec.base import RuntimeConfigurationObject
from substrateinterface.transport.websocket import WebsocketTransport
from websocket import WebSocketTimeoutException

from consensus.types import Epoch, SubnetId
from devchain.block_producer import BlockProducer
from devchain.chain import Chain
from devchain.config import BlockMode
from devchain.rpc_connection import RpcConnection
from mesh.api.app import AppConfig, create_app
from subnet.chain.chain_session import ChainSession
from subnet.chain.codec import ChainRuntime
from subnet.chain.endpoint_client import EndpointClient, read_runtime
from subnet.chain.parsing import parse_submission
from subnet.chain.substrate import read_nodes
from tests.support.ledger_world import BLOCK_MS, FIRST_SUBNET, World
from tests.support.local_backend import LocalBackend

T = TypeVar("T")
INTERNAL_ERROR = -32603
URL = "ws://fuzz"
_REQUEST_ID = '"$ID"'
_PLACE = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path(tempfile.gettempdir())


class InternalError(AssertionError):
    """A server answered that it failed: a request found a defect in it."""


@cache
def _make_directory() -> Path:
    directory = Path(tempfile.mkdtemp(prefix="mesh-fuzz-", dir=_PLACE))
    atexit.register(_remove, directory, made_by=os.getpid())
    return directory


def _remove(directory: Path, *, made_by: int) -> None:
    # A fork that ends leaves it to the others.
    if os.getpid() == made_by:
        shutil.rmtree(directory, ignore_errors=True)


def read_as_file(
    load: Callable[[Path], T], *, name: str = "input", inside: str = ""
) -> Callable[[bytes], T]:
    """Return a decoder of bytes for a function that reads a file, or the folder it lies in."""

    def decode(raw: bytes) -> T:
        folder = _make_directory() / inside
        folder.mkdir(mode=0o700, exist_ok=True)
        path = folder / name
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(raw)
        return load(path)

    return decode


class ChainWorld(World):
    """A development chain with an active subnet, four nodes and a proposal."""

    def __init__(self) -> None:
        super().__init__()
        self.chain = Chain(self.ledger.config)
        self.ledger = self.chain.ledger
        self.start()
        self.propose((1, 2, 3))
        self.attest(2 if self.elected != 2 else 3)
        self.advance(1)

    def advance(self, count: int = 1) -> list[Any]:
        for _ in range(count):
            self.chain.build((self.chain.head.number + 1) * BLOCK_MS)
        return []


@cache
def make_world() -> ChainWorld:
    return ChainWorld()


@cache
def _make_producer() -> BlockProducer:
    return BlockProducer(make_world().chain, lambda: 0, BlockMode.MANUAL, 6.0)


def answer_rpc(message: bytes) -> list[str]:
    """Let a development chain answer one message of a page, which may not steer it.

    Raises InternalError if the chain says that it failed.
    """
    connection = RpcConnection(_make_producer(), may_steer=False)
    connection.receive(message)
    answers = []
    while not connection.outbox.empty():
        answers.append(connection.outbox.get_nowait())
        if json.loads(answers[-1]).get("error", {}).get("code") == INTERNAL_ERROR:
            raise InternalError(f"the development chain failed on {message[:500]!r}")
    return answers


class _Socket:
    """A WebSocket whose other end says what it is given, or what our chain says."""

    connected = True

    def __init__(self, lines: Iterable[str] = (), *, is_live: bool = False) -> None:
        self._lines = list(lines)
        self._is_live = is_live
        self._request_id = 0
        self.heard: list[str] = []

    def send(self, message: str) -> None:
        self._request_id = json.loads(message)["id"]
        if self._is_live:
            self._lines += answer_rpc(message.encode())

    def recv(self) -> str:
        if not self._lines:
            raise WebSocketTimeoutException("nothing more")
        line = self._lines.pop(0)
        self.heard.append(line.replace(f'"id": {self._request_id}', f'"id": {_REQUEST_ID}'))
        return line.replace(_REQUEST_ID, str(self._request_id))

    def gettimeout(self) -> None:
        return None

    def settimeout(self, _timeout_s: float | None) -> None: ...

    def shutdown(self) -> None: ...

    def close(self) -> None: ...


Ask = Callable[[ChainSession, str], Any]


def _read_submission(session: ChainSession, at: str) -> Any:
    epoch = Epoch(make_world().epoch)
    key = (FIRST_SUBNET, epoch)
    found = session.read("Network.SubnetConsensusSubmission", *key, at=at)
    return None if found is None else parse_submission(found)


ASKS: dict[str, Ask] = {
    "head": lambda session, at: session.read_head(),
    "finalised": lambda session, at: session.read_finalised_number(),
    "nodes": lambda session, at: read_nodes(session, SubnetId(FIRST_SUBNET), at=at),
    "submission": _read_submission,
    "events": lambda session, at: session.read_events(at),
    "extrinsics": lambda session, at: session.read_extrinsics(at),
    "nonce": lambda session, at: session.read_nonce(bytes(20)),
    "kind": lambda session, at: session.read_chain_type(),
}
"""What a node asks a chain: each begins with a session and the hash of a block."""


class ChainRig:
    """A chain client whose endpoint says anything."""

    @cached_property
    def _interface(self) -> Any:
        interface = EndpointClient(
            websocket=_Socket(is_live=True),
            runtime_config=RuntimeConfigurationObject(),
            auto_discover=False,
            auto_reconnect=False,
        )
        self._runtime = read_runtime(interface, URL, None)
        # Asked once and kept: later answers are to the questions that are recorded.
        interface.supports_rpc_method("")
        return interface

    def open(self, runtime: ChainRuntime) -> ChainSession:
        """Return a session that holds to this runtime."""
        return ChainSession(self._interface, url=URL, runtime=runtime)

    def run(self, ask: Ask, socket: _Socket | None = None) -> Any:
        """Return what ``ask`` returns, in a session whose other end is ``socket``."""
        socket = _Socket() if socket is None else socket
        interface = self._interface
        interface.transport = WebsocketTransport(websocket=socket, auto_reconnect=False)
        interface.websocket = socket
        session = self.open(self._runtime)
        at = f"0x{make_world().chain.head.hash.hex()}"
        return session.run(lambda session: ask(session, at))

    def decode(self, ask: str, raw: bytes) -> Any:
        """Ask, and hear the lines of ``raw`` as answers, the right request id put in."""
        lines = raw.decode("utf-8", "surrogateescape").split("\n")
        return self.run(ASKS[ask], _Socket(lines))

    def record(self, ask: str) -> bytes:
        """Return what our own chain answers."""
        socket = _Socket(is_live=True)
        self.run(ASKS[ask], socket)
        return "\n".join(socket.heard).encode()


class GatewayRig:
    """A gateway without sockets, in front of canned answers."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._app = create_app(LocalBackend(answer="An epoch."), AppConfig())
        self._state: dict[str, Any] = {}
        self._is_up, self._is_over = asyncio.Event(), asyncio.Event()
        self._life = self._loop.create_task(self._live())
        self._loop.run_until_complete(self._is_up.wait())
        atexit.register(self._close)

    async def _live(self) -> None:
        """Run the application's lifespan, which owns its tasks."""

        async def receive() -> Any:
            if not self._is_up.is_set():
                return {"type": "lifespan.startup"}
            await self._is_over.wait()
            return {"type": "lifespan.shutdown"}

        async def send(_message: Any) -> None:
            self._is_up.set()

        scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": self._state}
        await self._app(scope, receive, send)

    def _close(self) -> None:
        self._is_over.set()
        self._loop.run_until_complete(self._life)
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    def post(self, path: str, body: bytes, headers: Iterable[tuple[bytes, bytes]] = ()) -> int:
        """Send one request; return the status. Raises InternalError for 500."""
        return self._loop.run_until_complete(self._post(path, body, tuple(headers)))

    async def _post(self, path: str, body: bytes, headers: tuple[tuple[bytes, bytes], ...]) -> int:
        status = 0
        waiting = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Any:
            return waiting.pop() if waiting else await asyncio.Event().wait()

        async def send(message: Any) -> None:
            nonlocal status
            status = message.get("status", status)

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [
                (b"host", b"localhost"),
                (b"content-type", b"application/json"),
                *headers,
            ],
            "server": ("localhost", 80),
            "client": ("127.0.0.1", 1),
            "state": dict(self._state),
        }
        await self._app(scope, receive, send)
        if status == 500:
            raise InternalError(f"the gateway failed on {path} {body[:500]!r}")
        return status


@cache
def get_chain_rig() -> ChainRig:
    return ChainRig()


@cache
def get_gateway_rig() -> GatewayRig:
    return GatewayRig()
