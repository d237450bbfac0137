"""The reports that the processes of a local network have sent so far."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from consensus.types import Epoch
from mesh.assets import shipped_questions
from subnet.localnet.display import Display
from subnet.localnet.errors import LocalnetFailed
from subnet.localnet.processes import Message

MIN_HOPS = 2
"""An answer over fewer shows nothing of a network."""


class ReportCollector:
    """Keeps reports, shows them, and wakes who waits for one."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._reports: dict[tuple[str, Epoch], Mapping[str, Any]] = {}
        self._answer = ""
        self._route: list[Mapping[str, Any]] = []
        self._changed = asyncio.Event()
        self.addresses: dict[str, str] = {}
        self.is_answered = False

    def take(self, name: str, message: Message) -> None:
        """Keep what the child ``name`` said, and show what a person wants to see."""
        match message["kind"]:
            case "ready":
                self.addresses[name] = message["addresses"][0]
            case "scored":
                report = json.loads(message["report"])
                self._reports[name, Epoch(report["epoch"])] = report
            case "listening":
                self._display.step(f"gateway on {message['url']}: chat page /, OpenAI API /v1")
            case "piece":
                self._answer += message["text"]
                self._display.piece(message["text"])
            case "answered":
                self._take_route(message["route"])
        self._changed.set()

    def _take_route(self, route: list[Mapping[str, Any]]) -> None:
        self.is_answered = True
        self._route = route
        self._display.piece("")
        hops = " → ".join("{}:{}".format(*hop["blocks"]) for hop in route)
        self._display.step(f"answered over blocks {hops}")

    def find_report(self, name: str, epoch: Epoch) -> Mapping[str, Any] | None:
        """Return what ``name`` scored in ``epoch``, once it said so."""
        return self._reports.get((name, epoch))

    def is_answer_right(self, prompt: str, *, is_shipped: bool = True) -> bool:
        """Whether an answer came over at least two hosters; the exact one from the shipped model,
        if ``is_shipped`` and it knows the question.
        """
        questions = shipped_questions() if is_shipped else ()
        known = [question for question in questions if prompt in question.wordings]
        if known and self._answer != known[0].answer:
            self._display.step("the answer is WRONG; expected was: " + known[0].answer)
            return False
        return bool(self._answer) and len(self._route) >= MIN_HOPS

    async def wait_until(self, is_done: Callable[[], bool], *, timeout_s: float, what: str) -> None:
        """Return once ``is_done`` holds. Raises LocalnetFailed, naming ``what``, if it does not."""
        async with deadline(timeout_s, what):
            while not is_done():
                await self._changed.wait()
                self._changed.clear()


@asynccontextmanager
async def deadline(seconds: float, what: str) -> AsyncIterator[None]:
    """Raise LocalnetFailed, naming ``what``, if the block takes longer."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise LocalnetFailed(f"no {what} within {seconds:.0f} s") from error
