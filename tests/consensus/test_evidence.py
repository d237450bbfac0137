"""What counts of what was seen: every way of cheating with commits and reveals, by name."""

from dataclasses import replace

import pytest

from consensus import records
from consensus.challenge import ModelShape
from consensus.commitment import (
    CommitContext,
    compute_output_commitment,
    compute_score_commitment,
    compute_vectors_root,
)
from consensus.errors import Reason
from consensus.evidence import (
    EpochFacts,
    Refusal,
    TimedRecord,
    collect_output_evidence,
    collect_score_evidence,
    find_challenge,
    find_present,
)
from consensus.phases import compute_schedule
from consensus.protocol_params import MINIMAL
from consensus.records import (
    Challenge,
    OutputCommit,
    OutputReveal,
    RecordKind,
    ScoreCommit,
    ScoreReveal,
)
from consensus.roster import Roster, RosterNode
from consensus.scoring import compute_hoster_scores
from consensus.types import LayerRange, NodeClass
from keys.envelope import seal
from keys.peer import PeerKey

NETWORK, SEED, EPOCH, FIRST_BLOCK = b"n" * 32, b"s" * 32, 5, 100
SHAPE = ModelShape(num_layers=2, hidden_size=4, vocab_size=4)
BLOCKS = LayerRange(0, 2)
VECTORS = (b"\0\0\x80?" * 4,) * 3
SALT = b"a" * 32
KEYS = {node_id: PeerKey(bytes([node_id]) * 32) for node_id in (1, 2, 3, 4)}
COMMITTED, REVEALED = FIRST_BLOCK + 5, FIRST_BLOCK + 11


def make_node(node_id):
    account = bytes([node_id]) * 20
    return RosterNode(node_id, KEYS[node_id].peer_id, account, account, NodeClass.VALIDATOR, 0)


def make_facts(sightings=None, *, epoch=EPOCH, first_block=FIRST_BLOCK):
    roster = Roster(epoch, first_block, b"h" * 32, 1000, tuple(map(make_node, KEYS)))
    schedule = compute_schedule(20, MINIMAL)
    return EpochFacts(NETWORK, roster, schedule, SEED, SHAPE, 9, sightings or {})


def make_commitment(author, *, epoch=EPOCH, node_id=None, salt=SALT, vectors=VECTORS, seed=SEED):
    context = CommitContext(NETWORK, epoch, node_id or author, KEYS[author].peer_id)
    root = compute_vectors_root(BLOCKS, vectors, SHAPE.num_layers)
    return compute_output_commitment(context, seed=seed, layers=BLOCKS, salt=salt, root=root)


def see(kind, author, body, *, seen_at, epoch=EPOCH):
    envelope = seal(
        KEYS[author],
        kind=kind,
        network_id=NETWORK,
        epoch=epoch,
        expires_at=9,
        node_id=author,
        body=body,
    )
    return {(kind, author): TimedRecord(envelope, seen_at)}


def see_commit(author, commitment=None, *, seen_at=COMMITTED, seed=SEED, layers=BLOCKS):
    body = OutputCommit(seed, layers, commitment or make_commitment(author))
    raw = records.encode_output_commit(body)
    return see(RecordKind.OUTPUT_COMMIT, author, raw, seen_at=seen_at)


def see_reveal(author, *, salt=SALT, vectors=VECTORS, layers=BLOCKS, seen_at=REVEALED):
    raw = records.encode_output_reveal(OutputReveal(salt, layers, vectors))
    return see(RecordKind.OUTPUT_REVEAL, author, raw, seen_at=seen_at)


def collect(*sightings):
    seen = {slot: sighting for part in sightings for slot, sighting in part.items()}
    return collect_output_evidence(make_facts(seen), equivocators=frozenset())


def refuse(*sightings):
    """The reason why the only hoster's work does not count."""
    (hoster,) = collect(*sightings).hosters
    assert not hoster.vectors
    return hoster.refusal


def test_a_reveal_that_opens_its_commit_counts():
    evidence = collect(see_commit(1), see_reveal(1))
    (hoster,) = evidence.hosters
    assert (hoster.vectors, hoster.refusal) == (VECTORS, None)
    assert (hoster.committed_at, hoster.revealed_at) == (COMMITTED, REVEALED)
    assert evidence.accepted == {1} and not evidence.refusals


