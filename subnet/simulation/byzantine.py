"""What dishonest nodes do: they run the production code between lying parts.

A behaviour distorts the answers of the model, what is published, what is proposed, or what
a replica says. A node may have several.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from random import Random
from typing import Any

from consensus.audit import draw_layers
from consensus.challenge import compute_owed_layers
from consensus.commitment import compute_score_commitment, make_commit_context
from consensus.protocol_params import MINIMAL
from consensus.records import (
    NO_SCORES,
    OutputCommit,
    RecordKind,
    ScoreReveal,
    ScoreRow,
    decode_output_commit,
    decode_output_reveal,
    decode_score_reveal,
    decode_sighting,
    encode_output_commit,
    encode_output_reveal,
    encode_score_reveal,
    encode_sighting,
)
from consensus.roster import RosterNode
from consensus.submission import Submission
from consensus.types import BlockNumber, Epoch, NodeClass, Score, SubnetId, SubnetNodeId
from keys.envelope import Envelope, compute_record_key, decode_envelope, seal
from keys.peer import PeerId, PeerKey
from subnet.epoch.interfaces import ExtrinsicReceipt
from subnet.errors import ChainUnavailable, ExtrinsicFailed
from subnet.simulation.chain import SimEndpoint
from subnet.simulation.inference import (
    HONEST_NOISE,
    INT8_NOISE,
    SHAPE,
    Distort,
    collude,
    give_huge,
    give_nan,
    make_garbage,
    make_noise,
)
from subnet.simulation.network import SimRecordStore, Tamper
from subnet.simulation.windows import Windows


class Behaviour(Enum):
    """One way to be dishonest. Those of the first group leave all honest nodes in agreement."""

    GARBAGE = "garbage"
    NAN = "nan"
    HUGE = "huge"
    INT8 = "int8"
    COLLUDE = "collude"
    COPY = "copy"
    LATE = "late"
    LATE_REVEAL = "late-reveal"
    SILENT = "silent"
    NO_REVEAL = "no-reveal"
    EARLY = "early"
    LIE_SCORES = "lie-scores"
    FORGE = "forge"
    WITHHOLD = "withhold"
    TAMPER = "tamper"
    BAD_PROPOSAL = "bad-proposal"
    EQUIVOCATE = "equivocate"
    EQUIVOCATE_REVEAL = "equivocate-reveal"
    EQUIVOCATE_SCORES = "equivocate-scores"
    EQUIVOCATE_SIGHTING = "equivocate-sighting"
    EDGE = "edge"
    EDGE_COMMIT = "edge-commit"
    EDGE_SIGHTING = "edge-sighting"
    EDGE_LIST = "edge-list"
    SELECT_READERS = "select-readers"
    SELECT_AUTHOR = "select-author"
    WITHHOLD_DRAWN = "withhold-drawn"
    SEE_NOTHING = "see-nothing"
    SEE_WRONG = "see-wrong"
    ACCUSE = "accuse"
    HIDE_LIST = "hide-list"
    CENSOR = "censor"
    LIE_TOTALS = "lie-totals"
    SEE_ALLIES = "see-allies"
    NAME_ALLIES = "name-allies"
    ATTEST_ALLIES = "attest-allies"
    REFUSE = "refuse"


MIN_WAIT_S = 1e-6
EDGE_S = 1.5
"""The readings of two nodes before a head are up to so many seconds apart."""
LAST_ATTEMPT_S = 6.0
"""Nodes try to attest throughout the last block before it is too late."""
_SCORE_KINDS = (RecordKind.SIGHTING, RecordKind.SCORE_REVEAL)
EQUIVOCATED = {
    Behaviour.EQUIVOCATE: RecordKind.OUTPUT_COMMIT,
    Behaviour.EQUIVOCATE_REVEAL: RecordKind.OUTPUT_REVEAL,
    Behaviour.EQUIVOCATE_SCORES: RecordKind.SCORE_REVEAL,
    Behaviour.EQUIVOCATE_SIGHTING: RecordKind.SIGHTING,
}
"""Of which record different nodes are shown different versions."""
EDGED = {
    RecordKind.OUTPUT_REVEAL: Behaviour.EDGE,
    RecordKind.OUTPUT_COMMIT: Behaviour.EDGE_COMMIT,
    RecordKind.AUDIT_COMMIT: Behaviour.EDGE_COMMIT,
    RecordKind.SIGHTING: Behaviour.EDGE_SIGHTING,
    RecordKind.NAMED_LIST: Behaviour.EDGE_LIST,
}
"""Which records leave so near their deadline that some nodes see them in time and others do not."""
SEEING = frozenset(
    {Behaviour.SEE_NOTHING, Behaviour.SEE_WRONG, Behaviour.SEE_ALLIES, Behaviour.ACCUSE}
)
WORTHLESS = frozenset(
    {
        Behaviour.GARBAGE,
        Behaviour.NAN,
        Behaviour.HUGE,
        Behaviour.INT8,
        Behaviour.COLLUDE,
        Behaviour.COPY,
        Behaviour.LATE,
        Behaviour.LATE_REVEAL,
        Behaviour.SILENT,
        Behaviour.NO_REVEAL,
    }
)
"""A hoster that does this earns nothing, ever."""


def choose_distortion(behaviours: frozenset[Behaviour], seed: int) -> Distort:
    """Return what a node with these behaviours makes of an exact answer."""
    choices: dict[Behaviour, Distort] = {
        Behaviour.GARBAGE: make_garbage(seed),
        Behaviour.NAN: give_nan,
        Behaviour.HUGE: give_huge,
        Behaviour.INT8: make_noise(INT8_NOISE, seed),
        Behaviour.COLLUDE: collude,
    }
    for behaviour, distort in choices.items():
        if behaviour in behaviours:
            return distort
    return make_noise(HONEST_NOISE, seed)


def choose_tampering(behaviours: frozenset[Behaviour], *, victim: PeerId) -> Tamper | None:
    """Return how a node's replica lies, if it does."""
    if Behaviour.WITHHOLD in behaviours:
        return lambda _reader, _value: None
    if Behaviour.TAMPER in behaviours:
        return lambda _reader, value: value[:-1] + bytes([value[-1] ^ 1])
    if Behaviour.SELECT_READERS in behaviours:
        return lambda reader, value: value if reader % 2 else None
    if Behaviour.SELECT_AUTHOR in behaviours:
        return lambda _reader, value: None if decode_envelope(value).author == victim else value
    return None


