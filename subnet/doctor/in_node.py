"""Checks that only the running node can do: it has the peers, the model and the epoch's state.

They run in the node, also when ``mesh doctor`` asks for them over the control socket. None of them
signs or publishes anything: what peers are asked about is the heartbeat that the node published.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from consensus.challenge import ModelShape
from consensus.phases import Schedule
from consensus.protocol_params import ConsensusParams
from consensus.roster import Roster
from consensus.types import LayerRange, Role
from keys.envelope import Envelope
from keys.peer import PeerId
from mesh.errors import LayerNotOnDisk, MeshError, ModelError
from mesh.p2p.dial_back import DialBack
from mesh.p2p.interface import Copies
from mesh.routing.directory import KnownServer
from mesh.routing.heartbeat import make_heartbeat_key
from subnet.doctor.finding import Finding, failed, passed, skipped, warned
from subnet.doctor.reach import PEER_TIMEOUT_S, PEERS_ASKED, find_reach
from subnet.doctor.rehearsal import (
    RehearsalFailed,
    compute_relative_distance,
    rehearse_output,
)
from subnet.epoch.author import Author
from subnet.epoch.hoster import build_layer_tasks
from subnet.epoch.interfaces import Inference, LayerRunner
from subnet.probing.verdict import Attempt, Failed, Passed

T = TypeVar("T")


class PeerQuestions(Protocol):
    """What can be asked of peers; satisfied by ``mesh.p2p.peer_checks.PeerChecks``."""

    async def ask_dial_back(
        self, peer: PeerId, addresses: Sequence[str], *, timeout_s: float
    ) -> DialBack: ...

    async def measure_clock(self, peer: PeerId, *, timeout_s: float) -> float: ...

    async def fetch_copies(self, key: bytes, earliest: int) -> Copies: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeExam:
    """What the checks may use of the running node.

    ``list_servers`` returns the announced servers, ``get_heartbeat`` what this node announced last,
    ``get_roster`` the newest roster. ``try_prompt`` sends a prompt through this node's layers as
    its own client; None for a node that serves none. ``open_file_runner`` returns what computes a
    layer from the model's files; None where that is not possible.
    """

    role: Role
    is_unpaid: bool
    author: Author
    shape: ModelShape
    peers: PeerQuestions
    addresses: Callable[[], Sequence[str]]
    list_servers: Callable[[], Sequence[KnownServer]]
    get_heartbeat: Callable[[], Envelope | None]
    get_roster: Callable[[], Roster | None]
    get_inference: Callable[[], Inference | None]
    try_prompt: Callable[[LayerRange], Awaitable[Attempt]] | None
    open_file_runner: Callable[[], LayerRunner | None]

    @property
    def own(self) -> PeerId:
        return self.author.key.peer_id

    @property
    def params(self) -> ConsensusParams:
        return self.author.terms.params

    @property
    def schedule(self) -> Schedule:
        return self.author.terms.schedule

    def list_others(self) -> list[PeerId]:
        """Return the other announced servers in a random order."""
        others = [server.peer_id for server in self.list_servers() if server.peer_id != self.own]
        random.shuffle(others)
        return others


async def check_peers(exam: NodeExam) -> Finding:
    """The node knows other nodes, and all blocks of the model are served."""
    others = exam.list_others()
    if not others:
        return warned(
            "no other node's heartbeat is known",
            "check --initial-peers, and that other nodes run",
        )
    spans = [server.info.span for server in exam.list_servers() if server.info.takes_sessions]
    served = {layer for span in spans if span is not None for layer in range(span.start, span.end)}
    missing = sorted(set(range(exam.shape.num_layers)) - served)
    if missing:
        return warned(
            f"{len(others)} other nodes; no hoster serves block {missing[0]}",
            f"serve it: --block-indices {missing[0]}:{missing[-1] + 1}",
        )
    return passed(f"{len(others)} other nodes; every block is served")


async def check_reachable(exam: NodeExam) -> Finding:
    """Peers dial this node back at the addresses that it announces."""
    return (await find_reach(exam)).finding


async def check_records(exam: NodeExam) -> Finding:
    """The replicas of this node's heartbeat, other nodes, hold what it put there last."""
    found = await _fetch_own(exam)
    if isinstance(found, Finding):
        return found
    own, copies = found
    count = sum(value in own for value in copies.values)
    text = f"{count} of {copies.asked} replicas hold this node's newest heartbeat"
    if not copies.asked:
        return skipped("there is no other replica to ask", "see the check peers")
    if not count:
        return failed(
            f"{text}: what it commits and reveals would not be seen either",
            "check that the peers of --initial-peers are of this network, and restart the node",
        )
    return passed(text)


async def check_elsewhere(exam: NodeExam) -> Finding:
    """No other process announces itself under this node's identity."""
    found = await _fetch_own(exam)
    if isinstance(found, Finding):
        return found
    own, copies = found
    others = [value for value in copies.values if value not in own]
    if others:
        return failed(
            f"another process announces itself as {exam.own}: both sign, and neither counts",
            "stop one of them, or make an identity of its own for it with `mesh keygen`",
        )
    return passed("no heartbeat of this identity but this node's own")


