"""The thread that owns a session: blocking calls leave the event loop here, with a deadline."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from subnet.chain.block_time import DEFAULT_BLOCK_TIME_MS
from subnet.chain.endpoints import Endpoints
from subnet.chain.rpc_errors import AnotherChain, PoolRefused, RpcRefused, SessionEnded
from subnet.errors import ChainMismatch, ChainUnavailable

if TYPE_CHECKING:
    from subnet.chain.chain_session import ChainSession

logger = logging.getLogger(__name__)

T = TypeVar("T")

MIN_CALL_TIMEOUT_S = 2.0
CONNECT_TIMEOUT_S = 20.0
"""On top of the call's own time where a session is opened first: metadata takes long to decode."""
MAX_ATTEMPTS = 3


class ChainWorker:
    """One thread, one session at a time, reopened when it breaks, at the endpoint whose turn it is.

    The genesis of the first session binds the later ones. ``call_timeout_s`` None means a block.
    """

    def __init__(
        self,
        endpoints: Endpoints,
        *,
        call_timeout_s: float | None = None,
        expected_genesis: bytes | None = None,
    ) -> None:
        self._endpoints = endpoints
        self._url = endpoints.first
        self._given_timeout_s = call_timeout_s
        self._expected_genesis = expected_genesis
        self._session: ChainSession | None = None
        self._lock = asyncio.Lock()
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="chain")
        self.block_time_s = DEFAULT_BLOCK_TIME_MS / 1000
        """The chain's, once a session was open."""

    @property
    def url(self) -> str:
        """The endpoint in use."""
        return self._url

    async def call(
        self,
        work: Callable[[ChainSession], T],
        *,
        attempts: int = MAX_ATTEMPTS,
        timeout_s: float | None = None,
    ) -> T:
        """Run ``work`` with the session and return its result.

        An endpoint that does not answer, refuses or sends what cannot be decoded is left for the
        next one, and ``work`` repeated, ``attempts`` times in all: more than one attempt is for
        work that may be repeated. Raises ChainUnavailable after the last, and at once what else
        ``work`` raises.
        """
        may_reopen = attempts > 1
        while True:
            try:
                return await self._attempt(work, timeout_s or self.call_timeout_s)
            except ChainUnavailable as error:
                if may_reopen and isinstance(error, SessionEnded):
                    may_reopen = False
                    continue
                attempts -= 1
                if attempts <= 0:
                    raise
                logger.debug("chain call failed, trying again: %s", error)
            await asyncio.sleep(self._endpoints.get_rest_s())

    async def leave_endpoint(self, reason: str) -> None:
        """Drop the session; the next call opens one at the endpoint whose turn it is."""
        async with self._lock:
            await self._in_thread(self._drop)
            self._url = self._endpoints.leave(self._url, ChainUnavailable(reason))

    async def aclose(self) -> None:
        """Close the session and end the thread."""
        session = self._session
        if session is not None:
            session.abort()
        await self._in_thread(self._drop)
        self._executor.shutdown(wait=True)

    @property
    def call_timeout_s(self) -> float:
        """What an answer may take, and a call unless it says otherwise: a block at most."""
        return self._given_timeout_s or max(MIN_CALL_TIMEOUT_S, self.block_time_s)

    async def _attempt(self, work: Callable[[ChainSession], T], timeout_s: float) -> T:
        # The lock starts the deadline when the thread is free, not while others hold it.
        async with self._lock:
            is_new = self._session is None
            if is_new:
                self._url = self._endpoints.choose(self._url)
                timeout_s += CONNECT_TIMEOUT_S
            started_s = time.monotonic()
            try:
                result = await self._run_in_time(work, timeout_s)
            except AnotherChain as error:
                self._endpoints.exclude(self._url, error)
                raise ChainUnavailable(str(error)) from error
            except ChainUnavailable as error:
                # Endpoints close connections that were idle: only a new session blames them.
                if is_new or not isinstance(error, SessionEnded):
                    self._url = self._endpoints.leave(self._url, error)
                raise
            self._endpoints.note_answer(self._url)
            self._endpoints.call_s.add(time.monotonic() - started_s)
            return result

    async def _run_in_time(self, work: Callable[[ChainSession], T], timeout_s: float) -> T:
        try:
            async with asyncio.timeout(timeout_s):
                return await self._in_thread(lambda: self._run(work))
        except TimeoutError as error:
            if self._session is not None:
                self._session.abort()
            # The thread is busy until it notices, and the next attempt has to start without it.
            await self._in_thread(self._drop)
            raise ChainUnavailable(f"{self.url} did not answer within {timeout_s:g} s") from error

    def _run(self, work: Callable[[ChainSession], T]) -> T:
        """Open a session if there is none and do the work, in the thread."""
        try:
            if self._session is None:
                self._session = self._open_session()
            return self._session.run(work)
        except (PoolRefused, AnotherChain):
            raise
        except ChainUnavailable:
            self._drop()
            raise
        except ChainMismatch as error:
            # A runtime that lacks something is an answer. While a session is opened at a chain
            # that served before, it is a fault of this endpoint.
            if self._session is not None or not self._endpoints.is_proven:
                raise
            raise ChainUnavailable(str(error)) from error
        except RpcRefused as error:
            self._drop()
            raise ChainUnavailable(f"{self.url} refuses a request: {error}") from error

    def _open_session(self) -> ChainSession:
        from subnet.chain.chain_session import ChainSession

        session = ChainSession.open(
            self._url, timeout_s=self.call_timeout_s, expected_genesis=self._expected_genesis
        )
        self._expected_genesis = session.runtime.genesis_hash
        self.block_time_s = session.block_time_ms / 1000
        self._endpoints.is_proven = True
        return session

    def _drop(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)
