"""The addresses at which one chain is served, in the operator's order."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from subnet.errors import ChainMismatch

logger = logging.getLogger(__name__)


class Endpoints:
    """Takes turns among addresses, less those that proved to be of another chain.

    ``is_proven`` says that one of them served the right chain. Until then a mismatch is the
    operator's to judge: which of two chains was meant, this client cannot know.
    """

    def __init__(self, urls: Sequence[str]) -> None:
        if not urls:
            raise ValueError("a chain client needs an endpoint")
        self._urls = tuple(urls)
        self.is_proven = False

    @property
    def first(self) -> str:
        """The first that is left."""
        return self._urls[0]

    def get_next(self, url: str) -> str:
        """Return whose turn it is after ``url``."""
        urls = self._urls
        return urls[(urls.index(url) + 1) % len(urls)] if url in urls else urls[0]

    def leave_out(self, url: str, error: ChainMismatch) -> str:
        """Forget ``url`` for good and return whose turn it is; raise ``error`` if that is nobody's.

        Called from the threads of two workers: the tuple is replaced, never changed.
        """
        others = tuple(other for other in self._urls if other != url)
        if not self.is_proven or not others:
            raise error
        following = self.get_next(url)
        self._urls = others
        logger.warning("%s is left out from now on: %s", url, error)
        return following