async def check_peer_clocks(exam: NodeExam) -> Finding:
    """This machine's clock agrees with those of peers."""
    answers = await _ask_all(
        exam.list_others(), lambda peer: exam.peers.measure_clock(peer, timeout_s=PEER_TIMEOUT_S)
    )
    if not answers:
        return skipped("no peer tells its time", "see the check peers")
    # The median: one peer may lie.
    ahead_s = sorted(answers)[len(answers) // 2]
    direction = "behind" if ahead_s > 0 else "ahead of"
    text = f"this clock is {abs(ahead_s):.1f} s {direction} the median of {len(answers)} peers"
    fix = "synchronise the clock: timedatectl set-ntp true"
    allowed_s = exam.params.max_clock_skew_s
    if abs(ahead_s) > allowed_s:
        return failed(text, fix)
    return warned(text, fix) if abs(ahead_s) > allowed_s / 3 else passed(text)


async def check_canary(exam: NodeExam) -> Finding:
    """A prompt comes back through this node's own layers, equal to another route's answer."""
    if exam.try_prompt is None:
        return skipped("a validator serves no blocks")
    inference = exam.get_inference()
    if inference is None:
        return warned("the model is still loading", "ask again when the node serves")
    attempt = await exam.try_prompt(inference.layers)
    name = f"blocks {inference.layers}"
    if isinstance(attempt, Passed):
        return passed(f"a prompt was answered through {name}")
    if isinstance(attempt, Failed):
        return failed(
            f"a prompt through {name} failed: {attempt.reason}",
            "restart the node; if it fails again, check the model's files and the device",
        )
    return warned(f"nothing is proven: {attempt.reason}", "see the check peers, and ask again")


async def check_round(exam: NodeExam) -> Finding:
    """A dry run of the epoch's commit and reveal, in less time than the phase has."""
    if exam.is_unpaid:
        return skipped("an --unpaid node commits nothing")
    if exam.role is Role.VALIDATOR:
        return skipped("a validator commits to audits: see the check audit")
    inference, roster = exam.get_inference(), exam.get_roster()
    if inference is None or roster is None:
        return warned("the model or the roster is not there yet", "ask again in an epoch")
    try:
        done = await rehearse_output(
            inference,
            exam.author.make_context(roster.epoch),
            seed=exam.author.terms.compute_challenge(roster).seed,
            shape=exam.shape,
            params=exam.params,
        )
    except RehearsalFailed as error:
        return failed(str(error), "check the model's files and the device")
    return _judge_time(exam, done.seconds, f"commit and reveal of blocks {done.layers} agree")


async def check_audit(exam: NodeExam) -> Finding:
    """One layer from the model's files: it is computed in time, and equals what is served."""
    runner, roster = exam.open_file_runner(), exam.get_roster()
    if runner is None:
        return skipped("the model's files are not here, or --light or --unpaid is given")
    if roster is None:
        return warned("the roster is not there yet", "ask again in an epoch")
    inference = exam.get_inference()
    layers = LayerRange(0, exam.shape.num_layers) if inference is None else inference.layers
    layer = random.randrange(layers.start, layers.end)
    seed = exam.author.terms.compute_challenge(roster).seed
    tasks = build_layer_tasks(seed, (layer,), exam.shape, exam.params)
    began_at = asyncio.get_running_loop().time()
    try:
        (expected,) = await runner.run_tasks(tasks)
    except LayerNotOnDisk as error:
        return warned(str(error), "download the whole model, so that it can be audited")
    except ModelError as error:
        return failed(str(error), "get the model's files again, in the subnet's revision")
    seconds = asyncio.get_running_loop().time() - began_at
    if inference is None:
        return _judge_time(exam, seconds, f"block {layer} was computed from the files")
    (found,) = await inference.run_tasks(tasks)
    distance = compute_relative_distance(found, expected)
    if not distance <= 2.0**-exam.params.tolerance_bits:
        return failed(
            f"block {layer} as it is served is {distance:.1e} away from its files",
            "restart the node; if it fails again, the memory or the device is at fault",
        )
    return _judge_time(exam, seconds, f"block {layer} is served as its files say")


def _judge_time(exam: NodeExam, seconds: float, text: str) -> Finding:
    schedule = exam.schedule
    blocks = schedule.audit_start - schedule.commit_start
    if exam.role is Role.VALIDATOR:
        blocks = schedule.reveal_start - schedule.audit_start
    window_s = blocks * exam.author.terms.block_time_s
    text = f"{text}, {seconds:.1f} s of the {window_s:.0f} s that an epoch has for it"
    fix = "serve fewer blocks, or take a faster device"
    if seconds > window_s:
        return failed(text, fix)
    return warned(text, fix) if 2 * seconds > window_s else passed(text)


async def _fetch_own(exam: NodeExam) -> tuple[frozenset[bytes], Copies] | Finding:
    """Return what this node announced last, and the copies that the replicas hold of it."""
    heartbeat = exam.get_heartbeat()
    if heartbeat is None:
        return warned("the node has not announced itself yet", "ask again in half a minute")
    key = make_heartbeat_key(exam.author.terms.network_id, exam.own)
    copies = await exam.peers.fetch_copies(key, heartbeat.expires_at)
    # The node may have replaced it while the replicas were asked.
    renewed = exam.get_heartbeat() or heartbeat
    return frozenset((heartbeat.to_bytes(), renewed.to_bytes())), copies


async def _ask_all(peers: Sequence[PeerId], ask: Callable[[PeerId], Awaitable[T]]) -> list[T]:
    """Return the answers of at most PEERS_ASKED peers; of twice as many some may be silent."""
    answers: list[T] = []
    for peer in peers[: 2 * PEERS_ASKED]:
        try:
            answers.append(await ask(peer))
        except MeshError:
            continue
        if len(answers) == PEERS_ASKED:
            break
    return answers
