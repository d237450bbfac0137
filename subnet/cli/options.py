"""Options that several commands share, so that each is spelled and explained in one place."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Chain = Annotated[
    str,
    typer.Option(
        "--chain",
        envvar="MESH_CHAIN",
        help="WebSocket address of the chain; commas between fallbacks.",
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        envvar="MESH_HOME",
        help="Where nodes keep their data; the user's data folder if absent.",
    ),
]
PasswordFile = Annotated[
    Path | None,
    typer.Option("--password-file", help="File with the keystore's password; else it is asked."),
]
Subnet = Annotated[str, typer.Option("--subnet", help="The subnet's id, friendly id or name.")]
OwnSubnet = Annotated[
    str | None,
    typer.Option(
        "--subnet",
        help="The subnet's id, friendly id or name; looked up by peer id if absent.",
    ),
]
AnySubnet = Annotated[
    str | None,
    typer.Option(
        "--subnet", help="The subnet's id, friendly id or name; that of this machine's node."
    ),
]


def _go_offline(wanted: bool) -> bool:
    """Tell huggingface_hub, which reads its variables once, when it is first imported."""
    if wanted:
        os.environ["HF_HUB_OFFLINE"] = "1"
    return wanted


Offline = Annotated[
    bool,
    typer.Option(
        "--offline",
        callback=_go_offline,
        help="Download no model: take what is on this machine, as with HF_HUB_OFFLINE=1.",
    ),
]
"""A command need not look at its value."""
SwarmSubnet = Annotated[
    str | None,
    typer.Option(
        "--subnet",
        help="Dial the peers that the chain names in this subnet: its id, friendly id or name.",
    ),
]
NodeId = Annotated[int, typer.Option("--node", min=1, help="The node's id in the subnet.")]
