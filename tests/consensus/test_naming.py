"""Named sightings decide which records count, whatever each node saw itself."""

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus import records
from consensus.attestation import check_naming
from consensus.errors import InvalidRecord, ProposalMismatch, Reason
from consensus.naming import (
    ARGS_VERSION,
    MAX_PROBATION,
    Naming,
    carry_probation,
    check_named_list,
    compute_quorum,
    continue_probation,
    decode_args,
    encode_args,
    find_accepted,
    find_unpaid,
    get_name,
    hash_accepted,
    list_seen,
    open_sighting,
)
from consensus.protocol_params import MAINNET
from consensus.records import (
    NO_SCORES,
    NamedList,
    NamedSighting,
    RecordKind,
    SeenRecord,
    Sighting,
    decode_sighting,
    encode_sighting,
)
from consensus.report import EpochReport
from consensus.types import NodeClass
from tests.support.epoch_records import EPOCH, World, make_roster, sign

ROSTER = make_roster(range(11, 18))
NAMING = Naming(b"l" * 32, b"a" * 32, frozenset({12, 17}), {11: 1, 14: 15, 17: 8})
COMMIT = RecordKind.OUTPUT_COMMIT


def see(*rows, size=7, failed=()):
    """A sighting of records, each (position, name) or (kind, age, position, name)."""
    seen = [SeenRecord(COMMIT, 0, *row) if len(row) == 2 else SeenRecord(*row) for row in rows]
    return Sighting(NO_SCORES, size, tuple(seen), frozenset(failed))


def name(letter):
    return letter.encode() * 16


# Whom a proposal names


@pytest.mark.parametrize(
    ("num_validators", "quorum"),
    [(0, 0), (1, 1), (2, 2), (3, 2), (4, 3), (5, 4), (6, 4), (7, 5), (9, 6), (100, 67), (256, 171)],
)
def test_a_proposal_names_two_thirds_of_the_validators_sightings(num_validators, quorum):
    roster = make_roster(range(1, num_validators + 1))
    assert compute_quorum(roster) == quorum
    # A third of liars is less than half of the quorum, and the honest alone fill it.
    liars = (num_validators - 1) // 3
    assert num_validators == 0 or 2 * liars < quorum <= num_validators - liars


def test_nodes_below_validator_do_not_raise_the_quorum():
    classes = {14: NodeClass.INCLUDED, 15: NodeClass.IDLE, 16: NodeClass.REGISTERED}
    assert compute_quorum(make_roster(range(11, 18), classes=classes)) == 3


def test_a_validator_of_a_later_epoch_does_not_raise_the_quorum():
    late = tuple(replace(node, start_epoch=EPOCH + 1) for node in ROSTER.nodes[:4])
    assert compute_quorum(replace(ROSTER, nodes=(*late, *ROSTER.nodes[4:]))) == 2


def list_of(*positions):
    return NamedList(
        tuple(NamedSighting(place, bytes([(place + 1) % 256]) * 32) for place in positions)
    )


def test_a_list_of_enough_sightings_says_whose_they_are():
    named = check_named_list(list_of(0, 2, 3, 5, 6), ROSTER)
    assert named == {node: bytes([node - 10]) * 32 for node in (11, 13, 14, 16, 17)}


def test_a_list_that_names_too_few_is_refused():
    with pytest.raises(ProposalMismatch, match="4 of 5"):
        check_named_list(list_of(0, 1, 2, 3), ROSTER)


@pytest.mark.parametrize("position", [7, 65_535])
def test_a_list_that_names_unknown_sighters_is_refused(position):
    with pytest.raises(ProposalMismatch, match=f"position {position}"):
        check_named_list(list_of(0, 1, 2, 3, 4, position), ROSTER)


@pytest.mark.parametrize("node_class", [NodeClass.INCLUDED, NodeClass.IDLE])
def test_a_list_that_names_a_node_below_validator_is_refused(node_class):
    roster = make_roster(range(11, 18), classes={13: node_class})
    with pytest.raises(ProposalMismatch, match="position 2"):
        check_named_list(list_of(0, 1, 2, 3, 4), roster)


def test_a_proposer_that_names_its_own_sighting_for_others_is_refused():
    own = b"own" + bytes(29)
    named = NamedList(tuple(NamedSighting(place, own) for place in range(5)))
    with pytest.raises(ProposalMismatch, match="one sighting stands for several nodes"):
        check_named_list(named, ROSTER)


def test_a_list_that_names_a_sighter_twice_is_not_decoded():
    row = (3).to_bytes(2, "little") + bytes(32)
    with pytest.raises(InvalidRecord) as refusal:
        records.decode_named_list((2).to_bytes(4, "little") + row + row)
    assert refusal.value.reason is Reason.MALFORMED
    with pytest.raises(ValueError, match="once"):
        records.encode_named_list(list_of(3, 3))


