"""What only the real thing can show: the daemon's life and death, and attacks on hivemind's DHT."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from hivemind.dht.node import DHTNode
from hivemind.dht.routing import DHTID
from hivemind.dht.storage import DictionaryDHTValue
from hivemind.p2p import PeerID
from hivemind.utils import MSGPackSerializer
from hivemind.utils import logging as hivemind_logging
from hivemind.utils.multiaddr import Multiaddr

from keys.peer import PeerKey
from mesh.errors import DaemonFailed, PeerUnreachable, TransportError
from mesh.p2p import daemon as daemon_module
from mesh.p2p import dht_records, hivemind_host
from mesh.p2p.config import HostConfig, RelayLimits
from mesh.p2p.daemon import is_relayed
from mesh.p2p.dht_binding import compute_node_id
from mesh.p2p.dht_records import compute_timing
from mesh.p2p.hivemind_host import HivemindHost
from mesh.p2p.interface import PeerCounts, Stream
from tests.support.p2p import (
    NETWORK_ID,
    EverythingPolicy,
    SignedRecordPolicy,
    make_key,
    make_record,
    open_factory,
    record_key,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

AUTHOR = make_key("author")
TIMEOUT_S = 15.0

_ORPHAN_SCRIPT = """
import asyncio, sys
from keys.peer import PeerKey
from mesh.p2p.config import HostConfig
from mesh.p2p.hivemind_host import HivemindHost
from mesh.p2p.interface import Stream

async def main():
    async with HivemindHost.open(HostConfig(key=PeerKey.generate())) as host:
        print(host.daemon_pid, host._daemon.directory, flush=True)
        await host.watch()

