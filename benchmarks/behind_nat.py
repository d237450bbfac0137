"""A hoster behind a router's NAT serves a session through a bootstrap's relay, in namespaces.

    sudo python benchmarks/behind_nat.py          what was seen, as a table
    sudo python benchmarks/behind_nat.py --json   one JSON object

Four namespaces: relay and client have public addresses; the hoster is in a home network behind a
router that masquerades (nftables), so it can dial both, and neither can dial it. The relay is what
``mesh bootstrap`` runs: a host with its relay service and its limits. The hoster gives
``--auto-relay``. Exits with 1 unless the client gets every token of its answer, through the relay.
Needs root, ``ip`` and ``nft``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from mesh.inference.threads import wait_passively

wait_passively()

NEW_TOKENS = 32
PORT = 4001
RELAY_IP, CLIENT_IP, ROUTER_IP, HOME_IP = "11.9.9.9", "11.8.8.8", "11.7.7.7", "192.168.7.2"
"""The first three are public; the namespaces have no way to the real ones."""
MASQUERADE = """
table ip home {
    chain out {
        type nat hook postrouting priority 100; policy accept;
        ip saddr 192.168.7.0/24 masquerade
    }
}
"""
WAIT_S = 180.0


def make_key(number: int) -> Any:
    from keys.peer import PeerKey

    return PeerKey(bytes([number]) * 32)


RELAY, HOSTER, CLIENT = 1, 2, 3


@contextlib.asynccontextmanager
async def open_host(number: int, **options: Any) -> AsyncIterator[Any]:
    from benchmarks.swarm import make_host_config
    from mesh.p2p.hivemind_host import HivemindHost

    if number != RELAY:
        relay = f"/ip4/{RELAY_IP}/tcp/{PORT}/p2p/{make_key(RELAY).peer_id}"
        options["initial_peers"] = (relay,)
    async with HivemindHost.open(make_host_config(make_key(number), **options)) as host:
        yield host


async def run_relay() -> None:
    from benchmarks.swarm import NETWORK_ID
    from mesh.p2p.config import RelayLimits
    from mesh.routing.directory import Directory
    from mesh.routing.info import NetworkInfo

    options = {"host_maddrs": (f"/ip4/0.0.0.0/tcp/{PORT}",), "relay_service": RelayLimits()}
    async with open_host(RELAY, **options) as host:
        directory = Directory(host, network_id=NETWORK_ID)
        directory.serve(lambda: NetworkInfo(NETWORK_ID, bytes(32), "", 0, 0, 0, "benchmark"))
        hoster = make_key(HOSTER).peer_id
        await directory.keep_fresh(lambda: (hoster,), period_s=1.0)


async def run_hoster() -> None:
    from benchmarks.swarm import NETWORK_ID, make_announcer
    from mesh.assets import SHIPPED_MODEL_NAME
    from mesh.inference.engine import Engine
    from mesh.inference.session_server import SessionServer
    from mesh.model.config import load_config
    from mesh.model.files import resolve_known_model
    from mesh.model.weights import load_shard
    from mesh.p2p.addresses import choose_announced
    from mesh.routing.directory import Directory

    folder = resolve_known_model(SHIPPED_MODEL_NAME)
    config = load_config(folder.source)
    listen = (f"/ip4/0.0.0.0/tcp/{PORT}",)
    async with (
        Engine.open(lambda: load_shard(folder, config, start=0, end=config.num_layers)) as engine,
        open_host(HOSTER, host_maddrs=listen, use_auto_relay=True) as host,
        asyncio.TaskGroup() as tasks,
    ):
        directory = Directory(host, network_id=NETWORK_ID)
        SessionServer(host, engine, connect=directory.ensure_connected).register()
        known, addresses = (f"/ip4/{RELAY_IP}/tcp/{PORT}",), ()
        # A node announces anew when the relay is there; here it is waited for.
        while not addresses:
            await asyncio.sleep(0.5)
            addresses = choose_announced(await host.list_addresses(), asked=listen, known=known)
        announcer = make_announcer(
            host, directory, engine, key=make_key(HOSTER), addresses=addresses
        )
        tasks.create_task(engine.serve())
        tasks.create_task(announcer.run())


async def run_client() -> None:
    """Ask for an answer; print what was seen."""
    from benchmarks.swarm import NETWORK_ID
    from mesh.assets import SHIPPED_MODEL_NAME
    from mesh.client.client import MeshClient
    from mesh.client.tokenizer import ChatTokenizer
    from mesh.errors import MeshError
    from mesh.model.config import load_config
    from mesh.model.files import resolve_known_model
    from mesh.routing.directory import Directory

    source = resolve_known_model(SHIPPED_MODEL_NAME).source
    hoster = make_key(HOSTER).peer_id
    async with open_host(CLIENT, host_maddrs=(), client_mode=True) as host:
        client = MeshClient(
            host,
            Directory(host, network_id=NETWORK_ID),
            config=load_config(source),
            tokenizer=ChatTokenizer.load(source),
            peers=(make_key(RELAY).peer_id,),
        )
        async with asyncio.timeout(WAIT_S):
            while not client.directory.list_servers():
                with contextlib.suppress(MeshError):
                    await client.refresh()
                await asyncio.sleep(0.5)
        (server,) = client.directory.list_servers()
        # Before the relay's way is known, which libp2p would take.
        direct = [f"/ip4/{ip}/tcp/{PORT}/p2p/{hoster}" for ip in (ROUTER_IP, HOME_IP)]
        try:
            await host.connect(direct)
            is_direct = True
        except MeshError:
            is_direct = False
        began_s, first_s, count = time.monotonic(), 0.0, 0
        async for _ in client.generate("Once", max_new_tokens=NEW_TOKENS, ignore_eos=True):
            first_s = first_s or time.monotonic() - began_s
            count += 1
        peers = await host.count_peers()
        print(
            json.dumps(
                {
                    "announced": list(server.info.addresses),
                    "can be dialled directly": is_direct,
                    "peers over a relay": peers.relayed,
                    "tokens": count,
                    "first token s": round(first_s, 3),
                    "answer s": round(time.monotonic() - began_s, 3),
                }
            )
        )
        await client.watch.close()


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def _link(one: str, one_address: str, other: str, other_address: str, number: int) -> None:
    """Connect two namespaces by a cable, with an address at each end."""
    ends = ((one, f"mna{number}", one_address), (other, f"mnb{number}", other_address))
    _ip("link", "add", ends[0][1], "type", "veth", "peer", "name", ends[1][1])
    for name, device, address in ends:
        _ip("link", "set", device, "netns", name)
        _ip("-n", name, "addr", "add", f"{address}/24", "dev", device)
        _ip("-n", name, "link", "set", device, "up")


@contextlib.contextmanager
def make_namespaces() -> Iterator[dict[str, str]]:
    """Yield the names of the namespaces. The relay's forwards, as the Internet does."""
    names = {role: f"mesh-nat-{role}" for role in ("relay", "router", "hoster", "client")}
    try:
        for name in names.values():
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", names["relay"], "addr", "add", f"{RELAY_IP}/32", "dev", "lo")
        _link(names["client"], CLIENT_IP, names["relay"], "11.8.8.1", 1)
        _link(names["router"], ROUTER_IP, names["relay"], "11.7.7.1", 2)
        _link(names["hoster"], HOME_IP, names["router"], "192.168.7.1", 3)
        for role, gateway in (
            ("client", "11.8.8.1"),
            ("router", "11.7.7.1"),
            ("hoster", "192.168.7.1"),
        ):
            _ip("-n", names[role], "route", "add", "default", "via", gateway)
        for role in ("relay", "router"):
            _in(names[role], "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        _in(names["router"], "nft", "-f", "-", given=MASQUERADE)
        yield names
    finally:
        for name in names.values():
            subprocess.run(["ip", "netns", "del", name], check=False, stderr=subprocess.DEVNULL)


def _in(name: str, *command: str, given: str | None = None) -> None:
    subprocess.run(["ip", "netns", "exec", name, *command], check=True, text=True, input=given)


def measure() -> dict[str, Any]:
    """Run the three processes; return what the client saw."""
    with make_namespaces() as names, contextlib.ExitStack() as stack:

        def start(role: str, **options: Any) -> subprocess.Popen[str]:
            command = [sys.executable, __file__, "--role", role]
            process = subprocess.Popen(
                ["ip", "netns", "exec", names[role], *command], text=True, **options
            )
            stack.callback(process.wait)
            stack.callback(process.terminate)
            return process

        start("relay")
        start("hoster")
        client = start("client", stdout=subprocess.PIPE)
        said, _ = client.communicate(timeout=2 * WAIT_S)
        seen: dict[str, Any] = json.loads(said)
        return seen


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--role", choices=("relay", "hoster", "client"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.role is not None:
        run = {"relay": run_relay, "hoster": run_hoster, "client": run_client}[args.role]
        asyncio.run(run())
        return 0
    seen = measure()
    if args.json:
        print(json.dumps(seen))
    else:
        for name, value in seen.items():
            print(f"{name}: {value}")
    is_good = seen["tokens"] == NEW_TOKENS and seen["peers over a relay"] == 1
    return 0 if is_good and not seen["can be dialled directly"] else 1


if __name__ == "__main__":
    sys.exit(main())
