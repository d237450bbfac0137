"""A swarm of honest nodes and cheats, epoch by epoch: real records, production rules and ledger.

Time inside an epoch is not simulated: a cheat says which witnesses see its records inside their
windows, which is all that agreement depends on. Records are sealed, commitments opened, sightings
named and rows computed by the production code; the development chain's ledger elects, pays, slashes
and removes.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from random import Random

import numpy as np

from consensus.audit import draw_layers
from consensus.challenge import compute_owed_layers, compute_seed, encode_vector
from consensus.commitment import (
    CommitContext,
    compute_audit_commitment,
    compute_output_commitment,
    compute_score_commitment,
    compute_tag,
    compute_vectors_root,
)
from consensus.epoch import compute_score_rows, score_epoch, score_nothing
from consensus.evidence import EpochFacts
from consensus.naming import Slot, compute_quorum, find_accepted, get_name, list_seen, open_sighting
from consensus.protocol_params import ConsensusParams
from consensus.records import (
    NO_SCORES,
    AuditCommit,
    AuditReveal,
    OutputCommit,
    OutputReveal,
    RecordKind,
    ScoreReveal,
    ScoreRow,
    Sighting,
    encode_audit_commit,
    encode_audit_reveal,
    encode_output_commit,
    encode_output_reveal,
    encode_score_reveal,
    encode_sighting,
)
from consensus.report import EpochReport
from consensus.roster import Roster
from consensus.scorer import Scorer
from consensus.types import BlockNumber, Epoch, LayerRange, Role, SubnetNodeId
from keys.envelope import Envelope, seal
from keys.peer import PeerKey
from subnet.simulation.chain import NodeAccount
from subnet.simulation.economics.answers import ModelAnswers, Vector, blur_answer
from subnet.simulation.economics.chain import EconomicChain
from subnet.simulation.windows import EPOCH_LENGTH

MIN_ATTESTATION_PERCENT = 66
NETWORK_ID = hashlib.sha256(b"economics").digest()
PROBE_HISTORY = 3
HOTKEYS = 1 << 32
"""Hotkeys are numbers from here on, coldkeys below."""

Witnesses = Callable[[int, int], bool]
"""Says for (epoch, witness) whether the witness sees a record inside its window."""


def everybody(_epoch: int, _witness: int) -> bool:
    return True


def nobody(_epoch: int, _witness: int) -> bool:
    return False


@dataclass
class Actor:
    """One node and what it does; the defaults are honest.

    ``kinds`` says what it answers for a layer (answers.py); ``audit_kind`` what as an auditor, None
    if it computes none. ``commit_seen`` and ``reveal_seen`` say who sees its records in time.
    """

    node_id: int
    role: Role
    coldkey: int
    is_honest: bool = True
    kinds: Callable[[int, int], str | None] = lambda _epoch, _layer: "honest"
    audit_kind: str | None = "honest"
    commit_seen: Witnesses = everybody
    reveal_seen: Witnesses = everybody
    is_reveal_withheld: Callable[[int, tuple[int, ...]], bool] = lambda _epoch, _drawn: False
    shows_second: bool = False
    """Whether who does not see its reveal is shown another one instead."""
    copies: int | None = None
    """The hoster whose commit and reveal it publishes as its own."""
    is_serving: bool = True
    accuses: Collection[int] = ()
    bend_rows: Callable[[Swarm, int, tuple[ScoreRow, ...]], tuple[ScoreRow, ...]] | None = None
    """What a validator commits to instead of the rows that it computed."""
    bend_sighting: Callable[[Sighting], Sighting] | None = None
    choose_named: Callable[[Sequence[int]], Sequence[int]] | None = None
    """Which sightings it names as the proposer."""
    bend_proposal: Callable[[dict[int, int]], dict[int, int]] | None = None
    shows_list_to: Callable[[int], bool] = lambda _node: True
    queue_removes: bool = False
    is_attesting_all: bool = False
    layers: LayerRange | None = None

    @property
    def key(self) -> PeerKey:
        return PeerKey(hashlib.sha256(b"actor" + self.node_id.to_bytes(4, "little")).digest())


@dataclass
class Tally:
    """What came of all epochs: pay as a share of each epoch's pot, and what the chain counts."""

    pay: defaultdict[int, float] = field(default_factory=lambda: defaultdict(float))
    present: Counter[int] = field(default_factory=Counter)
    """Epochs in which the chain listed a node."""
    absent: Counter[int] = field(default_factory=Counter)
    proposals: Counter[int] = field(default_factory=Counter)
    refused_proposals: Counter[int] = field(default_factory=Counter)
    num_epochs: int = 0
    num_lost: int = 0


