"""The hoster's side of sessions that a client drives: who is let in, and which role is played."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from keys.peer import PeerId
from mesh.errors import PeerError
from mesh.inference.accounts import Accounts
from mesh.inference.drive_wire import (
    DRIVE_METHOD,
    DriveSession,
    compute_max_logit_rows,
    decode_drive,
    encode_drive,
)
from mesh.inference.driven import DrivenRange
from mesh.inference.engine import Engine
from mesh.inference.hops import NextHop, SessionTimeouts
from mesh.inference.refusals import RefusalReason, Refused, find_loss_reason
from mesh.inference.wire import ErrorFrame, encode_error
from mesh.p2p.interface import Host, Stream

OpenStream = Callable[[PeerId, str], Awaitable[Stream]]


class DriveServer:
    """Serves driven sessions of one engine. ``open_stream`` dials the next range if need be."""

    def __init__(
        self,
        host: Host,
        engine: Engine,
        *,
        timeouts: SessionTimeouts,
        open_stream: OpenStream,
        accounts: Accounts,
    ) -> None:
        self._host = host
        self._engine = engine
        self._timeouts = timeouts
        self._open_stream = open_stream
        self._accounts = accounts
        self._is_draining = False

    def register(self) -> None:
        """Offer the method on the host."""
        self._host.serve_stream(DRIVE_METHOD, self._handle)

    def drain(self) -> None:
        """Refuse new sessions from now on."""
        self._is_draining = True

    async def _handle(self, stream: Stream) -> None:
        """Serve one session until its client goes; a refusal leaves as an ERROR frame."""
        own_hop = 0
        try:
            request = await self._receive_request(stream)
            own_hop = request.hop_index
            await self._serve(request, stream)
        except Refused as refused:
            hop_index = own_hop if refused.hop_index is None else refused.hop_index
            await stream.send(encode_error(ErrorFrame(refused.reason, refused.detail, hop_index)))

    async def _receive_request(self, stream: Stream) -> DriveSession:
        try:
            async with asyncio.timeout(self._timeouts.open_s):
                frame = await stream.receive()
        except TimeoutError as error:
            raise Refused(RefusalReason.TIMEOUT, "no request came") from error
        request = decode_drive(frame)
        self._check(request, stream.peer_id)
        return request

    def _check(self, request: DriveSession, caller: PeerId) -> None:
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
        if not compute_max_logit_rows(config.vocab_size):
            raise Refused(
                RefusalReason.WRONG_SHAPE, f"{config.vocab_size} logits do not fit into a frame"
            )

    async def _serve(self, request: DriveSession, upstream: Stream) -> None:
        is_first = request.hop_index == 0
        account = self._accounts.find(upstream.peer_id, is_first=is_first)
        with self._engine.admit(
            request.hop.span, capacity=request.capacity, account=account
        ) as session:
            role = DrivenRange(self._engine, session, request, upstream, self._timeouts)
            if request.is_last:
                await (role.run_first(None) if is_first else role.run_last())
                return
            async with self._open_next(request) as next_hop:
                await (role.run_first(next_hop) if is_first else role.run_middle(next_hop))

    @asynccontextmanager
    async def _open_next(self, request: DriveSession) -> AsyncIterator[NextHop]:
        """Open the session at the next range; leaving drops it there too."""
        following = request.for_next_hop()
        try:
            stream = await self._open_stream(following.hop.peer_id, DRIVE_METHOD)
        except PeerError as error:
            raise Refused(
                find_loss_reason(error), str(error), hop_index=following.hop_index
            ) from error
        try:
            next_hop = NextHop(stream, following.hop_index)
            await next_hop.send(encode_drive(following))
            yield next_hop
        finally:
            await stream.abort()
