"""A dry run of what a node owes in an epoch: computed and checked, neither signed nor published."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from consensus.challenge import ModelShape, is_below_bound
from consensus.commitment import (
    CommitContext,
    check_output_reveal,
    compute_output_commitment,
    compute_vectors_root,
)
from consensus.errors import InvalidRecord
from consensus.protocol_params import ConsensusParams
from consensus.records import OutputReveal, decode_output_reveal, encode_output_reveal
from consensus.types import LayerRange
from subnet.epoch.hoster import build_tasks, encode_outputs
from subnet.epoch.interfaces import Inference, LayerTask

SALT_SIZE = 32


class RehearsalFailed(Exception):
    """The dry run shows that the epoch's work would not count. The message says why."""


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """The answers to one challenge, as they would travel, and how long they took to compute."""

    layers: LayerRange
    vectors: tuple[bytes, ...]
    reveal: bytes
    seconds: float


async def rehearse_output(
    inference: Inference,
    context: CommitContext,
    *,
    seed: bytes,
    shape: ModelShape,
    params: ConsensusParams,
) -> Rehearsal:
    """Answer the challenge of ``seed``, commit to the answer, reveal it, and check the reveal.

    The salt is drawn for the occasion, so nothing tells of the one that is used in earnest. Raises
    RehearsalFailed, or ModelError.
    """
    layers = inference.layers
    tasks = build_tasks(seed, layers, shape, params)
    began_at = time.monotonic()
    outputs = await inference.run_tasks(tasks)
    seconds = time.monotonic() - began_at
    vectors = encode_outputs(tasks, outputs, seed=seed, shape=shape, params=params)
    salt = os.urandom(SALT_SIZE)
    root = compute_vectors_root(layers, vectors, shape.num_layers)
    commitment = compute_output_commitment(context, seed=seed, layers=layers, salt=salt, root=root)
    body = encode_output_reveal(OutputReveal(salt, layers, vectors))
    try:
        reveal = decode_output_reveal(body)
        check_output_reveal(
            commitment,
            context,
            seed=seed,
            layers=reveal.layers,
            salt=reveal.salt,
            vectors=reveal.vectors,
            num_layers=shape.num_layers,
        )
    except InvalidRecord as error:
        raise RehearsalFailed(f"the reveal does not open the commit: {error}") from error
    _check_vectors(tasks, vectors, shape, params)
    return Rehearsal(layers, vectors, body, seconds)


def _check_vectors(
    tasks: Sequence[LayerTask],
    vectors: Sequence[bytes],
    shape: ModelShape,
    params: ConsensusParams,
) -> None:
    for task, raw in zip(tasks, vectors, strict=True):
        name = "the head" if task.layer == shape.head else f"block {task.layer}"
        vector = np.frombuffer(raw, dtype="<f4")
        if not np.isfinite(vector).all():
            raise RehearsalFailed(f"the answer of {name} is not made of numbers")
        if not is_below_bound(vector, params, shape.scale_of(task.layer)):
            raise RehearsalFailed(f"the answer of {name} is too large to count")


def compute_relative_distance(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Return the distance of two answers, relative to the expected one; inf where it is unclear."""
    difference = np.linalg.norm(found.astype(np.float64) - expected.astype(np.float64))
    size = np.linalg.norm(expected.astype(np.float64))
    return float(difference / size) if size > 0 and np.isfinite(difference) else float("inf")
