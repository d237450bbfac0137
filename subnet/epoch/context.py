"""What the parts of one node's epoch loop share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from consensus.challenge import ModelShape
from consensus.roster import Roster
from consensus.scorer import Scorer
from consensus.types import Role, SubnetNodeId
from subnet.epoch.author import Author
from subnet.epoch.interfaces import (
    ChainReader,
    ChainWriter,
    Inference,
    LayerRunner,
    PeerRecords,
    ReceiptSink,
    RecordStore,
)
from subnet.epoch.observer import Observe
from subnet.epoch.rosters import Rosters
from subnet.epoch.terms import SubnetTerms
from subnet.journal.journal import Journal
from subnet.thread_runner import Runner


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeContext:
    """One node: who it is, what it remembers, and what it reads from and acts on.

    ``shape`` is that of the model that the node serves or scores. ``writer`` is None without a
    hotkey. ``run`` runs slow arithmetic beside the event loop. ``get_inference`` returns None
    while the model loads. ``get_auditor`` returns what answers for any layer of the model's files;
    None without files. ``list_failed_probes`` names the hosters that failed this node's probes.
    ``get_wall_time_s`` is this machine's clock. ``receipts`` keeps what scores are made from, for
    people; None keeps nothing. ``scorer`` is the subnet's own rule of
    pay, if it has one. A node that is not ``is_paid`` only watches: it has
    no duties and publishes nothing.
    """

    author: Author
    role: Role
    shape: ModelShape
    journal: Journal
    rosters: Rosters
    store: RecordStore
    peers: PeerRecords
    reader: ChainReader
    writer: ChainWriter | None
    run: Runner
    observe: Observe
    get_inference: Callable[[], Inference | None]
    get_auditor: Callable[[], LayerRunner | None]
    list_failed_probes: Callable[[Roster], frozenset[SubnetNodeId]]
    get_wall_time_s: Callable[[], float]
    is_paid: bool = True
    receipts: ReceiptSink | None = None
    scorer: Scorer | None = None

    @property
    def terms(self) -> SubnetTerms:
        return self.author.terms
