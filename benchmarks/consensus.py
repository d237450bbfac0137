"""What the score of one epoch costs a node: time, memory, and the bytes of what it is made from.

    python -m benchmarks.consensus           a table
    python -m benchmarks.consensus --json    one JSON object

Every hoster serves all of TinyLlama's shape. Records are signed and decoded as a node does, honest
vectors differ by a few millionths, one hoster in ten lies, and validators audit a layer and reveal
scores. Two things are measured: from the named sightings to the accepted records, and from these to
the rows of the proposal. Signatures were checked when the records came, so they are no part of it.
Peak memory is that of the whole process, the records included.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

# Times are of one core; a second thread of the matrix product would spin between products.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np

from consensus.audit import draw_layers
from consensus.challenge import ModelShape, compute_vector_length, encode_vector
from consensus.commitment import (
    CommitContext,
    compute_audit_commitment,
    compute_output_commitment,
    compute_score_commitment,
    compute_tag,
    compute_vectors_root,
)
from consensus.epoch import compute_score_rows, score_epoch
from consensus.evidence import EpochFacts
from consensus.naming import Naming, Slot, encode_args, find_accepted, list_seen
from consensus.protocol_params import MAINNET
from consensus.records import (
    NO_SCORES,
    AuditCommit,
    AuditReveal,
    OutputCommit,
    OutputReveal,
    RecordKind,
    ScoreReveal,
    Sighting,
    decode_sighting,
    encode_audit_commit,
    encode_audit_reveal,
    encode_output_commit,
    encode_output_reveal,
    encode_score_reveal,
    encode_sighting,
)
from consensus.roster import Roster, RosterNode
from consensus.types import BlockNumber, Epoch, LayerRange, NodeClass, SubnetNodeId
from keys.envelope import Envelope, seal
from keys.peer import PeerKey

TINYLLAMA = ModelShape(num_layers=22, hidden_size=2048, vocab_size=32_000)
WHOLE = LayerRange(0, TINYLLAMA.num_layers)
NETWORK_ID, SALT = b"n" * 32, b"s" * 32
EPOCH = Epoch(9)
NOISE = 2e-6
LIAR_EVERY = 10
HOSTERS = (32, 100, 256, 1000)
VALIDATORS = 10
GOAL_HOSTERS, GOAL_S, GOAL_MIB = 1000, 5.0, 1024


@dataclass(frozen=True)
class Row:
    """One size of subnet; times are of CPU, in seconds, and sizes are of records' bodies."""

    hosters: int
    validators: int
    accepted: int
    naming_s: float
    scoring_s: float
    refuted: int
    peak_mib: int
    reveal_bytes: int
    sighting_bytes: int
    args_bytes: int
    epoch_bytes: int
    """All bodies that the score needs, each once: what a node that was down fetches."""


