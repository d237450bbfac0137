"""The challenge: derived by everybody alike, chosen by nobody."""

import hashlib
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.challenge import (
    ModelShape,
    compute_head_rows,
    compute_layer_input,
    compute_owed_layers,
    compute_sampled_coordinates,
    compute_seed,
    compute_token_ids,
    compute_vector_length,
    decode_vector,
    encode_vector,
    sample_vector,
)
from consensus.errors import InvalidVector, Reason
from consensus.protocol_params import MAINNET, MINIMAL
from consensus.types import BlockNumber, Epoch, LayerRange

NETWORK = bytes(range(32))
BLOCK_HASH = bytes(range(32, 64))
SEED = hashlib.sha256(b"some seed").digest()
SHAPE = ModelShape(num_layers=3, hidden_size=48, vocab_size=100)
WIDE = ModelShape(num_layers=2, hidden_size=5000, vocab_size=32_000)


def test_seed_written_out():
    message = b"mesh/seed" + NETWORK + struct.pack("<II", 7, 140) + BLOCK_HASH
    seed = compute_seed(NETWORK, Epoch(7), BlockNumber(140), BLOCK_HASH)
    assert seed == hashlib.sha256(message).digest()


def test_seed_depends_on_network_epoch_height_and_layer():
    base = (NETWORK, Epoch(7), BlockNumber(140), BLOCK_HASH)
    changed = [
        (BLOCK_HASH, *base[1:]),
        (NETWORK, Epoch(8), *base[2:]),
        (*base[:2], BlockNumber(141), BLOCK_HASH),
        (*base[:3], NETWORK),
    ]
    assert len({compute_seed(*fields) for fields in [base, *changed]}) == 5


@pytest.mark.parametrize("size", [0, 31, 33])
def test_seed_from_other_sizes_is_refused(size):
    with pytest.raises(ValueError):
        compute_seed(bytes(size), Epoch(0), BlockNumber(0), BLOCK_HASH)
    with pytest.raises(ValueError):
        compute_seed(NETWORK, Epoch(0), BlockNumber(0), bytes(size))


@pytest.mark.parametrize("layer", [0, 1, 3])
def test_layer_input_written_out(layer):
    stream = hashlib.shake_256(b"mesh/chal" + SEED + struct.pack("<I", layer)).digest(16 * 48)
    expected = [max(-127, value) / 64 for value in struct.unpack(f"<{16 * 48}b", stream)]
    values = compute_layer_input(SEED, layer, SHAPE, MAINNET)
    assert values.dtype == np.float32
    assert values.shape == (16, 48)
    assert values.ravel().tolist() == expected


def test_layer_input_is_exact_in_every_float_format():
    values = compute_layer_input(SEED, 0, WIDE, MAINNET)
    assert values.min() == -127 / 64
    assert values.max() == 127 / 64
    assert np.array_equal(values.astype(np.float16).astype(np.float32), values)
    # bfloat16 keeps the upper half of a float32, and the lower one is empty.
    assert not (values.view(np.uint32) & 0xFFFF).any()


def test_layers_have_different_inputs():
    inputs = {compute_layer_input(SEED, layer, SHAPE, MINIMAL).tobytes() for layer in range(4)}
    assert len(inputs) == 4


@pytest.mark.parametrize("layer", [-1, 4])
def test_layer_outside_the_model_is_refused(layer):
    with pytest.raises(ValueError):
        compute_layer_input(SEED, layer, SHAPE, MAINNET)
    with pytest.raises(ValueError):
        compute_vector_length(layer, SHAPE, MAINNET)


def test_token_ids_written_out():
    stream = hashlib.shake_256(b"mesh/tokens" + SEED).digest(64)
    expected = [value % 100 for value in struct.unpack("<16I", stream)]
    assert compute_token_ids(SEED, SHAPE, MAINNET).tolist() == expected


def draw_distinct(message, modulus, wanted):
    rows, size = [], 0
    while len(rows) < wanted:
        size += 4
        (value,) = struct.unpack("<I", hashlib.shake_256(message).digest(size)[-4:])
        if value % modulus not in rows:
            rows.append(value % modulus)
    return rows


@pytest.mark.parametrize(("vocab", "count"), [(1, 1), (20, 20), (33, 32), (1000, 32)])
def test_head_rows_written_out(vocab, count):
    shape = ModelShape(1, 8, vocab)
    expected = draw_distinct(b"mesh/rows" + SEED, vocab, count)
    assert compute_head_rows(SEED, shape, MINIMAL).tolist() == expected


def test_head_rows_of_a_whole_vocabulary_are_found():
    rows = compute_head_rows(SEED, ModelShape(1, 8, 256), MAINNET)
    assert sorted(rows.tolist()) == list(range(256))


def test_sampled_coordinates_written_out():
    coordinates = compute_sampled_coordinates(SEED, 2, 100, MINIMAL)
    assert coordinates is not None
    message = b"mesh/coords" + SEED + struct.pack("<I", 2)
    assert coordinates.tolist() == draw_distinct(message, 100, 64)


def test_vector_of_at_most_the_limit_is_kept_whole():
    assert compute_sampled_coordinates(SEED, 0, 256, MAINNET) is None
    coordinates = compute_sampled_coordinates(SEED, 0, 257, MAINNET)
    assert coordinates is not None
    assert len(set(coordinates.tolist())) == 256


