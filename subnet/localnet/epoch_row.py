"""One epoch of a local network as a report: a table for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from fractions import Fraction

from consensus.types import SCORE_ONE, Epoch, LayerRange, Score, SubnetNodeId


@dataclass(frozen=True, slots=True)
class HosterRow:
    """One hoster in one epoch.

    ``distance`` is the largest relative L2 distance to the mean over its layers, None if
    nothing of it could be measured. ``failed_probes`` are the named sightings that say that it does
    not serve, and how many were named. ``penalty`` says why it is not paid at all.
    """

    node_id: SubnetNodeId
    layers: LayerRange
    committed: bool
    revealed: bool
    distance: Fraction | None
    failed_probes: tuple[int, int]
    penalty: str | None
    score: Score
    attested: bool


@dataclass(frozen=True, slots=True)
class ValidatorRow:
    """One node in the role validator in one epoch.

    ``accuracy`` is the share of its scores of the epoch before that were right (10^18 is one),
    None without any. ``audited`` says that it is paid for its audit of this epoch.
    """

    node_id: SubnetNodeId
    accuracy: Score | None
    audited: bool
    score: Score
    attested: bool


@dataclass(frozen=True, slots=True)
class LostEpoch:
    """An epoch whose scores no row can show. ``elected`` had to propose them; None if unknown."""

    epoch: Epoch
    elected: SubnetNodeId | None
    reason: str

    def to_json(self) -> str:
        """Return one line of JSON."""
        return json.dumps({"epoch": self.epoch, "elected": self.elected, "lost": self.reason})

    def to_text(self) -> str:
        """Return the line that a person reads."""
        elected = "" if self.elected is None else f"; node {self.elected} was elected"
        return f"epoch {self.epoch}   lost: {self.reason}{elected}"


@dataclass(frozen=True, slots=True)
class EpochRow:
    """The records of ``epoch``; elected, proposal and attestations are of the next chain epoch."""

    epoch: Epoch
    elected: SubnetNodeId
    challenge_seed: bytes
    hosters: tuple[HosterRow, ...]
    validators: tuple[ValidatorRow, ...]
    proposal: tuple[tuple[SubnetNodeId, Score], ...]
    attestation_ratio: Fraction

    @property
    def is_attested_by_all(self) -> bool:
        """Whether every node of the row attested the proposal."""
        return all(self._attested)

    def is_attested_by_all_but(self, nodes: Collection[SubnetNodeId]) -> bool:
        """Whether every node of the row but these attested the proposal."""
        rows: list[HosterRow | ValidatorRow] = [*self.hosters, *self.validators]
        return all(row.attested for row in rows if row.node_id not in nodes)

    @property
    def _attested(self) -> list[bool]:
        hosters = [row.attested for row in self.hosters]
        return hosters + [row.attested for row in self.validators]

    def to_json(self) -> str:
        """Return one line of JSON. Scores are decimal strings of integers at 10^18."""
        return json.dumps(
            {
                "epoch": self.epoch,
                "elected": self.elected,
                "challenge_seed": self.challenge_seed.hex(),
                "hosters": [
                    {
                        "subnet_node_id": row.node_id,
                        "blocks": [row.layers.start, row.layers.end],
                        "committed": row.committed,
                        "revealed": row.revealed,
                        "distance": None if row.distance is None else float(row.distance),
                        "failed_probes": list(row.failed_probes),
                        "penalty": row.penalty,
                        "score": str(row.score),
                        "attested": row.attested,
                    }
                    for row in self.hosters
                ],
                "validators": [
                    {
                        "subnet_node_id": row.node_id,
                        "accuracy": None if row.accuracy is None else str(row.accuracy),
                        "audited": row.audited,
                        "score": str(row.score),
                        "attested": row.attested,
                    }
                    for row in self.validators
                ],
                "proposal": [[node_id, str(score)] for node_id, score in self.proposal],
                "attestation_ratio": float(self.attestation_ratio),
            }
        )

    def to_text(self) -> str:
        """Return the table that a person reads."""
        lines = [
            f"epoch {self.epoch}   challenge {self.challenge_seed.hex()[:16]}…   "
            f"proposed in epoch {self.epoch + 1} by node {self.elected}",
            "  node  role       blocks  commit  reveal  distance   failed probes  accuracy  audit  "
            "score     proposed  attested",
        ]
        proposed = dict(self.proposal)
        for row in self.hosters:
            distance = "-" if row.distance is None else f"{float(row.distance):.1e}"
            failed, named = row.failed_probes
            probes = f"{failed} of {named}"
            lines.append(
                f"  {row.node_id:<4}  hoster     {row.layers!s:<6}  {_mark(row.committed):<6}  "
                f"{_mark(row.revealed):<6}  {distance:<9}  {probes:<13}  -         -      "
                f"{_format_score(row.score):<8}  "
                f"{_format_score(proposed.get(row.node_id)):<8}  {_mark(row.attested)}"
                f"{'' if row.penalty is None else '  ' + row.penalty}"
            )
        for other in self.validators:
            lines.append(
                f"  {other.node_id:<4}  validator  -       -       -       -          "
                "-              "
                f"{_format_score(other.accuracy):<8}  {_mark(other.audited):<5}  "
                f"{_format_score(other.score):<8}  "
                f"{_format_score(proposed.get(other.node_id)):<8}  {_mark(other.attested)}"
            )
        attested = self._attested
        lines.append(
            f"  attested by {sum(attested)} of {len(attested)} nodes, "
            f"ratio {float(self.attestation_ratio):.2f}"
        )
        return "\n".join(lines)


def _mark(done: bool) -> str:
    return "yes" if done else "no"


def _format_score(score: int | None) -> str:
    return "-" if score is None else f"{score / SCORE_ONE:.6f}"