# What a proposal says beside its rows


def test_args_survive_their_encoding():
    assert decode_args(encode_args(NAMING, ROSTER), ROSTER) == NAMING


@given(st.data())
def test_args_of_any_roster_survive_their_encoding(data):
    size = data.draw(st.integers(0, 40))
    roster = make_roster(range(1, size + 1))
    nodes = st.integers(1, size) if size else st.nothing()
    naming = Naming(
        data.draw(st.binary(min_size=32, max_size=32).filter(any)),
        data.draw(st.binary(min_size=32, max_size=32).filter(any)),
        data.draw(st.frozensets(nodes)),
        data.draw(st.dictionaries(nodes, st.integers(1, 15))),
    )
    raw = encode_args(naming, roster)
    assert len(raw) == 67 + (size + 7) // 8 + (size + 1) // 2
    assert decode_args(raw, roster) == naming


def test_args_written_out():
    # Positions 1 and 6 are unpaid; 1, 15 and 8 epochs are left at positions 0, 3 and 6.
    tail = bytes([0b0100_0010, 0x01, 0xF0, 0x00, 0x08])
    assert encode_args(NAMING, ROSTER) == b"\2" + b"l" * 32 + b"a" * 32 + b"\7\0" + tail


def test_args_of_256_nodes_fit_the_chains_limit():
    assert len(encode_args(Naming(), make_roster(range(1, 257)))) <= 500


def test_args_are_not_there():
    with pytest.raises(ProposalMismatch, match="none"):
        decode_args(None, ROSTER)


@pytest.mark.parametrize("version", [0, 1, 3, 255])
def test_args_of_another_version_are_refused(version):
    raw = bytes([version]) + encode_args(NAMING, ROSTER)[1:]
    with pytest.raises(ProposalMismatch, match=f"version {ARGS_VERSION}"):
        decode_args(raw, ROSTER)


def test_short_and_long_args_are_refused():
    raw = encode_args(NAMING, ROSTER)
    for size in range(len(raw)):
        with pytest.raises(ProposalMismatch):
            decode_args(raw[:size], ROSTER)
    for tail in (b"\0", b"\0" * 4096):
        with pytest.raises(ProposalMismatch, match="bytes"):
            decode_args(raw + tail, ROSTER)


def test_args_of_another_rosters_size_are_refused():
    with pytest.raises(ProposalMismatch, match="roster of 7"):
        decode_args(encode_args(NAMING, ROSTER), make_roster(range(11, 19)))


def test_an_unpaid_bit_beyond_the_roster_is_refused():
    raw = bytearray(encode_args(NAMING, ROSTER))
    raw[67] |= 0b1000_0000
    with pytest.raises(ProposalMismatch, match="unpaid"):
        decode_args(bytes(raw), ROSTER)


def test_probation_beyond_the_roster_is_refused():
    raw = bytearray(encode_args(NAMING, ROSTER))
    raw[-1] |= 0b0001_0000
    with pytest.raises(ProposalMismatch, match="probation"):
        decode_args(bytes(raw), ROSTER)


@pytest.mark.parametrize("named", [Naming(list_hash=b"l" * 32), Naming(accepted_hash=b"a" * 32)])
def test_args_with_one_of_the_two_hashes_are_refused(named):
    with pytest.raises(ProposalMismatch, match="hashes"):
        decode_args(encode_args(named, ROSTER), ROSTER)


def test_args_that_name_nothing_are_known_by_their_zeros():
    named = decode_args(encode_args(Naming(probation={13: 2}), ROSTER), ROSTER)
    assert named.is_empty and named.probation == {13: 2}
    assert not NAMING.is_empty


@pytest.mark.parametrize("left", [0, -1, MAX_PROBATION + 1, 255])
def test_a_probation_that_four_bits_do_not_hold_is_our_own_mistake(left):
    with pytest.raises(ValueError, match="1 to 15"):
        encode_args(Naming(probation={12: left}), ROSTER)


@pytest.mark.parametrize("named", [Naming(unpaid=frozenset({99})), Naming(probation={99: 1})])
def test_args_about_a_node_beyond_the_roster_are_our_own_mistake(named):
    with pytest.raises(ValueError, match="roster"):
        encode_args(named, ROSTER)


# The naming of a proposal is that of the own report


def report(**changes):
    fields = {"unpaid": NAMING.unpaid, "probation": NAMING.probation}
    return EpochReport(EPOCH, bytes(32), **(fields | changes))


def test_equal_lists_are_attested():
    check_naming(report(), NAMING)


