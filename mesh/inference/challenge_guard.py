"""The relay guard: no hidden states of an open challenge are computed for a peer.

A node that holds no weights could open a session at an honest hoster in the middle of a route,
send it the input of a challenged layer as hidden states, and commit to what comes back. While a
challenge is open, the engine therefore compares every row of hidden states that enters a layer
with the challenge's vectors of that layer, and refuses a step with a row that points where one of
them does, or the opposite way. A cosine is blind to scale, as the layer's norm is; a row that
stands 60 degrees away gives another answer. Hidden states of text have cosines of about 0.1.

The node opens and closes challenges here; what a challenge is, it knows alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mesh.inference.refusals import RefusalReason, Refused

MAX_COSINE = 0.5
MIN_DEVIATIONS = 6.0
"""Cosines of unrelated vectors vary by 1 / sqrt(hidden_size); the limit is never nearer to 0 than
so many deviations. It matters for models narrower than 144 channels only.
"""
MAX_OPEN = 4
"""Challenges open at once: branches of the chain, before one of them is final."""

ComputeInput = Callable[[int], NDArray[np.float32]]
"""Returns a challenge's input of one layer, float32 [positions, hidden_size]. It is called on the
compute thread, once for each layer at which hidden states enter.
"""


@dataclass(slots=True)
class _OpenChallenge:
    """One challenge, with the unit vectors [hidden_size, positions] of the layers asked for."""

    name: bytes
    compute_input: ComputeInput
    units: dict[int, Tensor] = field(default_factory=dict)

    def get_units(self, layer: int, like: Tensor) -> Tensor:
        units = self.units.get(layer)
        if units is None:
            vectors = torch.from_numpy(np.array(self.compute_input(layer), dtype=np.float32))
            units = torch.nn.functional.normalize(vectors).to(like.device, like.dtype).T
            self.units[layer] = units
        return units


class ChallengeGuard:
    """The open challenges of one engine. ``refused`` counts the steps that were refused."""

    def __init__(self) -> None:
        self.refused = 0
        # Replaced, never changed: the compute thread reads it while the event loop opens another.
        self._challenges: tuple[_OpenChallenge, ...] = ()

    @property
    def is_open(self) -> bool:
        """Whether hidden states are compared now."""
        return bool(self._challenges)

    def open(self, name: bytes, compute_input: ComputeInput) -> None:
        """Open a challenge beside those that are open; the oldest of too many is closed.

        A ``name`` that is open already changes nothing.
        """
        if all(challenge.name != name for challenge in self._challenges):
            self._challenges = (*self._challenges, _OpenChallenge(name, compute_input))[-MAX_OPEN:]

    def close(self) -> None:
        """Close every challenge: hidden states pass unseen."""
        self._challenges = ()

    def suspect(self, layer: int, rows: Tensor) -> Tensor | None:
        """Compare ``rows`` [rows, hidden_size] that enter ``layer``; None if nothing is open.

        The result stays on the rows' device, so that nothing waits here; see :meth:`check`.
        """
        challenges = self._challenges
        if not challenges:
            return None
        units = [challenge.get_units(layer, rows) for challenge in challenges]
        cosines = rows @ (units[0] if len(units) == 1 else torch.cat(units, dim=1))
        lengths = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float32)
        nearest = torch.linalg.vector_norm(cosines, torch.inf, dim=1)
        is_near: Tensor = nearest > compute_limit(rows.shape[1]) * lengths
        return is_near.any()

    def admits(self, layer: int, rows: NDArray[np.float32]) -> bool:
        """Whether a step with ``rows`` [rows, hidden_size] at ``layer`` is computed for a peer."""
        suspicion = self.suspect(layer, torch.from_numpy(rows))
        return suspicion is None or not bool(suspicion)

    def check(self, suspicion: Tensor, layer: int) -> None:
        """Raise Refused(CHALLENGE_RELAYED) if :meth:`suspect` found a row of a challenge."""
        if suspicion:
            self.refused += 1
            raise Refused(
                RefusalReason.CHALLENGE_RELAYED,
                f"hidden states at block {layer} are those of the open challenge",
            )


def compute_limit(hidden_size: int) -> float:
    """Return the cosine, of either sign, above which a row counts as a challenge's."""
    return max(MAX_COSINE, MIN_DEVIATIONS / float(np.sqrt(hidden_size)))
