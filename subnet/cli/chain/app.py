"""``mesh chain``: the commands that read a Hypertensor chain and send calls to it."""

from __future__ import annotations

import typer

from subnet.cli.chain import (
    accounts,
    activate,
    leave,
    metagraph,
    money,
    node_calls,
    nodes,
    onboard,
    owner,
    register,
    rewards,
    show,
    stake,
    watch,
)

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Register, activate, look and pay on the chain.",
)

# The order is that of `mesh chain --help`.
for command in (
    register.register_subnet,
    register.register_node,
    activate.activate_node,
    activate.activate_subnet,
    show.show,
    nodes.nodes,
    nodes.node,
    nodes.queue,
    nodes.elected,
    nodes.submission,
    money.transfer,
    money.balance,
    money.coldkey,
    stake.unbondings,
    stake.delegation,
    stake.delegate,
    stake.undelegate,
    stake.add_stake,
    stake.remove_stake,
    stake.claim,
    node_calls.update_peer_info,
    node_calls.delegate_account,
    node_calls.delegate_rate,
    node_calls.remove_node,
    owner.set_subnet,
    owner.pause_subnet,
    owner.unpause_subnet,
    owner.deactivate_subnet,
    owner.bootnodes,
    owner.bootnode_access,
    owner.transfer_subnet,
    owner.accept_subnet,
    node_calls.identity,
    node_calls.update_hotkey,
    node_calls.update_coldkey,
    metagraph.metagraph,
    watch.epoch,
    watch.watch,
    rewards.rewards,
    onboard.onboard,
    leave.leave,
):
    app.command(command.__name__.replace("_", "-"))(command)
app.add_typer(accounts.app, name="accounts")
