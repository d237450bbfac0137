"""Asks other hosters what a client would ask, under a key that none of them knows.

Theory of operation
===================

**Whom and when** :mod:`subnet.probing.plan` says, once an epoch. Each planned probe is a task of
its own: it waits for its moment, makes an attempt, and tries again at the next moment until one
has passed. :mod:`subnet.probing.verdict` says what the attempts prove, and the book keeps it.

**An attempt** opens a client's host with a fresh key, plans a route in which the hoster runs its
whole committed range, and asks for a short answer, as every client does. Then it has the answer's
text scored over a route around the hoster, through this node where it serves layers itself.

- The hoster refused, was silent, or its answer is too far from the reference: failed.
- The hoster's answer is near the reference, or there is no way round the hoster and it answered:
  passed.
- The other routes fail too: unclear. So is a refusal while no other peer answers at all, since
  this node's own connection may be at fault.

A hoster that is full says so at once; it is asked again after a pause, within the attempt.

**What ends it.** ``run`` ends when it is cancelled, and with it every attempt and its host.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass, replace
from random import Random

from consensus.protocol_params import ConsensusParams
from consensus.types import Epoch, EpochPosition, LayerRange, SubnetNodeId
from keys.peer import PeerId, PeerKey
from mesh.client.route_session import ClientTimeouts, HopFailed, fetch_scores, stream_tokens
from mesh.errors import MeshError, NoRoute, PeerError, PeerUnreachable, RecordRefused
from mesh.inference.refusals import RefusalReason
from mesh.inference.sampling import Sampling
from mesh.inference.tokens import Token
from mesh.inference.wire import OpenSession, make_session_id
from mesh.model.config import LayerSpan, ModelConfig
from mesh.p2p.interface import Host
from mesh.routing.directory import Directory, KnownServer, fetch_info
from mesh.routing.hop import Hop, Route
from mesh.routing.routing import RouteServer
from subnet.epoch.observer import HosterProbed, Observe
from subnet.plugins.chosen import ProbePlugin
from subnet.probing.book import ProbeBook
from subnet.probing.plan import PlannedProbe, derive_probe_secret, plan_probes
from subnet.probing.prompts import MAX_PROMPT_TOKENS, MakePrompt
from subnet.probing.routes import plan_around, plan_through
from subnet.probing.verdict import (
    Attempt,
    Failed,
    Passed,
    Unclear,
    compute_distance,
    is_too_far,
    judge_attempts,
)

MIN_NEW_TOKENS, MAX_NEW_TOKENS = 4, 12
TEMPERATURES = (0.0, 0.7, 1.0)
MAX_REFERENCES = 3
MAX_ASKED_PEERS = 4
BUSY_PAUSES_S = (1.0, 3.0)
"""How long to wait before a full hoster is asked again, within one attempt."""
SECONDS_PER_PROBE = 30
"""A development chain's short epochs leave no time for as many probes as the real chain's."""
MAX_AT_ONCE = 4
"""Attempts at a time: each has a p2p daemon of its own."""
TIMEOUTS = ClientTimeouts(open_s=10.0, token_s=20.0)


@dataclass(frozen=True, slots=True)
class ProbeTarget:
    """A hoster, and the layers that it last committed to."""

    node_id: SubnetNodeId
    peer_id: PeerId
    layers: LayerRange


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeContext:
    """What probing needs of the node.

    ``list_targets`` returns the hosters that committed last, this node left out. ``is_validator``
    says whether this node is of class Validator now. ``list_servers`` returns the announced
    servers, this node included. ``open_client`` opens a host with a fresh key in the network.
    ``probe`` is the subnet's own, which then makes the prompts and judges the answers.
    """

    key: PeerKey
    network_id: bytes
    params: ConsensusParams
    model: ModelConfig
    block_time_s: float
    book: ProbeBook
    make_prompt: MakePrompt
    list_targets: Callable[[], Mapping[SubnetNodeId, ProbeTarget]]
    is_validator: Callable[[], bool]
    list_servers: Callable[[], Sequence[KnownServer]]
    open_client: Callable[[], AbstractAsyncContextManager[Host]]
    observe: Observe
    probe: ProbePlugin | None = None


class Prober:
    """Probes the hosters that the plan of each epoch names: one task of the node's group."""

    def __init__(
        self,
        context: ProbeContext,
        *,
        timeouts: ClientTimeouts = TIMEOUTS,
        seconds_per_probe: float = SECONDS_PER_PROBE,
    ) -> None:
        self._context = context
        self._timeouts = timeouts
        self._seconds_per_probe = seconds_per_probe
        self._position: EpochPosition | None = None
        self._news = asyncio.Event()
        self._slots = asyncio.Semaphore(MAX_AT_ONCE)

    def note_position(self, position: EpochPosition) -> None:
        """Hear where the chain stands."""
        self._position = position
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def run(self) -> None:
        """Probe until cancelled. What a peer does ends an attempt at most."""
        planned: Epoch | None = None
        async with asyncio.TaskGroup() as tasks:
            while True:
                position = await self._wait_for_head()
                if position.epoch == planned:
                    continue
                planned = position.epoch
                for probe in self.plan(position):
                    tasks.create_task(self._probe(probe, position.epoch))

    def plan(self, position: EpochPosition) -> tuple[PlannedProbe, ...]:
        """Return the epoch's probes that have no result yet."""
        context, epoch = self._context, position.epoch
        if not context.is_validator():
            return ()
        secret = derive_probe_secret(context.key, network_id=context.network_id, epoch=epoch)
        probes = plan_probes(
            secret,
            context.list_targets().keys(),
            context.book.list_failed_last(),
            params=replace(context.params, probes=self._count_probes(position)),
            epoch_length=position.length,
        )
        return tuple(p for p in probes if not context.book.is_recorded(p.node_id, epoch))

    def _count_probes(self, position: EpochPosition) -> int:
        """Return how many hosters to probe: fewer in epochs shorter than the real chain's."""
        epoch_s = position.length * self._context.block_time_s
        if not self._seconds_per_probe:
            return self._context.params.probes
        return min(self._context.params.probes, max(1, int(epoch_s / self._seconds_per_probe)))

    async def _probe(self, probe: PlannedProbe, epoch: Epoch) -> None:
        """Make a probe's attempts at their moments, and write down what they prove."""
        attempts: list[Attempt] = []
        suspects: set[PeerId] = set()
        for moment in probe.moments:
            if not await self._wait_until(moment, epoch, is_first=not attempts):
                continue
            target = self._context.list_targets().get(probe.node_id)
            if target is None:
                break
            async with self._slots:
                attempt = await self.attempt(target, avoid=suspects)
            attempts.append(attempt)
            self._context.observe(HosterProbed(epoch, probe.node_id, describe(attempt)))
            if isinstance(attempt, Passed):
                break
            if isinstance(attempt, Failed):
                suspects |= attempt.suspects
        passed = judge_attempts(attempts, self._context.params)
        if passed is not None:
            self._context.book.record(probe.node_id, epoch, passed=passed)

    async def _wait_for_head(self) -> EpochPosition:
        while True:
            news = self._news
            await news.wait()
            if self._position is not None:
                return self._position

    async def _wait_until(self, moment: float, epoch: Epoch, *, is_first: bool) -> bool:
        """Wait for a moment of the epoch; False if it was missed.

        An attempt that the one before delayed is made late, within the next epoch if need be.
        """
        latest = epoch if is_first else epoch + 1
        while True:
            news, position = self._news, self._position
            if position is None or position.epoch > latest:
                return False
            ahead = moment - position.offset if position.epoch == epoch else 0.0
            if ahead < -1 and is_first:
                return False
            if ahead < 1:
                await asyncio.sleep(max(0.0, ahead) * self._context.block_time_s)
                return True
            await news.wait()

    async def attempt(self, target: ProbeTarget, *, avoid: Collection[PeerId] = ()) -> Attempt:
        """Ask a hoster once, as a client with an unknown key. Never raises a MeshError."""
        try:
            async with self._context.open_client() as host:
                asking = _Asking(self._context, host, target, self._timeouts)
                return await asking.run(avoid)
        except MeshError as error:
            return Unclear(f"this node's own client failed: {error}")


