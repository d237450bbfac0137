"""A node finds the manifest that the chain names: kept, beside the model, or with a peer."""

import shutil
import time
from types import SimpleNamespace

import pytest

from consensus.protocol_params import MAINNET
from keys.peer import PeerKey
from mesh.assets import shipped_model_path
from mesh.errors import ManifestNotFound, ModelError, NotCalibrated
from mesh.model.config import LayerSpan, load_config
from mesh.model.files import resolve_model_folder
from mesh.model.manifest import MAX_MANIFEST_BYTES
from mesh.routing.announcer import Announcer
from mesh.routing.directory import Directory
from mesh.routing.heartbeat import ServerInfo, ServerRole, ServerState, make_heartbeat_policy
from mesh.routing.manifest_exchange import serve_manifest
from subnet.hosting.manifest import (
    MANIFEST_FILES,
    fetch_manifest,
    find_fitting_manifest,
    find_manifest,
    keep_manifest,
    load_own_manifest,
    make_shape,
)
from subnet.node import manifest as node_manifest
from subnet.node.manifest import obtain_manifest
from tests.support.memory_network import open_hosts

SHIPPED = resolve_model_folder(str(shipped_model_path()))
MANIFEST = load_own_manifest(SHIPPED)
NETWORK = b"n" * 32
KEYS = [PeerKey(bytes([i]) * 32) for i in range(1, 3)]
INFO = ServerInfo(
    role=ServerRole.HOSTER,
    state=ServerState.ONLINE,
    span=LayerSpan(0, 8),
    throughput=100,
    free_cache_tokens=1000,
    dtype="float32",
    software="test",
    addresses=(),
)


@pytest.fixture
def bare(tmp_path):
    """The shipped model without its manifest."""
    folder = tmp_path / "model"
    shutil.copytree(SHIPPED.path, folder)
    (folder / MANIFEST_FILES["none"]).unlink()
    return resolve_model_folder(str(folder))


def find(folder, kept_in, manifest_hash=MANIFEST.manifest_hash):
    return find_manifest(folder, manifest_hash=manifest_hash, kept_in=kept_in)


def test_a_manifest_is_found_beside_the_model_or_kept_by_its_hash(tmp_path, bare):
    assert find(SHIPPED, tmp_path) == MANIFEST
    assert find(SHIPPED, tmp_path, bytes(32)) is None
    assert find(bare, tmp_path) is None
    keep_manifest(MANIFEST, tmp_path)
    assert find(bare, tmp_path) == MANIFEST


def test_an_int8_manifest_lies_beside_the_other_one(tmp_path, bare):
    (bare.path / MANIFEST_FILES["int8"]).write_bytes(MANIFEST.body)
    assert find(bare, tmp_path) == MANIFEST


def test_a_torn_or_foreign_file_is_not_the_manifest_and_a_long_one_is_named(tmp_path, bare):
    file = tmp_path / MANIFEST_FILES["none"]
    for content in (b"", MANIFEST.body[:-100], MANIFEST.body + b" "):
        file.write_bytes(content)
        assert find(bare, tmp_path) is None
    file.write_bytes(bytes(MAX_MANIFEST_BYTES + 1))
    with pytest.raises(ModelError, match="no manifest"):
        find(bare, tmp_path)


def test_an_uncalibrated_manifest_on_chain_is_refused_by_name(tmp_path, bare):
    import hashlib

    old = b'{"format":1}'
    (bare.path / MANIFEST_FILES["none"]).write_bytes(old)
    with pytest.raises(NotCalibrated, match="no calibration"):
        find(bare, tmp_path, hashlib.sha256(old).digest())


def test_the_scales_of_the_manifest_are_those_of_the_shape():
    model = load_config(SHIPPED.path)
    shape = make_shape(model, MANIFEST)
    assert shape.scales == MANIFEST.calibration.scales
    assert shape.scale_of(shape.head) == MANIFEST.calibration.scales[-1]
    assert make_shape(model).scales == ()


def test_a_manifest_fits_only_the_weights_and_constants_that_it_names(bare):
    from dataclasses import replace

    model = load_config(bare.path)
    assert find_fitting_manifest(bare, model, params=MAINNET) is None
    (bare.path / MANIFEST_FILES["none"]).write_bytes(MANIFEST.body)
    assert find_fitting_manifest(bare, model, params=MAINNET) == MANIFEST
    assert find_fitting_manifest(bare, model, params=replace(MAINNET, head_rows=9)) is None
    assert find_fitting_manifest(bare, model, params=MAINNET, quant_type="int8") is None


class Policy:
    admit = staticmethod(
        make_heartbeat_policy(NETWORK, is_member=lambda peer: True, clock=time.time)
    )


async def announce(host, key):
    directory = Directory(host, network_id=NETWORK)
    announcer = Announcer(
        host, directory, key=key, network_id=NETWORK, node_id=1, describe=lambda: INFO
    )
    await announcer.announce()


def prepare(folder, data_dir, **config):
    options = {"unpaid": False, "new_swarm": False} | config
    return SimpleNamespace(folder=folder, data_dir=data_dir, config=SimpleNamespace(**options))


SUBNET = SimpleNamespace(
    manifest_hash=MANIFEST.manifest_hash, terms=SimpleNamespace(network_id=NETWORK)
)
KNOWN = SimpleNamespace(list_nodes=lambda: [key.peer_id for key in KEYS])


async def test_a_node_without_the_manifest_gets_it_from_a_peer_and_keeps_it(tmp_path, bare):
    async with open_hosts(KEYS, network_id=NETWORK, record_policy=Policy()) as (one, other):
        serve_manifest(one, MANIFEST.body)
        await announce(one, KEYS[0])
        found = await obtain_manifest(prepare(bare, tmp_path), SUBNET, other, KNOWN)
    assert found == MANIFEST
    assert find(bare, tmp_path) == MANIFEST


async def test_a_peer_that_lies_about_the_manifest_is_passed_over(tmp_path):
    async with open_hosts(KEYS, network_id=NETWORK, record_policy=Policy()) as (one, other):
        serve_manifest(one, MANIFEST.body[::-1])
        assert await fetch_manifest(other, [one.peer_id], MANIFEST.manifest_hash) is None
        serve_manifest(one, MANIFEST.body)
        peers = [KEYS[1].peer_id, one.peer_id]
        assert await fetch_manifest(other, peers, MANIFEST.manifest_hash) == MANIFEST


async def test_a_manifest_that_is_nowhere_is_named(tmp_path, bare, monkeypatch):
    monkeypatch.setattr(node_manifest, "MANIFEST_RETRY_S", 0.0)
    async with open_hosts(KEYS, network_id=NETWORK, record_policy=Policy()) as (_, other):
        for options in ({}, {"new_swarm": True}):
            with pytest.raises(ManifestNotFound, match=MANIFEST.manifest_hash.hex()):
                await obtain_manifest(prepare(bare, tmp_path, **options), SUBNET, other, KNOWN)
        unpaid = prepare(bare, tmp_path, unpaid=True)
        assert await obtain_manifest(unpaid, SUBNET, other, KNOWN) is None
