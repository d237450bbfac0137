"""The table of all checks, in the order in which they are shown, and what runs one of them.

A check that cannot be made is SKIP and says why, so that the table is always whole: on an empty
home, without a chain, and while no node runs.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keys.errors import KeysError
from mesh.errors import MeshError
from subnet.doctor import in_node, machine, on_chain
from subnet.doctor.finding import Finding, Outcome, failed, skipped
from subnet.doctor.subject import Subject
from subnet.errors import ChainUnavailable, SubnetError

if TYPE_CHECKING:
    from subnet.chain.substrate import SubstrateChain
    from subnet.doctor.in_node import NodeExam

MAX_LIMIT_S = 120.0
ANSWER_S = 10.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check: its name, its time limit, and one of three functions, by what it needs.

    ``here`` needs files and this machine, ``chain`` a chain that answers, ``node`` the running
    node. ``is_hourly`` checks cost little and are made by the node itself every hour.
    """

    name: str
    limit_s: float
    here: Callable[[Subject], Awaitable[Finding]] | None = None
    chain: Callable[[SubstrateChain, Subject], Awaitable[Finding]] | None = None
    node: Callable[[NodeExam], Awaitable[Finding]] | None = None
    is_hourly: bool = True


CHECKS = (
    Check(name="identity", here=machine.check_identity, limit_s=5),
    Check(name="hotkey", here=machine.check_hotkey, limit_s=5),
    Check(name="folder", here=machine.check_folder, limit_s=5),
    Check(name="disk", here=machine.check_disk, limit_s=5),
    Check(name="memory", here=machine.check_memory, limit_s=5),
    Check(name="ports", here=machine.check_ports, limit_s=10),
    # The node's own p2pd is watched all the time.
    Check(name="p2pd", here=machine.check_p2pd, limit_s=45, is_hourly=False),
    Check(name="endpoints", here=on_chain.check_endpoints, limit_s=45),
    Check(name="clock", chain=on_chain.check_clock, limit_s=30),
    Check(name="epoch", chain=on_chain.check_epoch, limit_s=30),
    Check(name="registration", chain=on_chain.check_registration, limit_s=30),
    Check(name="class", chain=on_chain.check_class, limit_s=30),
    Check(name="stake", chain=on_chain.check_stake, limit_s=30),
    Check(name="balance", chain=on_chain.check_balance, limit_s=30),
    Check(name="score", chain=on_chain.check_score, limit_s=30),
    Check(name="manifest", chain=on_chain.check_manifest, limit_s=45),
    Check(name="peers", node=in_node.check_peers, limit_s=10),
    Check(name="peer clocks", node=in_node.check_peer_clocks, limit_s=75),
    Check(name="reachable", node=in_node.check_reachable, limit_s=75),
    Check(name="records", node=in_node.check_records, limit_s=30),
    Check(name="elsewhere", node=in_node.check_elsewhere, limit_s=30),
    Check(name="canary", node=in_node.check_canary, limit_s=90, is_hourly=False),
    Check(name="round", node=in_node.check_round, limit_s=MAX_LIMIT_S, is_hourly=False),
    Check(name="audit", node=in_node.check_audit, limit_s=MAX_LIMIT_S, is_hourly=False),
)
"""Every check, each once."""

NODE_CHECKS = {check.name: check for check in CHECKS if check.node is not None}


async def run_checks(
    subject: Subject, checks: tuple[Check, ...] = CHECKS
) -> AsyncIterator[Outcome]:
    """Make one check after the other, in the order of the table. Never raises."""
    for check in checks:
        began_at = time.monotonic()
        # The running node ends a check of its own at the limit, and its answer travels.
        limit_s = check.limit_s if check.node is None else check.limit_s + ANSWER_S
        finding = await _guard(check, _choose(check, subject), limit_s=limit_s)
        yield Outcome(check.name, finding, time.monotonic() - began_at)


async def run_in_node(check: Check, exam: NodeExam) -> Finding:
    """Make a check of the running node, in the node. Never raises."""
    assert check.node is not None
    return await _guard(check, check.node(exam), limit_s=check.limit_s)


async def _choose(check: Check, subject: Subject) -> Finding:
    if check.here is not None:
        return await check.here(subject)
    if check.chain is not None:
        if subject.chain is None:
            return skipped("the chain does not answer", "see the check endpoints")
        return await check.chain(subject.chain, subject)
    if subject.ask_node is None:
        return skipped("no node runs here", "start it with mesh-test")
    return await subject.ask_node(check.name)


async def _guard(check: Check, finding: Awaitable[Finding], *, limit_s: float) -> Finding:
    """Return the finding, or one about what ended the check."""
    try:
        async with asyncio.timeout(limit_s):
            return await finding
    except TimeoutError:
        return failed(f"no result within {limit_s:.0f} s", "look at the node's log, and ask again")
    except ChainUnavailable:
        # Its words name the whole address, with what may be a token.
        return skipped("the chain does not answer", "see the check endpoints")
    except (SubnetError, KeysError, MeshError, OSError) as error:
        hint = getattr(error, "hint", "look at the node's log, and ask again")
        return failed(str(error) or type(error).__name__, str(hint))
    except Exception as error:
        # A diagnosis must never end the node that it examines.
        logger.exception("the check %s failed", check.name)
        return failed(
            f"the check itself failed: {type(error).__name__}: {error}",
            "report this with the log",
        )
