"""The hoster's side of sessions, of both kinds: who is let in, and how ranges reach each other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import (
    AbstractContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
)
from dataclasses import dataclass, replace
from functools import partial
from typing import Generic, TypeVar

from keys.peer import PeerId, PeerKey
from mesh.errors import PeerError, PeerRefusal, StreamClosed
from mesh.inference.accounts import Account, Accounts
from mesh.inference.drive_wire import (
    DRIVE_METHOD,
    HIDDEN_METHOD,
    DriveSession,
    decode_drive,
    encode_drive,
)
from mesh.inference.driven_range import DrivenRange, HiddenRange, check_drive, check_hidden
from mesh.inference.engine import Engine
from mesh.inference.flight_wire import (
    MAX_IN_FLIGHT,
    MIN_IN_FLIGHT,
    PIPELINED_METHOD,
    decode_pipelined,
    encode_pipelined,
)
from mesh.inference.hops import Links, NextHop, RangeRole, SessionTimeouts, run_guarded
from mesh.inference.pipeline import GenerationRange, check_generation
from mesh.inference.prefixes import make_prefix, mix_salt
from mesh.inference.receipt_wire import RECEIPT_METHOD, decode_receipted, encode_receipted
from mesh.inference.receipts import RunningReceipt
from mesh.inference.refill_wire import (
    RESUMABLE_DRIVE_METHOD,
    RESUMABLE_METHOD,
    decode_resumable,
    decode_resumable_drive,
    encode_resumable,
    encode_resumable_drive,
)
from mesh.inference.refills import Refills, Resumable
from mesh.inference.refusals import RefusalReason, Refused, find_loss_reason
from mesh.inference.shaped_wire import SHAPED_METHOD, decode_shaped, encode_shaped
from mesh.inference.steps import EngineSession
from mesh.inference.window_wire import (
    MAX_WINDOW_ROWS,
    WINDOWED_METHOD,
    decode_windowed,
    encode_windowed,
)
from mesh.inference.wire import (
    LOOP_METHOD,
    SESSION_METHOD,
    ErrorFrame,
    OpenSession,
    RouteRequest,
    decode_bind,
    decode_open,
    encode_bind,
    encode_error,
    encode_open,
)
from mesh.model.config import ModelConfig
from mesh.p2p.interface import Host, Stream, StreamHandler
from mesh.p2p.rpc_guard import RpcReason
from mesh.routing.peer_watch import PeerWatch

KNOWN_S = 600.0
"""How long a peer is taken to know a method that it has accepted, or not to know a refused one."""
MAX_KNOWN = 1024
"""Methods of peers of which that is remembered."""
MISSES_OF_NEXT = 4
"""Pings that the next range may miss: a prompt's rows fill the link to it, and a client that can
ping it finds it out earlier."""

R = TypeVar("R", OpenSession, DriveSession)
Ways = Mapping[str, Callable[[], bytes]]
"""Methods that open a stream, the best first, and the first frame of each."""


def check_resumable(request: OpenSession, config: ModelConfig) -> None:
    """Raise Refused unless the model can answer the request, with tokens."""
    if request.wants_scores:
        raise Refused(RefusalReason.BAD_PARAMETER, "scores do not go on over another route")
    check_generation(request, config)


@dataclass(frozen=True, slots=True)
class SessionKind(Generic[R]):
    """One kind of session: its method, its request, and the role of a range in it.

    ``check`` raises Refused for a request that the model cannot serve.
    """

    method: str
    decode: Callable[[bytes], R]
    encode: Callable[[R], bytes]
    check: Callable[[R, ModelConfig], None]
    role: Callable[[Engine, EngineSession, R, Stream, SessionTimeouts], RangeRole[R]]


GENERATION = SessionKind(
    SESSION_METHOD, decode_open, encode_open, check_generation, GenerationRange
)
"""The hosters choose the tokens."""
SHAPED = SessionKind(SHAPED_METHOD, decode_shaped, encode_shaped, check_generation, GenerationRange)
"""The hosters choose the tokens, after something has changed the logits."""
WINDOWED = SessionKind(
    WINDOWED_METHOD, decode_windowed, encode_windowed, check_generation, GenerationRange
)
"""The hosters choose the tokens, and verify drafts; the range before asks for it."""
PIPELINED = SessionKind(
    PIPELINED_METHOD, decode_pipelined, encode_pipelined, check_generation, GenerationRange
)
"""The same with several windows under way."""
RESUMABLE = SessionKind(
    RESUMABLE_METHOD, decode_resumable, encode_resumable, check_resumable, GenerationRange
)
"""The hosters choose the tokens, and may go on with the session over a changed route."""
DRIVEN = SessionKind(DRIVE_METHOD, decode_drive, encode_drive, check_drive, DrivenRange)
"""The client chooses the tokens, from the logits that the hosters send."""
RESUMABLE_DRIVE = SessionKind(
    RESUMABLE_DRIVE_METHOD, decode_resumable_drive, encode_resumable_drive, check_drive, DrivenRange
)
"""The client chooses the tokens, and may go on with the session over a changed route."""
HIDDEN = SessionKind(HIDDEN_METHOD, decode_drive, encode_drive, check_hidden, HiddenRange)
"""The client sends texts, and gets their last hidden states."""


def make_receipted_kind(key: PeerKey, host: Host) -> SessionKind[OpenSession]:
    """Return the kind in which the hosters choose the tokens and sign a receipt, one with ``key``.

    The request within may be shaped or not.
    """

    def make_role(
        engine: Engine,
        session: EngineSession,
        request: OpenSession,
        upstream: Stream,
        timeouts: SessionTimeouts,
    ) -> GenerationRange:
        receipt = RunningReceipt(key, host.network_id, request)
        return GenerationRange(engine, session, request, upstream, timeouts, receipt)

    return SessionKind(
        RECEIPT_METHOD, decode_receipted, encode_receipted, check_receipted, make_role
    )


def check_receipted(request: OpenSession, config: ModelConfig) -> None:
    """Raise Refused unless the model can answer the request, with tokens."""
    if request.wants_scores:
        raise Refused(RefusalReason.BAD_PARAMETER, "scores have no receipt")
    check_generation(request, config)


@dataclass(frozen=True, slots=True)
class _LoopPort:
    """Where the last range's answers arrive at the first one."""

    last_peer: PeerId
    put: Callable[[bytes], Awaitable[None]]


