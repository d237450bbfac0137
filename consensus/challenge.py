"""The randomised tensor of an epoch, and the vectors that answer it.

The challenge of an epoch is a seed, derived from the hash of the epoch's first
block: no node can choose it or know it before that block, and every node can compute
every layer's input from it. Each layer is challenged alone, so hosters of overlapping
ranges are comparable layer by layer.

Numbers in hashes are little-endian u32; tags are ASCII without a terminator.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from consensus.errors import InvalidVector
from consensus.protocol_params import ConsensusParams
from consensus.types import BlockNumber, Epoch, LayerRange
from keys.envelope import HASH_SIZE

FLOAT_SIZE = 4
_SEED_TAG = b"mesh/seed"
_INPUT_TAG = b"mesh/chal"
_TOKENS_TAG = b"mesh/tokens"
_HEAD_ROWS_TAG = b"mesh/rows"
_COORDINATES_TAG = b"mesh/coords"
# 2**-6: an int8 times a power of two is exact in every float format.
_INPUT_SCALE = np.float32(2.0**-6)
_MIN_INT8 = -127
MAX_SCALE = 64
"""The largest exponent of a layer's power of two, in magnitude."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What the challenge needs to know of the model. The head counts as layer ``num_layers``.

    ``scales`` has one exponent for each challenged layer: a vector is multiplied by two to that
    power before it is quantised. Empty: all are 0. They stand in the model manifest.
    """

    num_layers: int
    hidden_size: int
    vocab_size: int
    scales: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if min(self.num_layers, self.hidden_size, self.vocab_size) < 1:
            raise ValueError("a model has at least one layer, one channel and one token")
        if len(self.scales) not in (0, self.num_layers + 1):
            raise ValueError(f"{self.num_layers + 1} layers do not have {len(self.scales)} scales")
        if any(abs(scale) > MAX_SCALE for scale in self.scales):
            raise ValueError(f"the scale of a layer is at most {MAX_SCALE} in magnitude")

    @property
    def head(self) -> int:
        """The layer number of the output head."""
        return self.num_layers

    @property
    def challenged_layers(self) -> range:
        """Every layer that is challenged, the head last."""
        return range(self.num_layers + 1)

    def scale_of(self, layer: int) -> int:
        """Return the exponent of the power of two by which the answers to ``layer`` are scaled."""
        _check_layer(layer, self)
        return self.scales[layer] if self.scales else 0


def compute_owed_layers(layers: LayerRange, num_layers: int) -> range:
    """Return the layers whose vectors a hoster of ``layers`` owes.

    A hoster of the last layer serves the head too. Raises ValueError for a
    range that ends past the model.
    """
    if layers.end > num_layers:
        raise ValueError(f"the range {layers} ends past the {num_layers} layers of the model")
    return range(layers.start, layers.end + (layers.end == num_layers))


def compute_seed(
    network_id: bytes, epoch: Epoch, seed_height: BlockNumber, block_hash: bytes
) -> bytes:
    """Return the 32-byte seed of ``epoch``; ``seed_height`` is the epoch's first block."""
    if len(network_id) != HASH_SIZE or len(block_hash) != HASH_SIZE:
        raise ValueError("network id and block hash have 32 bytes")
    numbers = epoch.to_bytes(4, "little") + seed_height.to_bytes(4, "little")
    return hashlib.sha256(_SEED_TAG + network_id + numbers + block_hash).digest()


def compute_layer_input(
    seed: bytes, layer: int, shape: ModelShape, params: ConsensusParams
) -> NDArray[np.float32]:
    """Return the input of one layer, float32 [positions, hidden_size], in multiples of 2**-6.

    Layer 0 adds the embedding rows of :func:`compute_token_ids` to it.
    """
    _check_layer(layer, shape)
    positions, hidden = params.challenge_positions, shape.hidden_size
    stream = _draw_bytes(_INPUT_TAG, seed, layer, size=positions * hidden)
    # -128 has no positive twin; replaced, the mean of the distribution is zero.
    values = np.maximum(np.frombuffer(stream, dtype=np.int8), _MIN_INT8)
    return values.astype(np.float32).reshape(positions, hidden) * _INPUT_SCALE


def compute_token_ids(seed: bytes, shape: ModelShape, params: ConsensusParams) -> NDArray[np.int64]:
    """Return the tokens whose embeddings layer 0 adds, int64 [positions]; repeats are allowed."""
    stream = _draw_bytes(_TOKENS_TAG, seed, size=4 * params.challenge_positions)
    return _as_u32(stream) % shape.vocab_size


