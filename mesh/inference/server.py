"""The hoster's side of generation sessions: who is let in, and which role a session plays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from keys.peer import PeerId
from mesh.errors import InvalidRequest, PeerError, StreamClosed
from mesh.inference.accounts import Accounts
from mesh.inference.drive_server import DriveServer
from mesh.inference.engine import Engine
from mesh.inference.first_range import FirstRange, make_first_range
from mesh.inference.hops import NextHop, SessionTimeouts
from mesh.inference.pipeline import RangeSession
from mesh.inference.refusals import RefusalReason, Refused, find_loss_reason
from mesh.inference.wire import (
    LOOP_METHOD,
    SESSION_METHOD,
    ErrorFrame,
    OpenSession,
    decode_bind,
    decode_open,
    encode_bind,
    encode_error,
    encode_open,
)
from mesh.p2p.interface import Host, Stream


@dataclass(frozen=True, slots=True)
class _LoopPort:
    """Where the last range's tokens arrive at the first one."""

    last_peer: PeerId
    session: FirstRange


class SessionServer:
    """Serves sessions of one engine on one host.

    ``accounts`` say whom a session is counted against. ``connect`` makes sure that a peer can be
    dialled before a stream to it is opened (``Directory.ensure_connected``).
    """

    def __init__(
        self,
        host: Host,
        engine: Engine,
        *,
        timeouts: SessionTimeouts | None = None,
        accounts: Accounts | None = None,
        connect: Callable[[PeerId], Awaitable[None]] | None = None,
    ) -> None:
        self._host = host
        self._engine = engine
        self._timeouts = timeouts or SessionTimeouts()
        self._accounts = accounts or Accounts()
        self._connect = connect
        self._ports: dict[bytes, _LoopPort] = {}
        self._is_draining = False
        self._driven = DriveServer(
            host,
            engine,
            timeouts=self._timeouts,
            open_stream=self._open_stream,
            accounts=self._accounts,
        )

    def register(self) -> None:
        """Offer the session methods on the host."""
        self._host.serve_stream(SESSION_METHOD, self._handle_session)
        self._host.serve_stream(LOOP_METHOD, self._handle_loop)
        self._driven.register()

    def drain(self) -> None:
        """Refuse new sessions from now on; the open ones go on."""
        self._is_draining = True
        self._driven.drain()

    async def _handle_session(self, stream: Stream) -> None:
        """Serve one session until it ends; a refusal leaves as an ERROR frame."""
        own_hop = 0
        try:
            request = await self._receive_request(stream)
            own_hop = request.hop_index
            await self._serve(request, stream)
        except Refused as refused:
            hop_index = own_hop if refused.hop_index is None else refused.hop_index
            error = ErrorFrame(refused.reason, refused.detail, hop_index)
            await stream.send(encode_error(error))

    async def _receive_request(self, stream: Stream) -> OpenSession:
        try:
            async with asyncio.timeout(self._timeouts.open_s):
                frame = await stream.receive()
        except TimeoutError as error:
            raise Refused(RefusalReason.TIMEOUT, "no request came") from error
        request = decode_open(frame)
        self._check(request, stream.peer_id)
        return request

    def _check(self, request: OpenSession, caller: PeerId) -> None:
        """Raise Refused unless the request makes sense at this hoster."""
        config = self._engine.config
        if self._is_draining:
            raise Refused(RefusalReason.DRAINING, hop_index=request.hop_index)
        if request.hop.peer_id != self._host.peer_id:
            raise Refused(RefusalReason.MALFORMED, "this hop of the route is another peer")
        if request.hop_index and request.route[request.hop_index - 1].peer_id != caller:
            raise Refused(RefusalReason.MALFORMED, "the caller is not the hop before")
        if request.route[-1].span.end != config.num_layers:
            raise Refused(RefusalReason.WRONG_RANGE, f"the model has {config.num_layers} blocks")
        wanted = len(request.token_ids) + request.max_new_tokens
        if request.first_index >= len(request.token_ids):
            raise Refused(RefusalReason.BAD_PARAMETER, "the answer so far stands in the prompt")
        if request.wants_scores and len(request.token_ids) < 2:
            raise Refused(RefusalReason.BAD_PARAMETER, "a prompt's first token has no score")
        if wanted > config.max_context:
            raise Refused(
                RefusalReason.CONTEXT_OVERFLOW,
                f"{len(request.token_ids)} tokens and {request.max_new_tokens} new ones do not "
                f"fit into a context of {config.max_context}",
            )
        if max(request.token_ids) >= config.vocab_size:
            raise Refused(
                RefusalReason.TOKEN_OUT_OF_RANGE, f"the vocabulary has {config.vocab_size} tokens"
            )
        try:
            request.sampling.check()
        except InvalidRequest as error:
            raise Refused(RefusalReason.BAD_PARAMETER, str(error)) from error

    async def _serve(self, request: OpenSession, upstream: Stream) -> None:
        is_first = request.hop_index == 0
        capacity = len(request.token_ids) + request.max_new_tokens
        account = self._accounts.find(upstream.peer_id, is_first=is_first)
        with self._engine.admit(request.hop.span, capacity=capacity, account=account) as session:
            role = RangeSession(self._engine, session, request, upstream, self._timeouts)
            if is_first and request.is_last:
                await role.run_only()
            elif is_first:
                await self._serve_first(role)
            elif request.is_last:
                await self._serve_last(role)
            else:
                async with self._open_next(request) as next_hop:
                    await role.run_middle(next_hop)

    async def _serve_first(self, role: RangeSession) -> None:
        request = role.request
        if request.session_id in self._ports:
            raise Refused(RefusalReason.MALFORMED, "the session id is in use")
        session = make_first_range(role)
        self._ports[request.session_id] = _LoopPort(request.route[-1].peer_id, session)
        try:
            async with self._open_next(request) as next_hop:
                await session.run(next_hop)
        finally:
            del self._ports[request.session_id]

    async def _serve_last(self, role: RangeSession) -> None:
        if len(role.request.route) == 2:
            return await role.run_last(role.upstream)
        async with self._open_loop(role.request) as back:
            await role.run_last(back)

    @asynccontextmanager
    async def _open_next(self, request: OpenSession) -> AsyncIterator[NextHop]:
        """Open the session at the next range; leaving drops it there too."""
        following = request.for_next_hop()
        try:
            stream = await self._open_stream(following.hop.peer_id, SESSION_METHOD)
        except PeerError as error:
            raise Refused(
                find_loss_reason(error), str(error), hop_index=following.hop_index
            ) from error
        try:
            next_hop = NextHop(stream, following.hop_index)
            await next_hop.send(encode_open(following))
            yield next_hop
        finally:
            await stream.abort()

    @asynccontextmanager
    async def _open_loop(self, request: OpenSession) -> AsyncIterator[Stream]:
        """Open the way back to the first range."""
        try:
            stream = await self._open_stream(request.route[0].peer_id, LOOP_METHOD)
        except PeerError as error:
            raise Refused(find_loss_reason(error), str(error), hop_index=0) from error
        try:
            await stream.send(encode_bind(request.session_id))
            yield stream
            await self._finish_loop(stream)
        finally:
            await stream.abort()

    async def _open_stream(self, peer: PeerId, method: str) -> Stream:
        if self._connect is not None:
            await self._connect(peer)
        return await self._host.open_stream(peer, method, timeout_s=self._timeouts.open_s)

    async def _finish_loop(self, stream: Stream) -> None:
        """Let the last token arrive: aborting at once could overtake it."""
        try:
            async with asyncio.timeout(self._timeouts.open_s):
                await stream.finish()
                await stream.receive()
        except (PeerError, TimeoutError):
            return

    async def _handle_loop(self, stream: Stream) -> None:
        """Take the tokens of a session that this hoster is the first range of."""
        try:
            async with asyncio.timeout(self._timeouts.open_s):
                frame = await stream.receive()
            port = self._ports.get(decode_bind(frame))
            if port is None or port.last_peer != stream.peer_id:
                raise Refused(RefusalReason.UNKNOWN_SESSION)
            while True:
                await port.session.put(await stream.receive())
        except (TimeoutError, StreamClosed):
            return
        except Refused as refused:
            await stream.send(encode_error(ErrorFrame(refused.reason, refused.detail, 0)))
