"""A text that its client drives loses a hop: only the lost range is filled again."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from mesh.client.driven_text import DrivenText
from mesh.client.route_search import RoutingOptions
from mesh.client.route_session import HopFailed
from mesh.client.texts import TextBatch
from mesh.inference.drive_wire import (
    DRIVE_METHOD,
)
from mesh.inference.refill_wire import RESUMABLE_DRIVE_METHOD
from mesh.inference.refusals import RefusalReason
from tests.mesh.client.test_auto_model import LENGTH, run, wait_until_free
from tests.mesh.client.test_auto_model import open_model as open_model
from tests.mesh.client.test_auto_model import reference as reference
from tests.mesh.client.test_refills import SPLITS, Rows, freeze, open_three

TEXT = [5 + (i * 37) % 200 for i in range(60)]
START = 40
"""So many tokens are fed at once, the others one by one."""
AT = 50


async def drive(text, tokens=TEXT, *, start=START, then=None):
    """Return the logits after each token from ``start`` on; ``then`` says what to do before one."""
    rows = []
    for end in range(start, len(tokens) + 1):
        if then and end in then:
            result = then[end]()
            if asyncio.iscoroutine(result):
                await result
        rows.append((await text.compute_logits(tokens[:end], capacity=80))[0])
    return np.stack(rows)


@contextlib.asynccontextmanager
async def open_texts(client, count=1):
    texts = [DrivenText(client) for _ in range(count)]
    try:
        yield texts
    finally:
        for text in texts:
            await text.close()


def count_parked(swarm):
    return sum(len(hoster.engine._table._parked) for hoster in swarm.hosters)


@pytest.mark.parametrize("fault", ["killed", "frozen"])
@pytest.mark.parametrize("dying", [0, 1, 2])
async def test_the_hops_that_are_left_compute_nothing_again(swarm, dying, fault):
    async with (
        open_three(swarm, standby=[SPLITS[dying]]) as client,
        open_texts(client, 2) as (whole, text),
    ):
        expected = await drive(whole)
        lost = swarm.hosters[dying]
        left = [hoster for hoster in swarm.hosters[:3] if hoster is not lost]
        rows = Rows([*left, swarm.hosters[3]])

        def strike():
            rows.__init__([*left, swarm.hosters[3]])
            return lost.stop() if fault == "killed" else freeze(swarm, lost)

        found = await drive(text, then={AT: strike})
        *others, new = rows.count()
    assert (text.reroutes, text.refills) == (1, 1)
    if dying:
        # The kept states are cut as they were: the same bits.
        assert np.array_equal(found, expected)
    else:
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert sum(new) == len(TEXT)
    for prompt_rows, decode_rows in others:
        assert prompt_rows == 0
        # The step that failed may have been computed before, and is again.
        assert decode_rows <= len(TEXT) - AT + 2


async def test_two_hops_that_die_at_once_are_filled_one_after_the_other(swarm):
    async with open_three(swarm, standby=SPLITS[1:]) as client, open_texts(client, 2) as texts:
        expected = await drive(texts[0])
        first, middle, last, *_ = swarm.hosters
        rows = Rows([first])

        async def strike():
            rows.__init__([first])
            await asyncio.gather(middle.stop(), last.stop())

        found = await drive(texts[1], then={AT: strike})
    assert np.array_equal(found, expected)
    assert texts[1].refills >= 1
    assert rows.count()[0][0] == 0


async def test_a_lost_range_is_filled_by_several_hosters_and_each_may_be_lost_too(swarm):
    async with (
        open_three(swarm, standby=[(2, 3), (3, 5)]) as client,
        open_texts(client, 2) as (whole, text),
    ):
        expected = await drive(whole)
        left = [swarm.hosters[0], swarm.hosters[2]]
        rows = Rows(left)

        def strike():
            rows.__init__(left)
            return swarm.hosters[1].stop()

        async def strike_again():
            spans = [(hop.span.start, hop.span.end) for hop in text.route]
            assert spans == [(0, 2), (2, 3), (3, 4), (4, 6)]
            await swarm.add_hoster(3, 4, throughput=1)
            await swarm.hosters[4].stop()

        found = await drive(text, then={45: strike, AT: strike_again})
        counts = rows.count()
    assert np.array_equal(found, expected)
    assert (text.reroutes, text.refills) == (2, 2)
    assert all(prompt_rows == 0 for prompt_rows, _ in counts)


@pytest.mark.parametrize("limit", ["no bytes", "no session"])
async def test_what_is_not_kept_is_computed_again_and_memory_stays_bounded(swarm, limit):
    async with open_three(swarm, standby=[SPLITS[2]]) as client, open_texts(client, 2) as texts:
        for hoster in swarm.hosters:
            budget = hoster.server._refills.budget
            if limit == "no bytes":
                budget.limit = 0
            else:
                budget.session_limit = 1000
        expected = await drive(texts[0])
        rows, used = Rows(swarm.hosters[:2]), []

        async def strike():
            used.extend(hoster.server._refills.budget.used for hoster in swarm.hosters)
            rows.__init__(swarm.hosters[:2])
            await swarm.hosters[2].stop()

        found = await drive(texts[1], then={AT: strike})
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert texts[1].refills == 1
    assert max(used) == 0
    # The text goes through the first two ranges once more, and no further time.
    assert all(sum(counts) <= len(TEXT) + 1 for counts in rows.count())


@pytest.mark.parametrize("which", ["hop", "stand-by", "setting"])
async def test_hosters_of_earlier_versions_get_a_whole_replay(swarm, which):
    old = "fgrs"
    for place, span in enumerate(SPLITS):
        is_old = (which, place) == ("hop", 0)
        await swarm.add_hoster(*span, features=old if is_old else "dfgrs")
    async with contextlib.AsyncExitStack() as stack:
        client = await swarm.open_client(stack)
        plain = DrivenText(client)
        expected = await drive(plain)
        await plain.close()
        features = old if which == "stand-by" else "dfgrs"
        await swarm.add_hoster(*SPLITS[1], features=features, throughput=1)
        await client.refresh()
        text = DrivenText(client, routing=RoutingOptions(refills=which != "setting"))
        found = await drive(text, then={AT: swarm.hosters[1].stop})
        await text.close()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert (text.refills, text.reroutes) == (0, 1)


async def test_a_hop_that_announces_refills_and_knows_none_is_left(swarm):
    async with (
        open_three(swarm, standby=[SPLITS[1]]) as client,
        open_texts(client, 2) as texts,
    ):
        expected = await drive(texts[0])
        lost, liar = swarm.hosters[1], await swarm.add_hoster(*SPLITS[1], throughput=500)
        del swarm.network._hosts[liar.key.peer_id]._server._streams[RESUMABLE_DRIVE_METHOD]
        await client.refresh()
        rows = Rows([swarm.hosters[0], swarm.hosters[2]])

        def strike():
            rows.__init__([swarm.hosters[0], swarm.hosters[2]])
            return lost.stop()

        found = await drive(texts[1], then={AT: strike})
        counts = rows.count()
    assert np.array_equal(found, expected)
    assert texts[1].refills == 1 and texts[1].reroutes == 2
    assert all(prompt_rows == 0 for prompt_rows, _ in counts)


@pytest.mark.parametrize("dying", [0, 1, 2])
async def test_a_text_that_goes_back_after_a_refill_is_another_text_at_every_hop(swarm, dying):
    other = [*TEXT[:20], *[9 + i for i in range(40)]]
    shorter = [*TEXT[:33], 7, 8, 9, 10]
    async with (
        open_three(swarm, standby=[SPLITS[dying]]) as client,
        open_texts(client, 2) as (whole, text),
    ):
        await drive(text, then={AT: swarm.hosters[dying].stop})
        for ending in (shorter, other, TEXT):
            wanted = min(len(ending), 25)
            found = await text.compute_logits(ending, wanted=wanted, capacity=80)
            expected = await whole.compute_logits(ending, wanted=wanted, capacity=80)
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        assert text.reroutes == 1


@pytest.mark.parametrize("wanted", [1, 30, 50])
@pytest.mark.parametrize("dying", [0, 1, 2])
async def test_a_step_that_goes_back_and_fails_gives_the_logits_of_its_own_text(
    swarm, dying, wanted
):
    """Some hops have gone back when the step fails, and others have not."""
    ending = [*TEXT[:35], *[9 + i for i in range(20)]]
    async with (
        open_three(swarm, standby=[SPLITS[dying]]) as client,
        open_texts(client, 2) as (whole, text),
    ):
        expected = await whole.compute_logits(ending, wanted=wanted, capacity=80)
        await drive(text)
        await swarm.hosters[dying].stop()
        found = await text.compute_logits(ending, wanted=wanted, capacity=80)
    assert (text.reroutes, text.refills) == (1, 1)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


async def test_logits_of_known_tokens_that_are_asked_for_again_come_from_the_lost_range(swarm):
    """The rows that are wanted are sent, though the next range has them."""
    async with open_three(swarm, standby=[SPLITS[0]]) as client, open_texts(client, 2) as texts:
        whole, text = texts
        expected = await whole.compute_logits(TEXT, wanted=8, capacity=80)
        await drive(text)
        await swarm.hosters[0].stop()
        found = await text.compute_logits(TEXT, wanted=8, capacity=80)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        assert text.refills == 1
        again = await text.compute_logits(TEXT[:55], wanted=20, capacity=80)
        expected = await whole.compute_logits(TEXT[:55], wanted=20, capacity=80)
        np.testing.assert_allclose(again, expected, rtol=1e-4, atol=1e-5)


async def test_a_hop_that_was_left_is_not_taken_again_with_its_old_text(swarm):
    """It is alive, and has rows of a text that went on otherwise since."""
    other = [*TEXT[:30], *[9 + i for i in range(30)]]
    async with open_three(swarm, standby=[SPLITS[1]]) as client, open_texts(client, 2) as texts:
        whole, text = texts
        expected = await whole.compute_logits(other, capacity=80)
        await drive(text)
        link = text._link
        blamed, stand_by = swarm.hosters[1], swarm.hosters[3]

        async def fail(*args, **options):
            text._receive_rows = receive
            raise HopFailed(blamed.key.peer_id, RefusalReason.HOP_LOST, "blamed")

        receive, text._receive_rows = text._receive_rows, fail
        await text.compute_logits([*TEXT[:-1], 3], capacity=80)
        assert text._link is not link and text.refills == 1
        await text.compute_logits([*other[:-1], 3], capacity=80)
        await stand_by.stop()
        found = await text.compute_logits(other, capacity=80)
        assert blamed.key.peer_id in [hop.peer_id for hop in text.route]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        assert text.refills == 1


async def test_a_text_that_is_closed_leaves_nothing_parked(swarm):
    async with open_three(swarm) as client, open_texts(client) as (text,):
        await drive(text)
        assert sum(len(h.server._refills._answers) for h in swarm.hosters) == 3
        await text.close()
        await wait_until_free(swarm)
        assert count_parked(swarm) == 0
        assert not any(h.server._refills.budget.used for h in swarm.hosters)


async def test_a_question_that_keeps_no_cache_is_not_resumable(swarm, open_model):
    seen = set()
    model = await open_model(2)
    for hoster in swarm.hosters:
        doors = swarm.network._hosts[hoster.key.peer_id]._server._streams
        for method in (DRIVE_METHOD, RESUMABLE_DRIVE_METHOD):
            doors[method] = note_calls(doors[method], method, seen)
    await run(model, torch.tensor([[1, 5, 9]]))
    assert seen == {DRIVE_METHOD}
    await run(model.generate, torch.tensor([[1, 5, 9]]), **LENGTH)
    assert seen == {DRIVE_METHOD, RESUMABLE_DRIVE_METHOD}


def note_calls(serve, method, seen):
    async def note(stream):
        seen.add(method)
        await serve(stream)

    return note


class StrikeAt(StoppingCriteria):
    """Strikes once when the text has a length; it stops nothing."""

    def __init__(self, length, strike):
        self.length = length
        self.strike = strike
        self.is_done = False

    def __call__(self, input_ids, scores, **kwargs):
        if input_ids.shape[1] >= self.length and not self.is_done:
            self.is_done = True
            self.strike()
        return torch.zeros(input_ids.shape[0], dtype=torch.bool)


@pytest.mark.parametrize("dying", [0, 1])
@pytest.mark.parametrize("kind", ["beams", "padded batch", "prompt lookup", "sampling"])
async def test_generate_goes_on_alike_over_a_refill(
    swarm, open_model, reference, monkeypatch, kind, dying
):
    batches = []
    make = TextBatch.__init__

    def note(batch, make_text):
        make(batch, make_text)
        batches.append(batch)

    monkeypatch.setattr(TextBatch, "__init__", note)
    model = await open_model(2)
    start, end = [(0, 3), (3, 6)][dying]
    spare = await swarm.add_hoster(start, end, throughput=1)
    ids = torch.tensor([TEXT[:20]])
    wanted = {**LENGTH, "pad_token_id": 0}
    if kind == "beams":
        wanted |= {"num_beams": 4, "num_return_sequences": 2, "early_stopping": True}
    elif kind == "padded batch":
        rows = [TEXT[:20], TEXT[20:26], TEXT[30:33]]
        ids = torch.tensor([[0] * (20 - len(row)) + row for row in rows])
        wanted["attention_mask"] = torch.tensor([[0] * (20 - len(r)) + [1] * len(r) for r in rows])
    elif kind == "prompt lookup":
        ids, wanted["prompt_lookup_num_tokens"] = ids.repeat(1, 3), 3
    else:
        wanted |= {"do_sample": True, "temperature": 0.8, "top_k": 40, "num_return_sequences": 3}
    loop = asyncio.get_running_loop()
    victim, left = swarm.hosters[dying], swarm.hosters[1 - dying]
    rows = Rows([left])

    def strike():
        rows.__init__([left])
        swarm.hosters.remove(victim)
        asyncio.run_coroutine_threadsafe(victim.stop(), loop).result()

    criteria = StoppingCriteriaList([StrikeAt(ids.shape[1] + 8, strike)])
    torch.manual_seed(5)
    ours = await run(model.generate, ids, **wanted, stopping_criteria=criteria)
    torch.manual_seed(5)
    assert ours.tolist() == reference.generate(ids, **wanted).tolist()
    texts = [text for batch in batches for text in batch.texts]
    assert spare.engine.measures.prompt_rows > 0
    assert sum(text.refills for text in texts) == sum(text.reroutes for text in texts) >= 1
    if kind in ("padded batch", "sampling"):
        # Beams and lookups feed several tokens at once anyway.
        assert rows.count()[0][0] == 0
    await wait_until_free(swarm)


async def test_a_failure_that_names_no_hop_of_an_open_session_leaves_the_silent_one_out(swarm):
    async with open_three(swarm, standby=[SPLITS[2]]) as client, open_texts(client) as (text,):
        await drive(text)
        lost = swarm.hosters[2]
        freeze(swarm, lost)
        client.timeouts = replace(client.timeouts, probe_s=0.3)

        async def fail(*args, **options):
            text._receive_rows = receive
            raise HopFailed(None, RefusalReason.TIMEOUT, "no token in time")

        receive, text._receive_rows = text._receive_rows, fail
        await text.compute_logits([*TEXT[:-1], 3], capacity=80)
        assert (text.reroutes, text.refills) == (1, 1)
        assert lost.key.peer_id not in [hop.peer_id for hop in text.route]
