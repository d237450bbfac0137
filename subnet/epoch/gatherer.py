"""Fetches records that others name: from the record store, and from peers that have them.

What a node did not see in time, or not at all because it was down, is fetched later by slot or by
hash. Nothing that a peer answers is trusted: it passes the same admission as a record to store, and
only a record of a hash that was asked for is kept.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from consensus.admission import admit
from consensus.errors import InvalidRecord
from consensus.naming import Slot, get_name
from consensus.records import RecordKind
from consensus.types import Epoch, SubnetNodeId
from keys.envelope import Envelope, compute_record_key
from keys.peer import PeerId
from mesh.errors import PeerError, TransportError
from subnet.epoch.context import NodeContext
from subnet.epoch.observer import Unavailable

MAX_HOLDERS = 12
"""Peers that are asked for what the record store lacks, in one attempt."""
STORE_TIMEOUT_BLOCKS = 0.5
PEER_TIMEOUT_BLOCKS = 0.25


class Gatherer:
    """Brings named records into the journal."""

    def __init__(self, context: NodeContext) -> None:
        self._terms = context.terms
        self._store = context.store
        self._peers = context.peers
        self._journal = context.journal
        self._rosters = context.rosters
        self._own = context.author.key.peer_id
        self._observe = context.observe

    async def fetch_slots(self, slots: Collection[Slot]) -> list[Envelope]:
        """Return the record that the store holds for each slot, where it holds one.

        They are journaled, so that this node can name them and serve them: a few versions of each.
        """
        found = await self._read_slots(slots)
        await self._journal.record_fetched(found)
        return found

    async def _read_slots(self, slots: Collection[Slot]) -> list[Envelope]:
        keys = {}
        for kind, epoch, node_id in slots:
            author = self._get_author((kind, epoch, node_id))
            if author is not None:
                key = compute_record_key(self._terms.network_id, kind, epoch, author)
                keys[key] = (kind, epoch, node_id)
        timeout_s = STORE_TIMEOUT_BLOCKS * self._terms.block_time_s
        try:
            values = await self._store.fetch(tuple(keys), timeout_s=timeout_s)
        except TransportError as error:
            self._observe(Unavailable("records", str(error)))
            return []
        return [
            envelope
            for key, value in values.items()
            if key in keys and (envelope := self._admit(value)) is not None and envelope.key == key
        ]

    async def fetch_named(
        self, wanted: Mapping[bytes, Slot], *, holders: Iterable[PeerId]
    ) -> dict[bytes, Envelope]:
        """Return name -> record for each name in ``wanted`` that can be had.

        The journal is asked first, then the record store, then the ``holders`` in their order.
        """
        found = self._find_known(wanted)
        if len(found) < len(wanted):
            slots = [slot for name, slot in wanted.items() if name not in found]
            await self._keep_named(await self._read_slots(slots), wanted)
            found = self._find_known(wanted)
        asked = 0
        for peer in dict.fromkeys(holders):
            missing = [name for name in wanted if name not in found]
            if not missing or asked == MAX_HOLDERS:
                break
            if peer != self._own:
                asked += 1
                await self._ask(peer, missing)
                found = self._find_known(wanted)
        return found

    async def _ask(self, peer: PeerId, names: Sequence[bytes]) -> None:
        timeout_s = PEER_TIMEOUT_BLOCKS * self._terms.block_time_s
        try:
            values = await self._peers.fetch_by_hash(peer, names, timeout_s=timeout_s)
        except (PeerError, TransportError) as error:
            self._observe(Unavailable("records of a peer", str(error)))
            return
        admitted = [envelope for value in values if (envelope := self._admit(value)) is not None]
        await self._keep_named(admitted, names)

    async def _keep_named(self, envelopes: Iterable[Envelope], names: Collection[bytes]) -> None:
        """Journal the records that are named; another version of a record is not kept."""
        named = [envelope for envelope in envelopes if get_name(envelope) in names]
        await self._journal.record_fetched(named, are_named=True)

    def _find_known(self, wanted: Mapping[bytes, Slot]) -> dict[bytes, Envelope]:
        known = {name: self._journal.find_by_name(name) for name in wanted}
        return {
            name: envelope
            for name, envelope in known.items()
            if envelope is not None and _get_slot(envelope) == wanted[name]
        }

    def _admit(self, value: bytes) -> Envelope | None:
        """Return what a stranger's bytes hold, None if it is nothing that a store may keep."""
        try:
            return admit(value, None, self._rosters.table)
        except InvalidRecord as error:
            self._observe(Unavailable("a record", f"a peer answered with garbage: {error}"))
            return None

    def _get_author(self, slot: Slot) -> PeerId | None:
        _, epoch, node_id = slot
        roster = self._journal.rosters.get(epoch)
        node = None if roster is None else roster.get_by_id(node_id)
        return None if node is None else node.peer_id


def _get_slot(envelope: Envelope) -> Slot:
    return RecordKind(envelope.kind), Epoch(envelope.epoch), SubnetNodeId(envelope.node_id)