class Subnet:
    """The records of one epoch, and the scores of the one before."""

    def __init__(self, num_hosters: int) -> None:
        self._num_hosters = num_hosters
        count = num_hosters + VALIDATORS
        self._keys = [PeerKey(number.to_bytes(32)) for number in range(1, count + 1)]
        self.previous = self._make_roster(Epoch(EPOCH - 1))
        self.roster = self._make_roster(EPOCH)
        self.draw = hashlib.sha256(b"draw").digest()
        self.records: dict[Slot, Envelope] = {}

    def fill(self) -> None:
        """Let hosters answer two epochs, and validators audit the second and score the first."""
        rng = np.random.default_rng(1)
        for roster in (self.previous, self.roster):
            self._host(roster, rng)
        self._audit(rng)
        self._score()

    def sight(self) -> list[bytes]:
        """Return the bodies of all validators' sightings: all saw everything."""
        seen = list_seen(self.records, self.roster)
        sighting = Sighting(NO_SCORES, len(self.roster.nodes), seen)
        return [encode_sighting(sighting)] * VALIDATORS

    def make_facts(self, records: Mapping[Slot, Envelope], named: Sequence[Sighting]) -> EpochFacts:
        """Return what the proposal of the next epoch decides on."""
        validators = [node.node_id for node in self.roster.with_class(NodeClass.VALIDATOR)]
        return EpochFacts(
            roster=self.roster,
            previous=self.previous,
            seed=_get_seed(self.roster),
            draw=self.draw,
            shape=TINYLLAMA,
            records=records,
            named=dict(zip(validators, named, strict=True)),
        )

    def _make_roster(self, epoch: Epoch) -> Roster:
        nodes = []
        for number, key in enumerate(self._keys, start=1):
            is_hoster = number <= self._num_hosters
            account = number.to_bytes(20)
            node_class = NodeClass.INCLUDED if is_hoster else NodeClass.VALIDATOR
            node = RosterNode(
                SubnetNodeId(number), key.peer_id, account, account, node_class, Epoch(0)
            )
            nodes.append(node)
        return Roster(epoch, BlockNumber(20 * epoch), bytes([epoch]) * 32, 0, tuple(nodes))

    def _publish(self, kind: RecordKind, epoch: Epoch, node_id: SubnetNodeId, body: bytes) -> None:
        self.records[kind, epoch, node_id] = seal(
            self._keys[node_id - 1],
            kind=kind,
            network_id=NETWORK_ID,
            epoch=epoch,
            expires_at=1_000 + epoch,
            node_id=node_id,
            body=body,
        )

    def _make_context(self, epoch: Epoch, node_id: SubnetNodeId) -> CommitContext:
        return CommitContext(NETWORK_ID, epoch, node_id, self._keys[node_id - 1].peer_id)

    def _host(self, roster: Roster, rng: np.random.Generator) -> None:
        seed = _get_seed(roster)
        for node in roster.with_class(NodeClass.INCLUDED)[: self._num_hosters]:
            is_liar = node.node_id % LIAR_EVERY == 0
            vectors = [
                _answer(layer, rng, noise=1.0 if is_liar else NOISE)
                for layer in TINYLLAMA.challenged_layers
            ]
            commitment = compute_output_commitment(
                self._make_context(roster.epoch, node.node_id),
                seed=seed,
                layers=WHOLE,
                salt=SALT,
                root=compute_vectors_root(WHOLE, vectors, TINYLLAMA.num_layers),
            )
            body = encode_output_commit(OutputCommit(seed, WHOLE, commitment))
            self._publish(RecordKind.OUTPUT_COMMIT, roster.epoch, node.node_id, body)
            body = encode_output_reveal(OutputReveal(SALT, WHOLE, tuple(vectors)))
            self._publish(RecordKind.OUTPUT_REVEAL, roster.epoch, node.node_id, body)

    def _audit(self, rng: np.random.Generator) -> None:
        layers = draw_layers(self.draw, TINYLLAMA, MAINNET)
        for node in self.roster.with_class(NodeClass.VALIDATOR):
            vectors = tuple(_answer(layer, rng, noise=NOISE) for layer in layers)
            commitment = compute_audit_commitment(
                self._make_context(EPOCH, node.node_id),
                draw=self.draw,
                salt=SALT,
                layers=layers,
                vectors=vectors,
            )
            body = encode_audit_commit(AuditCommit(self.draw, commitment))
            self._publish(RecordKind.AUDIT_COMMIT, EPOCH, node.node_id, body)
            body = encode_audit_reveal(AuditReveal(SALT, vectors))
            self._publish(RecordKind.AUDIT_REVEAL, EPOCH, node.node_id, body)

    def _score(self) -> None:
        """Let validators reveal their scores of the first epoch; its audits are left out."""
        before = self.previous.epoch
        seen = {slot: envelope for slot, envelope in self.records.items() if slot[1] == before}
        facts = EpochFacts(self.previous, None, _get_seed(self.previous), None, TINYLLAMA, seen)
        first, *_ = self.previous.with_class(NodeClass.VALIDATOR)
        scored = compute_score_rows(facts, validator=first.node_id, params=MAINNET)
        for node in self.previous.with_class(NodeClass.VALIDATOR):
            rows = tuple(
                row._replace(tag=compute_tag(node.node_id, self._hash_reveal(row.node_id)))
                for row in scored
            )
            context = self._make_context(before, node.node_id)
            commitment = compute_score_commitment(context, salt=SALT, rows=rows)
            body = encode_sighting(Sighting(commitment, len(self.previous.nodes), ()))
            self._publish(RecordKind.SIGHTING, before, node.node_id, body)
            body = encode_score_reveal(ScoreReveal(SALT, rows))
            self._publish(RecordKind.SCORE_REVEAL, before, node.node_id, body)

    def _hash_reveal(self, node_id: SubnetNodeId) -> bytes:
        slot = (RecordKind.OUTPUT_REVEAL, self.previous.epoch, node_id)
        return self.records[slot].record_hash


