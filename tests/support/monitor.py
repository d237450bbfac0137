"""A swarm to look at: the monitor's documents for any number of nodes, from one seed."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from consensus.phases import compute_schedule
from consensus.protocol_params import MAINNET
from subnet.errors import ReceiptNotKept
from subnet.monitor.documents import (
    ChainClock,
    EpochNode,
    EpochRecord,
    Head,
    History,
    Kind,
    Network,
    NodeRow,
    Observer,
    Proposal,
)
from subnet.monitor.epochs import list_phases, list_windows, make_history
from subnet.monitor.hub import Hub
from tests.support.epoch_records import EPOCH, World, find_draw, make_roster
from tests.support.receipts import make_evidence, make_receipt_json

LENGTH = 20
SCHEDULE = compute_schedule(LENGTH, MAINNET)
TENSOR = 10**18


@dataclass
class FakeMonitor:
    """Satisfies MonitorData with documents that a test sets."""

    records: dict[int, EpochRecord] = field(default_factory=dict)
    receipts: dict[tuple[int, int], dict[str, Any]] = field(default_factory=dict)
    hub: Hub = field(default_factory=Hub)

    async def read_epoch(self, epoch: int) -> EpochRecord | None:
        return self.records.get(epoch)

    async def read_history(self, count: int) -> History:
        epochs = sorted(self.records)
        last = [self.records[epoch] for epoch in epochs[-count:]]
        return make_history(last, oldest=epochs[0] if epochs else None)

    async def read_receipt(self, epoch: int, node_id: int) -> bytes:
        if (epoch, node_id) not in self.receipts:
            raise ReceiptNotKept(
                f"this node keeps no receipt of epoch {epoch}", "ask for a later epoch"
            )
        return json.dumps(self.receipts[epoch, node_id]).encode()


def make_scored_receipt() -> dict[str, Any]:
    """Return the receipt of node 1, a hoster whose work all others agree with."""
    world = World(previous=make_roster(epoch=EPOCH - 1), draw=find_draw(1))
    world.host(1, 2, 3, 4, age=1)
    world.host(1, 2, 3, 4)
    world.audit(5, 6, 7)
    world.score_before(5, 6, 7)
    return make_receipt_json(make_evidence(world), 1)


def make_head(
    *, epoch: int = 40, offset: int = 9, hosters: Sequence[int] = (3,) * 8, **changes: Any
) -> Head:
    """Return the head of a network of 8 blocks."""
    facts: dict[str, Any] = {
        "observer": Observer(
            kind="node", name="node 1", software="mesh/0.1.0", keeps_receipts=True
        ),
        "network": Network(
            subnet_id=128001,
            network_id="ab" * 32,
            manifest_hash="cd" * 32,
            model="mesh-tiny",
            num_blocks=len(hosters),
        ),
        "chain": ChainClock(
            head=epoch * LENGTH + offset,
            head_at=1_764_000_000.0,
            block_time_s=6.0,
            epoch=epoch,
            offset=offset,
            length=LENGTH,
            phase="audit",
            phases=list_phases(SCHEDULE),
            elected=2,
        ),
        "hosters": tuple(hosters),
        "scored_epoch": epoch - 1,
        "settled_epoch": epoch - 2,
    }
    return Head(**facts | changes)


def make_row(node_id: int, **changes: Any) -> NodeRow:
    """Return the row of a hoster that is online and of class Validator."""
    facts: dict[str, Any] = {
        "key": f"12D3KooW{node_id:044d}",
        "node_id": node_id,
        "peer_id": f"12D3KooW{node_id:044d}",
        "role": "hoster",
        "state": "online",
        "blocks": (0, 8),
        "dtype": "float32",
        "throughput": 1000 + node_id,
        "free_cache_tokens": 16384,
        "software": "mesh/0.1.0",
        "path": "direct",
        "node_class": "validator",
        "start_epoch": 1,
        "stake": str(1000 * TENSOR),
        "reputation": str(TENSOR),
        "score": 125925,
        "paid": str(TENSOR // 20),
    }
    return NodeRow(**facts | changes)


def make_large(nodes: int, *, blocks: int = 32, epochs: int = 64, seed: int = 1) -> FakeMonitor:
    """Return a network of ``nodes`` over ``blocks``, with a history of ``epochs``."""
    rng = random.Random(seed)
    monitor = FakeMonitor()
    rows = {row.key: row for row in (_draw_row(rng, n, blocks) for n in range(1, nodes + 1))}
    hosters = [0] * blocks
    for row in rows.values():
        if row.blocks is not None and row.state == "online":
            for block in range(*row.blocks):
                hosters[block] += 1
    monitor.records = {
        epoch: _draw_record(rng, epoch, list(rows.values())) for epoch in range(1, epochs + 1)
    }
    head = make_head(epoch=epochs, hosters=hosters)
    monitor.hub.publish(head, rows)
    return monitor


def _draw_row(rng: random.Random, node_id: int, blocks: int) -> NodeRow:
    is_hoster = rng.random() < 0.9
    start = rng.randrange(0, max(1, blocks - 4))
    end = min(blocks, start + rng.randint(4, 16))
    return make_row(
        node_id,
        role="hoster" if is_hoster else "validator",
        state=rng.choices(("online", "joining", "draining", "absent", "left"), (90, 3, 2, 3, 2))[0],
        blocks=(start, end) if is_hoster else None,
        dtype=rng.choice(("float32", "bfloat16", "float16", "int8")) if is_hoster else "",
        throughput=rng.randint(200, 9000) if is_hoster else 0,
        path=rng.choices(("direct", "relayed"), (85, 15))[0],
        score=rng.randint(0, 200_000),
        stake=str(rng.randint(100, 9000) * TENSOR),
        accuracy=None if is_hoster else rng.randint(800_000, 1_000_000),
    )


def _draw_record(rng: random.Random, epoch: int, rows: Sequence[NodeRow]) -> EpochRecord:
    windows = list_windows(SCHEDULE)
    nodes = []
    for row in rows:
        assert row.node_id is not None
        kinds: tuple[Kind, ...] = (
            ("commit", "reveal", "sighting")
            if row.role == "hoster"
            else ("audit_commit", "audit_reveal", "score_reveal", "sighting")
        )
        records = {
            kind: min(windows[kind].opens + rng.choice((0, 0, 1, 1, 2)), LENGTH - 1)
            for kind in kinds
            if rng.random() > 0.02
        }
        is_bad = rng.random() < 0.02
        nodes.append(
            EpochNode(
                node_id=row.node_id,
                role="hoster" if row.role == "hoster" else "validator",
                records=records,
                score=0 if is_bad else max(0, (row.score or 0) + rng.randint(-9000, 9000)),
                accuracy=row.accuracy,
                problem="outside_tolerance" if is_bad else None,
                paid=str(rng.randint(1, 10**17)),
            )
        )
    voters = tuple(row.node_id for row in rows if row.node_id is not None)[:256]
    attested = voters[: max(1, len(voters) * rng.randint(70, 100) // 100)]
    ratio = len(attested) * 1_000_000 // len(voters)
    return EpochRecord(
        epoch=epoch,
        length=LENGTH,
        phases=list_phases(SCHEDULE),
        windows=windows,
        elected=voters[0],
        proposal=Proposal(
            proposer=voters[0],
            offset=1,
            attested=attested,
            voters=voters,
            ratio=ratio,
            needed=660_000,
            is_agreed=ratio >= 660_000,
        ),
        audited_blocks=(3,),
        source="computed",
        nodes=tuple(nodes),
    )