@pytest.mark.parametrize("unpaid", [frozenset(), frozenset({12}), frozenset({12, 13, 17})])
def test_a_proposal_that_forgets_or_invents_an_unpaid_hoster_is_refused(unpaid):
    with pytest.raises(ProposalMismatch, match="unpaid"):
        check_naming(report(), replace(NAMING, unpaid=unpaid))


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({11: 2}, "node 11 has 2 epochs of probation left, computed 1"),
        ({14: 0}, "node 14 has 0 epochs of probation left, computed 15"),
        ({13: 1}, "node 13 has 1 epochs of probation left, computed 0"),
    ],
)
def test_a_probation_list_that_forgets_or_invents_a_node_is_refused(changes, difference):
    probation = {node: left for node, left in (NAMING.probation | changes).items() if left}
    with pytest.raises(ProposalMismatch, match=difference):
        check_naming(report(), replace(NAMING, probation=probation))


# Sightings


def test_a_sighting_of_another_roster_size_is_refused():
    envelope = sign(RecordKind.SIGHTING, EPOCH, 11, encode_sighting(see((0, name("a")), size=6)))
    with pytest.raises(InvalidRecord) as refusal:
        open_sighting(envelope, ROSTER)
    assert refusal.value.reason is Reason.MALFORMED


def test_a_sighting_of_the_rosters_size_opens():
    sighting = see((0, name("a")), (6, name("b")), failed={3})
    envelope = sign(RecordKind.SIGHTING, EPOCH, 11, encode_sighting(sighting))
    assert open_sighting(envelope, ROSTER) == sighting


def test_a_node_lists_the_records_of_the_epoch_and_of_the_one_before_by_position():
    world = World(make_roster(range(11, 14)), previous=make_roster(range(11, 14), epoch=EPOCH - 1))
    world.host(13, 11)
    world.host(12, age=1)
    world.score_before(13)
    assert [row[:3] for row in world.sight(11).seen] == [
        (RecordKind.OUTPUT_COMMIT, 0, 0),
        (RecordKind.OUTPUT_COMMIT, 0, 2),
        (RecordKind.OUTPUT_REVEAL, 0, 0),
        (RecordKind.OUTPUT_REVEAL, 0, 2),
        (RecordKind.SIGHTING, 1, 2),
        (RecordKind.SCORE_REVEAL, 1, 2),
        (RecordKind.OUTPUT_REVEAL, 1, 1),
    ]
    for row in world.sight(11).seen:
        slot = (row.kind, EPOCH - row.age, world.roster.nodes[row.position].node_id)
        assert row.name == get_name(world.records[slot])
    assert decode_sighting(encode_sighting(world.sight(11))) == world.sight(11)


def test_a_record_is_named_by_the_first_half_of_its_hash():
    envelope = sign(RecordKind.OUTPUT_COMMIT, EPOCH, 11, b"")
    assert get_name(envelope) == envelope.record_hash[:16]


def test_records_of_nodes_that_left_the_roster_are_not_listed():
    world = World(make_roster(range(11, 14)), previous=make_roster(range(9, 14), epoch=EPOCH - 1))
    world.host(9, 11, age=1)
    assert [row.position for row in list_seen(world.records, world.roster)] == [0]


# Which records are accepted


@pytest.mark.parametrize(
    ("num_listing", "num_named", "is_accepted"),
    [
        (0, 2, False),
        (1, 2, True),
        (1, 3, False),
        (2, 3, True),
        (2, 4, True),
        (2, 5, False),
        (3, 5, True),
        (5, 5, True),
        (33, 67, False),
        (34, 67, True),
    ],
)
def test_a_record_is_accepted_at_exactly_half_of_the_named_sightings(
    num_listing, num_named, is_accepted
):
    sightings = [see((2, name("a")))] * num_listing + [see()] * (num_named - num_listing)
    accepted = find_accepted(sightings, ROSTER)
    assert accepted == ({(COMMIT, EPOCH, 13): name("a")} if is_accepted else {})


def test_two_accepted_versions_of_one_record_count_as_none():
    sightings = [see((2, name("a")), (3, name("c"))), see((2, name("b")), (3, name("c")))]
    assert find_accepted(sightings, ROSTER) == {(COMMIT, EPOCH, 14): name("c")}


def test_the_version_that_most_saw_is_accepted():
    sightings = [see((2, name("a")))] * 3 + [see((2, name("b")))] * 2
    assert find_accepted(sightings, ROSTER) == {(COMMIT, EPOCH, 13): name("a")}


