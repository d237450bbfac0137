"""What a node says of itself to the operator beside it: one small file, replaced whole.

Written at every head, so its age says whether the node lives. It holds no secret.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from subnet.errors import ConfigError

STATUS_FILE = "status.json"
MAX_STATUS_SIZE = 64 * 1024


class NodeStatus(BaseModel):
    """The state of one node at one head. Times are seconds since 1970."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    peer_id: str
    subnet_id: int
    subnet_node_id: int
    role: str
    blocks: tuple[int, int] | None
    written_at: float
    head: int
    epoch: int
    phase: str
    taking_part: str
    addresses: tuple[str, ...]


def write_status(directory: Path, status: NodeStatus) -> None:
    """Replace the status file. Raises OSError."""
    path = directory / STATUS_FILE
    temporary = path.with_suffix(".json.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(status.model_dump_json() + "\n")
    os.replace(temporary, path)


def read_statuses(data_dir: Path) -> tuple[NodeStatus, ...]:
    """Return the status of every node that keeps its journal below ``data_dir``.

    Raises ConfigError for a file that is not a status.
    """
    statuses = []
    for path in sorted(data_dir.glob(f"*/{STATUS_FILE}")):
        if path.stat().st_size > MAX_STATUS_SIZE:
            raise ConfigError(f"{path} is too large for a status file", "remove it")
        try:
            statuses.append(NodeStatus.model_validate(json.loads(path.read_bytes())))
        except (OSError, ValueError, ValidationError) as error:
            raise ConfigError(f"{path} is not a status file", "remove it") from error
    return tuple(statuses)