def test_long_output_is_sampled_and_short_one_is_not():
    output = np.arange(5000, dtype=np.float32)
    vector = sample_vector(output, seed=SEED, layer=1, shape=WIDE, params=MAINNET)
    assert vector.shape == (compute_vector_length(1, WIDE, MAINNET),) == (256,)
    assert vector.tolist() == compute_sampled_coordinates(SEED, 1, 5000, MAINNET).tolist()
    short = np.arange(48, dtype=np.float32)
    assert sample_vector(short, seed=SEED, layer=1, shape=SHAPE, params=MAINNET) is short


def test_output_of_another_length_is_our_own_mistake():
    with pytest.raises(ValueError):
        sample_vector(np.zeros(47, np.float32), seed=SEED, layer=1, shape=SHAPE, params=MAINNET)


@pytest.mark.parametrize(
    ("shape", "layer", "length"),
    [(SHAPE, 0, 48), (SHAPE, 3, 100), (WIDE, 1, 256), (WIDE, 2, 256)],
)
def test_vector_length(shape, layer, length):
    assert compute_vector_length(layer, shape, MAINNET) == length


def test_whoever_serves_the_last_layer_owes_the_head():
    assert list(compute_owed_layers(LayerRange(0, 2), 3)) == [0, 1]
    assert list(compute_owed_layers(LayerRange(1, 3), 3)) == [1, 2, 3]
    with pytest.raises(ValueError):
        compute_owed_layers(LayerRange(1, 4), 3)


def test_empty_model_is_refused():
    with pytest.raises(ValueError):
        ModelShape(0, 8, 8)


def test_every_layer_and_the_head_have_a_scale_which_is_0_where_none_is_named():
    named = ModelShape(2, 8, 8, scales=(3, -1, 0))
    assert [named.scale_of(layer) for layer in named.challenged_layers] == [3, -1, 0]
    assert [SHAPE.scale_of(layer) for layer in SHAPE.challenged_layers] == [0, 0, 0, 0]
    for shape, layer in ((named, 3), (named, -1), (SHAPE, 4)):
        with pytest.raises(ValueError):
            shape.scale_of(layer)


@pytest.mark.parametrize("scales", [(0,), (0, 0), (0, 0, 0, 0), (0, 0, 65), (-65, 0, 0)])
def test_too_few_or_impossible_scales_are_refused(scales):
    with pytest.raises(ValueError):
        ModelShape(2, 8, 8, scales=scales)


floats = st.floats(width=32, allow_nan=False, min_value=-2047, max_value=2047)


@given(values=st.lists(floats, min_size=1, max_size=40))
def test_vector_round_trips(values):
    vector = np.array(values, dtype=np.float32)
    decoded = decode_vector(encode_vector(vector), len(values), MAINNET)
    assert decoded.tobytes() == vector.tobytes()


def test_vector_bytes_are_little_endian_float32():
    vector = np.array([1.5, -2.0], dtype=np.float32)
    assert encode_vector(vector) == struct.pack("<2f", 1.5, -2.0)
    big_endian = vector.astype(">f4").astype("<f4")
    assert encode_vector(big_endian) == encode_vector(vector)


@pytest.mark.parametrize(
    "value", [0.0, -0.0, 1e-45, -1e-45, 2047.9998779296875, -2047.9998779296875]
)
def test_value_at_the_edge_of_validity_is_accepted(value):
    raw = struct.pack("<2f", 0.0, value)
    assert decode_vector(raw, 2, MAINNET)[1] == np.float32(value)


@pytest.mark.parametrize("scale", [-64, -3, 0, 7, 64])
def test_the_bound_is_that_of_the_scaled_value(scale):
    bound = np.float32(2.0 ** (11 - scale))
    below = np.nextafter(bound, np.float32(0))
    for sign in (-1, 1):
        raw = struct.pack("<2f", 0.0, sign * below)
        assert decode_vector(raw, 2, MAINNET, scale)[1] == sign * below
        with pytest.raises(InvalidVector):
            decode_vector(struct.pack("<2f", 0.0, sign * bound), 2, MAINNET, scale)


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), float("-inf"), 2048.0, -2048.0, 1e38, -1e38],
)
def test_value_that_is_not_finite_or_not_below_the_bound_is_refused(value):
    raw = struct.pack("<3f", 0.0, value, 0.0)
    with pytest.raises(InvalidVector) as caught:
        decode_vector(raw, 3, MAINNET)
    assert caught.value.reason is Reason.INVALID_VECTOR


def test_every_nan_payload_is_refused():
    for bits in (0x7F800001, 0x7FC00000, 0xFFFFFFFF, 0x7FFFFFFF):
        with pytest.raises(InvalidVector):
            decode_vector(struct.pack("<I", bits), 1, MAINNET)


@pytest.mark.parametrize("size", [0, 4, 7, 9, 12, 8192])
def test_vector_of_another_size_is_refused(size):
    with pytest.raises(InvalidVector):
        decode_vector(bytes(size), 2, MAINNET)


@pytest.mark.parametrize(
    "vector", [np.zeros(3), np.zeros(3, np.float16), np.zeros((1, 3), np.float32)]
)
def test_encoding_another_type_is_our_own_mistake(vector):
    with pytest.raises(ValueError):
        encode_vector(vector)
