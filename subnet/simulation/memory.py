"""Not doing the same pure work seven times: what a run remembers.

All nodes of a run check the same signatures and judge the same answers. Remembering the
outcome changes nothing, and every so often a judgement is repeated with its inputs in another
order, which must give the same bytes.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache, partial
from unittest import mock

from consensus import admission, evidence, naming, scoring
from consensus.agreement import Answer, LayerScores, compute_layer_scores
from consensus.protocol_params import ConsensusParams
from consensus.records import RecordKind, decode_body
from consensus.types import SubnetNodeId
from keys.envelope import Envelope, decode_envelope
from keys.errors import BadSignature
from keys.peer import PeerId
from subnet.journal import codec, journal
from subnet.simulation import invariants, network

MAX_REMEMBERED = 1 << 14
REPEAT_EVERY = 4
"""Every so many times that a judgement is remembered, it is worked out again."""

_verified: dict[tuple[bytes, bytes, bytes], bool] = {}


class Unstable(AssertionError):
    """The same answers in another order were judged differently."""


@contextmanager
def remember_signatures() -> Iterator[None]:
    """Verify each (key, message, signature) once, and look it up once for each parsed record."""
    original, check_parsed = PeerId.check_signature, Envelope.check_signature

    def check(self: PeerId, message: bytes, signature: bytes) -> None:
        known = (self.public_key, message, signature)
        if known not in _verified:
            _verified[known] = _is_verified(original, self, message, signature)
            while len(_verified) > MAX_REMEMBERED:
                del _verified[next(iter(_verified))]
        if not _verified[known]:
            raise BadSignature("the signature does not verify")

    def check_record(self: Envelope) -> None:
        # An envelope never changes; where the dataclass keeps what it derives is room for this.
        if not self.__dict__.get("is_verified"):
            check_parsed(self)
            self.__dict__["is_verified"] = True

    with (
        mock.patch.object(PeerId, "check_signature", check),
        mock.patch.object(Envelope, "check_signature", check_record),
    ):
        yield


def _is_verified(
    check: Callable[[PeerId, bytes, bytes], None], peer: PeerId, message: bytes, signature: bytes
) -> bool:
    try:
        check(peer, message, signature)
    except BadSignature:
        return False
    return True


@contextmanager
def remember_records() -> Iterator[None]:
    """Parse the same bytes once; what is refused is parsed again."""
    parse_envelope = lru_cache(MAX_REMEMBERED)(decode_envelope)
    parse_body = lru_cache(MAX_REMEMBERED)(decode_body)
    with ExitStack() as patches:
        for reader in (admission, codec, journal, network, invariants):
            patches.enter_context(mock.patch.object(reader, "decode_envelope", parse_envelope))
        patches.enter_context(mock.patch.object(admission, "decode_body", parse_body))
        parse_sighting = partial(parse_body, RecordKind.SIGHTING)
        for opener in (naming, evidence, invariants):
            patches.enter_context(mock.patch.object(opener, "decode_sighting", parse_sighting))
        yield


@contextmanager
def remember_scores() -> Iterator[None]:
    """Judge the same answers to one layer once, and now and then again in reverse order."""
    known: dict[tuple[object, ...], LayerScores] = {}
    num_hits = 0

    def compute(
        answers: Sequence[Answer],
        *,
        length: int,
        params: ConsensusParams,
        scale: int = 0,
        references: Sequence[Answer] = (),
        voiceless: Collection[SubnetNodeId] = (),
    ) -> LayerScores:
        nonlocal num_hits
        judge = partial(
            compute_layer_scores,
            length=length,
            params=params,
            scale=scale,
            voiceless=frozenset(voiceless),
        )
        key = (
            (length, scale),
            frozenset(voiceless),
            tuple(_describe(answer) for answer in references),
            *(_describe(answer) for answer in answers),
        )
        if key not in known:
            known[key] = judge(answers, references=references)
            return known[key]
        num_hits += 1
        if num_hits % REPEAT_EVERY == 0:
            again = judge(answers[::-1], references=references[::-1])
            if again != known[key]:
                raise Unstable(f"{again} and {known[key]}")
        return known[key]

    with mock.patch.object(scoring, "compute_layer_scores", compute):
        yield


def _describe(answer: Answer) -> tuple[object, ...]:
    vector = None if answer.vector is None else answer.vector.tobytes()
    return (answer.node_id, answer.coldkey, vector, answer.refusal)


@contextmanager
def pause_collection() -> Iterator[None]:
    """Leave cycles alone during a run and collect its own after it.

    What was there before is set aside: a test process has imported half a million objects,
    and looking through all of them takes longer than a short run.
    """
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.collect()
        gc.unfreeze()
