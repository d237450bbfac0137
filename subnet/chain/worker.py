"""The thread that owns a session: blocking calls leave the event loop here, with a deadline."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from subnet.chain.endpoints import Endpoints
from subnet.errors import ChainMismatch, ChainUnavailable

if TYPE_CHECKING:
    from subnet.chain.session import Session

logger = logging.getLogger(__name__)

T = TypeVar("T")

CALL_TIMEOUT_S = 20.0
CONNECT_TIMEOUT_S = 20.0
MAX_ATTEMPTS = 3
FIRST_PAUSE_S = 0.2
PAUSE_GROWTH = 4.0
_UNREADABLE = (AttributeError, LookupError, TypeError, ValueError, OverflowError)


class ChainWorker:
    """One thread, one session at a time, reopened when it breaks, at the next endpoint in turn.

    The genesis of the first session binds the later ones: a fallback endpoint that turns out to
    be of another chain is left out from then on, which is an error only when none is left.
    """

    def __init__(
        self,
        endpoints: Endpoints,
        *,
        call_timeout_s: float = CALL_TIMEOUT_S,
        expected_genesis: bytes | None = None,
    ) -> None:
        self._endpoints = endpoints
        self._url = endpoints.first
        self._call_timeout_s = call_timeout_s
        self._expected_genesis = expected_genesis
        self._session: Session | None = None
        self._lock = asyncio.Lock()
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="chain")

    @property
    def url(self) -> str:
        """The endpoint in use."""
        return self._url

    async def call(
        self,
        work: Callable[[Session], T],
        *,
        attempts: int = MAX_ATTEMPTS,
        timeout_s: float | None = None,
    ) -> T:
        """Run ``work`` with the session and return its result.

        A broken connection is reopened and ``work`` repeated, ``attempts`` times in all, so more
        than one attempt is for work that may be repeated. Raises ChainUnavailable after the
        last, and whatever else ``work`` raises at once.
        """
        pause_s = FIRST_PAUSE_S
        for attempt in range(1, attempts + 1):
            try:
                return await self._call_once(work, timeout_s or self._call_timeout_s)
            except ChainUnavailable as error:
                if attempt == attempts:
                    raise
                logger.info("chain call failed, trying again: %s", error)
            await asyncio.sleep(pause_s)
            pause_s *= PAUSE_GROWTH
        raise AssertionError("a call has at least one attempt")

    async def leave_endpoint(self) -> None:
        """Drop the session; the next call opens one at the next endpoint."""
        async with self._lock:
            await self._in_thread(self._leave)

    async def aclose(self) -> None:
        """Close the session and end the thread."""
        session = self._session
        if session is not None:
            session.abort()
        await self._in_thread(self._drop)
        self._executor.shutdown(wait=True)

    async def _call_once(self, work: Callable[[Session], T], timeout_s: float) -> T:
        # The lock starts the deadline when the thread is free, not while others hold it.
        async with self._lock:
            try:
                async with asyncio.timeout(timeout_s + CONNECT_TIMEOUT_S * (not self._session)):
                    return await self._in_thread(lambda: self._run(work))
            except TimeoutError as error:
                if self._session is not None:
                    self._session.abort()
                raise ChainUnavailable(
                    f"{self.url} did not answer within {timeout_s:g} s"
                ) from error

    def _run(self, work: Callable[[Session], T]) -> T:
        from subnet.chain.session import PoolRefused, RpcRefused, read_refusal

        try:
            return work(self._connect())
        except PoolRefused:
            raise
        except RpcRefused as error:
            raise read_refusal(error, url=self.url) from error
        except ChainUnavailable:
            self._leave()
            raise
        except _UNREADABLE as error:
            # The library trips over answers of another shape than it expects; they are the
            # endpoint's fault, and another one may do better.
            url = self.url
            logger.warning("an answer of %s cannot be read", url, exc_info=True)
            self._leave()
            kind = type(error).__name__
            raise ChainUnavailable(f"{url} sent what cannot be read: {kind}") from error

    def _leave(self) -> None:
        self._drop()
        self._url = self._endpoints.get_next(self._url)

    def _connect(self) -> Session:
        while self._session is None:
            try:
                self._session = self._open_session()
            except ChainMismatch as error:
                self._url = self._endpoints.leave_out(self._url, error)
        return self._session

    def _open_session(self) -> Session:
        from subnet.chain.session import Session

        session = Session.open(
            self._url,
            timeout_s=self._call_timeout_s,
            expected_genesis=self._expected_genesis,
        )
        self._expected_genesis = session.runtime.genesis_hash
        self._endpoints.is_proven = True
        return session

    def _drop(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)
