"""Faults that only the running node can see: each check finds its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from consensus.protocol_params import MAINNET
from consensus.types import LayerRange, Role, SubnetId, SubnetNodeId
from keys.envelope import Envelope
from keys.peer import PeerId, PeerKey
from mesh.errors import LayerNotOnDisk, ModelError, PeerUnreachable
from mesh.model.config import LayerSpan
from mesh.p2p.dial_back import DialBack, DialStatus
from mesh.p2p.interface import Copies
from mesh.routing.directory import KnownServer
from mesh.routing.heartbeat import ServerInfo, ServerRole, ServerState, seal_heartbeat
from subnet.doctor.finding import CheckStatus, Finding
from subnet.doctor.in_node import (
    NodeExam,
    check_audit,
    check_canary,
    check_elsewhere,
    check_peer_clocks,
    check_peers,
    check_reachable,
    check_records,
    check_round,
)
from subnet.epoch.author import Author
from subnet.epoch.interfaces import Inference, LayerRunner, LayerTask
from subnet.epoch.terms import SubnetTerms
from subnet.probing.verdict import Attempt, Failed, Passed, Unclear
from tests.support.epoch_records import NETWORK, SHAPE, WHOLE, get_key, make_roster
from tests.support.fakes import FakeInference, Vector

TERMS = SubnetTerms(SubnetId(7), NETWORK, 100, 6000, MAINNET)
KEY = get_key(1)
PUBLIC, PRIVATE = "/ip4/8.8.8.8/tcp/31330", "/ip4/192.168.1.5/tcp/31330"
RELAYED = f"/ip4/8.8.4.4/tcp/1/p2p/{get_key(2).peer_id}/p2p-circuit"
EXPIRES_AT = 1_700_000_010
MODEL_SPAN = LayerSpan(0, SHAPE.num_layers)
REACHED = DialBack(DialStatus.REACHED, "")
NOT_REACHED = DialBack(DialStatus.NOT_REACHED, "dial failed")
REFUSED = DialBack(DialStatus.REFUSED, "too many dials")


def announce(
    key: PeerKey, address: str = PUBLIC, *, span: LayerSpan | None = MODEL_SPAN
) -> KnownServer:
    """Return a hoster's heartbeat."""
    info = ServerInfo(
        ServerRole.HOSTER,
        ServerState.ONLINE,
        span,
        1,
        1,
        "float32",
        "test",
        (f"{address}/p2p/{key.peer_id}",),
    )
    envelope = seal_heartbeat(key, info, network_id=NETWORK, node_id=1, expires_at=EXPIRES_AT)
    return KnownServer(envelope, info)


OWN = announce(KEY)
OTHERS = tuple(announce(get_key(number)) for number in (2, 3, 4))


@dataclass
class Peers:
    """What peers say about this node; None is a peer that does not answer."""

    dials: Sequence[DialBack | None] = (REACHED,) * 3
    ahead_s: Sequence[float | None] = (0.1,) * 3
    copies: Copies = Copies((OWN.envelope.to_bytes(),) * 3, 3)
    asked: list[PeerId] = field(default_factory=list)

    async def ask_dial_back(
        self, peer: PeerId, addresses: Sequence[str], *, timeout_s: float
    ) -> DialBack:
        return self._answer(peer, self.dials)

    async def measure_clock(self, peer: PeerId, *, timeout_s: float) -> float:
        return self._answer(peer, self.ahead_s)

    async def fetch_copies(self, key: bytes, earliest: int) -> Copies:
        assert earliest == EXPIRES_AT
        return self.copies

    def _answer(self, peer: PeerId, answers: Sequence[object]) -> object:
        self.asked.append(peer)
        answer = answers[(len(self.asked) - 1) % len(answers)]
        if answer is None:
            raise PeerUnreachable(peer, "away")
        return answer


async def pass_prompt(layers: LayerRange) -> Attempt:
    return Passed()


def make_exam(**changes: object) -> NodeExam:
    """Return a hoster of the whole model with nothing wrong."""
    exam = NodeExam(
        role=Role.HOSTER,
        is_unpaid=False,
        author=Author(TERMS, KEY, SubnetNodeId(1)),
        shape=SHAPE,
        peers=Peers(),
        addresses=lambda: OWN.info.addresses,
        list_servers=lambda: (OWN, *OTHERS),
        get_heartbeat=lambda: OWN.envelope,
        get_roster=make_roster,
        get_inference=lambda: FakeInference(WHOLE),
        try_prompt=pass_prompt,
        open_file_runner=lambda: FakeInference(WHOLE, seed=1),
    )
    return replace(exam, **changes)


