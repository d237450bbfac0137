"""The programs of a local network's processes: node, client, gateway."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

from consensus.types import LayerRange, Role
from keys.identity_file import load_identity_file
from mesh.api.server import ServeConfig
from mesh.client.client import MeshClient
from mesh.client.route_search import RoutingOptions
from mesh.errors import NoRoute
from subnet.epoch.observer import EpochScored, NodeEvent, log_event
from subnet.gateway import ClientConfig, open_client, run_gateway
from subnet.localnet.chain_setup import derive_account
from subnet.localnet.processes import Message, Send
from subnet.node.run import run_node
from subnet.operator.config import NodeConfig
from subnet.operator.interrupts import run_interruptible
from subnet.operator.logs import LogOptions, configure_logs
from subnet.operator.monitor_options import MonitorOptions
from subnet.operator.preflight import prepare

ROUTE_RETRY_S = 0.5
ROUTE_TIMEOUT_S = 90.0


def run_node_child(config: Message, send: Send) -> None:
    """Run one node; report ``ready`` with its addresses and each ``scored`` epoch.

    Without ``initial_peers`` it asks the chain for them, and without ``announce_maddrs`` others
    dial what it listens on.
    """
    configure_logs(LogOptions(as_json=True))
    asyncio.run(_run_node(config, send))


async def _run_node(config: Message, send: Send) -> None:
    layers, monitor_port = config["blocks"], config.get("monitor_port")
    prepared = await prepare(
        NodeConfig(
            model=config["model"],
            role=Role(config["role"]),
            identity_path=Path(config["identity_path"]),
            chain_url=config["chain_url"],
            subnet=str(config["subnet_id"]),
            host_maddrs=tuple(config["host_maddrs"]),
            announce_maddrs=tuple(config.get("announce_maddrs", ())),
            initial_peers=tuple(config.get("initial_peers", ())),
            new_swarm=config["new_swarm"],
            layer_indices=None if layers is None else LayerRange(*layers),
            threads=1,
            data_dir=Path(config["data_dir"]),
            monitor=None if monitor_port is None else MonitorOptions(monitor_port),
        ),
        hotkey=derive_account(config["hotkey_account"]),
    )

    def observe(event: NodeEvent) -> None:
        log_event(event)
        if isinstance(event, EpochScored):
            send({"kind": "scored", "report": event.report.to_json()})

    def on_ready(addresses: tuple[str, ...]) -> None:
        send({"kind": "ready", "addresses": list(addresses)})

    await run_node(prepared, observe=observe, on_ready=on_ready)


def run_client_child(config: Message, send: Send) -> None:
    """Ask one question; report each ``piece`` of the answer and its ``route``."""
    configure_logs(LogOptions(as_json=True))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    asyncio.run(_ask(config, send))


async def _ask(config: Message, send: Send) -> None:
    client_config = ClientConfig(
        initial_peers=tuple(config["initial_peers"]),
        key=load_identity_file(Path(config["identity_path"])),
        model=config["model"],
    )
    async with open_client(client_config) as client:
        await _wait_for_route(client, config["max_layers_per_hop"])
        async for piece in client.generate(
            [{"role": "user", "content": config["prompt"]}],
            max_new_tokens=config["max_new_tokens"],
            routing=RoutingOptions(max_layers_per_hop=config["max_layers_per_hop"]),
        ):
            send({"kind": "piece", "text": piece.text})
            if piece.finish_reason is not None:
                send(
                    {
                        "kind": "answered",
                        "route": [
                            {"peer_id": hop.peer_id, "blocks": [hop.start, hop.end]}
                            for hop in piece.trace.route
                        ],
                        "tokens_per_second": piece.trace.tokens_per_second,
                    }
                )


def run_gateway_child(config: Message, send: Send) -> None:
    """Answer HTTP on loopback, without a key; report ``listening`` with the URL."""
    configure_logs(LogOptions(as_json=True))
    gateway = run_gateway(
        ClientConfig(initial_peers=tuple(config["initial_peers"]), model=config["model"]),
        ServeConfig(port=config["port"]),
        max_layers_per_hop=config["max_layers_per_hop"],
        on_start=lambda url: send({"kind": "listening", "url": url}),
    )
    asyncio.run(run_interruptible(gateway))


async def _wait_for_route(client: MeshClient, max_layers_per_hop: int) -> None:
    """Wait until heartbeats cover every layer: they travel with the first epochs."""
    routing = RoutingOptions(max_layers_per_hop=max_layers_per_hop)
    async with asyncio.timeout(ROUTE_TIMEOUT_S):
        while True:
            await client.refresh()
            try:
                client.planner.plan(routing, exclude=set(), cache_tokens=0)
            except NoRoute:
                await asyncio.sleep(ROUTE_RETRY_S)
            else:
                return
