"""What counts of what was seen: every way of cheating with commits and reveals, by name."""

from dataclasses import replace

from consensus import records
from consensus.challenge import ModelShape
from consensus.commitment import (
    CommitContext,
    compute_output_commitment,
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
    find_reveal_hashes,
)
from consensus.protocol_params import MINIMAL
from consensus.records import (
    Challenge,
    OutputCommit,
    OutputReveal,
    RecordKind,
)
from consensus.roster import Roster, RosterNode
from consensus.scoring import compute_hoster_scores
from consensus.types import LayerRange, NodeClass
from keys.envelope import seal
from keys.peer import PeerKey
from tests.support.epoch_records import World, make_roster

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


def make_facts(records=None, seen_at=None):
    roster = Roster(EPOCH, FIRST_BLOCK, b"h" * 32, 1000, tuple(map(make_node, KEYS)))
    return EpochFacts(roster, None, SEED, None, SHAPE, records or {}, seen_at=seen_at or {})


def make_commitment(author, *, epoch=EPOCH, node_id=None, salt=SALT, vectors=VECTORS, seed=SEED):
    context = CommitContext(NETWORK, epoch, node_id or author, KEYS[author].peer_id)
    root = compute_vectors_root(BLOCKS, vectors, SHAPE.num_layers)
    return compute_output_commitment(context, seed=seed, layers=BLOCKS, salt=salt, root=root)


def see(kind, author, body, *, epoch=EPOCH):
    envelope = seal(
        KEYS[author],
        kind=kind,
        network_id=NETWORK,
        epoch=epoch,
        expires_at=9,
        node_id=author,
        body=body,
    )
    return {(kind, epoch, author): envelope}


def see_commit(author, commitment=None, *, seed=SEED, layers=BLOCKS):
    body = OutputCommit(seed, layers, commitment or make_commitment(author))
    raw = records.encode_output_commit(body)
    return see(RecordKind.OUTPUT_COMMIT, author, raw)


def see_reveal(author, *, salt=SALT, vectors=VECTORS, layers=BLOCKS):
    raw = records.encode_output_reveal(OutputReveal(salt, layers, vectors))
    return see(RecordKind.OUTPUT_REVEAL, author, raw)


def collect(*parts):
    records = {slot: envelope for part in parts for slot, envelope in part.items()}
    return collect_output_evidence(make_facts(records))


def refuse(*parts):
    """The reason why the only hoster's work does not count."""
    (hoster,) = collect(*parts).hosters
    assert not hoster.vectors
    return hoster.refusal


def test_a_reveal_that_opens_its_commit_counts():
    evidence = collect(see_commit(1), see_reveal(1))
    (hoster,) = evidence.hosters
    assert (hoster.vectors, hoster.refusal) == (VECTORS, None)
    assert evidence.accepted == {1} and not evidence.refusals


def test_reports_show_when_this_node_saw_a_record_and_scores_do_not_depend_on_it():
    records = see_commit(1) | see_reveal(1)
    commit_slot, reveal_slot = sorted(records)
    facts = make_facts(records, seen_at={commit_slot: COMMITTED, reveal_slot: REVEALED})
    (hoster,) = collect_output_evidence(facts).hosters
    assert (hoster.committed_at, hoster.revealed_at) == (COMMITTED, REVEALED)
    (fetched,) = collect_output_evidence(make_facts(records)).hosters
    assert fetched == replace(hoster, committed_at=None, revealed_at=None)


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


def test_a_node_below_included_has_no_evidence():
    facts = make_facts(see_commit(1) | see_reveal(1))
    idle = replace(facts.roster.nodes[0], node_class=NodeClass.IDLE)
    roster = replace(facts.roster, nodes=(idle, *facts.roster.nodes[1:]))
    facts = replace(facts, roster=roster)
    assert not collect_output_evidence(facts).hosters


def test_a_body_that_is_none_does_not_count():
    broken = see(RecordKind.OUTPUT_COMMIT, 1, b"short")
    assert collect(broken).refusals == (Refusal(RecordKind.OUTPUT_COMMIT, 1, Reason.WRONG_SIZE),)
    assert refuse(see_commit(1), see(RecordKind.OUTPUT_REVEAL, 1, b"")) is Reason.WRONG_SIZE


# Scores of the epoch before, committed to in its sightings and revealed in this one


def make_world(**changes):
    nodes = range(1, 6)
    before = make_roster(nodes, epoch=8)
    world = World(make_roster(nodes, epoch=9), previous=before, **changes)
    world.host(1, 2, age=1)
    return world


def collect_scores(world, *, hosters=frozenset()):
    return collect_score_evidence(world.name(), hosters=hosters)


def test_a_score_reveal_that_opens_its_sightings_commitment_counts():
    world = make_world()
    world.score_before(3)
    (validator,) = collect_scores(world)
    assert (validator.rows, validator.refusal) == (world.compute_rows_before(3), None)


