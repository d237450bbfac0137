"""The manifest that a node works by, and the plug-ins that the manifest names."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import structlog

from mesh.errors import ManifestNotFound
from mesh.model.manifest import ModelManifest
from mesh.p2p.interface import Host
from mesh.plugins import PluginKind, PluginStamp
from mesh.routing.directory import Directory
from subnet.hosting.manifest import fetch_manifest, find_manifest, keep_manifest
from subnet.known_peers import KnownPeers
from subnet.network import SubnetOnChain
from subnet.operator.preflight import PreparedNode
from subnet.plugins.chosen import check_stamps

MANIFEST_ROUNDS = 6
MANIFEST_RETRY_S = 5.0

logger = structlog.get_logger(__name__)


async def obtain_manifest(
    prepared: PreparedNode, subnet: SubnetOnChain, host: Host, known_peers: KnownPeers
) -> ModelManifest | None:
    """Return the manifest that the chain names: from this machine, or else from a peer.

    None for a node without pay that does not have it. Raises ModelError.
    """
    wanted, folder = subnet.manifest_hash, prepared.folder
    manifest = find_manifest(folder, manifest_hash=wanted, kept_in=prepared.data_dir)
    if manifest is not None or prepared.config.unpaid:
        return manifest
    logger.info("asking peers for the manifest", manifest_hash=wanted.hex())
    directory = Directory(host, network_id=subnet.terms.network_id)
    for round_number in range(1 if prepared.config.new_swarm else MANIFEST_ROUNDS):
        if round_number:
            await asyncio.sleep(MANIFEST_RETRY_S)
        peers = await directory.find_peers(known_peers.list_nodes())
        manifest = await fetch_manifest(host, peers, wanted)
        if manifest is not None:
            keep_manifest(manifest, prepared.data_dir)
            return manifest
    raise ManifestNotFound(
        f"the manifest {wanted.hex()} that the chain names is neither in {folder.path} "
        "nor with a peer"
    )


def check_plugins(
    prepared: PreparedNode, manifest: ModelManifest | None
) -> Mapping[PluginKind, PluginStamp]:
    """Return the plug-ins that the manifest names, which are those of this node.

    ``mesh why`` finds their names in the manifest that is kept. Raises PluginMismatch.
    """
    if manifest is None:
        return {}
    check_stamps(manifest.plugins, prepared.model.architecture)
    if manifest.plugins:
        logger.info("using plug-ins", plugins=[str(one) for one in manifest.plugins.values()])
        keep_manifest(manifest, prepared.data_dir)
    return manifest.plugins
