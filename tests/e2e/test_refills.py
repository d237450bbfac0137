"""Real hosters of three ranges are killed and frozen: the others keep their caches."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from benchmarks import recovery

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

AT = 20
PROMPT_SIZE = 24
"""Of answer 0 of the benchmark."""


async def read_rows(hoster) -> tuple[int, int]:
    hoster.pipe.send("rows")
    rows: tuple[int, int] = await asyncio.to_thread(hoster.pipe.recv)
    return rows


async def test_the_hosters_that_are_left_compute_no_prompt_again() -> None:
    async with recovery.open_hosters(ranges=3) as (hosters, client):
        await recovery.wait_for_all(hosters, client)
        expected = await recovery.ask(client, 0)
        for fault in ("both killed", "both frozen"):
            for part in range(3):
                await strike(hosters, client, fault, part, expected)


async def strike(hosters, client, fault, part, expected) -> None:
    struck: list = []
    before = {}

    def break_one(route) -> None:
        lost = hosters.find(route[part])
        struck.append((lost, [hosters.find(peer) for peer in route if peer != lost.peer]))
        hosters.break_one(lost, fault)

    for hoster in hosters.running:
        before[hoster.peer] = await read_rows(hoster)
    answer = await recovery.ask(client, 0, at=AT, then=break_one)
    lost, left = struck[0]
    what = f"{fault}, range {part}: {answer.failures}"
    assert [t.token_id for t in answer.tokens] == [t.token_id for t in expected.tokens], what
    assert [t.index for t in answer.tokens] == list(range(recovery.NEW_TOKENS)), what
    assert answer.refills >= 1, what
    for hoster in left:
        rows = await read_rows(hoster)
        # The prompt once, or less of it if it was known; never the answer so far as well.
        assert rows[0] - before[hoster.peer][0] <= PROMPT_SIZE, what
        assert rows[1] - before[hoster.peer][1] <= recovery.NEW_TOKENS + 2 * answer.reroutes, what
    print(f"{what}; pause {answer.pause_s:.2f} s")
    await hosters.bring_back(lost, fault)
    with contextlib.suppress(TimeoutError):
        await recovery.wait_for_all(hosters, client)
