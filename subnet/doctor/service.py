"""The running node's side of ``mesh doctor``: what it tells of itself, and checks that it makes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from consensus.types import LayerRange, SubnetNodeId
from mesh.p2p.interface import Host
from subnet.chain.endpoints import parse_chain_urls
from subnet.doctor.checks import NODE_CHECKS, run_in_node
from subnet.doctor.finding import encode_finding
from subnet.doctor.in_node import NodeExam
from subnet.doctor.subject import NodeFacts
from subnet.operator.control import ControlRefused, Method
from subnet.operator.preflight import PreparedNode
from subnet.probing.prober import ProbeContext, Prober, ProbeTarget
from subnet.probing.verdict import Attempt

DESCRIBE, CHECK = "doctor.describe", "doctor.check"


def make_facts(prepared: PreparedNode, addresses: Sequence[str]) -> NodeFacts:
    """Return what is known about a running node."""
    config = prepared.config
    return NodeFacts(
        data_dir=prepared.data_dir.parent.absolute(),
        identity_path=config.identity_path.absolute(),
        folder=prepared.data_dir.absolute(),
        hotkey_path=None if config.hotkey_path is None else config.hotkey_path.absolute(),
        hotkey=None if prepared.hotkey is None else prepared.hotkey.address,
        chain_urls=parse_chain_urls(config.chain_url),
        peer_id=prepared.key.peer_id,
        subnet_id=prepared.subnet_id,
        node_id=prepared.node_id,
        role=config.role,
        model=str(prepared.folder.gguf or prepared.folder.path),
        is_unpaid=config.unpaid,
        host_maddrs=config.get_host_maddrs(),
        addresses=tuple(addresses),
    )


def make_methods(get_facts: Callable[[], NodeFacts], exam: NodeExam) -> Mapping[str, Method]:
    """Return what the control socket answers: one check at a time, none of which signs."""
    turn = asyncio.Lock()

    async def describe(request: Mapping[str, Any]) -> Mapping[str, Any]:
        return get_facts().to_json()

    async def make_check(request: Mapping[str, Any]) -> Mapping[str, Any]:
        check = NODE_CHECKS.get(str(request.get("check")))
        if check is None:
            raise ControlRefused("it knows no such check", "restart the node with this version")
        async with turn:
            return encode_finding(await run_in_node(check, exam))

    return {DESCRIBE: describe, CHECK: make_check}


async def try_own_prompt(
    context: ProbeContext, host: Host, node_id: SubnetNodeId, layers: LayerRange
) -> Attempt:
    """Send a prompt through this node's own layers, as a client with this node's own host.

    Its own addresses are not dialled: a router may not lead back into its own network.
    """

    @asynccontextmanager
    async def open_own() -> AsyncIterator[Host]:
        yield host

    prober = Prober(replace(context, open_client=open_own))
    return await prober.attempt(ProbeTarget(node_id, host.peer_id, layers))