def test_wrong_salt_opens_nothing():
    assert refuse(see_commit(1), see_reveal(1, salt=b"b" * 32)) is Reason.COMMITMENT_MISMATCH


def test_wrong_digest_opens_nothing():
    assert refuse(see_commit(1, b"\0" * 32), see_reveal(1)) is Reason.COMMITMENT_MISMATCH


def test_another_output_than_the_one_committed_to_opens_nothing():
    other = (b"\0\0\0\0" * 4,) * 3
    assert refuse(see_commit(1), see_reveal(1, vectors=other)) is Reason.COMMITMENT_MISMATCH


def test_copied_commitment_opens_for_nobody_else_and_scores_zero():
    stolen = make_commitment(1)
    seen = (see_commit(1, stolen), see_reveal(1), see_commit(2, stolen), see_reveal(2))
    evidence = collect(*seen, see_commit(3), see_reveal(3), see_commit(4), see_reveal(4))
    assert [h.refusal for h in evidence.hosters] == [None, Reason.COMMITMENT_MISMATCH, None, None]
    scores = compute_hoster_scores(evidence.hosters, shape=SHAPE, params=MINIMAL)
    assert scores.scores[2] == 0
    assert scores.scores[1] == scores.scores[3] > 0


def test_commit_of_another_epoch_opens_nothing():
    earlier = make_commitment(1, epoch=EPOCH - 1)
    assert refuse(see_commit(1, earlier), see_reveal(1)) is Reason.COMMITMENT_MISMATCH


def test_commit_of_another_node_of_the_same_key_opens_nothing():
    assert (
        refuse(see_commit(1, make_commitment(1, node_id=2)), see_reveal(1))
        is Reason.COMMITMENT_MISMATCH
    )


def test_commit_to_another_challenge_is_not_accepted():
    evidence = collect(see_commit(1, seed=b"t" * 32), see_reveal(1))
    assert not evidence.accepted
    assert evidence.refusals == (Refusal(RecordKind.OUTPUT_COMMIT, 1, Reason.WRONG_SEED),)


def test_commit_to_layers_outside_the_model_is_not_accepted():
    evidence = collect(see_commit(1, layers=LayerRange(0, 3)))
    assert evidence.refusals == (Refusal(RecordKind.OUTPUT_COMMIT, 1, Reason.WRONG_RANGE),)


def test_reveal_without_commit_does_not_count():
    evidence = collect(see_reveal(1))
    assert not evidence.hosters
    assert evidence.refusals == (Refusal(RecordKind.OUTPUT_REVEAL, 1, Reason.NO_COMMIT),)


def test_commit_without_reveal_scores_zero_and_is_listed():
    evidence = collect(see_commit(1))
    assert evidence.hosters[0].refusal is Reason.NOT_REVEALED
    assert evidence.accepted == {1}


def test_reveal_of_another_range_opens_nothing():
    reveal = see_reveal(1, layers=LayerRange(0, 1), vectors=VECTORS[:1])
    assert refuse(see_commit(1), reveal) is Reason.WRONG_RANGE


def test_a_missing_head_vector_opens_nothing():
    assert refuse(see_commit(1), see_reveal(1, vectors=VECTORS[:2])) is Reason.COMMITMENT_MISMATCH


@pytest.mark.parametrize(("offset", "is_accepted"), [(9, True), (10, False), (11, False)])
def test_a_commit_first_seen_when_reveal_begins_is_late(offset, is_accepted):
    evidence = collect(see_commit(1, seen_at=FIRST_BLOCK + offset), see_reveal(1))
    assert bool(evidence.accepted) is is_accepted
    if not is_accepted:
        assert evidence.refusals == (Refusal(RecordKind.OUTPUT_COMMIT, 1, Reason.LATE),)


@pytest.mark.parametrize(("offset", "reason"), [(12, None), (13, Reason.LATE)])
def test_a_reveal_first_seen_when_scoring_begins_is_late(offset, reason):
    evidence = collect(see_commit(1), see_reveal(1, seen_at=FIRST_BLOCK + offset))
    assert evidence.hosters[0].refusal is reason


def test_a_node_below_included_has_no_evidence():
    facts = make_facts(see_commit(1) | see_reveal(1))
    idle = replace(facts.roster.nodes[0], node_class=NodeClass.IDLE)
    roster = replace(facts.roster, nodes=(idle, *facts.roster.nodes[1:]))
    facts = replace(facts, roster=roster)
    assert not collect_output_evidence(facts, equivocators=frozenset()).hosters


