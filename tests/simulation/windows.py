"""The protocol's windows at 20 blocks an epoch, worked out by hand from protocol.md, section 1.

The simulator judges the production code by these numbers, never by that code's own.
"""

from __future__ import annotations

EPOCH_LENGTH = 20
COMMIT_END = 10
"""B, 50 %: a commit counts if it is first seen before this offset."""
REVEAL_END = 12
"""R, 60 %."""
GRACE = 1
"""G at 20 blocks. No reveal leaves before B + G; one counts if first seen before R + G."""
SIGHTING_END = 15
"""No score commit leaves earlier: sightings leave after the reveals and take two graces."""
SCORE_COMMIT_END = 19
"""A score commit counts if it is first seen before the last block."""
MIN_HONEST_SCORE = 66 * 10**16
"""An honest answer is worth about two thirds at the very least, with an honest majority."""
