"""The protocol's windows at 20 blocks an epoch, worked out by hand from protocol.md, section 1.

The simulator judges the production code by these numbers, never by that code's own.
"""

from __future__ import annotations

EPOCH_LENGTH = 20
COMMIT_END = 8
"""40 %: a commit counts if it is first seen before this offset, whose block draws the audits."""
AUDIT_END = 12
"""A, 60 %: an audit commit counts if it is first seen before this offset."""
REVEAL_END = 14
"""R, 70 %."""
GRACE = 1
"""G at 20 blocks. No reveal leaves before A + G; one counts if first seen before R + G."""
SIGHTING_END = 17
"""The score commitment of a sighting counts if that is first seen before R + 3G."""
MIN_HONEST_SCORE = 66 * 10**16
"""An honest answer is worth about two thirds at the very least, with an honest majority."""
