"""When the choices of one request ask the swarm.

Choices of one prompt share its computed pages at the hosters. So the first of them asks alone, and
the others follow at its first token: the prompt is computed once. A choice that finds the swarm too
busy waits for another one of the same request to end, because that frees a place.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

MAX_PAUSES = 8
"""How often what is left of a begun answer asks a busy swarm again."""


class ChoiceTurns:
    """``prompts[i]`` is the prompt of choice i. The first of those with equal prompts leads."""

    def __init__(self, prompts: Sequence[tuple[int, ...]]) -> None:
        leaders: dict[tuple[int, ...], int] = {}
        self._leaders = [leaders.setdefault(prompt, place) for place, prompt in enumerate(prompts)]
        self._computed = {leader: asyncio.Event() for leader in leaders.values()}
        self._asking = 0
        self._has_begun = False
        self._pauses_left = MAX_PAUSES
        self._change = asyncio.Condition()

    @asynccontextmanager
    async def take_part(self, index: int) -> AsyncIterator[None]:
        """Wait until choice ``index`` may ask; the block is its generation."""
        leader = self._leaders[index]
        if leader != index:
            await self._computed[leader].wait()
        self._asking += 1
        try:
            yield
        finally:
            self._asking -= 1
            if leader == index:
                # One that failed has computed nothing; the others may still try.
                self._computed[index].set()
            async with self._change:
                self._change.notify_all()

    def note_prompt(self, index: int) -> None:
        """The prompt of a choice is computed: those that share it may ask."""
        self._has_begun = True
        self._computed[self._leaders[index]].set()

    async def wait_for_place(self, pause_s: float) -> bool:
        """Wait until another choice ends, or for ``pause_s`` if none is asking.

        False if the request should be refused: nothing of it has come yet, or it paused too often.
        """
        if self._asking <= 1 and (not self._has_begun or not self._pauses_left):
            return False
        self._asking -= 1
        try:
            if self._asking:
                async with self._change:
                    await self._change.wait()
            else:
                self._pauses_left -= 1
                await asyncio.sleep(pause_s)
        finally:
            self._asking += 1
        return True
