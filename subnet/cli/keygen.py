"""``mesh keygen``: the three identity files of a node."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from subnet.cli.console import emit


def keygen(
    directory: Annotated[
        Path, typer.Option("--dir", help="Where the files go; created if it is not there.")
    ] = Path("."),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Make the identity files peer_id.key, bootstrap_peer_id.key and client_peer_id.key.

    Each is an Ed25519 key in the libp2p format, readable by you only, and never overwritten.
    """
    from keys.identity_file import IDENTITY_FILES, create_identity_set
    from subnet.errors import ConfigError

    try:
        made = create_identity_set(directory)
    except OSError as error:
        raise ConfigError(
            f"cannot write keys to {directory}: {error.strerror}", "choose another --dir"
        ) from error
    made_ids = (made.peer_id, made.bootstrap_peer_id, made.client_peer_id)
    peer_ids = dict(zip(IDENTITY_FILES, map(str, made_ids), strict=True))
    if as_json:
        emit(json.dumps(peer_ids))
        return
    for name, peer_id in peer_ids.items():
        emit(f"{directory / name}  {peer_id}")