CHECKS = (
    check_peers,
    check_reachable,
    check_records,
    check_elsewhere,
    check_peer_clocks,
    check_canary,
    check_round,
    check_audit,
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_a_node_without_a_fault_passes(
    check: Callable[[NodeExam], Awaitable[Finding]],
) -> None:
    finding = await check(make_exam())
    assert finding.status is CheckStatus.PASS and not finding.fix, finding


def expect(finding: Finding, status: CheckStatus, sentence: str, fix: str) -> None:
    assert finding.status is status, finding
    assert sentence in finding.detail and fix in finding.fix, finding


async def test_no_other_node() -> None:
    alone = make_exam(list_servers=lambda: (OWN,), peers=Peers(copies=Copies((), 0)))
    expect(await check_peers(alone), CheckStatus.WARN, "no other node", "--initial-peers")
    for check in (check_reachable, check_records, check_peer_clocks):
        expect(await check(alone), CheckStatus.SKIP, "", "peers")


async def test_a_block_that_no_hoster_serves() -> None:
    servers = tuple(announce(get_key(number), span=LayerSpan(0, 1)) for number in (1, 2))
    finding = await check_peers(make_exam(list_servers=lambda: servers))
    expect(finding, CheckStatus.WARN, "no hoster serves block 1", "--block-indices 1:2")


async def test_a_firewall_that_lets_nobody_in() -> None:
    peers = Peers(dials=(NOT_REACHED, None, REFUSED))
    finding = await check_reachable(make_exam(peers=peers))
    expect(finding, CheckStatus.FAIL, PUBLIC, "--public-ip IP --port PORT")


async def test_one_peer_that_reaches_the_node_is_enough() -> None:
    finding = await check_reachable(make_exam(peers=Peers(dials=(NOT_REACHED, REACHED))))
    assert finding.status is CheckStatus.PASS


async def test_a_node_that_is_reached_through_a_relay_only() -> None:
    exam = make_exam(
        peers=Peers(dials=(NOT_REACHED,)), addresses=lambda: (f"{PUBLIC}/p2p/x", RELAYED)
    )
    expect(await check_reachable(exam), CheckStatus.WARN, "through a relay", "--public-ip")


async def test_an_announced_address_of_the_own_network_only() -> None:
    exam = make_exam(peers=Peers(dials=(REFUSED,)), addresses=lambda: (PRIVATE,))
    expect(await check_reachable(exam), CheckStatus.FAIL, PRIVATE, "--public-ip")
    neighbours = tuple(announce(get_key(number), PRIVATE) for number in (2, 3))
    at_home = replace(exam, list_servers=lambda: neighbours)
    expect(await check_reachable(at_home), CheckStatus.PASS, "so are those of all peers", "")


async def test_peers_that_do_not_try() -> None:
    finding = await check_reachable(make_exam(peers=Peers(dials=(REFUSED,))))
    expect(finding, CheckStatus.WARN, "too many dials", "in a minute")
    finding = await check_reachable(make_exam(peers=Peers(dials=(None,))))
    expect(finding, CheckStatus.WARN, "no peer answers", "in a minute")


async def test_records_that_no_other_replica_holds() -> None:
    finding = await check_records(make_exam(peers=Peers(copies=Copies((), 3))))
    expect(finding, CheckStatus.FAIL, "0 of 3 replicas", "restart")


async def test_a_second_process_with_this_identity() -> None:
    twin = seal_twin()
    copies = Copies((OWN.envelope.to_bytes(), twin.to_bytes()), 3)
    finding = await check_elsewhere(make_exam(peers=Peers(copies=copies)))
    expect(finding, CheckStatus.FAIL, str(KEY.peer_id), "stop one of them")


async def test_a_heartbeat_that_the_node_renews_meanwhile_is_its_own() -> None:
    renewed = announce(KEY, PRIVATE).envelope
    newest = iter((OWN.envelope, renewed))
    copies = Copies((OWN.envelope.to_bytes(), renewed.to_bytes()), 3)
    exam = make_exam(get_heartbeat=lambda: next(newest), peers=Peers(copies=copies))
    assert (await check_elsewhere(exam)).status is CheckStatus.PASS
    newest = iter((OWN.envelope, renewed))
    exam = replace(exam, peers=Peers(copies=Copies((renewed.to_bytes(),) * 3, 3)))
    assert (await check_records(exam)).status is CheckStatus.PASS


def seal_twin() -> Envelope:
    return announce(KEY, PRIVATE).envelope


async def test_a_node_that_has_not_announced_itself() -> None:
    for check in (check_records, check_elsewhere):
        finding = await check(make_exam(get_heartbeat=lambda: None))
        expect(finding, CheckStatus.WARN, "not announced", "half a minute")


@pytest.mark.parametrize(
    "ahead_s, status, words",
    (
        ((40.0, 41.0, 39.0), CheckStatus.FAIL, "40.0 s behind"),
        ((-40.0,), CheckStatus.FAIL, "40.0 s ahead of"),
        ((12.0,), CheckStatus.WARN, "12.0 s behind"),
        # One peer lies.
        ((0.0, 500.0, 0.2), CheckStatus.PASS, "0.2 s"),
    ),
)
async def test_a_clock_that_differs_from_peers(
    ahead_s: Sequence[float], status: CheckStatus, words: str
) -> None:
    finding = await check_peer_clocks(make_exam(peers=Peers(ahead_s=ahead_s)))
    expect(finding, status, words, "" if status is CheckStatus.PASS else "timedatectl")


@pytest.mark.parametrize(
    "attempt, status", ((Failed("busy"), CheckStatus.FAIL), (Unclear("no route"), CheckStatus.WARN))
)
async def test_a_prompt_that_does_not_come_back(attempt: Attempt, status: CheckStatus) -> None:
    async def try_prompt(layers: LayerRange) -> Attempt:
        assert layers == WHOLE
        return attempt

    finding = await check_canary(make_exam(try_prompt=try_prompt))
    expect(finding, status, attempt.reason if not isinstance(attempt, Passed) else "", " ")


class Broken:
    """Inference whose answers are changed by ``spoil``, or that raises it."""

    layers = WHOLE

    def __init__(self, spoil: Callable[[Vector], Vector] | Exception) -> None:
        self._spoil = spoil
        self._honest = FakeInference(WHOLE)

    async def run_tasks(self, tasks: Sequence[LayerTask]) -> tuple[Vector, ...]:
        if isinstance(self._spoil, Exception):
            raise self._spoil
        return tuple(map(self._spoil, await self._honest.run_tasks(tasks)))


@pytest.mark.parametrize(
    "spoil, words",
    (
        (lambda vector: vector * np.float32(np.nan), "not made of numbers"),
        (lambda vector: vector + np.float32(1e6), "too large to count"),
    ),
)
async def test_answers_that_would_not_count(spoil: Callable[[Vector], Vector], words: str) -> None:
    finding = await check_round(make_exam(get_inference=lambda: Broken(spoil)))
    expect(finding, CheckStatus.FAIL, words, "device")


async def test_served_weights_that_are_not_those_of_the_files() -> None:
    served: Inference = Broken(lambda vector: vector * np.float32(1.01))
    finding = await check_audit(make_exam(get_inference=lambda: served))
    expect(finding, CheckStatus.FAIL, "away from its files", "restart")


@pytest.mark.parametrize(
    "error, status",
    ((LayerNotOnDisk(1, "gone"), CheckStatus.WARN), (ModelError("torn"), CheckStatus.FAIL)),
)
async def test_model_files_that_cannot_be_audited(error: Exception, status: CheckStatus) -> None:
    files: LayerRunner = Broken(error)
    expect(await check_audit(make_exam(open_file_runner=lambda: files)), status, "", "model")


async def test_what_a_node_of_another_kind_leaves_out_is_skipped() -> None:
    validator = make_exam(role=Role.VALIDATOR, get_inference=lambda: None, try_prompt=None)
    for check in (check_canary, check_round):
        expect(await check(validator), CheckStatus.SKIP, "validator", "")
    assert (await check_audit(validator)).status is CheckStatus.PASS
    light = replace(validator, open_file_runner=lambda: None)
    expect(await check_audit(light), CheckStatus.SKIP, "--light", "")
    expect(await check_round(make_exam(is_unpaid=True)), CheckStatus.SKIP, "--unpaid", "")


async def test_a_model_that_still_loads_is_a_warning() -> None:
    loading = make_exam(get_inference=lambda: None)
    for check in (check_canary, check_round):
        assert (await check(loading)).status is CheckStatus.WARN


async def test_a_dry_run_signs_and_publishes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("signed")

    exam = make_exam()
    monkeypatch.setattr(PeerKey, "sign", refuse)
    monkeypatch.setattr(PeerKey, "derive_secret", refuse)
    for check in (check_round, check_audit, check_records, check_elsewhere):
        assert (await check(exam)).status is CheckStatus.PASS
