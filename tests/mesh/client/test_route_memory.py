"""The next turn of a chat goes to the hosters that hold its beginning."""

from __future__ import annotations

import contextlib
from dataclasses import replace

from keys.peer import PeerKey
from mesh.client.route_memory import MAX_TEXTS, RouteMemory
from mesh.inference.sampling import Sampling
from mesh.model.config import LayerSpan
from mesh.routing.hop import Hop
from tests.mesh.client.conftest import Swarm

ROUTES = [(Hop(PeerKey(bytes([i]) * 32).peer_id, LayerSpan(0, 6)),) for i in (1, 2)]
TEXT = list(range(100))
SEEDED = Sampling(stop_token_ids=(258,), temperature=1.0, seed=20)


def test_the_longest_known_beginning_decides():
    memory = RouteMemory()
    memory.note(b"", TEXT[:20], ROUTES[0])
    memory.note(b"", TEXT[:50], ROUTES[1])
    assert memory.find(b"", TEXT) == ROUTES[1]
    assert memory.find(b"", TEXT[:30]) == ROUTES[0]
    assert memory.find(b"", TEXT[1:]) == ()
    assert memory.find(b"", TEXT[:5]) == ()


def test_another_users_text_is_no_beginning():
    memory = RouteMemory()
    memory.note(b"one", TEXT, ROUTES[0])
    assert memory.find(b"another", TEXT) == ()


def test_what_is_remembered_is_bounded():
    memory = RouteMemory()
    for number in range(MAX_TEXTS + 10):
        memory.note(b"", [number] * 20, ROUTES[0])
    assert len(memory._routes) == MAX_TEXTS
    assert memory.find(b"", [0] * 20) == ()


async def test_every_turn_of_a_chat_goes_to_the_hoster_of_the_first(chat_checkpoint):
    swarm = Swarm(chat_checkpoint)
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(4):
            hoster = await swarm.add_hoster(0, 6)
            stack.push_async_callback(hoster.stop)
        client = await swarm.open_client(stack)
        # Equally far: how long one took to answer decides nothing.
        client.directory.measures.estimate_hops = lambda peers, **_: [0.001] * len(peers)
        taken = set()
        for chat in range(12):
            text = f"Chat {chat} is about something else than the others"
            peers = set()
            for _ in range(3):
                tokens = client.generate(text, max_new_tokens=4, sampling=SEEDED, user=str(chat))
                async for token in tokens:
                    text += token.text
                peers.add(token.trace.route[0].peer_id)
                text += " and so it goes on."
            assert len(peers) == 1
            taken |= peers
        # New chats are drawn among equals.
        assert len(taken) > 1


async def test_a_hoster_that_failed_one_request_does_not_slow_the_next(chat_checkpoint):
    swarm = Swarm(chat_checkpoint)
    async with contextlib.AsyncExitStack() as stack:
        broken = await swarm.add_hoster(0, 6, throughput=10**6)
        stack.push_async_callback(broken.stop)
        sound = await swarm.add_hoster(0, 6)
        stack.push_async_callback(sound.stop)
        broken.engine.limits = replace(broken.engine.limits, max_sessions=0)
        client = await swarm.open_client(stack)
        reroutes = []
        for _ in range(3):
            tokens = client.generate("Well", max_new_tokens=2, sampling=SEEDED)
            reroutes.append([token.trace.reroutes async for token in tokens][-1])
        assert reroutes == [1, 0, 0]
