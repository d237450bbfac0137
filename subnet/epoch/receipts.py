"""Keeps of each epoch what its receipts are made from, before the journal forgets it.

An epoch is kept twice: when this node has scored it, and again when its proposal is settled. It can
be scored again from that (``subnet.receipts``). It is for people: no duty waits for it, and where
the chain does not answer it is tried again with the next head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from consensus.errors import InvalidRecord, ProposalMismatch
from consensus.missed import OwedDuty
from consensus.naming import (
    check_named_list,
    decode_args,
    find_accepted,
    get_name,
    open_sighting,
)
from consensus.records import NAME_SIZE, SEEN_SLOTS, RecordKind, decode_named_list
from consensus.roster import Roster
from consensus.submission import Submission
from consensus.types import BlockNumber, Epoch, EpochPosition, SubnetNodeId
from keys.envelope import Envelope
from subnet.epoch.context import NodeContext
from subnet.epoch.probation import ProbationReader
from subnet.errors import ChainUnavailable
from subnet.receipts.evidence import EpochEvidence, FirstSeen, Notes, OwnRecord

MAX_TROUBLE = 500
"""Characters of the chain's trouble that are kept."""
_WATCHED_EPOCHS = 4
_ON_CHAIN = (OwedDuty.PROPOSE, OwedDuty.ATTEST)

GetSubmission = Callable[[Epoch], Submission | None]
"""Returns the proposal of the present epoch as this node read it last."""


