"""Commands of an operator after registration: other keys, an identity, leaving the subnet."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from subnet.cli.chain.options import Hotkey, Signing, expand_options, parse_peer_id, parse_percent
from subnet.cli.chain.send import account_text, send_call
from subnet.cli.options import NodeId, Subnet
from subnet.errors import UsageError

IDENTITY_FIELDS = (
    "name",
    "url",
    "image",
    "discord",
    "x",
    "telegram",
    "github",
    "hugging_face",
    "description",
    "misc",
)


class PeerKind(StrEnum):
    """Which of a node's three peer ids; the chain holds each with its address."""

    MAIN = "main"
    BOOTNODE = "bootnode"
    CLIENT = "client"


_PEER_CALLS = {
    PeerKind.MAIN: "update_peer_info",
    PeerKind.BOOTNODE: "update_bootnode_peer_info",
    PeerKind.CLIENT: "update_client_peer_info",
}


@expand_options
def update_peer_info(
    subnet: Subnet,
    node_id: NodeId,
    peer_id: Annotated[
        str | None, typer.Option(help="The new peer id, 12D3KooW...; absent: none any more.")
    ] = None,
    multiaddr: Annotated[str | None, typer.Option(help="Where it listens.")] = None,
    kind: Annotated[PeerKind, typer.Option(help="Which of the node's peer ids.")] = PeerKind.MAIN,
    *,
    signing: Signing,
) -> None:
    """Give a node a new peer id, signed by its coldkey."""
    from subnet.account.registration import build_peer_info

    if peer_id is None and (kind is PeerKind.MAIN or multiaddr is not None):
        raise UsageError("a main peer id and an address need --peer-id", "give --peer-id")
    peer = None if peer_id is None else parse_peer_id(peer_id)
    arguments = {"new_peer_info": build_peer_info(peer, multiaddr)}
    send_call(signing, _PEER_CALLS[kind], arguments, subnet=subnet, node_id=node_id)


@expand_options
def delegate_account(
    subnet: Subnet,
    node_id: NodeId,
    account: Annotated[
        str | None, typer.Option(help="Account, 0x..., that gets a share of the node's pay.")
    ] = None,
    percent: Annotated[
        str | None, typer.Option(help="Its share, as 12.5. What is absent stays.")
    ] = None,
    *,
    signing: Signing,
) -> None:
    """Share a node's pay with an account, signed by its coldkey."""
    if account is None and percent is None:
        raise UsageError("nothing is changed", "give --account, --percent or both")
    arguments = {
        "delegate_account_id": None if account is None else account_text(account),
        "delegate_rate": None if percent is None else parse_percent(percent),
    }
    send_call(signing, "update_delegate_account", arguments, subnet=subnet, node_id=node_id)


@expand_options
def delegate_rate(
    subnet: Subnet,
    node_id: NodeId,
    percent: Annotated[str, typer.Option(help="Share of the pay, as 12.5.")],
    *,
    signing: Signing,
) -> None:
    """Set what those who delegate stake to a node get of its pay, signed by its coldkey."""
    arguments = {"new_delegate_reward_rate": parse_percent(percent)}
    send_call(
        signing, "update_node_delegate_reward_rate", arguments, subnet=subnet, node_id=node_id
    )


@expand_options
def remove_node(subnet: Subnet, node_id: NodeId, *, signing: Signing) -> None:
    """Take a node out of its subnet, signed by its coldkey or hotkey. The stake stays."""
    send_call(signing, "remove_subnet_node", subnet=subnet, node_id=node_id)


@expand_options
def update_hotkey(
    old: Annotated[str, typer.Option("--old", help="Present hotkey account.")],
    new: Annotated[str, typer.Option("--new", help="New hotkey account; it has no owner yet.")],
    *,
    signing: Signing,
) -> None:
    """Move a node and its stake to another hotkey, signed by the coldkey."""
    arguments = {"old_hotkey": account_text(old), "new_hotkey": account_text(new)}
    send_call(signing, "update_hotkey", arguments)


@expand_options
def update_coldkey(
    hotkey: Hotkey,
    new: Annotated[str, typer.Option("--new", help="New coldkey account.")],
    *,
    signing: Signing,
) -> None:
    """Give a hotkey another owner, signed by the present coldkey.

    The runtime moves everything of the coldkey but renames the owner of this hotkey only: with
    several hotkeys under one coldkey the others are left behind.
    """
    arguments = {"hotkey": account_text(hotkey), "new_coldkey": account_text(new)}
    send_call(signing, "update_coldkey", arguments)


@expand_options
def identity(
    hotkey: Hotkey,
    field: Annotated[
        list[str], typer.Option(help="NAME=TEXT; the chain wants all ten, none empty.")
    ],
    *,
    signing: Signing,
) -> None:
    """Register or change the identity of a coldkey: name, url, image, discord, x, telegram, ..."""
    given = dict(_parse_identity_field(text) for text in field)
    missing = [name for name in IDENTITY_FIELDS if name not in given]
    if missing:
        raise UsageError(
            f"the identity lacks {', '.join(missing)}", "give --field NAME=TEXT for each"
        )
    arguments = {"hotkey": account_text(hotkey), **given}
    send_call(signing, "register_or_update_identity", arguments)


def _parse_identity_field(text: str) -> tuple[str, bytes]:
    name, equals, value = text.partition("=")
    name = name.replace("-", "_")
    if name not in IDENTITY_FIELDS or not equals:
        raise UsageError(f"{text!r} is not a field of an identity", "write --field name=TEXT")
    return name, value.encode()
