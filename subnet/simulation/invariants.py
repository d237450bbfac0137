"""What must hold in every run, checked as things happen and after every block.

The numbers of the windows are this package's own; the rows, records and journals are the
production code's. A violation is noted where it happens and ends the run at the next block.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from consensus.attestation import is_backed
from consensus.audit import draw_layers
from consensus.commitment import (
    check_audit_reveal,
    check_output_reveal,
    check_score_reveal,
    make_commit_context,
)
from consensus.duties import MAX_SUBMISSION_ATTEMPTS
from consensus.errors import InvalidRecord, Reason
from consensus.naming import NOTHING_NAMED
from consensus.protocol_params import MINIMAL
from consensus.records import (
    NO_SCORES,
    RecordKind,
    decode_audit_commit,
    decode_audit_reveal,
    decode_output_commit,
    decode_output_reveal,
    decode_score_reveal,
    decode_sighting,
)
from consensus.report import EpochReport
from consensus.roster import RosterNode
from consensus.rows import ScoreRows
from consensus.scoring import LayerReason
from consensus.submission import Submission
from consensus.types import SCORE_ONE, Epoch, NodeClass, Role, SubnetNodeId
from keys.envelope import Envelope, decode_envelope
from subnet.journal.journal import KEPT_EPOCHS, Journal, SignedRecord
from subnet.simulation.bounds import compute_bound, compute_store_bound
from subnet.simulation.byzantine import WORTHLESS, Behaviour
from subnet.simulation.chain import NodeState
from subnet.simulation.inference import SHAPE
from subnet.simulation.scenario import NodeSpec, Scenario
from subnet.simulation.windows import (
    MIN_HONEST_SCORE,
    WINDOWS,
    Windows,
)

_REVEAL_OF = {
    RecordKind.OUTPUT_COMMIT: RecordKind.OUTPUT_REVEAL,
    RecordKind.AUDIT_COMMIT: RecordKind.AUDIT_REVEAL,
    RecordKind.SIGHTING: RecordKind.SCORE_REVEAL,
}
_REVEALS = frozenset(_REVEAL_OF.values())
_LATE = {Behaviour.LATE, Behaviour.LATE_REVEAL}
_VOTES = (None, Reason.OUTSIDE_TOLERANCE, Reason.NO_MAJORITY)
"""Refusals that say: the answer was opened, is a sound vector, and had a vote."""


class Violation(AssertionError):
    """A run broke an invariant; the message holds the line that replays it."""


@dataclass(frozen=True)
class EpochBlocks:
    """What the invariants read of the chain."""

    slot: int
    windows: Windows

    def first_block(self, epoch: int) -> int:
        return self.slot + epoch * self.windows.length


class Invariants:
    """Collects violations; ``raise_any`` raises the first."""

    def __init__(
        self,
        scenario: Scenario,
        *,
        slot: int,
        read_nodes: Callable[[int], Sequence[RosterNode]],
        read_elected: Callable[[Epoch], SubnetNodeId | None],
    ) -> None:
        """``read_nodes`` tells the chain's nodes in the state of a block."""
        self._scenario = scenario
        self._read_nodes = read_nodes
        self._read_elected = read_elected
        self._chain = EpochBlocks(slot, WINDOWS[scenario.epoch_length])
        self._specs = {spec.node_id: spec for spec in scenario.nodes}
        self._published: dict[tuple[int, int, int], bytes] = {}
        self._said_of: dict[tuple[Epoch, bytes], object] = {}
        self._copied: set[tuple[int, int]] = set()
        self._started = {spec.node_id: 0 for spec in scenario.founders}
        """The block at which each node's process was started first."""
        self._ended: dict[int, int] = {}
        """The block at which its process ended for good."""
        self.violations: list[str] = []
        self.num_checks = 0

    def require(self, holds: bool, sentence: str) -> None:
        self.num_checks += 1
        if not holds:
            self.violations.append(sentence)

    def raise_any(self) -> None:
        if self.violations:
            raise Violation(f"{self.violations[0]}\nreplay: {self._scenario.command}")

    # Who is there.

    def started(self, node: int, block: int) -> None:
        """The process of a node that has joined begins."""
        self._started[node] = block

    def ended(self, node: int, block: int) -> None:
        """The process of a node ends for good: by its owner, or because the chain dropped it."""
        self._ended[node] = block

    def _works_in(self, node: int, epoch: int) -> bool:
        """Whether the process of a node is there from an epoch's first block to its last."""
        first, next_first = (self._chain.first_block(number) for number in (epoch, epoch + 1))
        has_ended = self._ended.get(node, next_first) < next_first
        return self._started.get(node, first + 1) <= first and not has_ended

    def _read_roster(self, epoch: int) -> dict[int, RosterNode]:
        nodes = self._read_nodes(self._chain.first_block(epoch))
        return {node.node_id: node for node in nodes}

    # What honest nodes say.

    def published(
        self, node: int, record: Envelope, *, best_block: int, journal: sqlite3.Connection
    ) -> None:
        """An honest node hands a record to the network."""
        kind = RecordKind(record.kind)
        name = f"node {node}'s {kind.name} of epoch {record.epoch}"
        slot = (node, record.kind, record.epoch)
        first = self._published.setdefault(slot, record.to_bytes())
        self.require(first == record.to_bytes(), f"{name} is published in two versions")
        self._check_departure(name, kind, record.epoch, best_block)
        self._check_durable(name, record, journal)

    def _check_departure(self, name: str, kind: RecordKind, epoch: int, best_block: int) -> None:
        is_score, windows = kind is RecordKind.SCORE_REVEAL, self._chain.windows
        offset = best_block - self._chain.first_block(epoch + is_score)
        left = f"{name} leaves at offset {offset}"
        if kind in _REVEALS:
            self.require(offset >= windows.audit_end + windows.grace, f"{left}, commits are open")
        if kind is RecordKind.AUDIT_COMMIT:
            self.require(offset > windows.commit_end, f"{left}, output commits are open")
        if kind is RecordKind.SIGHTING:
            self.require(offset >= windows.reveal_end + windows.grace, f"{left}, reveals are open")

    def _check_durable(self, name: str, record: Envelope, journal: sqlite3.Connection) -> None:
        """What is published stands in the journal's file, and a commit with what opens it."""
        stored = _read_signed(journal, record.kind, record.epoch)
        self.require(
            stored == record.to_bytes(), f"{name} is published before it is in the journal"
        )
        reveal_kind = _REVEAL_OF.get(RecordKind(record.kind))
        if reveal_kind is not None and not _promises_nothing(record):
            reveal = _read_signed(journal, reveal_kind, record.epoch)
            self.require(
                reveal is not None and _opens(record, decode_envelope(reveal)),
                f"{name} is published, and the journal cannot open it",
            )

    def restarted(
        self,
        node: int,
        before: Mapping[tuple[RecordKind, Epoch], SignedRecord] | None,
        journal: Journal,
    ) -> None:
        """A node reads its journal: everything that it ever signed is there, unchanged."""
        now = {slot: own.envelope for slot, own in journal.own_records.items()}
        oldest = max(journal.rosters, default=0) + 1 - KEPT_EPOCHS
        for slot, own in (before or {}).items():
            is_kept = now.get(slot) == own.envelope
            self.require(slot[1] < oldest or is_kept, f"node {node} lost its record of {slot}")

    def died(self, node: int, error: BaseException) -> None:
        """A node ended by itself: an honest one never does."""
        self.require(False, f"node {node} ended: {error!r}")

    # What replicas keep.

    def stored(self, replica: int, old: bytes | None, new: bytes) -> None:
        """An honest node's replica keeps a record."""
        record = decode_envelope(new)
        name = f"replica {replica}: kind {record.kind} of epoch {record.epoch}"
        self.require(old is None, f"{name} was replaced")
        author = self._specs.get(record.node_id)
        if author is not None and author.is_honest:
            said = self._published.get((record.node_id, record.kind, record.epoch))
            self.require(said == new, f"{name} is not what node {record.node_id} said")

    # What honest nodes compute.

    def copied(self, node: int, epoch: int) -> None:
        """A dishonest node published another's commitment or reveal as its own."""
        self._copied.add((node, epoch))

    def list_copied(self) -> list[tuple[int, int]]:
        """Return who copied in which epoch, in order."""
        return sorted(self._copied)

    def scored(self, node: int, report: EpochReport, list_hash: bytes) -> None:
        """An honest node scored an epoch from what a proposal names."""
        name = f"node {node}'s scores of epoch {report.epoch}"
        ids = [node_id for node_id, _ in report.rows]
        self.require(ids == sorted(set(ids)), f"{name} are not sorted by id: {ids}")
        total = sum(score for _, score in report.rows)
        self.require(0 <= total <= SCORE_ONE, f"{name} sum up to {total}")
        said = (report.rows, report.unpaid, report.probation)
        known = self._said_of.setdefault((report.epoch, list_hash), said)
        self.require(
            known == said,
            f"node {node} scored epoch {report.epoch} unlike another with the same records: "
            f"{said} and {known}",
        )
        if list_hash == NOTHING_NAMED:
            # No node is elected in epoch 0; later, connected nodes can always have the sightings.
            is_right = report.epoch == 0 or not self._is_reliable
            self.require(is_right, f"{name} rest on no sightings")
            return
        if not self._is_basis_honest(report.epoch):
            return
        self._check_cheats(name, report)
        self._check_honest_hosters(name, report)
        if self._is_reliable:
            self._check_everybody(name, report)

    @property
    def _is_reliable(self) -> bool:
        """Whether every epoch must be scored, attested and paid.

        The honest are connected, and fewer than a third of the Validator-class nodes are hostile.
        Others can stop an epoch by their silence alone, as on the chain itself (docs/protocol.md,
        11), and to ask more of the protocol here would be to ask what it denies.
        """
        return self._scenario.is_connected and self._scenario.is_tolerable

    def _is_basis_honest(self, epoch: int) -> bool:
        """Whether liars alone cannot have decided which records of an epoch count.

        From a third of the Validator-class nodes on, liars are half of two thirds of the sightings.
        One that proposes names its allies', so its records count and the honest ones' do not: the
        protocol promises who is paid below a third only (docs/protocol.md, 7). That all compute the
        same from what is named, and attest nothing else, is asked in every run.
        """
        if self._scenario.is_tolerable:
            return True
        proposer = self._read_elected(Epoch(epoch + 1))
        return proposer is not None and proposer in self._scenario.honest

    def _check_cheats(self, name: str, report: EpochReport) -> None:
        for spec in self._specs.values():
            worthless = spec.behaviours & WORTHLESS
            if not worthless or spec.role is not Role.HOSTER:
                continue
            if worthless & _LATE and not self._scenario.is_connected:
                continue  # A head that stands still makes late records look punctual.
            if Behaviour.COPY in worthless:
                is_proven = (spec.node_id, report.epoch) in self._copied
            elif worthless & {Behaviour.GARBAGE, Behaviour.INT8, Behaviour.COLLUDE}:
                is_proven = self._has_honest_majority(report, spec.node_id)
            else:
                is_proven = True
            score = dict(report.rows).get(SubnetNodeId(spec.node_id), 0)
            self.require(not is_proven or score == 0, f"{name}: {spec} earns {score}")

    def _has_honest_majority(self, report: EpochReport, node_id: int) -> bool:
        hoster = next((h for h in report.hosters if h.node_id == node_id), None)
        blocks = () if hoster is None else [reason.layer for reason in hoster.reasons]
        return all(self._is_majority_honest(report, block) for block in blocks)

    def _is_majority_honest(self, report: EpochReport, layer: int) -> bool:
        """Whether honest answers are more than half of the votes on a layer.

        On a drawn layer reference rows are votes too, and stand before the hosters' of the same
        coldkey. The report does not say which layers were drawn: liars' rows are counted on all.
        """
        nodes = [vote.node_id for vote in _list_votes(report, layer)]
        nodes += [node for node in _list_references(report) if node not in self._scenario.honest]
        coldkeys = {self._specs[node_id].coldkey: node_id for node_id in nodes}
        honest = sum(node_id in self._scenario.honest for node_id in coldkeys.values())
        return 2 * honest > len(coldkeys)

    def _check_honest_hosters(self, name: str, report: EpochReport) -> None:
        """Whatever a minority does, an honest answer that was opened keeps its worth."""
        for block in SHAPE.challenged_layers:
            if not self._is_majority_honest(report, block):
                continue
            for vote in _list_votes(report, block):
                if vote.node_id in self._scenario.honest:
                    self.require(
                        vote.refusal is None and vote.score >= MIN_HONEST_SCORE,
                        f"{name}: honest node {vote.node_id} gets {vote.score} "
                        f"({vote.refusal}) on block {block}",
                    )

    def _check_everybody(self, name: str, report: EpochReport) -> None:
        """Each honest node that the chain lists next has a row, and who could work is paid."""
        rows: dict[int, int] = dict(report.rows)
        roster, next_roster = self._read_roster(report.epoch), self._read_roster(report.epoch + 1)
        is_paid = any(hoster.score for hoster in report.hosters)
        for node_id in sorted(self._scenario.honest):
            spec, node = self._specs[node_id], next_roster.get(node_id)
            is_listed = node is not None and node.has_class(
                NodeClass.INCLUDED, Epoch(report.epoch + 1)
            )
            if not is_listed or not self._works_in(node_id, report.epoch):
                continue
            self.require(node_id in rows, f"{name}: honest {spec} has no row")
            self.require(node_id not in report.unpaid, f"{name}: honest {spec} is not paid")
            if self._must_earn(spec, report.epoch, roster, is_paid=is_paid):
                self.require(rows.get(node_id, 0) > 0, f"{name}: honest {spec} earns nothing")

    def _must_earn(
        self, spec: NodeSpec, epoch: Epoch, roster: Mapping[int, RosterNode], *, is_paid: bool
    ) -> bool:
        """Whether an honest node's work in an epoch has a share in what is paid for it.

        A validator is paid for what it said of the epoch before, and only Validator-class nodes can
        say something: so from its second epoch of that class on. Audits are paid once a coldkey.
        """
        node = roster.get(spec.node_id)
        if spec.role is Role.HOSTER:
            return node is not None and node.has_class(NodeClass.INCLUDED, epoch)
        is_judge = node is not None and node.has_class(NodeClass.VALIDATOR, Epoch(epoch - 2))
        is_first = not any(
            other.role is Role.VALIDATOR
            and other.coldkey == spec.coldkey
            and other.node_id < spec.node_id
            and other.node_id in roster
            for other in self._specs.values()
        )
        return is_paid and is_judge and is_first

    # What the chain holds.

    def attesting(
        self, node: int, epoch: int, rows: ScoreRows | None, submission: Submission | None
    ) -> None:
        """An honest node's attestation leaves or lands: the proposal is what the node computed.

        The chain itself takes the row of a node that it no longer lists out of a proposal.
        """
        if submission is None:
            # A fork has just undone the proposal. The chain refuses to attest what is not there.
            return
        proposed = tuple(sorted(submission.scores))
        kept = {node_id for node_id, _ in proposed}
        kept |= {each.node_id for each in self._read_nodes(submission.block)}
        computed = None if rows is None else tuple(row for row in rows if row[0] in kept)
        self.require(
            computed == proposed,
            f"node {node} attests in epoch {epoch} what it did not compute: "
            f"{proposed}, not {computed}",
        )

    def _is_attestation_due(self, elected: int, submission: Submission | None) -> bool:
        """Whether this node proposes what honest nodes compute, and lets them have it in time."""
        does = self._specs[elected].behaviours
        if does & {Behaviour.BAD_PROPOSAL, Behaviour.HIDE_LIST}:
            return False
        if Behaviour.EDGE_LIST in does:
            # Nodes that had the list in time attested. If they are more than a third of the
            # voters, the others follow. Fewer are harmed, and the proposer is slashed.
            return submission is not None and is_backed(submission)
        return True

    def epoch_over(
        self, epoch: int, elected: int | None, submission: Submission | None, *, is_quiet: bool
    ) -> None:
        """The last block of a chain epoch: what had to be attested is."""
        is_due = epoch >= 1 and (self._scenario.is_connected or is_quiet)
        if not is_due or elected is None or not self._is_attestation_due(elected, submission):
            return
        if not self._works_in(elected, epoch):
            return  # Its owner has switched it off, and the chain still elects it.
        attested = frozenset() if submission is None else submission.attested
        missing = sorted(self._list_voters(epoch) - attested)
        self.require(
            not missing, f"epoch {epoch} ends without the word of {missing} (elected {elected})"
        )

    def _list_voters(self, epoch: int) -> frozenset[int]:
        """Return the honest nodes that could attest all the time, by class and by process."""
        last_block = self._chain.first_block(epoch + 1) - 1
        left = {node.node_id for node in self._read_nodes(last_block)}
        return frozenset(
            node_id
            for node_id, node in self._read_roster(epoch).items()
            if node_id in self._scenario.honest & left
            and node.has_class(NodeClass.VALIDATOR, Epoch(epoch))
            and self._works_in(node_id, epoch)
        )

    def settled(
        self,
        epoch: int,
        submission: Submission | None,
        *,
        before: Mapping[int, NodeState],
        after: Mapping[int, NodeState],
    ) -> None:
        """The chain has paid and judged an epoch: no honest node has less than before.

        Not asked of an epoch whose proposer shows its list at the deadline to a third at most:
        these attest, rightly, and the others refuse, rightly. The chain lowers the former by a
        tenth of their reputation at most, and slashes the proposer (docs/protocol.md, 11).
        """
        if epoch < 1 or not self._is_reliable:
            return
        proposer = None if submission is None else self._specs[submission.proposer]
        if (
            submission is not None
            and proposer is not None
            and Behaviour.EDGE_LIST in proposer.behaviours
            and not is_backed(submission)
        ):
            return
        scores = {} if submission is None else dict(submission.scores)
        is_agreed = submission is not None and is_two_thirds(submission)
        for node_id in sorted(self._list_voters(epoch) & before.keys()):
            name = f"honest node {node_id}, when epoch {epoch} was settled,"
            was, now = before[node_id], after.get(node_id)
            if now is None:
                is_leaving = self._specs[node_id].leaves is not None
                self.require(is_leaving, f"{name} was removed by the chain")
                continue
            lost = f"{was.reputation} to {now.reputation}"
            self.require(now.reputation >= was.reputation, f"{name} went from reputation {lost}")
            gained = now.stake - was.stake
            is_due = is_agreed and scores.get(SubnetNodeId(node_id), 0) > 0
            self.require(
                gained > 0 if is_due else gained >= 0, f"{name} was paid {gained} (due: {is_due})"
            )

    # What a node and the chain's pool keep.

    def kept(self, node: int, counts: Mapping[str, int], *, num_rows: int, num_held: int) -> None:
        """So many entries, rows and records has an honest node in memory, journal and replica."""
        num_nodes = len(self._specs)
        for path, count in counts.items():
            most = compute_bound(path, num_nodes=num_nodes)
            self.require(count <= most, f"node {node} has {count} entries in {path}, not {most}")
        most = compute_bound("Log._epochs", num_nodes=num_nodes)
        self.require(num_rows <= most, f"node {node} has {num_rows} rows on disk, not {most}")
        most = compute_store_bound(num_nodes)
        self.require(num_held <= most, f"replica {node} holds {num_held} records, not {most}")

    def waiting(self, num_extrinsics: int) -> None:
        """So many extrinsics wait for the next block: a few of each node, and its owner's."""
        most = (2 * MAX_SUBMISSION_ATTEMPTS + 1) * len(self._specs)
        self.require(num_extrinsics <= most, f"{num_extrinsics} extrinsics wait, not {most}")

    def stopped(self, left: Iterable[object]) -> None:
        """Every node was told to stop."""
        names = [repr(task) for task in left]
        self.require(not names, f"still running: {names}")