def test_wrong_salt_opens_no_scores():
    world = make_world()
    world.score_before(3)
    world.reveal_scores(3, world.compute_rows_before(3), salt=b"b" * 32)
    assert collect_scores(world)[0].refusal is Reason.COMMITMENT_MISMATCH


def test_other_scores_than_committed_to_open_nothing():
    world = make_world()
    world.score_before(3)
    first, *others = world.compute_rows_before(3)
    world.reveal_scores(3, [first._replace(total=first.total + 1), *others])
    assert collect_scores(world)[0].refusal is Reason.COMMITMENT_MISMATCH


def test_a_copied_score_commitment_opens_for_its_author_alone():
    world = make_world()
    world.score_before(3)
    for kind in (RecordKind.SIGHTING, RecordKind.SCORE_REVEAL):
        world.put(kind, 4, world.records[kind, 8, 3].body, age=1)
    assert [validator.refusal for validator in collect_scores(world)] == [
        None,
        Reason.COMMITMENT_MISMATCH,
    ]


def test_a_score_commitment_without_reveal_is_refused():
    world = make_world()
    world.score_before(3, is_revealed=False)
    (validator,) = collect_scores(world)
    assert validator.refusal is Reason.NOT_REVEALED and not validator.rows


def test_a_sighting_without_scores_commits_to_none():
    world = make_world()
    world.commit_scores(3, None)
    world.reveal_scores(3, ())
    assert collect_scores(world)[0].refusal is Reason.NO_COMMIT


def test_a_score_reveal_without_an_accepted_sighting_counts_for_nothing():
    world = make_world()
    world.reveal_scores(3, ())
    assert collect_scores(world) == ()


def test_a_sighting_that_came_too_late_to_be_accepted_commits_to_nothing():
    world = make_world()
    world.score_before(3)
    # It is late for all but two of five: those that could still name it do not accept it.
    late = {(RecordKind.SIGHTING, 8, 3)}
    named = {n: world.sight(n, hidden=late if n < 4 else ()) for n in range(1, 6)}
    assert collect_score_evidence(world.name(named), hosters=frozenset()) == ()


def test_a_hoster_is_not_paid_as_a_validator_too():
    world = make_world()
    world.score_before(3, 4)
    evidence = collect_scores(world, hosters=frozenset({3}))
    assert [validator.node_id for validator in evidence] == [4]


def test_nothing_was_scored_before_the_first_elected_epoch():
    world = make_world()
    world.score_before(3)
    facts = replace(world.name(), previous=None)
    assert collect_score_evidence(facts, hosters=frozenset()) == ()
    assert find_reveal_hashes(facts) == {}


def test_the_reveals_that_scores_are_about_are_those_accepted_now():
    world = make_world()
    hidden = {(RecordKind.OUTPUT_REVEAL, 8, 2)}
    named = {n: world.sight(n, hidden=hidden if n < 4 else ()) for n in range(1, 6)}
    slot = (RecordKind.OUTPUT_REVEAL, 8, 1)
    assert find_reveal_hashes(world.name(named)) == {1: world.records[slot].record_hash}


def test_a_validator_that_has_left_since_is_judged_and_not_present():
    world = make_world()
    world.roster = make_roster([1, 2, 4, 5], epoch=9)
    world.score_before(3, 4)
    assert [validator.node_id for validator in collect_scores(world)] == [4]


def test_a_node_is_present_by_a_commit_an_opened_reveal_or_a_named_sighting():
    world = make_world()
    world.draw = b"d" * 32
    world.commit(1)
    world.audit(2)
    world.score_before(3, 4)
    world.reveal_scores(4, (), salt=b"b" * 32)
    facts = world.name(sighters=[5])
    outputs = collect_output_evidence(facts)
    scores = collect_score_evidence(facts, hosters=outputs.accepted)
    assert find_present(facts, outputs, scores) == {1, 2, 3, 5}


def test_a_refused_commit_or_a_challenge_makes_no_node_present():
    world = make_world()
    world.commit(1, seed=b"t" * 32)
    world.put(RecordKind.CHALLENGE, 2, records.encode_challenge(Challenge(1, SEED, SEED)))
    facts = world.name(sighters=[5])
    assert find_present(facts, collect_output_evidence(facts), ()) == {5}


def test_a_challenge_that_does_not_match_the_chain_is_ignored():
    def see_challenge(author, seed):
        raw = records.encode_challenge(Challenge(FIRST_BLOCK, b"h" * 32, seed))
        (envelope,) = see(RecordKind.CHALLENGE, author, raw).values()
        return {(RecordKind.CHALLENGE, author): TimedRecord(envelope, COMMITTED)}

    forged = see_challenge(1, b"t" * 32)
    assert find_challenge(forged, SEED) is None
    assert find_challenge(forged | see_challenge(2, SEED), SEED) == 2
