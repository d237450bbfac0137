"""``mesh chain``: register, activate, look and pay, on any Hypertensor chain."""

from __future__ import annotations

import typer

from subnet.cli.chain import (
    accounts,
    activate,
    calls,
    metagraph,
    money,
    nodes,
    onboard,
    register,
    show,
    watch,
)

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Register, activate, look and pay on the chain.",
)

app.command("register-subnet")(register.register_subnet)
app.command("register-node")(register.register_node)
app.command("activate-node")(activate.activate_node)
app.command("activate-subnet")(activate.activate_subnet)
app.command("show")(show.show)
app.command("nodes")(nodes.nodes)
app.command("node")(nodes.node)
app.command("queue")(nodes.queue)
app.command("elected")(nodes.elected)
app.command("submission")(nodes.submission)
app.command("transfer")(money.transfer)
app.command("balance")(money.balance)
app.command("unbondings")(money.unbondings)
app.command("delegation")(money.delegation)
app.command("delegate")(calls.delegate)
app.command("undelegate")(calls.undelegate)
app.command("add-stake")(calls.add_stake)
app.command("remove-stake")(calls.remove_stake)
app.command("claim")(calls.claim)
app.command("update-peer-info")(calls.update_peer_info)
app.command("remove-node")(calls.remove_node)
app.command("set-subnet")(calls.set_subnet)
app.command("pause-subnet")(calls.pause_subnet)
app.command("unpause-subnet")(calls.unpause_subnet)
app.command("deactivate-subnet")(calls.deactivate_subnet)
app.command("identity")(calls.identity)
app.command("update-hotkey")(calls.update_hotkey)
app.command("update-coldkey")(calls.update_coldkey)
app.command("metagraph")(metagraph.metagraph)
app.add_typer(accounts.app, name="accounts")
app.command("epoch")(watch.epoch)
app.command("watch")(watch.watch)
app.command("rewards")(watch.rewards)
app.command("onboard")(onboard.onboard)
