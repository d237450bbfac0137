"""Blocks at a steady pace beside a test that waits for processes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from consensus.types import BlockNumber
from subnet.chain.substrate import SubstrateChain
from subnet.localnet.block_making import BUILD_TIMEOUT_S, choose_block_maker, fetch_head_number

JOIN_S = 60.0


async def skip_to_eve(url: str, *, slot: int) -> None:
    """Let blocks pass until the next one begins an epoch of the subnet; set the chain's clock."""
    async with SubstrateChain.open(url, call_timeout_s=BUILD_TIMEOUT_S) as chain:
        blocks = await choose_block_maker(chain, block_seconds=6.0, is_driven=True, url=url)
        length = (await chain.fetch_info()).epoch_length
        head = await fetch_head_number(chain)
        await blocks.skip_to(BlockNumber((head // length + 1) * length + slot - 1))


@contextmanager
def drive_blocks(url: str, *, block_seconds: float) -> Iterator[None]:
    """Make blocks in a thread until the end of the ``with``; a failure there is raised here."""
    loop = asyncio.new_event_loop()
    failures: list[BaseException] = []

    async def drive() -> None:
        async with SubstrateChain.open(url, call_timeout_s=BUILD_TIMEOUT_S) as chain:
            blocks = await choose_block_maker(
                chain, block_seconds=block_seconds, is_driven=True, url=url
            )
            await blocks.run()

    driving = loop.create_task(drive())

    def run() -> None:
        try:
            loop.run_until_complete(driving)
        except asyncio.CancelledError:
            pass
        except Exception as error:  # noqa: BLE001 - raised again by the test's own thread
            failures.append(error)
        finally:
            loop.close()

    thread = threading.Thread(target=run, name="block-driver")
    thread.start()
    try:
        yield
    finally:
        if thread.is_alive():
            loop.call_soon_threadsafe(driving.cancel)
        thread.join(JOIN_S)
    if failures:
        raise failures[0]
