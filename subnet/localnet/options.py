"""The options of a local network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mesh.assets import SHIPPED_MODEL_NAME
from subnet.localnet.faults import Fault

EPOCH_LENGTH = 20
FINALITY_LAG = 2
ANSWER_TOKENS = 256
SETUP_TIMEOUT_S = 180.0
DEVCHAIN_BLOCK_SECONDS = 1.5
REAL_BLOCK_SECONDS = 6.0
"""The real runtime's time goes 6 s a block, however fast the blocks are made."""
MARGIN_S = 60.0


@dataclass(frozen=True, slots=True)
class LocalnetOptions:
    """``prompt`` None asks the shipped model's first question; ``keep`` keeps keys and logs there.

    ``model`` is a name or path that resolve_known_model takes. With ``ranges`` the first hosters
    serve so many equal parts of it, and answers go over all of them; the others stand by with every
    block. ``is_one_answer`` ends the network once the question is answered.

    ``block_seconds`` is the time between blocks once the network runs. ``epochs`` 0 goes on until
    it is interrupted. ``serve_port`` starts an HTTP gateway there, ``monitor_port`` the
    monitor page of the last node. ``chain_url`` is an existing
    chain to run on instead of one made for the occasion; ``is_driven`` makes its blocks, where it
    does not make them by itself. ``scorer`` and ``probe`` name plug-ins; ``faults`` strike in the
    first epoch that is scored.
    """

    hosters: int = 4
    validators: int = 2
    epochs: int = 2
    block_seconds: float = DEVCHAIN_BLOCK_SECONDS
    prompt: str | None = None
    keep: Path | None = None
    serve_port: int | None = None
    monitor_port: int | None = None
    chain_url: str | None = None
    is_driven: bool = True
    model: str = SHIPPED_MODEL_NAME
    ranges: int | None = None
    is_one_answer: bool = False
    scorer: str | None = None
    probe: str | None = None
    faults: tuple[Fault, ...] = ()

    @property
    def is_shipped_model(self) -> bool:
        return self.model == SHIPPED_MODEL_NAME

    @property
    def is_watched(self) -> bool:
        """Whether applications or people use the network, so that it survives what goes wrong."""
        return self.serve_port is not None or self.monitor_port is not None

    def compute_epoch_timeout_s(self, epoch_length: int) -> float:
        """Return the wait for one row: its epoch, and the one that proposes it."""
        return 2 * epoch_length * self.block_seconds + MARGIN_S
