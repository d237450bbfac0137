"""The hash of the subnet's model manifest, written to and read from a subnet's text ``misc``."""

from __future__ import annotations

import re

from subnet.errors import ConfigError

MANIFEST_MARK = "mesh-manifest:"
_MARK = re.compile(rf"{MANIFEST_MARK}([0-9a-f]{{64}})(?![0-9a-f])")


def format_manifest_hash(manifest_hash: bytes) -> str:
    """Return the text that an owner puts into ``misc``."""
    return f"{MANIFEST_MARK}{manifest_hash.hex()}"


def parse_manifest_hash(misc: str, *, subnet_id: int) -> bytes:
    """Return the manifest hash that stands in a subnet's ``misc``. Raises ConfigError."""
    found = _MARK.search(misc)
    if found is None:
        raise ConfigError(
            f"subnet {subnet_id} names no model manifest on chain",
            "its owner registers it with `mesh-manifest:<hash>` in misc; "
            "`mesh manifest MODEL` prints the hash",
        )
    return bytes.fromhex(found.group(1))
