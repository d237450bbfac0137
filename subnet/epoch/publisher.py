"""Signs this node's records, writes them to the journal, and publishes them, in this order."""

from __future__ import annotations

from consensus.records import RecordKind
from consensus.roster import Roster
from consensus.types import Epoch
from subnet.epoch.context import NodeContext
from subnet.errors import DutyPostponed


class Publisher:
    """The only way from a record's body to the record store."""

    def __init__(self, context: NodeContext) -> None:
        self._author = context.author
        self._store = context.store
        self._journal = context.journal

    async def issue(
        self,
        roster: Roster,
        kind: RecordKind,
        body: bytes,
        *,
        reveal: tuple[RecordKind, bytes] | None = None,
    ) -> None:
        """Seal a record of the roster's epoch, journal it, and publish it.

        ``reveal``, kind and body, opens a commit: it is sealed and journaled with the commit, in
        one transaction, and published later. Raises what ``publish`` raises, AlreadySigned if
        another body was signed for the slot, and JournalFailed.
        """
        record = self._author.seal(kind, roster, body)
        opening = None if reveal is None else self._author.seal(reveal[0], roster, reveal[1])
        await self._journal.record_signed(record, opening)
        await self.publish(kind, roster.epoch)

    async def publish(self, kind: RecordKind, epoch: Epoch) -> None:
        """Publish the journal's record of a slot until a replica is known to hold it.

        Raises DutyPostponed where none is.
        """
        envelope = self._journal.own_records[kind, epoch].envelope
        value = envelope.to_bytes()
        if not await self._store.publish(envelope.key, value, envelope.expires_at):
            raise DutyPostponed(f"no replica has acknowledged the {kind.name}")
        await self._journal.record_acknowledged(kind, epoch)
