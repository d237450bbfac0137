"""The program of one node under test: mesh-test's own, with addresses that outlive it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from consensus.types import LayerRange, Role
from subnet.epoch.observer import EpochScored, NodeEvent, log_event
from subnet.localnet.chain_setup import derive_account
from subnet.localnet.processes import Message, Send
from subnet.node import run_node
from subnet.operator.config import NodeConfig
from subnet.operator.logs import configure_logs
from subnet.operator.preflight import prepare


def run_chaos_node(config: Message, send: Send) -> None:
    """Run one node; report ``ready`` and each ``scored`` epoch."""
    configure_logs(as_json=True)
    asyncio.run(_run_node(config, send))


async def _run_node(config: Message, send: Send) -> None:
    layers = config["blocks"]
    prepared = await prepare(
        NodeConfig(
            model=config["model"],
            role=Role(config["role"]),
            identity_path=Path(config["identity_path"]),
            chain_url=config["chain_url"],
            subnet_id=config["subnet_id"],
            host_maddrs=tuple(config["host_maddrs"]),
            initial_peers=() if config["new_swarm"] else tuple(config["initial_peers"]),
            new_swarm=config["new_swarm"],
            layer_indices=None if layers is None else LayerRange(*layers),
            threads=1,
            data_dir=Path(config["data_dir"]),
        ),
        hotkey=derive_account(config["hotkey_account"]),
    )

    def observe(event: NodeEvent) -> None:
        log_event(event)
        if isinstance(event, EpochScored):
            send({"kind": "scored", "report": event.report.to_json()})

    await run_node(prepared, observe=observe, on_ready=lambda _: send({"kind": "ready"}))
