"""Signs this node's records and publishes what the journal holds, unchanged."""

from __future__ import annotations

from dataclasses import dataclass

from consensus.commitment import CommitContext, derive_salt
from consensus.records import RecordKind, encode_challenge
from consensus.roster import Roster
from consensus.types import Epoch, SubnetNodeId
from keys.envelope import Envelope, seal
from keys.peer import PeerKey
from subnet.epoch.interfaces import RecordStore
from subnet.epoch.rosters import SubnetTerms
from subnet.errors import DutyPostponed
from subnet.journal.journal import Journal


@dataclass(frozen=True, slots=True)
class Author:
    """Who signs: this node's key and the id that the chain gave it."""

    terms: SubnetTerms
    key: PeerKey
    node_id: SubnetNodeId

    def seal(self, kind: RecordKind, roster: Roster, body: bytes) -> Envelope:
        """Sign a record of the roster's epoch."""
        return seal(
            self.key,
            kind=kind,
            network_id=self.terms.network_id,
            epoch=roster.epoch,
            expires_at=self.terms.compute_expiry(roster.timestamp_s),
            node_id=self.node_id,
            body=body,
        )

    def derive_salt(self, kind: RecordKind, epoch: Epoch) -> bytes:
        """Return the salt of this node's commitment; secret until it is revealed."""
        return derive_salt(
            self.key,
            network_id=self.terms.network_id,
            kind=kind,
            epoch=epoch,
            node_id=self.node_id,
        )

    def make_context(self, epoch: Epoch) -> CommitContext:
        """Return what this node's commitments of ``epoch`` are bound to."""
        return CommitContext(self.terms.network_id, epoch, self.node_id, self.key.peer_id)


class Publisher:
    """Publishes what the journal holds, and nothing that it does not hold."""

    def __init__(self, author: Author, *, store: RecordStore, journal: Journal) -> None:
        self._author = author
        self._store = store
        self._journal = journal

    async def publish_challenge(self, roster: Roster) -> None:
        """Sign and publish the challenge that the chain decides."""
        body = encode_challenge(self._author.terms.compute_challenge(roster))
        record = self._author.seal(RecordKind.CHALLENGE, roster, body)
        await self._journal.record_signed(record)
        await self.publish(RecordKind.CHALLENGE, roster.epoch)

    async def publish(self, kind: RecordKind, epoch: Epoch) -> None:
        """Publish the journal's record of a slot until a replica is known to hold it.

        Raises DutyPostponed where none is.
        """
        envelope = self._journal.own_records[kind, epoch].envelope
        value = envelope.to_bytes()
        if not await self._store.publish(envelope.key, value, envelope.expires_at):
            raise DutyPostponed(f"no replica has acknowledged the {kind.name}")
        await self._journal.record_acknowledged(kind, epoch)