class _Asking:
    """One attempt: its host, its routes, its question."""

    def __init__(
        self, context: ProbeContext, host: Host, target: ProbeTarget, timeouts: ClientTimeouts
    ) -> None:
        self._context = context
        self._host = host
        self._timeouts = timeouts
        layers = target.layers
        self._target = Hop(target.peer_id, LayerSpan(layers.start, layers.end))
        self._directory = Directory(host, network_id=context.network_id)
        for server in context.list_servers():
            self._add(server)
        # Not the plan's secret: what is asked need not be the same after a restart.
        self._random = Random(os.urandom(32))

    def _add(self, server: KnownServer) -> None:
        try:
            self._directory.add(server.envelope.to_bytes())
        except RecordRefused:
            return  # It has expired since.

    async def run(self, avoid: Collection[PeerId]) -> Attempt:
        """Make the attempt. Raises TransportError if the host itself fails."""
        try:
            route = plan_through(
                self._list_servers(),
                self._target,
                num_layers=self._context.model.num_layers,
                random=self._random,
                avoid=avoid,
            )
        except NoRoute as error:
            return Unclear(f"no route through it: {error}")
        companions = frozenset(hop.peer_id for hop in route) - {self._target.peer_id}
        prompt = await self._make_prompt()
        try:
            answer = await self._ask_patiently(route, prompt)
        except HopFailed as failure:
            return await self._explain(failure, route, prompt)
        return await self._compare(prompt, answer, companions, avoid)

    async def _explain(self, failure: HopFailed, route: Route, prompt: tuple[int, ...]) -> Attempt:
        """Say what a lost session proves."""
        if not await self._is_network_alive(prompt):
            return Unclear(f"no other peer answers either: {failure}")
        own_failure = failure.peer_id == route[0].peer_id == self._target.peer_id
        companions = frozenset(hop.peer_id for hop in route) - {self._target.peer_id}
        return Failed(str(failure.reason), frozenset() if own_failure else companions)

    async def _compare(
        self,
        prompt: tuple[int, ...],
        answer: Sequence[Token],
        companions: frozenset[PeerId],
        avoid: Collection[PeerId],
    ) -> Attempt:
        """Compare an answer with what another route says of its text."""
        text = (*prompt, *(token.token_id for token in answer))
        try:
            found = await self._fetch_reference(text, avoid)
        except NoRoute:
            return Passed()
        if found is None:
            return Unclear("no other route answers")
        reference, scores = found
        distance = compute_distance(
            [_get_logprob(token) for token in answer],
            [_get_logprob(score) for score in scores[-len(answer) :]],
            vocab_size=self._context.model.vocab_size,
        )
        if not await self._is_wrong(prompt, answer, distance):
            return Passed()
        others = frozenset(hop.peer_id for hop in reference) - {self._context.key.peer_id}
        return Failed(f"its answer is {distance:.2g} away", companions | others)

    async def _make_prompt(self) -> tuple[int, ...]:
        """Return what is asked. Raises PluginFailed."""
        probe, vocab_size = self._context.probe, self._context.model.vocab_size
        if probe is None:
            return self._context.make_prompt(self._random)
        # In a thread: a plug-in's call blocks.
        return await asyncio.to_thread(
            probe.make_prompt, self._random, vocab_size=vocab_size, max_tokens=MAX_PROMPT_TOKENS
        )

    async def _is_wrong(
        self, prompt: tuple[int, ...], answer: Sequence[Token], distance: float
    ) -> bool:
        """Whether an answer at this distance counts as a failure. Raises PluginFailed."""
        probe = self._context.probe
        if probe is None:
            return is_too_far(distance, self._context.params)
        token_ids = [token.token_id for token in answer]
        return await asyncio.to_thread(probe.is_wrong, prompt, token_ids, distance)

    async def _ask_patiently(self, route: Route, prompt: tuple[int, ...]) -> tuple[Token, ...]:
        """Ask, and ask again where a hoster is full. Raises HopFailed."""
        for pause_s in BUSY_PAUSES_S:
            try:
                return await self._ask(route, prompt)
            except HopFailed as failure:
                if failure.reason is not RefusalReason.BUSY:
                    raise
            await asyncio.sleep(pause_s)
        return await self._ask(route, prompt)

    async def _ask(self, route: Route, prompt: tuple[int, ...]) -> tuple[Token, ...]:
        model, random = self._context.model, self._random
        sampling = Sampling(
            temperature=random.choice(TEMPERATURES),
            seed=random.getrandbits(32),
            stop_token_ids=model.eos_token_ids,
        )
        request = OpenSession(
            make_session_id(),
            route,
            sampling,
            prompt,
            max_new_tokens=random.randint(MIN_NEW_TOKENS, MAX_NEW_TOKENS),
        )
        await self._dial(route[0].peer_id)
        tokens = stream_tokens(
            self._host, request, vocab_size=model.vocab_size, timeouts=self._timeouts
        )
        async with aclosing(tokens):
            return tuple([token async for token in tokens])

    async def _fetch_reference(
        self, text: tuple[int, ...], avoid: Collection[PeerId] = ()
    ) -> tuple[Route, tuple[Token, ...]] | None:
        """Return another route and its scores of a text; None where none answers.

        Raises NoRoute where the hoster alone serves some layer. A lost session proves nothing
        of the hop that it names: a hop before it may have made that up. So the next route is
        without the named hop, or else without those that named it.
        """
        named: set[PeerId] = set()
        accusers: set[PeerId] = set()
        for attempt in range(MAX_REFERENCES):
            try:
                route = self._plan_reference(named, {*avoid, *accusers})
            except NoRoute:
                if not attempt:
                    raise
                try:
                    route = self._plan_reference(accusers, avoid)
                except NoRoute:
                    return None
            request = OpenSession(make_session_id(), route, Sampling(), text, max_new_tokens=0)
            try:
                await self._dial(route[0].peer_id)
                return route, await fetch_scores(self._host, request, timeouts=self._timeouts)
            except HopFailed as failure:
                lost = failure.peer_id or route[0].peer_id
                named.add(lost)
                peers = [hop.peer_id for hop in route]
                accusers |= set(peers[: peers.index(lost)])
        return None

    def _plan_reference(self, without: set[PeerId], avoid: Collection[PeerId]) -> Route:
        return plan_around(
            [server for server in self._list_servers() if server.peer_id not in without],
            self._target.peer_id,
            num_layers=self._context.model.num_layers,
            random=self._random,
            avoid=avoid,
            prefer=self._context.key.peer_id,
        )

    async def _is_network_alive(self, prompt: tuple[int, ...]) -> bool:
        """Whether others serve this client: if not, it is no news that the hoster does not."""
        try:
            if len(prompt) > 1 and await self._fetch_reference(prompt) is not None:
                return True
        except NoRoute:
            pass
        others = [
            server.peer_id
            for server in self._directory.list_servers()
            if server.peer_id not in (self._target.peer_id, self._context.key.peer_id)
        ]
        self._random.shuffle(others)
        for peer in others[:MAX_ASKED_PEERS]:
            try:
                await self._directory.ensure_connected(peer)
                await fetch_info(self._host, peer, timeout_s=self._timeouts.probe_s)
            except PeerError:
                continue
            return True
        return False

    async def _dial(self, peer: PeerId) -> None:
        """Connect to a first hop. Raises HopFailed that blames it."""
        try:
            await self._directory.ensure_connected(peer)
        except PeerUnreachable as error:
            raise HopFailed(peer, RefusalReason.HOP_LOST, str(error)) from error

    def _list_servers(self) -> tuple[RouteServer, ...]:
        return self._directory.list_route_servers()


def _get_logprob(token: Token) -> float:
    if token.logprob is None:
        raise ValueError("a token of a session has a log probability")
    return token.logprob


def describe(attempt: Attempt) -> str:
    """Return one line for people."""
    match attempt:
        case Passed():
            return "passed"
        case Failed(reason, suspects):
            return f"failed: {reason}" + (f", or one of {len(suspects)} others" if suspects else "")
        case Unclear(reason):
            return f"unclear: {reason}"
