"""Answers the epoch's challenge with the weights that a hoster serves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from consensus.challenge import (
    ModelShape,
    compute_head_rows,
    compute_layer_input,
    compute_owed_layers,
    compute_token_ids,
    encode_vector,
    sample_vector,
)
from consensus.commitment import compute_output_commitment, compute_vectors_root
from consensus.protocol_params import ConsensusParams
from consensus.records import (
    OutputCommit,
    OutputReveal,
    RecordKind,
    encode_output_commit,
    encode_output_reveal,
)
from consensus.roster import Roster
from consensus.types import LayerRange
from subnet.epoch.author import Author
from subnet.epoch.interfaces import Inference, LayerTask


async def answer_challenge(
    author: Author, shape: ModelShape, roster: Roster, inference: Inference
) -> tuple[bytes, bytes]:
    """Run the challenge of the roster's epoch; return the bodies of commit and reveal."""
    params, layers = author.terms.params, inference.layers
    seed = author.terms.compute_challenge(roster).seed
    tasks = build_tasks(seed, layers, shape, params)
    outputs = await inference.run_tasks(tasks)
    vectors = encode_outputs(tasks, outputs, seed=seed, shape=shape, params=params)
    salt = author.derive_salt(RecordKind.OUTPUT_COMMIT, roster.epoch)
    commitment = compute_output_commitment(
        author.make_context(roster.epoch),
        seed=seed,
        layers=layers,
        salt=salt,
        root=compute_vectors_root(layers, vectors, shape.num_layers),
    )
    return (
        encode_output_commit(OutputCommit(seed, layers, commitment)),
        encode_output_reveal(OutputReveal(salt, layers, vectors)),
    )


def build_tasks(
    seed: bytes, layers: LayerRange, shape: ModelShape, params: ConsensusParams
) -> tuple[LayerTask, ...]:
    """Return one task per layer that a hoster of ``layers`` owes, the head last."""
    return build_layer_tasks(seed, compute_owed_layers(layers, shape.num_layers), shape, params)


def build_layer_tasks(
    seed: bytes, layers: Iterable[int], shape: ModelShape, params: ConsensusParams
) -> tuple[LayerTask, ...]:
    """Return one task for each of ``layers``; the head is one."""
    return tuple(
        LayerTask(
            layer=layer,
            hidden=compute_layer_input(seed, layer, shape, params),
            token_ids=compute_token_ids(seed, shape, params) if layer == 0 else None,
            head_rows=compute_head_rows(seed, shape, params) if layer == shape.head else None,
        )
        for layer in layers
    )


def encode_outputs(
    tasks: Sequence[LayerTask],
    outputs: Sequence[NDArray[np.float32]],
    *,
    seed: bytes,
    shape: ModelShape,
    params: ConsensusParams,
) -> tuple[bytes, ...]:
    """Return the vectors as they travel: sampled where they are long, little-endian float32."""
    return tuple(
        encode_vector(
            sample_vector(output, seed=seed, layer=task.layer, shape=shape, params=params)
        )
        for task, output in zip(tasks, outputs, strict=True)
    )
