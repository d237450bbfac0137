"""What a gateway counts of its requests, by how they ended."""

from __future__ import annotations

import asyncio

import pytest

from mesh.api.backend import GenerateRequest
from mesh.api.disconnect import CallerGone
from mesh.api.gate import Gate
from mesh.api.generation import ChoiceJob, Generations
from mesh.api.limits import Limits
from mesh.api.measures import GatewayMeasures, RequestOutcome
from mesh.api.problems import Problem
from mesh.errors import NoRoute
from mesh.inference.sampling import Sampling
from tests.support.local_backend import MODEL, LocalBackend

PROMPT = (1, 2, 3)
NEW_TOKENS = 4


def make_jobs(count=1):
    request = GenerateRequest(MODEL, PROMPT, NEW_TOKENS, Sampling())
    return [ChoiceJob(request)] * count


async def ask(backend, *, count=1, limits=None, leave=None):
    """Ask for answers and read them to the end, or leave with an error; return the counts."""
    limits = limits or Limits()
    async with asyncio.TaskGroup() as tasks:
        generations = Generations(backend, limits, tasks, Gate(limits))
        try:
            async with generations.start(make_jobs(count), caller="me") as answer:
                assert generations.measures.running == 1
                if leave is not None:
                    raise leave
                async for _ in answer.pieces():
                    pass
        except (Problem, NoRoute, CallerGone):
            pass
    assert (generations.measures.running, generations.measures.waiting) == (0, 0)
    return generations.measures


def count(histogram):
    return sum(histogram.read().counts)


async def test_a_finished_answer_is_measured_from_its_request_on():
    measures = await ask(LocalBackend(), count=2)
    assert measures.results == {RequestOutcome.FINISHED: 1}
    assert measures.prompt_tokens == 2 * len(PROMPT)
    assert measures.generated_tokens == 2 * NEW_TOKENS
    assert count(measures.first_token) == 2
    assert count(measures.between_tokens) == 2 * (NEW_TOKENS - 1)
    assert count(measures.request) == 1


async def test_an_answer_that_goes_on_elsewhere_is_a_reroute():
    measures = await ask(LocalBackend(reroute_after=2))
    assert measures.reroutes == 1 and measures.results == {RequestOutcome.FINISHED: 1}


@pytest.mark.parametrize("keeps_caches", [True, False])
async def test_refills_and_whole_replays_of_all_choices_are_counted(keeps_caches):
    measures = await ask(LocalBackend(reroute_after=2, keeps_caches=keeps_caches), count=2)
    assert (measures.refills, measures.replays) == ((2, 0) if keeps_caches else (0, 2))


@pytest.mark.parametrize(
    ("options", "leave", "result"),
    [
        ({"uncovered": ((0, 3),)}, None, RequestOutcome.FAILED),
        ({"is_endless": True}, CallerGone(), RequestOutcome.LEFT),
    ],
)
async def test_an_answer_that_was_not_finished_is_told_by_its_end(options, leave, result):
    measures = await ask(LocalBackend(**options), leave=leave)
    assert measures.results == {result: 1} and count(measures.request) == 0


async def test_a_request_that_finds_no_place_is_refused():
    measures = await ask(LocalBackend(), count=2, limits=Limits(max_generations=1))
    assert measures.results == {RequestOutcome.REFUSED: 1} and measures.prompt_tokens == 0


def test_a_request_that_is_cancelled_while_it_waits_has_left():
    measures = GatewayMeasures()
    with pytest.raises(asyncio.CancelledError), measures.wait():
        raise asyncio.CancelledError
    assert measures.results == {RequestOutcome.LEFT: 1} and measures.waiting == 0
