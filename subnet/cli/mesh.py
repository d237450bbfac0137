"""``mesh``: every command; ``mesh node`` is ``mesh-test``."""

from __future__ import annotations

import sys

import typer

from subnet.cli import (
    bootstrap,
    config,
    demo_chat,
    devchain,
    doctor,
    earnings,
    generate,
    keygen,
    localnet,
    manifest,
    mesh_test,
    models,
    monitor,
    plan,
    plugins,
    receipt,
    serve,
    simulate,
    status,
    top,
    wait_for_restart_window,
    why,
)
from subnet.cli.chain.app import app as chain_app
from subnet.cli.console import PROGRAM, VersionOption, run_app
from subnet.cli.keys import app as keys_app

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Serve one language model together with strangers, and be paid for honest work.",
    epilog="--verbose, anywhere on the line, shows the traceback of an error.",
)


@app.callback()
def mesh(version: VersionOption = False) -> None:
    """Options of every command."""


app.command("localnet")(localnet.localnet)
app.command("demo-chat")(demo_chat.demo_chat)
app.command("devchain")(devchain.devchain)
app.command("bootstrap")(bootstrap.bootstrap)
app.command("node")(mesh_test.mesh_test)
app.command("keygen")(keygen.keygen)
app.command("generate")(generate.generate)
app.command("serve")(serve.serve)
app.command("manifest")(manifest.manifest)
app.command("models")(models.models)
app.command("plan")(plan.plan)
app.command("plugins")(plugins.plugins)
app.command("simulate")(simulate.simulate)
app.command("status")(status.status)
app.command("top")(top.top)
app.command("wait-for-restart-window")(wait_for_restart_window.wait_for_restart_window)
app.command("doctor")(doctor.doctor)
app.command("monitor")(monitor.monitor)
app.command("why")(why.why)
app.command("earnings")(earnings.earnings)
app.add_typer(keys_app, name="keys")
app.add_typer(config.app, name="config")
app.add_typer(receipt.app, name="receipt")
app.add_typer(chain_app, name="chain")


def main() -> None:
    """Entry point of the ``mesh`` script."""
    run_app(app, sys.argv[1:], name=PROGRAM)


if __name__ == "__main__":
    main()
