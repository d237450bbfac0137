"""An answer token by token, from a gateway: needs nothing but httpx.

python examples/stream_over_http.py http://127.0.0.1:8000 --prompt "How does one epoch work?"
"""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Sequence
from contextlib import aclosing

from mesh.client import HttpMeshClient


async def ask(url: str, prompt: str, max_new_tokens: int) -> None:
    async with HttpMeshClient(url, api_key=os.environ.get("MESH_API_KEY")) as client:
        messages = [{"role": "user", "content": prompt}]
        async with aclosing(client.generate(messages, max_new_tokens=max_new_tokens)) as pieces:
            async for piece in pieces:
                print(piece.text, end="", flush=True)
    print()


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url", help="the gateway's address; MESH_API_KEY holds a key if it asks")
    parser.add_argument("--prompt", default="How does one epoch work?")
    parser.add_argument("--max-new-tokens", type=int, default=400)
    options = parser.parse_args(argv)
    asyncio.run(ask(options.url, options.prompt, options.max_new_tokens))


if __name__ == "__main__":
    main()
