"""The rows of the snapshot: heartbeats and chain rows of the same node put together. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from consensus.types import SCORE_ONE, NodeClass, SubnetNodeId
from keys.peer import PeerId
from mesh.p2p.addresses import RELAYED
from mesh.routing.coverage import count_servers
from mesh.routing.directory import KnownServer
from subnet.account.eligibility import Eligibility
from subnet.monitor import documents
from subnet.monitor.documents import (
    MILLION,
    EpochRecord,
    NodeClassName,
    NodeRow,
    Path,
    Role,
    State,
)

LEFT_KEPT_S = 600.0
"""How long a node that left stays on the page."""
MAX_LEFT = 256

_CLASSES: Mapping[NodeClass, NodeClassName] = {
    NodeClass.REGISTERED: "registered",
    NodeClass.IDLE: "idle",
    NodeClass.INCLUDED: "included",
    NodeClass.VALIDATOR: "validator",
}
_ROLES: Mapping[str, Role] = {
    "HOSTER": "hoster",
    "VALIDATOR": "validator",
    "BOOTSTRAP": "bootstrap",
}
_STATES: Mapping[str, State] = {
    "JOINING": "joining",
    "ONLINE": "online",
    "DRAINING": "draining",
    "OFFLINE": "offline",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainNode:
    """What the chain says of one node; amounts in units of 10^-18, None where not read."""

    node_id: SubnetNodeId
    peer_id: PeerId | None
    node_class: NodeClass
    start_epoch: int
    queue_place: int | None = None
    stake: int | None = None
    reputation: int | None = None
    eligibility: Eligibility | None = None


@dataclass(frozen=True, slots=True)
class Earned:
    """The newest numbers of each node, each from the last epoch of which it is known."""

    scores: Mapping[int, int] = field(default_factory=dict)
    accuracies: Mapping[int, int] = field(default_factory=dict)
    paid: Mapping[int, int] = field(default_factory=dict)
    probation: Mapping[int, int] = field(default_factory=dict)


@dataclass(slots=True)
class NewestResults:
    """Takes each node's newest numbers from the records of epochs, which come in any order.

    ``scored_epoch`` and ``settled_epoch`` are the epochs that they are of.
    """

    earned: Earned = field(default_factory=Earned)
    scored_epoch: int | None = None
    settled_epoch: int | None = None

    def note(self, record: EpochRecord, *, is_scored: bool) -> None:
        """Take over what is not older; scores only of a record that ``is_scored``."""
        nodes, earned = record.nodes, self.earned
        if is_scored and (self.scored_epoch is None or record.epoch >= self.scored_epoch):
            earned = Earned(
                scores={n.node_id: n.score for n in nodes if n.score is not None},
                accuracies={n.node_id: n.accuracy for n in nodes if n.accuracy is not None},
                paid=earned.paid,
                probation={n.node_id: n.probation for n in nodes if n.probation},
            )
            self.scored_epoch = record.epoch
        paid = {n.node_id: int(n.paid) for n in nodes if n.paid is not None}
        if paid and (self.settled_epoch is None or record.epoch >= self.settled_epoch):
            earned = replace(earned, paid=paid)
            self.settled_epoch = record.epoch
        self.earned = earned


def to_millionths(score: int) -> int:
    """Return a score at 10^18 in millionths, rounded down."""
    return score * MILLION // SCORE_ONE


def make_rows(
    servers: Iterable[KnownServer],
    chain_nodes: Iterable[ChainNode],
    earned: Earned,
    *,
    own: PeerId | None,
    with_addresses: bool,
) -> dict[str, NodeRow]:
    """Return one row for each server and each node of the chain, by key.

    A node id stands in a row only where the chain gives it to that peer: heartbeats may lie.
    """
    by_peer = {server.peer_id: server for server in servers}
    rows = {}
    for node in chain_nodes:
        server = None if node.peer_id is None else by_peer.pop(node.peer_id, None)
        row = _make_row(server, node, earned, own=own, with_addresses=with_addresses)
        rows[row.key] = row
    for server in by_peer.values():
        row = _make_row(server, None, earned, own=own, with_addresses=with_addresses)
        rows[row.key] = row
    return rows


def _make_row(
    server: KnownServer | None,
    node: ChainNode | None,
    earned: Earned,
    *,
    own: PeerId | None,
    with_addresses: bool,
) -> NodeRow:
    peer = server.peer_id if server is not None else node.peer_id if node is not None else None
    facts: dict[str, object] = {"state": "absent", "is_self": peer is not None and peer == own}
    if server is not None:
        facts |= _describe_server(server, with_addresses=with_addresses)
    if node is not None:
        facts |= _describe_chain_node(node, earned)
    key = str(peer) if peer is not None else f"node-{node.node_id if node else 0}"
    return NodeRow.model_validate(
        {"key": key, "peer_id": None if peer is None else str(peer), **facts}
    )


def _describe_server(server: KnownServer, *, with_addresses: bool) -> dict[str, object]:
    info = server.info
    return {
        "role": _ROLES[info.role.name],
        "state": _STATES[info.state.name],
        "blocks": None if info.span is None else (info.span.start, info.span.end),
        "dtype": info.dtype,
        "throughput": info.throughput,
        "free_cache_tokens": info.free_cache_tokens,
        "software": info.product,
        "path": find_path(info.addresses),
        "addresses": info.addresses if with_addresses else (),
    }


def _describe_chain_node(node: ChainNode, earned: Earned) -> dict[str, object]:
    number = int(node.node_id)
    paid = earned.paid.get(number)
    return {
        "node_id": number,
        "node_class": _CLASSES[node.node_class],
        "queue_place": node.queue_place,
        "start_epoch": node.start_epoch,
        "stake": None if node.stake is None else str(node.stake),
        "reputation": None if node.reputation is None else str(node.reputation),
        "score": earned.scores.get(number),
        "accuracy": earned.accuracies.get(number),
        "paid": None if paid is None else str(paid),
        "probation": earned.probation.get(number, 0),
        "eligibility": describe_eligibility(node.eligibility),
    }


def describe_eligibility(found: Eligibility | None) -> documents.Eligibility | None:
    """Return the document of a verdict."""
    if found is None:
        return None
    obstacle = None if found.obstacle is None else found.obstacle.value
    return documents.Eligibility.model_validate(
        {"epoch": found.epoch, "obstacle": obstacle, "text": str(found)}
    )


def find_path(addresses: tuple[str, ...]) -> Path | None:
    """Return how a server is reached, by what it announces; None if it announces nothing."""
    if not addresses:
        return None
    return "relayed" if all(RELAYED in address for address in addresses) else "direct"


def count_hosters(servers: Iterable[KnownServer], *, num_blocks: int) -> tuple[int, ...]:
    """Return for each block how many servers take sessions for it."""
    if not num_blocks:
        return ()
    infos = (server.info for server in servers)
    spans = [info.span for info in infos if info.span is not None and info.takes_sessions]
    return count_servers(spans, num_layers=num_blocks)


class Leavers:
    """Keeps the last row of servers that fell silent, for a while and up to MAX_LEFT."""

    def __init__(self) -> None:
        self._live: dict[str, NodeRow] = {}
        self._left: dict[str, NodeRow] = {}

    def merge(self, rows: Mapping[str, NodeRow], *, now_s: float) -> dict[str, NodeRow]:
        """Return ``rows`` with what is remembered of the nodes that have no heartbeat now."""
        self._note_silent(rows, now_s=now_s)
        merged = dict(rows)
        for key, last in self._left.items():
            row = rows.get(key)
            said = {name: getattr(last, name) for name in _ANNOUNCED}
            kept = {"state": "left", "left_at": last.left_at}
            merged[key] = (row or last).model_copy(update=said | kept)
        return merged

    def _note_silent(self, rows: Mapping[str, NodeRow], *, now_s: float) -> None:
        heard = {key: row for key, row in rows.items() if row.state != "absent"}
        for key, row in self._live.items():
            if key not in heard:
                self._left[key] = row.model_copy(update={"left_at": now_s})
        for key in heard:
            self._left.pop(key, None)
        for key, row in list(self._left.items()):
            if row.left_at is None or now_s - row.left_at > LEFT_KEPT_S:
                del self._left[key]
        while len(self._left) > MAX_LEFT:
            del self._left[next(iter(self._left))]
        self._live = heard


_ANNOUNCED = (
    "role",
    "blocks",
    "dtype",
    "throughput",
    "free_cache_tokens",
    "software",
    "path",
    "addresses",
)
