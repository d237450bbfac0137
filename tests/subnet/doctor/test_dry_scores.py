"""What an unregistered machine would have scored: the protocol's scores with one hoster more."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from consensus.evidence import EpochFacts
from consensus.protocol_params import MAINNET
from consensus.roster import Roster
from consensus.types import (
    SCORE_ONE,
    BlockNumber,
    Epoch,
    EpochPosition,
    SubnetId,
)
from consensus.view import EpochStatus
from subnet.doctor.dry_scores import (
    NOBODYS_ID,
    DryAnswer,
    DryScore,
    DryScores,
    answer_dry,
    compute_window_s,
    score_as_if,
)
from subnet.epoch.author import Author
from subnet.epoch.interfaces import LayerTask
from subnet.epoch.judge import Judge
from subnet.epoch.observer import HeadHandled
from subnet.epoch.terms import SubnetTerms
from tests.support.epoch_records import (
    EPOCH,
    LENGTH,
    NETWORK,
    SHAPE,
    TRUTH,
    WHOLE,
    WRONG,
    World,
    get_key,
    make_roster,
)
from tests.support.fakes import Vector

TERMS = SubnetTerms(SubnetId(7), NETWORK, LENGTH, 6000, MAINNET)
AUTHOR = Author(TERMS, get_key(99), NOBODYS_ID)
NEXT = make_roster(epoch=EPOCH + 1)


class Fixed:
    """Inference with these answers, whatever is asked."""

    layers = WHOLE

    def __init__(self, vectors: Sequence[bytes]) -> None:
        self._vectors = vectors

    async def run_tasks(self, tasks: Sequence[LayerTask]) -> tuple[Vector, ...]:
        return tuple(np.frombuffer(self._vectors[task.layer], dtype="<f4") for task in tasks)


@pytest.fixture
def facts() -> EpochFacts:
    """An epoch in which three hosters answered alike."""
    world = World()
    world.host(1, 2, 3)
    return world.name()


async def answer(vectors: Sequence[bytes]) -> DryAnswer:
    return await answer_dry(AUTHOR, make_roster(), inference=Fixed(vectors), shape=SHAPE)


async def score(facts: EpochFacts, vectors: Sequence[bytes], *, seconds: float = 1.0) -> DryScore:
    given = await answer(vectors)
    report = score_as_if(facts, NEXT, given, author=AUTHOR, params=MAINNET)
    return DryScore(Epoch(EPOCH), report, 3, seconds, compute_window_s(TERMS))


async def test_honest_work_would_earn_an_equal_share_of_the_pool(facts: EpochFacts) -> None:
    found = await score(facts, TRUTH)
    assert found.reason == ""
    share = MAINNET.hoster_pool // 4
    assert abs(found.score - share) <= len(SHAPE.challenged_layers)
    assert f"would have scored {share / SCORE_ONE:.3f}" in found.describe()
    assert "beside 3 other hosters" in found.describe()


async def test_another_model_would_earn_nothing_and_is_told_why(facts: EpochFacts) -> None:
    found = await score(facts, WRONG)
    assert found.score == 0
    assert "outside_tolerance on block 0, 1, 2" in found.reason
    assert "the subnet's manifest" in found.describe()


async def test_an_answer_that_is_too_late_earns_nothing(facts: EpochFacts) -> None:
    found = await score(facts, TRUTH, seconds=compute_window_s(TERMS) + 1)
    assert found.score == 0 and "too late" in found.reason
    assert found.to_json()["score"] == "0"


async def test_without_other_hosters_nothing_is_compared(facts: EpochFacts) -> None:
    found = replace(await score(facts, TRUTH), others=0)
    assert "nothing to compare with" in found.reason


async def test_what_nodes_saw_stays_as_it_was(facts: EpochFacts) -> None:
    before = (dict(facts.records), facts.roster)
    await score(facts, TRUTH)
    assert (dict(facts.records), facts.roster) == before


async def test_each_epoch_is_answered_once_in_its_commit_phase_and_scored_when_it_is_over(
    facts: EpochFacts,
) -> None:
    rosters: dict[int, Roster] = {EPOCH: make_roster()}
    asked: list[tuple[int, int]] = []
    offset = 0

    async def answer_once(roster: Roster) -> DryAnswer:
        asked.append((roster.epoch, offset))
        return await answer(TRUTH)

    async def gather_own(roster: Roster) -> EpochFacts:
        return facts

    judge = cast(Judge, SimpleNamespace(gather_own=gather_own))
    scores = DryScores(AUTHOR, get_roster=lambda epoch: rosters.get(epoch))
    found = scores.run(judge, answer_once)

    async def take() -> DryScore:
        return await anext(found)

    async with asyncio.TaskGroup() as tasks:
        pending = tasks.create_task(take())
        for offset in range(LENGTH):
            scores.note_event(make_event(EPOCH, offset))
            await settle()
        assert asked == [(EPOCH, TERMS.schedule.commit_start)]
        # The next epoch's roster is not final yet.
        scores.note_event(make_event(EPOCH + 1, 0))
        await settle()
        assert not pending.done()
        rosters[EPOCH + 1] = NEXT
        scores.note_event(make_event(EPOCH + 1, 2))
    assert pending.result().epoch == EPOCH
    await found.aclose()


async def settle() -> None:
    """Give every woken task its turn, until all of them wait again."""
    for _ in range(20):
        await asyncio.sleep(0)


def make_event(epoch: int, offset: int) -> HeadHandled:
    position = EpochPosition(Epoch(epoch), offset, LENGTH, BlockNumber(LENGTH * epoch + 3))
    return HeadHandled(position, EpochStatus.ACTIVE)
