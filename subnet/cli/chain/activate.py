"""``mesh chain activate-node`` and ``mesh chain activate-subnet``."""

from __future__ import annotations

from typing import Annotated

import typer

from subnet.cli.chain.options import (
    DEFAULT_CHAIN,
    NO_TIP,
    AsJson,
    Chain,
    DevAccount,
    DryRun,
    KeyFile,
    PasswordFile,
    Subnet,
    Tip,
    load_signer,
    open_chain,
    print_checks,
    print_result,
    require_subnet,
    run,
)
from subnet.errors import ConfigError


def activate_node(
    subnet: Subnet,
    node_id: Annotated[int, typer.Option("--node-id", min=1, help="The node's id.")],
    chain: Chain = DEFAULT_CHAIN,
    key_file: KeyFile = None,
    password_file: PasswordFile = None,
    dev_account: DevAccount = None,
    tip: Tip = NO_TIP,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Activate a registered node inside its start window, signed by its coldkey.

    Chains that activate nodes from a queue by themselves refuse this, and say so.
    """
    key = load_signer(key_file=key_file, password_file=password_file, dev_account=dev_account)

    async def work() -> None:
        from consensus.types import SubnetNodeId
        from subnet.account import conditions, registration

        node = SubnetNodeId(node_id)
        async with open_chain(chain, dev_account=dev_account, tip=tip) as client:
            subnet_id = await require_subnet(client, subnet)
            if dry_run:
                checks = await conditions.check_activate_node(
                    client, subnet_id=subnet_id, node_id=node, coldkey=key.account_id
                )
                print_checks(checks, as_json=as_json)
                return
            receipt = await registration.activate_node(
                client, subnet_id=subnet_id, node_id=node, coldkey=key
            )
            print_result(
                {"subnet_id": subnet_id, "subnet_node_id": node, "block": receipt.block_number},
                as_json=as_json,
                text=f"node {node} is active since block {receipt.block_number}",
            )

    run(work)


def activate_subnet(
    subnet: Subnet,
    chain: Chain = DEFAULT_CHAIN,
    key_file: KeyFile = None,
    password_file: PasswordFile = None,
    dev_account: DevAccount = None,
    tip: Tip = NO_TIP,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Activate a registered subnet that has enough nodes, signed by its owner."""
    key = load_signer(key_file=key_file, password_file=password_file, dev_account=dev_account)

    async def work() -> None:
        from subnet.account import conditions, registration

        async with open_chain(chain, dev_account=dev_account, tip=tip) as client:
            subnet_id = await require_subnet(client, subnet)
            if dry_run:
                checks = await conditions.check_activate_subnet(
                    client, subnet_id=subnet_id, owner=key.account_id
                )
                print_checks(checks, as_json=as_json)
                return
            outcome = await registration.activate_subnet(client, subnet_id=subnet_id, owner=key)
            if not outcome.is_active:
                raise ConfigError(
                    f"the chain removed subnet {subnet_id} instead of activating it",
                    "its time for activation is over: register it again",
                )
            print_result(
                {"subnet_id": subnet_id, "block": outcome.receipt.block_number},
                as_json=as_json,
                text=f"subnet {subnet_id} is active since block {outcome.receipt.block_number}",
            )

    run(work)