class SessionServer:
    """Serves sessions of one engine on one host.

    ``accounts`` say whom a session is counted against. ``connect`` makes sure that a peer can be
    dialled before a stream to it is opened (``Directory.ensure_connected``). ``key`` is the host's
    and signs receipts; without it no request for one is served. With ``speculates`` answers that
    begin here are drafted; drafts of others are verified anyway.
    """

    def __init__(
        self,
        host: Host,
        engine: Engine,
        *,
        timeouts: SessionTimeouts | None = None,
        accounts: Accounts | None = None,
        connect: Callable[[PeerId], Awaitable[None]] | None = None,
        key: PeerKey | None = None,
        speculates: bool = True,
    ) -> None:
        self._host = host
        self._engine = engine
        self._measures = engine.measures
        self._timeouts = timeouts or SessionTimeouts()
        self._accounts = accounts or Accounts()
        self._connect = connect
        self._key = key
        self._window = MAX_WINDOW_ROWS if speculates and engine.takes_windows else 0
        self.max_in_flight = MAX_IN_FLIGHT
        """How many windows of an answer that begins here may be under way; 1: no further ones."""
        self._refills = Refills(engine, self._timeouts)
        self._ports: dict[bytes, _LoopPort] = {}
        # Whether a peer knows a method, and until when that is taken for granted.
        self._known: dict[tuple[PeerId, str], tuple[bool, float]] = {}
        self._watch = PeerWatch(host, connect or _connect_nothing)
        self._is_draining = False

    def register(self) -> None:
        """Offer the session methods on the host."""
        for method, serve, _ in self._list_methods():
            self._host.serve_stream(method, serve)
        self._host.serve_stream(LOOP_METHOD, self._handle_loop)

    def _list_methods(self) -> list[tuple[str, StreamHandler, StreamHandler]]:
        """Return each kind's method, what serves it and what turns it away."""
        kinds = (GENERATION, SHAPED, WINDOWED, PIPELINED, RESUMABLE)
        methods = [self._make_method(kind) for kind in kinds]
        if self._key is not None:
            methods.append(self._make_method(make_receipted_kind(self._key, self._host)))
        return [*methods, *map(self._make_method, (DRIVEN, RESUMABLE_DRIVE, HIDDEN))]

    def _make_method(self, kind: SessionKind[R]) -> tuple[str, StreamHandler, StreamHandler]:
        turn_away = partial(_turn_away, kind, self._timeouts.open_s)
        return kind.method, partial(self._handle, kind), turn_away

    def drain(self) -> None:
        """Refuse new sessions from now on; the open ones go on."""
        self._is_draining = True

    def close(self) -> None:
        """Refuse sessions from now on, and let go of the engine: its weights leave the memory.

        Sessions that are open must have ended.
        """
        self._is_draining = True
        for method, _, turn_away in self._list_methods():
            self._host.serve_stream(method, turn_away)
        self._host.serve_stream(LOOP_METHOD, _turn_loop_away)
        self._refills.close()
        del self._engine, self._refills

    async def _handle(self, kind: SessionKind[R], stream: Stream) -> None:
        """Serve one session until it ends; a refusal leaves as an ERROR frame."""
        own_hop = 0
        try:
            try:
                async with asyncio.timeout(self._timeouts.open_s):
                    frame = await stream.receive()
            except TimeoutError as error:
                raise Refused(RefusalReason.TIMEOUT, "no request came") from error
            request = self._choose_window(kind.decode(frame))
            self._check(request, stream.peer_id)
            kind.check(request, self._engine.config)
            own_hop = request.hop_index
            await self._serve(kind, request, stream)
        except Refused as refused:
            self._measures.note_failure(refused.reason)
            await _send_refusal(stream, refused, own_hop)

    def _choose_window(self, request: R) -> R:
        """Return the request with the windows that this hoster takes part in.

        The first range chooses. Where an engine computes no windows, the session is answered as an
        ordinary one, and so the first range does not draft.
        """
        if not isinstance(request, OpenSession):
            return request
        if request.is_first:
            # What a receipt tells of is one token a step.
            is_plain = request.wants_scores or request.receipt_salt or not self._window
            in_flight = 0 if is_plain or request.is_last else self._get_in_flight(request)
            window = 0 if is_plain else self._window
            return replace(request, window=window, in_flight=in_flight)
        return request if self._engine.takes_windows else replace(request, window=0, in_flight=0)

    def _get_in_flight(self, request: OpenSession) -> int:
        """Return how many windows may be under way: one for each range, and one for the links."""
        most = min(len(request.route) + 1, self.max_in_flight)
        return most if most >= MIN_IN_FLIGHT else 0

    def _check(self, request: RouteRequest, caller: PeerId) -> None:
        """Raise Refused unless the request's route makes sense at this hoster."""
        goes_on = isinstance(request, Resumable) and self._refills.knows(request)
        if self._is_draining and not goes_on:
            raise Refused(RefusalReason.DRAINING, hop_index=request.hop_index)
        num_layers = self._engine.config.num_layers
        if request.hop.peer_id != self._host.peer_id:
            raise Refused(RefusalReason.MALFORMED, "this hop of the route is another peer")
        if not request.is_first and request.route[request.hop_index - 1].peer_id != caller:
            raise Refused(RefusalReason.MALFORMED, "the caller is not the hop before")
        if request.route[-1].span.end != num_layers:
            raise Refused(RefusalReason.WRONG_RANGE, f"the model has {num_layers} blocks")

    async def _serve(self, kind: SessionKind[R], request: R, upstream: Stream) -> None:
        account = self._accounts.find(upstream.peer_id, is_first=request.is_first)
        admit = partial(self._admit, request, upstream.peer_id, account)
        if isinstance(request, Resumable) and request.ticket is not None:
            caller = upstream.peer_id
            async with self._refills.open(request, caller, account, admit) as (session, refill):
                role = kind.role(self._engine, session, request, upstream, self._timeouts)
                if isinstance(role, GenerationRange | DrivenRange):
                    role = replace(role, refill=refill)
                links = self._make_links(kind, request, upstream, session)
                await run_guarded(role.run(links), refill.watch())
            return
        with admit() as session:
            role = kind.role(self._engine, session, request, upstream, self._timeouts)
            await role.run(self._make_links(kind, request, upstream, session))

    def _admit(
        self, request: Resumable, caller: PeerId, account: Account
    ) -> AbstractContextManager[EngineSession]:
        """Return what opens a new session. Raises Refused."""
        if self._is_draining:
            # It asked to go on with a session, and what is here of it is of no use.
            raise Refused(RefusalReason.DRAINING)
        return self._engine.admit(
            request.hop.span,
            capacity=request.capacity,
            account=account,
            promised=request.promised,
            prefix=make_prefix(request, caller, is_deterministic=self._engine.is_deterministic),
        )

    def _make_links(
        self, kind: SessionKind[R], request: R, upstream: Stream, session: EngineSession
    ) -> Links:
        self._measures.sessions_opened += 1
        following = partial(_prepare_next, request, upstream.peer_id, session)
        return Links(
            open_next=lambda: self._open_next(kind, following()),
            open_loop=lambda: self._open_loop(request),
            take_loop=lambda put: self._take_loop(request, put),
        )

    @asynccontextmanager
    async def _open_next(self, kind: SessionKind[R], following: R) -> AsyncIterator[NextHop]:
        """Open the session at the next range; leaving drops it there too."""
        index, ways = following.hop_index, _list_ways(kind, following)
        async with self._open_stream(following, index, ways) as (stream, method):
            window = in_flight = 0
            is_windowed = method in (WINDOWED_METHOD, PIPELINED_METHOD, RESUMABLE_METHOD)
            if isinstance(following, OpenSession) and is_windowed:
                window = following.window
                in_flight = 0 if method == WINDOWED_METHOD else following.in_flight
            next_hop = NextHop(stream, index, window=window, in_flight=in_flight)
            peer = following.hop.peer_id
            self._watch.introduce((peer,))
            with self._watch.watch((peer,), next_hop.note_silence, misses=MISSES_OF_NEXT):
                yield next_hop

    @asynccontextmanager
    async def _open_loop(self, request: RouteRequest) -> AsyncIterator[Stream]:
        """Open the way from the last range back to the first."""
        ways = {LOOP_METHOD: lambda: encode_bind(request.session_id)}
        async with self._open_stream(request, 0, ways) as (stream, _):
            yield stream
            await self._finish_loop(stream)

    @asynccontextmanager
    async def _open_stream(
        self, request: RouteRequest, hop_index: int, ways: Ways
    ) -> AsyncIterator[tuple[Stream, str]]:
        """Open a stream to a hop by the first of ``ways`` that it knows, and send its first frame.

        Yields the stream and the method. Raises Refused that blames the hop.
        """
        peer = request.route[hop_index].peer_id
        async with AsyncExitStack() as stack:
            try:
                if self._connect is not None:
                    await self._connect(peer)
                stream, method = await self._dial(peer, [*ways])
                stack.push_async_callback(stream.abort)
                await stream.send(ways[method]())
            except PeerError as error:
                raise Refused(find_loss_reason(error), str(error), hop_index=hop_index) from error
            yield stream, method

    async def _dial(self, peer: PeerId, methods: Sequence[str]) -> tuple[Stream, str]:
        """Open a stream by the first method that a peer knows; one of an earlier version may know
        the last one only.
        """
        timeout_s, now_s = self._timeouts.open_s, time.monotonic()
        for method in methods[:-1]:
            is_known, until_s = self._known.get((peer, method), (True, 0.0))
            is_remembered = now_s < until_s
            if is_remembered and not is_known:
                continue
            try:
                # The refusal of an early stream is heard too late for another method.
                stream = await self._host.open_stream(
                    peer, method, timeout_s=timeout_s, early=is_remembered
                )
            except PeerRefusal as refusal:
                if refusal.reason != RpcReason.UNKNOWN_METHOD:
                    raise
                self._remember(peer, method, is_known=False, until_s=now_s + KNOWN_S)
            else:
                if not is_remembered:
                    self._remember(peer, method, is_known=True, until_s=now_s + KNOWN_S)
                return stream, method
        method = methods[-1]
        stream = await self._host.open_stream(peer, method, timeout_s=timeout_s, early=True)
        return stream, method

    def _remember(self, peer: PeerId, method: str, *, is_known: bool, until_s: float) -> None:
        self._known[peer, method] = (is_known, until_s)
        while len(self._known) > MAX_KNOWN:
            del self._known[next(iter(self._known))]

    async def _finish_loop(self, stream: Stream) -> None:
        """Let the last token arrive: aborting at once could overtake it."""
        try:
            async with asyncio.timeout(self._timeouts.open_s):
                await stream.finish()
                await stream.receive()
        except (PeerError, TimeoutError):
            return

    @contextmanager
    def _take_loop(
        self, request: RouteRequest, put: Callable[[bytes], Awaitable[None]]
    ) -> Iterator[None]:
        """Let the last range of a session open its loop stream, and ``put`` take its frames."""
        if request.session_id in self._ports:
            raise Refused(RefusalReason.MALFORMED, "the session id is in use")
        self._ports[request.session_id] = _LoopPort(request.route[-1].peer_id, put)
        try:
            yield
        finally:
            del self._ports[request.session_id]

    async def _handle_loop(self, stream: Stream) -> None:
        """Take the answers to a session that this hoster is the first range of."""
        try:
            async with asyncio.timeout(self._timeouts.open_s):
                frame = await stream.receive()
            port = self._ports.get(decode_bind(frame))
            if port is None or port.last_peer != stream.peer_id:
                raise Refused(RefusalReason.UNKNOWN_SESSION)
            while True:
                await port.put(await stream.receive())
        except (TimeoutError, StreamClosed):
            return
        except Refused as refused:
            await _send_refusal(stream, refused, 0)