class Swarm:
    """Runs epochs of one set of actors."""

    def __init__(
        self,
        actors: Sequence[Actor],
        answers: ModelAnswers,
        params: ConsensusParams,
        *,
        seed: int,
        scorer: Scorer | None = None,
    ) -> None:
        self.actors = {actor.node_id: actor for actor in actors}
        self.tally = Tally()
        self.shape = answers.shape
        self.params = params
        self._scorer = scorer
        self._answers = answers
        self._keys = {actor.node_id: actor.key for actor in actors}
        self._random = Random(seed)
        self._noise = np.random.default_rng(seed)
        self._records: dict[Slot, Envelope] = {}
        self._by_name: dict[bytes, tuple[int, Envelope]] = {}
        self._seen: dict[int, dict[Slot, Envelope]] = {node: {} for node in self.actors}
        self.rows: dict[tuple[int, int], tuple[ScoreRow, ...]] = {}
        self._probation: dict[SubnetNodeId, int] = {}
        self._probes: dict[tuple[int, int], deque[tuple[int, bool]]] = {}
        self.last_reports: dict[int, EpochReport] = {}
        self.chain = EconomicChain({node: self._make_account(node) for node in self.actors})
        self._listed = {1: self.chain.read_roster()}

    def _make_account(self, node: int) -> NodeAccount:
        actor = self.actors[node]
        coldkey, hotkey = (n.to_bytes(20, "little") for n in (actor.coldkey, HOTKEYS + node))
        return NodeAccount(self._keys[node].peer_id, coldkey, hotkey)

    def make_roster(self, epoch: int) -> Roster:
        """Return the nodes that the chain lists in the epoch, by the swarm's ids."""
        nodes = tuple(
            replace(node, node_id=SubnetNodeId(node_id), start_epoch=Epoch(0))
            for node_id, node in sorted(self._listed[epoch].items())
        )
        digest = hashlib.sha256(b"block" + epoch.to_bytes(4, "little")).digest()
        return Roster(Epoch(epoch), BlockNumber(EPOCH_LENGTH * epoch), digest, 6 * epoch, nodes)

    def run(self, epochs: int) -> Tally:
        for epoch in range(1, epochs + 1):
            self._run_epoch(epoch)
        return self.tally

    def get_seen(self, node: int) -> Mapping[Slot, Envelope]:
        """Return what a witness saw in its windows."""
        return self._seen[node]

    def _list_actors(self, epoch: int) -> list[Actor]:
        """Return the actors that take part in the epoch: those that the chain lists."""
        return [actor for node, actor in self.actors.items() if node in self._listed[epoch]]

    def _run_epoch(self, epoch: int) -> None:
        roster = self.make_roster(epoch)
        self.tally.present.update(self._listed[epoch].keys())
        draw = hashlib.sha256(b"draw" + epoch.to_bytes(4, "little")).digest()
        self._host(roster, draw)
        self._audit(roster, draw)
        self._reveal_scores(epoch - 1)
        probation = self._probation
        sightings = self._sight(roster, draw, probation)
        proposer = self.chain.advance()
        self._listed[epoch + 1] = self.chain.read_roster()
        next_roster = self.make_roster(epoch + 1)
        chosen = sorted(sightings)
        assert proposer is not None
        choose = self.actors[proposer].choose_named
        if choose is not None:
            chosen = sorted(choose(chosen))
        named = {SubnetNodeId(node): open_sighting(sightings[node], roster) for node in chosen}
        report = self._score(roster, next_roster, draw, named, probation)
        self._settle(epoch, proposer, report, is_enough=len(named) >= compute_quorum(roster))
        self._forget(epoch)

    def _host(self, roster: Roster, draw: bytes) -> None:
        seed, drawn = self._get_seed(roster), draw_layers(draw, self.shape, self.params)
        actors = self._list_actors(roster.epoch)
        for actor in sorted(actors, key=lambda actor: actor.copies is not None):
            if actor.role is not Role.HOSTER:
                continue
            bodies = self._make_outputs(actor, roster, seed)
            if bodies is None:
                continue
            commit, reveal = bodies
            self._publish(actor, roster, RecordKind.OUTPUT_COMMIT, commit, actor.commit_seen)
            if not actor.is_reveal_withheld(roster.epoch, drawn):
                self._publish(actor, roster, RecordKind.OUTPUT_REVEAL, reveal, actor.reveal_seen)

    def _make_outputs(
        self, actor: Actor, roster: Roster, seed: bytes
    ) -> tuple[bytes, bytes] | None:
        if actor.copies is not None:
            victim = SubnetNodeId(actor.copies)
            commit, reveal = (
                self._records[kind, roster.epoch, victim].body
                for kind in (RecordKind.OUTPUT_COMMIT, RecordKind.OUTPUT_REVEAL)
            )
            return commit, reveal
        layers = actor.layers or LayerRange(0, self.shape.num_layers)
        owed = compute_owed_layers(layers, self.shape.num_layers)
        vectors = self._answer_all(partial(actor.kinds, roster.epoch), owed, seed)
        if vectors is None:
            return None
        salt = hashlib.sha256(b"salt" + seed).digest()
        commitment = compute_output_commitment(
            self._make_context(actor, roster),
            seed=seed,
            layers=layers,
            salt=salt,
            root=compute_vectors_root(layers, vectors, self.shape.num_layers),
        )
        return (
            encode_output_commit(OutputCommit(seed, layers, commitment)),
            encode_output_reveal(OutputReveal(salt, layers, vectors)),
        )

    def _answer_all(
        self, choose_kind: Callable[[int], str | None], layers: Sequence[int], seed: bytes
    ) -> tuple[bytes, ...] | None:
        """Return the encoded answers to all layers, None if one of them cannot be had."""
        vectors = []
        for layer in layers:
            kind = choose_kind(layer)
            vector = None if kind is None else self._answer(kind, seed, layer)
            if vector is None:
                return None
            vectors.append(encode_vector(vector))
        return tuple(vectors)

    def _answer(self, kind: str, seed: bytes, layer: int) -> Vector | None:
        vector = self._answers.answer(kind, seed, layer)
        # Colluders agree on their garbage to the bit; machines differ a little.
        if vector is None or kind == "garbage":
            return vector
        return blur_answer(vector, self._noise)

    def _audit(self, roster: Roster, draw: bytes) -> None:
        layers, seed = draw_layers(draw, self.shape, self.params), self._get_seed(roster)
        for actor in self._list_actors(roster.epoch):
            if actor.role is not Role.VALIDATOR or actor.audit_kind is None:
                continue
            vectors = self._answer_all(partial(_repeat, actor.audit_kind), layers, seed)
            assert vectors is not None
            salt = hashlib.sha256(b"audit" + seed).digest()
            commitment = compute_audit_commitment(
                self._make_context(actor, roster),
                draw=draw,
                salt=salt,
                layers=layers,
                vectors=vectors,
            )
            commit = encode_audit_commit(AuditCommit(draw, commitment))
            self._publish(actor, roster, RecordKind.AUDIT_COMMIT, commit, everybody)
            reveal = encode_audit_reveal(AuditReveal(salt, vectors))
            self._publish(actor, roster, RecordKind.AUDIT_REVEAL, reveal, everybody)

    def _reveal_scores(self, epoch: int) -> None:
        """Reveal what was committed to in ``epoch``, one epoch later."""
        if epoch not in self._listed:
            return
        roster = self.make_roster(epoch)
        for actor in self._list_actors(epoch):
            rows = self.rows.get((epoch, actor.node_id))
            if rows:
                body = encode_score_reveal(ScoreReveal(bytes(32), rows))
                self._publish(actor, roster, RecordKind.SCORE_REVEAL, body, actor.reveal_seen)

    def _sight(
        self, roster: Roster, draw: bytes, probation: Mapping[SubnetNodeId, int]
    ) -> dict[int, Envelope]:
        sightings = {}
        # Witnesses that saw the same compute the same.
        known: dict[frozenset[bytes], tuple[ScoreRow, ...]] = {}
        places = {node.node_id: place for place, node in enumerate(roster.nodes)}
        for actor in self._list_actors(roster.epoch):
            seen = self._seen[actor.node_id]
            commitment = NO_SCORES
            if actor.role is Role.VALIDATOR:
                view = frozenset(map(get_name, seen.values()))
                if view not in known:
                    facts = self._make_facts(roster, draw, seen, {}, probation)
                    known[view] = compute_score_rows(
                        facts, validator=SubnetNodeId(0), params=self.params
                    )
                rows = self._sign_rows(known[view], actor, roster)
                if actor.bend_rows is not None:
                    rows = actor.bend_rows(self, roster.epoch, rows)
                self.rows[roster.epoch, actor.node_id] = rows
                context = self._make_context(actor, roster)
                commitment = compute_score_commitment(context, salt=bytes(32), rows=rows)
            failed = self._probe(actor, roster.epoch) | set(actor.accuses)
            positions = frozenset(places[SubnetNodeId(node)] for node in failed)
            sighting = Sighting(commitment, len(places), list_seen(seen, roster), positions)
            if actor.bend_sighting is not None:
                sighting = actor.bend_sighting(sighting)
            body = encode_sighting(sighting)
            envelope = self._publish(actor, roster, RecordKind.SIGHTING, body, everybody)
            sightings[actor.node_id] = envelope
        return sightings

    def _sign_rows(
        self, rows: Sequence[ScoreRow], actor: Actor, roster: Roster
    ) -> tuple[ScoreRow, ...]:
        """Return the rows with this validator's tags."""
        seen, node_id = self._seen[actor.node_id], SubnetNodeId(actor.node_id)
        return tuple(
            row._replace(
                tag=compute_tag(
                    node_id,
                    seen[RecordKind.OUTPUT_REVEAL, roster.epoch, row.node_id].record_hash,
                )
            )
            for row in rows
        )

    def _probe(self, actor: Actor, epoch: int) -> set[int]:
        """Probe as §8 says; return whom this node's last three probes all failed."""
        hosters = [
            other.node_id
            for other in self._list_actors(epoch)
            if other.role is Role.HOSTER and other.node_id != actor.node_id
        ]

        def has_failed(node: int) -> bool:
            history = self._probes.get((actor.node_id, node))
            return bool(history) and not history[-1][1]  # type: ignore[index]

        failed_last = [node for node in hosters if has_failed(node)]
        others = [node for node in hosters if not has_failed(node)]
        self._random.shuffle(others)
        for node in (failed_last + others)[: self.params.probes]:
            history = self._probes.setdefault((actor.node_id, node), deque(maxlen=PROBE_HISTORY))
            history.append((epoch, self.actors[node].is_serving))
        return {
            node
            for node in hosters
            if len(history := self._probes.get((actor.node_id, node), deque())) == PROBE_HISTORY
            and all(probed > epoch - 32 and not is_fine for probed, is_fine in history)
        }

    def _score(
        self,
        roster: Roster,
        next_roster: Roster,
        draw: bytes,
        named: Mapping[SubnetNodeId, Sighting],
        probation: Mapping[SubnetNodeId, int],
    ) -> EpochReport:
        if len(named) < compute_quorum(roster):
            seed = self._get_seed(roster)
            return score_nothing(roster, next_roster, probation=probation, seed=seed)
        accepted = find_accepted(list(named.values()), roster)
        records = {
            slot: self._by_name[name][1] for slot, name in accepted.items() if name in self._by_name
        }
        facts = self._make_facts(roster, draw, records, named, probation)
        return score_epoch(facts, next_roster, self.params, self._scorer)

    def _settle(self, epoch: int, proposer: int, report: EpochReport, *, is_enough: bool) -> None:
        """Propose and attest on the chain; divide the pot by the attested rows."""
        tally, author = self.tally, self.actors[proposer]
        rows: dict[int, int] = dict(report.rows)
        proposed = rows if author.bend_proposal is None else author.bend_proposal(dict(rows))
        self.chain.propose(proposer, proposed, queue_removes=author.queue_removes)
        is_equal = proposed == rows and not author.queue_removes
        voters = self._list_actors(epoch + 1)
        num_attested = 1
        for actor in voters:
            can_check = author.shows_list_to(actor.node_id)
            if actor is not author and (actor.is_attesting_all or (is_equal and can_check)):
                self.chain.attest(actor.node_id)
                num_attested += 1
        tally.num_epochs += 1
        tally.proposals[proposer] += 1
        if 100 * num_attested < MIN_ATTESTATION_PERCENT * len(voters):
            tally.refused_proposals[proposer] += 1
            tally.num_lost += 1
            # What was carried goes on; refutations of a lost epoch are lost with it.
            self._probation = {n: left - 1 for n, left in self._probation.items() if left > 1}
            return
        self._probation = dict(report.probation)
        self.last_reports[epoch] = report
        total = sum(proposed.values())
        for node in self._listed[epoch]:
            if node not in proposed:
                tally.absent[node] += 1
            elif total:
                tally.pay[node] += proposed[node] / total

    def _make_facts(
        self,
        roster: Roster,
        draw: bytes,
        records: Mapping[Slot, Envelope],
        named: Mapping[SubnetNodeId, Sighting],
        probation: Mapping[SubnetNodeId, int],
    ) -> EpochFacts:
        return EpochFacts(
            roster=roster,
            previous=self.make_roster(roster.epoch - 1) if roster.epoch > 1 else None,
            seed=self._get_seed(roster),
            draw=draw,
            shape=self.shape,
            records=records,
            named=named,
            probation=probation,
        )

    def _publish(
        self, actor: Actor, roster: Roster, kind: RecordKind, body: bytes, seen_by: Witnesses
    ) -> Envelope:
        envelope = seal(
            self._keys[actor.node_id],
            kind=kind,
            network_id=NETWORK_ID,
            epoch=roster.epoch,
            expires_at=roster.timestamp_s + 360,
            node_id=actor.node_id,
            body=body,
        )
        slot = (kind, roster.epoch, SubnetNodeId(actor.node_id))
        self._records[slot] = envelope
        self._by_name[get_name(envelope)] = (roster.epoch, envelope)
        for witness, seen in self._seen.items():
            if seen_by(roster.epoch, witness):
                seen[slot] = envelope
        return envelope

    def _make_context(self, actor: Actor, roster: Roster) -> CommitContext:
        peer_id = self._keys[actor.node_id].peer_id
        return CommitContext(NETWORK_ID, roster.epoch, SubnetNodeId(actor.node_id), peer_id)

    def _get_seed(self, roster: Roster) -> bytes:
        return compute_seed(NETWORK_ID, roster.epoch, roster.first_block, roster.block_hash)

    def _forget(self, epoch: int) -> None:
        """Drop records that nothing refers to any more."""
        for records in (self._records, *self._seen.values()):
            for slot in [slot for slot in records if slot[1] < epoch - 1]:
                del records[slot]
        self.rows = {key: rows for key, rows in self.rows.items() if key[0] >= epoch - 1}
        self._by_name = {n: known for n, known in self._by_name.items() if known[0] >= epoch - 1}
        self._listed = {e: nodes for e, nodes in self._listed.items() if e >= epoch - 1}


def _repeat(kind: str, _layer: int) -> str:
    return kind
