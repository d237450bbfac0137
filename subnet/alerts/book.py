"""Which alerts fire now: each is told once, and once more when it clears.

The firing ones are kept in a small file, so that a node that is restarted again and again does not
tell them again and again. The file is best effort: without it they are told once a start.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import structlog

from consensus.missed import OwedDuty
from subnet.private_file import replace_private_file

ALERTS_FILE = "alerts.json"
MAX_FILE_SIZE = 16 * 1024
MAX_DETAIL = 300
"""Characters; a detail may quote what a peer or an endpoint sent."""

logger = structlog.get_logger(__name__)


class AlertKind(StrEnum):
    MISSED_DUTY = "missed_duty"
    ATTESTATION_REFUSED = "attestation_refused"
    UNREACHABLE = "unreachable"
    LOW_BALANCE = "low_balance"
    SCORE_DROP = "score_drop"
    CHAIN_STALE = "chain_stale"
    DISK_LOW = "disk_low"


@dataclass(frozen=True, slots=True)
class AlertName:
    """What fires: a kind, and for a missed duty which one."""

    kind: AlertKind
    duty: OwedDuty | None = None

    def __str__(self) -> str:
        return self.kind.value if self.duty is None else f"{self.kind}:{self.duty.name.lower()}"


NAMES = {
    str(name): name
    for name in (
        *(AlertName(kind) for kind in AlertKind if kind is not AlertKind.MISSED_DUTY),
        *(AlertName(AlertKind.MISSED_DUTY, duty) for duty in OwedDuty),
    )
}
"""Every alert that there is, by its text."""


@dataclass(frozen=True, slots=True)
class Alert:
    """A change to tell: ``name`` fires or has cleared."""

    name: AlertName
    is_firing: bool
    detail: str


class AlertBook:
    """Remembers what fires. ``directory`` is the node's data folder."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / ALERTS_FILE
        self._firing = _load(self._path)

    @property
    def firing(self) -> frozenset[AlertName]:
        """What fires now."""
        return frozenset(self._firing)

    def set(self, name: AlertName, detail: str | None) -> Alert | None:
        """Say that ``name`` fires, with the reason, or with None that it does not.

        Returns the change to tell; None where nothing has changed.
        """
        if (detail is not None) == (name in self._firing):
            return None
        self._firing ^= {name}
        self._keep()
        return Alert(name, detail is not None, (detail or "")[:MAX_DETAIL])

    def _keep(self) -> None:
        content = json.dumps(sorted(map(str, self._firing))).encode()
        try:
            replace_private_file(self._path, content, is_durable=False)
        except OSError as error:
            logger.debug("the alerts that fire cannot be kept", reason=error.strerror)


def _load(path: Path) -> set[AlertName]:
    """Return what fired when the node ended. A file that is missing or damaged holds nothing."""
    try:
        with path.open("rb") as file:
            texts = json.loads(file.read(MAX_FILE_SIZE))
        return {NAMES[text] for text in texts}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return set()
