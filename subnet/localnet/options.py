"""What a person decides about a local network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

EPOCH_LENGTH = 20
FINALITY_LAG = 2
ANSWER_TOKENS = 256
SETUP_TIMEOUT_S = 180.0
MARGIN_S = 60.0


@dataclass(frozen=True, slots=True)
class LocalnetOptions:
    """``prompt`` None asks the shipped model's first question; ``keep`` keeps keys and logs there.

    ``block_seconds`` is the time between blocks once the network runs. ``epochs`` 0 goes on until
    it is interrupted. ``serve_port`` starts an HTTP gateway there.
    """

    hosters: int = 4
    validators: int = 2
    epochs: int = 2
    block_seconds: float = 1.0
    prompt: str | None = None
    keep: Path | None = None
    serve_port: int | None = None

    @property
    def epoch_timeout_s(self) -> float:
        """The wait for one row: its epoch, and the one that proposes it."""
        return 2 * EPOCH_LENGTH * self.block_seconds + MARGIN_S
