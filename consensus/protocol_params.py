"""Every number of the protocol, in one preset.

``MAINNET`` is what a subnet runs; ``MINIMAL`` keeps tests small. A number
that nodes must share and that depends on the model stands in the model manifest.
"""

from __future__ import annotations

from dataclasses import dataclass

from consensus.types import SCORE_ONE

MIN_EPOCH_LENGTH = 20


@dataclass(frozen=True, slots=True)
class ConsensusParams:
    """One preset. Percentages are of the epoch's blocks; pools are fixed point."""

    commit_start_percent: int = 15
    audit_start_percent: int = 40
    reveal_start_percent: int = 60
    score_start_percent: int = 70
    challenge_fallback_percent: int = 10
    finality_deadline_percent: int = 30
    attestation_deadline_percent: int = 80
    """A proposal whose records cannot be had until then is refused."""
    record_life_epochs: int = 3
    """A record expires this many epochs after its epoch's first block."""

    challenge_positions: int = 16
    """T: the positions of one layer's challenge."""
    max_vector_coordinates: int = 256
    """Longer vectors are sampled to this many seed-drawn coordinates."""
    head_rows: int = 256
    """Rows of the output head that are challenged, at most the vocabulary."""

    hoster_pool: int = 4 * SCORE_ONE // 10
    validator_pool_divisor: int = 4
    """Validators share a quarter of what hosters are paid in the epoch."""
    total_tolerance_bits: int = 8
    """A validator's total of a hoster is right within 2**-8 of the median of all."""
    min_score_votes: int = 3
    """With fewer score reveals a median is one of them, and only their tags count."""

    audit_layers: int = 1
    """Layers drawn in each epoch, which validators compute too."""
    min_references: int = 2
    """With reference rows of fewer coldkeys no hoster is refuted."""
    probation_epochs: int = 8
    """A refuted node is unpaid in so many epochs more."""
    withheld_epochs: int = 2
    """A hoster that did not reveal a drawn layer is unpaid in so many epochs more."""

    fixed_point_bits: int = 20
    """Answers, times their layer's power of two, are quantised to integers at 2**-20."""
    residual_bits: int = 28
    """Residuals, divided by the median's norm, are integers at 2**-28."""
    value_bound_bits: int = 11
    """A scaled value at or above 2**11 in magnitude makes its vector invalid."""
    tolerance_bits: int = 12
    """tau = d0 = 2**-12: validity radius and half-score distance."""

    probes: int = 4
    """Hosters that a node of class Validator probes in an epoch."""
    probe_attempts: int = 3
    """Failed attempts in one epoch that make a probe a failed one."""
    probe_failures: int = 3
    """Failed probes in a row, one an epoch, after which a hoster counts as not serving."""
    probe_memory_epochs: int = 32
    """Older probes are forgotten."""
    probe_tolerance_percent: int = 5
    """How far an answer may lie from the reference."""

    max_clock_skew_s: int = 30
    max_layer_range: int = 1024


MAINNET = ConsensusParams()
MINIMAL = ConsensusParams(challenge_positions=4, max_vector_coordinates=64, head_rows=32)


def compute_grace(epoch_length: int) -> int:
    """Blocks that absorb differences of heads and clocks: 1 at 20 blocks, ceil(L/50) above.

    Raises ValueError below ``MIN_EPOCH_LENGTH``: the phases would touch.
    """
    if epoch_length < MIN_EPOCH_LENGTH:
        raise ValueError(f"an epoch has at least {MIN_EPOCH_LENGTH} blocks, not {epoch_length}")
    return 1 if epoch_length == MIN_EPOCH_LENGTH else -(-epoch_length // 50)