class ReceiptKeeper:
    """Says which epochs are to be kept now, and keeps them."""

    def __init__(self, context: NodeContext, *, get_submission: GetSubmission) -> None:
        self._context = context
        self._journal = context.journal
        self._rosters = context.rosters
        self._get_submission = get_submission
        self._probation = ProbationReader(context)
        self._heads: dict[Epoch, set[BlockNumber]] = {}
        self._first_epoch: Epoch | None = None
        self._trouble: str | None = None
        self._kept: dict[Epoch, bool] = {}
        """Epochs that were kept, and whether they were settled then."""

    def note_head(self, position: EpochPosition) -> None:
        """Count a block that reached this node."""
        if self._first_epoch is None:
            self._first_epoch = position.epoch
        self._heads.setdefault(position.epoch, set()).add(position.block)
        for table in (self._heads, self._kept):
            for epoch in [e for e in table if e <= position.epoch - _WATCHED_EPOCHS]:
                del table[epoch]

    def note_trouble(self, detail: str) -> None:
        """Keep why the chain did not answer."""
        self._trouble = detail[:MAX_TROUBLE]

    def list_due(self, epoch: Epoch) -> tuple[Epoch, ...]:
        """Return the epochs to keep in ``epoch``: one that is settled, and one that is scored."""
        if self._context.receipts is None:
            return ()
        settled, scored = Epoch(epoch - 2), Epoch(epoch - 1)
        due = [settled] if self._is_settled(settled) and not self._kept.get(settled) else []
        if scored in self._journal.reports and scored not in self._kept:
            due.append(scored)
        return tuple(e for e in due if self._is_known(e))

    async def keep(self, epoch: Epoch) -> None:
        """Write what is kept of an epoch; nothing is written while the chain does not answer."""
        sink, is_settled = self._context.receipts, self._is_settled(epoch)
        if sink is None or (is_settled and await self._context.run(sink.is_settled, epoch)):
            self._kept[epoch] = True
            return
        try:
            evidence = await self._collect(epoch, is_settled=is_settled)
        except ChainUnavailable as error:
            self.note_trouble(str(error))
            return
        await self._context.run(sink.write, evidence)
        self._kept[epoch] = is_settled

    def _is_known(self, epoch: Epoch) -> bool:
        rosters, elections = self._journal.rosters, self._journal.elections
        following = Epoch(epoch + 1)
        return epoch in rosters and following in rosters and {epoch, following} <= elections.keys()

    def _is_settled(self, epoch: Epoch) -> bool:
        """Whether the epoch that proposes its scores is over, with or without a proposal."""
        following = Epoch(epoch + 1)
        if following in self._journal.submissions:
            return True
        elections = self._journal.elections
        is_over = Epoch(epoch + 2) in self._journal.rosters
        return is_over and following in elections and elections[following] is None

    async def _collect(self, epoch: Epoch, *, is_settled: bool) -> EpochEvidence:
        context, journal = self._context, self._journal
        following = Epoch(epoch + 1)
        roster, terms = journal.rosters[epoch], context.terms
        submission = (
            journal.submissions.get(following) if is_settled else self._get_submission(following)
        )
        # All of it is read before the chain is asked: the journal may forget while that lasts.
        is_scored, elected = journal.elections[epoch] is not None, journal.elections[following]
        next_roster, later = journal.rosters[following], journal.rosters.get(Epoch(epoch + 2))
        previous = journal.rosters.get(Epoch(epoch - 1))
        is_previous_scored = journal.elections.get(Epoch(epoch - 1)) is not None
        draw, seen = journal.draws.get(epoch), self._list_seen(epoch)
        records = await self._collect_records(roster, submission)
        least = await context.reader.fetch_min_attestation_percent(
            at_block=None if later is None else later.first_block
        )
        return EpochEvidence(
            subnet_id=terms.subnet_id,
            network_id=terms.network_id,
            epoch_length=terms.epoch_length,
            block_time_ms=terms.block_time_ms,
            params=terms.params,
            shape=context.shape,
            kept_by=context.author.node_id,
            about=context.author.node_id,
            roster=roster,
            following=next_roster,
            previous=previous,
            is_scored=is_scored,
            is_previous_scored=is_previous_scored,
            draw=draw,
            probation=await self._probation.read(epoch) if is_scored else {},
            elected=elected,
            submission=submission,
            is_settled=is_settled,
            min_attestation=least,
            departed=_find_departed(next_roster, later),
            records=records,
            seen=seen,
            own=tuple(
                OwnRecord(kind, of, own.is_acknowledged)
                for (kind, of), own in sorted(journal.own_records.items())
                if (kind, epoch - of) in _KEPT
            ),
            notes=self._take_notes(epoch),
        )

    async def _collect_records(
        self, roster: Roster, submission: Submission | None
    ) -> tuple[Envelope, ...]:
        """Return what the proposal rests on; what was seen too if not all of that is here."""
        try:
            found = {} if submission is None else await self._find_named(roster, submission)
            is_whole = None not in found.values() and submission is not None
        except (ProposalMismatch, InvalidRecord):
            found, is_whole = {}, False
        records = {get_name(record): record for record in found.values() if record is not None}
        if not is_whole:
            for age in (0, 1):
                timed = self._journal.get_timed_records(Epoch(roster.epoch - age))
                for (kind, _), seen in timed.items():
                    if (kind, age) in _KEPT:
                        records.setdefault(get_name(seen.envelope), seen.envelope)
        return tuple(sorted(records.values(), key=_get_order))

    async def _find_named(
        self, roster: Roster, submission: Submission
    ) -> dict[bytes, Envelope | None]:
        """Return the named list, the named sightings and the accepted records, by name.

        Raises ProposalMismatch or InvalidRecord for a proposal that is none.
        """
        naming = decode_args(submission.args, roster)
        if naming.is_empty:
            return {}
        name = naming.list_hash[:NAME_SIZE]
        found = {name: self._journal.find_by_name(name)}
        named_list = found[name]
        if named_list is None:
            return found
        named = check_named_list(decode_named_list(named_list.body), roster)
        found |= self._find(record_hash[:NAME_SIZE] for record_hash in named.values())
        sightings = [
            open_sighting(record, roster)
            for record in found.values()
            if record is not None and record.kind == RecordKind.SIGHTING
        ]
        if len(sightings) == len(named):
            accepted = await self._context.run(find_accepted, sightings, roster)
            found |= self._find(accepted.values())
        return found

    def _find(self, names: Iterable[bytes]) -> dict[bytes, Envelope | None]:
        return {name: self._journal.find_by_name(name) for name in names}

    def _list_seen(self, epoch: Epoch) -> tuple[FirstSeen, ...]:
        seen = [
            FirstSeen((kind, of, node_id), get_name(timed.envelope), timed.seen_at)
            for age in (0, 1)
            for of in [Epoch(epoch - age)]
            for (kind, node_id), timed in self._journal.get_timed_records(of).items()
            if (kind, age) in _KEPT
        ]
        return tuple(sorted(seen, key=lambda record: record.slot))

    def _take_notes(self, epoch: Epoch) -> Notes:
        missed = self._journal.missed
        owed = [(epoch, duty, why) for duty, why in missed.get(epoch, {}).items()]
        following = Epoch(epoch + 1)
        owed += [
            (following, duty, why)
            for duty, why in missed.get(following, {}).items()
            if duty in _ON_CHAIN
        ]
        is_watched = self._first_epoch is not None and self._first_epoch < epoch
        return Notes(
            missed=tuple((at, duty.name, why) for at, duty, why in owed),
            refused=self._journal.refused.get(following),
            num_heads=len(self._heads.get(epoch, ())) if is_watched else None,
            chain_trouble=self._trouble,
        )


_KEPT = frozenset({*SEEN_SLOTS, (RecordKind.SIGHTING, 0)})
"""Which records decide an epoch's scores: their kinds, and their age in epochs."""


def _find_departed(roster: Roster, later: Roster | None) -> frozenset[SubnetNodeId]:
    """Return the nodes of a roster that are not in the one after it."""
    if later is None:
        return frozenset()
    return frozenset(n.node_id for n in roster.nodes) - {n.node_id for n in later.nodes}


def _get_order(record: Envelope) -> tuple[int, int, int, bytes]:
    return record.epoch, record.kind, record.node_id, record.record_hash
