"""``mesh localnet``: a whole subnet on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from subnet.cli.console import EXIT_FAILURE, say


def localnet(
    hosters: Annotated[int, typer.Option(min=1, max=32, help="How many hosters.")] = 4,
    validators: Annotated[int, typer.Option(min=0, max=32, help="How many validators.")] = 2,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="How many epochs are scored; 0: until Ctrl-C.  "
            "[default: 2; 0 with --serve or --monitor]",
        ),
    ] = None,
    serve: Annotated[
        int | None,
        typer.Option(
            min=0, max=65535, help="Also start the HTTP gateway on this port, without a key."
        ),
    ] = None,
    monitor: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Also serve the monitor page on this port."),
    ] = None,
    block_seconds: Annotated[
        float | None,
        typer.Option(min=0.5, help="Seconds between blocks.  [default: 1; 6 with --chain]"),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="What the client asks; a question of the shipped model.")
    ] = None,
    keep: Annotated[
        Path | None, typer.Option(help="Keep keys, journals and logs in this new directory.")
    ] = None,
    chain: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Run on this chain, as Alith, instead of a development chain."
        ),
    ] = None,
    scorer: Annotated[
        str | None, typer.Option(help="The plug-in that divides hosters' pay; see `mesh plugins`.")
    ] = None,
    probe: Annotated[str | None, typer.Option(help="The plug-in that probes hosters.")] = None,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ACTION:NODE@PHASE",
            help="kill:2@reveal kills node 2 in that phase of the first epoch; "
            "pause:2@commit stops it until the phase is over. May be given several times.",
        ),
    ] = None,
    drive: Annotated[
        bool,
        typer.Option(
            "--drive/--no-drive",
            help="Make the blocks of --chain if it can be told to; else follow them.",
        ),
    ] = True,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object per epoch on stdout; talk on stderr.")
    ] = False,
) -> None:
    """Run a development chain, hosters, validators and a client, each as its own process.

    Exits 0 only if every epoch was proposed and attested by all nodes and the answer was right;
    nodes under --fault are left out of that.
    """
    import asyncio
    import sys
    from contextlib import ExitStack

    from subnet.errors import ConfigError
    from subnet.localnet import options as settings
    from subnet.localnet.display import Display, LiveDisplay, PlainDisplay
    from subnet.localnet.faults import parse_faults
    from subnet.localnet.run import run_localnet
    from subnet.operator.interrupts import run_interruptible

    if hosters + validators < 3:
        raise ConfigError("a subnet has at least three nodes", "raise --hosters or --validators")
    if block_seconds is None:
        block_seconds = (
            settings.DEVCHAIN_BLOCK_SECONDS if chain is None else settings.REAL_BLOCK_SECONDS
        )
    options = settings.LocalnetOptions(
        hosters=hosters,
        validators=validators,
        epochs=_count_epochs(epochs, is_serving=serve is not None or monitor is not None),
        block_seconds=block_seconds,
        prompt=prompt,
        keep=keep,
        serve_port=serve,
        monitor_port=_choose_monitor_port(monitor),
        chain_url=chain,
        is_driven=drive,
        scorer=scorer,
        probe=probe,
        faults=parse_faults(fault or (), num_nodes=hosters + validators),
    )
    with ExitStack() as stack:
        display: Display
        if as_json:
            display = PlainDisplay(sys.stderr, results=sys.stdout)
        elif sys.stdout.isatty():
            display = stack.enter_context(LiveDisplay.open())
        else:
            display = PlainDisplay(sys.stdout, results=None)
        is_right = asyncio.run(run_interruptible(run_localnet(options, display)))
    if not is_right:
        say("error: not every epoch was attested by all nodes, or the answer was wrong")
        say("hint: run it again with --keep DIR and look at the logs there")
        raise typer.Exit(EXIT_FAILURE)


def _choose_monitor_port(port: int | None) -> int | None:
    """Return the port, a free one for 0. Raises ConfigError if it is taken."""
    from subnet.localnet.environment import find_free_port
    from subnet.operator.monitor_options import MonitorOptions

    if port is None:
        return None
    MonitorOptions(port).check()
    return port or find_free_port()


def _count_epochs(wanted: int | None, *, is_serving: bool) -> int:
    if wanted is not None:
        return wanted
    return 0 if is_serving else 2