def compute_head_rows(seed: bytes, shape: ModelShape, params: ConsensusParams) -> NDArray[np.int64]:
    """Return the vocabulary rows whose logits the head owes, int64, in the order drawn."""
    wanted = min(params.head_rows, shape.vocab_size)
    return draw_distinct(_HEAD_ROWS_TAG, seed, modulus=shape.vocab_size, wanted=wanted)


def compute_vector_length(layer: int, shape: ModelShape, params: ConsensusParams) -> int:
    """Return how many coordinates the vector of ``layer`` has on the wire."""
    return min(_compute_output_length(layer, shape, params), params.max_vector_coordinates)


def compute_sampled_coordinates(
    seed: bytes, layer: int, length: int, params: ConsensusParams
) -> NDArray[np.int64] | None:
    """Return the coordinates kept of an output of ``length``, int64, in the order drawn.

    None: the output is short enough to be kept whole.
    """
    wanted = params.max_vector_coordinates
    if length <= wanted:
        return None
    return draw_distinct(_COORDINATES_TAG, seed, layer, modulus=length, wanted=wanted)


def sample_vector(
    output: NDArray[np.float32],
    *,
    seed: bytes,
    layer: int,
    shape: ModelShape,
    params: ConsensusParams,
) -> NDArray[np.float32]:
    """Return the vector that answers ``layer``: its output, sampled if it is too long.

    Raises ValueError for an output that has not the layer's length: ours, not a peer's.
    """
    expected = _compute_output_length(layer, shape, params)
    if output.shape != (expected,):
        raise ValueError(f"layer {layer} has {expected} outputs, not the shape {output.shape}")
    coordinates = compute_sampled_coordinates(seed, layer, expected, params)
    return output if coordinates is None else output[coordinates]


def encode_vector(vector: NDArray[np.float32]) -> bytes:
    """Return little-endian float32. Raises ValueError for another type: it would be rounded."""
    if vector.dtype != np.float32 or vector.ndim != 1:
        raise ValueError(f"a vector is one row of float32, not {vector.dtype} {vector.shape}")
    return vector.astype("<f4").tobytes()


def decode_vector(
    raw: bytes, length: int, params: ConsensusParams, scale: int = 0
) -> NDArray[np.float32]:
    """Parse a peer's vector of ``length`` coordinates, as it travels: not scaled.

    Raises InvalidVector, also for a value that would pass the bound when it is scaled.
    """
    if len(raw) != FLOAT_SIZE * length:
        raise InvalidVector(f"a vector of {length} values has {FLOAT_SIZE * length} bytes")
    vector = np.frombuffer(raw, dtype="<f4").astype(np.float32)
    if not is_below_bound(vector, params, scale):
        bound = f"2**{params.value_bound_bits - scale}"
        raise InvalidVector(f"a value is not finite, or not below {bound}")
    return vector


def is_below_bound(vector: NDArray[np.float32], params: ConsensusParams, scale: int) -> bool:
    """Whether all values, times ``2**scale``, are below the bound at which integers are exact.

    No infinity is, and nothing that is not a number.
    """
    # A float32 and these powers of two are exact in float64; a NaN is below nothing.
    largest = float(np.abs(vector).max(initial=0.0))
    return largest < 2.0 ** (params.value_bound_bits - scale)


def _compute_output_length(layer: int, shape: ModelShape, params: ConsensusParams) -> int:
    _check_layer(layer, shape)
    if layer == shape.head:
        return min(params.head_rows, shape.vocab_size)
    return shape.hidden_size


def _check_layer(layer: int, shape: ModelShape) -> None:
    if layer not in shape.challenged_layers:
        raise ValueError(f"layer {layer} is not one of the {len(shape.challenged_layers)}")


def _draw_bytes(tag: bytes, seed: bytes, *numbers: int, size: int) -> bytes:
    if len(seed) != HASH_SIZE:
        raise ValueError("a seed has 32 bytes")
    message = tag + seed + b"".join(number.to_bytes(4, "little") for number in numbers)
    return hashlib.shake_256(message).digest(size)


def _as_u32(stream: bytes) -> NDArray[np.int64]:
    return np.frombuffer(stream, dtype="<u4").astype(np.int64)


def draw_distinct(
    tag: bytes, seed: bytes, *numbers: int, modulus: int, wanted: int
) -> NDArray[np.int64]:
    """Draw u32 modulo ``modulus``, skip repeats, and stop at ``wanted`` different values."""
    size = 8 * wanted
    while True:
        # A longer digest continues a shorter one, so asking again changes nothing drawn before.
        drawn = _as_u32(_draw_bytes(tag, seed, *numbers, size=size)) % modulus
        _, first_seen = np.unique(drawn, return_index=True)
        if len(first_seen) >= wanted:
            return drawn[np.sort(first_seen)[:wanted]]
        size *= 2