@dataclass(frozen=True)
class Knowledge:
    """What a dishonest node knows beside its own state."""

    key: PeerKey
    windows: Windows
    victim: PeerId
    allies: frozenset[PeerId]
    """All dishonest nodes, this one among them."""
    peers: Mapping[int, PeerId]
    list_nodes: Callable[[Epoch], Sequence[RosterNode]]
    """The nodes of an epoch: sightings speak of their places in this order."""
    compute_delay_s: Callable[[Epoch, int], float]
    """Virtual seconds until the block at an offset of an epoch; below 0 once it is there."""
    find_own: Callable[[RecordKind, Epoch], Envelope]
    """What the program's own journal holds."""
    find_draw: Callable[[Epoch], bytes]
    """The hash of the block that draws an epoch's audited layers."""
    note_copy: Callable[[Epoch], None]
    show_list: Callable[[Epoch], None]
    """Lets peers that ask this node itself have its named list."""
    note: Callable[[str], None]
    """Counts an effect of a lie."""
    spawn: Callable[[Coroutine[Any, Any, Any]], None]


def get_deadline(kind: RecordKind, windows: Windows) -> tuple[int, float]:
    """Return the first offset at which a record is late, and how long a liar waits after it."""
    match kind:
        case RecordKind.OUTPUT_COMMIT:
            return windows.commit_end, 0.05
        case RecordKind.AUDIT_COMMIT:
            return windows.audit_end, 0.05
        case RecordKind.SIGHTING:
            return windows.reveal_end + 3 * windows.grace, 0.05
        case RecordKind.NAMED_LIST:
            return windows.attestation_deadline + 1, 0.05
    return windows.reveal_end + windows.grace, 3.0


