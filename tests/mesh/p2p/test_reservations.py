"""A node that nobody can dial is reached through a relay, within the relay's limits."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from mesh.errors import PeerUnreachable, StreamBroken
from mesh.p2p import reservations
from mesh.p2p.addresses import RELAYED, choose_announced, encode_address
from mesh.p2p.config import HostConfig, RelayLimits
from mesh.p2p.hivemind_host import HivemindHost
from mesh.p2p.reservations import Reservation, decode_reservation, encode_reserve
from tests.support.p2p import make_key

WAIT_S = 30.0
RELAY, HIDDEN, CLIENT = (make_key(name) for name in ("relay", "hidden", "client"))


async def echo(stream):
    while True:
        await stream.send(await stream.receive())


def make_relay(port=0, **limits):
    return HostConfig(
        key=RELAY,
        host_maddrs=(f"/ip4/127.0.0.1/tcp/{port}",),
        relay_service=RelayLimits(**limits),
    )


def make_hidden(relay_address):
    """It listens nowhere: no peer can dial it."""
    return HostConfig(
        key=HIDDEN,
        host_maddrs=(),
        client_mode=True,
        initial_peers=(relay_address,),
        use_auto_relay=True,
    )


def find_relayed(addresses):
    return [address for address in addresses if RELAYED in address]


async def open_client(stack):
    return await stack.enter_async_context(
        HivemindHost.open(HostConfig(key=CLIENT, host_maddrs=(), client_mode=True))
    )


async def test_a_stream_to_a_node_that_listens_nowhere_goes_through_the_relay():
    async with AsyncExitStack() as stack:
        relay = await stack.enter_async_context(HivemindHost.open(make_relay()))
        (relay_address,) = await relay.list_addresses()
        hidden = await stack.enter_async_context(HivemindHost.open(make_hidden(relay_address)))
        hidden.serve_stream("echo", echo)
        client = await open_client(stack)
        with pytest.raises(PeerUnreachable):
            await client.open_stream(hidden.peer_id, "echo", timeout_s=WAIT_S)
        (address,) = find_relayed(await hidden.list_addresses())
        assert address == f"{relay_address}/p2p-circuit/p2p/{hidden.peer_id}"
        await client.connect([address])
        stream = await client.open_stream(hidden.peer_id, "echo", timeout_s=WAIT_S)
        for size in (1, 1 << 20):
            await stream.send(bytes(size))
            assert await stream.receive() == bytes(size)
        await stream.abort()
        assert (await hidden.count_peers()).relayed == 1


async def test_a_relay_ends_a_connection_over_its_limit_and_the_next_one_begins_anew(monkeypatch):
    monkeypatch.setattr(reservations, "MIN_BYTES", 1)
    async with AsyncExitStack() as stack:
        relay = await stack.enter_async_context(HivemindHost.open(make_relay(max_bytes=1 << 20)))
        (relay_address,) = await relay.list_addresses()
        hidden = await stack.enter_async_context(HivemindHost.open(make_hidden(relay_address)))
        hidden.serve_stream("echo", echo)
        client = await open_client(stack)
        addresses = find_relayed(await hidden.list_addresses())
        await client.connect(addresses)
        stream = await client.open_stream(hidden.peer_id, "echo", timeout_s=WAIT_S)
        with pytest.raises(StreamBroken):
            async with asyncio.timeout(WAIT_S):
                for _ in range(16):
                    await stream.send(bytes(1 << 18))
                    await stream.receive()
        await client.connect(addresses)
        stream = await client.open_stream(hidden.peer_id, "echo", timeout_s=WAIT_S)
        await stream.send(b"again")
        assert await stream.receive() == b"again"
        await stream.abort()


async def test_a_relay_that_drops_and_comes_back_is_asked_again(monkeypatch):
    monkeypatch.setattr(reservations, "RENEW_S", 0.2)
    monkeypatch.setattr(reservations, "RETRY_S", 0.2)
    async with AsyncExitStack() as stack:
        async with HivemindHost.open(make_relay()) as relay:
            (relay_address,) = await relay.list_addresses()
            port = int(relay_address.split("/")[4])
            hidden = await stack.enter_async_context(HivemindHost.open(make_hidden(relay_address)))
            assert find_relayed(await hidden.list_addresses())
        await wait_until(hidden, has_relay=False)
        await stack.enter_async_context(HivemindHost.open(make_relay(port)))
        await wait_until(hidden, has_relay=True)


async def wait_until(host, *, has_relay):
    async with asyncio.timeout(WAIT_S):
        while True:
            if bool(find_relayed(await host.list_addresses())) is has_relay:
                return
            await asyncio.sleep(0.1)


async def test_a_relay_has_the_limits_that_it_was_given_at_every_start():
    for _ in range(5):
        async with AsyncExitStack() as stack:
            relay = await stack.enter_async_context(HivemindHost.open(make_relay()))
            (address,) = await relay.list_addresses()
            hidden = await stack.enter_async_context(HivemindHost.open(make_hidden(address)))
            assert find_relayed(await hidden.list_addresses())


async def test_a_peer_that_is_not_asked_to_relay_takes_no_reservation_after_any_start():
    """p2pd itself would: its arguments are not enough."""
    for _ in range(5):
        async with AsyncExitStack() as stack:
            plain = HostConfig(key=RELAY, host_maddrs=("/ip4/127.0.0.1/tcp/0",))
            peer = await stack.enter_async_context(HivemindHost.open(plain))
            (address,) = await peer.list_addresses()
            hidden = await stack.enter_async_context(HivemindHost.open(make_hidden(address)))
            assert find_relayed(await hidden.list_addresses()) == []
            with pytest.raises(PeerUnreachable, match="it is no relay"):
                await hidden._reservations._reserve(RELAY.peer_id)


def test_a_reservation_that_grants_too_little_is_not_enough():
    assert Reservation(600, 1 << 28).is_enough and Reservation(0, 0).is_enough
    assert not Reservation(120, 1 << 17).is_enough
    assert not Reservation(30, 1 << 28).is_enough


def test_the_request_is_the_one_of_circuit_relay_2():
    assert encode_reserve() == bytes.fromhex("020800")


def test_an_answer_grants_or_says_why_not():
    limit = bytes.fromhex("08d804" + "1080808080" + "01")
    granted = bytes.fromhex("0802" + "22") + bytes([len(limit)]) + limit + bytes.fromhex("2864")
    assert decode_reservation(granted) == Reservation(600, 1 << 28)
    assert decode_reservation(bytes.fromhex("08022864")) == Reservation(0, 0)
    assert decode_reservation(bytes.fromhex("080228c901")) == "its reservations are all taken"


MALFORMED = {
    "empty": "",
    "no answer": "08002864",
    "no status": "0802",
    "cut off": "080222052864",
    "a limit that is no number": "080222020a002864",
}


@pytest.mark.parametrize("answer", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_answer_is_refused(answer):
    with pytest.raises(ValueError):
        decode_reservation(bytes.fromhex(answer))


def test_a_relayed_address_names_the_relay_as_libp2p_reads_it():
    raw = encode_address(f"/ip4/1.2.3.4/tcp/5/p2p/{RELAY.peer_id}/p2p-circuit")
    assert raw == bytes.fromhex("0401020304060005a50326") + RELAY.peer_id.to_bytes() + b"\xa2\x02"
    assert encode_address("/dns4/a.b/tcp/5") == bytes.fromhex("3603" + "612e62" + "060005")


HOME, OUTER = "/ip4/192.168.1.7/tcp/4001", "/ip4/9.9.9.9/tcp/4001"
LOOPBACK, FRIEND = "/ip4/127.0.0.1/tcp/4001", "/ip4/8.8.8.8/tcp/1"


@pytest.mark.parametrize(
    ("addresses", "asked", "known", "announced"),
    [
        ((HOME, LOOPBACK, OUTER), (), (), (OUTER,)),
        ((HOME, LOOPBACK), (), (FRIEND,), ()),
        ((HOME, LOOPBACK), ("/ip4/192.168.1.7/tcp/4001",), (FRIEND,), (HOME,)),
        ((HOME, LOOPBACK), ("/ip4/0.0.0.0/tcp/4001",), (FRIEND,), ()),
        # A network of one machine or one home: its addresses are all that there is.
        ((HOME, LOOPBACK), (), ("/ip4/127.0.0.1/tcp/9",), (HOME, LOOPBACK)),
    ],
)
def test_addresses_of_a_home_are_published_only_where_they_are_asked_for(
    addresses, asked, known, announced
):
    assert choose_announced(addresses, asked=asked, known=known) == announced
