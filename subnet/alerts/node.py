"""The alerts of one node put together: what is watched, what fires, and what is sent."""

from __future__ import annotations

from pathlib import Path

from subnet.alerts.book import AlertBook
from subnet.alerts.sender import AlertSender
from subnet.alerts.watch import AlertWatch, Watched
from subnet.operator.webhook import Webhook


class NodeAlerts:
    """Watches a node and posts to its operator's webhook while :meth:`run` runs.

    ``name`` names the node in messages; ``directory`` is its data folder.
    """

    def __init__(self, webhook: Webhook, watched: Watched, *, name: str, directory: Path) -> None:
        self._book = AlertBook(directory)
        self._sender = AlertSender(webhook, node=name)
        watch = AlertWatch(watched, self._book, self._sender.put)
        self.observe = watch.observe
        self.look = watch.look
        self.run = self._sender.run

    @property
    def firing(self) -> int:
        """How many alerts fire now."""
        return len(self._book.firing)

    @property
    def lost(self) -> int:
        """How many messages could not be sent since the start."""
        return self._sender.lost