# Score commits of EPOCH are revealed in the epoch after it.
REVEALING = make_facts(epoch=EPOCH + 1, first_block=FIRST_BLOCK + 20)
SCORES = ((1, 10), (2, 20))


def see_score_commit(author, *, epoch=EPOCH, seen_at=FIRST_BLOCK + 15, owner=None):
    context = CommitContext(NETWORK, epoch, owner or author, KEYS[owner or author].peer_id)
    commitment = compute_score_commitment(context, salt=SALT, scores=SCORES)
    raw = records.encode_score_commit(ScoreCommit(commitment))
    return see(RecordKind.SCORE_COMMIT, author, raw, seen_at=seen_at)


def see_score_reveal(author, *, salt=SALT, scores=SCORES, seen_at=FIRST_BLOCK + 31):
    raw = records.encode_score_reveal(ScoreReveal(salt, scores))
    return see(RecordKind.SCORE_REVEAL, author, raw, seen_at=seen_at)


def collect_scores(*sightings, hosters=frozenset()):
    seen = {slot: sighting for part in sightings for slot, sighting in part.items()}
    return collect_score_evidence(
        make_facts(seen), revealing=REVEALING, hosters=hosters, equivocators=frozenset()
    )


def test_a_score_reveal_that_opens_its_commit_counts():
    (validator,) = collect_scores(see_score_commit(3), see_score_reveal(3))
    assert (validator.scores, validator.refusal) == (SCORES, None)


@pytest.mark.parametrize(
    ("commit", "reveal", "reason"),
    [
        ({}, {"salt": b"b" * 32}, Reason.COMMITMENT_MISMATCH),
        ({}, {"scores": ((1, 11), (2, 20))}, Reason.COMMITMENT_MISMATCH),
        ({"epoch": EPOCH - 1}, {}, Reason.COMMITMENT_MISMATCH),
        ({"owner": 4}, {}, Reason.COMMITMENT_MISMATCH),
        ({}, {"seen_at": FIRST_BLOCK + 33}, Reason.LATE),
    ],
    ids=["wrong salt", "other scores", "another epoch", "copied commitment", "late"],
)
def test_a_score_reveal_that_opens_nothing_is_refused(commit, reveal, reason):
    (validator,) = collect_scores(see_score_commit(3, **commit), see_score_reveal(3, **reveal))
    assert validator.refusal is reason and not validator.scores


def test_a_score_commit_without_reveal_is_refused():
    (validator,) = collect_scores(see_score_commit(3))
    assert validator.refusal is Reason.NOT_REVEALED


@pytest.mark.parametrize(("offset", "count"), [(18, 1), (19, 0)])
def test_a_score_commit_of_the_last_layer_is_late(offset, count):
    commit = see_score_commit(3, seen_at=FIRST_BLOCK + offset)
    assert len(collect_scores(commit, see_score_reveal(3))) == count


def test_a_hoster_is_not_paid_as_a_validator_too():
    evidence = collect_scores(see_score_commit(3), see_score_reveal(3), hosters=frozenset({3}))
    assert not evidence


def test_a_node_is_present_by_a_commit_or_an_opened_reveal():
    seen = see_commit(1) | see_score_commit(2) | see_score_commit(4, seen_at=FIRST_BLOCK + 19)
    facts, outputs = make_facts(seen), collect(seen)
    opened = collect_scores(see_score_commit(3), see_score_reveal(3))
    assert find_present(facts, outputs, opened) == {1, 2, 3}
    refused = collect_scores(see_score_commit(3), see_score_reveal(3, salt=b"b" * 32))
    assert find_present(facts, outputs, refused) == {1, 2}


def test_a_challenge_that_does_not_match_the_chain_is_ignored_whoever_signed_it():
    def see_challenge(author, seed):
        raw = records.encode_challenge(Challenge(FIRST_BLOCK, b"h" * 32, seed))
        return see(RecordKind.CHALLENGE, author, raw, seen_at=COMMITTED)

    forged = see_challenge(1, b"t" * 32)
    assert find_challenge(forged, SEED) is None
    assert find_challenge(forged | see_challenge(2, SEED), SEED) == 2
