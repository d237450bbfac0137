"""Which route computed a text, so that the next turn of a chat goes where its beginning is kept."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from mesh.inference.pages import compute_page_keys
from mesh.routing.hop import Route

MAX_TEXTS = 1024
"""Texts whose route is remembered, two for an answer; the one used longest ago goes first."""


class RouteMemory:
    """Remembers hashes of texts, and no text. Other salts share nothing, as at hosters."""

    def __init__(self) -> None:
        self._routes: OrderedDict[bytes, Route] = OrderedDict()

    def note(self, salt: bytes, token_ids: Sequence[int], route: Route) -> None:
        """Note that ``route`` has computed a text, as far as it has full pages."""
        keys = compute_page_keys(salt, token_ids)
        if not keys:
            return
        self._routes[keys[-1]] = route
        self._routes.move_to_end(keys[-1])
        if len(self._routes) > MAX_TEXTS:
            self._routes.popitem(last=False)

    def find(self, salt: bytes, token_ids: Sequence[int]) -> Route:
        """Return the route of the longest known beginning of a text; empty if none is known."""
        if not self._routes:
            return ()
        for key in reversed(compute_page_keys(salt, token_ids)):
            if (route := self._routes.get(key)) is not None:
                self._routes.move_to_end(key)
                return route
        return ()
