"""Decides which records this node's store keeps: admitted consensus records and heartbeats."""

from __future__ import annotations

from collections.abc import Callable

from consensus.admission import EpochTable, admit
from consensus.errors import InvalidRecord
from consensus.records import RecordKind
from mesh.errors import RecordRefused

HeartbeatPolicy = Callable[[bytes, float], bytes]
"""Returns the key of a heartbeat, or raises RecordRefused."""
_KIND_OFFSET = 5
"""The envelope's kind byte stands behind magic and version."""


class ConsensusRecordPolicy:
    """Satisfies mesh.p2p.interface.RecordPolicy.

    ``get_table`` returns the epochs known now; the table only grows, so answers never turn
    from yes to no.
    """

    def __init__(
        self, get_table: Callable[[], EpochTable], *, admit_heartbeat: HeartbeatPolicy
    ) -> None:
        self._get_table = get_table
        self._admit_heartbeat = admit_heartbeat

    def admit(self, value: bytes, expires_at: float) -> bytes:
        """Return the key that ``value`` belongs under. Raises RecordRefused."""
        if value[_KIND_OFFSET : _KIND_OFFSET + 1] == bytes([RecordKind.HEARTBEAT]):
            return self._admit_heartbeat(value, expires_at)
        try:
            return admit(value, expires_at, self._get_table()).key
        except InvalidRecord as error:
            raise RecordRefused(error.reason, error.detail) from error
