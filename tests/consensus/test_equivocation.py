"""Two records for one slot: what proves it, and what does not."""

from dataclasses import replace

import pytest
from consensus.equivocation import find_equivocators, list_seen_records

from consensus.errors import InvalidRecord, Reason
from consensus.evidence import collect_output_evidence, collect_score_evidence
from consensus.records import (
    MAX_DIGESTS,
    OUTPUT_KINDS,
    SCORE_KINDS,
    RecordDigest,
    RecordKind,
    SeenRecords,
    decode_seen_records,
    encode_seen_records,
)
from tests.consensus.test_evidence import EPOCH, make_facts, see, see_commit, see_reveal

LAST = make_facts().roster.first_block + 18
SENT = LAST - 4


def make_digest(author, commitment, *, kind=RecordKind.OUTPUT_COMMIT, **changes):
    (sighting,) = see_commit(author, commitment, **changes).values()
    header = sighting.envelope.header
    return RecordDigest(kind, author, header.body_size, header.body_hash, header.signature)


def say(witness, *digests, seen_at=SENT):
    raw = encode_seen_records(SeenRecords(digests))
    return see(RecordKind.SIGHTING, witness, raw, seen_at=seen_at)


def find(*sightings, kinds=OUTPUT_KINDS):
    seen = {slot: sighting for part in sightings for slot, sighting in part.items()}
    facts = make_facts(seen)
    return find_equivocators(facts, kinds, signed_in=facts)


ONE, OTHER = make_digest(4, b"1" * 32), make_digest(4, b"2" * 32)


def test_two_signed_commits_for_one_slot_prove_an_equivocation():
    assert find(say(1, ONE), say(2, OTHER)) == {4}


def test_everybody_saying_the_same_proves_nothing():
    assert find(say(1, ONE), say(2, ONE), say(3, ONE)) == frozenset()


def test_nobody_can_accuse_an_honest_node():
    for forged in (
        replace(ONE, body_hash=bytes(32)),
        replace(ONE, body_size=ONE.body_size + 1),
        replace(OTHER, signature=bytes(64)),
        replace(OTHER, signature=ONE.signature),
        # What somebody else signed, and what the node itself signed for another slot.
        replace(make_digest(3, b"3" * 32), node_id=4),
        replace(make_digest(4, b"4" * 32), kind=RecordKind.OUTPUT_REVEAL),
    ):
        assert find(say(1, ONE), say(2, forged)) == frozenset()


def test_a_record_of_another_epoch_proves_nothing():
    (sighting,) = see(
        RecordKind.OUTPUT_COMMIT, 4, b"x" * 72, seen_at=SENT, epoch=EPOCH - 1
    ).values()
    header = sighting.envelope.header
    old = RecordDigest(
        RecordKind.OUTPUT_COMMIT, 4, header.body_size, header.body_hash, header.signature
    )
    assert find(say(1, ONE), say(2, old)) == frozenset()


def test_a_node_outside_the_roster_is_no_equivocator():
    strangers = (replace(ONE, node_id=9), replace(OTHER, node_id=9))
    assert find(say(1, strangers[0]), say(2, strangers[1])) == frozenset()


def test_a_wrong_signature_hides_no_right_one():
    fake = replace(OTHER, signature=bytes(64))
    assert find(say(1, fake), say(2, ONE), say(3, OTHER)) == {4}


def test_an_equivocator_cannot_reveal_itself_to_some_in_the_last_moment():
    assert find(say(1, ONE), say(4, OTHER)) == frozenset()


def test_a_late_sighting_proves_nothing():
    assert find(say(1, ONE), say(2, OTHER, seen_at=LAST)) == {4}
    assert find(say(1, ONE), say(2, OTHER, seen_at=LAST + 1)) == frozenset()


def test_kinds_are_judged_against_the_epoch_that_they_were_signed_in():
    assert find(say(1, ONE), say(2, OTHER), kinds=SCORE_KINDS) == frozenset()


def test_what_is_said_covers_outputs_of_this_epoch_and_scores_of_the_last():
    seen = see_commit(1) | see_reveal(1) | see_commit(2)
    seen |= see(RecordKind.SCORE_COMMIT, 3, b"c" * 32, seen_at=SENT)
    before = see_commit(3) | see(RecordKind.SCORE_COMMIT, 4, b"c" * 32, seen_at=1)
    said = list_seen_records(seen, before, own=2)
    assert [(digest.kind, digest.node_id) for digest in said.digests] == [
        (RecordKind.OUTPUT_COMMIT, 1),
        (RecordKind.OUTPUT_REVEAL, 1),
        (RecordKind.SCORE_COMMIT, 4),
    ]


def test_an_equivocating_hoster_counts_for_nothing():
    facts = make_facts(see_commit(1) | see_reveal(1))
    evidence = collect_output_evidence(facts, equivocators=frozenset({1}))
    assert not evidence.hosters and not evidence.accepted
    assert [refusal.reason for refusal in evidence.refusals] == [Reason.EQUIVOCATION]


def test_an_equivocating_validator_counts_for_nothing():
    (evidence,) = collect_score_evidence(
        make_facts(see(RecordKind.SCORE_COMMIT, 3, b"c" * 32, seen_at=SENT)),
        revealing=make_facts(epoch=EPOCH + 1, first_block=LAST + 2),
        hosters=frozenset(),
        equivocators=frozenset({3}),
    )
    assert (evidence.refusal, evidence.scores) == (Reason.EQUIVOCATION, ())


def test_seen_records_round_trip():
    seen = SeenRecords((ONE, replace(ONE, node_id=5), replace(ONE, kind=RecordKind.SCORE_REVEAL)))
    raw = encode_seen_records(seen)
    assert len(raw) == 4 + 3 * 105
    assert decode_seen_records(raw) == seen


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda raw: raw[:-1], Reason.WRONG_SIZE),
        (lambda raw: raw + b"\0", Reason.WRONG_SIZE),
        (lambda raw: b"\2" + raw[1:], Reason.WRONG_SIZE),
        (lambda raw: b"\xff" * 4 + raw[4:], Reason.WRONG_SIZE),
        (lambda raw: b"\2\0\0\0" + 2 * raw[4:], Reason.MALFORMED),
        (lambda raw: raw[:4] + b"\2" + raw[5:], Reason.WRONG_KIND),
        (lambda raw: raw[:4] + b"\7" + raw[5:], Reason.WRONG_KIND),
        (lambda raw: b"", Reason.WRONG_SIZE),
    ],
)
def test_what_is_not_canonical_is_refused(change, reason):
    with pytest.raises(InvalidRecord) as caught:
        decode_seen_records(change(encode_seen_records(SeenRecords((ONE,)))))
    assert caught.value.reason is reason


def test_seen_records_are_sorted_unique_and_few():
    for digests in ((OTHER, ONE), (replace(ONE, node_id=5), ONE)):
        with pytest.raises(ValueError, match="sorted"):
            encode_seen_records(SeenRecords(digests))
    many = tuple(replace(ONE, node_id=node_id) for node_id in range(MAX_DIGESTS + 1))
    with pytest.raises(ValueError, match="at most"):
        encode_seen_records(SeenRecords(many))
    assert len(decode_seen_records(encode_seen_records(SeenRecords(many[:-1]))).digests) == 2048
