"""Whether others can dial this node: asked at its start and from then on, told when it changes.

Peers are asked to dial back (AutoNAT), each from a host of its own. ``mesh doctor`` shows the same
answer in its row ``reachable``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from keys.peer import PeerId
from mesh.errors import MeshError
from mesh.p2p.addresses import RELAYED, is_private
from mesh.p2p.dial_back import DialBack, DialStatus, Reach
from subnet.doctor.finding import Finding, failed, passed, skipped, warned

if TYPE_CHECKING:
    from subnet.doctor.in_node import NodeExam

PEERS_ASKED = 3
PEER_TIMEOUT_S = 10.0
FIRST_PERIOD_S = 20.0
"""Between two questions until the answer is known: a peer dials back three times a minute."""
PERIOD_S = 600.0
PUBLIC_EXAMPLE = "--public-ip IP --port PORT"
OPEN_PORT = (
    f"let TCP in at the port, and announce the outer address: {PUBLIC_EXAMPLE}, or "
    "--announce-maddrs /ip4/IP/tcp/PORT where the outer port is another one"
)
USE_RELAY = "; where that is not possible, give --auto-relay"

logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ReachAnswer:
    """What peers say, and how ``mesh doctor`` shows it."""

    reach: Reach
    finding: Finding


async def find_reach(exam: NodeExam) -> ReachAnswer:
    """Have peers dial this node back at the addresses that it announces. Never raises PeerError."""
    addresses, others = exam.addresses(), exam.list_others()
    if not others:
        finding = skipped("there is no peer to dial back", "see the check peers")
        return ReachAnswer(Reach.UNKNOWN, finding)
    answers = await _ask_all(exam, others, addresses)
    statuses = [answer.status for answer in answers]
    reached = statuses.count(DialStatus.REACHED)
    if reached:
        return ReachAnswer(Reach.DIRECT, passed(f"{reached} of {len(answers)} peers dialled back"))
    is_relayed = any(RELAYED in address for address in addresses)
    if DialStatus.NOT_REACHED in statuses:
        text = f"no peer of {len(answers)} reaches {list_direct(addresses)}"
        if is_relayed:
            text += "; it is reached through a relay, which is slower"
            return ReachAnswer(Reach.RELAYED, warned(text, OPEN_PORT))
        return ReachAnswer(Reach.NONE, failed(text, OPEN_PORT + USE_RELAY))
    direct = [address for address in addresses if RELAYED not in address]
    if is_relayed and all(map(is_private, direct)):
        text = f"{list_direct(addresses)}; it is reached through a relay, which is slower"
        return ReachAnswer(Reach.RELAYED, warned(text, OPEN_PORT))
    if all(map(is_private, addresses)):
        return _judge_private(exam, addresses)
    said = next((answer.text for answer in answers if answer.text), "no peer answers")
    finding = warned(f"peers did not try: {said}", "ask again in a minute")
    return ReachAnswer(Reach.UNKNOWN, finding)


def _judge_private(exam: NodeExam, addresses: Sequence[str]) -> ReachAnswer:
    """Say what private addresses mean: fine where all nodes have such, else no peer gets in."""
    theirs = [
        address
        for server in exam.list_servers()
        if server.peer_id != exam.own
        for address in server.info.addresses
    ]
    text = f"all addresses are of this machine or network: {list_direct(addresses)}"
    if not addresses:
        text = "no address is announced: those of this machine and its network are kept private"
    if addresses and all(map(is_private, theirs)):
        return ReachAnswer(Reach.PRIVATE, passed(f"{text}; so are those of all peers"))
    fix = f"announce the outer address: {PUBLIC_EXAMPLE}{USE_RELAY}"
    return ReachAnswer(Reach.NONE, failed(f"{text}; peers elsewhere cannot reach it", fix))


async def _ask_all(
    exam: NodeExam, others: Sequence[PeerId], addresses: Sequence[str]
) -> list[DialBack]:
    """Return the answers of at most PEERS_ASKED peers; of twice as many some may be silent."""
    answers: list[DialBack] = []
    for peer in others[: 2 * PEERS_ASKED]:
        try:
            answer = await exam.peers.ask_dial_back(peer, addresses, timeout_s=PEER_TIMEOUT_S)
        except MeshError:
            continue
        answers.append(answer)
        if len(answers) == PEERS_ASKED:
            break
    return answers


def list_direct(addresses: Sequence[str]) -> str:
    """Return the addresses that are the node's own, in words."""
    direct = [text.partition("/p2p/")[0] for text in addresses if RELAYED not in text]
    return ", ".join(direct) or "no address of its own"


class ReachWatch:
    """Asks again and again, and tells what changed. ``reach`` is what was found last."""

    def __init__(self, get_exam: Callable[[], NodeExam]) -> None:
        self._get_exam = get_exam
        self.reach = Reach.UNKNOWN

    async def run(self) -> None:
        """Ask until cancelled: a task of the node's group."""
        while True:
            await self.ask()
            is_known = self.reach is not Reach.UNKNOWN
            await asyncio.sleep(PERIOD_S if is_known else FIRST_PERIOD_S)

    async def ask(self) -> Reach:
        """Ask once. What peers did not try does not change what was found before."""
        answer = await find_reach(self._get_exam())
        before, now = self.reach, answer.reach
        if now in (before, Reach.UNKNOWN):
            return before
        self.reach = now
        finding = answer.finding
        if now is Reach.NONE:
            logger.warning("no peer can dial this node", detail=finding.detail, fix=finding.fix)
        elif now is Reach.RELAYED:
            logger.info(
                "peers reach this node through a relay", detail=finding.detail, fix=finding.fix
            )
        else:
            logger.info("peers can dial this node", detail=finding.detail)
        return now
