"""p2pd, the Go libp2p daemon that hivemind ships, as a child that cannot outlive us.

hivemind can start it too, but then it survives a killed parent, takes part in Ctrl-C, and has
its identity read by RSA-only helpers. So it is started here and hivemind attaches to it.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import logging
import os
import shutil
import signal
import sys
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import cast

from hivemind.p2p.p2p_daemon_bindings.utils import read_pbmsg_safe, write_pbmsg
from hivemind.proto import p2pd_pb2
from hivemind.utils.multiaddr import Multiaddr
from hivemind.utils.multiaddr.exceptions import Error as MultiaddrError

from keys.peer import PeerId, PeerKey
from mesh.errors import DaemonFailed, PeerUnreachable
from mesh.p2p.addresses import RELAYED, encode_address, split_peer_address
from mesh.p2p.channel import SocketChannel
from mesh.p2p.config import HostConfig, RelayLimits
from mesh.p2p.interface import PeerCounts
from mesh.p2p.traffic import ByteCounter

IDLE_TIMEOUT_S = 30
KNOWN_BUILDS = {
    "42f8f48e62583b97cdba3c31439c08029fb2b9fc506b5bdd82c46b7cc1d279d8": (
        "v0.5.0.hivemind1 of November 2023 (go-libp2p 0.32.1, quic-go 0.40.0, go 1.20.11)"
    ),
}
"""What p2pd is by the SHA-256 of its file: it has no way to tell its version."""
GC_PERCENT, GC_HURRY_FROM = "400", "256MiB"
"""How far p2pd's heap grows beyond what is in use before it is collected, and from which size on
Go collects as soon as it can. p2pd uses a few MiB, so with Go's own 100 it collected all the time:
42 % of what strangers who flood a node cost it."""
FEW_CORES = 2
"""On so many cores p2pd keeps to one: its threads wake each other for the work of one, and that
costs a stream which is turned away 30 % more. The other core is left to the model."""
TERMINATE_TIMEOUT_S = 3.0
MAX_OUTPUT_LINE = 8192
_DIRECTORY_PREFIX = "mesh-p2pd-"
_LOCK_NAME = "lock"
# A unix socket's path has at most 107 bytes, so a long TMPDIR cannot be used.
_MAX_TEMP_PATH = 60

# Runs between fork and p2pd: asks the kernel to kill this process with its parent, and gives up
# if the parent died before it could ask. It replaces itself, so no extra process remains.
_LAUNCHER = (
    "import ctypes, os, sys\n"
    "libc = ctypes.CDLL(None, use_errno=True)\n"
    "if sys.platform == 'linux' and libc.prctl(1, 9) != 0: os._exit(125)\n"
    "if os.getppid() != int(sys.argv[1]): os._exit(126)\n"
    "os.execv(sys.argv[2], sys.argv[2:])\n"
)

logger = logging.getLogger(__name__)


class Daemon:
    """A running p2pd: its control socket and its death."""

    def __init__(self, directory: Path, process: _DaemonProcess) -> None:
        self.directory = directory
        self._process = process

    @property
    def control_path(self) -> Path:
        return _control_path(self.directory)

    @property
    def pid(self) -> int:
        """The daemon's process id."""
        return self._process.pid

    async def wait_exit(self) -> str:
        """Wait until the daemon is gone and return what it said last."""
        await asyncio.shield(self._process.exited)
        return self._process.describe_exit()

    @asynccontextmanager
    async def watch_over(self) -> AsyncIterator[None]:
        """Run the block while p2pd lives. Raises DaemonFailed as soon as it ends in the block."""
        loop = asyncio.get_running_loop()
        scope = asyncio.timeout(None)

        def end(_: asyncio.Future[int | None]) -> None:
            # The block may have ended in this very turn of the loop.
            with suppress(RuntimeError):
                scope.reschedule(loop.time())

        try:
            async with scope:
                self._process.exited.add_done_callback(end)
                try:
                    yield
                finally:
                    self._process.exited.remove_done_callback(end)
        except TimeoutError as error:
            if not scope.expired():
                raise
            raise DaemonFailed(self._process.describe_exit()) from error

    async def fetch_addresses(self) -> list[str]:
        """Return the addresses it listens on or announces. Raises DaemonFailed."""
        response, reader_writer = await self._request(
            p2pd_pb2.Request(type=p2pd_pb2.Request.IDENTIFY)
        )
        reader_writer[1].close()
        return [str(Multiaddr(raw)) for raw in response.identify.addrs]

    async def count_peers(self) -> PeerCounts:
        """Return how many peers are connected. Raises DaemonFailed."""
        response, (_, writer) = await self._request(
            p2pd_pb2.Request(type=p2pd_pb2.Request.LIST_PEERS)
        )
        writer.close()
        # A peer stands in the list once for each of its connections.
        direct = {peer.id for peer in response.peers if not is_relayed(peer.addrs)}
        relayed = {peer.id for peer in response.peers} - direct
        return PeerCounts(direct=len(direct), relayed=len(relayed))

    async def connect(self, peer: PeerId, addresses: Sequence[str]) -> None:
        """Dial a peer. Raises PeerUnreachable or DaemonFailed."""
        raw_addresses = [encode_address(split_peer_address(text)[0]) for text in addresses]
        request = p2pd_pb2.Request(
            type=p2pd_pb2.Request.CONNECT,
            connect=p2pd_pb2.ConnectRequest(peer=peer.to_bytes(), addrs=raw_addresses),
        )
        response, (_, writer) = await self._request(request)
        writer.close()
        if response.type == p2pd_pb2.Response.ERROR:
            # libp2p lists the failed dials line by line; a message is one sentence.
            raise PeerUnreachable(peer, " ".join(str(response.error.msg).split()))

    async def disconnect(self, peer: PeerId) -> None:
        """Close all connections with a peer. Raises DaemonFailed."""
        request = p2pd_pb2.Request(
            type=p2pd_pb2.Request.DISCONNECT,
            disconnect=p2pd_pb2.DisconnectRequest(peer=peer.to_bytes()),
        )
        _, (_, writer) = await self._request(request)
        writer.close()

    async def hand_over(self, path: Path, *protocols: str) -> None:
        """Have peers' streams of ``protocols`` connected to the unix socket at ``path``.

        Raises DaemonFailed.
        """
        handler = p2pd_pb2.StreamHandlerRequest(
            addr=Multiaddr(f"/unix{path}").to_bytes(), proto=protocols, balanced=False
        )
        request = p2pd_pb2.Request(type=p2pd_pb2.Request.STREAM_HANDLER, streamHandler=handler)
        response, (_, writer) = await self._request(request)
        writer.close()
        if response.type == p2pd_pb2.Response.ERROR:
            raise DaemonFailed(f"p2pd takes no handler of streams: {response.error.msg}")

    async def open_channel(
        self, peer: PeerId, *protocols: str, traffic: ByteCounter | None = None
    ) -> SocketChannel:
        """Open a stream of the first of ``protocols`` that the peer knows; the channel says which.

        Raises PeerUnreachable or DaemonFailed.
        """
        request = p2pd_pb2.Request(
            type=p2pd_pb2.Request.STREAM_OPEN,
            streamOpen=p2pd_pb2.StreamOpenRequest(peer=peer.to_bytes(), proto=protocols),
        )
        response, (reader, writer) = await self._request(request)
        if response.type == p2pd_pb2.Response.ERROR:
            writer.close()
            raise PeerUnreachable(peer, str(response.error.msg))
        if bytes(response.streamInfo.peer) != peer.to_bytes():
            writer.close()
            raise PeerUnreachable(peer, "the daemon reached another peer")
        channel = await SocketChannel.adopt(peer, reader, writer, traffic=traffic)
        channel.protocol = str(response.streamInfo.proto)
        return channel

    async def _request(
        self, request: p2pd_pb2.Request
    ) -> tuple[p2pd_pb2.Response, tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        try:
            reader, writer = await asyncio.open_unix_connection(str(self.control_path))
        except OSError as error:
            raise DaemonFailed("p2pd does not answer on its control socket") from error
        try:
            await write_pbmsg(writer, request)
            response = p2pd_pb2.Response()
            await read_pbmsg_safe(reader, response)
        except (OSError, asyncio.IncompleteReadError) as error:
            writer.close()
            raise DaemonFailed("p2pd closed its control socket") from error
        except BaseException:
            writer.close()
            raise
        return response, (reader, writer)


def is_relayed(addresses: Sequence[bytes]) -> bool:
    """Whether a connection with these addresses leads over a relay."""
    try:
        texts = [str(Multiaddr(raw)) for raw in addresses]
    except (MultiaddrError, ValueError):
        # p2pd knows newer kinds of addresses than hivemind; relayed ones are as old as both.
        return False
    return any(RELAYED in text for text in texts)


class _DaemonProcess(asyncio.SubprocessProtocol):
    """Follows the child's output and its end without a task of its own."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = loop.create_future()
        self.exited: asyncio.Future[int | None] = loop.create_future()
        self._last_lines: deque[str] = deque(maxlen=3)
        self._partial = b""
        self._transport: asyncio.SubprocessTransport | None = None

    @property
    def pid(self) -> int:
        return self._transport.get_pid() if self._transport is not None else 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not checked by class: uvloop's transport is not a subclass of asyncio's.
        self._transport = cast(asyncio.SubprocessTransport, transport)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        *lines, rest = (self._partial + data).split(b"\n")
        self._partial = rest[-MAX_OUTPUT_LINE:]
        for line in lines:
            self._on_line(line[:MAX_OUTPUT_LINE].decode(errors="replace"))

    def process_exited(self) -> None:
        assert self._transport is not None
        if not self.exited.done():
            self.exited.set_result(self._transport.get_returncode())
        if not self.ready.done():
            self.ready.set_exception(DaemonFailed(self.describe_exit()))

    def describe_exit(self) -> str:
        code = self.exited.result() if self.exited.done() else None
        return f"p2pd ended with code {code}: {' / '.join(self._last_lines) or 'no output'}"

    async def stop(self) -> None:
        """Terminate the child, by force if it does not listen."""
        transport = self._transport
        if transport is None:
            return
        try:
            for number in (signal.SIGTERM, signal.SIGKILL):
                if self.exited.done():
                    return
                # The transport would poll first, and take the child's end from asyncio's watcher.
                os.kill(transport.get_pid(), number)
                await asyncio.wait((self.exited,), timeout=TERMINATE_TIMEOUT_S)
        except ProcessLookupError:
            return
        finally:
            transport.close()

    def _on_line(self, line: str) -> None:
        text = _log_text(line)
        self._last_lines.append(text)
        logger.debug("p2pd: %s", text)
        if line.startswith("Peer ID:") and not self.ready.done():
            self.ready.set_result(None)


@cache
def describe_build() -> str:
    """Return version and SHA-256 of the p2pd that is installed, for the log."""
    return f"{find_build() or 'of an unknown version'}, sha256 {_hash_executable()}"


def find_build() -> str | None:
    """Return the version of the p2pd that is installed; None for an unknown one. Raises OSError."""
    return KNOWN_BUILDS.get(_hash_executable())


async def try_daemon(*, timeout_s: float) -> None:
    """Start p2pd under a key made for the occasion, and stop it: it listens nowhere.

    Raises DaemonFailed when it does not start in time.
    """
    config = HostConfig(key=PeerKey.generate(), host_maddrs=(), client_mode=True)
    try:
        async with asyncio.timeout(timeout_s), run_daemon(config):
            return
    except TimeoutError as error:
        raise DaemonFailed(f"p2pd did not start within {timeout_s:g} s") from error


@asynccontextmanager
async def run_daemon(config: HostConfig) -> AsyncIterator[Daemon]:
    """Run p2pd for the length of the block. Raises DaemonFailed when it does not start.

    The kernel ends it with the *thread* that started it, so a loop in a side thread must live
    as long as its host; it does, since the host lives in that loop.
    """
    logger.info("p2pd is %s", await asyncio.to_thread(describe_build))
    with _runtime_directory() as directory:
        process = await _spawn(directory, config)
        try:
            await asyncio.shield(process.ready)
            yield Daemon(directory, process)
        finally:
            await process.stop()
            # Retrieved, so that asyncio does not report a failed start as a lost exception.
            process.ready.cancel() if not process.ready.done() else process.ready.exception()


async def _spawn(directory: Path, config: HostConfig) -> _DaemonProcess:
    environment = _make_environment(os.environ, config)
    with _identity_pipe(config.key) as identity_fd:
        arguments = _daemon_arguments(directory, config, identity_fd=identity_fd)
        launcher = (sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()))
        try:
            _, process = await asyncio.get_running_loop().subprocess_exec(
                _DaemonProcess,
                *launcher,
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=environment,
                pass_fds=(identity_fd,),
                # Its own session: Ctrl-C in a terminal must reach us, not the daemon.
                start_new_session=True,
            )
        except OSError as error:
            raise DaemonFailed(f"p2pd cannot be started: {error}") from error
    return process


def _make_environment(inherited: Mapping[str, str], config: HostConfig) -> dict[str, str]:
    """Return p2pd's environment; what the operator set for Go's runtime stays."""
    environment = {"GOLOG_LOG_LEVEL": "error", **inherited, "GOLOG_LOG_FMT": "json"}
    if config.relay_service is not None:
        # p2pd sets two relays up, one with our limits and one with go-libp2p's own, and the one
        # that comes last answers. On one thread that is ours nearly always, on several it was one
        # time in five; mesh/p2p/relay_start.py looks which it is.
        # What passes through a relay may fill its heap, so that is collected as Go does it.
        return {**environment, "GOMAXPROCS": "1"}
    chosen = {"GOGC": GC_PERCENT, "GOMEMLIMIT": GC_HURRY_FROM}
    if _count_cores() <= FEW_CORES:
        chosen["GOMAXPROCS"] = "1"
    return {**chosen, **environment}


def _count_cores() -> int:
    """Return how many cores this process, and p2pd with it, may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _daemon_arguments(directory: Path, config: HostConfig, *, identity_fd: int) -> list[str]:
    arguments = [
        str(_get_executable()),
        f"-listen=/unix{_control_path(directory)}",
        f"-id=/dev/fd/{identity_fd}",
        f"-idleTimeout={IDLE_TIMEOUT_S}s",
        "-dhtClient=1" if config.client_mode else "-dhtServer=1",
        "-connManager=1",
        "-autonat=1",
        f"-natPortMap={int(config.nat_port_map)}",
        f"-relay={int(config.use_relay)}",
        *_relay_arguments(config.relay_service),
        # Relays are asked by mesh/p2p/reservations.py.
        "-autoRelay=0",
        "-tls=1",
    ]
    if config.host_maddrs:
        arguments.append(f"-hostAddrs={','.join(config.host_maddrs)}")
    else:
        arguments.append("-noListenAddrs=1")
    if config.announce_maddrs:
        arguments.append(f"-announceAddrs={','.join(config.announce_maddrs)}")
    return arguments


def _hash_executable() -> str:
    return hashlib.sha256(_get_executable().read_bytes()).hexdigest()


def _get_executable() -> Path:
    return Path(str(files("hivemind.hivemind_cli").joinpath("p2pd")))


def _relay_arguments(limits: RelayLimits | None) -> tuple[str, ...]:
    # p2pd's own default is to relay for everybody, up to 4 GiB a connection.
    if limits is None:
        return ("-relayService=0",)
    return (
        "-relayService=1",
        # Else it would wait for AutoNAT, and relay within go-libp2p's own limits until then.
        "-forceReachabilityPublic=1",
        f"-relayMaxReservations={limits.max_reservations}",
        f"-relayMaxCircuits={limits.max_circuits}",
        f"-relayTimeLimit={limits.max_time_s}s",
        f"-relayDataLimit={limits.max_bytes}",
    )


@contextmanager
def _identity_pipe(key: PeerKey) -> Iterator[int]:
    """Yield a descriptor that the daemon reads the key from: it never touches a disk for this."""
    read_fd, write_fd = os.pipe()
    try:
        try:
            os.write(write_fd, key.to_libp2p())
        finally:
            os.close(write_fd)
        yield read_fd
    finally:
        os.close(read_fd)


@contextmanager
def _runtime_directory() -> Iterator[Path]:
    """Yield a private directory for unix sockets and remove it afterwards.

    A lock marks it as in use, so that the next host can sweep what a killed process left.
    """
    base = Path(tempfile.gettempdir())
    if len(os.fsencode(base)) > _MAX_TEMP_PATH:
        base = Path("/tmp")
    _sweep(base)
    directory = Path(tempfile.mkdtemp(prefix=_DIRECTORY_PREFIX, dir=base))
    lock_fd = os.open(directory / _LOCK_NAME, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        os.close(lock_fd)


def _sweep(base: Path) -> None:
    for directory in base.glob(f"{_DIRECTORY_PREFIX}*"):
        try:
            lock_fd = os.open(directory / _LOCK_NAME, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            # Another user's, or one that is being made right now.
            continue
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue
        else:
            shutil.rmtree(directory, ignore_errors=True)
        finally:
            os.close(lock_fd)


def _control_path(directory: Path) -> Path:
    return directory / "control.sock"


def _log_text(line: str) -> str:
    """Return the message of one go-log line, which is JSON, or the line itself."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return line
    if not isinstance(record, dict):
        return line
    return " ".join(str(record[name]) for name in ("logger", "msg", "error") if name in record)