asyncio.run(main())
"""


@dataclass
class World:
    honest: HivemindHost
    attacker: HivemindHost

    @property
    def honest_id(self) -> PeerID:
        return PeerID(self.honest.peer_id.to_bytes())


def _node(host: HivemindHost) -> Any:
    return host._records._writer._node


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world() -> Any:
    async with open_factory("hivemind") as factory:
        yield World(
            honest=await factory.open("honest", record_policy=SignedRecordPolicy(AUTHOR)),
            attacker=await factory.open("attacker", record_policy=EverythingPolicy()),
        )


def _is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def _command_line(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def _exists(path: str) -> bool:
    return Path(path).exists()


async def _wait_until_gone(pid: int) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            if not _is_running(pid):
                return
            await asyncio.sleep(0.02)


# The daemon's life


async def try_twice(attempt: Callable[[], Awaitable[bool]]) -> None:
    """Give up as after the start-up timeout, however slow this machine is."""
    if not (await attempt() or await attempt()):
        raise TimeoutError


async def test_a_killed_daemon_is_named_and_leaves_nothing_behind() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        async with HivemindHost.open(HostConfig(key=PeerKey.generate())) as host:
            directory = host._daemon.directory
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(host.watch())
                os.kill(host.daemon_pid, signal.SIGKILL)
                await asyncio.sleep(TIMEOUT_S)
    assert caught.group_contains(DaemonFailed)
    assert not directory.exists()
    with pytest.raises(DaemonFailed):
        await host.list_addresses()


async def test_a_daemon_that_is_killed_while_its_host_starts_is_named_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No peer is in this network, so the start would go on until its timeout, and blame the peers.
    retry = hivemind_host._retry
    pids: list[int] = []

    async def kill_before_the_second(attempt: Any) -> None:
        if pids:
            os.kill(pids[0], signal.SIGKILL)
        else:
            pids.append(attempt.__self__.daemon_pid)
        await retry(attempt)

    monkeypatch.setattr(hivemind_host, "_retry", kill_before_the_second)
    config = HostConfig(
        key=PeerKey.generate(),
        initial_peers=tuple(await world.honest.list_addresses()),
        network_id=bytes(32),
        startup_timeout_s=TIMEOUT_S,
    )
    with pytest.raises(DaemonFailed, match="p2pd ended"):
        async with HivemindHost.open(config):
            pass
    await _wait_until_gone(pids[0])


async def test_a_frozen_daemon_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesh.p2p.hivemind_host.PROBE_TIMEOUT_S", 0.2)
    config = HostConfig(key=PeerKey.generate(), probe_interval_s=0.1)
    async with HivemindHost.open(config) as host:
        os.kill(host.daemon_pid, signal.SIGSTOP)
        await asyncio.to_thread(_wait_until_stopped, host.daemon_pid)
        try:
            with pytest.raises(DaemonFailed, match="hangs"):
                await asyncio.wait_for(host.watch(), TIMEOUT_S)
        finally:
            os.kill(host.daemon_pid, signal.SIGCONT)


async def test_a_host_whose_reader_has_ended_does_not_live_on_deaf() -> None:
    config = HostConfig(key=PeerKey.generate(), probe_interval_s=0.1)
    async with HivemindHost.open(config) as host:
        host._p2p._client.control._read_task.cancel()
        with pytest.raises(DaemonFailed, match="the connection to p2pd .* has ended"):
            await asyncio.wait_for(host.watch(), TIMEOUT_S)


async def test_a_daemon_that_never_answers_is_not_blamed_on_the_peers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mesh.p2p.daemon._LAUNCHER", "import signal\nsignal.pause()")
    nobody = f"/ip4/127.0.0.1/tcp/9/p2p/{PeerKey.generate().peer_id}"
    config = HostConfig(key=PeerKey.generate(), initial_peers=(nobody,), startup_timeout_s=1)
    with pytest.raises(DaemonFailed, match="p2pd did not answer within 1 s"):
        async with HivemindHost.open(config):
            pass


async def test_a_frozen_daemon_is_blamed_itself_and_no_peer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mesh.p2p.hivemind_host.PROBE_TIMEOUT_S", 0.2)
    somebody = f"/ip4/127.0.0.1/tcp/9/p2p/{PeerKey.generate().peer_id}"
    config = HostConfig(key=PeerKey.generate(), connect_timeout_s=0.2)
    async with HivemindHost.open(config) as host:
        os.kill(host.daemon_pid, signal.SIGSTOP)
        await asyncio.to_thread(_wait_until_stopped, host.daemon_pid)
        try:
            with pytest.raises(DaemonFailed, match=f"process {host.daemon_pid}"):
                await host.connect([somebody])
        finally:
            os.kill(host.daemon_pid, signal.SIGCONT)


def _wait_until_stopped(pid: int) -> None:
    """Wait for every thread: on a busy machine some answer for a moment after the signal."""
    deadline_s = time.monotonic() + 10
    states = {""}
    while states != {"T"} and time.monotonic() < deadline_s:
        stats = [(task / "stat").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
        states = {stat.rpartition(")")[2].split()[0] for stat in stats}
        time.sleep(0.01)


async def test_the_daemon_dies_with_a_killed_parent_and_its_sockets_are_swept() -> None:
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _ORPHAN_SCRIPT, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
    )
    assert parent.stdout is not None
    line = await asyncio.wait_for(parent.stdout.readline(), 60)
    pid_text, directory = line.decode().split()
    assert _is_running(int(pid_text))
    parent.kill()
    await parent.wait()
    await _wait_until_gone(int(pid_text))
    assert _exists(directory)
    async with HivemindHost.open(HostConfig(key=PeerKey.generate())):
        assert not _exists(directory)


async def test_a_closed_host_leaves_neither_process_nor_socket() -> None:
    async with HivemindHost.open(HostConfig(key=PeerKey.generate())) as host:
        pid, directory = host.daemon_pid, host._daemon.directory
        assert directory.stat().st_mode & 0o777 == 0o700
        assert not [path for path in directory.iterdir() if path.suffix not in (".sock", "")]
    assert not _is_running(pid)
    assert not directory.exists()


async def test_closing_while_a_stream_lingers_reports_no_error() -> None:
    """The stream's task is cancelled, which asyncio would report as a failed callback."""
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    is_lingering = asyncio.Event()

    async def answer_once(stream: Stream) -> None:
        await stream.send(await stream.receive())
        is_lingering.set()

    async with open_factory("hivemind") as factory:
        client = await factory.open("client")
        async with HivemindHost.open(HostConfig(key=make_key("lingering"))) as server:
            server.set_network_id(client.network_id)
            server.serve_stream("once", answer_once)
            await client.connect(await server.list_addresses())
            stream = await client.open_stream(server.peer_id, "once", timeout_s=10)
            await stream.send(b"x")
            assert await stream.receive() == b"x"
            await is_lingering.wait()
        await asyncio.sleep(0)
    assert reported == []


