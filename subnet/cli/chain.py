"""``mesh chain``: register, activate, look and pay, on any Hypertensor chain."""

from __future__ import annotations

import typer

from subnet.cli import (
    chain_accounts,
    chain_activate,
    chain_calls,
    chain_metagraph,
    chain_money,
    chain_nodes,
    chain_onboard,
    chain_register,
    chain_show,
    chain_watch,
)

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Register, activate, look and pay on the chain.",
)

app.command("register-subnet")(chain_register.register_subnet)
app.command("register-node")(chain_register.register_node)
app.command("activate-node")(chain_activate.activate_node)
app.command("activate-subnet")(chain_activate.activate_subnet)
app.command("show")(chain_show.show)
app.command("nodes")(chain_nodes.nodes)
app.command("node")(chain_nodes.node)
app.command("queue")(chain_nodes.queue)
app.command("elected")(chain_nodes.elected)
app.command("submission")(chain_nodes.submission)
app.command("transfer")(chain_money.transfer)
app.command("balance")(chain_money.balance)
app.command("unbondings")(chain_money.unbondings)
app.command("delegation")(chain_money.delegation)
app.command("delegate")(chain_calls.delegate)
app.command("undelegate")(chain_calls.undelegate)
app.command("add-stake")(chain_calls.add_stake)
app.command("remove-stake")(chain_calls.remove_stake)
app.command("claim")(chain_calls.claim)
app.command("update-peer-info")(chain_calls.update_peer_info)
app.command("remove-node")(chain_calls.remove_node)
app.command("set-subnet")(chain_calls.set_subnet)
app.command("pause-subnet")(chain_calls.pause_subnet)
app.command("unpause-subnet")(chain_calls.unpause_subnet)
app.command("deactivate-subnet")(chain_calls.deactivate_subnet)
app.command("identity")(chain_calls.identity)
app.command("update-hotkey")(chain_calls.update_hotkey)
app.command("update-coldkey")(chain_calls.update_coldkey)
app.command("metagraph")(chain_metagraph.metagraph)
app.add_typer(chain_accounts.app, name="accounts")
app.command("epoch")(chain_watch.epoch)
app.command("watch")(chain_watch.watch)
app.command("rewards")(chain_watch.rewards)
app.command("onboard")(chain_onboard.onboard)
