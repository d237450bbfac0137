"""An answer token by token, over peer-to-peer streams: no weights and no torch here.

python examples/stream_over_peers.py /ip4/127.0.0.1/tcp/31330/p2p/12D3KooW... --prompt "..."
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from contextlib import aclosing

from mesh.assets import default_question
from mesh.client import connect


async def ask(initial_peers: Sequence[str], prompt: str, max_new_tokens: int) -> None:
    async with connect(initial_peers) as client:
        messages = [{"role": "user", "content": prompt}]
        # Leaving the loop early frees the hosters at once, because the iterator is closed.
        async with aclosing(client.generate(messages, max_new_tokens=max_new_tokens)) as pieces:
            async for piece in pieces:
                print(piece.text, end="", flush=True)
        trace = piece.trace
    route = ", ".join(f"blocks {hop.start}:{hop.end} at {hop.peer_id}" for hop in trace.route)
    print(f"\n{trace.tokens} tokens over {route}")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("initial_peers", nargs="+", help="multiaddresses of nodes")
    parser.add_argument("--prompt", default=default_question().question)
    parser.add_argument("--max-new-tokens", type=int, default=400)
    options = parser.parse_args(argv)
    asyncio.run(ask(options.initial_peers, options.prompt, options.max_new_tokens))


if __name__ == "__main__":
    main()
