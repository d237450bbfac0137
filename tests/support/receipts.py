"""What a node keeps of an epoch: made from ``World``'s records, or by running nodes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from consensus.naming import Naming, encode_args, find_accepted, get_name, hash_accepted
from consensus.records import (
    NamedList,
    NamedSighting,
    RecordKind,
    Sighting,
    encode_named_list,
    encode_sighting,
)
from consensus.roster import Roster
from consensus.submission import Submission
from consensus.types import BlockNumber, Epoch, Role, Score, SubnetId, SubnetNodeId
from subnet.receipts.describe import render_receipt
from subnet.receipts.evidence import EpochEvidence, FirstSeen, Notes
from subnet.receipts.explain import make_receipt
from subnet.receipts.reasons import Why
from subnet.receipts.receipt import NodeReceipt
from subnet.receipts.recompute import recompute
from tests.support.epoch_records import LENGTH, NETWORK, World, get_expiry, make_roster, sign
from tests.support.fakes import FakeChain, FakeNetwork
from tests.support.node import FakeNode, advance_to, make_roster_node, run_nodes

BLOCK_TIME_MS = 6000
PROPOSER = 1
LEAST = 66 * 10**16
HOSTERS, VALIDATORS = (1, 2, 3, 4), (5, 6)
EVERYBODY = HOSTERS + VALIDATORS


class MemoryReceipts:
    """Satisfies ReceiptSink: keeps what a running node hands over, the newest of each epoch."""

    def __init__(self) -> None:
        self.kept: dict[int, EpochEvidence] = {}

    def is_settled(self, epoch: Epoch) -> bool:
        return epoch in self.kept and self.kept[epoch].is_settled

    def write(self, evidence: EpochEvidence) -> None:
        self.kept[evidence.epoch] = evidence


class KeepingSubnet:
    """Four hosters and two validators that keep receipts."""

    def __init__(self, **chain_changes: Any) -> None:
        nodes = tuple(make_roster_node(node_id) for node_id in EVERYBODY)
        self.chain = FakeChain(nodes, **chain_changes)
        self.nodes = {
            node_id: FakeNode(
                node_id,
                self.chain,
                network,
                role=Role.HOSTER if node_id in HOSTERS else Role.VALIDATOR,
            )
            for network in [FakeNetwork()]
            for node_id in EVERYBODY
        }
        self.receipts = {node_id: MemoryReceipts() for node_id in EVERYBODY}
        for node_id, node in self.nodes.items():
            node.receipts = self.receipts[node_id]

    async def run_to(self, epoch: int, offset: int = 4) -> None:
        async with run_nodes(*self.nodes.values()):
            await advance_to(self.chain, epoch, offset)


def make_evidence(
    world: World,
    *,
    named: Mapping[int, Sighting] | None = None,
    seen: Mapping[tuple[RecordKind, int], int] | None = None,
    attested: Collection[int] | None = None,
    rows: Mapping[int, int] | None = None,
    **changes: Any,
) -> EpochEvidence:
    """Return what node 1 keeps of a world's epoch, proposed by node 1 with these sightings.

    ``seen`` are the blocks at which it saw records of the epoch (kind, node id), counted from the
    epoch's first block; all others at their first moment. ``rows`` are proposed instead of the
    right ones.
    """
    following = _date(world.next_roster or _follow(world.roster))
    world.roster, previous = _date(world.roster), world.previous and _date(world.previous)
    world.next_roster = following
    if named is None:
        named = {node.node_id: world.sight(node.node_id) for node in world.roster.nodes}
    facts, sighted = world.name(named), _sign_sightings(world, named)
    report = world.score(facts)
    list_body = encode_named_list(_list_named(world, sighted))
    named_list = sign(RecordKind.NAMED_LIST, following.epoch, PROPOSER, list_body)
    accepted = find_accepted(named.values(), world.roster)
    naming = Naming(
        named_list.record_hash,
        hash_accepted(facts.records, accepted),
        report.unpaid,
        report.probation,
    )
    nodes = frozenset(node.node_id for node in following.nodes)
    proposed = dict(report.rows) if rows is None else rows
    submission = Submission(
        proposer=SubnetNodeId(PROPOSER),
        block=BlockNumber(following.first_block + 1),
        scores=tuple((SubnetNodeId(node), Score(score)) for node, score in proposed.items()),
        attested=nodes if attested is None else frozenset(map(SubnetNodeId, attested)),
        args=encode_args(naming, world.roster),
        voters=nodes,
    )
    parts: dict[str, Any] = {
        "subnet_id": SubnetId(7),
        "network_id": NETWORK,
        "epoch_length": LENGTH,
        "block_time_ms": BLOCK_TIME_MS,
        "params": world.params,
        "shape": world.shape,
        "kept_by": SubnetNodeId(PROPOSER),
        "about": SubnetNodeId(PROPOSER),
        "roster": world.roster,
        "following": following,
        "previous": previous,
        "is_scored": True,
        "is_previous_scored": previous is not None,
        "draw": world.draw,
        "probation": world.probation,
        "elected": SubnetNodeId(PROPOSER),
        "submission": submission,
        "is_settled": True,
        "min_attestation": LEAST,
        "records": (named_list, *sighted.values(), *facts.records.values()),
        "seen": _see(world, seen or {}),
        "notes": Notes(),
    }
    return EpochEvidence(**parts | changes)


def explain(evidence: EpochEvidence, node_id: int) -> NodeReceipt:
    """Return a node's receipt."""
    return make_receipt(evidence, recompute(evidence), SubnetNodeId(node_id))


def make_receipt_json(evidence: EpochEvidence, node_id: int) -> dict[str, Any]:
    """Return a node's receipt as `mesh why --json` prints it."""
    return render_receipt(explain(evidence, node_id), num_layers=evidence.shape.num_layers)


def list_reasons(receipt: NodeReceipt) -> list[Why]:
    return [cause.why for cause in receipt.causes]


def _follow(roster: Roster) -> Roster:
    return replace(make_roster((), epoch=roster.epoch + 1), nodes=roster.nodes)


def _date(roster: Roster) -> Roster:
    """Return the roster with the time at which records of ``sign`` expire as they must."""
    life_s = 3 * LENGTH * BLOCK_TIME_MS // 1000
    return replace(roster, timestamp_s=get_expiry(roster.epoch) - life_s)


def _sign_sightings(world: World, named: Mapping[int, Sighting]) -> dict[int, Any]:
    return {
        node_id: sign(RecordKind.SIGHTING, world.epoch, node_id, encode_sighting(sighting))
        for node_id, sighting in sorted(named.items())
    }


def _list_named(world: World, sighted: Mapping[int, Any]) -> NamedList:
    places = {node.node_id: place for place, node in enumerate(world.roster.nodes)}
    return NamedList(
        tuple(
            NamedSighting(places[SubnetNodeId(node_id)], envelope.record_hash)
            for node_id, envelope in sighted.items()
        )
    )


def _see(world: World, late: Mapping[tuple[RecordKind, int], int]) -> tuple[FirstSeen, ...]:
    first_block = world.roster.first_block
    return tuple(
        FirstSeen(
            (kind, epoch, node_id),
            get_name(envelope),
            BlockNumber(first_block + late.get((kind, node_id), 0)),
        )
        for (kind, epoch, node_id), envelope in sorted(world.records.items())
    )
