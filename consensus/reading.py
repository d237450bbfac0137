"""Which records a node reads at a head, and which windows it has observed by that.

A record proves who signed what, not when. So every node reads all records that may count,
while they may count, and notes the head. A record is write-once: what was seen is not read again.
"""

from __future__ import annotations

from dataclasses import dataclass

from consensus.evidence import TimedRecords
from consensus.phases import Schedule
from consensus.records import RecordKind
from consensus.roster import Roster
from consensus.types import Epoch, NodeClass, SubnetNodeId
from consensus.view import Window
from keys.peer import PeerId

WINDOW_MARGIN_GRACES = 4
"""A node observed a window if it read the records this many graces before its end, or later."""
_WINDOW_KINDS = {
    Window.COMMITS: RecordKind.OUTPUT_COMMIT,
    Window.REVEALS: RecordKind.OUTPUT_REVEAL,
    Window.SCORES: RecordKind.SCORE_COMMIT,
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """One slot that this node has not seen filled."""

    kind: RecordKind
    epoch: Epoch
    node_id: SubnetNodeId
    author: PeerId


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
    kinds = [kind for kind in view.schedule.windows if view.schedule.is_read(kind, view.offset)]
    return tuple(wanted for kind in kinds for wanted in _list_missing(view, kind))


def is_urgent(schedule: Schedule, offset: int) -> bool:
    """Whether to read between heads too: a record that arrives now may be late at the next head.

    Reveals have a short window. Commits have a long one, but those that leave in its last
    moment travel in the grace before the cut-off, and all nodes should see them in time.
    """
    scores = schedule.windows[RecordKind.SCORE_COMMIT]
    cut_offs = (schedule.reveal_start, scores.leaves_from, scores.counts_until)
    is_last_grace = any(cut_off - schedule.grace <= offset < cut_off for cut_off in cut_offs)
    return is_last_grace or schedule.is_read(RecordKind.OUTPUT_REVEAL, offset)


def compute_observed(schedule: Schedule, *, began_at: int, ended_at: int) -> frozenset[Window]:
    """Return the windows that a reading from offset ``began_at`` to ``ended_at`` covers."""
    observed = set()
    for window, kind in _WINDOW_KINDS.items():
        times = schedule.windows[kind]
        start = times.counts_until - WINDOW_MARGIN_GRACES * schedule.grace
        seen_at = compute_seen_offset(kind, began_at=began_at, ended_at=ended_at)
        if max(start, times.leaves_from) <= seen_at < times.counts_until:
            observed.add(window)
    return frozenset(observed)


def compute_seen_offset(kind: RecordKind, *, began_at: int, ended_at: int) -> int:
    """Return the offset at which a record that a reading brought counts as first seen.

    Commits count by the head at which the reading ended, because their cut-off keeps secrets;
    reveals by the head at which it began, because theirs only closes the set, and a slow
    reading is not the author's fault.
    """
    is_reveal = kind in (RecordKind.OUTPUT_REVEAL, RecordKind.SCORE_REVEAL)
    return began_at if is_reveal else ended_at


def _list_missing(view: ReadingView, kind: RecordKind) -> list[Wanted]:
    roster, sightings = view.roster, view.sightings
    if kind is RecordKind.SCORE_REVEAL:
        if view.previous_roster is None:
            return []
        roster, sightings = view.previous_roster, view.previous_sightings
    authors = _list_authors(view, kind)
    return [
        Wanted(kind, roster.epoch, node.node_id, node.peer_id)
        for node in roster.with_class(NodeClass.INCLUDED)
        if node.peer_id is not None
        and node.node_id in authors
        and (kind, node.node_id) not in sightings
    ]


def _list_authors(view: ReadingView, kind: RecordKind) -> frozenset[SubnetNodeId]:
    """Return the nodes whose record of this kind can count or tell why it does not."""
    roster, sightings = view.roster, view.sightings
    match kind:
        case RecordKind.CHALLENGE if view.is_challenge_seen:
            return frozenset()
        case RecordKind.OUTPUT_REVEAL:
            return _list_seen(sightings, RecordKind.OUTPUT_COMMIT)
        case RecordKind.SCORE_REVEAL:
            return _list_seen(view.previous_sightings, RecordKind.SCORE_COMMIT)
        case RecordKind.SIGHTING:
            # Only nodes of class Validator attest, so only they must agree on what was seen.
            return frozenset(node.node_id for node in roster.with_class(NodeClass.VALIDATOR))
    nodes = frozenset(node.node_id for node in roster.nodes)
    if kind is not RecordKind.SCORE_COMMIT:
        return nodes
    # Hosters are paid for hosting only, so their score commits are not read.
    return nodes - {
        node_id
        for (seen_kind, node_id), seen in sightings.items()
        if seen_kind is RecordKind.OUTPUT_COMMIT
        and view.schedule.is_on_time(seen_kind, seen.seen_at - roster.first_block)
    }


def _list_seen(sightings: TimedRecords, kind: RecordKind) -> frozenset[SubnetNodeId]:
    return frozenset(node_id for seen_kind, node_id in sightings if seen_kind is kind)