def _prepare_next(request: R, caller: PeerId, session: EngineSession) -> R:
    """Return the request for the next range: whose session it is, and what need not be sent."""
    following = request.for_next_hop()
    if isinstance(following, OpenSession):
        salt = mix_salt(following.salt, caller)
        # What need not be sent of a refill, the later ranges say.
        return replace(following, salt=salt, reused=0 if following.is_refill else session.reused)
    return following


async def _turn_away(kind: SessionKind[R], open_s: float, stream: Stream) -> None:
    """Refuse a session where no layers are served at the moment."""
    try:
        async with asyncio.timeout(open_s):
            request = kind.decode(await stream.receive())
    except (TimeoutError, Refused):
        return
    await _send_refusal(stream, Refused(RefusalReason.DRAINING), request.hop_index)


async def _connect_nothing(peer: PeerId) -> None:
    """Every peer can be dialled already."""


async def _turn_loop_away(stream: Stream) -> None:
    await _send_refusal(stream, Refused(RefusalReason.UNKNOWN_SESSION), 0)


def _list_ways(kind: SessionKind[R], following: R) -> Ways:
    """Return how the session may be opened at the next range."""
    if not isinstance(following, OpenSession) or not following.window or following.ticket:
        return {kind.method: lambda: kind.encode(following)}
    plain = SHAPED if following.sampling.is_shaped else GENERATION
    pipelined: Ways = {PIPELINED_METHOD: lambda: encode_pipelined(following)}
    return {
        **(pipelined if following.in_flight else {}),
        WINDOWED_METHOD: lambda: encode_windowed(following),
        plain.method: lambda: plain.encode(following),
    }


async def _send_refusal(stream: Stream, refused: Refused, own_hop: int) -> None:
    """Tell the caller why, and which hop is to blame: this one unless the refusal names another."""
    hop_index = own_hop if refused.hop_index is None else refused.hop_index
    await stream.send(encode_error(ErrorFrame(refused.reason, refused.detail, hop_index)))
