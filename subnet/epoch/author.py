"""Which node signs: its key, the id that the chain gave it, and the network it belongs to."""

from __future__ import annotations

from dataclasses import dataclass

from consensus.commitment import CommitContext, derive_salt
from consensus.records import RecordKind
from consensus.roster import Roster
from consensus.types import Epoch, SubnetNodeId
from keys.envelope import Envelope, seal
from keys.peer import SIGNATURE_SIZE, PeerKey
from subnet.epoch.terms import SubnetTerms


@dataclass(frozen=True, slots=True)
class Author:
    """Seals this node's records and derives the salts of its commitments."""

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

    def compute_hash(self, kind: RecordKind, roster: Roster, body: bytes) -> bytes:
        """Return the hash that a record of this body will have, without signing it."""
        return Envelope(
            kind=kind,
            network_id=self.terms.network_id,
            epoch=roster.epoch,
            expires_at=self.terms.compute_expiry(roster.timestamp_s),
            node_id=self.node_id,
            author=self.key.peer_id,
            body=body,
            signature=bytes(SIGNATURE_SIZE),
        ).record_hash

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
