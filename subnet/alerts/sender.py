"""Sends alerts one after the other, in a task of its own: a webhook that hangs holds only them.

The queue is bounded, and so are the attempts and the time of each. What cannot be sent is counted
and logged, and the node goes on.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from subnet.alerts.book import Alert
from subnet.operator.webhook import Webhook, WebhookFailed

MAX_WAITING = 32
RETRY_AFTER_S = (5.0, 30.0, 120.0)
"""Waits before the second attempt and the later ones."""

logger = structlog.get_logger(__name__)


class AlertSender:
    """Takes alerts at any time, and sends them while :meth:`run` runs.

    ``node`` names this node in each message.
    """

    def __init__(
        self,
        webhook: Webhook,
        *,
        node: str,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._webhook = webhook
        self._node = node
        self._sleep = sleep
        self._waiting: asyncio.Queue[Alert] = asyncio.Queue(MAX_WAITING)
        self.lost = 0
        """Alerts that found the queue full, or that the webhook did not take."""

    def put(self, alert: Alert) -> None:
        """Queue an alert; never waits."""
        try:
            self._waiting.put_nowait(alert)
        except asyncio.QueueFull:
            self._lose(alert, "too many alerts wait")

    async def run(self) -> None:
        """Send what is queued until cancelled."""
        while True:
            alert = await self._waiting.get()
            try:
                await self._send(alert)
            finally:
                self._waiting.task_done()

    async def _send(self, alert: Alert) -> None:
        body = encode_alert(alert, node=self._node)
        for wait_s in (*RETRY_AFTER_S, None):
            try:
                return await self._webhook.post(body)
            except WebhookFailed as error:
                if wait_s is None or not error.may_retry:
                    return self._lose(alert, str(error))
                logger.info("alert not sent", webhook=str(self._webhook), reason=str(error))
            await self._sleep(wait_s)

    def _lose(self, alert: Alert, reason: str) -> None:
        self.lost += 1
        logger.warning(
            "alert lost", alert=str(alert.name), webhook=str(self._webhook), reason=reason
        )


def encode_alert(alert: Alert, *, node: str) -> bytes:
    """Return the message. ``text`` and ``content`` are what chat services show."""
    state = "firing" if alert.is_firing else "cleared"
    sentence = f"{node}: {alert.name} {state}"
    if alert.detail:
        sentence += f": {alert.detail}"
    body: dict[str, Any] = {
        "version": 1,
        "node": node,
        "alert": alert.name.kind.value,
        "duty": None if alert.name.duty is None else alert.name.duty.name.lower(),
        "state": state,
        "detail": alert.detail,
        "text": sentence,
        "content": sentence,
    }
    return json.dumps(body).encode()
