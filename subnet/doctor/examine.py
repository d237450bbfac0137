"""Finds the node that ``mesh doctor`` examines, running or not, and opens its chain."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from consensus.types import Role, SubnetId, SubnetNodeId
from keys.errors import BadPeerId, KeysError
from keys.identity_file import load_identity_file
from keys.peer import PeerId
from subnet.chain.endpoints import DEFAULT_CHAIN_URL, parse_chain_urls
from subnet.doctor.checks import NODE_CHECKS
from subnet.doctor.finding import Finding, decode_finding, failed, skipped
from subnet.doctor.service import CHECK, DESCRIBE
from subnet.doctor.subject import AskNode, NodeFacts, Subject, parse_facts
from subnet.errors import ChainError, ConfigError, UsageError
from subnet.operator.control import ControlRefused, NodeNotRunning, ask_node, find_running
from subnet.operator.status import NodeStatus, read_statuses

if TYPE_CHECKING:
    from subnet.chain.substrate import SubstrateChain

DESCRIBE_TIMEOUT_S = 20.0
ANSWER_S = 5.0
DEFAULT_IDENTITY = Path("peer_id.key")
ROLES = {role.value: role for role in Role}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the command line names. A running node knows better; None means not named."""

    data_dir: Path
    identity_path: Path | None = None
    hotkey_path: Path | None = None
    chain_url: str | None = None
    subnet_id: int | None = None
    node_id: int | None = None
    model: str | None = None
    port: int | None = None


@asynccontextmanager
async def open_subject(request: Request) -> AsyncIterator[Subject]:
    """Find the node and open its chain, for the length of the block.

    Raises UsageError where several nodes run and none is chosen.
    """
    folder = choose_running(request)
    facts, ask = guess_facts(request), None
    if folder is not None:
        facts, ask = await _meet(folder, facts)
    async with AsyncExitStack() as stack:
        subject = Subject(facts, ask_node=ask)
        try:
            subject = replace(subject, chain=await _open_chain(stack, facts))
            facts = await find_row(subject)
        except ChainError:
            pass  # The check of the endpoints says what is wrong with each.
        yield replace(subject, facts=facts)


async def _meet(folder: Path, guessed: NodeFacts) -> tuple[NodeFacts, AskNode | None]:
    """Return what the running node tells of itself, and how to ask it; else what is guessed."""
    try:
        raw = await ask_node(folder, DESCRIBE, timeout_s=DESCRIBE_TIMEOUT_S)
        return parse_facts(raw), _make_ask(folder)
    except NodeNotRunning:
        return guessed, None
    except TimeoutError:
        return guessed, _answer_always(
            failed("the node runs and does not answer", "look at its log, then start it again")
        )
    except (ControlRefused, KeyError, TypeError, ValueError, BadPeerId):
        return guessed, _answer_always(
            skipped("the running node is of another version", "restart it with this version")
        )


def choose_running(request: Request) -> Path | None:
    """Return the folder of the running node that is meant; None if none runs. Raises UsageError."""
    running = [
        folder
        for folder in find_running(request.data_dir)
        if _is_meant(folder, request.subnet_id, request.node_id)
    ]
    if len(running) > 1:
        names = ", ".join(f"{folder.name}" for folder in running)
        raise UsageError(
            f"several nodes run with their data in {request.data_dir}: {names}",
            "choose one with --subnet and --node",
        )
    return running[0] if running else None


def guess_facts(request: Request) -> NodeFacts:
    """Return what the command line, and the status of the node that ran last, tell."""
    status = _find_last_status(request)
    facts = NodeFacts(
        data_dir=request.data_dir,
        identity_path=request.identity_path or DEFAULT_IDENTITY,
        hotkey_path=request.hotkey_path,
        chain_urls=parse_chain_urls(request.chain_url or DEFAULT_CHAIN_URL),
        subnet_id=None if request.subnet_id is None else SubnetId(request.subnet_id),
        node_id=None if request.node_id is None else SubnetNodeId(request.node_id),
        model=request.model,
        host_maddrs=() if request.port is None else (f"/ip4/0.0.0.0/tcp/{request.port}",),
    )
    facts = replace(facts, peer_id=_read_peer_id(facts.identity_path))
    # A node of another identity ran here last: what it said tells nothing of this one.
    is_other = request.identity_path is not None and facts.peer_id is not None
    if status is not None and not (is_other and status.peer_id != str(facts.peer_id)):
        facts = replace(
            facts,
            peer_id=PeerId.from_base58(status.peer_id),
            subnet_id=None if status.subnet_id is None else SubnetId(status.subnet_id),
            node_id=None if status.subnet_node_id is None else SubnetNodeId(status.subnet_node_id),
            role=ROLES.get(status.role),
            addresses=status.addresses,
        )
    return _name_folder(facts)


async def find_row(subject: Subject) -> NodeFacts:
    """Return the facts with the ids that the chain gives this peer id. Raises ChainError."""
    from subnet.account.registration import find_node_by_peer_id, find_subnet_of_peer

    facts, chain = subject.facts, subject.chain
    if chain is None or facts.peer_id is None:
        return facts
    subnet_id = facts.subnet_id
    if subnet_id is None:
        subnets = await find_subnet_of_peer(chain, facts.peer_id)
        subnet_id = subnets[0] if subnets else None
    if subnet_id is None or facts.node_id is not None:
        return replace(facts, subnet_id=subnet_id)
    node_id = await find_node_by_peer_id(chain, subnet_id=subnet_id, peer_id=facts.peer_id)
    return _name_folder(replace(facts, subnet_id=subnet_id, node_id=node_id))


async def _open_chain(stack: AsyncExitStack, facts: NodeFacts) -> SubstrateChain:
    from subnet.chain.substrate import SubstrateChain

    return await stack.enter_async_context(SubstrateChain.open(facts.chain_urls))


def _make_ask(folder: Path) -> AskNode:
    async def ask(name: str) -> Finding:
        timeout_s = NODE_CHECKS[name].limit_s + ANSWER_S
        try:
            return decode_finding(await ask_node(folder, CHECK, timeout_s=timeout_s, check=name))
        except (NodeNotRunning, ControlRefused) as error:
            return skipped(str(error), error.hint)
        except ValueError as error:
            return skipped(f"the node's answer was not understood: {error}", "restart the node")

    return ask


def _answer_always(finding: Finding) -> AskNode:
    async def ask(name: str) -> Finding:
        return finding

    return ask


def _is_meant(folder: Path, subnet_id: int | None, node_id: int | None) -> bool:
    subnet, _, node = folder.name.partition("-")
    return subnet_id in (None, _parse_id(subnet)) and node_id in (None, _parse_id(node))


def _parse_id(text: str) -> int | None:
    return int(text) if text.isdecimal() else None


def _find_last_status(request: Request) -> NodeStatus | None:
    """Return the newest status of a node that is meant; None if there is none."""
    try:
        statuses = read_statuses(request.data_dir)
    except ConfigError:
        return None
    meant = [
        status
        for status in statuses
        if status.subnet_node_id is not None
        and request.subnet_id in (None, status.subnet_id)
        and request.node_id in (None, status.subnet_node_id)
    ]
    return max(meant, key=lambda status: status.written_at, default=None)


def _read_peer_id(path: Path) -> PeerId | None:
    try:
        return load_identity_file(path).peer_id
    except KeysError:
        return None


def _name_folder(facts: NodeFacts) -> NodeFacts:
    if facts.subnet_id is None or facts.node_id is None:
        return facts
    return replace(facts, folder=facts.data_dir / f"{facts.subnet_id}-{facts.node_id}")