@pytest.mark.parametrize("is_earlier", [False, True], ids=["this version", "an earlier version"])
async def test_an_early_stream_is_opened_at_peers_that_know_it_and_another_at_others(
    monkeypatch: pytest.MonkeyPatch, is_earlier: bool
) -> None:
    async def answer_once(stream: Stream) -> None:
        await stream.send(await stream.receive())

    async with open_factory("hivemind") as factory:
        client = await factory.open("client")
        with monkeypatch.context() as earlier:
            if is_earlier:
                earlier.setattr(hivemind_host, "PROTOCOLS", (hivemind_host.RPC_PROTOCOL,))
            server = await factory.open("server")
        server.serve_stream("once", answer_once)
        await client.connect(await server.list_addresses())
        stream = await client.open_stream(server.peer_id, "once", timeout_s=TIMEOUT_S, early=True)
        assert (stream._answer is None) is is_earlier
        await stream.send(b"x")
        assert await stream.receive() == b"x"
        await stream.abort()


async def test_the_identity_is_the_key_and_its_secret_stays_out_of_the_arguments() -> None:
    key = PeerKey.generate()
    async with HivemindHost.open(HostConfig(key=key)) as host:
        assert (await host.list_addresses())[0].endswith(f"/p2p/{key.peer_id}")
        seed = key.to_libp2p()[4:36]
        arguments = _command_line(host.daemon_pid)
        assert seed not in arguments
        assert seed.hex().encode() not in arguments


async def test_p2pd_is_told_to_relay_only_where_that_is_asked_for_and_within_limits() -> None:
    async with HivemindHost.open(HostConfig(key=PeerKey.generate())) as host:
        assert b"-relayService=0\0" in _command_line(host.daemon_pid)
    limits = RelayLimits(max_reservations=2, max_circuits=3, max_time_s=4, max_bytes=5)
    config = HostConfig(key=PeerKey.generate(), relay_service=limits)
    async with HivemindHost.open(config) as host:
        arguments = _command_line(host.daemon_pid).split(b"\0")
    assert {
        b"-relayService=1",
        b"-relayMaxReservations=2",
        b"-relayMaxCircuits=3",
        b"-relayTimeLimit=4s",
        b"-relayDataLimit=5",
    } <= set(arguments)


async def test_connected_peers_are_counted_once_however_they_are_connected() -> None:
    async with HivemindHost.open(HostConfig(key=PeerKey.generate())) as host:
        assert await host.count_peers() == PeerCounts(direct=0, relayed=0)
        addresses = tuple(await host.list_addresses())
        config = HostConfig(key=PeerKey.generate(), initial_peers=addresses)
        async with HivemindHost.open(config) as other:
            assert await other.count_peers() == PeerCounts(direct=1, relayed=0)
            assert await host.count_peers() == PeerCounts(direct=1, relayed=0)


async def test_a_connection_over_a_relay_is_told_from_its_address() -> None:
    relay = f"/ip4/1.2.3.4/tcp/31330/p2p/{AUTHOR.peer_id}"
    assert is_relayed([Multiaddr(f"{relay}/p2p-circuit").to_bytes()])
    assert not is_relayed([Multiaddr(relay).to_bytes()])
    assert not is_relayed([b"\xff\xff\x7f unknown"])


async def test_the_log_says_which_p2pd_it_is(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="mesh.p2p.daemon"):
        async with HivemindHost.open(HostConfig(key=PeerKey.generate())):
            pass
    assert "v0.5.0.hivemind1" in caplog.text
    assert "sha256" in caplog.text


