"""``mesh chain onboard``: make keys, register and activate a node. Safe to re-run."""

from __future__ import annotations

import shlex
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from subnet.cli.chain.options import (
    CommandResult,
    Signer,
    choose_password,
    expand_options,
    parse_amount,
)
from subnet.cli.console import say
from subnet.cli.options import Subnet

if TYPE_CHECKING:
    from consensus.types import SubnetId
    from keys.account import AccountKey
    from keys.identity_file import IdentitySet
    from subnet.account.registration import RegisteredNode
    from subnet.chain.substrate import SubstrateChain

HOTKEY_FILE = "hotkey.json"


class NodeRole(StrEnum):
    HOSTER = "hoster"
    VALIDATOR = "validator"


@expand_options
def onboard(
    subnet: Subnet,
    directory: Annotated[
        Path, typer.Option("--dir", help="Keys of the node; made where they are missing.")
    ],
    hotkey_password_file: Annotated[
        Path | None, typer.Option(help="Password of the hotkey's keystore; else it is asked.")
    ] = None,
    stake: Annotated[str, typer.Option(help="Stake, TENSOR.")] = "100",
    multiaddr: Annotated[
        str | None, typer.Option(help="Where the node listens, /ip4/.../tcp/...")
    ] = None,
    start: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Start the node with this model at the end.")
    ] = None,
    role: Annotated[NodeRole, typer.Option(help="What the started node does.")] = NodeRole.HOSTER,
    *,
    signer: Signer,
) -> None:
    """Make keys, fund the hotkey, register, wait for the window, activate, start the node.

    Run it again after an interruption: what is done is not done twice.
    """
    staked = parse_amount(stake)
    coldkey = signer.load_key()
    identities = _load_identities(directory)
    hotkey = _load_hotkey(directory / HOTKEY_FILE, hotkey_password_file)

    async def work(chain: SubstrateChain, subnet_id: SubnetId) -> tuple[SubnetId, RegisteredNode]:
        from subnet.account import onboarding
        from subnet.account.registration import NodeRegistration

        wanted = NodeRegistration(
            subnet_id=subnet_id,
            hotkey=hotkey.account_id,
            peer_id=identities.peer_id,
            bootnode_peer_id=identities.bootstrap_peer_id,
            client_peer_id=identities.client_peer_id,
            multiaddr=multiaddr,
            stake=staked,
        )
        plan = onboarding.OnboardingPlan(wanted, coldkey)
        return subnet_id, await onboarding.onboard(chain, plan, say=say)

    subnet_id, node = signer.ask_subnet(subnet, work)
    line = build_start_line(
        start or "MODEL",
        role,
        directory=directory,
        subnet_id=subnet_id,
        node_id=node.node_id,
        chain=signer.chain,
        hotkey_password_file=hotkey_password_file,
    )
    signer.give(
        CommandResult(
            {"subnet_id": subnet_id, "subnet_node_id": node.node_id, "start": line},
            f"node {node.node_id} is active; start it with\n{shlex.join(line)}",
        )
    )
    if start is not None:
        _become(line)


def build_start_line(
    model: str,
    role: NodeRole,
    *,
    directory: Path,
    subnet_id: int,
    node_id: int,
    chain: str,
    hotkey_password_file: Path | None,
) -> list[str]:
    """Return the command line of the node."""
    from keys.identity_file import PEER_ID_FILE

    line = ["mesh-test", model, f"--{role.value}"]
    line += ["--identity-path", str(directory / PEER_ID_FILE), "--chain", chain]
    line += ["--subnet", str(subnet_id), "--node", str(node_id)]
    line += ["--hotkey-path", str(directory / HOTKEY_FILE)]
    if hotkey_password_file is not None:
        line += ["--password-file", str(hotkey_password_file)]
    return line


def _load_identities(directory: Path) -> IdentitySet:
    from keys.identity_file import (
        IDENTITY_FILES,
        IdentitySet,
        create_identity_set,
        load_identity_file,
    )

    if not any((directory / name).exists() for name in IDENTITY_FILES):
        say(f"making identity files in {directory}")
        return create_identity_set(directory)
    return IdentitySet(*(load_identity_file(directory / name).peer_id for name in IDENTITY_FILES))


def _load_hotkey(path: Path, password_file: Path | None) -> AccountKey:
    import secrets

    from keys.account import AccountKey
    from keys.keystore import create_keystore
    from subnet.operator.passwords import open_keystore

    if path.exists():
        return open_keystore(path, password_file)
    password = choose_password(password_file, prompt=f"New password of the hotkey in {path}")
    say(f"making a hotkey in {path}")
    key = AccountKey.from_private_key(secrets.token_bytes(32))
    create_keystore(path, key, password)
    return key


def _become(line: list[str]) -> None:
    """Replace this process by the node, so that the node gets the terminal and the signals."""
    import os
    import sys

    program = Path(sys.argv[0]).with_name(line[0])
    os.execv(program, [str(program), *line[1:]])
