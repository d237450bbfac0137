"""What became of an epoch's scores: a row from the chain and the proposer's report, or lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

from consensus.submission import Submission
from consensus.types import (
    Epoch,
    LayerRange,
    Role,
    Score,
    SubnetId,
    SubnetNodeId,
    compute_epoch_position,
)
from subnet.epoch.interfaces import BlockInfo
from subnet.localnet.epoch_row import EpochRow, HosterRow, LostEpoch, ValidatorRow
from subnet.localnet.node_plan import NodePlan

POLL_S = 0.25

FindReport = Callable[[SubnetNodeId, Epoch], Mapping[str, Any] | None]
"""Returns what a node scored in an epoch, as JSON; None until it said so."""


class OutcomeReader(Protocol):
    """What is read to follow an epoch's proposal."""

    async def fetch_head(self) -> BlockInfo: ...

    async def fetch_submission(self, subnet_id: SubnetId, epoch: Epoch) -> Submission | None: ...

    async def fetch_elected_validator(
        self, subnet_id: SubnetId, epoch: Epoch
    ) -> SubnetNodeId | None: ...


@dataclass(frozen=True, slots=True)
class EpochOutcomes:
    """Waits for the outcome of epochs. ``slot`` and ``epoch_length`` place blocks in epochs."""

    chain: OutcomeReader
    subnet_id: SubnetId
    slot: int
    epoch_length: int
    nodes: Sequence[NodePlan]
    node_ids: Mapping[str, SubnetNodeId]
    find_report: FindReport
    get_gone: Callable[[], Collection[SubnetNodeId]] = frozenset
    """Which nodes will attest no more."""

    async def wait_for(self, epoch: Epoch) -> EpochRow | LostEpoch:
        """Return once all nodes attested the epoch's scores, or the chance for it is over."""
        proposing = Epoch(epoch + 1)
        while True:
            head = await self.chain.fetch_head()
            position = compute_epoch_position(
                head.number, slot=self.slot, epoch_length=self.epoch_length
            )
            submission = await self.chain.fetch_submission(self.subnet_id, proposing)
            is_over = position.epoch > proposing
            if submission is not None:
                expected = set(self.node_ids.values()) - set(self.get_gone())
                has_all = submission.attested >= expected
                report = self.find_report(submission.proposer, epoch)
                if report is not None and (has_all or is_over):
                    return build_row(epoch, submission, report, self.nodes, self.node_ids)
            if is_over:
                return await self._explain_loss(epoch, submission)
            await asyncio.sleep(POLL_S)

    async def _explain_loss(self, epoch: Epoch, submission: Submission | None) -> LostEpoch:
        if submission is not None:
            return LostEpoch(epoch, submission.proposer, "its proposer ended without a report")
        elected = await self.chain.fetch_elected_validator(self.subnet_id, Epoch(epoch + 1))
        return LostEpoch(epoch, elected, "no node proposed its scores")


def build_row(
    epoch: Epoch,
    submission: Submission,
    report: Mapping[str, Any],
    nodes: Sequence[NodePlan],
    node_ids: Mapping[str, SubnetNodeId],
) -> EpochRow:
    """Join what stands on chain with what its proposer saw.

    ``report`` is the proposer's EpochReport as JSON.
    """
    seen = {hoster["subnet_node_id"]: hoster for hoster in report["hosters"]}
    judged = {validator["subnet_node_id"]: validator for validator in report["validators"]}
    proposed = dict(submission.scores)
    failed, named = dict(report["failed_probes"]), report["named_sightings"]
    hosters, validators = [], []
    for node in nodes:
        node_id = node_ids[node.name]
        attested = node_id in submission.attested
        score = proposed.get(node_id, Score(0))
        if node.role is Role.HOSTER and node.layers is not None:
            probes = (failed.get(node_id, 0), named)
            hosters.append(
                _build_hoster(node_id, node.layers, seen.get(node_id), probes, score, attested)
            )
        else:
            validators.append(_build_validator(node_id, judged.get(node_id), score, attested))
    return EpochRow(
        epoch=epoch,
        elected=submission.proposer,
        challenge_seed=bytes.fromhex(report["challenge_seed"]),
        hosters=tuple(hosters),
        validators=tuple(validators),
        proposal=submission.scores,
        attestation_ratio=Fraction(len(submission.attested), len(nodes)),
    )


def _build_hoster(
    node_id: SubnetNodeId,
    planned: LayerRange,
    seen: Mapping[str, Any] | None,
    probes: tuple[int, int],
    score: Score,
    attested: bool,
) -> HosterRow:
    if seen is None:
        return HosterRow(node_id, planned, False, False, None, probes, None, score, attested)
    distance = seen["distance"]
    return HosterRow(
        node_id=node_id,
        layers=LayerRange(*seen["blocks"]),
        committed=seen["committed_at"] is not None,
        revealed=seen["refusal"] is None,
        distance=None if distance is None else Fraction(distance),
        failed_probes=probes,
        penalty=seen["penalty"],
        score=score,
        attested=attested,
    )


def _build_validator(
    node_id: SubnetNodeId, judged: Mapping[str, Any] | None, score: Score, attested: bool
) -> ValidatorRow:
    if judged is None:
        return ValidatorRow(node_id, None, False, score, attested)
    return ValidatorRow(
        node_id,
        accuracy=None if judged["refusal"] is not None else Score(int(judged["accuracy"])),
        audited=int(judged["audit_share"]) > 0,
        score=score,
        attested=attested,
    )
