"""This node as a judge: what it saw and scored itself, and what it proposes and attests.

The rules are ``consensus.naming`` and ``consensus.epoch``. This file gives them their facts, has
the gatherer fetch what is missing, and runs the arithmetic in a thread beside the event loop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from consensus.attestation import check_naming
from consensus.audit import draw_layers
from consensus.commitment import compute_audit_commitment, compute_score_commitment
from consensus.duties import Attest, Propose
from consensus.epoch import compute_score_rows, score_epoch, score_nothing
from consensus.errors import InvalidRecord, ProposalMismatch, ScorerFailed
from consensus.evidence import EpochFacts
from consensus.naming import (
    NOTHING_NAMED,
    Naming,
    Slot,
    check_named_list,
    compute_quorum,
    decode_args,
    encode_args,
    find_accepted,
    hash_accepted,
    list_seen,
    open_sighting,
)
from consensus.records import (
    NAME_SIZE,
    NO_SCORES,
    AuditCommit,
    AuditReveal,
    NamedList,
    NamedSighting,
    RecordKind,
    ScoreReveal,
    ScoreRow,
    Sighting,
    decode_named_list,
    encode_audit_commit,
    encode_audit_reveal,
    encode_named_list,
    encode_score_reveal,
    encode_sighting,
)
from consensus.report import EpochReport
from consensus.roster import Roster
from consensus.submission import Submission
from consensus.types import BlockNumber, Epoch, NodeClass, Role, SubnetNodeId
from keys.envelope import Envelope
from keys.peer import PeerId
from subnet.epoch.context import NodeContext
from subnet.epoch.gatherer import Gatherer
from subnet.epoch.hoster import build_layer_tasks, encode_outputs
from subnet.epoch.observer import ProposalScored
from subnet.epoch.probation import ProbationReader
from subnet.errors import DutyPostponed

MAX_REPORTS_KEPT = 3


@dataclass(frozen=True, slots=True)
class Proposal:
    """What this node proposes. ``list_body`` is that of the NAMED_LIST; None: nothing is named."""

    report: EpochReport
    args: bytes
    list_body: bytes | None


@dataclass(frozen=True, slots=True)
class _Basis:
    """What one set of named sightings decides."""

    named: Mapping[SubnetNodeId, Sighting]
    accepted: Mapping[Slot, bytes]
    records: Mapping[Slot, Envelope]


class Judge:
    """Says what this node saw, scores epochs, makes proposals and checks those of others."""

    def __init__(self, context: NodeContext, gatherer: Gatherer) -> None:
        self._context = context
        self._author = context.author
        self._terms = context.terms
        self._shape = context.shape
        self._journal = context.journal
        self._run = context.run
        self._gatherer = gatherer
        self._probation = ProbationReader(context)
        self._reports: dict[Epoch, EpochReport] = {}

    async def sight(self, roster: Roster) -> tuple[bytes, bytes | None]:
        """Return the bodies of this node's sighting and of the reveal of its scores.

        The reveal is None without scores: in the role hoster, or where no output was revealed.
        """
        facts = await self.gather_own(roster)
        seen = await self._run(list_seen, facts.records, roster)
        commitment, reveal = NO_SCORES, None
        if self._context.role is Role.VALIDATOR:
            rows = await self._run(self._score_own, facts)
            if rows:
                salt = self._author.derive_salt(RecordKind.SCORE_REVEAL, roster.epoch)
                context = self._author.make_context(roster.epoch)
                commitment = compute_score_commitment(context, salt=salt, rows=rows)
                reveal = encode_score_reveal(ScoreReveal(salt, rows))
        places = {node.node_id: place for place, node in enumerate(roster.nodes)}
        failed = {places[node] for node in self._context.list_failed_probes(roster)}
        sighting = Sighting(commitment, len(roster.nodes), seen, frozenset(failed))
        return encode_sighting(sighting), reveal

    async def audit(self, roster: Roster, draw: bytes) -> tuple[bytes, bytes]:
        """Compute the layers that ``draw`` selects; return the bodies of commit and reveal.

        Raises DutyPostponed where this node has no files of the model, and ModelError where they
        lack the layer or are not the subnet's.
        """
        auditor = self._context.get_auditor()
        if auditor is None:
            raise DutyPostponed("the model's files are not here")
        params = self._terms.params
        layers = draw_layers(draw, self._shape, params)
        seed = self._terms.compute_challenge(roster).seed
        tasks = build_layer_tasks(seed, layers, self._shape, params)
        outputs = await auditor.run_tasks(tasks)
        vectors = encode_outputs(tasks, outputs, seed=seed, shape=self._shape, params=params)
        salt = self._author.derive_salt(RecordKind.AUDIT_COMMIT, roster.epoch)
        commitment = compute_audit_commitment(
            self._author.make_context(roster.epoch),
            draw=draw,
            salt=salt,
            layers=layers,
            vectors=vectors,
        )
        return (
            encode_audit_commit(AuditCommit(draw, commitment)),
            encode_audit_reveal(AuditReveal(salt, vectors)),
        )

    async def prepare(self, duty: Propose, *, may_give_up: bool) -> Proposal:
        """Return what this node proposes in the duty's epoch.

        Raises DutyPostponed while an accepted record cannot be had, and ChainUnavailable. While too
        few sightings can be had it raises DutyPostponed too; with ``may_give_up`` it then returns
        the proposal that names none and has 0 in every row.
        """
        if duty.is_first:
            return await self._prepare_nothing(duty)
        roster = self._journal.rosters[duty.scored_epoch]
        sightings = await self._collect_sightings(duty)
        if len(sightings) < compute_quorum(roster):
            if may_give_up:
                return await self._prepare_nothing(duty)
            raise DutyPostponed(
                f"{len(sightings)} of {compute_quorum(roster)} sightings can be had"
            )
        basis = await self._open_basis(sightings, roster, holders=())
        report = await self._score(duty, basis)
        places = {node.node_id: place for place, node in enumerate(roster.nodes)}
        rows = sorted(
            NamedSighting(places[node_id], envelope.record_hash)
            for node_id, envelope in sightings.items()
        )
        list_body = encode_named_list(NamedList(tuple(rows)))
        list_hash = self._author.compute_hash(
            RecordKind.NAMED_LIST, self._journal.rosters[duty.epoch], list_body
        )
        self._context.observe(ProposalScored(report, list_hash))
        accepted_hash = hash_accepted(basis.records, basis.accepted)
        naming = Naming(list_hash, accepted_hash, report.unpaid, report.probation)
        return Proposal(report, encode_args(naming, roster), list_body)

    async def check(self, duty: Attest, submission: Submission) -> EpochReport:
        """Return the report that the proposal should rest on; its rows are compared by the caller.

        Raises ProposalMismatch for a proposal that is never attested, DutyPostponed while
        something that it names cannot be had, and ChainUnavailable.
        """
        roster = self._journal.rosters[self._get_scored(duty)]
        naming = decode_args(submission.args, roster)
        if duty.is_first or naming.is_empty:
            if not duty.is_first:
                num_sightings = len(await self._collect_sightings(duty))
                if num_sightings >= compute_quorum(roster):
                    raise ProposalMismatch(
                        f"it names no sightings, and {num_sightings} of "
                        f"{compute_quorum(roster)} can be had"
                    )
            report = await self._score_nothing(duty)
            if not naming.is_empty:
                raise ProposalMismatch("it names sightings of an epoch that was not scored")
        else:
            holders = self._list_holders(submission, duty.epoch)
            named = await self._fetch_list(duty, submission, naming, holders)
            sightings = await self._fetch_sightings(named, roster, holders)
            basis = await self._open_basis(sightings, roster, holders=holders)
            if hash_accepted(basis.records, basis.accepted) != naming.accepted_hash:
                raise ProposalMismatch("args: the accepted records are others")
            report = await self._score(duty, basis)
            self._context.observe(ProposalScored(report, naming.list_hash))
        check_naming(report, naming)
        return report

    async def report(self, epoch: Epoch) -> EpochReport:
        """Return the score of an epoch for people to read.

        It is that of the proposal where this node made or checked one, else from what it saw.
        Raises DutyPostponed where the subnet's own scorer fails.
        """
        known = self._reports.get(epoch)
        if known is not None:
            return known
        roster, next_roster = self._journal.rosters[epoch], self._journal.rosters[Epoch(epoch + 1)]
        return await self._run_scoring(await self.gather_own(roster), next_roster)

    async def _run_scoring(self, facts: EpochFacts, next_roster: Roster) -> EpochReport:
        """Score in the thread. Raises DutyPostponed where the subnet's own scorer fails."""
        params, scorer = self._terms.params, self._context.scorer
        try:
            return await self._run(score_epoch, facts, next_roster, params, scorer)
        except ScorerFailed as error:
            raise DutyPostponed(str(error)) from error

    def _score_own(self, facts: EpochFacts) -> tuple[ScoreRow, ...]:
        return compute_score_rows(facts, validator=self._author.node_id, params=self._terms.params)

    async def _prepare_nothing(self, duty: Propose) -> Proposal:
        report = await self._score_nothing(duty)
        roster = self._journal.rosters[self._get_scored(duty)]
        args = encode_args(Naming(probation=report.probation), roster)
        return Proposal(report, args, None)

    async def _score_nothing(self, duty: Propose | Attest) -> EpochReport:
        scored = self._get_scored(duty)
        roster, next_roster = self._journal.rosters[scored], self._journal.rosters[duty.epoch]
        probation = {} if duty.is_first else await self._probation.read(scored)
        seed = self._terms.compute_challenge(roster).seed
        report = score_nothing(roster, next_roster, probation=probation, seed=seed)
        self._remember(report)
        self._context.observe(ProposalScored(report, NOTHING_NAMED))
        return report

    def _get_scored(self, duty: Propose | Attest) -> Epoch:
        """Return the epoch whose roster gives positions; a first proposal has only its own."""
        is_known = duty.scored_epoch in self._journal.rosters
        return duty.epoch if duty.is_first and not is_known else duty.scored_epoch

    async def _collect_sightings(self, duty: Propose | Attest) -> dict[SubnetNodeId, Envelope]:
        """Return the sightings of the scored epoch that this node has or the store holds.

        A proposer that has signed a list already stays with it: an author signs one for an epoch.
        """
        roster = self._journal.rosters[duty.scored_epoch]
        own = self._journal.own_records.get((RecordKind.NAMED_LIST, duty.epoch))
        if own is not None and isinstance(duty, Propose):
            named = check_named_list(decode_named_list(own.envelope.body), roster)
            return await self._fetch_sightings(named, roster, holders=())
        seen = self._journal.get_timed_records(roster.epoch)
        witnesses = [node.node_id for node in roster.with_class(NodeClass.VALIDATOR)]
        envelopes = {
            node_id: seen[RecordKind.SIGHTING, node_id].envelope
            for node_id in witnesses
            if (RecordKind.SIGHTING, node_id) in seen
        }
        missing = [
            (RecordKind.SIGHTING, roster.epoch, node_id)
            for node_id in witnesses
            if node_id not in envelopes
        ]
        if missing:
            for envelope in await self._gatherer.fetch_slots(missing):
                envelopes[SubnetNodeId(envelope.node_id)] = envelope
        return {
            node_id: envelope
            for node_id, envelope in sorted(envelopes.items())
            if _is_sound(envelope, roster)
        }

    async def _fetch_list(
        self, duty: Attest, submission: Submission, naming: Naming, holders: Sequence[PeerId]
    ) -> dict[SubnetNodeId, bytes]:
        slot = (RecordKind.NAMED_LIST, duty.epoch, submission.proposer)
        found = await self._gatherer.fetch_named(
            {naming.list_hash[:NAME_SIZE]: slot}, holders=holders
        )
        envelope = next(iter(found.values()), None)
        if envelope is None or envelope.record_hash != naming.list_hash:
            raise DutyPostponed("the named list cannot be had")
        named = decode_named_list(envelope.body)
        return check_named_list(named, self._journal.rosters[duty.scored_epoch])

    async def _fetch_sightings(
        self, named: Mapping[SubnetNodeId, bytes], roster: Roster, holders: Sequence[PeerId]
    ) -> dict[SubnetNodeId, Envelope]:
        wanted = {
            record_hash[:NAME_SIZE]: (RecordKind.SIGHTING, roster.epoch, node_id)
            for node_id, record_hash in named.items()
        }
        authors = [node.peer_id for node in roster.nodes if node.peer_id is not None]
        found = await self._gatherer.fetch_named(wanted, holders=(*holders, *authors))
        sightings = {}
        for node_id, record_hash in named.items():
            envelope = found.get(record_hash[:NAME_SIZE])
            if envelope is None or envelope.record_hash != record_hash:
                raise DutyPostponed(f"the sighting of node {node_id} cannot be had")
            sightings[node_id] = envelope
        return sightings

    async def _open_basis(
        self, sightings: Mapping[SubnetNodeId, Envelope], roster: Roster, holders: Sequence[PeerId]
    ) -> _Basis:
        """Fetch every record that the sightings accept. Raises DutyPostponed."""
        try:
            named = {
                node_id: open_sighting(envelope, roster) for node_id, envelope in sightings.items()
            }
        except InvalidRecord as error:
            raise ProposalMismatch(f"a named sighting is malformed: {error}") from error
        accepted = await self._run(find_accepted, list(named.values()), roster)
        wanted = {name: slot for slot, name in accepted.items()}
        nodes = {node.node_id: node.peer_id for node in roster.nodes}
        witnesses = [peer for node_id in named if (peer := nodes[node_id]) is not None]
        found = await self._gatherer.fetch_named(wanted, holders=(*holders, *witnesses))
        for name, (kind, epoch, node_id) in wanted.items():
            if name not in found:
                raise DutyPostponed(
                    f"the {kind.name} of node {node_id} of epoch {epoch} cannot be had"
                )
        records = {slot: found[name] for slot, name in accepted.items()}
        return _Basis(named, accepted, records)

    async def _score(self, duty: Propose | Attest, basis: _Basis) -> EpochReport:
        roster = self._journal.rosters[duty.scored_epoch]
        if roster.epoch not in self._journal.draws:
            raise DutyPostponed("the block that drew the audits is not known yet")
        facts = EpochFacts(
            roster=roster,
            previous=self._get_previous(roster.epoch),
            seed=self._terms.compute_challenge(roster).seed,
            draw=self._journal.draws[roster.epoch],
            shape=self._shape,
            records=basis.records,
            named=basis.named,
            probation=await self._probation.read(roster.epoch),
            seen_at=self._list_seen_at(roster.epoch),
        )
        next_roster = self._journal.rosters[duty.epoch]
        report = await self._run_scoring(facts, next_roster)
        self._remember(report)
        return report

    async def gather_own(self, roster: Roster) -> EpochFacts:
        """Return what this node saw itself, in time."""
        records = {}
        for age in (0, 1):
            of_epoch = Epoch(roster.epoch - age)
            for (kind, node_id), seen in self._journal.get_timed_records(of_epoch).items():
                # Score reveals of the epoch before are seen in this one.
                seen_in = roster.epoch if kind is RecordKind.SCORE_REVEAL else of_epoch
                first_block = roster.first_block - (roster.epoch - seen_in) * (
                    self._terms.epoch_length
                )
                offset = seen.seen_at - first_block
                if self._terms.schedule.is_on_time(kind, offset):
                    records[kind, of_epoch, node_id] = seen.envelope
        return EpochFacts(
            roster=roster,
            previous=self._get_previous(roster.epoch),
            seed=self._terms.compute_challenge(roster).seed,
            draw=self._journal.draws.get(roster.epoch),
            shape=self._shape,
            records=records,
            probation=await self._probation.read(roster.epoch),
            seen_at=self._list_seen_at(roster.epoch),
        )

    def _list_seen_at(self, epoch: Epoch) -> dict[Slot, BlockNumber]:
        return {
            (kind, of_epoch, node_id): seen.seen_at
            for of_epoch in (Epoch(epoch - 1), epoch)
            for (kind, node_id), seen in self._journal.get_timed_records(of_epoch).items()
        }

    def _get_previous(self, epoch: Epoch) -> Roster | None:
        """Return the roster of the epoch before if that was scored."""
        before = Epoch(epoch - 1)
        is_scored = self._journal.elections.get(before) is not None
        return self._journal.rosters.get(before) if is_scored else None

    def _list_holders(self, submission: Submission, epoch: Epoch) -> list[PeerId]:
        """Return who must have everything that the proposal names: its author, who attested it."""
        roster = self._journal.rosters[epoch]
        peers = {node.node_id: node.peer_id for node in roster.nodes}
        order = [submission.proposer, *sorted(submission.attested - {submission.proposer})]
        return [peer for node_id in order if (peer := peers.get(node_id)) is not None]

    def _remember(self, report: EpochReport) -> None:
        self._reports[report.epoch] = report
        self._reports.pop(Epoch(report.epoch - MAX_REPORTS_KEPT), None)


def _is_sound(envelope: Envelope, roster: Roster) -> bool:
    try:
        open_sighting(envelope, roster)
    except InvalidRecord:
        return False
    return True
