"""What attempts prove: pure rules from what was asked and answered to passed, failed or neither.

An answer is compared by log probabilities. The hoster's route names for each token of its answer
how likely the model makes it; another route says the same of the same text. A model that knows
nothing makes every token of V equally likely, so what the model adds is the distance from -ln V,
and that is what a difference is measured by.

No peer is blamed for what another one may have spoilt. Every failed attempt has *suspects*: the
other hops of its route, and those of the reference. A probe has failed only if all attempts did
and no suspect stands in all of them. An attempt avoids the suspects of those before it, so a
broken or lying hop is soon left out; where there is no way round it, nothing is proven.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from consensus.protocol_params import ConsensusParams
from keys.peer import PeerId

MIN_SPREAD = 1.0
"""The least that a token's log probability counts as saying, in nats: noise of a model that says
nothing must not be divided by nothing.
"""


@dataclass(frozen=True, slots=True)
class Passed:
    """The hoster served, and its answer was right as far as it could be compared."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The hoster did not serve, or its answer was wrong, unless one of ``suspects`` spoilt it."""

    reason: str
    suspects: frozenset[PeerId] = frozenset()


@dataclass(frozen=True, slots=True)
class Unclear:
    """The attempt proves nothing: this node or the rest of the network did not work."""

    reason: str


Attempt = Passed | Failed | Unclear


def judge_attempts(attempts: Sequence[Attempt], params: ConsensusParams) -> bool | None:
    """Return whether the probe passed; None where neither is proven."""
    if any(isinstance(attempt, Passed) for attempt in attempts):
        return True
    failures = [attempt for attempt in attempts if isinstance(attempt, Failed)]
    if len(failures) < params.probe_attempts:
        return None
    in_all = frozenset.intersection(*(failure.suspects for failure in failures))
    return None if in_all else False


def compute_distance(
    found: Sequence[float], expected: Sequence[float], *, vocab_size: int
) -> float:
    """Return how far ``found`` log probabilities are from the ``expected`` ones of the same
    tokens, relative to what the model says beyond every token being equally likely.
    """
    if len(found) != len(expected) or not found:
        raise ValueError(f"{len(found)} log probabilities and {len(expected)} expected ones")
    difference = math.dist(found, expected)
    said = math.hypot(*(value + math.log(vocab_size) for value in expected))
    return difference / max(said, MIN_SPREAD * math.sqrt(len(expected)))


def is_too_far(distance: float, params: ConsensusParams) -> bool:
    """Whether an answer at this distance is wrong; so is one that is not a number."""
    return not 100 * distance <= params.probe_tolerance_percent
