"""Which records a node looks for at a head, and which windows it has thereby observed.

A record proves who and what, not when, so every node reads all that may count while
it may count. What was seen once is write-once and not read again.
"""

from __future__ import annotations

from dataclasses import dataclass

from consensus.evidence import Sightings
from consensus.phases import Schedule
from consensus.records import RecordKind
from consensus.roster import Roster
from consensus.types import Epoch, NodeClass, SubnetNodeId
from consensus.view import Window
from keys.peer import PeerId

WINDOW_MARGIN_GRACES = 4
"""A node observed a window if it read the records this many graces before its end, or later."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One slot that this node has not seen filled."""

    kind: RecordKind
    epoch: Epoch
    node_id: SubnetNodeId
    author: PeerId


@dataclass(frozen=True, slots=True)
class WatchView:
    """What decides the reading at one head.

    ``sightings`` are those of the roster's epoch, ``previous_sightings`` those of the epoch
    before it; ``previous_roster`` is None where nothing was scored or it is not known.
    """

    offset: int
    schedule: Schedule
    roster: Roster
    sightings: Sightings
    previous_roster: Roster | None
    previous_sightings: Sightings
    is_challenge_seen: bool


def compute_wanted(view: WatchView) -> tuple[Wanted, ...]:
    """Return the slots to read now, each missing one once."""
    schedule, offset = view.schedule, view.offset
    wanted: list[Wanted] = []
    if offset < schedule.reveal_start and not view.is_challenge_seen:
        wanted += _list_missing(view.roster, view.sightings, RecordKind.CHALLENGE)
    # Late commits and reveals are read for a while too, so that their authors can be told why.
    if schedule.commit_start <= offset < schedule.reveal_start + schedule.grace:
        wanted += _list_missing(view.roster, view.sightings, RecordKind.OUTPUT_COMMIT)
    if is_reveal_watch(schedule, offset):
        wanted += _list_reveals(view)
    if schedule.scoring_start <= offset < schedule.length:
        wanted += _list_sightings(view)
        wanted += _list_score_commits(view)
    return tuple(wanted)


def is_reveal_watch(schedule: Schedule, offset: int) -> bool:
    """Whether reveals are looked for."""
    return schedule.is_reveal_departure(offset) and offset < schedule.scoring_start + schedule.grace


def is_urgent_watch(schedule: Schedule, offset: int) -> bool:
    """Whether it is worth reading between heads: what arrives now may be late at the next one.

    Reveals have a short window. Commits have a long one, but those that leave in its last
    moment travel in the grace before the cut-off, and must not be seen by some nodes only.
    """
    cut_offs = (schedule.reveal_start, schedule.sighting_end, schedule.score_commit_end)
    is_last_grace = any(cut_off - schedule.grace <= offset < cut_off for cut_off in cut_offs)
    return is_last_grace or is_reveal_watch(schedule, offset)


def compute_observed(schedule: Schedule, *, began_at: int, ended_at: int) -> frozenset[Window]:
    """Return the windows that a reading from offset ``began_at`` to ``ended_at`` covers.

    Commits count by the head at which the reading ended, because their cut-off keeps secrets;
    reveals by the head at which it began, because theirs only closes the set, and a slow
    reading is not the author's fault.
    """
    margin = WINDOW_MARGIN_GRACES * schedule.grace
    scoring_start, score_end = schedule.scoring_start, schedule.score_commit_end
    observed = set()
    if schedule.reveal_start - margin <= ended_at < schedule.reveal_start:
        observed.add(Window.COMMITS)
    if (
        schedule.is_reveal_departure(began_at)
        and scoring_start - margin <= began_at < scoring_start
    ):
        observed.add(Window.REVEALS)
    if score_end - margin <= ended_at < score_end:
        observed.add(Window.SCORES)
    return frozenset(observed)


def compute_seen_offset(kind: RecordKind, *, began_at: int, ended_at: int) -> int:
    """Return the offset at which a record that a reading brought counts as first seen."""
    is_reveal = kind in (RecordKind.OUTPUT_REVEAL, RecordKind.SCORE_REVEAL)
    return began_at if is_reveal else ended_at


def _list_missing(
    roster: Roster,
    sightings: Sightings,
    kind: RecordKind,
    among: frozenset[SubnetNodeId] | None = None,
) -> list[Wanted]:
    return [
        Wanted(kind, roster.epoch, node.node_id, node.peer_id)
        for node in roster.with_class(NodeClass.INCLUDED)
        if node.peer_id is not None
        and (among is None or node.node_id in among)
        and (kind, node.node_id) not in sightings
    ]


def _list_reveals(view: WatchView) -> list[Wanted]:
    hosters = _list_authors(view.sightings, RecordKind.OUTPUT_COMMIT)
    wanted = _list_missing(view.roster, view.sightings, RecordKind.OUTPUT_REVEAL, hosters)
    if view.previous_roster is None:
        return wanted
    validators = _list_authors(view.previous_sightings, RecordKind.SCORE_COMMIT)
    return wanted + _list_missing(
        view.previous_roster, view.previous_sightings, RecordKind.SCORE_REVEAL, validators
    )


def _list_score_commits(view: WatchView) -> list[Wanted]:
    """Hosters are paid for hosting only, so their score commits are not looked for."""
    hosters = {
        node_id
        for (kind, node_id), seen in view.sightings.items()
        if kind is RecordKind.OUTPUT_COMMIT
        and view.schedule.is_commit_on_time(seen.seen_at - view.roster.first_block)
    }
    nodes = frozenset(node.node_id for node in view.roster.nodes) - hosters
    return _list_missing(view.roster, view.sightings, RecordKind.SCORE_COMMIT, nodes)


def _list_sightings(view: WatchView) -> list[Wanted]:
    """Only validators say what they saw: they are who must agree on it."""
    nodes = frozenset(node.node_id for node in view.roster.with_class(NodeClass.VALIDATOR))
    return _list_missing(view.roster, view.sightings, RecordKind.SIGHTING, nodes)


def _list_authors(sightings: Sightings, kind: RecordKind) -> frozenset[SubnetNodeId]:
    return frozenset(node_id for seen_kind, node_id in sightings if seen_kind is kind)