def test_less_than_a_third_of_liars_neither_insert_nor_remove_a_record():
    for num_validators in range(4, 40):
        roster = make_roster(range(1, num_validators + 1))
        liars = (num_validators - 1) // 3
        honest = [see((0, name("h")), size=num_validators)] * (compute_quorum(roster) - liars)
        lies = [see((1, name("l")), size=num_validators)] * liars
        assert find_accepted([*honest, *lies], roster) == {(COMMIT, EPOCH, 1): name("h")}


def test_records_of_both_epochs_have_their_own_slots():
    rows = [
        (RecordKind.OUTPUT_REVEAL, 0, 0, name("a")),
        (RecordKind.SIGHTING, 1, 0, name("b")),
        (RecordKind.OUTPUT_REVEAL, 1, 0, name("c")),
    ]
    assert list(find_accepted([see(*rows)], ROSTER).items()) == [
        ((RecordKind.OUTPUT_REVEAL, EPOCH, 11), name("a")),
        ((RecordKind.SIGHTING, EPOCH - 1, 11), name("b")),
        ((RecordKind.OUTPUT_REVEAL, EPOCH - 1, 11), name("c")),
    ]


def test_no_sightings_accept_nothing():
    assert find_accepted([], ROSTER) == {}


@given(st.integers(0, 2**32 - 1))
def test_order_of_sightings_changes_neither_the_accepted_nor_their_hash(seed):
    rng = random.Random(seed)
    world = World()
    world.host(1, 2, 3)
    sightings = [
        world.sight(node, hidden=rng.sample(sorted(world.records), 2)) for node in range(1, 8)
    ]
    accepted = find_accepted(sightings, world.roster)
    shuffled = rng.sample(sightings, len(sightings))
    assert list(find_accepted(shuffled, world.roster).items()) == list(accepted.items())
    kept = dict(rng.sample(list(world.records.items()), len(world.records)))
    assert hash_accepted(kept, accepted) == hash_accepted(world.records, accepted)


def test_the_hash_of_the_accepted_names_whole_records():
    world = World()
    world.host(1)
    accepted = find_accepted([world.sight(1)], world.roster)
    before = hash_accepted(world.records, accepted)
    world.host(1, vectors=[b"\0" * 16] * 3)
    # Another record of the same name: sixteen bytes may collide, thirty-two may not.
    assert hash_accepted(world.records, accepted) != before


# Who is unpaid for serving nobody


@pytest.mark.parametrize(
    ("num_failed", "num_named", "is_unpaid"),
    [(0, 1, False), (1, 1, True), (1, 2, False), (2, 4, False), (3, 4, True), (2, 3, True)],
)
def test_a_hoster_is_unpaid_by_more_than_half_of_the_named_sightings(
    num_failed, num_named, is_unpaid
):
    sightings = [see(failed={4})] * num_failed + [see()] * (num_named - num_failed)
    assert find_unpaid(sightings, ROSTER) == ({15} if is_unpaid else set())


# Probation


def continue_(before, *, refuted=(), withheld=(), roster=ROSTER):
    return continue_probation(before, roster, refuted=refuted, withheld=withheld, params=MAINNET)


def test_probation_is_carried_over_a_gap():
    assert carry_probation({11: 8, 12: 2, 13: 1}, epochs=0) == {11: 8, 12: 2, 13: 1}
    assert carry_probation({11: 8, 12: 2, 13: 1}, epochs=2) == {11: 6}
    assert carry_probation({11: 8}, epochs=8) == {}


def test_probation_is_mapped_by_node_id_between_rosters():
    raw = encode_args(Naming(probation={13: 4, 17: 2}), ROSTER)
    later = make_roster([12, 13, 17, 18], epoch=EPOCH + 1)
    left = continue_(decode_args(raw, ROSTER).probation, roster=later)
    assert left == {13: 3, 17: 1}
    assert decode_args(encode_args(Naming(probation=left), later), later).probation == left


def test_a_node_that_left_the_roster_is_forgotten():
    assert continue_({11: 5, 99: 5}, refuted={12}) == {11: 4, 12: 8}


def test_a_refuted_node_is_unpaid_in_the_epoch_and_the_next_eight():
    left, epochs = continue_({}, refuted={12}), 0
    while left:
        left, epochs = continue_(left), epochs + 1
    assert epochs == 8


def test_a_withheld_reveal_costs_two_more_epochs():
    left, epochs = continue_({}, withheld={12}), 0
    while left:
        left, epochs = continue_(left), epochs + 1
    assert epochs == 2


def test_withholding_does_not_shorten_a_probation():
    assert continue_({12: 7, 13: 3}, withheld={12, 13}) == {12: 6, 13: 2}


def test_being_refuted_again_begins_a_probation_again():
    assert continue_({12: 3}, refuted={12}, withheld={12}) == {12: 8}
