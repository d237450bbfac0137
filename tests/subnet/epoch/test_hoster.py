"""The hoster's answer covers what it owes and opens its commit."""

import numpy as np
import pytest

from consensus.challenge import ModelShape
from consensus.commitment import check_output_reveal
from consensus.records import RecordKind, decode_output_commit, decode_output_reveal
from consensus.roster import Roster
from consensus.types import LayerRange
from subnet.epoch.author import Author
from subnet.epoch.hoster import answer_challenge, build_tasks, encode_outputs
from tests.support.fakes import PARAMS, FakeChain, FakeInference
from tests.support.node import SHAPE, make_key, make_roster_node, make_terms

SEED = b"s" * 32
CHAIN = FakeChain((make_roster_node(1),))
ROSTER = Roster(5, 100, b"h" * 32, 1000, CHAIN.nodes)
AUTHOR = Author(make_terms(CHAIN), make_key(1), 1)


@pytest.mark.parametrize(
    ("layers", "owed"), [((0, 4), [0, 1, 2, 3, 4]), ((0, 2), [0, 1]), ((2, 4), [2, 3, 4])]
)
def test_a_hoster_owes_its_layers_and_the_head_behind_the_last(layers, owed):
    tasks = build_tasks(SEED, LayerRange(*layers), SHAPE, PARAMS)
    assert [task.layer for task in tasks] == owed
    for task in tasks:
        assert task.hidden.shape == (PARAMS.challenge_positions, SHAPE.hidden_size)
        assert (task.token_ids is not None) == (task.layer == 0)
        assert (task.head_rows is not None) == (task.layer == SHAPE.num_layers)


@pytest.mark.parametrize("layers", [LayerRange(0, 4), LayerRange(1, 3)])
async def test_the_reveal_opens_the_commit(layers):
    commit, reveal = await answer_challenge(AUTHOR, SHAPE, ROSTER, FakeInference(layers))
    promise, opened = decode_output_commit(commit), decode_output_reveal(reveal)
    assert promise.layers == opened.layers == layers
    check_output_reveal(
        promise.commitment,
        AUTHOR.make_context(5),
        seed=promise.seed,
        layers=layers,
        salt=opened.salt,
        vectors=opened.vectors,
        num_layers=SHAPE.num_layers,
    )


async def test_salts_differ_by_epoch_and_kind_and_return_after_a_loss_of_the_journal():
    salts = {AUTHOR.derive_salt(kind, epoch) for kind in RecordKind for epoch in (5, 6)}
    assert len(salts) == 2 * len(RecordKind)
    again = Author(make_terms(CHAIN), make_key(1), 1)
    assert again.derive_salt(RecordKind.OUTPUT_COMMIT, 5) in salts


def test_a_long_output_travels_sampled():
    shape = ModelShape(num_layers=1, hidden_size=PARAMS.max_vector_coordinates + 8, vocab_size=9)
    tasks = build_tasks(SEED, LayerRange(0, 1), shape, PARAMS)
    outputs = [np.arange(shape.hidden_size, dtype=np.float32), np.zeros(9, dtype=np.float32)]
    layer, head = encode_outputs(tasks, outputs, seed=SEED, shape=shape, params=PARAMS)
    assert len(layer) == 4 * PARAMS.max_vector_coordinates
    assert len(head) == 4 * 9
    assert len(set(np.frombuffer(layer, dtype="<f4"))) == PARAMS.max_vector_coordinates
