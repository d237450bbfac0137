"""The documents of the monitor's JSON API; /openapi.json is made from these classes.

Scores, accuracies and shares are integers in millionths, rounded down: exact enough to draw. The
exact integers are in the receipts. Amounts are decimal strings in units of 10^-18 TENSOR, because
JSON's numbers lose digits. Offsets count chain blocks from the first one of an epoch.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

VERSION = 1
MILLION = 1_000_000

Amount = Annotated[str, Field(pattern=r"^\d{1,40}$")]
Millionths = Annotated[int, Field(ge=0)]
State = Literal["joining", "online", "draining", "offline", "absent", "left"]
Role = Literal["hoster", "validator", "bootstrap"]
ObstacleName = Literal[
    "subnet_paused",
    "subnet_inactive",
    "queued",
    "registered",
    "idle",
    "included",
    "starts_later",
    "low_reputation",
    "low_balance",
    "process",
]
NodeClassName = Literal["registered", "idle", "included", "validator"]
Path = Literal["direct", "relayed"]
Kind = Literal["commit", "audit_commit", "reveal", "audit_reveal", "score_reveal", "sighting"]


class Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Eligibility(Document):
    """Whether a node can be elected, attest and be paid in ``epoch``, the one after the present.

    ``obstacle`` is the kind of reason why not, null if it can. ``text`` is the line of
    ``mesh status``. ``process``: the node itself cannot, which only its own page knows.
    """

    epoch: int
    obstacle: ObstacleName | None = None
    text: str


class NodeRow(Document):
    """One node: what it announces itself, and what the chain says of it.

    ``state`` is the announced one; absent: registered, and no heartbeat is known; left: its last
    heartbeat has expired. ``path`` is relayed if every address that it announces leads over a
    relay. ``throughput`` is in rows through one block a second. ``score``, ``accuracy`` and
    ``paid`` are those of the last epoch of which they are known. ``probation`` is for how many
    epochs the node stays unpaid. ``eligibility`` is about the next epoch, by what the chain says;
    of the node that shows the page, by what it knows of itself as well. ``addresses`` is empty
    unless the operator publishes them.
    """

    key: str
    node_id: int | None = None
    peer_id: str | None = None
    is_self: bool = False
    role: Role | None = None
    state: State
    blocks: tuple[int, int] | None = None
    dtype: str = ""
    throughput: int = 0
    free_cache_tokens: int = 0
    software: str = ""
    path: Path | None = None
    node_class: NodeClassName | None = None
    queue_place: int | None = None
    start_epoch: int | None = None
    stake: Amount | None = None
    reputation: Amount | None = None
    probation: int = 0
    eligibility: Eligibility | None = None
    score: Millionths | None = None
    accuracy: Millionths | None = None
    paid: Amount | None = None
    left_at: float | None = None
    addresses: tuple[str, ...] = ()


class PhaseSpan(Document):
    """One phase: offsets, ``end`` excluded."""

    name: str
    start: int
    end: int


class Window(Document):
    """When a kind of record leaves its author, and from which offset on it is too late."""

    opens: int
    closes: int


class Observer(Document):
    """Who shows this page. ``kind`` monitor: a client without a journal, so without records."""

    kind: Literal["node", "monitor"]
    name: str
    software: str
    node_id: int | None = None
    keeps_receipts: bool = False


class Network(Document):
    """The network and its model. ``num_blocks`` is 0 while the model is not known."""

    subnet_id: int | None = None
    network_id: str
    manifest_hash: str
    model: str
    num_blocks: int


class ChainClock(Document):
    """Where the chain stands. ``head_at`` is when the head came, in seconds since 1970."""

    head: int
    head_at: float
    block_time_s: float
    epoch: int
    offset: int
    length: int
    phase: str
    phases: tuple[PhaseSpan, ...]
    elected: int | None = None


class Head(Document):
    """Everything of a snapshot but its nodes. ``hosters`` counts, for each block of the model,
    the nodes that serve it and take sessions; 0 is an uncovered block.
    """

    version: int = VERSION
    observer: Observer
    network: Network
    chain: ChainClock | None = None
    hosters: tuple[int, ...] = ()
    scored_epoch: int | None = None
    settled_epoch: int | None = None
    notices: tuple[str, ...] = ()


class Snapshot(Document):
    """The whole state; ``revision`` grows with every change of it."""

    revision: int
    head: Head
    nodes: tuple[NodeRow, ...]


class Delta(Document):
    """Event ``delta``: what changed between revision ``base`` and ``revision``."""

    base: int
    revision: int
    head: Head
    changed: tuple[NodeRow, ...]
    removed: tuple[str, ...]


class EpochChanged(Document):
    """Event ``epoch``: /api/v1/epochs/{epoch} has news; with ``has_results`` the history too."""

    epoch: int
    has_results: bool


class Proposal(Document):
    """The proposal that was made in an epoch; it scores the epoch before.

    ``ratio`` is attestations over voters, ``needed`` the least that agrees on it. ``is_agreed`` is
    None until the epoch is over.
    """

    proposer: int
    offset: int
    attested: tuple[int, ...]
    voters: tuple[int, ...]
    ratio: Millionths
    needed: Millionths | None = None
    is_agreed: bool | None = None


class EpochNode(Document):
    """One node in one epoch.

    ``records`` holds the offset at which the observer first saw each kind of record. ``score`` is
    the row of the epoch's scores, None for a node without one. ``problem`` is why the node got
    nothing. ``accuracy`` is a validator's, for its scores of the epoch before. ``paid`` is
    what the settlement of the epoch's scores brought, ``probation`` what is left after the epoch.
    """

    node_id: int
    role: Role | None = None
    records: dict[Kind, int] = {}
    score: Millionths | None = None
    accuracy: Millionths | None = None
    problem: str | None = None
    paid: Amount | None = None
    probation: int = 0


class EpochRecord(Document):
    """One epoch. ``source`` says where the scores come from: computed by the observing node, or
    read from the proposal on chain. Without a journal there are no ``windows`` and no records.
    """

    epoch: int
    length: int | None = None
    phases: tuple[PhaseSpan, ...] = ()
    windows: dict[Kind, Window] = {}
    elected: int | None = None
    proposal: Proposal | None = None
    audited_blocks: tuple[int, ...] = ()
    source: Literal["computed", "chain"] | None = None
    nodes: tuple[EpochNode, ...] = ()


class EpochSummary(Document):
    """One column of the history. ``ratio`` is attestations over voters of the epoch's proposal."""

    epoch: int
    elected: int | None = None
    proposer: int | None = None
    attested: int = 0
    voters: int = 0
    ratio: Millionths | None = None
    needed: Millionths | None = None
    is_agreed: bool | None = None


class History(Document):
    """The last epochs, ascending, as tables: ``scores[i][j]`` is of ``nodes[i]`` in ``epochs[j]``.

    ``oldest`` is the oldest epoch that is kept at all.
    """

    oldest: int | None
    epochs: tuple[EpochSummary, ...]
    nodes: tuple[int, ...]
    scores: tuple[tuple[Millionths | None, ...], ...]
    accuracies: tuple[tuple[Millionths | None, ...], ...]
    problems: tuple[tuple[str | None, ...], ...]
    paid: tuple[tuple[Amount | None, ...], ...]


class Receipt(BaseModel):
    """The receipt of one score as ``mesh why --json`` prints it (docs/why.md)."""

    model_config = ConfigDict(frozen=True, extra="allow")

    version: int
    epoch: int
    subnet_node_id: int
    kept_by: int
    verdict: str
    basis: str
    score: str | None
    proposed: str | None
    reasons: list[dict[str, Any]]


class Problem(Document):
    """Why a request was refused, and what to do."""

    error: str
    fix: str
