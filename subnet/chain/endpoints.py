"""Chain addresses: how they are written, whose turn it is, and who rests after a failure."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from mesh.histogram import SECONDS_OF_A_REQUEST, Histogram
from subnet.chain.rpc_errors import AnotherChain
from subnet.errors import ChainUnavailable, UsageError

logger = logging.getLogger(__name__)

DEFAULT_CHAIN_URL = "ws://127.0.0.1:9944"

FIRST_REST_S = 0.2
REST_GROWTH = 4.0
MAX_REST_S = 3.0
"""Half of Hypertensor's block time: an endpoint that returns is in use within a block."""
REMINDER_S = 60.0
"""About one endpoint at most one line is written in so long."""

_WEBSOCKET_SCHEMES = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}


def parse_chain_urls(text: str | Sequence[str]) -> tuple[str, ...]:
    """Return the addresses in ``text``, each once; commas stand between several.

    Raises UsageError for an address that is not ws:// or wss://, and for none at all.
    """
    named = text.split(",") if isinstance(text, str) else text
    urls = tuple(dict.fromkeys(url.strip() for url in named if url.strip()))
    if not urls:
        raise UsageError("no chain address is given", f"write --chain {DEFAULT_CHAIN_URL}")
    for url in urls:
        if not _is_websocket_url(url):
            scheme, mark, rest = url.partition("://") if "://" in url else ("ws", "://", url)
            fixed = f"{_WEBSOCKET_SCHEMES.get(scheme, 'ws')}{mark}{rest}"
            raise UsageError(
                f"the chain address {url!r} is not a WebSocket address",
                f"write {fixed if _is_websocket_url(fixed) else DEFAULT_CHAIN_URL}",
            )
    return urls


def name_endpoints(urls: Iterable[str]) -> tuple[str, ...]:
    """Return a name for each address that holds no secret: its host and port.

    Of several addresses at one host, the later ones have a number too.
    """
    names: list[str] = []
    for url in urls:
        parts = urlsplit(url)
        name = parts.netloc.rpartition("@")[2]
        taken = sum(other.partition("#")[0] == name for other in names)
        names.append(f"{name}#{taken + 1}" if taken else name)
    return tuple(names)


def _is_websocket_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        is_whole = bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return is_whole and parts.scheme in ("ws", "wss") and not any(map(str.isspace, url))


@dataclass(slots=True)
class _EndpointHistory:
    """How one endpoint did lately. Times are of the monotonic clock."""

    rest_s: float = 0.0
    ready_at: float = 0.0
    failing_since: float | None = None
    error: str = ""
    said_at: float | None = None
    failures: int = 0


@dataclass(frozen=True, slots=True)
class EndpointHealth:
    """One endpoint, by its host name alone: the rest of an address may hold an access token.

    ``failures`` counts how often it was left since the start.
    """

    name: str
    is_serving: bool
    failures: int


class Endpoints:
    """Takes turns among the addresses of one chain.

    An endpoint that fails rests: FIRST_REST_S at first, longer with every further failure, up to
    MAX_REST_S. One that serves another chain is excluded. ``is_proven`` says that one of them
    served the right chain; until then, which of two chains was meant is the operator's to say.

    The workers of one client share it. It belongs to the event loop.
    """

    def __init__(self, urls: Sequence[str], *, clock: Callable[[], float] = time.monotonic) -> None:
        if not urls:
            raise ValueError("a chain client needs an endpoint")
        self._histories = {url: _EndpointHistory() for url in urls}
        self._clock = clock
        self.is_proven = False
        self._heard_at = clock()
        self.call_s = Histogram(SECONDS_OF_A_REQUEST)
        """How long calls took that were answered, with the opening of sessions."""

    @property
    def first(self) -> str:
        """The first that is not excluded."""
        return next(iter(self._histories))

    def choose(self, url: str) -> str:
        """Return ``url``, or the next one in turn if it rests or is excluded.

        Raises ChainUnavailable, with what was wrong last, while all of them rest.
        """
        turns = self._list_turns(url)
        for candidate in turns:
            if self._histories[candidate].ready_at <= self._clock():
                return candidate
        raise ChainUnavailable(self._histories[turns[0]].error)

    def get_rest_s(self) -> float:
        """Return how long it takes until one of them is ready; 0 if one is."""
        ready_at = min(history.ready_at for history in self._histories.values())
        return max(0.0, ready_at - self._clock())

    def get_silence_s(self) -> float:
        """Return how long ago a call was answered or failed last: the readers live if it is short.

        A node asks at least once in two blocks, whether the chain moves or not.
        """
        return self._clock() - self._heard_at

    def leave(self, url: str, error: Exception) -> str:
        """Let ``url`` rest, because of ``error``; return whose turn it is after it."""
        history, now = self._histories[url], self._clock()
        self._heard_at = now
        history.rest_s = min(max(FIRST_REST_S, history.rest_s * REST_GROWTH), MAX_REST_S)
        history.ready_at = now + history.rest_s
        history.error = str(error)
        history.failures += 1
        if history.failing_since is None:
            history.failing_since = now
        if history.said_at is None or now - history.said_at >= REMINDER_S:
            history.said_at = now
            failing_s = now - history.failing_since
            state = f"still fails after {failing_s:.0f} s" if failing_s else "is left for now"
            # Before the first session the caller ends with this error, so it is no warning too.
            level = logging.WARNING if self.is_proven else logging.INFO
            logger.log(level, "%s %s: %s", url, state, history.error.removeprefix(f"{url} "))
        return (*self._list_turns(url), url)[1]

    def note_answer(self, url: str) -> None:
        """Take note that ``url`` serves: its next failure is a first one."""
        self._heard_at = self._clock()
        history = self._histories.get(url)
        if history is None or history.failing_since is None:
            return
        since, history.failing_since = history.failing_since, None
        history.rest_s = history.ready_at = 0.0
        if history.said_at is not None and history.said_at >= since:
            logger.info("%s serves again after %.0f s", url, self._clock() - since)

    def exclude(self, url: str, error: AnotherChain) -> None:
        """Never use ``url`` again. Raises ``error`` if none proved right yet, or none is left."""
        if not self.is_proven or len(self._histories) == 1:
            raise error
        del self._histories[url]
        logger.warning("%s is left out from now on: %s", url, error)

    def list_health(self) -> tuple[EndpointHealth, ...]:
        """Return how each endpoint that is not excluded does, in the operator's order."""
        names = name_endpoints(self._histories)
        return tuple(
            EndpointHealth(name, history.failing_since is None, history.failures)
            for name, history in zip(names, self._histories.values(), strict=True)
        )

    def _list_turns(self, url: str) -> list[str]:
        urls = list(self._histories)
        start = urls.index(url) if url in urls else 0
        return urls[start:] + urls[:start]
