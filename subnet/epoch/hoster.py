"""The hoster's work: answer the challenge with the weights that are served."""

from __future__ import annotations

from collections.abc import Sequence

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
from keys.envelope import Envelope
from subnet.epoch.interfaces import Inference, LayerTask
from subnet.epoch.publisher import Author


class Hoster:
    """Runs the epoch's challenge through the serving engine and seals the answer."""

    def __init__(self, author: Author, shape: ModelShape) -> None:
        self._author = author
        self._shape = shape

    async def answer(self, roster: Roster, inference: Inference) -> tuple[Envelope, Envelope]:
        """Return commit and reveal of the roster's epoch, both complete, neither published."""
        terms, layers = self._author.terms, inference.layers
        seed = terms.compute_challenge(roster).seed
        tasks = build_tasks(seed, layers, self._shape, terms.params)
        outputs = await inference.run_tasks(tasks)
        vectors = encode_outputs(tasks, outputs, seed=seed, shape=self._shape, params=terms.params)
        return self._seal(roster, seed=seed, layers=layers, vectors=vectors)

    def _seal(
        self, roster: Roster, *, seed: bytes, layers: LayerRange, vectors: tuple[bytes, ...]
    ) -> tuple[Envelope, Envelope]:
        salt = self._author.derive_salt(RecordKind.OUTPUT_COMMIT, roster.epoch)
        commitment = compute_output_commitment(
            self._author.make_context(roster.epoch),
            seed=seed,
            layers=layers,
            salt=salt,
            root=compute_vectors_root(layers, vectors, self._shape.num_layers),
        )
        commit = encode_output_commit(OutputCommit(seed, layers, commitment))
        reveal = encode_output_reveal(OutputReveal(salt, layers, vectors))
        return (
            self._author.seal(RecordKind.OUTPUT_COMMIT, roster, commit),
            self._author.seal(RecordKind.OUTPUT_REVEAL, roster, reveal),
        )


def build_tasks(
    seed: bytes, layers: LayerRange, shape: ModelShape, params: ConsensusParams
) -> tuple[LayerTask, ...]:
    """Return one task per layer that a hoster of ``layers`` owes, the head last."""
    return tuple(
        LayerTask(
            layer=layer,
            hidden=compute_layer_input(seed, layer, shape, params),
            token_ids=compute_token_ids(seed, shape, params) if layer == 0 else None,
            head_rows=compute_head_rows(seed, shape, params) if layer == shape.head else None,
        )
        for layer in compute_owed_layers(layers, shape.num_layers)
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
