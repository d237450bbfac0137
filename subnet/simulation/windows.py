"""The protocol's windows at 20, 50 and 100 blocks an epoch, worked out by hand from protocol.md.

The simulator judges the production code by these numbers, never by that code's own.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Windows:
    """The offsets of one epoch length that the invariants and the cheats need.

    ``commit_end`` (40 %): a commit counts if it is first seen before this offset, whose block
    draws the audits. ``audit_end`` (60 %): an audit commit counts if it is first seen before it.
    No reveal leaves before ``audit_end`` + ``grace``; one counts if it is first seen before
    ``reveal_end`` (70 %) + ``grace``, a sighting's commitment to scores before that + 2 ``grace``.
    A list leaves in time before the block after ``attestation_deadline`` (80 %).
    """

    length: int
    commit_end: int
    audit_end: int
    reveal_end: int
    grace: int
    attestation_deadline: int


EPOCH_LENGTH = 20
"""The length of an epoch where a scenario does not say otherwise."""
WINDOWS = {
    20: Windows(20, commit_end=8, audit_end=12, reveal_end=14, grace=1, attestation_deadline=16),
    50: Windows(50, commit_end=20, audit_end=30, reveal_end=35, grace=1, attestation_deadline=40),
    100: Windows(100, commit_end=40, audit_end=60, reveal_end=70, grace=2, attestation_deadline=80),
}
MIN_HONEST_SCORE = 66 * 10**16
"""An honest answer is worth about two thirds at the very least, with an honest majority."""