def is_two_thirds(submission: Submission) -> bool:
    """Whether at least 66 % of the voters attested: what the chain asks for."""
    return 100 * len(submission.attested) >= 66 * len(submission.voters)


def _read_signed(connection: sqlite3.Connection, kind: int, epoch: int) -> bytes | None:
    row = connection.execute(
        "SELECT payload FROM log WHERE slot = ?", (f"{kind}/{epoch}",)
    ).fetchone()
    return None if row is None else bytes(row[0])


def _promises_nothing(record: Envelope) -> bool:
    """Whether this is the sighting of a node without scores."""
    is_sighting = record.kind == RecordKind.SIGHTING
    return is_sighting and decode_sighting(record.body).commitment == NO_SCORES


def _opens(commit: Envelope, reveal: Envelope) -> bool:
    context = make_commit_context(commit)
    try:
        if commit.kind == RecordKind.SIGHTING:
            scores = decode_score_reveal(reveal.body)
            promise = decode_sighting(commit.body).commitment
            check_score_reveal(promise, context, salt=scores.salt, rows=scores.rows)
        elif commit.kind == RecordKind.AUDIT_COMMIT:
            audit, drawn = decode_audit_reveal(reveal.body), decode_audit_commit(commit.body)
            check_audit_reveal(
                drawn.commitment,
                context,
                draw=drawn.draw,
                salt=audit.salt,
                layers=draw_layers(drawn.draw, SHAPE, MINIMAL),
                vectors=audit.vectors,
            )
        else:
            output, said = decode_output_reveal(reveal.body), decode_output_commit(commit.body)
            check_output_reveal(
                said.commitment,
                context,
                seed=said.seed,
                layers=output.layers,
                salt=output.salt,
                vectors=output.vectors,
                num_layers=SHAPE.num_layers,
            )
    except InvalidRecord:
        return False
    return True


def _list_votes(report: EpochReport, layer: int) -> list[LayerReason]:
    """Return what came of each answer to a layer that had a vote.

    Who is on probation has none, an honest node too: it committed, was killed, and did not reveal.
    """
    return [
        reason
        for hoster in report.hosters
        if hoster.penalty is not Reason.ON_PROBATION
        for reason in hoster.reasons
        if reason.layer == layer
        and reason.refusal in _VOTES
        and (reason.refusal is None or reason.refusal is not Reason.INVALID_VECTOR)
    ]


def _list_references(report: EpochReport) -> list[SubnetNodeId]:
    """Return the validators whose reference rows opened, whether or not a majority backs them."""
    opened = (None, Reason.OUTSIDE_TOLERANCE)
    return [each.node_id for each in report.validators if each.audit_refusal in opened]