class EvilStore:
    """A record store between an honest program and the network."""

    def __init__(
        self,
        inner: SimRecordStore,
        knowledge: Knowledge,
        behaviours: frozenset[Behaviour],
        random: Random,
    ) -> None:
        self._inner = inner
        self._knowledge = knowledge
        self._behaviours = behaviours
        self._random = random

    async def fetch(self, keys: Sequence[bytes], *, timeout_s: float) -> Mapping[bytes, bytes]:
        values = await self._inner.fetch(keys, timeout_s=timeout_s)
        if not self._behaviours & {Behaviour.CENSOR, Behaviour.NAME_ALLIES}:
            return values
        # What it does not read, it neither lists nor names.
        return {
            k: value for k, value in values.items() if not self._ignores(decode_envelope(value))
        }

    def _ignores(self, record: Envelope) -> bool:
        """Whether a record is the victim's, or a sighting that a list of allies can do without."""
        if Behaviour.CENSOR in self._behaviours and record.author == self._knowledge.victim:
            return True
        if Behaviour.NAME_ALLIES not in self._behaviours or record.kind != RecordKind.SIGHTING:
            return False
        allies = self._knowledge.allies
        validators = [
            node.peer_id
            for node in self._knowledge.list_nodes(Epoch(record.epoch))
            if node.node_class is NodeClass.VALIDATOR
        ]
        num_allies = sum(peer in allies for peer in validators)
        ignored = {self._knowledge.victim} if Behaviour.CENSOR in self._behaviours else set()
        others = [peer for peer in validators if peer not in allies | ignored]
        # Two thirds of all must be named.
        needed = -(-2 * len(validators) // 3) - num_allies
        return record.author not in allies and record.author not in others[: max(0, needed)]

    async def publish(self, key: bytes, value: bytes, expires_at: int) -> bool:
        record = decode_envelope(value)
        is_held = await self._publish(record, expires_at)
        if Behaviour.FORGE in self._behaviours:
            await self._forge(record)
        return is_held

    async def _publish(self, record: Envelope, expires_at: int) -> bool:
        does = self._behaviours
        is_commit = record.kind == RecordKind.OUTPUT_COMMIT
        is_reveal = record.kind == RecordKind.OUTPUT_REVEAL
        if is_commit or is_reveal:
            if Behaviour.SILENT in does or (is_reveal and Behaviour.NO_REVEAL in does):
                return False
            if (Behaviour.LATE if is_commit else Behaviour.LATE_REVEAL) in does:
                self._knowledge.spawn(self._send_late(record))
                return True
            if Behaviour.COPY in does:
                return await self._publish_copy(record, expires_at)
        if is_reveal and Behaviour.WITHHOLD_DRAWN in does and self._is_drawn(record):
            return False
        if EDGED.get(RecordKind(record.kind)) in does:
            self._knowledge.note("edge")
            self._knowledge.spawn(self._send_late(record, self._draw_edge_s(record)))
            return True
        if record.kind == RecordKind.NAMED_LIST and Behaviour.HIDE_LIST in does:
            return True
        if record.kind in _SCORE_KINDS and Behaviour.LIE_TOTALS in does:
            record = self._bend_totals(record)
        if record.kind == RecordKind.SIGHTING and does & SEEING:
            return await self._send(self._see(record))
        if any(record.kind == EQUIVOCATED.get(behaviour) for behaviour in does):
            return await self._publish_two(record, expires_at)
        if is_commit and Behaviour.EARLY in does:
            await self._send(
                self._knowledge.find_own(RecordKind.OUTPUT_REVEAL, Epoch(record.epoch))
            )
        if Behaviour.LIE_SCORES in does and record.kind in _SCORE_KINDS:
            return await self._send(self._lie(record))
        return await self._send(record)

    async def _send(self, record: Envelope) -> bool:
        return await self._inner.send(record.key, record.to_bytes(), float(record.expires_at))

    async def _send_late(self, record: Envelope, after_s: float | None = None) -> None:
        """Leave just after the deadline's block: as early as can be, and too late for everybody.

        A reveal counts by the head at which a reading began, so it waits for those to end.
        """
        epoch, kind = Epoch(record.epoch), RecordKind(record.kind)
        deadline, late_s = get_deadline(kind, self._knowledge.windows)
        after_s = late_s if after_s is None else after_s
        # Blocks may slip while it waits.
        left_s = self._knowledge.compute_delay_s(epoch, deadline) + after_s
        while left_s > MIN_WAIT_S:
            await asyncio.sleep(left_s)
            left_s = self._knowledge.compute_delay_s(epoch, deadline) + after_s
        if kind is RecordKind.NAMED_LIST:
            self._knowledge.show_list(epoch)
        await self._send(record)

    def _draw_edge_s(self, record: Envelope) -> float:
        """Return seconds after the deadline's block, mostly below 0.

        A list is too late from the block after the attestation deadline on. It leaves when some
        ask for it for the last time and others have done so.
        """
        if record.kind == RecordKind.NAMED_LIST:
            return -self._random.uniform(0.0, LAST_ATTEMPT_S)
        return -self._random.uniform(0.0, EDGE_S)

    def _lie(self, record: Envelope) -> Envelope:
        """Say that no hoster worked, and open that commitment as promised."""
        if record.kind == RecordKind.SCORE_REVEAL:
            return self._seal_like(record, encode_score_reveal(ScoreReveal(bytes(32), ())))
        commitment = compute_score_commitment(make_commit_context(record), salt=bytes(32), rows=())
        sighting = replace(decode_sighting(record.body), commitment=commitment)
        return self._seal_like(record, encode_sighting(sighting))

    def _bend_totals(self, record: Envelope) -> Envelope:
        """Promise and show right tags, twice the totals of allies, and half of all others'."""
        epoch = Epoch(record.epoch)
        if record.kind == RecordKind.SCORE_REVEAL:
            shown = decode_score_reveal(record.body)
            rows = self._bend_rows(shown.rows, epoch)
            return self._seal_like(record, encode_score_reveal(ScoreReveal(shown.salt, rows)))
        sighting = decode_sighting(record.body)
        if sighting.commitment == NO_SCORES:
            return record
        own = decode_score_reveal(self._knowledge.find_own(RecordKind.SCORE_REVEAL, epoch).body)
        commitment = compute_score_commitment(
            make_commit_context(record), salt=own.salt, rows=self._bend_rows(own.rows, epoch)
        )
        return self._seal_like(record, encode_sighting(replace(sighting, commitment=commitment)))

    def _bend_rows(self, rows: Sequence[ScoreRow], epoch: Epoch) -> tuple[ScoreRow, ...]:
        allies = {
            node.node_id
            for node in self._knowledge.list_nodes(epoch)
            if node.peer_id in self._knowledge.allies
        }
        return tuple(
            row._replace(total=Score(2 * row.total if row.node_id in allies else row.total // 2))
            for row in rows
        )

    def _see(self, record: Envelope) -> Envelope:
        """Say that one saw nothing, or other records than there are, or that no hoster serves."""
        sighting, epoch = decode_sighting(record.body), Epoch(record.epoch)
        if Behaviour.ACCUSE in self._behaviours:
            sighting = replace(sighting, failed_probes=frozenset(range(sighting.num_nodes)))
        elif Behaviour.SEE_NOTHING in self._behaviours:
            sighting = replace(sighting, seen=())
        elif Behaviour.SEE_ALLIES in self._behaviours:
            nodes, allies = self._knowledge.list_nodes(epoch), self._knowledge.allies
            places = {place for place, node in enumerate(nodes) if node.peer_id in allies}
            seen = [row for row in sighting.seen if row.position in places]
            sighting = replace(sighting, seen=tuple(seen))
        else:
            seen = [row._replace(name=self._random.randbytes(16)) for row in sighting.seen]
            sighting = replace(sighting, seen=tuple(seen))
        return self._seal_like(record, encode_sighting(sighting))

    def _is_drawn(self, record: Envelope) -> bool:
        """Whether a reveal covers a layer that is audited."""
        reveal = decode_output_reveal(record.body)
        owed = compute_owed_layers(reveal.layers, SHAPE.num_layers)
        draw = self._knowledge.find_draw(Epoch(record.epoch))
        return bool(set(draw_layers(draw, SHAPE, MINIMAL)) & set(owed))

    async def _publish_copy(self, record: Envelope, expires_at: int) -> bool:
        """Publish what the victim published, as one's own; wait for it if it is not there."""
        epoch = Epoch(record.epoch)
        key = compute_record_key(record.network_id, record.kind, epoch, self._knowledge.victim)
        found = await self._inner.fetch((key,), timeout_s=3.0)
        if key not in found:
            return False
        copied = self._seal_like(record, decode_envelope(found[key]).body)
        self._knowledge.note_copy(epoch)
        return await self._inner.send(copied.key, copied.to_bytes(), float(expires_at))

    async def _publish_two(self, record: Envelope, expires_at: int) -> bool:
        """Promise one thing to half of the replicas and another to the rest."""
        second = self._seal_like(record, _say_otherwise(record))
        half = frozenset(node for node in self._knowledge.peers if node % 2)
        if self._random.random() < 0.5:
            half = frozenset(self._random.sample(sorted(self._knowledge.peers), 2))
        rest = frozenset(self._knowledge.peers) - half
        await self._inner.send(record.key, record.to_bytes(), float(expires_at), only=half)
        return await self._inner.send(second.key, second.to_bytes(), float(expires_at), only=rest)

    async def _forge(self, record: Envelope) -> None:
        """Offer what no replica may keep: others' names, later expiry, noise, cut-off bytes."""
        victim_key = compute_record_key(
            record.network_id, record.kind, record.epoch, self._knowledge.victim
        )
        raw, expires_at = record.to_bytes(), float(record.expires_at)
        offers = (
            (victim_key, raw, expires_at),
            (record.key, raw, expires_at + 1),
            (record.key, raw, float("nan")),
            (record.key, raw, float("inf")),
            (victim_key, raw[:-1], expires_at),
            (victim_key, raw + b"\0", expires_at),
            (victim_key, self._random.randbytes(200), expires_at),
            (victim_key, self._steal_name(record).to_bytes(), expires_at),
        )
        key, value, until = offers[self._random.randrange(len(offers))]
        await self._inner.send(key, value, until)

    def _steal_name(self, record: Envelope) -> Envelope:
        """Put the victim's name on a record, under one's own signature."""
        victim = self._knowledge.victim
        node_id = next(node for node, peer in self._knowledge.peers.items() if peer == victim)
        return replace(record, author=victim, node_id=node_id)

    def _seal_like(self, record: Envelope, body: bytes) -> Envelope:
        return seal(
            self._knowledge.key,
            kind=record.kind,
            network_id=record.network_id,
            epoch=record.epoch,
            expires_at=record.expires_at,
            node_id=record.node_id,
            body=body,
        )


def _say_otherwise(record: Envelope) -> bytes:
    """Return another body that every replica admits."""
    match record.kind:
        case RecordKind.OUTPUT_COMMIT:
            promise = decode_output_commit(record.body)
            return encode_output_commit(OutputCommit(promise.seed, promise.layers, bytes(32)))
        case RecordKind.OUTPUT_REVEAL:
            reveal = decode_output_reveal(record.body)
            return encode_output_reveal(replace(reveal, salt=bytes(32)))
        case RecordKind.SIGHTING:
            return encode_sighting(replace(decode_sighting(record.body), seen=()))
    rows = decode_score_reveal(record.body).rows
    return encode_score_reveal(ScoreReveal(bytes(32), rows))


class EvilWriter:
    """Proposes other rows than the node computed, or attests nothing."""

    def __init__(
        self, inner: SimEndpoint, node_id: int, behaviours: frozenset[Behaviour], random: Random
    ) -> None:
        self._inner = inner
        self._node_id = SubnetNodeId(node_id)
        self._behaviours = behaviours
        self._random = random

    async def propose(
        self, subnet_id: SubnetId, scores: Sequence[tuple[SubnetNodeId, Score]], args: bytes | None
    ) -> ExtrinsicReceipt:
        if Behaviour.BAD_PROPOSAL in self._behaviours:
            scores = self._bend(list(scores))
        return await self._inner.propose(subnet_id, scores, args)

    async def attest(self, subnet_id: SubnetId) -> ExtrinsicReceipt:
        if Behaviour.REFUSE in self._behaviours:
            raise ChainUnavailable("it attests only what an ally proposes")
        return await self._inner.attest(subnet_id)

    def _bend(
        self, rows: list[tuple[SubnetNodeId, Score]]
    ) -> tuple[tuple[SubnetNodeId, Score], ...]:
        """Pay oneself, rob another, drop a row, or invent that no hoster worked."""
        match self._random.randrange(4):
            case 0:
                return tuple(
                    (node_id, Score(score + (node_id == self._node_id))) for node_id, score in rows
                )
            case 1 if any(score for _, score in rows):
                robbed = max(rows, key=lambda row: row[1])[0]
                return tuple(
                    (node_id, Score(0) if node_id == robbed else score) for node_id, score in rows
                )
            case 2:
                return tuple(rows[1:])
            case _:
                return ()


class EvilReader:
    """Reads the chain, and attests what an ally has proposed without looking at it."""

    def __init__(
        self,
        inner: SimEndpoint,
        allies: frozenset[int],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        note: Callable[[str], None],
    ) -> None:
        self._inner = inner
        self._allies = allies
        self._spawn = spawn
        self._note = note
        self._newest = Epoch(0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def fetch_submission(
        self, subnet_id: SubnetId, epoch: Epoch, *, at_block: BlockNumber | None = None
    ) -> Submission | None:
        submission = await self._inner.fetch_submission(subnet_id, epoch, at_block=at_block)
        if submission is not None and submission.proposer in self._allies and epoch > self._newest:
            self._newest = epoch
            self._spawn(self._attest(subnet_id))
        return submission

    async def _attest(self, subnet_id: SubnetId) -> None:
        try:
            await self._inner.attest(subnet_id)
        except (ChainUnavailable, ExtrinsicFailed):
            return
        self._note("lies-attested")
