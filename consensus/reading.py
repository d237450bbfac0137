"""Which records a node reads at a head.

A record proves who signed what, not when. So every node reads all records that may count,
while they may count, and notes the head: that is what its sighting will say. A record is
write-once: what was seen is not read again.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from consensus.evidence import TimedRecords
from consensus.phases import Schedule
from consensus.records import NO_SCORES, REVEAL_KINDS, RecordKind, read_score_commitment
from consensus.roster import Roster
from consensus.types import Epoch, NodeClass, SubnetNodeId
from keys.peer import PeerId


@dataclass(frozen=True, slots=True)
class Wanted:
    """One slot that this node has not seen filled."""

    kind: RecordKind
    epoch: Epoch
    node_id: SubnetNodeId
    # Of one epoch's roster: the other fields say whose it is, and a key is slow to hash.
    author: PeerId = field(hash=False)


@dataclass(frozen=True, slots=True)
class ReadingView:
    """What decides which records are read at one head.

    ``sightings`` are those of the roster's epoch, ``previous_sightings`` those of the epoch
    before it; ``previous_roster`` is None where nothing was scored or it is not known.
    """

    offset: int
    schedule: Schedule
    roster: Roster
    sightings: TimedRecords
    previous_roster: Roster | None
    previous_sightings: TimedRecords
    is_challenge_seen: bool


def compute_wanted(view: ReadingView) -> tuple[Wanted, ...]:
    """Return the slots to read now, each missing one once."""
    kinds = view.schedule.list_read(view.offset)
    return tuple([wanted for kind in kinds for wanted in _list_missing(view, kind)])


def is_urgent(schedule: Schedule, offset: int) -> bool:
    """Whether to read between heads too: a record that arrives now may be late at the next head.

    Reveals have a short window. Commits have a longer one, but those that leave in its last
    moment travel in the grace before the cut-off, and all nodes should see them in time.
    """
    windows = [window for kind, window in schedule.windows.items() if _is_awaited(kind)]
    is_last_grace = any(
        window.counts_until - schedule.grace <= offset < window.counts_until for window in windows
    )
    return is_last_grace or any(schedule.is_read(kind, offset) for kind in REVEAL_KINDS)


def compute_seen_offset(kind: RecordKind, *, began_at: int, ended_at: int) -> int:
    """Return the offset at which a record that a reading brought counts as first seen.

    Commits count by the head at which the reading ended, because their cut-off keeps secrets;
    reveals by the head at which it began, because theirs only closes the set, and a slow
    reading is not the author's fault.
    """
    return began_at if kind in REVEAL_KINDS else ended_at


def _is_awaited(kind: RecordKind) -> bool:
    """Whether sightings list records of this kind, so that the moment matters."""
    return kind not in (RecordKind.CHALLENGE, RecordKind.NAMED_LIST)


def _list_missing(view: ReadingView, kind: RecordKind) -> list[Wanted]:
    roster, sightings = view.roster, view.sightings
    if kind is RecordKind.SCORE_REVEAL:
        if view.previous_roster is None:
            return []
        roster, sightings = view.previous_roster, view.previous_sightings
    unseen = [
        node
        for node in roster.with_class(NodeClass.INCLUDED)
        if (kind, node.node_id) not in sightings
    ]
    if not unseen:
        return []
    authors = _list_authors(view, kind)
    return [
        Wanted(kind, roster.epoch, node.node_id, node.peer_id)
        for node in unseen
        if node.peer_id is not None and node.node_id in authors
    ]


def _list_authors(view: ReadingView, kind: RecordKind) -> frozenset[SubnetNodeId]:
    """Return the nodes whose record of this kind can count or tell why it does not."""
    roster, sightings = view.roster, view.sightings
    nodes = roster.ids
    match kind:
        case RecordKind.CHALLENGE if view.is_challenge_seen:
            return frozenset()
        # A node that was down while commits travelled looks for all reveals.
        case RecordKind.OUTPUT_REVEAL:
            return _list_seen(sightings, RecordKind.OUTPUT_COMMIT) or nodes
        case RecordKind.AUDIT_REVEAL:
            return _list_seen(sightings, RecordKind.AUDIT_COMMIT) or _list_auditors(view)
        case RecordKind.AUDIT_COMMIT:
            return _list_auditors(view)
        case RecordKind.SIGHTING:
            return roster.validators
        case RecordKind.SCORE_REVEAL if view.previous_roster is not None:
            return view.previous_roster.validators - _list_without_scores(view)
    return nodes


def _list_auditors(view: ReadingView) -> frozenset[SubnetNodeId]:
    """Return the nodes that may audit. Hosters are paid for hosting only."""
    return view.roster.ids - _list_seen(view.sightings, RecordKind.OUTPUT_COMMIT)


def _list_without_scores(view: ReadingView) -> frozenset[SubnetNodeId]:
    """Return the nodes whose sighting of the epoch before was seen and promises no scores."""
    return frozenset(
        node_id
        for (kind, node_id), seen in view.previous_sightings.items()
        if kind is RecordKind.SIGHTING and read_score_commitment(seen.envelope.body) == NO_SCORES
    )


def _list_seen(sightings: TimedRecords, kind: RecordKind) -> frozenset[SubnetNodeId]:
    return frozenset(node_id for seen_kind, node_id in sightings if seen_kind is kind)
