"""``mesh chain``: register, activate, look and pay, on any Hypertensor chain."""

from __future__ import annotations

import typer

from subnet.cli import chain_activate, chain_money, chain_register, chain_show

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
app.command("transfer")(chain_money.transfer)
app.command("balance")(chain_money.balance)