@pytest.mark.parametrize(
    ("cores", "relays", "of_operator", "expected"),
    [
        (4, None, {}, {"GOGC": "400", "GOMEMLIMIT": "256MiB"}),
        (2, None, {}, {"GOGC": "400", "GOMEMLIMIT": "256MiB", "GOMAXPROCS": "1"}),
        (
            2,
            None,
            {"GOGC": "50", "GOMAXPROCS": "2"},
            {"GOGC": "50", "GOMEMLIMIT": "256MiB", "GOMAXPROCS": "2"},
        ),
        (4, RelayLimits(), {}, {"GOMAXPROCS": "1"}),
    ],
    ids=["node", "node on two cores", "operator's choice", "relay"],
)
async def test_p2pd_takes_little_of_a_node_unless_it_relays_or_the_operator_says_otherwise(
    cores: int,
    relays: RelayLimits | None,
    of_operator: dict[str, str],
    expected: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(daemon_module, "_count_cores", lambda: cores)
    names = {"GOGC", "GOMEMLIMIT", "GOMAXPROCS"}
    for name in names:
        monkeypatch.delenv(name, raising=False)
    for name, value in of_operator.items():
        monkeypatch.setenv(name, value)
    config = HostConfig(key=PeerKey.generate(), relay_service=relays)
    async with HivemindHost.open(config) as host:
        raw = await asyncio.to_thread(Path(f"/proc/{host.daemon_pid}/environ").read_bytes)
    pairs = dict(line.split("=", 1) for line in raw.decode().split("\0") if "=" in line)
    assert {name: pairs[name] for name in names & pairs.keys()} == expected


async def test_a_daemon_that_cannot_listen_says_why() -> None:
    config = HostConfig(key=PeerKey.generate(), host_maddrs=("/ip4/203.0.113.1/tcp/1",))
    with pytest.raises(DaemonFailed, match="p2pd ended"):
        async with HivemindHost.open(config):
            pass


async def test_an_absent_first_peer_ends_the_start_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nobody = f"/ip4/127.0.0.1/tcp/9/p2p/{PeerKey.generate().peer_id}"
    monkeypatch.setattr(hivemind_host, "_retry", try_twice)
    config = HostConfig(key=PeerKey.generate(), initial_peers=(nobody,))
    with pytest.raises(TransportError, match="no initial peer answers"):
        async with HivemindHost.open(config):
            pass


async def test_a_host_among_its_own_initial_peers_is_the_first() -> None:
    key = PeerKey.generate()
    own = f"/ip4/127.0.0.1/tcp/9/p2p/{key.peer_id}"
    config = HostConfig(key=key, initial_peers=(own,), network_id=NETWORK_ID)
    async with HivemindHost.open(config) as host:
        assert host.peer_id == key.peer_id
        assert await host.count_peers() == PeerCounts(direct=0, relayed=0)


async def test_a_client_learns_the_network_from_its_first_peer(world: World) -> None:
    async def answer_info(caller: Any, payload: bytes) -> bytes:
        return NETWORK_ID

    world.honest.serve_unary("mesh.info", answer_info, max_request_size=0, any_network=True)
    peers = tuple(await world.honest.list_addresses())
    config = HostConfig(
        key=PeerKey.generate(), initial_peers=peers, client_mode=True, host_maddrs=()
    )
    async with HivemindHost.open(config) as client:
        with pytest.raises(TransportError):
            client.records  # noqa: B018
        server = world.honest.peer_id
        learned = await client.call(server, "mesh.info", b"", timeout_s=TIMEOUT_S)
        client.set_network_id(learned)
        assert await client.call(server, "mesh.info", b"", timeout_s=TIMEOUT_S) == NETWORK_ID


async def test_hivemind_is_quiet_and_leaves_logging_to_us(world: World) -> None:
    library = logging.getLogger("hivemind")
    assert hivemind_logging._default_handler not in library.handlers
    assert library.propagate
    assert library.getEffectiveLevel() == logging.WARNING
    assert logging.getLevelName(logging.WARNING) == "WARNING"


# Places in the DHT


async def test_a_node_sits_at_the_place_of_its_key(world: World) -> None:
    table = _node(world.honest).protocol.routing_table
    place = DHTID.from_bytes(compute_node_id(world.attacker.peer_id))
    assert table.get(peer_id=PeerID(world.attacker.peer_id.to_bytes())) == place


async def test_a_self_chosen_place_is_refused(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = bytes(20)
    monkeypatch.setattr(dht_records, "compute_node_id", lambda peer: chosen)
    peers = tuple(await world.honest.list_addresses())
    monkeypatch.setattr(hivemind_host, "_retry", try_twice)
    config = HostConfig(key=PeerKey.generate(), initial_peers=peers, network_id=NETWORK_ID)
    with pytest.raises(TransportError, match="no initial peer is in this network"):
        async with HivemindHost.open(config):
            pass
    table = _node(world.honest).protocol.routing_table
    assert DHTID.from_bytes(chosen) not in table


async def test_five_peers_that_claim_the_places_nearest_to_a_record_eclipse_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hivemind_host, "_retry", try_twice)
    record = make_record(AUTHOR, b"body", epoch=9)
    key = record_key(record)
    nearest = [DHTID(DHTID.generate(source=key) ^ distance) for distance in range(5)]
    async with open_factory("hivemind") as factory:
        policy = SignedRecordPolicy(AUTHOR)
        hosts = [await factory.open(f"honest {n}", record_policy=policy) for n in range(3)]
        peers = tuple(await hosts[0].list_addresses())
        for place in nearest:
            with monkeypatch.context() as patch:
                patch.setattr(dht_records, "compute_node_id", lambda _, p=place: p.to_bytes())
                config = HostConfig(
                    key=PeerKey.generate(), initial_peers=peers, network_id=NETWORK_ID
                )
                with pytest.raises(TransportError, match="no initial peer is in this network"):
                    async with HivemindHost.open(config):
                        pass
        for host in hosts:
            table = _node(host).protocol.routing_table
            assert not any(place in table for place in nearest)
        assert await hosts[1].records.publish(key, record.to_bytes(), record.expires_at)
        reader = await factory.open("reader", client_mode=True, record_policy=policy)
        found = await reader.records.fetch((key,), timeout_s=TIMEOUT_S)
    assert dict(found) == {key: record.to_bytes()}


async def test_an_answer_from_a_self_chosen_place_is_refused(world: World) -> None:
    attacker = _node(world.attacker).protocol
    honest_info, attacker.node_info = (
        attacker.node_info,
        type(attacker.node_info)(node_id=bytes(20)),
    )
    try:
        peer = PeerID(world.attacker.peer_id.to_bytes())
        assert await _node(world.honest).protocol.call_ping(peer) is None
    finally:
        attacker.node_info = honest_info


async def test_another_network_is_another_dht(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    peers = tuple(await world.honest.list_addresses())
    monkeypatch.setattr(hivemind_host, "_retry", try_twice)
    config = HostConfig(key=PeerKey.generate(), initial_peers=peers, network_id=bytes(32))
    with pytest.raises(TransportError, match="no initial peer is in this network"):
        async with HivemindHost.open(config):
            pass


async def test_who_is_no_member_neither_joins_nor_stores(world: World) -> None:
    member = make_key("member")
    async with open_factory("hivemind") as factory:
        guarded = await factory.open(
            "guarded",
            record_policy=SignedRecordPolicy(AUTHOR),
            is_member=lambda peer: peer == member.peer_id,
        )
        await factory.open("member", record_policy=SignedRecordPolicy(AUTHOR))
        reader = await factory.open("reader", client_mode=True, record_policy=EverythingPolicy())
        record = make_record(AUTHOR, b"body", epoch=1)
        stored = await _node(reader).protocol.call_store(
            PeerID(guarded.peer_id.to_bytes()),
            [DHTID.generate(source=record_key(record))],
            [MSGPackSerializer.dumps(record.to_bytes())],
            float(record.expires_at),
        )
        assert stored is None
        assert len(_node(guarded).protocol.routing_table.peer_id_to_uid) == 1


# Bad records


def _bad_stores() -> dict[str, dict[str, Any]]:
    record = make_record(AUTHOR, b"body", epoch=77)
    key = DHTID.generate(source=record_key(record))
    value = MSGPackSerializer.dumps(record.to_bytes())
    foreign = make_record(make_key("outsider"), b"body", epoch=77)
    good = {"keys": [key], "values": [value], "expiration_time": float(record.expires_at)}
    dictionary = DictionaryDHTValue()
    dictionary.store("subkey", value, float(record.expires_at))
    return {
        "wrong key": {**good, "keys": [DHTID.generate(source=b"elsewhere")]},
        "foreign author": {
            **good,
            "keys": [DHTID.generate(source=record_key(foreign))],
            "values": [MSGPackSerializer.dumps(foreign.to_bytes())],
        },
        "not a number": {**good, "expiration_time": math.nan},
        "never": {**good, "expiration_time": math.inf},
        "later": {**good, "expiration_time": record.expires_at + 1.0},
        "a little later": {**good, "expiration_time": record.expires_at + 0.25},
        "not msgpack": {**good, "values": [b"\xc1" * 50]},
        "text": {**good, "values": [MSGPackSerializer.dumps("text")]},
        "trailing byte": {**good, "values": [value + b"\x00"]},
        "empty": {**good, "values": [b""]},
        "subkey": {**good, "subkeys": ["subkey"]},
        "dictionary": {**good, "values": [dictionary]},
        "in the cache": {**good, "in_cache": True},
    }


@pytest.mark.parametrize("name", list(_bad_stores()))
async def test_a_bad_record_is_not_stored(world: World, name: str) -> None:
    arguments = _bad_stores()[name]
    stored = await _node(world.attacker).protocol.call_store(world.honest_id, **arguments)
    assert not stored or not any(stored)
    protocol = _node(world.honest).protocol
    assert protocol.storage.get(arguments["keys"][0]) is None
    assert protocol.cache.get(arguments["keys"][0]) is None


async def test_nested_dictionaries_do_not_reach_the_decoder(world: World) -> None:
    bomb = b""
    for _ in range(3000):
        size = len(bomb).to_bytes(4, "big")
        bomb = b"\xc9" + size + b"\x50" + bomb
    protocol = _node(world.attacker).protocol
    request = _store_request(bomb)
    with pytest.raises(Exception, match="plain values only"):
        await protocol.get_stub(world.honest_id).rpc_store(request, timeout=5)
    await world.attacker.connect(await world.honest.list_addresses())


def _store_request(bomb: bytes) -> Any:
    from hivemind.proto import dht_pb2

    return dht_pb2.StoreRequest(
        keys=[bytes(20)],
        subkeys=[b""],
        values=[bomb],
        expiration_time=[time.time() + 60],
        in_cache=[False],
    )


@pytest.mark.parametrize("poison", ["garbage", "dictionary", "unsigned"])
async def test_garbage_on_a_replica_never_hangs_a_reader(world: World, poison: str) -> None:
    key = b"poisoned" + poison.encode()
    key_id = DHTID.generate(source=key)
    dictionary = DictionaryDHTValue()
    dictionary.store("subkey", b"\xc1", time.time() + 60)
    value = {
        "garbage": b"\xc1\xc1\xc1",
        "dictionary": dictionary,
        "unsigned": MSGPackSerializer.dumps(b"value"),
    }[poison]
    _node(world.attacker).protocol.storage.store(key_id, value, time.time() + 60)
    started = time.monotonic()
    assert dict(await world.honest.records.fetch([key], timeout_s=TIMEOUT_S)) == {}
    assert time.monotonic() - started < TIMEOUT_S / 2


async def test_a_newcomer_is_handed_more_than_one_message_or_call_can_carry() -> None:
    block_time_s = 16.0
    call_s = compute_timing(block_time_s).request_s

    class SlowPolicy(SignedRecordPolicy):
        """Takes an eighth of a call's time over each record."""

        def admit(self, value: bytes, expires_at: float) -> bytes:
            time.sleep(call_s / 8)
            return super().admit(value, expires_at)

    records = [make_record(AUTHOR, bytes(1 << 20), epoch=epoch) for epoch in range(12)]
    async with open_factory("hivemind") as factory:
        holder = await factory.open(
            "holder", record_policy=SignedRecordPolicy(AUTHOR), block_time_s=block_time_s
        )
        for record in records:
            await holder.records.publish(record_key(record), record.to_bytes(), record.expires_at)
        newcomer = await factory.open("newcomer", record_policy=SlowPolicy(AUTHOR))
        async with asyncio.timeout(8 * TIMEOUT_S):
            while True:
                if len(_node(newcomer).protocol.storage) == len(records):
                    return
                await asyncio.sleep(0.05)


async def test_a_lost_neighbour_is_asked_again_soon(world: World) -> None:
    node: DHTNode = _node(world.honest)
    peer = PeerID(b"absent")
    for _ in range(10):
        node.blacklist.register_failure(peer)
        node.blacklist.banned_peers.clear()
    node.blacklist.register_failure(peer)
    (_, (_, until)) = next(node.blacklist.banned_peers.items())
    assert until - time.time() <= node.blacklist.base_time


async def test_neighbours_that_lost_each_other_meet_again() -> None:
    # Not the attacker: its neighbour refuses what it holds, and hivemind parts from such a one.
    policy = SignedRecordPolicy(AUTHOR)
    async with open_factory("hivemind") as factory:
        first = await factory.open("first", record_policy=policy)
        second = await factory.open("second", record_policy=policy)
        tables = {
            first: (_node(first).protocol.routing_table, PeerID(second.peer_id.to_bytes())),
            second: (_node(second).protocol.routing_table, PeerID(first.peer_id.to_bytes())),
        }
        await _wait_until_neighbours(first, tables.values())
        for table, other in tables.values():
            del table[table.get(peer_id=other)]
        # The first node was given no initial peers; it remembers whom it knew.
        await _wait_until_neighbours(first, tables.values())


async def _wait_until_neighbours(host: HivemindHost, tables: Collection[tuple[Any, Any]]) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            await host._stay_in_touch()
            if all(other in table for table, other in tables):
                return
            await asyncio.sleep(0.05)


async def test_a_foreign_key_type_is_not_dialled(world: World) -> None:
    with pytest.raises(PeerUnreachable):
        await world.honest._daemon.connect(
            PeerKey.generate().peer_id, await world.attacker.list_addresses()
        )