def _get_seed(roster: Roster) -> bytes:
    return hashlib.sha256(b"seed" + roster.block_hash).digest()


def _answer(layer: int, rng: np.random.Generator, *, noise: float) -> bytes:
    """Return a vector of the layer's length: the right one, and noise relative to its norm."""
    length = compute_vector_length(layer, TINYLLAMA, MAINNET)
    right = np.random.default_rng(layer).normal(size=length)
    wrong = rng.normal(size=length)
    wrong *= noise * np.linalg.norm(right) / np.linalg.norm(wrong)
    return encode_vector((right + wrong).astype(np.float32))


def measure(num_hosters: int) -> Row:
    """Return what one epoch of this many hosters costs."""
    subnet = Subnet(num_hosters)
    subnet.fill()
    bodies = subnet.sight()
    began = time.process_time()
    named = [decode_sighting(body) for body in bodies]
    accepted = find_accepted(named, subnet.roster)
    named_at = time.process_time()
    facts = subnet.make_facts({slot: subnet.records[slot] for slot in accepted}, named)
    following = Roster(
        Epoch(EPOCH + 1), BlockNumber(20 * (EPOCH + 1)), bytes(32), 0, subnet.roster.nodes
    )
    report = score_epoch(facts, following, MAINNET)
    ended = time.process_time()
    args = encode_args(Naming(probation=report.probation), subnet.roster)
    reveal = subnet.records[RecordKind.OUTPUT_REVEAL, EPOCH, SubnetNodeId(1)]
    return Row(
        hosters=num_hosters,
        validators=VALIDATORS,
        accepted=len(accepted),
        naming_s=round(named_at - began, 3),
        scoring_s=round(ended - named_at, 3),
        refuted=sum(left == MAINNET.probation_epochs for left in report.probation.values()),
        # ru_maxrss is in KiB on Linux.
        peak_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
        reveal_bytes=len(reveal.body),
        sighting_bytes=len(bodies[0]),
        args_bytes=len(args),
        epoch_bytes=sum(map(len, bodies))
        + sum(len(envelope.body) for envelope in facts.records.values()),
    )


def is_within_goal(rows: Sequence[Row]) -> bool:
    """Whether the largest subnet is scored in time and memory."""
    return all(
        row.naming_s + row.scoring_s < GOAL_S and row.peak_mib < GOAL_MIB
        for row in rows
        if row.hosters >= GOAL_HOSTERS
    )


def print_table(rows: Sequence[Row]) -> None:
    print("hosters  naming s  scoring s  refuted  peak MiB  sighting KB  args B  all bodies MB")
    for row in rows:
        print(
            f"{row.hosters:7}  {row.naming_s:8.3f}  {row.scoring_s:9.3f}  {row.refuted:7}"
            f"  {row.peak_mib:8}  {row.sighting_bytes / 1e3:11.1f}  {row.args_bytes:6}"
            f"  {row.epoch_bytes / 1e6:13.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="time, memory and bytes of one epoch's score")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--hosters", type=int, nargs="+", default=HOSTERS)
    options = parser.parse_args()
    rows = [measure(count) for count in sorted(options.hosters)]
    is_met = is_within_goal(rows)
    if options.json:
        print(json.dumps({"rows": [asdict(row) for row in rows], "within_goal": is_met}))
    else:
        print_table(rows)
    sys.exit(0 if is_met else 1)


if __name__ == "__main__":
    main()
