"""The hoster's work: answer the challenge with the weights that are served."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from consensus.challenge import (
    ModelShape,
    compute_block_input,
    compute_head_rows,
    compute_owed_blocks,
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
from consensus.types import BlockRange
from keys.envelope import Envelope
from subnet.epoch.interfaces import BlockTask, Inference
from subnet.epoch.publisher import Author


class Hoster:
    """Runs the epoch's challenge through the serving engine and seals the answer."""

    def __init__(self, author: Author, shape: ModelShape) -> None:
        self._author = author
        self._shape = shape

    async def answer(self, roster: Roster, inference: Inference) -> tuple[Envelope, Envelope]:
        """Return commit and reveal of the roster's epoch, both complete, neither published."""
        terms, blocks = self._author.terms, inference.blocks
        seed = terms.compute_challenge(roster).seed
        tasks = build_tasks(seed, blocks, self._shape, terms.params)
        outputs = await inference.run_tasks(tasks)
        vectors = encode_outputs(tasks, outputs, seed=seed, shape=self._shape, params=terms.params)
        return self._seal(roster, seed=seed, blocks=blocks, vectors=vectors)

    def _seal(
        self, roster: Roster, *, seed: bytes, blocks: BlockRange, vectors: tuple[bytes, ...]
    ) -> tuple[Envelope, Envelope]:
        salt = self._author.derive_salt(RecordKind.OUTPUT_COMMIT, roster.epoch)
        commitment = compute_output_commitment(
            self._author.make_context(roster.epoch),
            seed=seed,
            blocks=blocks,
            salt=salt,
            root=compute_vectors_root(blocks, vectors, self._shape.num_blocks),
        )
        commit = encode_output_commit(OutputCommit(seed, blocks, commitment))
        reveal = encode_output_reveal(OutputReveal(salt, blocks, vectors))
        return (
            self._author.seal(RecordKind.OUTPUT_COMMIT, roster, commit),
            self._author.seal(RecordKind.OUTPUT_REVEAL, roster, reveal),
        )


def build_tasks(
    seed: bytes, blocks: BlockRange, shape: ModelShape, params: ConsensusParams
) -> tuple[BlockTask, ...]:
    """Return one task per block that a hoster of ``blocks`` owes, the head last."""
    return tuple(
        BlockTask(
            block=block,
            hidden=compute_block_input(seed, block, shape, params),
            token_ids=compute_token_ids(seed, shape, params) if block == 0 else None,
            head_rows=compute_head_rows(seed, shape, params) if block == shape.head else None,
        )
        for block in compute_owed_blocks(blocks, shape.num_blocks)
    )


def encode_outputs(
    tasks: Sequence[BlockTask],
    outputs: Sequence[NDArray[np.float32]],
    *,
    seed: bytes,
    shape: ModelShape,
    params: ConsensusParams,
) -> tuple[bytes, ...]:
    """Return the vectors as they travel: sampled where they are long, little-endian float32."""
    return tuple(
        encode_vector(
            sample_vector(output, seed=seed, block=task.block, shape=shape, params=params)
        )
        for task, output in zip(tasks, outputs, strict=True)
    )
