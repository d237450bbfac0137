"""Penalties and grammars over one, two and three ranges, and through the loss of a hoster."""

from __future__ import annotations

import contextlib
import json
from contextlib import aclosing
from dataclasses import replace

import pytest

from mesh.client.route_search import RoutingOptions
from mesh.errors import InvalidRequest, NoCapableRoute, SessionLost
from mesh.inference.grammar import Grammar, GrammarKind
from mesh.inference.refusals import RefusalReason
from mesh.inference.sampling import Sampling
from mesh.inference.shaped_wire import SHAPED_METHOD

END = 2
"""The checkpoint's end token; the byte tokenizer's </s>."""
SCHEMA = {
    "type": "object",
    "properties": {"name": {"enum": ["ada", "bob"]}, "age": {"type": "integer", "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
GRAMMAR = Grammar(GrammarKind.JSON_SCHEMA, json.dumps(SCHEMA))
SPLITS = [[(0, 6)], [(0, 2), (2, 6)], [(0, 2), (2, 3), (3, 6)]]


async def collect(client, *, count=60, sampling, **options):
    pieces = []
    answer = client.generate("Who is it?", max_new_tokens=count, sampling=sampling, **options)
    async with aclosing(answer):
        async for piece in answer:
            pieces.append(piece)
    return pieces


def ids(pieces):
    return [piece.token_id for piece in pieces]


@pytest.fixture
async def stack():
    async with contextlib.AsyncExitStack() as stack:
        yield stack


async def test_an_answer_follows_its_schema_alike_over_one_two_and_three_ranges(swarm, stack):
    sampling = Sampling(temperature=1.0, seed=4, grammar=GRAMMAR, frequency_penalty=0.5)
    answers = []
    for split in SPLITS:
        for hoster in swarm.hosters:
            await hoster.stop()
        swarm.hosters.clear()
        for start, end in split:
            await swarm.add_hoster(start, end)
        client = await swarm.open_client(stack)
        pieces = await collect(client, sampling=sampling)
        found = json.loads("".join(piece.text for piece in pieces))
        assert found["name"] in ("ada", "bob") and found["age"] <= 99
        assert pieces[-1].finish_reason == "stop"
        answers.append(ids(pieces))
    assert answers[0] == answers[1] == answers[2]


async def test_a_hoster_that_takes_over_goes_on_within_the_grammar_and_the_counts(swarm, stack):
    await swarm.add_hoster(0, 3)
    last = await swarm.add_hoster(3, 6)
    client = await swarm.open_client(stack)
    text = Grammar(GrammarKind.REGEX, "[a-z]{40}")
    sampling = Sampling(
        temperature=1.0, seed=9, grammar=text, frequency_penalty=1.0, logit_bias=((80, 2.5),)
    )
    expected = ids(await collect(client, sampling=sampling))
    await swarm.add_hoster(3, 6)
    client = await swarm.open_client(stack)
    found = []
    answer = client.generate("Who is it?", max_new_tokens=60, sampling=sampling)
    async with aclosing(answer):
        async for piece in answer:
            found.append(piece.token_id)
            if len(found) == 12:
                used = {hop.peer_id for hop in piece.trace.route}
                for hoster in swarm.hosters[1:]:
                    if str(hoster.key.peer_id) in used:
                        await hoster.stop()
    assert piece.trace.reroutes >= 1
    assert found == expected and len(expected) == 41
    assert last is swarm.hosters[1]


async def test_what_shapes_answers_is_equal_alone_and_split(swarm, stack):
    await swarm.add_hoster(0, 6)
    alone = await swarm.open_client(stack)
    await swarm.add_hoster(0, 3)
    await swarm.add_hoster(3, 6)
    split = await swarm.open_client(stack)
    cut = RoutingOptions(max_layers_per_hop=3)
    for sampling in (
        Sampling(presence_penalty=2.0),
        Sampling(temperature=0.8, seed=1, frequency_penalty=-1.0),
        Sampling(temperature=1.0, seed=2, min_p=0.5),
        Sampling(logit_bias=((90, 100.0),), stop_token_ids=(90,), min_tokens=7),
    ):
        one = ids(await collect(alone, sampling=sampling, count=16))
        assert ids(await collect(split, sampling=sampling, count=16, routing=cut)) == one
    assert one[-1] == 90 and len(one) == 8


async def test_no_end_token_ends_an_answer_that_ignores_it(swarm, stack):
    await swarm.add_hoster(0, 6)
    client = await swarm.open_client(stack)
    sampling = Sampling(logit_bias=((END, 100.0),))
    assert ids(await collect(client, sampling=sampling, count=9)) == [END]
    assert len(await collect(client, sampling=sampling, count=9, ignore_eos=True)) == 9


async def test_a_hoster_of_an_earlier_version_is_left_out_and_goes_on_serving_others(swarm, stack):
    old = await swarm.add_hoster(0, 6, throughput=100_000)
    await swarm.add_hoster(0, 6)
    del swarm.network._hosts[old.key.peer_id]._server._streams[SHAPED_METHOD]
    client = await swarm.open_client(stack)
    plain = await collect(client, sampling=Sampling(), count=4)
    assert plain[-1].trace.route[0].peer_id == str(old.key.peer_id)
    shaped = await collect(client, sampling=Sampling(presence_penalty=0.1), count=4)
    assert shaped[-1].trace.route[0].peer_id == str(swarm.hosters[1].key.peer_id)
    assert shaped[-1].trace.failures[0][0] == old.key.peer_id


async def test_hosters_that_do_not_say_that_they_can_are_not_asked(swarm, stack):
    """Earlier versions announce no features. They serve what needs none, and middle blocks."""
    old = await swarm.add_hoster(0, 6, throughput=100_000, features="")
    shapes = await swarm.add_hoster(0, 6, throughput=50_000, features="s")
    able = await swarm.add_hoster(3, 6, throughput=10)
    client = await swarm.open_client(stack)
    asked = {
        Sampling(): [old],
        Sampling(presence_penalty=0.1): [shapes],
        Sampling(grammar=GRAMMAR): [shapes, able],
    }
    for sampling, expected in asked.items():
        trace = (await collect(client, sampling=sampling))[-1].trace
        assert [hop.peer_id for hop in trace.route] == [str(h.key.peer_id) for h in expected]
        assert not trace.failures


async def test_where_no_hoster_says_that_it_can_the_error_names_what_is_missing(swarm, stack):
    await swarm.add_hoster(0, 3, features="")
    await swarm.add_hoster(3, 6, features="s")
    client = await swarm.open_client(stack)
    with pytest.raises(NoCapableRoute, match="blocks 0:3 takes penalties") as raised:
        await collect(client, sampling=Sampling(presence_penalty=0.1))
    assert raised.value.uncovered == ((0, 3),)
    swarm.hosters[0].features = "s"
    await swarm.add_hoster(0, 3, features="s")
    client = await swarm.open_client(stack)
    with pytest.raises(NoCapableRoute, match="blocks 5:6 compiles grammars"):
        await collect(client, sampling=Sampling(grammar=GRAMMAR))
    assert await collect(client, sampling=Sampling(presence_penalty=0.1), count=3)


async def test_hosters_without_the_library_refuse_grammars_by_name(swarm, stack):
    hoster = await swarm.add_hoster(0, 6)
    hoster.engine.grammars = None
    client = await swarm.open_client(stack)
    with pytest.raises(SessionLost) as raised:
        await collect(
            client, sampling=Sampling(grammar=GRAMMAR), routing=RoutingOptions(max_reroutes=1)
        )
    assert raised.value.reason is RefusalReason.BAD_PARAMETER
    assert await collect(client, sampling=Sampling(presence_penalty=0.1), count=3)


async def test_a_bias_outside_the_vocabulary_is_refused_before_anything_is_sent(swarm, stack):
    await swarm.add_hoster(0, 6)
    client = await swarm.open_client(stack)
    with pytest.raises(InvalidRequest) as raised:
        await collect(client, sampling=Sampling(logit_bias=((259, 1.0),)))
    assert raised.value.field == "logit_bias"


async def test_a_grammar_that_cannot_be_compiled_ends_only_its_own_session(swarm, stack):
    await swarm.add_hoster(0, 6)
    client = await swarm.open_client(stack)
    bad = replace(GRAMMAR, text='{"type":"integer","minimum":5,"maximum":3}')
    with pytest.raises(SessionLost):
        await collect(
            client, sampling=Sampling(grammar=bad), routing=RoutingOptions(max_reroutes=1)
        )
    assert await collect(client, sampling=Sampling(grammar=GRAMMAR))
