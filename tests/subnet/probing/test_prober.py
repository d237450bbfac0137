"""Probes over real sessions: who passes, who fails, and who is not blamed for others."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from consensus.roster import Roster
from consensus.types import Epoch, SubnetNodeId
from mesh.errors import PluginFailed, TransportError
from mesh.inference.tokens import Finish, Token
from mesh.inference.wire import (
    SESSION_METHOD,
    ErrorFrame,
    ScoresFrame,
    decode_open,
    encode_error,
    encode_scores,
    encode_token,
)
from subnet.probing.prober import describe
from subnet.probing.verdict import Failed, Passed, Unclear
from tests.support.node import make_roster_node


def spoil(hoster, factor=-20.0):
    """Let a hoster compute with other weights."""
    for layer in hoster.engine._runner.weights.layers:
        layer.down.mul_(factor)


async def say_nothing(stream):
    await stream.receive()
    await asyncio.get_running_loop().create_future()


async def blame_next(stream):
    request = decode_open(await stream.receive())
    await stream.send(encode_error(ErrorFrame("hop_lost", "it left", request.hop_index + 1)))


async def make_up(stream):
    """Answer at once with tokens out of the air, and agree with every text."""
    request = decode_open(await stream.receive())
    if request.wants_scores:
        count = len(request.token_ids) - 1
        await stream.send(encode_scores(ScoresFrame(1, (Token(0, -9.0),) * count)))
        return
    for index in range(request.max_new_tokens):
        is_last = index == request.max_new_tokens - 1
        finish = Finish.LENGTH if is_last else Finish.NOT_YET
        await stream.send(encode_token(Token(100 + index, -0.1, index=index, finish=finish)))


SPANS = {
    "whole model": [(0, 8), (0, 8)],
    "first half": [(0, 4), (4, 8), (0, 4)],
    "second half": [(4, 8), (0, 4), (4, 8)],
    "in the middle": [(2, 5), (0, 2), (5, 8), (0, 8)],
}


@pytest.mark.parametrize("spans", SPANS.values(), ids=SPANS)
async def test_an_honest_hoster_passes(probed, spans):
    for span in spans:
        await probed.add(*span)
    for _ in range(3):
        assert await probed.attempt(1) == Passed()
    async with asyncio.timeout(5):
        while any(hoster.engine.session_count for hoster in probed.swarm.hosters):  # noqa: ASYNC110
            await asyncio.sleep(0)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("quant_type", ["none", "int8"])
async def test_an_honest_hoster_passes_with_other_numbers_than_the_reference(
    probed, dtype, quant_type
):
    await probed.add(0, 8, dtype=dtype, quant_type=quant_type, deterministic=False)
    await probed.add(0, 8)
    for _ in range(5):
        assert await probed.attempt(1) == Passed()


@pytest.mark.parametrize("spans", SPANS.values(), ids=SPANS)
async def test_a_hoster_that_refuses_strangers_fails(probed, spans, full):
    await probed.add(*spans[0], limits=full)
    for span in spans[1:]:
        await probed.add(*span)
    attempt = await probed.attempt(1)
    assert isinstance(attempt, Failed)
    assert attempt.reason == "busy"
    # What a hoster says itself, no other hop can have made up.
    assert bool(attempt.suspects) == (spans[0][0] > 0)


@pytest.mark.parametrize("spans", SPANS.values(), ids=SPANS)
async def test_a_hoster_that_answers_garbage_fails(probed, spans):
    spoil(await probed.add(*spans[0]))
    for span in spans[1:]:
        await probed.add(*span)
    attempt = await probed.attempt(1)
    assert isinstance(attempt, Failed)
    assert "away" in attempt.reason


async def test_a_made_up_answer_fails_whatever_it_claims(probed):
    await probed.add_liar(0, 8, make_up, method=SESSION_METHOD)
    await probed.add(0, 8)
    assert "away" in describe(await probed.attempt(1))


async def test_a_silent_hoster_fails(probed):
    await probed.add_liar(0, 8, say_nothing, method=SESSION_METHOD)
    await probed.add(0, 8)
    prober = probed.make_prober()
    prober._timeouts = type(prober._timeouts)(open_s=1.0, token_s=0.2, prompt_token_s=0.0)
    attempt = await prober.attempt(probed.committed[1])
    assert attempt == Failed("timeout")


async def test_a_hoster_that_left_fails(probed):
    gone = await probed.add(0, 8)
    await probed.add(0, 8)
    await gone.stop()
    assert await probed.attempt(1) == Failed("hop_lost")


async def test_a_hoster_is_asked_for_what_it_committed_to_not_for_what_it_announces(probed):
    """One layer is cheap to serve; the others are those that it is paid for."""
    await probed.add(0, 1, committed=(0, 8))
    await probed.add(0, 8)
    assert await probed.attempt(1) == Failed("wrong_range")


async def test_the_only_hoster_of_a_range_passes_if_it_answers_and_fails_if_it_refuses(
    probed, full
):
    await probed.add(0, 4)
    await probed.add(4, 8)
    assert await probed.attempt(1) == Passed()
    probed.swarm.hosters[0].engine.limits = full
    assert await probed.attempt(1) == Failed("busy")


async def test_a_hoster_that_is_full_for_a_moment_passes(probed, full):
    hoster = await probed.add(0, 8)
    await probed.add(0, 8)
    limits, hoster.engine.limits = hoster.engine.limits, full

    class Room:
        """Room comes with the second question."""

        asked = 0

        def __getattr__(self, name):
            Room.asked += name == "max_sessions"
            return getattr(full if Room.asked <= 1 else limits, name)

    hoster.engine.limits = Room()
    assert await probed.attempt(1) == Passed()


async def test_every_attempt_comes_from_a_key_that_was_never_seen(probed):
    await probed.add(0, 8)
    await probed.add(0, 8)
    for _ in range(3):
        await probed.attempt(1)
    assert len({key.peer_id for key in probed.keys}) == 3
    assert probed.own.peer_id not in {key.peer_id for key in probed.keys}


async def test_a_lying_reference_is_suspected_beside_the_hoster(probed):
    await probed.add(0, 8)
    liar = await probed.add_liar(0, 8, make_up, method=SESSION_METHOD)
    attempt = await probed.attempt(1)
    assert isinstance(attempt, Failed)
    assert attempt.suspects == {liar.key.peer_id}


async def test_this_nodes_own_layers_are_no_suspect(probed):
    spoil(await probed.add(0, 8))
    own = await probed.add(0, 8)
    attempt = await probed.attempt(1, key=own.key)
    assert isinstance(attempt, Failed)
    assert not attempt.suspects


async def test_nobody_fails_while_this_nodes_own_network_is_down(probed):
    await probed.add(0, 8)
    await probed.add(0, 8)
    probed.swarm.network.partition([hoster.key.peer_id for hoster in probed.swarm.hosters])
    assert isinstance(await probed.attempt(1), Unclear)

    @contextlib.asynccontextmanager
    async def fail():
        raise TransportError("the daemon cannot be started")
        yield

    assert isinstance(await probed.attempt(1, open_client=fail), Unclear)


async def test_a_hoster_without_companions_is_not_judged(probed):
    await probed.add(4, 8)
    assert isinstance(await probed.attempt(1), Unclear)


async def run_epochs(probed, count=1, **changes):
    for epoch in range(5, 5 + count):
        await probed.run_epoch(epoch, **changes)


def read(probed, node_id, epoch=5):
    known = dict(probed.book._probes.get(node_id, ()))
    return known.get(epoch)


async def test_an_epoch_of_probes_tells_honest_hosters_from_the_others(probed, full):
    await probed.add(0, 8)
    await probed.add(0, 8)
    await probed.add(0, 8, limits=full)
    spoil(await probed.add(0, 8))
    await run_epochs(probed)
    assert [read(probed, node_id) for node_id in (1, 2, 3, 4)] == [True, True, False, False]
    assert len(probed.keys) >= 1 + 1 + 3 + 3
    told = {(event.epoch, event.node_id, event.result) for event in probed.events}
    assert {(5, 1, "passed"), (5, 3, "failed: busy")} < told


async def test_three_failed_epochs_set_the_bit_and_one_good_answer_clears_it(probed, full):
    await probed.add(0, 8)
    hoster = await probed.add(0, 8, limits=full)
    nodes = tuple(make_roster_node(node_id) for node_id in (1, 2))

    def list_failed(epoch):
        return probed.book.list_failed(Roster(Epoch(epoch), 0, bytes(32), 0, nodes))

    await run_epochs(probed, 2)
    assert list_failed(6) == frozenset()
    await probed.run_epoch(7)
    assert list_failed(7) == {2}
    hoster.engine.limits = probed.swarm.hosters[0].engine.limits
    await probed.run_epoch(8)
    assert list_failed(8) == frozenset()


async def test_a_broken_hop_on_the_only_way_to_a_hoster_costs_the_hoster_nothing(probed, full):
    broken = await probed.add(0, 4, limits=full)
    await probed.add(4, 8)
    await run_epochs(probed)
    assert read(probed, 2) is None
    assert read(probed, 1) is False
    await broken.stop()
    probed.swarm.hosters.remove(broken)


async def test_a_broken_hop_is_left_out_and_the_hoster_behind_it_passes(probed, full):
    await probed.add(0, 4, limits=full)
    await probed.add(4, 8)
    await probed.add(0, 8)
    for epoch in range(5, 7):
        await probed.run_epoch(epoch)
        assert read(probed, 2, epoch) is True


async def test_a_hop_that_accuses_the_hoster_falsely_is_left_out(probed):
    await probed.add_liar(0, 4, blame_next, method=SESSION_METHOD)
    await probed.add(4, 8)
    await probed.add(0, 8)
    for epoch in range(5, 7):
        await probed.run_epoch(epoch)
        assert read(probed, 2, epoch) is True


async def test_a_hop_that_accuses_another_one_does_not_spoil_the_reference(probed):
    liar = await probed.add_liar(0, 4, blame_next, method=SESSION_METHOD)
    await probed.add(4, 8)
    await probed.add(0, 8)
    for _ in range(20):
        attempt = await probed.attempt(2)
        through_liar = Failed("hop_lost", frozenset({liar.key.peer_id}))
        assert attempt in (Passed(), through_liar)


async def test_a_hoster_that_blames_every_next_hop_fails(probed):
    await probed.add_liar(0, 4, blame_next, method=SESSION_METHOD)
    for _ in range(3):
        await probed.add(4, 8)
    await probed.add(0, 8)
    await run_epochs(probed, list_targets=lambda: {1: probed.committed[1]})
    assert read(probed, 1) is False


async def test_a_node_that_is_no_validator_probes_nobody(probed):
    await probed.add(0, 8)
    probed.is_validator = False
    await run_epochs(probed)
    assert not probed.keys


async def test_a_hoster_that_left_the_roster_is_asked_no_more(probed, full):
    await probed.add(0, 8)
    await probed.add(0, 8, limits=full)
    answers = iter([probed.committed])
    await run_epochs(probed, list_targets=lambda: next(answers, {}))
    assert not probed.keys
    assert read(probed, SubnetNodeId(2)) is None


async def test_a_result_is_not_asked_for_twice_after_a_restart(probed):
    await probed.add(0, 8)
    await probed.add(0, 8)
    await run_epochs(probed)
    asked = len(probed.keys)
    await run_epochs(probed)
    assert len(probed.keys) == asked == 2


class OwnProbe:
    """A subnet's own probe, without a process."""

    def __init__(self, wrong=False, error=None):
        self.wrong, self.error = wrong, error
        self.judged = []

    def make_prompt(self, random, *, vocab_size, max_tokens):
        if self.error is not None:
            raise self.error
        return (5, 6, 7)

    def is_wrong(self, prompt, answer, distance):
        self.judged.append((prompt, len(answer), distance))
        return self.wrong


async def test_the_subnets_own_probe_asks_and_judges(probed):
    for span in [(0, 8), (0, 8)]:
        await probed.add(*span)
    lenient, strict = OwnProbe(), OwnProbe(wrong=True)
    assert await probed.attempt(1, probe=lenient) == Passed()
    ((prompt, count, distance),) = lenient.judged
    assert prompt == (5, 6, 7) and count > 0 and 0 <= distance < 0.05
    assert isinstance(await probed.attempt(1, probe=strict), Failed)


async def test_a_probe_that_fails_proves_nothing_of_a_hoster(probed):
    for span in [(0, 8), (0, 8)]:
        await probed.add(*span)
    error = PluginFailed("probe", "planted", "it took longer than 2 s")
    attempt = await probed.attempt(1, probe=OwnProbe(error=error))
    assert isinstance(attempt, Unclear) and "it took longer than 2 s" in attempt.reason
