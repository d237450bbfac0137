"""What this client needs of a runtime, checked whenever a session opens or the runtime changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from subnet.errors import ChainMismatch

if TYPE_CHECKING:
    from subnet.chain.codec import ChainRuntime

REQUIRED_STORAGE = (
    "System.Account",
    "System.Events",
    "Timestamp.Now",
    "Network.SubnetsData",
    "Network.SubnetSlot",
    "Network.SubnetNodesData",
    "Network.RegisteredSubnetNodesData",
    "Network.SubnetElectedValidator",
    "Network.SubnetConsensusSubmission",
    "Network.MinAttestationPercentage",
    "Network.PeerIdSubnetNodeId",
    # The tree of June 2026 gives hotkeys to validators instead of nodes.
    "Network.HotkeyOwner",
    "Network.HotkeySubnetNodeId",
)
REQUIRED_CALLS = ("Network.propose_attestation", "Network.attest")


def check_interface(runtime: ChainRuntime, *, url: str) -> None:
    """Raise ChainMismatch naming everything that the runtime lacks of what a node uses."""
    missing = [name for name in REQUIRED_STORAGE if not runtime.has_storage(*name.split("."))]
    missing += [name for name in REQUIRED_CALLS if not runtime.has_call(*name.split("."))]
    if missing:
        raise ChainMismatch(f"the runtime behind {url} lacks {', '.join(missing)}")
